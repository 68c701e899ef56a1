//! What may stand in a policy of today: one with anything else is refused as a whole, and its
//! target closed.

use super::super::policy::{Condition, Operation, Source};
use crate::{
    mesh::policy::authorization::StringMatch, source::kubernetes_objects::security::values,
};

impl Source {
    pub(super) fn check(&self) -> Result<(), String> {
        let all = |lists: [&[String]; 2], check: fn(&str) -> Result<(), String>| {
            let mut values = lists.into_iter().flatten();
            values.try_for_each(|value| check(value))
        };
        all([&self.principals, &self.not_principals], principal)?;
        all([&self.namespaces, &self.not_namespaces], namespace)?;
        all([&self.ip_blocks, &self.not_ip_blocks], ip_block)
    }
}

impl Operation {
    pub(super) fn check(&self) -> Result<(), String> {
        for value in self.ports.iter().chain(&self.not_ports) {
            port(value)?;
        }
        let lists = [
            &self.hosts,
            &self.not_hosts,
            &self.methods,
            &self.not_methods,
            &self.paths,
            &self.not_paths,
        ];
        lists.into_iter().flatten().try_for_each(|value| any(value))
    }
}

impl Condition {
    pub(super) fn check(&self) -> Result<(), String> {
        let check = match &*self.key {
            "source.principal" => principal,
            "source.namespace" => namespace,
            "source.ip" | "destination.ip" => ip_block,
            "destination.port" => port,
            key if key.contains('[') && !has_name_in_brackets(key) => {
                return Err(format!("`{key}` lacks a name in its brackets"));
            }
            _ => any,
        };
        let mut values = self.values.iter().chain(&self.not_values);
        values.try_for_each(|value| check(value))
    }
}

fn principal(text: &str) -> Result<(), String> {
    if values::has_principals(&pattern(text)?) {
        Ok(())
    } else {
        Err(format!(
            "`{text}` is no workload's identity, TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, with which Istio compared it: nobody shows it"
        ))
    }
}

fn namespace(text: &str) -> Result<(), String> {
    if values::has_namespaces(&pattern(text)?) {
        Ok(())
    } else {
        Err(format!("`{text}` is no namespace's name"))
    }
}

fn ip_block(text: &str) -> Result<(), String> {
    let block = values::ip_block(text).map(drop);
    block.map_err(|_| format!("`{text}` is neither an address nor a CIDR"))
}

fn port(text: &str) -> Result<(), String> {
    let port = values::port(text).map(drop);
    port.map_err(|_| format!("`{text}` is not a port"))
}

fn any(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("a value is empty".to_owned());
    }
    Ok(())
}

fn pattern(text: &str) -> Result<StringMatch, String> {
    any(text)?;
    values::pattern(text)
}

fn has_name_in_brackets(key: &str) -> bool {
    let inner = key.strip_suffix(']').and_then(|key| key.split_once('['));
    inner.is_some_and(|(_, name)| !name.is_empty())
}
