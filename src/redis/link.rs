//! One connection for all who ask: made with the first command, made anew when it is gone, and never waited for long.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError,
    ScriptInvocation, TlsCertificates, TlsMode,
    aio::MultiplexedConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    clock,
    engine::ports::Unavailable,
    telemetry::{FleetMetrics, MemoryCall},
};

/// After a connection could not be made nobody tries again for so long: what comes meanwhile is told at once.
const PAUSE: Duration = Duration::from_millis(500);

/// Where the memory is.
#[derive(Debug, Clone)]
pub struct Address {
    /// `redis://` or `rediss://`, with user, password and database. Behind Sentinel its host is not used.
    pub url: SecretString,
    /// Asked who the primary is; none: the URL names it.
    pub sentinel: Option<Sentinel>,
    /// How the other end proves itself, and we ourselves.
    pub tls: Tls,
}

/// The nodes that know which server is the primary.
#[derive(Debug, Clone)]
pub struct Sentinel {
    /// The primary's name there.
    pub master: String,
    /// Where they are.
    pub nodes: Vec<Node>,
    /// Our user there; none: their default one.
    pub user: Option<String>,
    /// Its password; none: they ask for none.
    pub password: Option<SecretString>,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Certificates, in PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authorities to believe; none: the system's.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate and its key.
    pub identity: Option<(Vec<u8>, SecretString)>,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a URL that this home speaks.
    #[error("the address of Redis cannot be used: {0}")]
    Address(String),
    /// Its certificates cannot be used.
    #[error("the certificates for Redis cannot be used: {0}")]
    Certificates(String),
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its version.
    pub version: String,
    /// What it does when it is full: anything but `noeviction` makes it forget at will. None when we may not ask.
    pub eviction: Option<String>,
    /// Replicas that follow it now.
    pub replicas: u32,
    /// It takes writes only while replicas follow it closely: without that, a primary that was replaced may go on for a
    /// while beside the new one.
    pub needs_replicas: bool,
}

#[derive(Debug)]
pub(super) struct Link {
    source: tokio::sync::Mutex<Source>,
    config: AsyncConnectionConfig,
    patience: Duration,
    place: String,
    state: Mutex<State>,
    metrics: FleetMetrics,
}

enum Source {
    Single(Client),
    /// With the primary's name there.
    Sentinel(SentinelClient, String),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Single",
            Self::Sentinel(..) => "Sentinel",
        })
    }
}

#[derive(Debug, Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Grows with every connection, so that only a failure of the present one drops it.
    number: u64,
    failed: Option<(Instant, Unavailable)>,
}

fn down(why: impl Into<String>) -> Unavailable {
    Unavailable { what: "memory", why: why.into() }
}

/// Does the server's refusal bear this code? Within a script an older server puts its own code before the command's.
fn says(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code) || error.to_string().split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == code)
}

/// How a script's missing right is worded, by Redis 7.0, and by Redis 8 and Valkey 9: it has no code of its own.
const NO_RIGHT: [&str; 2] = ["The user executing the script can't", "ACL failure in script"];

/// Refusals of a server that cannot keep what we write: another may be the primary by now.
const LEFT: [&str; 4] = ["READONLY", "MASTERDOWN", "NOREPLICAS", "LOADING"];

/// The server is gone, mute, or cannot keep what we write: it is left, and counts as not answering.
fn is_gone(error: &RedisError) -> bool {
    error.is_connection_dropped()
        || error.is_io_error()
        || error.is_timeout()
        || LEFT.into_iter().any(|code| says(error, code))
}

/// What a person can do about a refusal, by its code.
const HINTS: [(&str, &str); 5] = [
    ("NOPERM", "the user of the memory lacks a right"),
    ("OOM", "the memory is full: raise its maxmemory"),
    ("MISCONF", "the memory cannot save to its disk, and takes no writes until it can"),
    ("NOREPLICAS", "the memory has lost its replicas, and takes no writes until one is back"),
    ("READONLY", "this server is a replica, not the primary"),
];

/// What Redis said, in words. The crate's errors name hosts and commands, never a password.
fn told(error: &RedisError) -> Unavailable {
    let hint = if error.kind() == ErrorKind::AuthenticationFailed {
        Some("user or password of the memory is refused")
    } else if NO_RIGHT.iter().any(|words| error.to_string().contains(words)) {
        Some("the user of the memory lacks a right")
    } else {
        HINTS.into_iter().find(|(code, _)| says(error, code)).map(|(_, hint)| hint)
    };
    down(match hint {
        Some(hint) => format!("Redis: {error}; {hint}"),
        None => format!("Redis: {error}"),
    })
}

/// What a Sentinel said: its users and passwords are not those of the memory.
fn by_sentinel(error: &RedisError) -> Unavailable {
    let hint = if error.kind() == ErrorKind::AuthenticationFailed || says(error, "NOAUTH") {
        "; see redis.sentinel_user and redis.sentinel_password"
    } else {
        ""
    };
    down(format!("Sentinel: {error}{hint}"))
}

impl Address {
    /// Host and port, or the Sentinels; never user or password.
    fn place(&self) -> String {
        if let Some(sentinel) = &self.sentinel {
            return format!("Sentinel's {}", sentinel.master);
        }
        let info = self.url.expose_secret().into_connection_info();
        info.map_or_else(|_| "an address that cannot be used".to_owned(), |info| info.addr().to_string())
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        let Tls { ca, identity } = &self.tls;
        if ca.is_none() && identity.is_none() {
            return None;
        }
        let client_tls = identity.as_ref().map(|(certificate, key)| redis::ClientTlsConfig {
            client_cert: certificate.clone(),
            client_key: key.expose_secret().as_bytes().to_vec(),
        });
        Some(TlsCertificates { client_tls, root_cert: ca.clone() })
    }

    fn source(&self) -> Result<Source, Error> {
        let wrong = |error: RedisError| Error::Address(error.to_string());
        let info = self.url.expose_secret().into_connection_info().map_err(wrong)?;
        let tcp = TcpSettings::default().set_nodelay(true);
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let certificates = self.certificates();
        if certificates.is_some() && !is_tls {
            return Err(Error::Certificates("the address is not rediss://".to_owned()));
        }
        let Some(sentinel) = &self.sentinel else {
            let info = info.set_tcp_settings(tcp);
            let client = match certificates {
                Some(certificates) => Client::build_with_tls(info, certificates)
                    .map_err(|error| Error::Certificates(error.to_string()))?,
                None => Client::open(info).map_err(wrong)?,
            };
            return Ok(Source::Single(client));
        };
        let nodes = sentinel.nodes.iter().map(|node| {
            if is_tls {
                let (host, port) = (node.host.clone(), node.port);
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(node.host.clone(), node.port)
            }
        });
        let mut builder =
            SentinelClientBuilder::new(nodes, &sentinel.master, SentinelServerType::Master).map_err(wrong)?;
        builder = builder.set_client_to_redis_tcp_settings(tcp.clone()).set_client_to_sentinel_tcp_settings(tcp);
        builder = builder.set_client_to_redis_db(info.redis_settings().db());
        if let Some(user) = info.redis_settings().username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = info.redis_settings().password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(user) = &sentinel.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &sentinel.password {
            builder = builder.set_client_to_sentinel_password(password.expose_secret());
        }
        if is_tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            builder = builder.set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = certificates {
            builder = builder.set_client_to_redis_certificates(certificates.clone());
            builder = builder.set_client_to_sentinel_certificates(certificates);
        }
        builder.build().map(|client| Source::Sentinel(client, sentinel.master.clone())).map_err(wrong)
    }
}

impl Link {
    pub(super) fn new(
        address: &Address,
        (connect, response): (Duration, Duration),
        metrics: FleetMetrics,
    ) -> Result<Self, Error> {
        // The crate's own default is 500 ms, too little for a server that saves or fails over.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(Some(response))
            .set_concurrency_limit(4_096);
        Ok(Self {
            source: tokio::sync::Mutex::new(address.source()?),
            config,
            place: address.place(),
            patience: connect.saturating_add(response),
            state: Mutex::default(),
            metrics,
        })
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    fn present(&self) -> Result<Option<(u64, MultiplexedConnection)>, Unavailable> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &state.connection {
            return Ok(Some((state.number, connection.clone())));
        }
        match &state.failed {
            Some((at, why)) if clock::monotonic().saturating_duration_since(*at) < PAUSE => Err(why.clone()),
            Some(_) | None => Ok(None),
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), Unavailable> {
        if let Some(present) = self.present()? {
            return Ok(present);
        }
        let mut source = self.source.lock().await;
        // Whoever came first has made one, or has failed a moment ago.
        if let Some(present) = self.present()? {
            return Ok(present);
        }
        // Boxed: rare, and by far the largest future of every call that may have to wait for it.
        let made = tokio::time::timeout(self.patience, Box::pin(connect(&mut source, &self.config))).await;
        let made = made.unwrap_or_else(|_| Err(down("no connection in time")));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(connection) => {
                state.number += 1;
                state.connection = Some(connection.clone());
                state.failed = None;
                Ok((state.number, connection))
            }
            Err(why) => {
                state.failed = Some((clock::monotonic(), why.clone()));
                Err(why)
            }
        }
    }

    fn drop_connection(&self, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.number == number {
            state.connection = None;
        }
    }

    /// Runs a script. Not repeated when its answer is lost: it may have written.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        name: &'static str,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, Unavailable> {
        let begun = clock::monotonic();
        let (number, mut connection) = self.connection_for(name, begun).await?;
        let answer = call.invoke_async(&mut connection).await;
        self.counted(name, begun, number, answer)
    }

    async fn connection_for(
        &self,
        name: &'static str,
        begun: Instant,
    ) -> Result<(u64, MultiplexedConnection), Unavailable> {
        let connection = self.connection().await;
        connection.inspect_err(|_| self.metrics.memory_call(name, MemoryCall::Gone, begun.elapsed()))
    }

    /// Counts what came of a call, and leaves a server that is gone.
    fn counted<T>(
        &self,
        name: &'static str,
        begun: Instant,
        number: u64,
        answer: Result<T, RedisError>,
    ) -> Result<T, Unavailable> {
        let outcome = match &answer {
            Ok(_) => MemoryCall::Ok,
            Err(error) if is_gone(error) => MemoryCall::Gone,
            Err(_) => MemoryCall::Refused,
        };
        self.metrics.memory_call(name, outcome, begun.elapsed());
        answer.map_err(|error| self.failed(number, &error))
    }

    /// Runs a command.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        let begun = clock::monotonic();
        let (number, mut connection) = self.connection_for("command", begun).await?;
        let answer = command.query_async(&mut connection).await;
        self.counted("command", begun, number, answer)
    }

    /// As [`Self::query`]; none when our user may not ask this.
    pub(super) async fn try_query<T: FromRedisValue>(&self, command: &Cmd) -> Result<Option<T>, Unavailable> {
        let (number, mut connection) = self.connection().await?;
        match command.query_async(&mut connection).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if says(&error, "NOPERM") => Ok(None),
            Err(error) => Err(self.failed(number, &error)),
        }
    }

    /// Does the server refuse this for a missing right? Refused for anything else it was allowed.
    pub(super) async fn forbids(&self, command: &Cmd) -> Result<bool, Unavailable> {
        let (number, mut connection) = self.connection().await?;
        match command.query_async::<redis::Value>(&mut connection).await {
            Err(error) if says(&error, "NOPERM") => Ok(true),
            Err(error) if error.is_connection_dropped() || error.is_io_error() || error.is_timeout() => {
                Err(self.failed(number, &error))
            }
            Ok(_) | Err(_) => Ok(false),
        }
    }

    /// What a Sentinel says of the primary; none where there are no Sentinels.
    pub(super) async fn ask_sentinel(&self) -> Result<Option<BTreeMap<String, String>>, Unavailable> {
        let mut source = self.source.lock().await;
        let Source::Sentinel(sentinel, master) = &mut *source else { return Ok(None) };
        let asked = async {
            let client = sentinel.async_get_sentinel_client().await?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&self.config).await?;
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("MASTER").arg(master.as_str());
            ask.query_async(&mut connection).await
        };
        let answer = tokio::time::timeout(self.patience, Box::pin(asked)).await;
        match answer {
            Ok(answer) => answer.map(Some).map_err(|error| by_sentinel(&error)),
            Err(_) => Err(down("no Sentinel answered in time")),
        }
    }

    /// A server that refuses what we asked stays; one that is gone, mute, or no longer the primary is left.
    fn failed(&self, number: u64, error: &RedisError) -> Unavailable {
        if is_gone(error) {
            self.drop_connection(number);
        }
        told(error)
    }

    pub(super) async fn server(&self) -> Result<Server, Unavailable> {
        let mut info = redis::cmd("INFO");
        info.arg("server").arg("replication").arg("memory");
        let text: String = self.query(&info).await?;
        let number = |name| field(&text, name).and_then(|value| value.parse().ok()).unwrap_or(0);
        Ok(Server {
            version: field(&text, "valkey_version").or_else(|| field(&text, "redis_version")).unwrap_or_default(),
            eviction: field(&text, "maxmemory_policy"),
            replicas: number("connected_slaves"),
            // Told only while `min-replicas-to-write` and `min-replicas-max-lag` are set.
            needs_replicas: field(&text, "min_slaves_good_slaves").is_some(),
        })
    }
}

/// A value of `INFO`.
pub(super) fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| Some(line.trim_end().strip_prefix(name)?.strip_prefix(':')?.to_owned()))
}

async fn connect(source: &mut Source, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, Unavailable> {
    let client = match source {
        Source::Single(client) => client.clone(),
        Source::Sentinel(sentinel, _) => sentinel.async_get_client().await.map_err(|error| by_sentinel(&error))?,
    };
    let mut connection =
        client.get_multiplexed_async_connection_with_config(config).await.map_err(|error| told(&error))?;
    let mut info = redis::cmd("INFO");
    info.arg("server").arg("replication");
    let text: String = info.query_async(&mut connection).await.map_err(|error| told(&error))?;
    if field(&text, "redis_mode").or_else(|| field(&text, "server_mode")).is_some_and(|mode| mode == "cluster") {
        return Err(down("this is Redis Cluster, which is not supported: use a single server or Sentinel"));
    }
    if field(&text, "role").is_some_and(|role| role != "master") {
        return Err(down("this server is a replica, not the primary"));
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_by_its_whole_name() {
        let info = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n";
        assert_eq!(field(info, "redis_version").as_deref(), Some("7.0.15"));
        assert_eq!(field(info, "redis"), None);
    }

    #[test]
    fn an_address_that_cannot_be_used_says_why_and_never_its_password() {
        let address = |url: &str, tls| Address { url: url.into(), sentinel: None, tls };
        for (url, tls) in [
            ("http://user:hunter2@localhost", Tls::default()),
            ("redis://user:hunter2@localhost", Tls { ca: Some(b"x".to_vec()), identity: None }),
            ("rediss://user:hunter2@localhost", Tls { ca: Some(b"-----BEGIN X".to_vec()), identity: None }),
        ] {
            let error = address(url, tls).source().map(|_| ()).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
