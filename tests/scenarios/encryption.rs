//! What crosses the network between the nodes is encrypted, and the check of it can fail.

use ztun_tests::{Family, app, rogue::HBONE_PORT, scenario};

use crate::{PORT, shop_and_outsider};

const MARKER: &str = "marker-of-the-shop-in-clear";

#[test]
fn a_marker_between_enrolled_pods_never_crosses_in_clear() {
    scenario(shop_and_outsider(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let capture = mesh.capture()?;
        for &family in Family::available() {
            let to = server.at(family, PORT);
            let mut stream = mesh.pod("shop/client").connect(to).await?;
            assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        }
        let recording = capture.finish()?;
        assert_eq!(recording.flows_with(MARKER), []);
        assert!(recording.packets_of_port(HBONE_PORT) > 0);
        Ok(())
    });
}

#[test]
fn the_same_marker_from_a_pod_outside_crosses_in_clear() {
    scenario(shop_and_outsider(), async |mesh| {
        let server = mesh.pod("shop/server");
        let _echo = server.echo(PORT)?;
        let capture = mesh.capture()?;
        let to = server.at(Family::V4, PORT);
        let mut stream = mesh.pod("outside/client").connect(to).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
        let recording = capture.finish()?;
        assert_eq!(recording.flows_with(MARKER).len(), 2);
        Ok(())
    });
}
