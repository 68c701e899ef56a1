use crate::{Listener, Refusal};

/// What the kernel programs count, by its index in a pod's `VERDICTS` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Verdict {
    Captured = 0,
    RefusedNoListener = 1,
    RefusedBoundInterface = 2,
    RefusedLinkLocal = 3,
    RefusedMark = 4,
    SteeredOutbound = 5,
    SteeredInboundPlaintext = 6,
    SteeredInboundHbone = 7,
    /// Steered to a listener that did not live.
    Dropped = 8,
    /// Captured, and another program changed where it goes.
    Rewritten = 9,
    /// As that, but there was no room to note where it was asked to go.
    RewriteLost = 10,
    /// Marked at the last moment: another program sent it out of the pod.
    EscapeCaptured = 11,
    /// A probe of this node's kubelet was let through to the application.
    ProbePassed = 12,
}

impl Verdict {
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Captured,
        Self::RefusedNoListener,
        Self::RefusedBoundInterface,
        Self::RefusedLinkLocal,
        Self::RefusedMark,
        Self::SteeredOutbound,
        Self::SteeredInboundPlaintext,
        Self::SteeredInboundHbone,
        Self::Dropped,
        Self::Rewritten,
        Self::RewriteLost,
        Self::EscapeCaptured,
        Self::ProbePassed,
    ];

    /// How many verdicts there are.
    pub const COUNT: u32 = 13;

    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::RefusedNoListener => "refused_no_listener",
            Self::RefusedBoundInterface => "refused_bound_interface",
            Self::RefusedLinkLocal => "refused_link_local",
            Self::RefusedMark => "refused_mark",
            Self::SteeredOutbound => "steered_outbound",
            Self::SteeredInboundPlaintext => "steered_inbound_plaintext",
            Self::SteeredInboundHbone => "steered_inbound_hbone",
            Self::Dropped => "dropped",
            Self::Rewritten => "rewritten",
            Self::RewriteLost => "rewrite_lost",
            Self::EscapeCaptured => "escape_captured",
            Self::ProbePassed => "probe_passed",
        }
    }
}

impl From<Refusal> for Verdict {
    #[inline(always)]
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoListener => Self::RefusedNoListener,
            Refusal::BoundInterface => Self::RefusedBoundInterface,
            Refusal::LinkLocal => Self::RefusedLinkLocal,
            Refusal::Mark => Self::RefusedMark,
        }
    }
}

impl From<Listener> for Verdict {
    #[inline(always)]
    fn from(listener: Listener) -> Self {
        match listener {
            Listener::Outbound => Self::SteeredOutbound,
            Listener::InboundPlaintext => Self::SteeredInboundPlaintext,
            Listener::InboundHbone => Self::SteeredInboundHbone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_lies_at_its_index() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict.index() as usize, index);
        }
        assert_eq!(Verdict::ALL.len(), Verdict::COUNT as usize);
    }
}
