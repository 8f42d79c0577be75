//! Broker, memory and service of one seed, held in memory, with every fault drawn from the seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use longshore::{
    domain::{
        claim::{Birth, Epoch},
        event::{End, Event},
        ids::{AccountName, JobKey, ProductId, SubmissionId},
        plan::JobRecord,
        quota::{Bucket, Limits},
        service::{PageLink, Product, SubmissionKind},
        settlement::SetAside,
        step::Kind,
        time::Moment,
    },
    engine::ports::{Origin, TurnKey},
};
use tokio::{sync::Notify, time::Instant};

use crate::chance::Chance;

/// How often each kind of fault strikes; 0 when it is off in this seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mix {
    pub kill: f64,
    pub cut: f64,
    pub loss: f64,
    pub older: f64,
    pub freeze: f64,
    pub lost_answer: f64,
    pub lost_request: f64,
    pub throttle: f64,
    pub failure: f64,
    pub confirm_lost: f64,
    pub memory_answer_lost: f64,
    pub silence: f64,
    pub list_lag_s: u64,
    pub late_arrival_s: u64,
    pub has_created: bool,
    pub starts_unclean: bool,
    pub duplicates: bool,
    pub cancels: bool,
    pub deadlines: bool,
    pub same_names: bool,
    pub marks_products: bool,
    pub budget: u32,
}

impl Mix {
    /// Swarm: each kind is on with p = ½, at ¼, 1, 4 or 12 times its base rate.
    pub fn draw(chance: &mut Chance) -> Self {
        let mut rate = |base: f64| {
            let factor = [0.25, 1.0, 4.0, 12.0][chance.below(4) as usize];
            if chance.happens(0.5) { base * factor } else { 0.0 }
        };
        let mut mix = Self {
            kill: rate(0.003),
            cut: rate(0.003),
            loss: rate(0.0007),
            older: rate(0.0007),
            freeze: rate(0.003),
            lost_answer: rate(0.06),
            lost_request: rate(0.03),
            throttle: rate(0.06),
            failure: rate(0.02),
            confirm_lost: rate(0.01),
            memory_answer_lost: rate(0.004),
            ..Self::default()
        };
        let mut half = || chance.happens(0.5);
        mix.has_created = half();
        mix.duplicates = half();
        mix.cancels = half();
        mix.deadlines = half();
        mix.same_names = half();
        mix.marks_products = half();
        let (lags, late) = (half(), half());
        mix.list_lag_s = if lags { 300 } else { 0 };
        mix.late_arrival_s = if late { 200 } else { 0 };
        mix.starts_unclean = chance.happens(0.25);
        mix.budget = chance.between(1, 24) as u32;
        mix
    }

    /// The memory falls silent in one seed of four, at 1, 4 or 12 times the base rate.
    fn draw_silence(&mut self, chance: &mut Chance) {
        if chance.happens(0.25) {
            self.silence = 0.0007 * [1.0, 4.0, 12.0][chance.below(3) as usize];
        }
    }
}

/// What can happen at a port's edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Nothing,
    Killed,
    Frozen(Duration),
}

#[derive(Debug, Clone)]
pub struct Message {
    pub id: u64,
    pub body: String,
    pub origin: Origin,
    pub lane: Kind,
    pub due: Moment,
    pub is_redelivered: bool,
    pub taken_by: Option<u64>,
}

/// Memory: may vanish, or step back.
#[derive(Debug, Clone, Default)]
pub struct Store {
    pub records: BTreeMap<JobKey, (u64, JobRecord)>,
    pub turns: BTreeMap<TurnKey, (JobKey, Option<Moment>, Moment)>,
    pub owners: BTreeMap<(AccountName, ProductId), JobKey>,
    pub whole: BTreeMap<AccountName, StoredListing>,
    pub under_way: BTreeMap<AccountName, StoredListing>,
    pub buckets: BTreeMap<AccountName, Bucket>,
}

#[derive(Debug, Clone)]
pub struct StoredListing {
    pub started: Moment,
    pub lease: Option<(JobKey, Moment)>,
    pub next: Option<PageLink>,
    pub products: BTreeMap<ProductId, Product>,
    pub is_complete: bool,
    pub failures: u32,
}

#[derive(Debug, Clone)]
pub struct MadeProduct {
    pub product: Product,
    pub by: JobKey,
    pub account: AccountName,
    pub visible_from: Moment,
}

#[derive(Debug, Clone)]
pub struct MadeSubmission {
    pub id: SubmissionId,
    pub product: ProductId,
    pub name: String,
    pub kind: SubmissionKind,
    pub blob: Option<JobKey>,
    pub committed: Option<Moment>,
    pub signed_after: Duration,
    pub visible_from: Moment,
}

/// What the verdict is about.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    pub products: u32,
    pub submissions: u32,
    pub commits: u32,
}

/// What a worker knows of the memory without asking: its life as seen last, and the records that it wrote itself.
#[derive(Debug, Default)]
pub struct Known {
    pub birth: Option<Birth>,
    pub held: BTreeMap<JobKey, (u64, JobRecord)>,
}

pub struct State {
    pub mix: Mix,
    pub order: Chance,
    pub faults: Chance,
    /// Apart from the other faults, so that it does not shift their stream.
    pub silences: Chance,
    /// Until when the memory does not answer this worker, or anybody.
    pub silent: Vec<(Option<u64>, Moment)>,
    /// What a worker keeps of an account's rate: its own bucket, and the last pause that it read itself.
    pub own_rates: BTreeMap<(u64, AccountName), (Bucket, Moment)>,
    pub start: Instant,
    pub messages: BTreeMap<u64, Message>,
    pub next_message: u64,
    pub store: Store,
    pub snapshots: Vec<Store>,
    pub birth: Birth,
    /// What each worker knows of the memory without asking it.
    pub known: BTreeMap<u64, Known>,
    pub next_version: u64,
    pub products: Vec<MadeProduct>,
    pub submissions: Vec<MadeSubmission>,
    pub effects: BTreeMap<JobKey, Effects>,
    pub events: Vec<Event>,
    pub set_aside: Vec<End>,
    pub messages_aside: Vec<SetAside>,
    pub memory_losses: u32,
    pub kills: u32,
    pub struck: u32,
    pub dead: BTreeSet<u64>,
    pub inside: u32,
    /// The queue changed: whoever waits for a message must look again.
    pub has_news: bool,
    pub hash: u64,
    pub is_traced: bool,
    pub trace: Vec<String>,
    pub counts: BTreeMap<&'static str, u32>,
    /// Pauses: of one worker that read the 429 itself, or of all, when the quota was told; from when to when.
    pub pauses: Vec<(Option<u64>, AccountName, Moment, Moment)>,
    /// The job whose package makes whoever reads it panic.
    pub panics_at: Option<JobKey>,
    /// Calls that left in a pause.
    pub early: Vec<String>,
}

/// One seed's world, shared by everything in it.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    pub changed: Arc<Notify>,
    pub killed: Arc<Notify>,
}

/// Faults strike in the first two virtual hours only: else liveness cannot be judged.
const HORIZON: Duration = Duration::from_secs(7_200);
/// How long after the quota was told of a pause a call may still leave (`engine/call.rs`, `FRESH`).
const HEEDED: Duration = Duration::from_millis(500);
const BASE: i64 = 1_700_000_000_000;

impl World {
    /// The world of a seed, with its faults.
    pub fn new(seed: u64, is_traced: bool) -> Self {
        let mut faults = Chance::new(seed, 2);
        let mut silences = Chance::new(seed, 3);
        let mut mix = Mix::draw(&mut faults);
        mix.draw_silence(&mut silences);
        Self::with(seed, is_traced, (faults, silences), mix)
    }

    /// A world in which nothing goes wrong: the port suite's.
    #[allow(dead_code, reason = "the seeds have no use for it")]
    pub fn quiet() -> Self {
        let chances = (Chance::new(0, 2), Chance::new(0, 3));
        Self::with(0, false, chances, Mix { has_created: true, ..Mix::default() })
    }

    fn with(seed: u64, is_traced: bool, (faults, silences): (Chance, Chance), mix: Mix) -> Self {
        let birth = Birth { epoch: Epoch(1), at: Moment::from_millis(BASE), is_clean: !mix.starts_unclean };
        let state = State {
            mix,
            order: Chance::new(seed, 1),
            faults,
            silences,
            silent: Vec::new(),
            own_rates: BTreeMap::new(),
            start: Instant::now(),
            messages: BTreeMap::new(),
            next_message: 1,
            store: Store::default(),
            snapshots: Vec::new(),
            birth,
            known: BTreeMap::new(),
            next_version: 1,
            products: Vec::new(),
            submissions: Vec::new(),
            effects: BTreeMap::new(),
            events: Vec::new(),
            set_aside: Vec::new(),
            messages_aside: Vec::new(),
            memory_losses: 0,
            kills: 0,
            struck: 0,
            dead: BTreeSet::new(),
            inside: 0,
            has_news: false,
            hash: 0xcbf2_9ce4_8422_2325,
            is_traced,
            trace: Vec::new(),
            counts: BTreeMap::new(),
            pauses: Vec::new(),
            panics_at: None,
            early: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        Self { state, changed: Arc::new(Notify::new()), killed: Arc::new(Notify::new()) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn now(&self) -> Moment {
        self.lock().now()
    }

    /// A port's edge: time passes, and a fault may strike whoever stands there.
    pub async fn edge(&self, who: u64, what: &'static str) {
        let (delay, fate, has_news) = {
            let mut state = self.lock();
            let fate = state.fate(who, what);
            let has_news = std::mem::take(&mut state.has_news);
            (Duration::from_millis(state.order.between(1, 40)), fate, has_news)
        };
        if has_news {
            self.changed.notify_waiters();
        }
        match fate {
            Fate::Nothing => {}
            Fate::Killed => {
                self.killed.notify_waiters();
                std::future::pending::<()>().await;
            }
            Fate::Frozen(span) => tokio::time::sleep(span).await,
        }
        tokio::time::sleep(delay).await;
    }
}

impl State {
    pub fn now(&self) -> Moment {
        Moment::from_millis(BASE).after(self.start.elapsed())
    }

    /// Everything that happens goes into one hash: the same seed gives the same hash, everywhere.
    pub fn note(&mut self, what: &str) {
        let at = self.start.elapsed().as_millis() as u64;
        self.mix_in(&at.to_le_bytes());
        self.mix_in(what.as_bytes());
        if self.is_traced {
            self.trace.push(format!("{:>10.3} {what}", at as f64 / 1_000.0));
        }
    }

    fn mix_in(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn strike(&mut self, probability: f64, name: &'static str) -> bool {
        let may = self.struck < self.mix.budget && self.start.elapsed() < HORIZON;
        // The number is drawn either way, so that a budget does not shift the stream.
        let strikes = self.faults.happens(probability) && may;
        if strikes {
            self.struck += 1;
            *self.counts.entry(name).or_default() += 1;
            self.note(&format!("FAULT {name}"));
        }
        strikes
    }

    /// Does the memory leave this worker without an answer? Nothing of what was asked took effect then.
    pub fn is_silent_for(&mut self, who: u64) -> bool {
        let now = self.now();
        let may = self.struck < self.mix.budget && self.start.elapsed() < HORIZON;
        if self.silences.happens(self.mix.silence) && may {
            let whom = self.silences.happens(0.5).then_some(who);
            let span = Duration::from_secs(self.silences.between(2, 900));
            self.struck += 1;
            *self.counts.entry("memory silent").or_default() += 1;
            self.note(&format!("FAULT memory silent for {span:?}, {whom:?}"));
            self.silent.push((whom, now.after(span)));
        }
        self.silent.retain(|(_, until)| *until > now);
        self.silent.iter().any(|(whom, _)| whom.is_none_or(|whom| whom == who))
    }

    /// How often one of these faults struck.
    pub fn struck_by(&self, names: &[&'static str]) -> u32 {
        names.iter().filter_map(|name| self.counts.get(name)).sum()
    }

    fn fate(&mut self, who: u64, what: &str) -> Fate {
        self.mix_in(&who.to_le_bytes());
        self.mix_in(what.as_bytes());
        if self.is_traced {
            self.trace.push(format!("{:>10.3} w{who} {what}", self.start.elapsed().as_secs_f64()));
        }
        let Mix { kill, cut, loss, older, freeze, .. } = self.mix;
        if self.strike(kill, "kill") {
            self.kills += 1;
            self.dead.insert(who);
            self.give_back(who, "killed");
            return Fate::Killed;
        }
        if self.strike(cut, "cut") {
            self.give_back(who, "cut off");
        }
        if self.strike(loss, "memory lost") {
            self.forget();
        }
        if self.strike(older, "older memory") && !self.snapshots.is_empty() {
            let pick = self.faults.below(self.snapshots.len() as u64) as usize;
            self.store = self.snapshots[pick].clone();
            self.reborn();
        }
        // Between permit and begin a worker that stood still may have lost its claim: the holder checks live here.
        let freeze = if what == "permit" { freeze * 6.0 } else { freeze };
        if self.strike(freeze, "frozen") {
            let span = Duration::from_secs(self.faults.between(5, 400));
            if span > Duration::from_secs(60) {
                self.give_back(who, "frozen");
            }
            return Fate::Frozen(span);
        }
        Fate::Nothing
    }

    /// Nothing is remembered.
    pub fn forget(&mut self) {
        self.store = Store::default();
        self.reborn();
    }

    /// The memory begins a new life; what it remembers from before counts as unknown.
    fn reborn(&mut self) {
        self.memory_losses += 1;
        self.birth = Birth { epoch: Epoch(self.birth.epoch.0 + 1), at: self.now(), is_clean: false };
        self.snapshots.clear();
        // What the quota was told may be forgotten with it; what a worker has read itself is not.
        self.pauses.retain(|(who, ..)| who.is_some());
    }

    /// A request leaves. A pause is heeded at once by the worker that read its 429, and within [`HEEDED`] of the quota's
    /// being told by all others.
    pub fn leaves(&mut self, who: u64, account: &AccountName, operation: &str) {
        let now = self.now();
        let is_early = |(of, paused, from, until): &(Option<u64>, AccountName, Moment, Moment)| {
            let from = if of.is_some() { *from } else { from.after(HEEDED) };
            of.is_none_or(|of| of == who) && paused == account && from < now && now < *until
        };
        if let Some((of, _, from, until)) = self.pauses.iter().find(|pause| is_early(pause)) {
            let whose = of.map_or("the quota's", |_| "its own");
            let (since, left) = (now.since(*from), until.since(now));
            self.early.push(format!("w{who} sent {operation} {since:?} into {whose} pause, {left:?} before its end"));
        }
    }

    /// The broker gives a worker's deliveries out again, flagged.
    pub fn give_back(&mut self, who: u64, why: &str) {
        let now = self.now();
        let mut returned = Vec::new();
        for message in self.messages.values_mut().filter(|message| message.taken_by == Some(who)) {
            message.taken_by = None;
            message.is_redelivered = true;
            message.due = now;
            returned.push(message.id);
        }
        for id in returned {
            self.has_news = true;
            self.note(&format!("m{id} given back: w{who} {why}"));
        }
    }

    pub fn publish(&mut self, body: String, origin: Origin, lane: Kind, due: Moment) {
        let id = self.next_message;
        self.next_message += 1;
        self.note(&format!("m{id} published to {lane}, due in {:?}", due.since(self.now())));
        self.has_news = true;
        self.messages.insert(id, Message { id, body, origin, lane, due, is_redelivered: false, taken_by: None });
    }

    pub fn limits() -> Limits {
        Limits { calls_per_minute: 600.0, ..Limits::default() }
    }

    /// A worker's own part of an account's rate, used while the memory is silent, and the pause that it has read itself.
    pub fn own_rate(&mut self, who: u64, account: &AccountName) -> &mut (Bucket, Moment) {
        self.own_rates.entry((who, account.clone())).or_default()
    }

    /// One worker's part of the rate.
    pub fn own_limits() -> Limits {
        Limits { calls_per_minute: Self::limits().calls_per_minute / 3.0, ..Self::limits() }
    }

    /// A copy of the memory as it is now, for a fail-over that brings it back.
    pub fn snapshot(&mut self) {
        if self.order.happens(0.05) {
            if self.snapshots.len() >= 4 {
                self.snapshots.remove(0);
            }
            let copy = self.store.clone();
            self.snapshots.push(copy);
        }
    }
}
