//! The only place that builds adapters: from a configuration to a home, a service, packages and a worker over them.

pub mod canary;
mod clock;
pub mod desk;
pub mod drawer;
pub mod fleet;
pub mod identity;
pub mod keys;
pub mod packages;
pub mod service;
pub mod settings;
mod spool;
pub mod views;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

pub use self::fleet::Fleet;
use self::{
    identity::{Counted, Shelf},
    keys::KeyError,
    packages::Packages,
    service::Service,
    spool::Spool,
};
use crate::{
    config::{Loaded, ServersError},
    domain::{failure::Failure, ids::JobKey, step::Kind},
    embedded::{self, Embedded},
    engine::{
        self, drain, ports,
        tally::{Cause, Found, Happened, Sighted},
        worker,
    },
    http,
    identity::{Cache, SystemClock, TokenEndpoint},
    partner_center::hardware,
    rabbitmq, redis,
    telemetry::{ClaimOutcome, Health, LookOutcome, Metrics, WaitCause},
};

/// Why the parts cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The home's file.
    #[error(transparent)]
    Home(#[from] embedded::Error),
    /// The sealing keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The HTTP client.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The client for sources.
    #[error("{0}")]
    Sources(Failure),
    /// The metrics' registry.
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
    /// The fleet's servers are not known.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// The memory's address.
    #[error("home.store: {0}")]
    Redis(#[from] redis::Error),
    /// A reference gives nothing.
    #[error(transparent)]
    Reference(#[from] crate::config::SecretError),
    /// A certificate of the servers cannot be read.
    #[error("{key}: {path} cannot be read: {source}")]
    Certificate {
        /// The setting.
        key: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not known who we are at the broker.
    #[error("{0}")]
    User(String),
    /// The broker's management API.
    #[error(transparent)]
    Management(#[from] rabbitmq::management::Error),
    /// What was asked for needs the fleet's servers.
    #[error("home.broker and home.store name no servers: this is for a fleet")]
    NotFleet,
    /// What was asked for needs the embedded home.
    #[error("this needs the embedded home, and home.broker names a server")]
    NotEmbedded,
}

/// What every process is built from, whatever its home.
#[derive(Debug)]
pub struct Parts {
    /// The configuration.
    pub loaded: Loaded,
    /// The service.
    pub service: Arc<Service>,
    /// Packages.
    pub packages: Arc<Packages>,
    /// What is counted.
    pub metrics: Metrics,
    /// What its probes say once it is a worker.
    pub health: Health,
}

impl Parts {
    /// Builds every adapter but the home, its tokens on this shelf. Calls nobody.
    fn new(loaded: Loaded, shelf: Shelf, metrics: Metrics) -> Result<Self, Error> {
        let told = Arc::new(loaded.settings.clone());
        let client = http::client(&settings::http(&told))?;
        let endpoint = TokenEndpoint::new(client.clone(), told.identity.response_timeout);
        let endpoint = endpoint.with(settings::identity(&told));
        let endpoint = Counted::new(endpoint, metrics.clone());
        let tokens = Cache::new(shelf, endpoint, SystemClock::default(), keys::keyring(&loaded)?);
        let tokens = tokens.with(settings::identity(&told));
        let api = hardware::Client::new(told.endpoints.hardware.url(), client, told.http.response_timeout)?;
        let api = api.with_largest_answer(settings::largest_answer(&told));
        let service = Arc::new(Service::new(Arc::clone(&told), tokens, api, metrics.clone()));
        let spool = Spool::new(loaded.data_dir().join("spool"));
        let packages = Packages::new(&told, keys::keyring(&loaded)?, spool, metrics.clone());
        let packages = Arc::new(packages.map_err(Error::Sources)?);
        Ok(Self { loaded, service, packages, metrics, health: Health::default() })
    }

    fn crew<H: ports::Home>(
        &self,
        (home, id): (Arc<H>, u128),
        kinds: &BTreeSet<Kind>,
        engine: engine::settings::Settings,
    ) -> Crew<H> {
        self.packages.sweep_spools();
        // Nobody waits for the lanes of other kinds.
        Kind::ALL.into_iter().filter(|kind| !kinds.contains(kind)).for_each(|kind| self.health.lane_ended(kind));
        let outside = Outside {
            home: Arc::clone(&home),
            service: Arc::clone(&self.service),
            packages: Arc::clone(&self.packages),
            clock: clock::Clock,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
        };
        let told = &self.loaded.settings;
        let worker = worker::Worker::new(Arc::new(outside), Arc::new(engine), id);
        let concurrency = usize::try_from(told.worker.concurrency).unwrap_or(1);
        let lanes = kinds.iter().map(|kind| drain::Lane { kind: *kind, concurrency }).collect();
        Crew { home, worker: Arc::new(worker), lanes, drain: told.worker.drain }
    }
}

/// Everything one process on the embedded home is built from.
#[derive(Debug)]
pub struct App {
    /// All but the home.
    parts: Parts,
    /// The home, for who submits, shows and decides.
    pub home: Embedded,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl App {
    /// Opens the home and builds every adapter. Calls nobody.
    ///
    /// # Errors
    /// [`Error`] names the file, setting or reference.
    pub fn open(loaded: Loaded) -> Result<Self, Error> {
        if loaded.settings.is_fleet() {
            return Err(Error::NotEmbedded);
        }
        let home = Embedded::open(settings::home(&loaded))?;
        let metrics = Metrics::new().map_err(|error| Error::Metrics(error.to_string()))?;
        let parts = Parts::new(loaded, Shelf::new(home.clone()), metrics)?;
        Ok(Self { parts, home })
    }

    /// Makes this process a worker for these kinds.
    ///
    /// # Errors
    /// [`Error::Home`] when its lock cannot be made.
    pub fn worker(&self, kinds: &BTreeSet<Kind>) -> Result<Crew<embedded::Worker>, Error> {
        Ok(self.crew(self.home.worker()?, kinds))
    }

    /// The same for these jobs only, beside other workers of the home.
    ///
    /// # Errors
    /// As [`App::worker`].
    pub fn worker_of(&self, jobs: &BTreeSet<JobKey>) -> Result<Crew<embedded::Worker>, Error> {
        Ok(self.crew(self.home.worker_of(jobs)?, &BTreeSet::from(Kind::ALL)))
    }

    fn crew(&self, home: embedded::Worker, kinds: &BTreeSet<Kind>) -> Crew<embedded::Worker> {
        let id = home.id();
        self.parts.crew((Arc::new(home), id), kinds, settings::engine(&self.loaded.settings))
    }
}

/// A worker and its lanes, not yet at work.
pub struct Crew<H: ports::Home> {
    /// The home, as a worker has it.
    pub home: Arc<H>,
    worker: Arc<worker::Worker<Outside<H>>>,
    lanes: Vec<drain::Lane>,
    drain: Duration,
}

impl<H: ports::Home> std::fmt::Debug for Crew<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// How a worker's run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything under way was finished.
    Drained,
    /// The time for it was up, or a second signal came: what was under way goes on elsewhere.
    CutShort,
}

impl<H: ports::Home> Crew<H> {
    /// Works until `stop` is cancelled, then finishes what is under way, within the configured time or until `now`.
    pub async fn run(&self, stop: &CancellationToken, now: &CancellationToken) -> Ended {
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(self.drain).await;
        };
        tokio::select! {
            biased;
            () = drain::run(Arc::clone(&self.worker), &self.lanes, stop) => Ended::Drained,
            () = now.cancelled() => Ended::CutShort,
            () = overdue => Ended::CutShort,
        }
    }
}

/// A home, with the real service and real packages.
#[derive(Debug)]
struct Outside<H> {
    home: Arc<H>,
    service: Arc<Service>,
    packages: Arc<Packages>,
    clock: clock::Clock,
    metrics: Metrics,
    health: Health,
}

impl<H: ports::Home> ports::Ports for Outside<H> {
    type Home = H;
    type Service = Service;
    type Packages = Packages;
    type Clock = clock::Clock;

    fn home(&self) -> &H {
        &self.home
    }

    fn service(&self) -> &Service {
        &self.service
    }

    fn packages(&self) -> &Packages {
        &self.packages
    }

    fn clock(&self) -> &clock::Clock {
        &self.clock
    }

    fn note(&self, happened: Happened) {
        let metrics = &self.metrics;
        match happened {
            Happened::Turn { lane, is_well } => self.health.turned(lane, is_well),
            Happened::LaneEnded { lane } => self.health.lane_ended(lane),
            Happened::StepDone(step) => metrics.step_done(step),
            Happened::JobEnded(kind, end) => metrics.job_ended(kind, end),
            Happened::Refused(class) => metrics.refused(class),
            Happened::Parked => metrics.ticket_parked(),
            Happened::Waits(cause) => metrics.waits(match cause {
                Cause::Busy => WaitCause::Busy,
                Cause::Permit => WaitCause::Permit,
                Cause::Gate => WaitCause::Gate,
                Cause::Turn => WaitCause::Turn,
                Cause::Look => WaitCause::Look,
                Cause::NextTurn => WaitCause::NextTurn,
                Cause::Account => WaitCause::Account,
                Cause::SignIn => WaitCause::SignIn,
                Cause::MemoryDown => WaitCause::MemoryDown,
            }),
            Happened::Claimed(found) => metrics.claimed(match found {
                Found::Taken => ClaimOutcome::Taken,
                Found::Stale => ClaimOutcome::Stale,
                Found::Busy => ClaimOutcome::Busy,
                Found::Ended => ClaimOutcome::Ended,
                Found::OtherContent => ClaimOutcome::OtherContent,
            }),
            Happened::Suspect => metrics.claimed_suspect(),
            Happened::TakenOver => metrics.taken_over(),
            Happened::Stuck(step) => metrics.stuck(step),
            Happened::Announced(events) => metrics.events_published(events),
            Happened::Looked(sighted) => metrics.look(match sighted {
                Sighted::Found => LookOutcome::Found,
                Sighted::Absent => LookOutcome::Absent,
                Sighted::Undecided => LookOutcome::Undecided,
            }),
        }
    }
}
