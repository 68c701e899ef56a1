//! Which workloads a role is for: names of services to selectors.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    super::{
        Input, Origin, Report, Settings,
        policy::{InForce, Selector},
        services::{host_name, parse_host_name},
    },
    enforcement::{Coverage, Enforcement},
};
use crate::mesh::policy::authorization::StringMatch;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// `None` is every workload of the namespace.
    pub service: Option<Arc<str>>,
    pub selector: Selector,
    /// Not where roles were not in force.
    pub in_force: InForce,
}

/// Finds the targets of roles of one namespace.
pub(super) struct Finder<'a> {
    pub input: &'a Input,
    pub settings: &'a Settings,
    pub enforcement: &'a Enforcement,
    pub namespace: &'a str,
    pub origin: &'a Origin,
}

impl Finder<'_> {
    /// `services` are those of an access rule.
    pub fn find(&self, services: &[String], field: &str, report: &mut Report) -> BTreeSet<Target> {
        let mut targets = BTreeSet::new();
        if services.is_empty() {
            let message = "it names no service: nothing is allowed by it";
            report.left_out(self.origin, field, message);
        }
        for (index, pattern) in services.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let found = match StringMatch::from(&**pattern) {
                found if self.is_namespace(&found) => Ok(self.namespace(&field, report)),
                StringMatch::Exact(host) => self.exact(&host).map(|target| vec![target]),
                found => self.pattern(pattern, &found, &field, report),
            };
            match found {
                Ok(found) => targets.extend(found),
                Err(why) => report.left_out(self.origin, field, why),
            }
        }
        targets
    }

    /// Whether every service of the namespace matches, those to come too.
    fn is_namespace(&self, pattern: &StringMatch) -> bool {
        match pattern {
            StringMatch::Presence => true,
            StringMatch::Suffix(suffix) => {
                let domain = &self.settings.cluster_domain;
                host_name(self.namespace, "", domain).ends_with(&**suffix)
            }
            StringMatch::Exact(_) | StringMatch::Prefix(_) => false,
        }
    }

    fn namespace(&self, field: &str, report: &mut Report) -> Vec<Target> {
        let whole = |in_force| Target {
            service: None,
            selector: Selector::default(),
            in_force,
        };
        match self.enforcement.of_namespace(self.namespace) {
            Coverage::All => vec![whole(InForce::Yes)],
            Coverage::None => vec![whole(InForce::DryRun)],
            // A policy for the whole of it would close the services without access control.
            Coverage::Some => {
                let names = self.enforcement.services(self.namespace);
                let targets = names.map(|name| self.service(name));
                let (found, missing): (Vec<_>, Vec<_>) = targets.partition(Result::is_ok);
                for why in missing.into_iter().filter_map(Result::err) {
                    report.left_out(self.origin, field, why);
                }
                found.into_iter().filter_map(Result::ok).collect()
            }
        }
    }

    fn exact(&self, host: &str) -> Result<Target, String> {
        let domain = &self.settings.cluster_domain;
        match parse_host_name(host, domain) {
            Some((namespace, name)) if namespace == self.namespace => self.service(name),
            Some(_) => Err(format!(
                "`{host}` is of another namespace: Istio applied roles to services of their own namespace only"
            )),
            None => Err(format!(
                "`{host}` is not the whole name of a service, NAME.{}.svc.{domain}, with which Istio compared it: it matched nothing",
                self.namespace
            )),
        }
    }

    fn pattern(
        &self,
        text: &str,
        pattern: &StringMatch,
        field: &str,
        report: &mut Report,
    ) -> Result<Vec<Target>, String> {
        let domain = &self.settings.cluster_domain;
        let names = self
            .input
            .services
            .matching(self.namespace, domain, pattern);
        if names.is_empty() {
            return Err(format!(
                "`{text}` matches no Service of the input in `{}`: add the Services",
                self.namespace
            ));
        }
        let message = format!(
            "`{text}` is no longer a pattern: it is the Services of the input that match ({}), not those that come later",
            names.join(", ")
        );
        report.changed(self.origin, field, message);
        names.iter().map(|name| self.service(name)).collect()
    }

    fn service(&self, name: &str) -> Result<Target, String> {
        let selector = self.input.services.selector(self.namespace, name)?;
        let in_force = if self.enforcement.of_service(self.namespace, name) {
            InForce::Yes
        } else {
            InForce::DryRun
        };
        Ok(Target {
            service: Some(name.into()),
            selector,
            in_force,
        })
    }
}
