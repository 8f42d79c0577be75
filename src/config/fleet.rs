//! The fleet's two servers and what its workers share: read only where `[home]` names servers.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use config::Value;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    nearest::nearest,
    read::{Reader, Setting, section},
    secret::{SecretError, SecretReference},
    settings::{Place, Settings},
};
use crate::domain::step::Kind;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

section! {
    /// What a fleet's workers share.
    pub struct Fleet {
        /// Most worker processes at once.
        pub max_workers: u32 => 1_u32..=10_000,
    }
}

section! {
    /// Names at broker and memory.
    pub struct Topology {
        /// What every name begins with.
        pub prefix: Prefix,
        /// Kinds whose lanes are declared and worked.
        pub kinds: Vec<Kind>,
        /// The URL of the broker's management API, with user and password.
        pub management_url: Option<SecretReference>,
    }
}

impl Topology {
    /// The kinds without repeats.
    #[must_use]
    pub fn kinds(&self) -> BTreeSet<Kind> {
        self.kinds.iter().copied().collect()
    }
}

section! {
    /// Connections to the broker.
    pub struct RabbitMq {
        /// PEM file with the authorities to believe, in place of the system's.
        pub ca_file: Option<PathBuf>,
        /// Our own certificate, in PEM.
        pub certificate: Option<SecretReference>,
        /// Its key, in PEM (PKCS #8).
        pub key: Option<SecretReference>,
        /// Who the broker takes us for, by our certificate.
        pub user: Option<String>,
        /// Time to connect.
        pub connect_timeout: Duration => secs(1)..=secs(120),
        /// Between two signs of life.
        pub heartbeat: Duration => secs(1)..=secs(600),
        /// Time to a confirmation.
        pub confirm_timeout: Duration => secs(1)..=secs(300),
    }
}

section! {
    /// Connections to the memory.
    pub struct Redis {
        /// PEM file with the authorities to believe, in place of the system's.
        pub ca_file: Option<PathBuf>,
        /// Our own certificate, in PEM.
        pub certificate: Option<SecretReference>,
        /// Its key, in PEM.
        pub key: Option<SecretReference>,
        /// The primary's name at the Sentinels.
        pub sentinel_master: Option<String>,
        /// The Sentinels.
        pub sentinels: Vec<HostPort>,
        /// Our user at the Sentinels; none: their default one.
        pub sentinel_user: Option<String>,
        /// Its password there.
        pub sentinel_password: Option<SecretReference>,
        /// Time to connect.
        pub connect_timeout: Duration => secs(1)..=secs(120),
        /// Time to an answer.
        pub response_timeout: Duration => secs(1)..=secs(120),
    }
}

/// What names of exchanges, queues and keys begin with: `[a-z0-9][a-z0-9-]{0,31}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for Prefix {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, at)?;
        let fits = (1..=32).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            reader.wrong(at, "must be 1 to 32 of a-z, 0-9 and '-', the first no '-'");
            return None;
        }
        Some(Self(text.to_owned()))
    }
}

impl Setting for Kind {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, at)?;
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        if known.is_none() {
            let words = Self::ALL.map(Self::name);
            let hint = nearest(text, words).map(|meant| format!("did you mean {meant:?}?"));
            reader.wrong_with_hint(at, format!("must be one of {words:?}"), hint);
        }
        known
    }
}

/// A host and a port: `redis-1.example.com:26379`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Setting for HostPort {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(value, at)?;
        let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let host_port = split.filter(|(host, port)| !host.is_empty() && *port != 0);
        let Some((host, port)) = host_port else {
            reader.wrong(at, "not a host with a port, like \"redis-1.example.com:26379\"");
            return None;
        };
        Some(Self { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port })
    }
}

/// The URLs of the two servers, with their passwords.
#[derive(Debug, Clone)]
pub struct Servers {
    /// The brokers of a cluster: `amqp(s)://`.
    pub brokers: Vec<SecretString>,
    /// The memory: `redis(s)://`.
    pub store: SecretString,
}

/// Why the fleet's servers are not known.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// A reference gives nothing.
    #[error(transparent)]
    Reference(#[from] SecretError),
    /// What it gives is no URL of that kind. Never holds any part of it.
    #[error("{key}: {reference}: the text there is not {wanted}")]
    NoUrl {
        /// The setting.
        key: &'static str,
        /// Its reference.
        reference: SecretReference,
        /// What it should be.
        wanted: &'static str,
    },
}

impl Settings {
    /// Are broker and memory servers?
    #[must_use]
    pub const fn is_fleet(&self) -> bool {
        matches!(self.home.broker, Place::Server(_))
    }

    /// Fetches the URLs of the servers; none on the embedded home.
    ///
    /// # Errors
    /// [`ServersError`] names the setting and its reference, never what was found there.
    pub fn servers(&self) -> Result<Option<Servers>, ServersError> {
        let (Place::Server(broker), Place::Server(store)) = (&self.home.broker, &self.home.store) else {
            return Ok(None);
        };
        let no_url = |key, reference: &SecretReference, wanted| ServersError::NoUrl {
            key,
            reference: reference.clone(),
            wanted,
        };
        let found = broker.resolve("home.broker")?;
        let words =
            found.expose_secret().split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        let brokers: Vec<SecretString> = words.map(SecretString::from).collect();
        let is_broker = |url: &SecretString| has_scheme(url, &["amqp", "amqps"]);
        if brokers.is_empty() || !brokers.iter().all(is_broker) {
            return Err(no_url("home.broker", broker, "an amqp:// or amqps:// URL, or several separated by commas"));
        }
        let memory = store.resolve("home.store")?;
        if !has_scheme(&memory, &["redis", "rediss"]) {
            return Err(no_url("home.store", store, "a redis:// or rediss:// URL"));
        }
        Ok(Some(Servers { brokers, store: memory }))
    }
}

fn has_scheme(url: &SecretString, schemes: &[&str]) -> bool {
    url::Url::parse(url.expose_secret()).is_ok_and(|url| schemes.contains(&url.scheme()) && url.has_host())
}
