//! What is wrong with objects that can be read, kept up as they change.

use std::collections::BTreeMap;

use crate::source::kubernetes_objects::ObjectKey;

/// Something about an object that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectProblem {
    pub key: ObjectKey,
    /// How people call it: kind, namespace and name.
    pub object: String,
    pub message: String,
}

/// Objects without a problem take no place here.
#[derive(Debug, Default)]
pub(super) struct Problems {
    by_object: BTreeMap<Place, Told>,
    changed: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// As [`ObjectProblem::object`].
    object: String,
    messages: Vec<String>,
}

/// The object that a problem is told of, and the one that it stems from, which often is the same.
type Place = (ObjectKey, ObjectKey);

impl ObjectProblem {
    pub(super) fn new(key: &ObjectKey, message: String) -> Self {
        Self {
            key: key.clone(),
            object: key.to_string(),
            message,
        }
    }
}

impl Problems {
    /// All that is wrong with an object.
    pub(super) fn set(&mut self, key: &ObjectKey, messages: Vec<String>) {
        self.set_due_to(key, key, messages);
    }

    /// All that is wrong with an object that people call `object`.
    pub(super) fn set_as(&mut self, key: &ObjectKey, object: &str, messages: Vec<String>) {
        let object = object.to_owned();
        self.put(key, key, Told { object, messages });
    }

    /// All that is wrong with an object because of what `cause` says.
    pub(super) fn set_due_to(&mut self, key: &ObjectKey, cause: &ObjectKey, messages: Vec<String>) {
        // Most objects have no problem and most times there is none.
        if messages.is_empty() && self.by_object.is_empty() {
            return;
        }
        let object = key.to_string();
        self.put(key, cause, Told { object, messages });
    }

    /// By object.
    pub(super) fn iter(&self) -> impl Iterator<Item = ObjectProblem> {
        self.by_object.iter().flat_map(|((key, _), told)| {
            let messages = told.messages.iter();
            messages.map(|message| ObjectProblem {
                key: key.clone(),
                object: told.object.clone(),
                message: message.clone(),
            })
        })
    }

    /// Whether there are others than when this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn put(&mut self, key: &ObjectKey, cause: &ObjectKey, told: Told) {
        let place = (key.clone(), cause.clone());
        if told.messages.is_empty() {
            self.changed |= self.by_object.remove(&place).is_some();
        } else if self.by_object.get(&place) != Some(&told) {
            self.by_object.insert(place, told);
            self.changed = true;
        }
    }
}
