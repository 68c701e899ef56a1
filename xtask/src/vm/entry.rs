//! What the matrix boots: a guest, or two that run the halves of the same tests.

use super::{
    image,
    kernels::{Kernel, MATRIX, Support, Wanted},
    pair,
};

/// A kernel of the matrix, or why it isn't there; two where the guests are two.
pub struct Entry {
    pub wanted: &'static Wanted,
    pub kernel: Result<Kernel, String>,
    /// The guest that runs the other half of its tests.
    pub other: Option<Box<Entry>>,
}

/// What `--kernel` takes.
pub fn names() -> Vec<&'static str> {
    let single = MATRIX.iter().map(|wanted| wanted.name);
    single.chain([pair::NAME]).collect()
}

impl Entry {
    /// What it is called in the tests' paths.
    pub fn name(&self) -> &'static str {
        match self.other {
            Some(_) => pair::NAME,
            None => self.wanted.name,
        }
    }

    /// Itself, and the other one where there are two.
    pub fn machines(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.other.as_deref())
    }

    pub fn version(&self) -> Option<String> {
        let versions = self.machines().map(|machine| {
            let kernel = machine.kernel.as_ref().ok();
            kernel.map(|kernel| kernel.version.as_str())
        });
        let versions: Option<Vec<_>> = versions.collect();
        versions.map(|versions| versions.join(" + "))
    }

    pub fn runs(&self, target: &str) -> bool {
        match target {
            image::TWO_NODES => self.other.is_some(),
            image::REFUSAL => self.wanted.support == Support::Refused,
            _ => self.other.is_none() && self.wanted.support == Support::Full,
        }
    }
}
