//! What an operator's name for one end of a connection stands for.

use std::{net::IpAddr, sync::Arc};

use super::Client;
use crate::{
    mesh::{PodName, Service, ServiceKey, Snapshot, Workload},
    nearest::nearest,
};

/// The end that a connection is made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// How people call it: a service's host name, a workload's namespace and name, or an address.
    pub(super) host: String,
    /// The addresses that an application may connect to when it means this.
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error(
        "`{0}` is no name of the mesh: write namespace/name, pod/namespace/name, service/namespace/name, a service's host name, or an IP address"
    )]
    Format(String),
    #[error("the mesh knows no {what} {name}{hint}")]
    Unknown {
        what: &'static str,
        name: String,
        hint: String,
    },
    #[error("{name} is both a workload and a service: write pod/{name} or service/{name}")]
    Ambiguous { name: String },
    #[error("{name} is a service, and connections come from workloads: name a pod or a workload")]
    ServiceAsSource { name: String },
    #[error("{name} has no address: is it running?")]
    NoAddress { name: String },
}

enum Name<'a> {
    Address(IpAddr),
    Object(Kind, &'a str, &'a str),
    Host(&'a str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Workload,
    Service,
}

const WORKLOAD: &str = "pod or workload";
const SERVICE: &str = "service";
const EITHER: &str = "pod, workload or service";

impl Snapshot {
    /// The pods that `name` stands for, or an address outside of the mesh.
    pub(super) fn clients(&self, name: &str) -> Result<Vec<Client>, LookupError> {
        let service_as_source = || {
            Err(LookupError::ServiceAsSource {
                name: name.to_owned(),
            })
        };
        let (namespace, object) = match Name::of(name)? {
            Name::Address(address) => {
                if let Some(workload) = self.workload_by_address(address) {
                    return Ok(vec![Client::Workload(Arc::clone(workload))]);
                }
                if self.service_by_vip(address).is_some() {
                    return service_as_source();
                }
                return Ok(vec![Client::Address(address)]);
            }
            Name::Object(Kind::Service, ..) => return service_as_source(),
            Name::Host(host) => {
                if self.service_by_host(host).is_some() {
                    return service_as_source();
                }
                let hint =
                    ": write namespace/name, or the IP address of a source outside of the mesh";
                return Err(unknown(WORKLOAD, host, hint.to_owned()));
            }
            Name::Object(Kind::Any | Kind::Workload, namespace, object) => (namespace, object),
        };
        let workloads = self.workloads_called(namespace, object);
        if !workloads.is_empty() {
            with_addresses(name, workloads.iter().copied())?;
            let clients = workloads.into_iter().cloned();
            return Ok(clients.map(Client::Workload).collect());
        }
        if self.service(&ServiceKey::new(namespace, object)).is_some() {
            return service_as_source();
        }
        let hint = self.did_you_mean(Kind::Workload, namespace, object);
        Err(unknown(WORKLOAD, &format!("{namespace}/{object}"), hint))
    }

    pub(super) fn destination(&self, name: &str) -> Result<Destination, LookupError> {
        let (kind, namespace, object) = match Name::of(name)? {
            Name::Address(address) => {
                return Ok(Destination {
                    host: address.to_string(),
                    addresses: vec![address],
                });
            }
            Name::Host(host) => {
                let Some(service) = self.service_by_host(host) else {
                    let hosts = self.services().map(|service| &*service.hostname);
                    let hint = nearest(host, hosts).map(meant).unwrap_or_default();
                    return Err(unknown(SERVICE, host, hint));
                };
                return self.service_destination(service);
            }
            Name::Object(kind, namespace, object) => (kind, namespace, object),
        };
        let workloads = match kind {
            Kind::Any | Kind::Workload => self.workloads_called(namespace, object),
            Kind::Service => Vec::new(),
        };
        let service = match kind {
            Kind::Any | Kind::Service => self.service(&ServiceKey::new(namespace, object)),
            Kind::Workload => None,
        };
        let path = format!("{namespace}/{object}");
        match (&workloads[..], service) {
            ([], Some(service)) => self.service_destination(service),
            ([], None) => {
                let what = match kind {
                    Kind::Any => EITHER,
                    Kind::Workload => WORKLOAD,
                    Kind::Service => SERVICE,
                };
                let hint = self.did_you_mean(kind, namespace, object);
                Err(unknown(what, &path, hint))
            }
            (_, Some(_)) => Err(LookupError::Ambiguous { name: path }),
            (workloads, None) => Ok(Destination {
                addresses: with_addresses(name, workloads.iter().copied())?,
                host: path,
            }),
        }
    }

    /// A headless service's name stands for the addresses of its endpoints.
    pub(super) fn service_destination(
        &self,
        service: &Service,
    ) -> Result<Destination, LookupError> {
        let addresses = if service.vips.is_empty() {
            let ready = service.endpoints.iter().filter(|(_, end)| end.ready);
            let workloads = ready.filter_map(|(uid, _)| self.workload(uid));
            with_addresses(&service.hostname, workloads)?
        } else {
            one_of_each_family(&service.vips).collect()
        };
        Ok(Destination {
            host: service.hostname.to_string(),
            addresses,
        })
    }

    /// A pod, or else every pod of the controller of this name.
    fn workloads_called(&self, namespace: &str, name: &str) -> Vec<&Arc<Workload>> {
        if let Some(pod) = self.workload_by_pod(&PodName::new(namespace, name)) {
            return vec![pod];
        }
        self.workloads()
            .filter(|workload| {
                *workload.pod.namespace == *namespace && *workload.workload_name == *name
            })
            .collect()
    }

    /// By its whole host name, or by as much of it as an application in a pod may write.
    fn service_by_host(&self, host: &str) -> Option<&Arc<Service>> {
        let short = host.strip_suffix(".svc").unwrap_or(host);
        self.services().find(|service| {
            let rest = service.hostname.strip_prefix(short);
            *service.hostname == *host
                || (short.contains('.') && rest.is_some_and(|rest| rest.starts_with(".svc.")))
        })
    }

    /// The same name in another namespace, or one that is nearly the same.
    fn did_you_mean(&self, kind: Kind, namespace: &str, name: &str) -> String {
        let mut known = Vec::new();
        if kind != Kind::Service {
            for workload in self.workloads() {
                known.push(workload.pod.to_string());
                known.push(format!(
                    "{}/{}",
                    workload.pod.namespace, workload.workload_name
                ));
            }
        }
        if kind != Kind::Workload {
            known.extend(self.services().map(|service| service.key.to_string()));
        }
        let same_name = format!("/{name}");
        let elsewhere = known.iter().find(|known| known.ends_with(&same_name));
        let wanted = format!("{namespace}/{name}");
        elsewhere
            .map(String::as_str)
            .or_else(|| nearest(&wanted, known.iter().map(String::as_str)))
            .map(meant)
            .unwrap_or_default()
    }
}

impl<'a> Name<'a> {
    fn of(text: &'a str) -> Result<Self, LookupError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(LookupError::Format(text.to_owned()));
        }
        match parts[..] {
            [host] => Ok(Self::Host(host)),
            [namespace, name] => Ok(Self::Object(Kind::Any, namespace, name)),
            ["pod" | "workload", namespace, name] => {
                Ok(Self::Object(Kind::Workload, namespace, name))
            }
            ["service", namespace, name] => Ok(Self::Object(Kind::Service, namespace, name)),
            _ => Err(LookupError::Format(text.to_owned())),
        }
    }
}

/// The first address of each family: what holds for it holds for others of its family.
fn one_of_each_family(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    let v6 = addresses.iter().find(|address| address.is_ipv6());
    v4.into_iter().chain(v6).copied()
}

fn with_addresses<'a>(
    name: &str,
    workloads: impl Iterator<Item = &'a Arc<Workload>>,
) -> Result<Vec<IpAddr>, LookupError> {
    let addresses = workloads.flat_map(|workload| one_of_each_family(&workload.addresses));
    let addresses: Vec<IpAddr> = addresses.collect();
    if addresses.is_empty() {
        return Err(LookupError::NoAddress {
            name: name.to_owned(),
        });
    }
    Ok(addresses)
}

fn unknown(what: &'static str, name: &str, hint: String) -> LookupError {
    LookupError::Unknown {
        what,
        name: name.to_owned(),
        hint,
    }
}

fn meant(known: &str) -> String {
    format!(": did you mean {known}?")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::mesh::fixture::{arc, service, workload};

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.insert_workload(arc(workload("client", &["10.0.0.1", "fd00::1"])));
        for (pod, address) in [("web-1", "10.0.0.2"), ("web-2", "10.0.0.3")] {
            let mut web = workload(pod, &[address]);
            web.workload_name = "web".into();
            snapshot.insert_workload(arc(web));
        }
        snapshot.insert_workload(arc(workload("pending", &[])));
        snapshot.insert_service(arc(service("web", &["10.1.0.1"], &[])));
        let headless = [("web-1", true), ("web-2", false)];
        snapshot.insert_service(arc(service("headless", &[], &headless)));
        snapshot
    }

    fn clients(name: &str) -> Result<Vec<String>, String> {
        let clients = snapshot()
            .clients(name)
            .map_err(|error| error.to_string())?;
        Ok(clients.iter().map(ToString::to_string).collect())
    }

    fn destination(name: &str) -> Result<String, String> {
        let destination = snapshot().destination(name);
        let destination = destination.map_err(|error| error.to_string())?;
        let addresses = destination.addresses.iter().map(ToString::to_string);
        let addresses: Vec<_> = addresses.collect();
        Ok(format!("{} {}", destination.host, addresses.join(",")))
    }

    #[test]
    fn a_source_is_a_pod_all_pods_of_a_workload_or_an_address() {
        for (name, expected) in [
            ("foo/client", &["foo/client"][..]),
            ("pod/foo/client", &["foo/client"]),
            ("foo/web", &["foo/web-1", "foo/web-2"]),
            ("10.0.0.3", &["foo/web-2"]),
            ("::ffff:10.0.0.3", &["foo/web-2"]),
            ("fd00::1", &["foo/client"]),
            ("192.0.2.1", &["192.0.2.1"]),
        ] {
            assert_eq!(clients(name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn a_destination_is_a_workload_a_service_by_any_of_its_names_or_an_address() {
        let web = "web.foo.svc.cluster.local 10.1.0.1";
        for (name, expected) in [
            ("foo/client", "foo/client 10.0.0.1,fd00::1"),
            ("pod/foo/web", "foo/web 10.0.0.2,10.0.0.3"),
            ("service/foo/web", web),
            ("web.foo", web),
            ("web.foo.svc", web),
            ("web.foo.svc.cluster.local", web),
            ("foo/headless", "headless.foo.svc.cluster.local 10.0.0.2"),
            ("10.1.0.1", "10.1.0.1 10.1.0.1"),
            ("192.0.2.1", "192.0.2.1 192.0.2.1"),
        ] {
            assert_eq!(destination(name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_told_or_found_is_named_with_a_way_out() {
        for (name, expected) in [
            (
                "foo/web",
                "foo/web is both a workload and a service: write pod/foo/web or service/foo/web",
            ),
            (
                "foo/clint",
                "knows no pod, workload or service foo/clint: did you mean foo/client?",
            ),
            ("service/foo/client", "the mesh knows no service foo/client"),
            ("bar/web", "did you mean foo/web?"),
            (
                "web.fooo.svc.cluster.local",
                "did you mean web.foo.svc.cluster.local?",
            ),
            ("web", "the mesh knows no service web"),
            ("web.foo.svc.cluster", "the mesh knows no service"),
            ("foo/pending", "foo/pending has no address"),
            (
                "a/b/c",
                "`a/b/c` is no name of the mesh: write namespace/name",
            ),
            ("foo/", "`foo/` is no name of the mesh"),
        ] {
            let error = destination(name).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
        for (name, expected) in [
            (
                "service/foo/web",
                "service/foo/web is a service, and connections come from workloads",
            ),
            ("web.foo", "web.foo is a service"),
            ("10.1.0.1", "10.1.0.1 is a service"),
            ("foo/headless", "foo/headless is a service"),
            ("foo/pending", "foo/pending has no address"),
            (
                "client",
                "or the IP address of a source outside of the mesh",
            ),
            (
                "fo/client",
                "knows no pod or workload fo/client: did you mean foo/client?",
            ),
        ] {
            let error = clients(name).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
}
