//! All settings, typed.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use config::{Value, ValueKind};
use url::{Host, Url};

use super::{
    accounts::{Account, Limits},
    fleet::{Fleet, RabbitMq, Redis, Topology},
    read::{Described, Reader, Setting, choice, section},
    secret::SecretReference,
    waits::{Gate, Http, Identity, Jobs, Memory, Quota, Retry, Transfer, Waits, Worker},
};
use crate::domain::ids::AccountName;

section! {
    /// Every setting of Longshore. `config/default.toml` documents each with unit, range and reason.
    pub struct Settings {
        /// Where jobs and records live.
        pub home: Home,
        /// What a fleet's workers share.
        pub fleet: Fleet,
        /// Names at broker and memory.
        pub topology: Topology,
        /// Connections to the broker.
        pub rabbitmq: RabbitMq,
        /// Connections to the memory.
        pub redis: Redis,
        /// Who speaks for which seller account.
        pub accounts: BTreeMap<AccountName, Account>,
        /// Sealing keys.
        pub security: Security,
        /// Where packages may come from.
        pub sources: Sources,
        /// Where downloads may go.
        pub sinks: Sinks,
        /// The worker.
        pub worker: Worker,
        /// Jobs.
        pub jobs: Jobs,
        /// What is remembered, and for how long.
        pub memory: Memory,
        /// Names that are found again.
        pub markers: Markers,
        /// Rates of accounts that do not say.
        pub limits: Limits,
        /// How a rate is shared and learned.
        pub quota: Quota,
        /// Repeats of failed attempts.
        pub retry: Retry,
        /// The gate that hours of 5xx close.
        pub gate: Gate,
        /// Waits that are parked.
        pub waits: Waits,
        /// Calls in general.
        pub http: Http,
        /// Sign-in.
        pub identity: Identity,
        /// Upload and download.
        pub transfer: Transfer,
        /// Base URLs.
        pub endpoints: Endpoints,
        /// The sandbox's own settings, which it reads itself.
        pub sandbox: Raw,
        /// What is told.
        pub telemetry: Telemetry,
    }
}

impl Settings {
    /// How long after `begin` a call of unknown fate may still take effect: the response time-out and the time in which
    /// a call must follow its `begin`.
    #[must_use]
    pub fn settling_time(&self) -> std::time::Duration {
        self.http.response_timeout.saturating_add(self.worker.call_within())
    }
}

section! {
    /// Where jobs and records live.
    pub struct Home {
        /// Jobs and their waits.
        pub broker: Place,
        /// Records, quota and tokens.
        pub store: Place,
        /// Folder of the embedded home's file; `None`: the user's data folder. Read it through
        /// [`super::Loaded::data_dir`].
        pub data_dir: Option<PathBuf>,
    }
}

/// Where a part of the home lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In one SQLite file.
    Embedded,
    /// At a server whose URL, with its password, lies at the reference.
    Server(SecretReference),
}

impl Setting for Place {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(&value.kind, ValueKind::String(text) if text == "embedded") {
            return Some(Self::Embedded);
        }
        let text = reader.text(value, at)?;
        if !text.starts_with("env:") && !text.starts_with("file:") {
            let hint = "a URL holds a password: write \"env:NAME\" or \"file:PATH\"".to_owned();
            reader.wrong_with_hint(at, "neither \"embedded\" nor a reference to a URL", Some(hint));
            return None;
        }
        SecretReference::read(value, at, reader).map(Self::Server)
    }
}

section! {
    /// Sealing keys.
    pub struct Security {
        /// Keys that seal tokens and signed URLs; the first seals, all open.
        pub keys: Vec<SecretReference>,
        /// Users of the broker that may name any account.
        pub operators: Vec<String>,
    }
}

section! {
    /// Places that packages may come from.
    pub struct Sources {
        /// Folders below which files may lie; `None`: wherever the user may read.
        pub roots: Option<Vec<PathBuf>>,
        /// Hosts, those below a name as `*.name`.
        pub hosts: Vec<HostPattern>,
    }
}

section! {
    /// Places that downloads may go to.
    pub struct Sinks {
        /// Folders below which files may be written; `None`: wherever the user may write.
        pub roots: Option<Vec<PathBuf>>,
    }
}

/// A host name, or all names below one: `example.com`, `*.example.com`. In lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(String);

impl HostPattern {
    /// The pattern as it was written, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is this host meant?
    #[must_use]
    pub fn meets(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match self.0.strip_prefix('*') {
            Some(end) => host.len() > end.len() && host.ends_with(end),
            None => host == self.0,
        }
    }

    /// Is the host named in full, so that it may be a private address?
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.starts_with('*')
    }
}

impl Setting for HostPattern {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, at)?.to_ascii_lowercase();
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let is_host = Host::parse(name).is_ok_and(|host| host.to_string() == name) && !name.contains('*');
        if !is_host {
            let hint = "write \"host.example.com\" or \"*.example.com\", without scheme, port and path".to_owned();
            reader.wrong_with_hint(at, "not a host", Some(hint));
            return None;
        }
        Some(Self(text))
    }
}

section! {
    /// Eight characters in names that say which job made a thing.
    pub struct Markers {
        /// In the names of submissions and labels.
        pub submissions: bool,
        /// In the names of products.
        pub products: bool,
    }
}

section! {
    /// Base URLs, without a slash at the end.
    pub struct Endpoints {
        /// Token endpoint.
        pub authority: BaseUrl,
        /// Hardware API.
        pub hardware: BaseUrl,
    }
}

/// `https`, or plain `http` to a loopback address; no user, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

/// A proxy: `http` or `https` to any host, no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl(Url);

/// Is this the address of the machine itself: 127.0.0.0/8 or `::1`? Names are not looked up, so none is.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(_)) | None => false,
    }
}

fn base_url(value: &Value, at: &str, reader: &mut Reader<'_>, plain_http: fn(&Url) -> bool) -> Option<Url> {
    let text = reader.text(value, at)?;
    let problem = match Url::parse(text) {
        Err(error) => format!("not a URL: {error}"),
        Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => "not an https URL".to_owned(),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => "holds a user or a password".to_owned(),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => "holds a query or a fragment".to_owned(),
        Ok(url) if url.scheme() == "http" && !plain_http(&url) => {
            "plain http is for loopback addresses only (127.0.0.0/8, ::1)".to_owned()
        }
        Ok(url) => return Some(url),
    };
    reader.wrong(at, problem);
    None
}

macro_rules! url_setting {
    ($name:ident, $plain_http:expr) => {
        impl $name {
            /// The URL.
            #[must_use]
            pub const fn url(&self) -> &Url {
                &self.0
            }

            /// The URL without a slash at its end, so that `/path` can follow.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str().trim_end_matches('/')
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Setting for $name {
            fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
                base_url(value, at, reader, $plain_http).map(Self)
            }
        }
    };
}
url_setting!(BaseUrl, is_loopback);
url_setting!(ProxyUrl, |_| true);

section! {
    /// What is told.
    pub struct Telemetry {
        /// Filter of log lines: a level, or modules with levels.
        pub log: LogFilter,
        /// How a line looks.
        pub format: LogFormat,
    }
}

/// A filter of log lines that has been checked: `info`, `info,longshore::engine=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// A filter from its text; none when it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        tracing_subscriber::EnvFilter::builder().parse(text).ok().map(|_| Self(text.to_owned()))
    }

    /// The filter's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for LogFilter {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, at)?;
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(text) {
            reader.wrong(at, format!("not a filter: {error}"));
            return None;
        }
        Some(Self(text.to_owned()))
    }
}

choice! {
    /// How a log line looks.
    pub enum LogFormat {
        /// Human on a terminal, JSON otherwise.
        Auto = "auto",
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

/// A table that its owner reads itself; empty when no layer names it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Raw(pub toml::Table);

impl Setting for Raw {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(toml::Value::Table(table)) = raw(value) {
            return Some(Self(table));
        }
        reader.wrong(at, "must be a table");
        None
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }

    fn describe(_: &str, _: &mut Vec<Described>) {}
}

/// The value as TOML has it; `None` for what TOML cannot say.
pub(crate) fn raw(value: &Value) -> Option<toml::Value> {
    Some(match &value.kind {
        ValueKind::Nil | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => return None,
        ValueKind::Boolean(is) => toml::Value::Boolean(*is),
        ValueKind::I64(number) => toml::Value::Integer(*number),
        ValueKind::Float(number) => toml::Value::Float(*number),
        ValueKind::String(text) => toml::Value::String(text.clone()),
        ValueKind::Array(values) => toml::Value::Array(values.iter().map(raw).collect::<Option<_>>()?),
        ValueKind::Table(table) => toml::Value::Table(
            table.iter().map(|(key, value)| raw(value).map(|value| (key.clone(), value))).collect::<Option<_>>()?,
        ),
    })
}
