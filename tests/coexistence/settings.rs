//! Sysctls of a pod's network namespace that its owner has set, and kernels without IPv6.

use std::io::ErrorKind;

use anyhow::Result;
use serde_json::json;
use ztun_tests::{Family, Feature, Mesh, MeshBuilder, app, scenario};

use crate::{MARKER, PORT, shop_to_enrol, talks_encrypted};

/// Nothing else uses it: the last packets of connections in clear may cross late.
const UNUSED_PORT: u16 = 8081;
const V4: [Family; 2] = [Family::V4, Family::V4Mapped];

#[test]
fn every_setting_of_the_reverse_path_filter_works() {
    scenario(shop_to_enrol(), async |mesh| {
        mesh.enrol("shop/client").await?;
        let netns = &mesh.pod("shop/client").netns;
        for filter in ["0", "1", "2"] {
            for interface in ["all", "lo", "eth0"] {
                netns.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), filter)?;
                netns.sysctl(&format!("net/ipv4/conf/{interface}/route_localnet"), "0")?;
            }
            talks_encrypted(mesh, Family::available()).await?;
            answers_in_clear(mesh, Family::available()).await?;
        }
        Ok(())
    });
}

#[test]
fn a_pod_without_ipv6_is_captured_over_ipv4() {
    scenario(shop_with_ipv6(), async |mesh| {
        without_ipv6(mesh)?;
        mesh.enrol("shop/client").await?;
        talks_encrypted(mesh, &V4).await?;
        answers_in_clear(mesh, &V4).await?;
        has_no_ipv6(mesh).await
    });
}

#[test]
fn a_pod_that_loses_ipv6_after_enrolment_stays_captured_over_ipv4() {
    scenario(shop_with_ipv6(), async |mesh| {
        mesh.enrol("shop/client").await?;
        without_ipv6(mesh)?;
        talks_encrypted(mesh, &V4).await?;
        has_no_ipv6(mesh).await
    });
}

#[test]
fn a_daemon_on_its_default_addresses_answers_over_ipv4() {
    let mesh = shop_to_enrol()
        .setting("readinessAddress", json!("[::]:15021"))
        .setting("metricsAddress", json!("[::]:15020"));
    // It starts only once the daemons answer.
    scenario(mesh, async |mesh| {
        let metrics = mesh.node("a").metrics()?;
        assert!(metrics.contains("istio_build"), "{metrics}");
        Ok(())
    });
}

fn shop_with_ipv6() -> MeshBuilder {
    shop_to_enrol().needs_kernel(Feature::Ipv6)
}

fn without_ipv6(mesh: &Mesh) -> Result<()> {
    let netns = &mesh.pod("shop/client").netns;
    netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")
}

async fn has_no_ipv6(mesh: &Mesh) -> Result<()> {
    let capture = mesh.capture()?;
    let to = mesh.pod("shop/server").at(Family::V6, UNUSED_PORT);
    let refused = mesh.pod("shop/client").connect(to).await;
    let kind = refused.map(drop).map_err(|error| error.kind());
    assert!(
        matches!(
            kind,
            Err(ErrorKind::PermissionDenied
                | ErrorKind::NetworkUnreachable
                | ErrorKind::HostUnreachable
                | ErrorKind::AddrNotAvailable)
        ),
        "{kind:?}"
    );
    assert_eq!(capture.finish()?.packets_of_port(UNUSED_PORT), 0);
    Ok(())
}

/// The client pod answers one that is not in the mesh.
async fn answers_in_clear(mesh: &Mesh, families: &[Family]) -> Result<()> {
    let (pod, outside) = (mesh.pod("shop/client"), mesh.pod("outside/client"));
    let _echo = pod.echo(PORT)?;
    for &family in families {
        let mut stream = outside.connect(pod.at(family, PORT)).await?;
        assert_eq!(app::exchange(&mut stream, MARKER).await?, MARKER);
    }
    Ok(())
}
