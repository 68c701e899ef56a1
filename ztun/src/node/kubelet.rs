//! Keeps this node's kubelet able to probe captured pods, wherever its cgroup is by now.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::redirect::{Kubelet, Probes, Redirect};

/// Whose probes reach applications without being judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum KubeletStatus {
    /// Those of the processes in this cgroup.
    Passing { cgroup: PathBuf },
    /// Nobody's: there is no kubelet here, or the configuration says so.
    #[default]
    NoKubelet,
    /// Nobody's: something is wrong.
    Failed { why: String },
}

#[derive(Debug)]
pub struct KubeletProbes {
    redirect: Arc<Redirect>,
    kubelet: Kubelet,
    status: Mutex<KubeletStatus>,
}

impl KubeletProbes {
    /// Attaches this daemon's program, in place of an earlier one's.
    pub fn start(redirect: Arc<Redirect>, kubelet: Kubelet) -> Self {
        let probes = Self {
            redirect,
            kubelet,
            status: Mutex::default(),
        };
        if probes.update(true) == KubeletStatus::NoKubelet && probes.kubelet != Kubelet::Nobody {
            tracing::info!(
                "no kubelet's cgroup is here: under STRICT, probes are refused like everybody's plaintext (kubeletCgroup names one)"
            );
        }
        probes
    }

    /// Looks again: a service that starts anew has another cgroup.
    pub fn follow(&self) {
        self.update(false);
    }

    pub fn status(&self) -> KubeletStatus {
        // A value is replaced as a whole.
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }

    fn update(&self, anew: bool) -> KubeletStatus {
        let before = self.status();
        let now = match self.redirect.follow_kubelet(&self.kubelet, anew) {
            Ok(Probes::Attached(cgroup)) => KubeletStatus::Passing { cgroup },
            Ok(Probes::Unchanged) => return before,
            Ok(Probes::NoKubelet) => KubeletStatus::NoKubelet,
            Err(error) => KubeletStatus::Failed {
                why: error.to_string(),
            },
        };
        let attached = matches!(now, KubeletStatus::Passing { .. });
        if attached || now != before {
            match &now {
                KubeletStatus::Passing { cgroup } => {
                    tracing::info!(cgroup = %cgroup.display(), "the kubelet's probes pass");
                }
                KubeletStatus::NoKubelet => {
                    tracing::warn!("the kubelet's cgroup is gone: no probes pass until it is back");
                }
                KubeletStatus::Failed { why } => {
                    tracing::error!(why, "the kubelet's probes can't be told from other traffic");
                }
            }
        }
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone_from(&now);
        now
    }
}
