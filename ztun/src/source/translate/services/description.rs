//! What services say of themselves.

use std::{net::IpAddr, sync::Arc};

use super::{Services, endpoints};
use crate::{
    mesh::{Service, ServiceKey, chunked::ChunkedMap},
    source::{
        kubernetes_objects::{
            ObjectKey, core,
            networking::{Resolution, ServiceEntry},
        },
        translate::namespace::Context,
    },
};

impl Services {
    /// A Kubernetes service, without its endpoints.
    pub(super) fn kubernetes_service(
        &self,
        key: &ObjectKey,
        object: &core::Service,
        context: &Context<'_>,
    ) -> Service {
        let ports = endpoints::tcp(&object.spec.ports);
        Service {
            key: ServiceKey {
                namespace: Arc::clone(&self.namespace),
                name: Arc::clone(&key.name),
            },
            hostname: format!(
                "{}.{}.svc.{}",
                key.name, self.namespace, context.settings.cluster_domain
            )
            .into(),
            vips: object.spec.vips(),
            ports: ports.map(|port| port.port).collect(),
            endpoints: ChunkedMap::new(),
        }
    }

    /// A service outside of Kubernetes' own, without its endpoints; `None` for one that can't be served.
    pub(super) fn outside_service(
        &self,
        entry: &ServiceEntry,
        problems: &mut Vec<String>,
    ) -> Option<Service> {
        let spec = &entry.spec;
        if spec.resolution != Resolution::Static {
            let message =
                "spec.resolution: only STATIC is supported: connections to it pass through";
            problems.push(message.to_owned());
            return None;
        }
        let Some(host) = spec.hosts.first() else {
            problems.push("spec.hosts: must name at least one host".to_owned());
            return None;
        };
        let vips = spec.addresses.iter().filter_map(|address| {
            let vip = address.parse::<IpAddr>();
            if vip.is_err() {
                problems.push(format!(
                    "spec.addresses: `{address}` is not an IP address and is left out"
                ));
            }
            Some(vip.ok()?.to_canonical())
        });
        Some(Service {
            vips: vips.collect(),
            // By host, as the peer has it: a Service of the same name is another one.
            key: ServiceKey {
                namespace: Arc::clone(&self.namespace),
                name: Arc::clone(host),
            },
            hostname: Arc::clone(host),
            ports: spec.ports.iter().map(|port| port.number).collect(),
            endpoints: ChunkedMap::new(),
        })
    }
}
