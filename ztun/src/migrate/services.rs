//! Services of the input: legacy policies name services, today's select workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize;

use super::{legacy::authentication::Port, policy::Selector};
use crate::{
    mesh::policy::authorization::StringMatch,
    source::kubernetes_objects::{
        Labels,
        core::{PodSpec, Protocol, Service, TargetPort},
        or_default,
    },
};

#[derive(Debug, Default)]
pub(super) struct Services {
    by_name: BTreeMap<(Arc<str>, Arc<str>), Service>,
    /// With their namespaces.
    templates: Vec<(Arc<str>, Template)>,
}

/// What pods of one origin have in common.
#[derive(Debug, Deserialize)]
pub(super) struct Template {
    #[serde(default)]
    metadata: TemplateMetadata,
    spec: PodSpec,
}

#[derive(Debug, Default, Deserialize)]
struct TemplateMetadata {
    #[serde(default, deserialize_with = "or_default")]
    labels: Labels,
}

impl Services {
    pub fn insert(&mut self, namespace: &Arc<str>, service: &Service) -> Result<(), String> {
        let key = (Arc::clone(namespace), Arc::clone(&service.metadata.name));
        let known = self.by_name.entry(key).or_insert_with(|| service.clone());
        if known.spec.selector == service.spec.selector && known.spec.ports == service.spec.ports {
            Ok(())
        } else {
            Err("is in the input twice, with different selectors or ports: remove one".to_owned())
        }
    }

    pub fn add_template(&mut self, namespace: &Arc<str>, template: Template) {
        self.templates.push((Arc::clone(namespace), template));
    }

    /// Whom a service stands for, or why that can't be told.
    pub fn selector(&self, namespace: &str, name: &str) -> Result<Selector, String> {
        let Some(service) = self.get(namespace, name) else {
            return Err(format!(
                "Service {namespace}/{name} is not in the input, and today's policies need its selector: add it (`kubectl get service -n {namespace} {name} -o yaml`)"
            ));
        };
        if service.spec.selector.is_empty() {
            return Err(format!(
                "Service {namespace}/{name} has no selector: write a policy for the workloads behind it by hand"
            ));
        }
        Ok(Selector {
            match_labels: service.spec.selector.clone(),
        })
    }

    /// The names of a namespace's services whose whole host name matches.
    pub fn matching(
        &self,
        namespace: &str,
        cluster_domain: &str,
        pattern: &StringMatch,
    ) -> Vec<Arc<str>> {
        let of_namespace = self.by_name.keys().filter(|(ns, _)| **ns == *namespace);
        of_namespace
            .filter(|(_, name)| pattern.matches(&host_name(namespace, name, cluster_domain)))
            .map(|(_, name)| Arc::clone(name))
            .collect()
    }

    /// The workload ports behind a service's port, or why they can't be told.
    pub fn workload_ports(
        &self,
        namespace: &str,
        name: &str,
        port: &Port,
    ) -> Result<BTreeSet<u16>, String> {
        let service = self.get(namespace, name).ok_or("the service is unknown")?;
        let found = service.spec.ports.iter().find(|candidate| match port {
            Port::Number(number) => candidate.port == *number,
            Port::Name(name) => candidate.name == *name,
        });
        let Some(found) = found else {
            return Err(format!("Service {namespace}/{name} has no such port"));
        };
        let port_name = match &found.target_port {
            None => return Ok(BTreeSet::from([found.port])),
            Some(TargetPort::Number(number)) => return Ok(BTreeSet::from([*number])),
            Some(TargetPort::Name(name)) => name,
        };
        let templates = self.templates.iter().filter(|(ns, template)| {
            let labels = &template.metadata.labels;
            let mut selector = service.spec.selector.iter();
            **ns == *namespace && selector.all(|(key, value)| labels.get(key) == Some(value))
        });
        let containers = templates.flat_map(|(_, template)| &template.spec.containers);
        let numbers: BTreeSet<u16> = containers
            .flat_map(|container| &container.ports)
            .filter(|port| port.protocol == Protocol::Tcp && port.name.as_ref() == Some(port_name))
            .map(|port| port.container_port)
            .collect();
        if numbers.is_empty() {
            return Err(format!(
                "Service {namespace}/{name} sends it to the port named `{port_name}`, whose number no pod of the input tells: add a pod or the Deployment"
            ));
        }
        Ok(numbers)
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.by_name.get(&(namespace.into(), name.into()))
    }
}

pub(super) fn host_name(namespace: &str, name: &str, cluster_domain: &str) -> String {
    format!("{name}.{namespace}.svc.{cluster_domain}")
}

/// Namespace and name of a service's whole host name.
pub(super) fn parse_host_name<'a>(
    host: &'a str,
    cluster_domain: &str,
) -> Option<(&'a str, &'a str)> {
    let rest = host.strip_suffix(cluster_domain)?.strip_suffix(".svc.")?;
    let (name, namespace) = rest.split_once('.')?;
    let plain = |part: &str| !part.is_empty() && !part.contains(['.', '*']);
    (plain(name) && plain(namespace)).then_some((namespace, name))
}
