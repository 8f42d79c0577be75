//! A process of the fleet: broker and memory are servers, shared with every other worker.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::{Crew, Error, Parts, canary, identity::Shelf, settings};
use crate::{
    config::{Loaded, SecretReference, Servers, Settings},
    domain::step::Kind,
    engine::{admission::Producers, ports::Unavailable},
    fleet::Fleet as Home,
    rabbitmq::{self, Rabbit, management::Management, topology},
    redis::{self, Address, Sentinel, Store, Tls},
    telemetry::{FleetMetrics, Metrics},
};

/// Everything one process of the fleet is built from.
#[derive(Debug)]
pub struct Fleet {
    parts: Parts,
    home: Arc<Home>,
    kinds: BTreeSet<Kind>,
    /// What the last canaries found wrong.
    trouble: Mutex<Option<String>>,
}

impl std::ops::Deref for Fleet {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Fleet {
    /// Builds every adapter for work on these kinds, none for those of the configuration; connects to nobody.
    ///
    /// # Errors
    /// [`Error`] names the setting or reference.
    pub fn new(loaded: Loaded, only: &BTreeSet<Kind>) -> Result<Self, Error> {
        let servers = servers(&loaded.settings)?;
        let told = &loaded.settings;
        let kinds = if only.is_empty() { kinds(told) } else { only.clone() };
        let at_once = u16::try_from(told.worker.concurrency).unwrap_or(u16::MAX);
        let lanes = kinds.iter().map(|kind| (*kind, at_once)).collect();
        let metrics = Metrics::of_fleet().map_err(|error| Error::Metrics(error.to_string()))?;
        let broker = rabbitmq::Options { lanes, metrics: metrics.fleet().clone(), ..broker(told, &servers)? };
        let broker = Rabbit::new(broker);
        let memory = memory(told, &servers, metrics.fleet().clone())?;
        let parts = Parts::new(loaded, Shelf::fleet(memory.clone()), metrics)?;
        Ok(Self { parts, home: Arc::new(Home::new(broker, memory)), kinds, trouble: Mutex::default() })
    }

    /// The same for who hands in and looks: takes no jobs.
    ///
    /// # Errors
    /// As [`Fleet::new`].
    pub fn client(loaded: Loaded) -> Result<Self, Error> {
        let (broker, memory) = office(&loaded)?;
        // Nobody scrapes who hands in and looks.
        let metrics = Metrics::new().map_err(|error| Error::Metrics(error.to_string()))?;
        let parts = Parts::new(loaded, Shelf::fleet(memory.clone()), metrics)?;
        Ok(Self { parts, home: Arc::new(Home::new(broker, memory)), kinds: BTreeSet::new(), trouble: Mutex::default() })
    }

    /// Does this while the broker is connected.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot be reached.
    pub async fn connected<T>(&self, work: impl AsyncFnOnce(&Self) -> T) -> Result<T, Unavailable> {
        let hang_up = CancellationToken::new();
        let patience = self.loaded.settings.rabbitmq.connect_timeout.saturating_mul(2);
        let work = async {
            let done = match self.broker().ready_within(patience).await {
                Ok(()) => Ok(work(self).await),
                Err(down) => Err(down),
            };
            hang_up.cancel();
            done
        };
        futures_util::future::join(work, self.supervise(&hang_up)).await.0
    }

    pub(super) fn home(&self) -> Arc<Home> {
        Arc::clone(&self.home)
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Rabbit {
        self.home.broker()
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Store {
        self.home.memory()
    }

    /// The user that we are at the broker.
    #[must_use]
    pub fn user(&self) -> Option<String> {
        self.broker().user()
    }

    /// Makes this process a worker.
    #[must_use]
    pub fn worker(&self) -> Crew<Home> {
        let mut engine = settings::engine(&self.loaded.settings);
        if let Producers::Listed { operators, .. } = &mut engine.admission.producers {
            operators.extend(self.home.broker().user());
        }
        self.parts.crew((Arc::clone(&self.home), self.home.id()), &self.kinds, engine)
    }

    /// Where the home is, for people; never a password.
    #[must_use]
    pub fn place(&self) -> String {
        let names = self.home.broker().names();
        format!("{} at {} and {}", names.prefix(), self.home.broker().address(), self.home.memory().address())
    }

    /// Keeps the connections to the broker until `stop` is cancelled.
    pub async fn supervise(&self, stop: &CancellationToken) {
        self.home.broker().supervise(stop).await;
    }

    /// Proves the ways to this worker's return lanes, again and again until they are proven, and notes every canary that
    /// comes here. It never ends.
    pub async fn canaries(&self) {
        let (broker, memory) = (self.home.broker(), self.home.memory());
        let prove = canary::prove_until_well(broker, memory, &self.kinds, |trouble| {
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        });
        futures_util::future::join(canary::note_all(broker, memory), prove).await;
    }

    /// Do both servers answer, does the broker accept messages, and did no canary get lost?
    ///
    /// # Errors
    /// [`Unavailable`] names the one that does not.
    pub async fn pulse(&self) -> Result<(), Unavailable> {
        self.home.broker().is_ready()?;
        if let Some(why) = self.check_memory().await? {
            return Err(Unavailable { what: "memory", why });
        }
        match &*self.trouble.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(Unavailable { what: "topology", why: why.clone() }),
            None => Ok(()),
        }
    }

    /// What is refused before any work: a memory that forgets at will.
    ///
    /// # Errors
    /// The words for a person; [`Unavailable`] when it does not answer, which is no reason to refuse.
    pub async fn check_memory(&self) -> Result<Option<String>, Unavailable> {
        Ok(evicts(&self.home.memory().server().await?))
    }
}

/// Why a memory that forgets at will is of no use; none when it does not.
fn evicts(server: &redis::Server) -> Option<String> {
    let policy = server.eviction.as_ref().filter(|policy| *policy != "noeviction")?;
    Some(format!("Redis evicts keys when it is full (maxmemory-policy {policy}): set it to noeviction"))
}

/// The broker and the memory of a configuration, for who provisions and looks; takes no jobs.
///
/// # Errors
/// [`Error`] names the setting or reference.
pub fn office(loaded: &Loaded) -> Result<(Rabbit, Store), Error> {
    let servers = servers(&loaded.settings)?;
    Ok((Rabbit::new(broker(&loaded.settings, &servers)?), memory(&loaded.settings, &servers, FleetMetrics::default())?))
}

/// The broker's management API, for who compares.
///
/// # Errors
/// [`Error`] names the setting or reference.
pub fn management(loaded: &Loaded, broker: &Rabbit, reference: &SecretReference) -> Result<Management, Error> {
    let told = &loaded.settings;
    let url = reference.resolve("topology.management_url")?;
    let vhost = broker.vhost().filter(|vhost| !vhost.is_empty()).unwrap_or_else(|| "/".to_owned());
    let mut options = settings::http(told);
    // It stands beside the broker, and shows the same authority's certificate.
    options.ca_file = told.rabbitmq.ca_file.clone().or(options.ca_file);
    Ok(Management::new(&url, &vhost, &options)?)
}

fn servers(told: &Settings) -> Result<Servers, Error> {
    told.servers()?.ok_or(Error::NotFleet)
}

/// The kinds that are worked, with those that they hand over to.
#[must_use]
pub fn kinds(told: &Settings) -> BTreeSet<Kind> {
    topology::with_hand_overs(&told.topology.kinds())
}

fn broker(told: &Settings, servers: &Servers) -> Result<rabbitmq::Options, Error> {
    let rabbitmq = &told.rabbitmq;
    let identity = identity("rabbitmq", rabbitmq.certificate.as_ref(), rabbitmq.key.as_ref())?;
    let options = rabbitmq::Options {
        urls: servers.brokers.clone(),
        ca: authorities("rabbitmq.ca_file", rabbitmq.ca_file.as_ref())?,
        identity: identity.map(|(certificate, key)| (certificate.expose_secret().to_owned(), key)),
        user: rabbitmq.user.clone(),
        prefix: told.topology.prefix.as_str().to_owned(),
        max_job: settings::engine(told).admission.max_size,
        connect_timeout: rabbitmq.connect_timeout,
        heartbeat: rabbitmq.heartbeat,
        confirm_timeout: rabbitmq.confirm_timeout,
        ..rabbitmq::Options::default()
    };
    options.check_user().map_err(Error::User)?;
    Ok(options)
}

fn memory(told: &Settings, servers: &Servers, metrics: FleetMetrics) -> Result<Store, Error> {
    let redis = &told.redis;
    let identity = identity("redis", redis.certificate.as_ref(), redis.key.as_ref())?;
    let nodes = redis.sentinels.iter().map(|at| redis::Node { host: at.host.clone(), port: at.port });
    let password = redis.sentinel_password.as_ref();
    let password = password.map(|reference| reference.resolve("redis.sentinel_password")).transpose()?;
    let address = Address {
        url: servers.store.clone(),
        sentinel: redis.sentinel_master.clone().map(|master| Sentinel {
            master,
            nodes: nodes.collect(),
            user: redis.sentinel_user.clone(),
            password,
        }),
        tls: Tls {
            ca: authorities("redis.ca_file", redis.ca_file.as_ref())?.map(String::into_bytes),
            identity: identity.map(|(certificate, key)| (certificate.expose_secret().as_bytes().to_vec(), key)),
        },
    };
    Ok(Store::new(&address, redis::Options { metrics, ..settings::memory(told) })?)
}

fn authorities(key: &'static str, file: Option<&PathBuf>) -> Result<Option<String>, Error> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path).map_err(|source| Error::Certificate { key, path: path.display().to_string(), source })
    };
    file.map(read).transpose()
}

fn identity(
    section: &str,
    certificate: Option<&SecretReference>,
    key: Option<&SecretReference>,
) -> Result<Option<(SecretString, SecretString)>, Error> {
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    let certificate = certificate.resolve(&format!("{section}.certificate"))?;
    Ok(Some((certificate, key.resolve(&format!("{section}.key"))?)))
}
