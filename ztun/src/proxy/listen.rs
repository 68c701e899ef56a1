//! Takes the connections that the kernel steers to a pod's listeners.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use super::{
    Proxy, hbone, inbound, outbound, pod::PodListeners, registry::LocalPod, self_test, socket,
};

/// How long a listener rests after an error such as too many open files.
const REST: Duration = Duration::from_millis(50);

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub client: SocketAddr,
    /// What the client dialled: the local address of a socket that the kernel steered.
    pub dialled: SocketAddr,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Outbound,
    InboundPlaintext,
    InboundHbone,
}

/// Starts one task a listener. Call it in the context of the runtime.
pub fn serve(proxy: &Arc<Proxy>, pod: &Arc<LocalPod>, listeners: PodListeners) -> io::Result<()> {
    pod.keep_listeners(&listeners)?;
    for (kind, listeners) in [
        (Kind::Outbound, listeners.outbound),
        (Kind::InboundPlaintext, listeners.inbound_plaintext),
        (Kind::InboundHbone, listeners.inbound_hbone),
    ] {
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            let accepting = accept(Arc::clone(proxy), Arc::clone(pod), listener, kind);
            proxy.tasks.spawn(accepting);
        }
    }
    // A proxy that drains refuses: an open listener would let clients wait.
    if pod.stop.is_cancelled() {
        pod.close_listeners();
    }
    Ok(())
}

async fn accept(proxy: Arc<Proxy>, pod: Arc<LocalPod>, listener: TcpListener, kind: Kind) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = pod.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, client)| Accepted::new(stream, client)) {
            Ok(accepted)
                if matches!(kind, Kind::Outbound) && self_test::is_meant(accepted.dialled) =>
            {
                proxy.tasks.spawn(self_test::answer(accepted.stream));
            }
            Ok(accepted) => {
                let Some(place) = proxy.place(&pod, accepted.client) else {
                    continue;
                };
                let (serving, pod) = (Arc::clone(&proxy), Arc::clone(&pod));
                proxy.tasks.spawn(async move {
                    let _place = place;
                    match kind {
                        Kind::Outbound => outbound::serve(&serving, &pod, accepted).await,
                        Kind::InboundPlaintext => {
                            inbound::serve_plaintext(&serving, &pod, accepted).await;
                        }
                        Kind::InboundHbone => {
                            hbone::server::serve(&serving, &pod, accepted).await;
                        }
                    }
                });
            }
            Err(error) => {
                if let Some(suppressed) = proxy.refusals.admit(std::time::Instant::now()) {
                    tracing::warn!(pod = %pod.pod.name, ?kind, %error, suppressed, "accept failed");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

impl Accepted {
    fn new(stream: TcpStream, client: SocketAddr) -> io::Result<Self> {
        socket::prepare(&stream)?;
        let dialled = canonical(stream.local_addr()?);
        Ok(Self {
            stream,
            client: canonical(client),
            dialled,
        })
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
