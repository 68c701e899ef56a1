//! Whom a binding is for: a subject to a source and conditions.

use super::super::{
    Layer7, Origin, Report,
    legacy::rbac::Subject,
    policy::{Condition, Source},
};

/// With neither it is everybody, authenticated or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Who {
    pub source: Source,
    pub when: Vec<Condition>,
}

/// `None` where a part of it has no equivalent: a subject is never widened to others.
pub(super) fn convert(
    subject: &Subject,
    origin: &Origin,
    field: &str,
    layer7: Layer7,
    report: &mut Report,
) -> Option<Who> {
    if let Some(name) = subject.unknown.names().next() {
        let message = "ztun doesn't know this field: the subject is left out with it";
        report.left_out(origin, format!("{field}.{name}"), message);
        return None;
    }
    if *subject == Subject::default() {
        report.left_out(origin, field, "it names nobody");
        return None;
    }
    let mut who = Who {
        source: Source {
            principals: subject.names.clone(),
            not_principals: subject.not_names.clone(),
            namespaces: subject.namespaces.clone(),
            not_namespaces: subject.not_namespaces.clone(),
            ip_blocks: subject.ips.clone(),
            not_ip_blocks: subject.not_ips.clone(),
        },
        when: Vec::new(),
    };
    if let Some(user) = subject.user.as_deref().filter(|user| *user != "*") {
        who.principal(user);
    }
    let groups = subject.groups.iter().chain(&subject.group);
    who.groups(groups.cloned().collect(), subject.not_groups.clone());
    for (key, value) in &subject.properties {
        if let Err(why) = who.property(key, value) {
            report.left_out(origin, format!("{field}.properties[{key}]"), why);
            return None;
        }
    }
    let mut checks = who.when.iter().map(Condition::check);
    if let Err(why) = who
        .source
        .check()
        .and_then(|()| checks.try_for_each(|check| check))
    {
        let message = format!("{why}: the subject is left out with it");
        report.left_out(origin, field, message);
        return None;
    }
    match layer7 {
        Layer7::Keep => Some(who),
        Layer7::Drop => who.without_layer7(origin, field, report),
    }
}

impl Who {
    /// `*` is everybody who is authenticated.
    fn principal(&mut self, value: &str) {
        add(
            &mut self.source.principals,
            &mut self.when,
            "source.principal",
            value,
        );
    }

    fn groups(&mut self, values: Vec<String>, not_values: Vec<String>) {
        if !values.is_empty() || !not_values.is_empty() {
            self.when.push(Condition {
                key: "request.auth.claims[groups]".to_owned(),
                values,
                not_values,
            });
        }
    }

    fn property(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        let (source, when) = (&mut self.source, &mut self.when);
        match key {
            // The older name of the same.
            "source.principal" | "source.user" => self.principal(value),
            "source.namespace" => add(&mut source.namespaces, when, key, value),
            "source.ip" => add(&mut source.ip_blocks, when, key, value),
            "request.auth.principal" | "request.auth.audiences" | "request.auth.presenter" => {
                when.push(Condition::new(key, vec![value.to_owned()]));
            }
            _ if key.starts_with("request.headers[") || key.starts_with("request.auth.claims[") => {
                when.push(Condition::new(key, vec![value.to_owned()]));
            }
            _ => return Err("this property has no equivalent: the subject is left out with it"),
        }
        Ok(())
    }

    /// Whoever was known by requests alone would be everybody: they are left out.
    fn without_layer7(mut self, origin: &Origin, field: &str, report: &mut Report) -> Option<Self> {
        let (dropped, kept): (Vec<_>, _) = self.when.into_iter().partition(Condition::is_layer7);
        self.when = kept;
        let keys: Vec<&str> = dropped.iter().map(|condition| &*condition.key).collect();
        let keys = keys.join(", ");
        if keys.is_empty() {
            return Some(self);
        }
        if self == Self::default() {
            let message = format!(
                "it is known by {keys} alone, which layer 4 doesn't see: without them it would be everybody, so it is left out"
            );
            report.left_out(origin, field, message);
            return None;
        }
        let message = format!(
            "now allows more than before: {keys} is no longer asked for, which layer 4 doesn't see"
        );
        report.changed(origin, field, message);
        Some(self)
    }
}

/// To the field where it is free; a second one of the same kind must match as well.
fn add(values: &mut Vec<String>, when: &mut Vec<Condition>, key: &str, value: &str) {
    if values.is_empty() {
        values.push(value.to_owned());
    } else {
        when.push(Condition::new(key, vec![value.to_owned()]));
    }
}
