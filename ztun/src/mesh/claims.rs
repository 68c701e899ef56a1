//! Which workload or service holds an address, where more than one may claim it.

use std::{cmp::Ordering, net::IpAddr, sync::Arc};

use imbl::{OrdMap, OrdSet};

/// Something that claims addresses.
pub(super) trait Claimant {
    /// `Less` holds an address before `Greater`; `Equal` only for the same claimant.
    fn precedence(&self, other: &Self) -> Ordering;
}

/// Addresses and their claimants. Cloning is cheap: clones share what they have in common.
#[derive(Debug)]
pub(super) struct Claims<T> {
    claimants: OrdMap<IpAddr, Claimants<T>>,
    contested: OrdSet<IpAddr>,
}

/// Nearly every address has one claimant, which then costs no list.
#[derive(Debug)]
enum Claimants<T> {
    One(Arc<T>),
    /// In order of precedence, at least two.
    Many(Arc<[Arc<T>]>),
}

impl<T: Claimant> Claims<T> {
    pub(super) fn holder(&self, address: IpAddr) -> Option<&Arc<T>> {
        self.claimants.get(&address)?.as_slice().first()
    }

    pub(super) fn insert(&mut self, address: IpAddr, claimant: &Arc<T>) {
        let mut claimants = self.without(address, claimant);
        claimants.push(Arc::clone(claimant));
        claimants.sort_by(|a, b| a.precedence(b));
        self.set(address, claimants);
    }

    pub(super) fn remove(&mut self, address: IpAddr, claimant: &T) {
        let claimants = self.without(address, claimant);
        self.set(address, claimants);
    }

    /// Addresses with several claimants, the holder first.
    pub(super) fn contested(&self) -> impl Iterator<Item = (IpAddr, &[Arc<T>])> {
        self.contested.iter().filter_map(|address| {
            let claimants = self.claimants.get(address)?;
            Some((*address, claimants.as_slice()))
        })
    }

    fn without(&self, address: IpAddr, claimant: &T) -> Vec<Arc<T>> {
        self.claimants
            .get(&address)
            .map(Claimants::as_slice)
            .unwrap_or_default()
            .iter()
            .filter(|other| other.precedence(claimant).is_ne())
            .cloned()
            .collect()
    }

    fn set(&mut self, address: IpAddr, claimants: Vec<Arc<T>>) {
        if claimants.len() > 1 {
            self.contested.insert(address);
        } else {
            self.contested.remove(&address);
        }
        match <[Arc<T>; 1]>::try_from(claimants) {
            Ok([only]) => {
                self.claimants.insert(address, Claimants::One(only));
            }
            Err(none) if none.is_empty() => {
                self.claimants.remove(&address);
            }
            Err(many) => {
                self.claimants.insert(address, Claimants::Many(many.into()));
            }
        }
    }
}

impl<T> Claimants<T> {
    fn as_slice(&self) -> &[Arc<T>] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(many) => many,
        }
    }
}

// Derived, these would ask that `T` itself is `Clone` or `Default`.
impl<T> Clone for Claims<T> {
    fn clone(&self) -> Self {
        Self {
            claimants: self.claimants.clone(),
            contested: self.contested.clone(),
        }
    }
}

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self {
            claimants: OrdMap::new(),
            contested: OrdSet::new(),
        }
    }
}

impl<T> Clone for Claimants<T> {
    fn clone(&self) -> Self {
        match self {
            Self::One(only) => Self::One(Arc::clone(only)),
            Self::Many(many) => Self::Many(Arc::clone(many)),
        }
    }
}
