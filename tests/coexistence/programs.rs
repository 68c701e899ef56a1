//! Other owners' programs on a pod's interface and in its network namespace.

use anyhow::Result;
use tokio::net::TcpListener;
use ztun_tests::{
    Family, Mesh, MtlsMode, app,
    bpf::{Hook, Slot, Target, attached},
    other_owner, scenario,
    scenario::skip,
};

use crate::{MARKER, PORT, shop_to_enrol, talks_encrypted};

/// A port that only another owner's program gives to the application's listener.
const STEERED_PORT: u16 = 9090;

#[test]
fn tc_programs_on_the_host_side_of_a_pods_interface_see_its_packets_and_stay() {
    scenario(shop_to_enrol(), async |mesh| {
        let node = mesh.node("a");
        let index = node.pod_interface(mesh.pod("shop/client"))?;
        let interface = Target::Interface(&node.netns, index);
        let mut links = Vec::new();
        let mut counters = Vec::new();
        for hook in [Hook::TcxIngress, Hook::TcxEgress] {
            let counter = Slot::counter()?;
            let program = other_owner::packet_counter(hook, &counter)?;
            match program.attach(interface) {
                Ok(link) => links.push(link),
                Err(error) => {
                    let name = "programs::tc_programs_on_the_host_side_of_a_pods_interface_see_its_packets_and_stay";
                    skip(
                        name,
                        &format!("needs tcx (Linux 6.6): {}", error.root_cause()),
                    );
                    return Ok(());
                }
            }
            counters.push((hook, counter, attached(hook, interface)?));
        }
        mesh.enrol("shop/client").await?;
        let before = counts(&counters)?;
        talks_encrypted(mesh, &Family::ALL).await?;
        for (before, after) in before.into_iter().zip(counts(&counters)?) {
            assert!(after > before, "no packet passed the other owner's program");
        }
        mesh.unenrol("shop/client").await?;
        for (hook, _, ids) in &counters {
            assert_eq!(&attached(*hook, interface)?, ids, "{hook:?}");
        }
        Ok(())
    });
}

#[test]
fn a_program_that_chose_a_listener_before_enrolment_does_not_open_a_way_past_capture() {
    scenario(shop_to_enrol(), async |mesh| {
        let ports = SteeredPorts::of_client(mesh)?;
        let _steerer = ports.attach(mesh)?;
        mesh.enrol("shop/client").await?;
        ports.are_captured_and_work(mesh).await
    });
}

#[test]
fn a_program_that_chooses_a_listener_after_enrolment_works_behind_capture() {
    scenario(shop_to_enrol(), async |mesh| {
        let ports = SteeredPorts::of_client(mesh)?;
        mesh.enrol("shop/client").await?;
        let _steerer = ports.attach(mesh)?;
        ports.are_captured_and_work(mesh).await
    });
}

#[test]
fn a_program_in_the_pods_network_namespace_is_left_in_place() {
    scenario(shop_to_enrol(), async |mesh| {
        let ports = SteeredPorts::of_client(mesh)?;
        let _steerer = ports.attach(mesh)?;
        let netns = mesh.pod("shop/client").netns.clone();
        let before = attached(Hook::SkLookup, Target::Netns(&netns))?;
        mesh.enrol("shop/client").await?;
        let during = attached(Hook::SkLookup, Target::Netns(&netns))?;
        assert_eq!((before.len(), during.len()), (1, 2));
        mesh.unenrol("shop/client").await?;
        assert_eq!(attached(Hook::SkLookup, Target::Netns(&netns))?, before);
        assert!(ports.answer(mesh, "outside/client", STEERED_PORT).await);
        Ok(())
    });
}

/// A server in the client pod that listens on one port, and is given another by an `sk_lookup` program.
struct SteeredPorts {
    slot: Slot,
    server: tokio::task::JoinHandle<()>,
}

impl SteeredPorts {
    fn of_client(mesh: &Mesh) -> Result<Self> {
        let listener = mesh.pod("shop/client").listen(PORT)?;
        let slot = Slot::socket(&listener)?;
        let server = tokio::spawn(echo(listener));
        Ok(Self { slot, server })
    }

    fn attach(&self, mesh: &Mesh) -> Result<ztun_tests::bpf::Attached> {
        let netns = &mesh.pod("shop/client").netns;
        other_owner::port_steerer(STEERED_PORT, &self.slot)?.attach(Target::Netns(netns))
    }

    async fn are_captured_and_work(&self, mesh: &Mesh) -> Result<()> {
        for client in ["outside/client", "shop/server"] {
            for port in [PORT, STEERED_PORT] {
                assert!(self.answer(mesh, client, port).await, "{client} to {port}");
            }
        }
        // Only what ztun sees can it refuse.
        mesh.set_mtls("shop", MtlsMode::Strict)?;
        ztun_tests::wait::until("STRICT holds", async || {
            !self.answer(mesh, "outside/client", PORT).await
        })
        .await?;
        assert!(!self.answer(mesh, "outside/client", STEERED_PORT).await);
        // The server's node may not have heard yet that the client is enrolled.
        ztun_tests::wait::until("the mesh still gets in", async || {
            self.answer(mesh, "shop/server", STEERED_PORT).await
        })
        .await?;
        Ok(())
    }

    async fn answer(&self, mesh: &Mesh, client: &str, port: u16) -> bool {
        for family in Family::ALL {
            let to = mesh.pod("shop/client").at(family, port);
            let Ok(mut stream) = mesh.pod(client).connect(to).await else {
                return false;
            };
            if app::exchange(&mut stream, MARKER).await.is_err() {
                return false;
            }
        }
        true
    }
}

impl Drop for SteeredPorts {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            // What a connection ends with is for its client to judge.
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}

fn counts(counters: &[(Hook, Slot, Vec<u32>)]) -> Result<Vec<u64>> {
    counters
        .iter()
        .map(|(_, counter, _)| counter.get())
        .collect()
}
