//! The broker of the fleet: jobs, waits, hand-overs, dead letters and events on RabbitMQ.
//!
//! Promises: everything is published persistently and counts only when the broker has confirmed it; a delivery is
//! acknowledged last; whatever goes wrong with a connection ends its session, and the next one is made by one path. Works
//! on 3.10 and later, with quorum queues and no plugin.
//!
//! Left to others: what a message means (`engine/intake.rs`), the order of a step's end (`engine/settle.rs`). Only this
//! folder names `lapin`.

mod arrived;
mod broker;
pub mod canary;
pub mod definitions;
mod follow;
mod lanes;
mod letters;
mod link;
pub mod management;
mod message;
mod names;
mod rights;
mod session;
pub mod topology;
mod visit;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use secrecy::SecretString;
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{self, Shift},
    domain::{job, step::Kind, time::Moment},
    engine::ports::{Completes, Unavailable},
    telemetry::{BrokerSession, FleetMetrics},
};

use self::{
    arrived::Arrived,
    canary::Came,
    lanes::Inboxes,
    names::Source,
    session::{Ears, Session},
};
pub use self::{
    arrived::Delivery,
    follow::{Error as FollowError, Follow},
    letters::Letters,
    message::FORM,
    names::{Lane, Names, job_key},
    visit::Visit,
    window::{Error as LettersError, Shelf},
};

/// How the broker is reached and what is taken from it.
#[derive(Debug, Clone)]
pub struct Options {
    /// `amqp://` or `amqps://`, one for each broker of a cluster.
    pub urls: Vec<SecretString>,
    /// Authorities to believe, in PEM; none: the system's.
    pub ca: Option<String>,
    /// Our own certificate and its key, in PEM.
    pub identity: Option<(String, SecretString)>,
    /// Who the broker takes us for, where the addresses leave that to the certificate.
    pub user: Option<String>,
    /// What every name begins with.
    pub prefix: String,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How often both ends show that they are there.
    pub heartbeat: Duration,
    /// How long a confirmation may take.
    pub confirm_timeout: Duration,
    /// For how long a client publishes again what the broker refuses.
    pub insistence: Duration,
    /// The kinds that may be consumed, and how many of each are worked on at once.
    pub lanes: BTreeMap<Kind, u16>,
    /// The largest job that is read, in bytes.
    pub max_job: usize,
    /// Moves the clock, for tests.
    pub shift: Shift,
    /// Where it is counted what happens here.
    pub metrics: FleetMetrics,
}

/// A session that lived so long was a good one.
const OLD: Duration = Duration::from_secs(60);

/// Sessions that die young are begun at most so far apart, and their jitter, which is at most as much again.
const SESSIONS_APART: Duration = Duration::from_secs(5);

/// The same between two tries to connect to a broker that does not answer.
const KNOCKS_APART: Duration = Duration::from_millis(500);

/// Of what the broker has dead-lettered so much is taken at once: it is rare, and each breaks its worker perhaps.
const DEAD_AT_ONCE: u16 = 1;

impl Default for Options {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            ca: None,
            identity: None,
            user: None,
            prefix: "longshore".to_owned(),
            connect_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(10),
            insistence: Duration::from_secs(5),
            lanes: BTreeMap::new(),
            max_job: job::MOST_BYTES,
            shift: Shift::default(),
            metrics: FleetMetrics::default(),
        }
    }
}

impl Options {
    /// Messages of a lane that the broker may give out ahead: all lanes of a kind together at most twice what is worked on
    /// at once, for the broker's clock for an acknowledgement starts when it gives out.
    fn prefetch(&self, source: Source) -> u16 {
        let Source::Lane(kind, lane) = source else { return DEAD_AT_ONCE };
        let at_once = self.lanes.get(&kind).copied().unwrap_or(1).max(1);
        match lane {
            Lane::Return => at_once,
            Lane::Intake => (at_once / 4 * 3).max(1),
            // Bulk waits behind everything else: a small share, so that it never fills what people wait for.
            Lane::Bulk => (at_once / 4).max(1),
        }
    }
}

/// Canaries that came and were not asked for yet: beyond so many they are not told of.
const CANARIES: usize = 256;

/// What a lane's receiver yields.
type Inbox = mpsc::Receiver<Arrived>;

/// The broker. Cheap to clone: all clones share the connections.
#[derive(Debug, Clone)]
pub struct Rabbit {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    names: Names,
    session: watch::Sender<State>,
    /// The kinds that somebody waits for: consumed from the first [`Rabbit::receive`] to the next [`Rabbit::rest`].
    wanted: watch::Sender<Wanted>,
    inboxes: BTreeMap<Source, Mutex<Inbox>>,
    outlets: Inboxes,
    /// Tickets that rest for less than the shortest class of the delays, with the instants at which they are due.
    resting: BTreeMap<Kind, std::sync::Mutex<Vec<(tokio::time::Instant, Arrived)>>>,
    nobody_rests: std::sync::Mutex<Vec<(tokio::time::Instant, Arrived)>>,
    /// Messages looked for so far.
    received: AtomicU64,
    ears: Ears,
    /// Canaries of the return lanes.
    canaries: Mutex<mpsc::Receiver<Came>>,
    /// Those of all other lanes.
    canaries_of_jobs: Mutex<mpsc::Receiver<Came>>,
}

/// The kinds that are to be consumed, and how often that has changed.
#[derive(Debug, Clone, Default)]
struct Wanted {
    kinds: BTreeSet<Kind>,
    change: u64,
}

#[derive(Debug, Clone)]
enum State {
    Down(String),
    Up(Arc<Session>),
}

impl Rabbit {
    /// A broker that is not connected yet: [`Rabbit::supervise`] connects.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let (mut inboxes, mut outlets) = (BTreeMap::new(), BTreeMap::new());
        let mut sources = if options.lanes.is_empty() { Vec::new() } else { vec![Source::Dead] };
        for kind in options.lanes.keys() {
            sources.extend(Lane::ALL.map(|lane| Source::Lane(*kind, lane)));
        }
        for source in sources {
            let (outlet, inbox) = mpsc::channel(usize::from(options.prefetch(source)));
            inboxes.insert(source, Mutex::new(inbox));
            outlets.insert(source, outlet);
        }
        let resting = options.lanes.keys().map(|kind| (*kind, std::sync::Mutex::default())).collect();
        let names = Names::new(&options.prefix);
        let (session, _) = watch::channel(State::Down("not connected yet".to_owned()));
        let (wanted, _) = watch::channel(Wanted::default());
        let (tickets, canaries) = mpsc::channel(CANARIES);
        let (jobs, canaries_of_jobs) = mpsc::channel(CANARIES);
        let (blocked, _) = watch::channel(false);
        Self {
            inner: Arc::new(Inner {
                options,
                names,
                session,
                wanted,
                inboxes,
                outlets,
                resting,
                nobody_rests: std::sync::Mutex::default(),
                received: AtomicU64::new(0),
                ears: Ears { tickets, jobs, blocked },
                canaries: Mutex::new(canaries),
                canaries_of_jobs: Mutex::new(canaries_of_jobs),
            }),
        }
    }

    /// Keeps the connections: makes them, and makes them anew whenever they end, until `stop` is cancelled.
    pub async fn supervise(&self, stop: &CancellationToken) {
        let ladder = |longest| {
            let rungs = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100));
            rungs.with_max_delay(longest).with_jitter().without_max_times()
        };
        let (backoff, knocking) = (ladder(SESSIONS_APART), ladder(KNOCKS_APART));
        let (mut waits, mut knocks, mut number) = (backoff.build(), knocking.build(), 0_u64);
        while !stop.is_cancelled() {
            number += 1;
            // Everything of a session lives in here and dies with it.
            let mut tasks = JoinSet::new();
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                opened = self.open(&mut tasks) => opened,
            };
            let why = match opened {
                Ok(session) => {
                    tracing::info!(session = number, "connected to the broker");
                    knocks = knocking.build();
                    let opened_at = clock::monotonic();
                    self.inner.options.metrics.session(BrokerSession::Opened);
                    self.inner.session.send_replace(State::Up(Arc::clone(&session)));
                    let ended = tokio::select! {
                        biased;
                        () = stop.cancelled() => None,
                        why = self.attend(&session, &mut tasks) => Some(why),
                    };
                    // A session that dies young is no reason to hurry: each costs what it was given a delivery.
                    if clock::monotonic().saturating_duration_since(opened_at) >= OLD {
                        waits = backoff.build();
                    }
                    let Some(why) = ended else {
                        self.inner.options.metrics.hung_up();
                        session.close().await;
                        self.inner.session.send_replace(State::Down("closed".to_owned()));
                        return;
                    };
                    self.inner.options.metrics.session(BrokerSession::Lost);
                    why
                }
                Err(why) => {
                    self.inner.options.metrics.session(BrokerSession::Failed);
                    why
                }
            };
            tracing::warn!(session = number, why, "no connection to the broker; connecting again");
            let before = self.inner.session.send_replace(State::Down(why));
            tasks.shutdown().await;
            let wait = match &before {
                State::Up(_) => waits.next().unwrap_or(SESSIONS_APART),
                // A broker that is away gives out nothing: to knock costs it nothing, and to come late keeps jobs waiting.
                State::Down(_) => knocks.next().unwrap_or(KNOCKS_APART),
            };
            let pause = async {
                if let State::Up(session) = before {
                    session.shut().await;
                }
                tokio::time::sleep(wait).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = pause => {}
            }
        }
    }

    async fn open(&self, tasks: &mut JoinSet<()>) -> Result<Arc<Session>, String> {
        let options = &self.inner.options;
        let patience = options.connect_timeout.saturating_mul(3);
        let opened = tokio::time::timeout(patience, Session::open(options, self.inner.ears.clone(), tasks)).await;
        opened.unwrap_or_else(|_| Err(format!("not connected within {} s", patience.as_secs())))
    }

    /// Consumes what is wanted, while the broker is well, until the session is over.
    async fn attend(&self, session: &Arc<Session>, tasks: &mut JoinSet<()>) -> String {
        let Inner { options, names, outlets, ears, .. } = &*self.inner;
        let (mut wanted, mut blocked) = (self.inner.wanted.subscribe(), ears.blocked.subscribe());
        loop {
            let (Wanted { kinds, change }, is_blocked) =
                (wanted.borrow_and_update().clone(), *blocked.borrow_and_update());
            // What cannot be ended must not be begun: nothing is given out while nothing can be published.
            let kinds = if is_blocked { BTreeSet::new() } else { kinds };
            let consuming = session.consume(&kinds, (options, names), outlets, tasks);
            let mut again = None;
            match tokio::time::timeout(options.connect_timeout, consuming).await {
                Ok(Ok(next)) => {
                    again = next;
                    session.heeded.send_replace(change);
                }
                Ok(Err(error)) => session.end(session::told(&error)),
                Err(_) => session.end("the broker did not begin to give out messages in time"),
            }
            let try_again = async {
                match again {
                    Some(again) => tokio::time::sleep_until(again).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                why = session.ended() => return why,
                // The senders live as long as `self`.
                _ = wanted.changed() => {}
                _ = blocked.changed() => {}
                () = try_again => {}
            }
        }
    }

    /// Takes nothing more until somebody receives again, and gives back what nobody has looked at.
    ///
    /// # Errors
    /// [`Unavailable`]: what could not be given back comes again when the connection ends.
    pub async fn rest(&self, complete: &Completes<'_>) -> Result<(), Unavailable> {
        let mut change = 0;
        self.inner.wanted.send_modify(|wanted| {
            wanted.kinds.clear();
            wanted.change += 1;
            change = wanted.change;
        });
        // What lies here from an older session would keep out what the present one has been given.
        let mut waiting = self.empty_inboxes().await;
        let patience = self.inner.options.confirm_timeout;
        if let Ok(session) = self.session()
            && tokio::time::timeout(patience, session.is_at_rest(change)).await.is_err()
        {
            return Err(session::down("the broker did not stop giving out messages in time"));
        }
        waiting.extend(self.empty_inboxes().await);
        for resting in self.inner.resting.values() {
            let mut resting = resting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            waiting.extend(resting.drain(..).map(|(_, arrived)| arrived));
        }
        // All are on their way before the first is confirmed, and one that cannot be given back keeps none of the others.
        let given = waiting.into_iter().map(|arrived| self.give_back(arrived, complete));
        futures_util::future::join_all(given).await.into_iter().collect()
    }

    async fn empty_inboxes(&self) -> Vec<Arrived> {
        let mut found = Vec::new();
        for inbox in self.inner.inboxes.values() {
            let mut inbox = inbox.lock().await;
            while let Ok(arrived) = inbox.try_recv() {
                found.push(arrived);
            }
        }
        found
    }

    fn want(&self, kind: Kind) {
        self.inner.wanted.send_if_modified(|wanted| {
            let is_new = wanted.kinds.insert(kind);
            wanted.change += u64::from(is_new);
            is_new
        });
    }

    /// Is the broker there, does it accept messages, and is every lane consumed that should be?
    ///
    /// # Errors
    /// [`Unavailable`] says why not.
    pub fn is_ready(&self) -> Result<(), Unavailable> {
        let session = self.session()?;
        if session.is_blocked() {
            return Err(session::down("memory or disk alarm"));
        }
        session.fault().map_or(Ok(()), |why| Err(session::down(why)))
    }

    /// Waits until the broker is there.
    pub async fn ready(&self) {
        let mut state = self.inner.session.subscribe();
        // The sender lives as long as `self`.
        drop(state.wait_for(|state| matches!(state, State::Up(_))).await);
    }

    /// Waits until the broker is there, but not for ever.
    ///
    /// # Errors
    /// [`Unavailable`] says what went wrong last.
    pub async fn ready_within(&self, longest: Duration) -> Result<(), Unavailable> {
        if tokio::time::timeout(longest, self.ready()).await.is_ok() {
            return Ok(());
        }
        self.session().map(|_| ())
    }

    /// Waits until the connections are gone.
    pub async fn gone(&self) {
        let mut state = self.inner.session.subscribe();
        drop(state.wait_for(|state| matches!(state, State::Down(_))).await);
    }

    fn session(&self) -> Result<Arc<Session>, Unavailable> {
        match &*self.inner.session.borrow() {
            State::Up(session) if !session.is_over() => Ok(Arc::clone(session)),
            State::Up(_) => Err(session::down("the connection went down")),
            State::Down(why) => Err(session::down(why.clone())),
        }
    }

    /// The clock that a `due` is compared with.
    fn now(&self) -> Moment {
        Moment::from_millis(clock::moment().as_millis().saturating_add(self.inner.options.shift.millis()))
    }

    /// Where the broker is, for people; never a password.
    #[must_use]
    pub fn address(&self) -> String {
        link::address(&self.inner.options)
    }

    /// The broker's user of these connections, where it is known.
    #[must_use]
    pub fn user(&self) -> Option<String> {
        self.inner.options.user()
    }

    /// The virtual host there.
    #[must_use]
    pub fn vhost(&self) -> Option<String> {
        self.inner.options.vhost()
    }

    /// Names below the configured prefix.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.inner.names
    }
}
