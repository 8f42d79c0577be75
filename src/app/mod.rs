//! The only place that builds adapters: from a configuration to a home, a service, packages and a worker over them.

mod clock;
pub mod desk;
pub mod identity;
pub mod keys;
pub mod packages;
pub mod service;
pub mod settings;
mod spool;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::{
    identity::{Counted, Shelf},
    keys::KeyError,
    packages::Packages,
    service::Service,
    spool::Spool,
};
use crate::{
    config::{Loaded, Place},
    domain::{failure::Failure, ids::JobKey, step::Kind},
    embedded::{self, Embedded},
    engine::{
        drain, ports,
        tally::{Happened, Sighted},
        worker,
    },
    http,
    identity::{Cache, SystemClock, TokenEndpoint},
    partner_center::hardware,
    telemetry::{Health, LookOutcome, Metrics},
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
    /// A home that this version cannot speak to.
    #[error("{0} names a server, and this version works with the embedded home only; set it to \"embedded\"")]
    NotEmbedded(&'static str),
}

/// Everything one process is built from.
#[derive(Debug)]
pub struct App {
    /// The configuration.
    pub loaded: Loaded,
    /// The home, for who submits, shows and decides.
    pub home: Embedded,
    /// The service.
    pub service: Arc<Service>,
    /// Packages.
    pub packages: Arc<Packages>,
    /// What is counted.
    pub metrics: Metrics,
    /// What its probes say once it is a worker.
    pub health: Health,
}

impl App {
    /// Opens the home and builds every adapter. Calls nobody.
    ///
    /// # Errors
    /// [`Error`] names the file, setting or reference.
    pub fn open(loaded: Loaded) -> Result<Self, Error> {
        let told = Arc::new(loaded.settings.clone());
        for (key, place) in [("home.broker", &told.home.broker), ("home.store", &told.home.store)] {
            match place {
                Place::Embedded => {}
                Place::Server(_) => return Err(Error::NotEmbedded(key)),
            }
        }
        let home = Embedded::open(settings::home(&loaded))?;
        let metrics = Metrics::new().map_err(|error| Error::Metrics(error.to_string()))?;
        let client = http::client(&settings::http(&told))?;
        let endpoint = TokenEndpoint::new(client.clone(), told.identity.response_timeout);
        let endpoint = endpoint.with(settings::identity(&told));
        let endpoint = Counted::new(endpoint, metrics.clone());
        let tokens = Cache::new(Shelf::new(home.clone()), endpoint, SystemClock::default(), keys::keyring(&loaded)?);
        let tokens = tokens.with(settings::identity(&told));
        let api = hardware::Client::new(told.endpoints.hardware.url(), client, told.http.response_timeout)?;
        let api = api.with_largest_answer(settings::largest_answer(&told));
        let service = Arc::new(Service::new(Arc::clone(&told), tokens, api, metrics.clone()));
        let spool = Spool::new(loaded.data_dir().join("spool"));
        let packages = Packages::new(&told, keys::keyring(&loaded)?, spool, metrics.clone());
        let packages = Arc::new(packages.map_err(Error::Sources)?);
        Ok(Self { loaded, home, service, packages, metrics, health: Health::default() })
    }

    /// Makes this process a worker.
    ///
    /// # Errors
    /// [`Error::Home`] when its lock cannot be made.
    pub fn worker(&self) -> Result<Crew, Error> {
        Ok(self.crew(self.home.worker()?))
    }

    /// The same for these jobs only, beside other workers of the home.
    ///
    /// # Errors
    /// As [`App::worker`].
    pub fn worker_of(&self, jobs: &BTreeSet<JobKey>) -> Result<Crew, Error> {
        Ok(self.crew(self.home.worker_of(jobs)?))
    }

    fn crew(&self, home: embedded::Worker) -> Crew {
        self.packages.sweep_spools();
        let standalone = Standalone {
            home: home.clone(),
            service: Arc::clone(&self.service),
            packages: Arc::clone(&self.packages),
            clock: clock::Clock,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
        };
        let told = &self.loaded.settings;
        let worker = worker::Worker::new(Arc::new(standalone), Arc::new(settings::engine(told)), home.id());
        let concurrency = usize::try_from(told.worker.concurrency).unwrap_or(1);
        let lanes = Kind::ALL.map(|kind| drain::Lane { kind, concurrency }).to_vec();
        Crew { home, worker: Arc::new(worker), lanes, drain: told.worker.drain }
    }
}

/// A worker and its lanes, not yet at work.
pub struct Crew {
    /// The home, as a worker has it.
    pub home: embedded::Worker,
    worker: Arc<worker::Worker<Standalone>>,
    lanes: Vec<drain::Lane>,
    drain: Duration,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("home", &self.home).field("lanes", &self.lanes).finish_non_exhaustive()
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

impl Crew {
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

/// The standalone home with the real service.
#[derive(Debug)]
pub struct Standalone {
    home: embedded::Worker,
    service: Arc<Service>,
    packages: Arc<Packages>,
    clock: clock::Clock,
    metrics: Metrics,
    health: Health,
}

impl ports::Ports for Standalone {
    type Home = embedded::Worker;
    type Service = Service;
    type Packages = Packages;
    type Clock = clock::Clock;

    fn home(&self) -> &embedded::Worker {
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
