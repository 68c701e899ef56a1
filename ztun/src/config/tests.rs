#![allow(clippy::unwrap_used)]

use super::*;

fn sources() -> ConfigSources {
    ConfigSources {
        flags: ConfigFlags::default(),
        environment: std::collections::BTreeMap::new(),
        file: None,
        hostname: Some("node-1".into()),
        cores: 4,
    }
}

fn with_file(text: &str) -> ConfigSources {
    ConfigSources {
        file: Some(("/etc/ztun.yaml".into(), Ok(text.into()))),
        ..sources()
    }
}

fn with_environment(variables: &[(&str, &str)]) -> ConfigSources {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    ConfigSources {
        environment: variables.iter().map(owned).collect(),
        ..sources()
    }
}

fn errors(sources: ConfigSources) -> Vec<String> {
    Config::load(sources).unwrap_err().0
}

#[test]
fn defaults_need_nothing_but_a_host() {
    let config = Config::load(sources()).unwrap();
    assert_eq!(&*config.node_name, "node-1");
    assert_eq!(config.data_threads.get(), 4);
    assert_eq!(config.ca_directory, PathBuf::from("/var/lib/ztun/ca"));
    assert_eq!(config.timeouts.connect_response, Duration::from_secs(30));
    assert_eq!(config.same_node, SameNode::Direct);
    assert_eq!(config.tls.key_exchange, KeyExchange::HybridPreferred);
}

#[test]
fn a_host_without_a_name_must_be_given_one() {
    let nameless = ConfigSources {
        hostname: None,
        ..sources()
    };
    let errors = errors(nameless);
    assert!(
        errors[0].starts_with("nodeName is `` (default)"),
        "{errors:?}"
    );
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let mut sources = with_file("trustDomain: file\nclusterId: file\nrootNamespace: file\n");
    sources.environment = with_environment(&[
        ("ZTUN_TRUST_DOMAIN", "environment"),
        ("ZTUN_CLUSTER_ID", "environment"),
    ])
    .environment;
    sources.flags.trust_domain = Some("flag".into());
    let config = Config::load(sources).unwrap();
    assert_eq!(config.trust_domain.as_str(), "flag");
    assert_eq!(&*config.cluster_id, "environment");
    assert_eq!(&*config.root_namespace, "file");
    assert_eq!(&*config.cluster_domain, "cluster.local");
}

#[test]
fn every_source_reaches_nested_settings() {
    let mut by_flag = sources();
    by_flag.flags.settings = vec!["timeouts.tcpConnect=500ms".into()];
    for sources in [
        with_file("timeouts:\n  tcpConnect: 500ms\n"),
        with_environment(&[("ZTUN_TIMEOUTS_TCP_CONNECT", "500ms")]),
        by_flag,
    ] {
        let config = Config::load(sources).unwrap();
        assert_eq!(config.timeouts.tcp_connect, Duration::from_millis(500));
    }
}

#[test]
fn the_ca_directory_moves_with_the_state_directory() {
    let config = Config::load(with_file("stateDirectory: /data\n")).unwrap();
    assert_eq!(config.ca_directory, PathBuf::from("/data/ca"));
}

#[test]
fn the_ca_is_the_embedded_one_unless_it_has_an_address() {
    let config = Config::load(sources()).unwrap();
    assert_eq!(config.ca.address, None);
    let address = "https://istiod.istio-system.svc:15012";
    let config = Config::load(with_environment(&[("ZTUN_CA_ADDRESS", address)])).unwrap();
    assert_eq!(config.ca.address.unwrap().to_string(), address);
}

#[test]
fn a_ca_without_tls_is_an_error() {
    let errors = errors(with_file("ca: {address: \"http://istiod:15010\"}\n"));
    assert_eq!(
        errors,
        [
            "ca.address is `http://istiod:15010` (/etc/ztun.yaml:ca.address): expected nothing, for the embedded CA, or https://HOST:PORT, such as https://istiod.istio-system.svc:15012"
        ]
    );
}

#[test]
fn all_errors_are_told_at_once_with_key_source_and_what_is_allowed() {
    let mut sources = with_file(
        "sameNode: both\ntls: {keyExchange: quantum}\ntimeouts: {drain: 30}\nmetricsAdress: x\nlimits: {connections: 0}\n",
    );
    sources.environment =
        with_environment(&[("ZTUN_LOG_FORMAT", "xml"), ("ZTUN_NODENAME", "x")]).environment;
    sources.flags.mesh_directory = Some("relative".into());
    sources.flags.settings = vec!["timeouts.tls=1s".into(), "nonsense".into()];
    let mut errors = errors(sources);
    errors.sort();
    let expected = [
        "--set nonsense: expected KEY=VALUE",
        "--set timeouts.tls is not a setting",
        "/etc/ztun.yaml:metricsAdress is not a setting: did you mean metricsAddress?",
        "ZTUN_NODENAME is not a setting: did you mean ZTUN_NODE_NAME?",
        "limits.connections is `0` (/etc/ztun.yaml:limits.connections): expected a whole number from 1 on",
        "logFormat is `xml` (ZTUN_LOG_FORMAT): expected `text` or `json`",
        "meshDirectory is `relative` (--mesh-directory): expected an absolute path",
        "sameNode is `both` (/etc/ztun.yaml:sameNode): expected `direct` or `tunnel`",
        "timeouts.drain is `30` (/etc/ztun.yaml:timeouts.drain): expected a time longer than 0 with its unit, such as 500ms, 10s, 5m or 24h",
        "tls.keyExchange is `quantum` (/etc/ztun.yaml:tls.keyExchange): expected `hybrid-preferred`, `hybrid-only` or `classical`",
    ];
    assert_eq!(errors, expected);
}

#[test]
fn a_file_that_is_no_configuration_is_an_error() {
    for text in [
        "- a\n",
        "a: [\n",
        "nodeName: [a]\n",
        "nodeName: a\nnodeName: b\n",
    ] {
        let errors = errors(with_file(text));
        assert!(
            errors[0].starts_with("/etc/ztun.yaml"),
            "{text:?}: {errors:?}"
        );
    }
    let unreadable = ConfigSources {
        file: Some(("/etc/ztun.yaml".into(), Err("permission denied".into()))),
        ..sources()
    };
    assert_eq!(errors(unreadable), ["/etc/ztun.yaml: permission denied"]);
}

#[test]
fn variables_that_kubernetes_makes_of_a_service_named_ztun_are_left_alone() {
    let links = [
        ("ZTUN_SERVICE_HOST", "10.0.0.1"),
        ("ZTUN_METRICS_SERVICE_PORT_HTTP", "15020"),
        ("ZTUN_METRICS_PORT", "tcp://10.0.0.1:15020"),
        ("ZTUN_METRICS_PORT_15020_TCP_ADDR", "10.0.0.1"),
        ("ZTUN_CONFIG", "/etc/ztun.yaml"),
        ("PATH", "/bin"),
    ];
    assert!(Config::load(with_environment(&links)).is_ok());
}

#[test]
fn two_servers_on_one_address_are_an_error() {
    let errors = errors(with_file("metricsAddress: \"[::]:15021\"\n"));
    assert_eq!(
        errors,
        ["metricsAddress and readinessAddress are both [::]:15021: give each its own"]
    );
}

#[test]
fn the_admin_address_is_on_loopback_or_nowhere() {
    let admin = |value: &str| {
        Config::load(with_file(&format!("adminAddress: \"{value}\"\n")))
            .map(|config| config.admin_address)
    };
    let default = Config::load(sources()).unwrap().admin_address;
    assert_eq!(default, Some("127.0.0.1:15000".parse().unwrap()));
    assert_eq!(admin("none"), Ok(None));
    assert_eq!(admin("[::1]:1"), Ok(Some("[::1]:1".parse().unwrap())));
    for value in [
        "0.0.0.0:15000",
        "[::]:15000",
        "192.0.2.1:15000",
        "15000",
        "off",
    ] {
        let errors = admin(value).unwrap_err().0;
        let expected = format!(
            "adminAddress is `{value}` (/etc/ztun.yaml:adminAddress): expected `none` or an address and port on loopback, such as 127.0.0.1:15000"
        );
        assert_eq!(errors, [expected]);
    }
}

#[test]
fn the_effective_configuration_is_printed_in_the_form_that_is_read() {
    let config = Config::load(with_file(
        "timeouts: {drain: 90s}\nlimits: {connections: 7}\nadminAddress: none\nca: {address: \"https://ca:15012\"}\ntls: {keyExchange: hybrid-only}\n",
    ))
    .unwrap();
    let printed = serde_norway::to_string(&config).unwrap();
    assert!(printed.contains("drain: 90s"), "{printed}");
    assert!(printed.contains("certificateLifetime: 24h"), "{printed}");
    assert_eq!(Config::load(with_file(&printed)).unwrap(), config);
}

#[test]
fn durations_have_a_unit_and_are_not_nothing() {
    for (text, milliseconds) in [
        ("500ms", 500),
        ("10s", 10_000),
        ("5m", 300_000),
        ("1h", 3_600_000),
    ] {
        assert_eq!(
            value::duration(text),
            Ok(Duration::from_millis(milliseconds))
        );
    }
    for text in [
        "",
        "10",
        "s",
        "0s",
        "-1s",
        "1.5s",
        "10 s",
        "1d",
        "99999999999999999999s",
        "18446744073709551615h",
    ] {
        assert!(value::duration(text).is_err(), "{text}");
    }
}

#[test]
fn flags_are_parsed_from_a_command_line() {
    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        flags: ConfigFlags,
    }
    let arguments = [
        "ztun",
        "--node-name",
        "n",
        "--set",
        "sameNode=tunnel",
        "--set",
        "dataThreads=2",
    ];
    let parsed: CommandLine = clap::Parser::parse_from(arguments);
    let config = Config::load(ConfigSources {
        flags: parsed.flags,
        ..sources()
    })
    .unwrap();
    assert_eq!(
        (&*config.node_name, config.same_node),
        ("n", SameNode::Tunnel)
    );
    assert_eq!(config.data_threads.get(), 2);
}

#[test]
fn what_is_trusted_may_be_left_out_and_must_be_absolute_otherwise() {
    let config = Config::load(sources()).unwrap();
    assert_eq!(config.trust, TrustSettings::default());
    assert!(config.trust_domain_aliases.is_empty());
    let config = Config::load(with_file(
        "trustDomainAliases: former.example, cluster.local\ntrust:\n  crlFile: /etc/ztun/crl.pem\n",
    ));
    let config = config.unwrap();
    assert_eq!(config.trust.crls, Some("/etc/ztun/crl.pem".into()));
    let aliases: Vec<_> = config
        .trust_domain_aliases
        .iter()
        .map(TrustDomain::as_str)
        .collect();
    assert_eq!(aliases, ["former.example", "cluster.local"]);
    let errors = errors(with_file(
        "trustDomainAliases: a,B\ntrust:\n  rootsFile: roots.pem\n",
    ));
    assert!(
        errors[0].contains("trust domains with commas between them"),
        "{errors:?}"
    );
    assert!(
        errors[1].contains("trust.rootsFile is `roots.pem`"),
        "{errors:?}"
    );
}
