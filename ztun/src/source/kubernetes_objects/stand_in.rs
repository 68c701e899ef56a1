//! What takes the place of a policy that can't be read: it denies what the policy was for.

use std::collections::BTreeSet;

use super::{Object, ObjectKey, security::ReadTarget};
use crate::mesh::{
    Denial,
    policy::{FailClosed, Selector, Target},
};

/// A policy that denies, and what its target is still to be looked up in.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// With the widest target that it may have.
    widest: FailClosed,
    services: Vec<ObjectKey>,
}

impl Unreadable {
    pub(super) fn new(policy: &str, message: &str, target: ReadTarget) -> Self {
        let reason = format!("it can't be read, so nobody may enter what it is for ({message})");
        Self {
            widest: FailClosed {
                target: target.target,
                denial: Denial {
                    policy: policy.into(),
                    reason: reason.into(),
                    hint: "correct it where it comes from".into(),
                },
            },
            services: target.services,
        }
    }

    pub fn names(&self, service: &ObjectKey) -> bool {
        self.services.contains(service)
    }

    /// Narrowed to the workloads of the services that it names, where those are known and select:
    /// to what their selectors have in common, if there are several.
    pub fn closed<'a>(&self, object: impl Fn(&ObjectKey) -> Option<&'a Object>) -> FailClosed {
        let mut closed = self.widest.clone();
        let selectors = self.services.iter().map(|key| match object(key)? {
            Object::Service(service) => Some(&service.spec.selector),
            Object::ServiceEntry(entry) => Some(&entry.spec.workload_selector.as_ref()?.labels),
            _ => None,
        });
        let selectors: Option<Vec<_>> = selectors.collect();
        if let Some((first, others)) = selectors.as_deref().and_then(<[_]>::split_first) {
            let mut common = (*first).clone();
            common.retain(|label, value| others.iter().all(|it| it.get(label) == Some(value)));
            closed.target.selector = Selector(common);
        }
        closed
    }
}

/// What stands in for a text that isn't even YAML, if a policy that restricts is in it.
///
/// It is for the one namespace that the text names, or else for the whole mesh.
pub fn stand_in_for_text(text: &str, message: &str, root_namespace: &str) -> Option<Object> {
    let kind = scan(text, "kind")
        .find(|kind| matches!(&**kind, "PeerAuthentication" | "AuthorizationPolicy"))?;
    let namespaces: BTreeSet<String> = scan(text, "namespace").collect();
    let named = namespaces.first().filter(|_| namespaces.len() == 1);
    let target = Target {
        namespace: named
            .filter(|namespace| *namespace != root_namespace)
            .map(|namespace| namespace.as_str().into()),
        selector: Selector::default(),
    };
    let namespace = named.map_or("(unknown namespace)", String::as_str);
    let name = scan(text, "name").next();
    let name = name.as_deref().unwrap_or("(unknown name)");
    let policy = format!("{kind} {namespace}/{name}");
    let target = ReadTarget {
        target,
        services: Vec::new(),
    };
    Some(Object::Unreadable(Unreadable::new(
        &policy, message, target,
    )))
}

/// The plain values that follow `field:`, in block or flow style, whatever else is wrong.
fn scan<'a>(text: &'a str, field: &'a str) -> impl Iterator<Item = String> + 'a {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let entries = lines.flat_map(|line| line.split(['{', '}', ',']));
    entries.filter_map(move |entry| {
        let (key, value) = entry.split_once(':')?;
        let plain = |text: &str| text.trim_matches([' ', '\t', '-', '"', '\'']).to_owned();
        let value = plain(value.split(" #").next()?);
        (plain(key) == field && !value.is_empty()).then_some(value)
    })
}
