//! `MeshPolicy` and `Policy` to `PeerAuthentication`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Draft, Input, Origin, Report, Settings,
    input::Found,
    legacy::authentication::{self as legacy, PolicySpec, PrincipalBinding, Target},
    policy::{Mode, MutualTls, PeerAuthenticationSpec, Selector},
};

/// Of a namespace's or the mesh's policy: Istio took no other.
const DEFAULT: &str = "default";

/// One `PeerAuthentication` for a selector: of several that select a workload only the oldest counts.
struct ForWorkloads {
    name: String,
    from: Vec<Origin>,
    mode: Option<Mode>,
    ports: BTreeMap<u16, Mode>,
}

type Targets = BTreeMap<(Arc<str>, Selector), ForWorkloads>;

pub(super) fn migrate(input: &Input, settings: &Settings, draft: &mut Draft) {
    for policy in input.mesh_policies.values() {
        let report = &mut draft.report;
        if *policy.name != *DEFAULT {
            let message =
                "Istio reads the one MeshPolicy named `default` only: this one was not in force";
            report.left_out(&policy.origin, "metadata.name", message);
        } else if !policy.spec.targets.is_empty() {
            let message = "a MeshPolicy has no targets, Istio refused it";
            report.left_out(&policy.origin, "spec.targets", message);
        } else {
            for_all(policy, &settings.root_namespace, input, draft);
        }
    }
    let mut targets = Targets::new();
    for policy in input.policies.values() {
        let report = &mut draft.report;
        match (&*policy.name == DEFAULT, policy.spec.targets.is_empty()) {
            (true, true) if policy.namespace == settings.root_namespace => report.left_out(
                &policy.origin,
                "metadata.namespace",
                "in the root namespace a PeerAuthentication without a selector is for the whole mesh: write one with a selector for each workload there that needs it",
            ),
            (true, true) => for_all(policy, &policy.namespace, input, draft),
            (false, true) => report.left_out(
                &policy.origin,
                "metadata.name",
                "a Policy without targets must be named `default`, Istio refused this one",
            ),
            (true, false) => report.left_out(
                &policy.origin,
                "spec.targets",
                "a Policy named `default` has no targets, Istio refused this one",
            ),
            (false, false) => for_targets(policy, input, &mut targets, report),
        }
    }
    report_overlaps(&targets, &mut draft.report);
    for ((namespace, selector), target) in targets {
        let spec = PeerAuthenticationSpec {
            selector,
            mtls: target.mode.map(|mode| MutualTls { mode }),
            port_level_mtls: target
                .ports
                .into_iter()
                .map(|(port, mode)| (port, MutualTls { mode }))
                .collect(),
        };
        draft.peer_authentication(&namespace, &target.name, target.from, spec);
    }
}

/// For a namespace or, in the root namespace, for the mesh.
fn for_all(policy: &Found<PolicySpec>, namespace: &Arc<str>, input: &Input, draft: &mut Draft) {
    let Some(mode) = mode(policy, &mut draft.report) else {
        return;
    };
    let mut existing = input.existing.iter();
    if let Some(existing) = existing
        .find(|existing| existing.kind == "PeerAuthentication" && existing.namespace == *namespace)
    {
        let message = format!(
            "PeerAuthentication {namespace}/{} is in the input as well: of two that are for the same, the older one is in force, so remove one",
            existing.name
        );
        draft.report.changed(&policy.origin, "", message);
    }
    let spec = PeerAuthenticationSpec {
        mtls: Some(MutualTls { mode }),
        ..PeerAuthenticationSpec::default()
    };
    draft.peer_authentication(namespace, DEFAULT, vec![policy.origin.clone()], spec);
}

fn for_targets(
    policy: &Found<PolicySpec>,
    input: &Input,
    targets: &mut Targets,
    report: &mut Report,
) {
    let Some(mode) = mode(policy, report) else {
        return;
    };
    for (index, target) in policy.spec.targets.iter().enumerate() {
        let field = format!("spec.targets[{index}]");
        for name in target.unknown.names() {
            let message = "ztun doesn't know this field: the target is left out with it";
            report.left_out(&policy.origin, format!("{field}.{name}"), message);
        }
        if !target.unknown.is_empty() {
            continue;
        }
        match input.services.selector(&policy.namespace, &target.name) {
            Ok(selector) => {
                let key = (Arc::clone(&policy.namespace), selector);
                let merged = targets.entry(key).or_insert_with(|| ForWorkloads {
                    name: format!("{}-{}", policy.name, target.name),
                    from: Vec::new(),
                    mode: None,
                    ports: BTreeMap::new(),
                });
                merged.add(policy, target, &field, mode, input, report);
            }
            Err(why) => report.left_out(&policy.origin, format!("{field}.name"), why),
        }
    }
    targets.retain(|_, target| target.mode.is_some() || !target.ports.is_empty());
}

impl ForWorkloads {
    fn add(
        &mut self,
        policy: &Found<PolicySpec>,
        target: &Target,
        field: &str,
        mode: Mode,
        input: &Input,
        report: &mut Report,
    ) {
        if !self.from.contains(&policy.origin) {
            self.from.push(policy.origin.clone());
        }
        if target.ports.is_empty() {
            let previous = self.mode.replace(mode);
            self.mode = stricter(previous, mode, policy, field, report);
        }
        for (index, port) in target.ports.iter().enumerate() {
            let field = format!("{field}.ports[{index}]");
            let found = input
                .services
                .workload_ports(&policy.namespace, &target.name, port);
            match found {
                Ok(numbers) => {
                    for number in numbers {
                        let previous = self.ports.get(&number).copied();
                        let mode = stricter(previous, mode, policy, &field, report);
                        self.ports.extend(mode.map(|mode| (number, mode)));
                    }
                }
                Err(why) => report.left_out(&policy.origin, field, why),
            }
        }
    }
}

fn stricter(
    previous: Option<Mode>,
    mode: Mode,
    policy: &Found<PolicySpec>,
    field: &str,
    report: &mut Report,
) -> Option<Mode> {
    if previous.is_some_and(|previous| previous != mode) {
        let message = "another Policy or target says something else for the same workloads: the stricter one is taken";
        report.changed(&policy.origin, field, message);
    }
    previous.max(Some(mode))
}

/// `None` where nothing can be told of mutual TLS. Reports what has no equivalent on the way.
fn mode(policy: &Found<PolicySpec>, report: &mut Report) -> Option<Mode> {
    let (origin, spec) = (&policy.origin, &policy.spec);
    report_requests(policy, report);
    for name in spec.unknown.names() {
        let message = "ztun doesn't know this field";
        report.left_out(origin, format!("spec.{name}"), message);
    }
    if spec.peers.is_empty() {
        report.changed(
            origin,
            "spec.peers",
            "no peers turned mutual TLS off, which DISABLE is; a node proxy takes DISABLE as PERMISSIVE, it accepts mutual TLS as well",
        );
        return Some(Mode::Disable);
    }
    let mut mode = None;
    for (index, peer) in spec.peers.iter().enumerate() {
        let field = format!("spec.peers[{index}]");
        match &peer.mtls {
            Some(mtls) if mode.is_none() => mode = Some(mtls_mode(mtls, origin, &field, report)),
            _ => {
                let message = "only the first `mtls` has an equivalent";
                report.left_out(origin, field, message);
            }
        }
    }
    if mode.is_none() {
        let message = "none is `mtls`: nothing is printed for this policy";
        report.left_out(origin, "spec.peers", message);
    }
    if spec.peer_is_optional && mode == Some(Mode::Strict) {
        report.left_out(
            origin,
            "spec.peerIsOptional",
            "it let in who failed mutual TLS; STRICT refuses them. If they must get in, use PERMISSIVE",
        );
    }
    mode
}

fn mtls_mode(mtls: &legacy::MutualTls, origin: &Origin, field: &str, report: &mut Report) -> Mode {
    for name in mtls.unknown.names() {
        let message = "ztun doesn't know this field";
        report.left_out(origin, format!("{field}.mtls.{name}"), message);
    }
    if mtls.allow_tls {
        report.changed(
            origin,
            format!("{field}.mtls.allowTls"),
            "it accepted TLS without a client certificate, which has no equivalent: it is STRICT now. PERMISSIVE would accept plaintext as well",
        );
        return Mode::Strict;
    }
    match mtls.mode {
        legacy::Mode::Strict => Mode::Strict,
        legacy::Mode::Permissive => Mode::Permissive,
    }
}

/// JWTs are in requests, which layer 4 doesn't see.
fn report_requests(policy: &Found<PolicySpec>, report: &mut Report) {
    let (origin, spec) = (&policy.origin, &policy.spec);
    if !spec.origins.is_empty() {
        let issuers = spec.origins.iter().map(|method| &*method.jwt.issuer);
        let message = format!(
            "JWTs ({}) are checked in requests, at layer 7: where a waypoint does that, write a RequestAuthentication and an AuthorizationPolicy with requestPrincipals",
            issuers.collect::<Vec<_>>().join(", ")
        );
        report.left_out(origin, "spec.origins", message);
    }
    if spec.origin_is_optional && !spec.origins.is_empty() {
        let message = "it goes with spec.origins: without an AuthorizationPolicy a RequestAuthentication is optional";
        report.left_out(origin, "spec.originIsOptional", message);
    }
    if spec.principal_binding == PrincipalBinding::UseOrigin {
        let message =
            "a connection's principal is the identity of its peer, there is no other at layer 4";
        report.left_out(origin, "spec.principalBinding", message);
    }
}

/// Of two policies that select the same workload, the older is in force, so the legacy meaning,
/// where both were, may be lost.
fn report_overlaps(targets: &Targets, report: &mut Report) {
    let all: Vec<_> = targets.iter().collect();
    for (index, ((namespace, selector), target)) in all.iter().enumerate() {
        for ((other_namespace, other_selector), other) in &all[index + 1..] {
            if namespace == other_namespace && selector.may_meet(other_selector) {
                let (Some(origin), Some(other)) = (target.from.first(), other.from.first()) else {
                    continue;
                };
                let message = format!(
                    "a workload may carry the labels of this and of {}: only the older of the two PeerAuthentications is in force there, so give such workloads one of their own",
                    other.object
                );
                report.changed(origin, "spec.targets", message);
            }
        }
    }
}
