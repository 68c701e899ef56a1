//! `networking.istio.io`: `WorkloadEntry` and `ServiceEntry`. Only the fields that are read.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::Deserialize;

use super::metadata::{Labels, Metadata, or_default};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkloadEntry {
    pub metadata: Metadata,
    pub spec: WorkloadEntrySpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEntrySpec {
    #[serde(default, deserialize_with = "or_default")]
    pub address: Arc<str>,
    /// By the service port's name.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: BTreeMap<Arc<str>, u16>,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    pub service_account: Option<Arc<str>>,
    /// `region/zone/subzone`, from the coarsest on.
    #[serde(default, deserialize_with = "or_default")]
    pub locality: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServiceEntry {
    pub metadata: Metadata,
    pub spec: ServiceEntrySpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntrySpec {
    pub hosts: Vec<Arc<str>>,
    /// IP addresses; blocks of them (CIDR) can't be a service's address.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<Arc<str>>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ServiceEntryPort>,
    #[serde(default, deserialize_with = "or_default")]
    pub resolution: Resolution,
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<WorkloadEntrySpec>,
    pub workload_selector: Option<WorkloadSelector>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntryPort {
    pub number: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
    pub target_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkloadSelector {
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
}

impl WorkloadEntrySpec {
    /// `None` for a host name, which would have to be resolved.
    pub fn ip(&self) -> Option<IpAddr> {
        let address: IpAddr = self.address.parse().ok()?;
        Some(address.to_canonical())
    }
}
