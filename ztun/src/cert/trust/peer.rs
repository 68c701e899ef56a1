//! The peer of an open connection, kept so that it can be judged again.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustls::{
    CertificateError, CommonState, Error,
    pki_types::{CertificateDer, UnixTime},
};

use super::{Trust, bundle::Purpose};
use crate::{
    cert::{PeerError, tls, x509},
    mesh::Identity,
};

/// Who is at the other end, and what proved it.
#[derive(Debug)]
pub struct Peer {
    pub identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    purpose: Purpose,
    /// A certificate that has expired since is no reason to end a connection.
    seen: UnixTime,
    /// The newest bundle that was asked about it; 0 is none, for bundles with roots come later.
    judged_by: AtomicU64,
}

/// Why an open connection's peer is not believed any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{identity} is no longer trusted: {reason}")]
pub struct Distrusted {
    pub identity: Identity,
    pub reason: String,
    /// By a revocation list, rather than because its root went.
    pub revoked: bool,
}

impl Trust {
    /// The peer of a connection whose handshake is done. Trust may have changed meanwhile: ask
    /// [`Self::judge`] before anything is done for the peer.
    pub fn peer(&self, connection: &CommonState, purpose: Purpose) -> Result<Arc<Peer>, PeerError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        let leaf = chain.first().ok_or(PeerError::NoCertificate)?;
        Ok(Arc::new(Peer {
            identity: x509::identity(leaf)?,
            chain: chain.iter().map(|it| it.clone().into_owned()).collect(),
            purpose,
            seen: UnixTime::now(),
            judged_by: AtomicU64::new(0),
        }))
    }

    /// Whether a peer would be believed now. Costs nothing while trust doesn't change.
    pub fn judge(&self, peer: &Peer) -> Result<(), Distrusted> {
        let bundle = self.bundle();
        if peer.judged_by.load(Ordering::Relaxed) == bundle.version() {
            return Ok(());
        }
        let verified = peer
            .chain
            .split_first()
            .ok_or_else(|| PeerError::NoCertificate.into())
            .and_then(|(leaf, rest)| bundle.verify(leaf, rest, peer.purpose, peer.seen));
        match verified {
            Ok(_) => {
                peer.judged_by.store(bundle.version(), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Distrusted {
                identity: peer.identity.clone(),
                reason: tls::describe(&error),
                revoked: error == Error::InvalidCertificate(CertificateError::Revoked),
            }),
        }
    }
}
