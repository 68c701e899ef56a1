//! Where settings come from, and which of them counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
};

use clap::Args;
use serde_json::Value;

use super::value::Expected;
use crate::{
    nearest::nearest,
    source::document::{self, Document},
};

const PREFIX: &str = "ZTUN_";
/// Read by clap: the file that holds the rest.
const CONFIG_VARIABLE: &str = "ZTUN_CONFIG";
const CONFIG_FILE_LIMIT: u64 = 1 << 20;

/// The daemon's flags; what is read from them is checked together with everything else.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigFlags {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    pub config: Option<PathBuf>,
    /// Name of this node, as pods' spec.nodeName has it [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Trust domain of the mesh's identities [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub trust_domain: Option<String>,
    /// Directory of Kubernetes YAML that describes the mesh [default: /etc/ztun/mesh]
    #[arg(long, value_name = "DIRECTORY")]
    pub mesh_directory: Option<String>,
    /// CA to ask for certificates, https://HOST:PORT [default: the embedded CA]
    #[arg(long, value_name = "URL")]
    pub ca_address: Option<String>,
    /// Directory of the embedded CA's root [default: ca in the state directory]
    #[arg(long, value_name = "DIRECTORY")]
    pub ca_directory: Option<String>,
    /// Directory of the daemon's own state [default: /var/lib/ztun]
    #[arg(long, value_name = "DIRECTORY")]
    pub state_directory: Option<String>,
    /// Unix socket for the command line and the CNI plugin [default: /run/ztun/ztun.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// Directory on a bpffs for pinned kernel state [default: /sys/fs/bpf/ztun]
    #[arg(long, value_name = "DIRECTORY")]
    pub bpf_directory: Option<String>,
    /// Log format: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log filter, such as `info,ztun::proxy=debug` [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_filter: Option<String>,
    /// Any other setting, such as timeouts.tcpConnect=5s; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// All that a configuration is made of; nothing else is looked at.
#[derive(Clone, Debug)]
pub struct ConfigSources {
    pub flags: ConfigFlags,
    pub environment: BTreeMap<String, String>,
    /// The file's path and its text, or why it can't be read.
    pub file: Option<(PathBuf, Result<String, String>)>,
    pub hostname: Option<String>,
    pub cores: usize,
}

impl ConfigSources {
    /// Of this process.
    pub fn of_process(flags: ConfigFlags) -> Self {
        let file = flags.config.clone().map(|path| {
            let text = read_file(&path);
            (path, text)
        });
        let hostname = nix::unistd::gethostname().ok();
        Self {
            flags,
            environment: env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            file,
            hostname: hostname.and_then(|name| name.into_string().ok()),
            cores: thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > CONFIG_FILE_LIMIT {
        return Err(format!("larger than {} MiB", CONFIG_FILE_LIMIT >> 20));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// A value and where it was given, such as `/etc/ztun.yaml:timeouts.drain`.
#[derive(Debug)]
struct Given {
    value: String,
    origin: String,
}

/// Hands out settings one by one and collects what is wrong with them.
#[derive(Debug)]
pub(super) struct Reader {
    /// By key, from the strongest source to the weakest.
    flags: BTreeMap<String, Given>,
    environment: BTreeMap<String, Given>,
    file: BTreeMap<String, Given>,
    known: BTreeSet<&'static str>,
    errors: Vec<String>,
}

impl Reader {
    pub(super) fn new(sources: ConfigSources) -> Self {
        let mut reader = Self {
            flags: BTreeMap::new(),
            environment: BTreeMap::new(),
            file: BTreeMap::new(),
            known: BTreeSet::new(),
            errors: Vec::new(),
        };
        reader.add_flags(sources.flags);
        reader.environment = sources
            .environment
            .into_iter()
            .filter(|(variable, _)| variable.starts_with(PREFIX) && variable != CONFIG_VARIABLE)
            .map(|(variable, value)| {
                let origin = variable.clone();
                (variable, Given { value, origin })
            })
            .collect();
        if let Some((path, text)) = sources.file {
            reader.add_file(&path, text);
        }
        reader
    }

    /// The setting `key`; `None` if what is given isn't one, which is then among the errors.
    pub(super) fn setting<T>(
        &mut self,
        key: &'static str,
        default: &str,
        parse: fn(&str) -> Result<T, Expected>,
    ) -> Option<T> {
        self.known.insert(key);
        let given = [
            self.flags.get(key),
            self.environment.get(&variable(key)),
            self.file.get(key),
        ];
        let given = given.into_iter().flatten().next();
        let (value, origin) = match given {
            Some(given) => (given.value.as_str(), given.origin.as_str()),
            None => (default, "default"),
        };
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(expected) => {
                let error = format!("{key} is `{value}` ({origin}): expected {expected}");
                self.errors.push(error);
                None
            }
        }
    }

    pub(super) fn error(&mut self, error: String) {
        self.errors.push(error);
    }

    pub(super) fn check_addresses(&mut self, addresses: &[(&str, SocketAddr)]) {
        for (index, (key, address)) in addresses.iter().enumerate() {
            let same = addresses[..index]
                .iter()
                .find(|(_, other)| other == address);
            // Port 0 is any free one.
            if let Some((other, _)) = same.filter(|_| address.port() != 0) {
                self.error(format!(
                    "{key} and {other} are both {address}: give each its own"
                ));
            }
        }
    }

    /// Everything that was wrong, with what was given and never asked for.
    pub(super) fn finish(mut self) -> Vec<String> {
        for (key, given) in self.flags.iter().chain(&self.file) {
            if !self.known.contains(&**key) {
                let hint = did_you_mean(key, self.known.iter().copied());
                self.errors
                    .push(format!("{} is not a setting{hint}", given.origin));
            }
        }
        let variables: BTreeSet<String> = self.known.iter().map(|key| variable(key)).collect();
        for name in self.environment.keys() {
            if !variables.contains(name) && !is_service_link(name) {
                let hint = did_you_mean(name, variables.iter().map(String::as_str));
                self.errors.push(format!("{name} is not a setting{hint}"));
            }
        }
        self.errors
    }

    fn add_flags(&mut self, flags: ConfigFlags) {
        for setting in flags.settings {
            match setting.split_once('=') {
                Some((key, value)) => self.add_flag(key, value.to_owned(), format!("--set {key}")),
                None => self.error(format!("--set {setting}: expected KEY=VALUE")),
            }
        }
        let own = [
            ("nodeName", "--node-name", flags.node_name),
            ("trustDomain", "--trust-domain", flags.trust_domain),
            ("meshDirectory", "--mesh-directory", flags.mesh_directory),
            ("ca.address", "--ca-address", flags.ca_address),
            ("caDirectory", "--ca-directory", flags.ca_directory),
            ("stateDirectory", "--state-directory", flags.state_directory),
            ("socket", "--socket", flags.socket),
            ("bpfDirectory", "--bpf-directory", flags.bpf_directory),
            ("logFormat", "--log-format", flags.log_format),
            ("logFilter", "--log-filter", flags.log_filter),
        ];
        for (key, flag, value) in own {
            if let Some(value) = value {
                self.add_flag(key, value, flag.to_owned());
            }
        }
    }

    fn add_flag(&mut self, key: &str, value: String, origin: String) {
        let given = Given { value, origin };
        if let Some(earlier) = self.flags.insert(key.to_owned(), given) {
            self.error(format!(
                "{key} is given twice, the first time with {}",
                earlier.origin
            ));
        }
    }

    fn add_file(&mut self, path: &Path, text: Result<String, String>) {
        let value = text.and_then(|text| {
            document::parse_yaml(Document {
                line: 1,
                text: &text,
            })
            .map_err(|error| error.to_string())
        });
        match value {
            Ok(Value::Null) => {}
            Ok(Value::Object(fields)) => {
                for (key, value) in fields {
                    self.add_file_value(path, key, value);
                }
            }
            Ok(_) => self.error(format!("{}: expected `key: value` lines", path.display())),
            Err(error) => self.error(format!("{}: {error}", path.display())),
        }
    }

    fn add_file_value(&mut self, path: &Path, key: String, value: Value) {
        let origin = format!("{}:{key}", path.display());
        let value = match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    self.add_file_value(path, format!("{key}.{field}"), value);
                }
                return;
            }
            // A key without a value keeps its default, as YAML's writers mean it.
            Value::Null => return,
            Value::Array(_) => {
                return self.error(format!("{origin}: expected one value, not a list"));
            }
            Value::String(text) => text,
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => number.to_string(),
        };
        self.file.insert(key, Given { value, origin });
    }
}

/// `timeouts.tcpConnect` → `ZTUN_TIMEOUTS_TCP_CONNECT`.
fn variable(key: &str) -> String {
    let mut name = PREFIX.to_owned();
    for character in key.chars() {
        match character {
            '.' => name.push('_'),
            upper if upper.is_ascii_uppercase() => name.extend(['_', upper]),
            lower => name.push(lower.to_ascii_uppercase()),
        }
    }
    name
}

/// Kubernetes describes a service called `ztun-…` to pods in variables of this form.
fn is_service_link(variable: &str) -> bool {
    variable.contains("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.ends_with("_PORT")
        || variable.contains("_PORT_")
}

fn did_you_mean<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(key, known).map_or_else(String::new, |known| format!(": did you mean {known}?"))
}
