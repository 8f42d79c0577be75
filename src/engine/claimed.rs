//! A taken place: what a handler knows, and what it may do while its claim stands.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    gates::Gates,
    intake::Taken,
    ports::{Clock, Memory, Ports, Service, Swapped, TurnKey, Turns, Unavailable},
    settings::Settings,
    tally::Cause,
};
use crate::domain::{
    claim::{self, Claimant, Denied, Loaded, Outcome},
    event::End,
    failure::Failure,
    ids::{JobKey, RequestId},
    plan::JobRecord,
    step::Step,
    ticket::{StepResult, Ticket},
    time::Moment,
};

/// Why a handler goes no further with its step.
#[derive(Debug)]
pub(super) enum Stop {
    /// Not before this instant: the same place is parked.
    Wait { until: Moment, why: Waiting },
    /// A call failed.
    Failed(Failure),
    /// Another claim has the job.
    NotHolder,
    /// The home does not answer.
    Down(Unavailable),
    /// The handler panicked.
    Panicked,
}

/// What a parked ticket waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The account's rate.
    Permit,
    /// A pause that the service asked for, or its failures.
    Gate,
    /// Another job's turn.
    Turn,
    /// A listing that another reads.
    Listing,
    /// The next look, or the pause of a lost record.
    Look,
    /// The handler's next turn.
    NextTurn,
    /// An account that is not configured yet.
    Account,
    /// Sign-in: what happened, what to do next, and, when a person must change something, when it was refused.
    SignIn { message: String, next: String, refused_at: Option<Moment> },
}

impl Waiting {
    /// For whoever counts.
    pub(super) const fn cause(&self) -> Cause {
        match self {
            Self::Permit => Cause::Permit,
            Self::Gate => Cause::Gate,
            Self::Turn | Self::Listing => Cause::Turn,
            Self::Look => Cause::Look,
            Self::NextTurn => Cause::NextTurn,
            Self::Account => Cause::Account,
            Self::SignIn { .. } => Cause::SignIn,
        }
    }
}

impl From<Unavailable> for Stop {
    fn from(down: Unavailable) -> Self {
        Self::Down(down)
    }
}

/// A ticket whose place is this handler's.
pub(super) struct Claimed<'a, P: Ports> {
    pub(super) ports: &'a P,
    pub(super) settings: &'a Settings,
    pub(super) gates: &'a Gates,
    /// The ticket as it was received, its work and its step.
    pub(super) taken: Taken,
    /// Account and id together.
    pub(super) key: JobKey,
    pub(super) claimant: Claimant,
    /// The record as it was claimed.
    pub(super) record: JobRecord,
    pub(super) is_poison: bool,
    /// The memory's clock at the claim, and ours.
    anchor: (Moment, Duration),
    is_lost: AtomicBool,
    renewed_ms: AtomicU64,
    gate_ms: AtomicI64,
    has_begun: AtomicBool,
    has_had_permit: AtomicBool,
    stopped: Mutex<Option<Stop>>,
    spent_turns: Mutex<Vec<TurnKey>>,
    /// The stamps of the turns that this handler took: it gives back no turn that bears another one.
    stamps: Mutex<BTreeMap<TurnKey, Moment>>,
}

impl<'a, P: Ports> Claimed<'a, P> {
    pub(super) fn new(
        (ports, settings, gates): (&'a P, &'a Settings, &'a Gates),
        mut taken: Taken,
        claimant: Claimant,
        (record, is_poison): (JobRecord, bool),
        anchor: (Moment, Duration),
    ) -> Self {
        if ports.service().knows(&taken.ticket.job.account) {
            // Somebody does know the account: what others did not know no longer counts.
            taken.ticket.progress.unknown_since = None;
        }
        let renewed_ms = AtomicU64::new(millis(anchor.1));
        let key = taken.ticket.key();
        Self {
            ports,
            settings,
            gates,
            taken,
            key,
            claimant,
            record,
            is_poison,
            anchor,
            is_lost: AtomicBool::new(false),
            renewed_ms,
            gate_ms: AtomicI64::new(i64::MIN),
            has_begun: AtomicBool::new(false),
            has_had_permit: AtomicBool::new(false),
            stopped: Mutex::new(None),
            spent_turns: Mutex::new(Vec::new()),
            stamps: Mutex::new(BTreeMap::new()),
        }
    }

    pub(super) fn note_permit(&self) {
        self.has_had_permit.store(true, Ordering::Relaxed);
    }

    /// Has this handler called already?
    pub(super) fn has_had_permit(&self) -> bool {
        self.has_had_permit.load(Ordering::Relaxed)
    }

    /// Keeps why a transfer could not get what it asked its handler for: a wait must not count as the transfer's failure.
    pub(super) fn note_stop(&self, stop: Stop) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
    }

    /// How a transfer's failure is to be understood.
    pub(super) fn transfer_stop(&self, failure: Failure) -> Stop {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(Stop::Failed(failure))
    }

    /// Notes a turn that is over once the step's result is recorded.
    pub(super) fn spend_turn(&self, turn: TurnKey) {
        self.spent_turns.lock().unwrap_or_else(PoisonError::into_inner).push(turn);
    }

    /// Notes with which stamp a turn was taken, or which one it bears now.
    pub(super) fn note_stamp(&self, turn: &TurnKey, begun_at: Option<Moment>) {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        match begun_at {
            Some(at) => stamps.insert(turn.clone(), at),
            None => stamps.remove(turn),
        };
    }

    /// The stamp of a turn, as far as this handler knows.
    pub(super) fn stamp(&self, turn: &TurnKey) -> Option<Moment> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner).get(turn).copied()
    }

    /// After the settlement: gives back the turns of a step whose result is recorded.
    pub(super) async fn end_spent_turns(&self) {
        let turns = std::mem::take(&mut *self.spent_turns.lock().unwrap_or_else(PoisonError::into_inner));
        self.give_turns_back(&turns).await;
    }

    /// Has this handler begun a write? Only then does a failure speak of it: a look's own failure proves nothing.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// A failure of this handler closed the account's gate, or met it closed.
    pub(super) fn note_gate(&self, closed_until: Option<Moment>) {
        if let Some(until) = closed_until {
            self.gate_ms.store(until.as_millis(), Ordering::Relaxed);
        }
    }

    /// Until when the gate is closed that a failure of this handler closed.
    pub(super) fn gate(&self) -> Option<Moment> {
        let until = self.gate_ms.load(Ordering::Relaxed);
        (until != i64::MIN).then(|| Moment::from_millis(until))
    }

    pub(super) fn ticket(&self) -> &Ticket {
        &self.taken.ticket
    }

    pub(super) fn step(&self) -> Step {
        self.taken.step
    }

    /// The memory's clock, as far as we can tell without asking.
    pub(super) fn now(&self) -> Moment {
        self.anchor.0.after(self.ports.clock().boot_time().saturating_sub(self.anchor.1))
    }

    /// Time since the claim.
    fn age(&self) -> Duration {
        self.ports.clock().boot_time().saturating_sub(self.anchor.1)
    }

    /// Is it time to stop at the next border?
    pub(super) fn is_out_of_time(&self) -> bool {
        self.age() >= self.settings.handler.0 || !self.may_call()
    }

    /// Can it wait until then and still be within its time?
    pub(super) fn has_time_until(&self, until: Moment) -> bool {
        self.may_call() && self.age().saturating_add(until.since(self.now())) < self.settings.handler.0
    }

    /// A handler that lost its claim, or could not renew it for two thirds of its lease, makes no further call.
    pub(super) fn may_call(&self) -> bool {
        let lease = self.settings.claim.lease;
        let renewed = Duration::from_millis(self.renewed_ms.load(Ordering::Relaxed));
        let since = self.ports.clock().boot_time().saturating_sub(renewed);
        !self.is_lost.load(Ordering::Relaxed) && since < lease * 2 / 3
    }

    /// `MS-RequestId`: one per (job, step, try).
    pub(super) fn request_id(&self) -> RequestId {
        RequestId(self.key.uuid(&["request", &self.ticket().place.to_string()]))
    }

    /// Marks the step's write as begun. Returns the instant of the mark on the memory's clock, and on ours.
    pub(super) async fn begin(&self, turn: Option<&TurnKey>) -> Result<Begun, Stop> {
        let boot = self.ports.clock().boot_time();
        let mut loaded = self.ports.home().load(&self.key).await?;
        for _ in 0..SWAPS {
            let record = match claim::begin(&loaded, self.claimant, &self.settings.claim) {
                Ok(record) => record,
                Err(Denied::NotHolder) => return Err(self.lost()),
                Err(Denied::InDoubt) => {
                    let until = loaded.now.after(self.settings.parks.product_turn);
                    return Err(Stop::Wait { until, why: Waiting::Look });
                }
            };
            // ORDER: the turn is stamped with begin's own instant right before begin (docs/protocol.md, "Adoption").
            if let Some(turn) = turn {
                if !self.ports.home().stamp_turn(turn, &self.key, loaded.now).await? {
                    return Err(Stop::Wait { until: loaded.now, why: Waiting::Turn });
                }
                self.note_stamp(turn, Some(loaded.now));
            }
            match self.ports.home().swap(&self.key, loaded.birth.epoch, loaded.version, &record).await? {
                Swapped::Done => {
                    self.has_begun.store(true, Ordering::Relaxed);
                    self.renewed_ms.store(millis(boot), Ordering::Relaxed);
                    return Ok(Begun { boot });
                }
                Swapped::Refused(present) => loaded = *present,
            }
        }
        Err(Stop::Down(contended()))
    }

    /// Did so much time pass since `begin` that the call must be dropped?
    ///
    /// A worker that was stopped in between may no longer be the one who decides: after a sixth of the lease it lets the
    /// call be. The clock counts suspended time.
    pub(super) fn is_too_late(&self, begun: Begun) -> bool {
        self.ports.clock().boot_time().saturating_sub(begun.boot) > self.settings.claim.lease / 6
    }

    /// Writes down what was shown, before the step goes on.
    pub(super) async fn record(&self, outcome: &Outcome<StepResult>) -> Result<JobRecord, Stop> {
        self.swap(|loaded| claim::record(loaded, self.claimant, outcome.clone())).await
    }

    /// Does the claim still hold, by the memory's word?
    pub(super) async fn still_holds(&self) -> bool {
        self.may_call() && self.swap(|loaded| claim::renew(loaded, self.claimant, &self.settings.claim)).await.is_ok()
    }

    /// Renews the lease for as long as it is polled; ends only when the claim is lost.
    pub(super) async fn keep(&self) {
        let third = self.settings.claim.lease / 3;
        loop {
            self.ports.clock().sleep(third).await;
            let boot = self.ports.clock().boot_time();
            match self.swap(|loaded| claim::renew(loaded, self.claimant, &self.settings.claim)).await {
                Ok(_) => self.renewed_ms.store(millis(boot), Ordering::Relaxed),
                Err(Stop::NotHolder) => return,
                Err(Stop::Wait { .. } | Stop::Failed(_) | Stop::Down(_) | Stop::Panicked) => {}
            }
        }
    }

    async fn swap(
        &self,
        decide: impl Fn(&Loaded<StepResult, End>) -> Result<JobRecord, Denied>,
    ) -> Result<JobRecord, Stop> {
        let mut loaded = self.ports.home().load(&self.key).await?;
        for _ in 0..SWAPS {
            let record = decide(&loaded).map_err(|_| self.lost())?;
            match self.ports.home().swap(&self.key, loaded.birth.epoch, loaded.version, &record).await? {
                Swapped::Done => return Ok(record),
                Swapped::Refused(present) => loaded = *present,
            }
        }
        Err(Stop::Down(contended()))
    }

    fn lost(&self) -> Stop {
        self.is_lost.store(true, Ordering::Relaxed);
        Stop::NotHolder
    }
}

/// When a write was begun, by the clock that counts suspended time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    boot: Duration,
}

/// How often a swap is decided anew before the memory counts as not available.
pub(super) const SWAPS: u32 = 8;

pub(super) fn contended() -> Unavailable {
    Unavailable { what: "memory", why: "the record changes faster than it can be written".to_owned() }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
