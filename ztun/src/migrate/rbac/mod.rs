//! `ClusterRbacConfig`, `ServiceRole` and `ServiceRoleBinding` to `AuthorizationPolicy`.

mod access_rule;
mod bindings;
mod enforcement;
mod subject;
mod targets;
mod values;

use super::{Draft, Input, Settings};

pub(super) fn migrate(input: &Input, settings: &Settings, draft: &mut Draft) {
    let enforcement = enforcement::migrate(input, settings, draft);
    bindings::migrate(input, settings, &enforcement, draft);
}
