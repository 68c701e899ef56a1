//! Why a pod could not be enrolled or released.

use std::time::Duration;

use super::super::records::RecordError;
use crate::{
    mesh::PodName,
    redirect::{EnrolError, FindError, PinError},
};

#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error("enrol {pod}: {source}")]
    Capture { pod: PodName, source: EnrolError },
    #[error("enrol {pod}: {source}")]
    Record { pod: PodName, source: RecordError },
    #[error("enrol {pod}: {source}")]
    Serve {
        pod: PodName,
        source: std::io::Error,
    },
    #[error(
        "enrol {pod}: the mesh state doesn't know this pod after {waited:?}, or only another one of its name; check that the mesh source delivers it"
    )]
    Unknown { pod: PodName, waited: Duration },
    #[error(
        "enrol {pod}: the mesh state has no Namespace {} after {waited:?}, so it can't tell whether this pod takes part; check that the mesh source delivers it, or label the pod", pod.namespace
    )]
    Undecided { pod: PodName, waited: Duration },
    #[error("find {pod}: {source}")]
    Find { pod: PodName, source: FindError },
    #[error("another daemon has taken over this node: ask again")]
    HandedOver,
    #[error("release {pod}: {source}")]
    Release { pod: PodName, source: PinError },
}

impl PodError {
    /// Whether the same request may succeed later without a change by the caller.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::HandedOver | Self::Unknown { .. } | Self::Undecided { .. } | Self::Record { .. }
        )
    }
}
