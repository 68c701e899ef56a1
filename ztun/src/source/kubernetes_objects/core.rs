//! `v1`: Namespace, Pod, Service. Only the fields that are read; others are ignored.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Deserializer, de::Error};

use super::metadata::{Labels, Metadata, or_default};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    pub metadata: Metadata,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pod {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: PodSpec,
    #[serde(default, deserialize_with = "or_default")]
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub node_name: Arc<str>,
    pub service_account_name: Option<Arc<str>>,
    #[serde(default, deserialize_with = "or_default")]
    pub host_network: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Container {
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    pub name: Option<Arc<str>>,
    pub container_port: u16,
    #[serde(default)]
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub phase: Option<Phase>,
    #[serde(rename = "podIP", default, deserialize_with = "address")]
    pub pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs", default, deserialize_with = "or_default")]
    pub pod_ips: Vec<PodIp>,
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PodIp {
    #[serde(default, deserialize_with = "address")]
    pub ip: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    pub status: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "clusterIP", default, deserialize_with = "address")]
    pub cluster_ip: Option<IpAddr>,
    #[serde(rename = "clusterIPs", default, deserialize_with = "addresses")]
    pub cluster_ips: Vec<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    #[serde(default, deserialize_with = "or_default")]
    pub selector: Labels,
    #[serde(default, deserialize_with = "or_default")]
    pub publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Empty where a service has one port without a name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
    pub port: u16,
    /// `None` is the same number as `port`.
    pub target_port: Option<TargetPort>,
    #[serde(default)]
    pub protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a port number or a port's name")]
pub enum TargetPort {
    Number(u16),
    Name(Arc<str>),
}

impl Pod {
    /// The number of a named TCP port.
    pub fn named_port(&self, name: &str) -> Option<u16> {
        let mut ports = self
            .spec
            .containers
            .iter()
            .flat_map(|container| &container.ports);
        ports
            .find(|port| port.protocol == Protocol::Tcp && port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
    }
}

impl ServiceSpec {
    /// Both families' virtual addresses; none for a headless service.
    pub fn vips(&self) -> Vec<IpAddr> {
        if self.cluster_ips.is_empty() {
            self.cluster_ip.into_iter().collect()
        } else {
            self.cluster_ips.clone()
        }
    }
}

/// An address that isn't there yet is absent or empty; a headless service's is `None`.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<Arc<str>>::deserialize(deserializer)?.as_deref() {
        None | Some("" | "None") => Ok(None),
        Some(text) => parse_address(text).map(Some),
    }
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts: Vec<Arc<str>> = or_default(deserializer)?;
    let texts = texts.iter().filter(|text| !matches!(&***text, "" | "None"));
    texts.map(|text| parse_address(text)).collect()
}

fn parse_address<E: Error>(text: &str) -> Result<IpAddr, E> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| E::custom(format!("`{text}` is not an IP address")))?;
    Ok(address.to_canonical())
}
