//! The `baggage` header (W3C Baggage): which workload a tunnel's client says it is.

use http::HeaderMap;
use percent_encoding::{
    AsciiSet, CONTROLS, PercentEncode, percent_decode_str, utf8_percent_encode,
};

use crate::mesh::{Workload, workload::WorkloadKind};

pub(super) const NAME: &str = "baggage";

/// Longer ones are ignored: W3C Baggage, section 3.3.2, asks no more of anybody.
const MAX_BYTES: usize = 8192;
/// As long as a name of Kubernetes may be.
const MAX_VALUE: usize = 253;

const CLUSTER: &str = "k8s.cluster.name";
const NAMESPACE: &str = "k8s.namespace.name";
const SERVICE: &str = "service.name";
const VERSION: &str = "service.version";

/// What telemetry uses of it. Nothing of this is proven; what is missing is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: String,
    pub namespace: String,
    /// The name of its controller.
    pub workload: String,
    pub service: String,
    pub version: String,
}

impl Baggage {
    /// `None` if it is missing, too long or malformed: part of it could mean another workload.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut baggage = Self::default();
        let mut left = MAX_BYTES;
        let mut found = false;
        for value in headers.get_all(NAME) {
            left = left.checked_sub(value.len())?;
            for member in value.to_str().ok()?.split(',') {
                let (key, value) = member_of(member)?;
                if let Some(field) = baggage.field(key) {
                    *field = value;
                    found = true;
                }
            }
        }
        found.then_some(baggage)
    }

    fn field(&mut self, key: &str) -> Option<&mut String> {
        match key {
            CLUSTER => Some(&mut self.cluster),
            NAMESPACE => Some(&mut self.namespace),
            SERVICE => Some(&mut self.service),
            VERSION => Some(&mut self.version),
            _ if KINDS.iter().any(|kind| name_key(*kind) == key) => Some(&mut self.workload),
            _ => None,
        }
    }
}

pub(super) fn of_workload(workload: &Workload) -> String {
    let members = [
        (CLUSTER, &workload.cluster_id),
        (NAMESPACE, &workload.pod.namespace),
        (name_key(workload.workload_kind), &workload.workload_name),
        (SERVICE, &workload.canonical_service),
        (VERSION, &workload.canonical_revision),
        ("cloud.region", &workload.locality.region),
        ("cloud.availability_zone", &workload.locality.zone),
    ];
    let members = members
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", encoded(value)));
    members.collect::<Vec<_>>().join(",")
}

const KINDS: [WorkloadKind; 4] = [
    WorkloadKind::Deployment,
    WorkloadKind::CronJob,
    WorkloadKind::Pod,
    WorkloadKind::Job,
];

fn name_key(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Deployment => "k8s.deployment.name",
        WorkloadKind::CronJob => "k8s.cronjob.name",
        WorkloadKind::Pod => "k8s.pod.name",
        WorkloadKind::Job => "k8s.job.name",
    }
}

/// A member's key and value; properties, after `;`, are left out.
fn member_of(member: &str) -> Option<(&str, String)> {
    let (key, value) = member.split_once('=')?;
    let value = value.split(';').next().unwrap_or_default();
    Some((
        key.trim_matches(BLANKS),
        decoded(value.trim_matches(BLANKS))?,
    ))
}

const BLANKS: [char; 2] = [' ', '\t'];

/// What may not stand in a value as it is.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'%')
    .add(b',')
    .add(b';')
    .add(b'\\');

fn encoded(value: &str) -> PercentEncode<'_> {
    utf8_percent_encode(value, ENCODED)
}

fn decoded(value: &str) -> Option<String> {
    let text = percent_decode_str(value).decode_utf8().ok()?;
    let printable = !text.contains(char::is_control);
    (text.len() <= MAX_VALUE && printable).then(|| text.into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::fixture::workload;

    fn read(values: &[&str]) -> Option<Baggage> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, HeaderValue::from_str(value).unwrap());
        }
        Baggage::of(&headers)
    }

    #[test]
    fn the_peers_form_is_read_in_one_line_or_several() {
        let expected = Baggage {
            cluster: "K1".into(),
            namespace: "foo".into(),
            workload: "web".into(),
            service: "shop".into(),
            version: "v2".into(),
        };
        let members = [
            "k8s.cluster.name=K1",
            "k8s.namespace.name=foo",
            "k8s.deployment.name=web",
            "service.name=shop",
            "service.version=v2",
            "cloud.region=r",
        ];
        assert_eq!(read(&[&members.join(",")]), Some(expected.clone()));
        assert_eq!(read(&members), Some(expected));
    }

    #[test]
    fn blanks_and_properties_are_not_part_of_a_value() {
        let baggage = read(&["service.name = shop ;p=1;q , x=y"]).unwrap();
        assert_eq!(baggage.service, "shop");
    }

    #[test]
    fn what_is_malformed_or_too_long_is_ignored_as_a_whole() {
        let long_value = format!("service.name={}", "a".repeat(MAX_VALUE + 1));
        let long = format!("service.name=a,x={}", "y".repeat(MAX_BYTES));
        for value in [
            "",
            "service.name",
            "service.name=a,",
            "service.name=%ff",
            "service.name=a%0Ab",
            &long_value,
            &long,
        ] {
            assert_eq!(read(&[value]), None, "{value}");
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["x=y"]), None, "nothing that telemetry uses");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            cluster in "[^\\pC]{0,60}",
            namespace in "[a-z0-9-]{1,63}",
            name in "[a-z0-9.-]{1,63}",
            service in "[^\\pC]{0,60}",
            version in "[^\\pC]{0,60}",
            kind in prop::sample::select(&KINDS[..]),
        ) {
            let mut workload = workload("a", &[]);
            workload.cluster_id = cluster.as_str().into();
            workload.pod.namespace = namespace.as_str().into();
            workload.workload_name = name.as_str().into();
            workload.workload_kind = kind;
            workload.canonical_service = service.as_str().into();
            workload.canonical_revision = version.as_str().into();
            workload.locality.region = "a,b".into();
            let written = of_workload(&workload);
            let expected = Baggage { cluster, namespace, workload: name, service, version };
            prop_assert_eq!(read(&[&written]), Some(expected), "{}", written);
        }
    }
}
