//! The story: a ticket is received and its place claimed, its step planned and carried out, the end of the turn concluded,
//! and the delivery settled last.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tracing::Instrument as _;

use super::{
    claimed::{Claimed, SWAPS, Stop, Waiting, contended},
    conclude::refused_event,
    crash::{self, Edge},
    gates::Gates,
    intake::{self, ControlTicket, Message, Taken},
    look::Looked,
    ports::{Clock, Memory, Origin, Ports, Queue, Received, Service, Settled, Swapped, Unavailable},
    settings::Settings,
    steps::Did,
    tally::{self, Cause, Found, Happened, Tally},
};
use crate::domain::{
    claim::{self, Arrival, Birth, Claim, Claimant, Epoch, Loaded, Outcome, Wished},
    event::{Class, End, EndName},
    plan::{self, Next as Plan},
    settlement::{Entry, Next, SetAside, Settlement},
    step::{Place, Step},
    ticket::{StepResult, Ticket},
    time::Moment,
};

/// For so long beyond the grace of a memory that may have lost records every claim asks it first.
const GRACE_AND: Duration = Duration::from_mins(1);

type Delivery<P> = <<P as Ports>::Home as Queue>::Delivery;

/// A worker: stateless but for the number of its next claim.
pub struct Worker<P: Ports> {
    ports: Arc<P>,
    settings: Arc<Settings>,
    id: u128,
    claims: AtomicU64,
    gates: Gates,
}

/// What a claim came to.
enum Claiming<'a, P: Ports> {
    /// The place is ours.
    Taken(Box<Claimed<'a, P>>),
    /// There is nothing to do but this.
    Settle(Box<Settlement>),
}

impl<P: Ports> Worker<P> {
    /// A worker with this random id.
    pub fn new(ports: Arc<P>, settings: Arc<Settings>, id: u128) -> Self {
        Self { ports, settings, id, claims: AtomicU64::new(0), gates: Gates::default() }
    }

    /// What it works through.
    pub(super) fn ports(&self) -> &P {
        &self.ports
    }

    /// Has what the home gave out ahead given back: others go on with it.
    pub(super) async fn rest(&self) {
        let complete = |taken: &mut Taken| self.settings.admission.complete(taken, self.ports.packages());
        self.ports.home().rest(&complete).await;
    }

    /// Carries one delivery as far as it goes now.
    ///
    /// # Errors
    /// [`Unavailable`] when not even that could be written down; the message comes again.
    pub async fn handle(&self, received: Received<Delivery<P>>) -> Result<Settled, Unavailable> {
        let now = self.ports.clock().wall();
        let mut taken = match self.settings.admission.measure(&received).unwrap_or_else(|| intake::read(&received, now))
        {
            Message::Ticket(taken) => *taken,
            other @ (Message::Control(_) | Message::Newer | Message::Unreadable { .. }) => {
                return self.handle_other(received, other, now).await;
            }
        };
        if received.origin == Origin::Producer {
            self.settings.admission.complete(&mut taken, self.ports.packages())?;
        }
        let (key, ticket) = (taken.ticket.key(), &taken.ticket);
        let (kind, account, trace) = (ticket.job.kind, &ticket.job.account, ticket.trace_context());
        // Of the highest level: a line that passes the filter must not be without it.
        let span = tracing::error_span!(
            "job", job.id = %key.id, job.kind = %kind, job.attempt = ticket.place.r#try, %account, trace_id = trace.id()
        );
        self.handle_ticket(received, taken, now).instrument(span).await
    }

    async fn handle_ticket(
        &self,
        received: Received<Delivery<P>>,
        taken: Taken,
        now: Moment,
    ) -> Result<Settled, Unavailable> {
        crash::point(taken.step, Edge::AfterReceive);
        let (job, kind, step) = (taken.ticket.key(), taken.ticket.job.kind, taken.step);
        let (settlement, claimed) = match self.claim(&taken, &received).await {
            Ok(Claiming::Settle(settlement)) => (*settlement, None),
            Ok(Claiming::Taken(claimed)) => {
                crash::point(step, Edge::AfterClaim);
                // A panic is this job's own: it is caught here, where the delivery is still ours to settle.
                let turn = AssertUnwindSafe(self.carry_out(&claimed)).catch_unwind().await;
                (claimed.conclude(turn.unwrap_or(Err(Stop::Panicked))), Some(claimed))
            }
            Err(down) => (self.unclaimed(&taken, &down, now).await, None),
        };
        crash::point(step, Edge::BeforeSettle);
        let counts = Tally::of(&settlement);
        let end =
            if let Entry::End { end, .. } = &settlement.entry { Some((end.name, end.fingerprint())) } else { None };
        let settled = self.ports.home().settle(received.delivery, Some(&job), settlement).await;
        crash::point(step, Edge::AfterSettle);
        if let Ok(Settled::Done) = settled {
            match end {
                Some((EndName::Completed, _)) => tracing::info!("the job is completed"),
                Some((end, fingerprint)) => tracing::info!(%end, fingerprint, "the job has ended"),
                None => {}
            }
            tally::settled(&*self.ports, Some((kind, step)), counts);
            if let Some(claimed) = claimed {
                claimed.end_spent_turns().await;
            }
        }
        settled
    }

    /// Plans the step and does it, while the claim is kept alive beside it.
    async fn carry_out(&self, claimed: &Claimed<'_, P>) -> Result<Did, Stop> {
        tokio::select! {
            biased;
            outcome = self.follow_plan(claimed) => outcome,
            () = claimed.keep() => Err(Stop::NotHolder),
        }
    }

    async fn follow_plan(&self, claimed: &Claimed<'_, P>) -> Result<Did, Stop> {
        if !self.ports.service().knows(&claimed.key.account) {
            return self.unknown_account(claimed);
        }
        let mut record = claimed.record.clone();
        loop {
            let (step, now) = (claimed.step(), claimed.now());
            match plan::next(step, claimed.ticket(), &record, claimed.is_poison, now, &self.settings.waits) {
                Plan::Use(result) => return Ok(Did::Finished(result)),
                Plan::Call => return claimed.perform().await,
                Plan::Wait(until) => return Err(Stop::Wait { until, why: Waiting::Look }),
                Plan::Finish(ending) => return Ok(Did::End(ending)),
                Plan::Look(look) => match claimed.look(look).await? {
                    Looked::Did(did) => return Ok(did),
                    // ORDER: absence is recorded before the call that it allows.
                    Looked::Absent => record = claimed.record(&Outcome::Absent).await?,
                },
            }
        }
    }

    /// The memory does not answer, so nothing is claimed. A poll goes on all the same; of what it comes to, only the next
    /// try of its own step, or the same place parked, is handed on. Whatever would be recorded or announced waits for the
    /// memory, as every other step does.
    async fn unclaimed(&self, taken: &Taken, down: &Unavailable, now: Moment) -> Settlement {
        let back = self.give_back(&taken.ticket, down, now);
        if taken.step != Step::Poll {
            return back;
        }
        let Ticket { hash, place, .. } = taken.ticket;
        let birth = Birth { epoch: Epoch(0), at: now, is_clean: true };
        let nothing = Loaded { record: None, version: 0, birth, now, holder_lives: false };
        let arrival = Arrival { place, hash, is_intake: false, is_suspect: true };
        let claimant = Claimant { worker: self.id, number: self.claims.fetch_add(1, Ordering::Relaxed) };
        let Claim::Take { record, is_poison, .. } = claim::claim(&nothing, &arrival, claimant, &self.settings.claim)
        else {
            return back;
        };
        let (outside, anchor) = ((&*self.ports, &*self.settings, &self.gates), (now, self.ports.clock().boot_time()));
        let reader = Claimed::new(outside, taken.clone(), claimant, (record, is_poison), anchor);
        let turn = AssertUnwindSafe(self.follow_plan(&reader)).catch_unwind().await;
        without_claim(reader.conclude(turn.unwrap_or(Err(Stop::Panicked))), &taken.ticket).unwrap_or(back)
    }

    /// The memory does not answer, so nothing was claimed: the ticket goes back, marked.
    fn give_back(&self, ticket: &Ticket, down: &Unavailable, now: Moment) -> Settlement {
        tracing::warn!(job = %ticket.key(), %down, "the claim could not be made");
        let due = now.after(self.settings.parks.down(self.ports.clock().chance()));
        let next = Next::Ticket(Box::new(ticket.clone().parked(due).suspected(true)));
        let received = Some(Box::new(ticket.clone()));
        Settlement { received, claimant: None, entry: Entry::Nothing, events: Vec::new(), next }
    }

    /// Takes the ticket's place, or says what else is to be done with it.
    async fn claim<'a>(
        &'a self,
        taken: &Taken,
        received: &Received<Delivery<P>>,
    ) -> Result<Claiming<'a, P>, Unavailable> {
        let ticket = &taken.ticket;
        let (key, message_id) = (ticket.key(), received.message_id.as_deref());
        if let Some((class, problem)) = self.settings.admission.refuse(taken) {
            return Ok(Claiming::Settle(Box::new(refused(
                taken,
                message_id,
                (class, &problem),
                self.ports.clock().wall(),
            ))));
        }
        let arrival = Arrival {
            place: ticket.place,
            hash: ticket.hash,
            // A job that was given back untouched stands at its first place, and brings its content for the first time.
            is_intake: received.origin != Origin::Return || ticket.place == Place::FIRST,
            is_suspect: received.is_redelivered || ticket.suspect,
        };
        let claimant = Claimant { worker: self.id, number: self.claims.fetch_add(1, Ordering::Relaxed) };
        let boot = self.ports.clock().boot_time();
        let new = self.ports.home().guess_new().filter(|guess| self.is_new(received, guess));
        let mut loaded = match new {
            Some(guess) => guess,
            None => self.ports.home().load(&key).await?,
        };
        for _ in 0..SWAPS {
            let settle = |entry, events, next| {
                let received = Some(Box::new(ticket.clone()));
                Ok(Claiming::Settle(Box::new(Settlement { received, claimant: None, entry, events, next })))
            };
            match claim::claim(&loaded, &arrival, claimant, &self.settings.claim) {
                Claim::OtherContent => {
                    self.ports.note(Happened::Claimed(Found::OtherContent));
                    let problem = format!("job {key} exists with other content; take another id, or --new");
                    return Ok(Claiming::Settle(Box::new(refused(
                        taken,
                        message_id,
                        (Class::OtherContent, &problem),
                        loaded.now,
                    ))));
                }
                Claim::Ended { end, is_before } => {
                    self.ports.note(Happened::Claimed(Found::Ended));
                    let entry = Entry::EndAgain { end: Box::new(end), set_aside: !is_before };
                    return settle(entry, Vec::new(), Next::Nothing);
                }
                Claim::Stale => {
                    self.ports.note(Happened::Claimed(Found::Stale));
                    return settle(Entry::Nothing, Vec::new(), Next::Nothing);
                }
                Claim::Busy { until } => {
                    self.ports.note(Happened::Claimed(Found::Busy));
                    self.ports.note(Happened::Waits(Cause::Busy));
                    let until = self.ports.home().busy_until(until, loaded.now);
                    let until = self.settings.parks.busy(until, loaded.now);
                    let parked = ticket.clone().parked(until).suspected(true);
                    return settle(Entry::Nothing, Vec::new(), Next::Ticket(Box::new(parked)));
                }
                Claim::Take { record, is_poison, is_takeover } => {
                    // Given out too often is no proof: its claims must have been lost, too.
                    let is_poison = is_poison || (received.is_spent && (record.lost > 0 || record.panics > 0));
                    let swapped = self.ports.home().swap(&key, loaded.birth.epoch, loaded.version, &record).await?;
                    match swapped {
                        Swapped::Refused(present) => loaded = *present,
                        Swapped::Done => {
                            self.ports.note(Happened::Claimed(Found::Taken));
                            if record.suspect_since.is_some() {
                                self.ports.note(Happened::Suspect);
                            }
                            if is_takeover {
                                self.ports.note(Happened::TakenOver);
                                tracing::info!(job = %key, place = %record.place, "took over from a worker that is gone");
                            }
                            let anchor = (loaded.now, boot);
                            let outside = (&*self.ports, &*self.settings, &self.gates);
                            let claimed = Claimed::new(outside, taken.clone(), claimant, (record, is_poison), anchor);
                            return Ok(Claiming::Taken(Box::new(claimed)));
                        }
                    }
                }
            }
        }
        Err(contended())
    }

    /// Is it a job that no memory can have met, unless its producer sent it twice? Then its claim asks nothing first; a
    /// swap that meets a record is refused, and decided again. Not in the first time of a memory that may have lost it.
    fn is_new(&self, received: &Received<Delivery<P>>, guess: &Loaded<StepResult, End>) -> bool {
        let policy = &self.settings.claim;
        let grace = policy.memory_grace.saturating_add(GRACE_AND);
        let is_old = guess.birth.is_clean || guess.now >= guess.birth.at.after(grace);
        received.origin == Origin::Producer && !received.is_redelivered && is_old
    }

    /// A job of an account that nobody here knows waits a while: this worker's configuration may be the older one.
    fn unknown_account(&self, claimed: &Claimed<'_, P>) -> Result<Did, Stop> {
        let (now, parks) = (claimed.now(), &self.settings.parks);
        if claimed.ticket().progress.unknown_since.is_some_and(|since| now.since(since) >= parks.unknown_account_for) {
            return Ok(Did::AccountRemoved);
        }
        Err(Stop::Wait { until: now.after(parks.unknown_account), why: Waiting::Account })
    }

    /// What is no job's ticket: a wish, a ticket of tomorrow, or nothing that can be read.
    async fn handle_other(
        &self,
        received: Received<Delivery<P>>,
        message: Message,
        now: Moment,
    ) -> Result<Settled, Unavailable> {
        let nothing =
            |next| Settlement { received: None, claimant: None, entry: Entry::Nothing, events: Vec::new(), next };
        let (job, settlement) = match message {
            Message::Control(control) => {
                let next = match self.wish(&control).await {
                    Ok(next) => next,
                    // Given back as it came it would come again at once, until the broker has had enough of it.
                    Err(down) => {
                        tracing::warn!(job = %control.job, %down, "a wish could not be written yet");
                        Next::Raw {
                            body: received.body,
                            due: now.after(self.settings.parks.down(self.ports.clock().chance())),
                        }
                    }
                };
                return self.ports.home().settle(received.delivery, Some(&control.job), nothing(next)).await;
            }
            Message::Newer => {
                let later = Next::Raw { body: received.body, due: now.after(self.settings.parks.newer) };
                (None, nothing(later))
            }
            Message::Unreadable { job, problem } => {
                let (class, body) = (Class::Undecodable, received.body);
                let fingerprint = format!("{class}:message");
                let trace = received.trace.clone();
                let aside = SetAside { job: job.clone(), class, fingerprint, message: problem, trace, body };
                (job, nothing(Next::SetAside(Box::new(aside))))
            }
            Message::Ticket(taken) => (Some(taken.ticket.key()), nothing(Next::Ticket(Box::new(taken.ticket)))),
        };
        let counts = Tally::of(&settlement);
        let settled = self.ports.home().settle(received.delivery, job.as_ref(), settlement).await?;
        tally::settled(&*self.ports, None, counts);
        Ok(settled)
    }

    /// Writes a wish into the job's record, and says whether the control ticket has to come again.
    async fn wish(&self, control: &ControlTicket) -> Result<Next, Unavailable> {
        let mut loaded = self.ports.home().load(&control.job).await?;
        for _ in 0..SWAPS {
            match claim::wish(&loaded, control.generation) {
                Wished::Void => return Ok(Next::Nothing),
                Wished::TooEarly | Wished::Stands if loaded.now >= control.until => return Ok(Next::Nothing),
                Wished::TooEarly | Wished::Stands => {
                    let due = loaded.now.after(self.settings.parks.control).min(control.until);
                    let body = serde_json::to_string(control).unwrap_or_default();
                    return Ok(Next::Raw { body, due });
                }
                Wished::Write(record) => {
                    let epoch = loaded.birth.epoch;
                    match self.ports.home().swap(&control.job, epoch, loaded.version, &record).await? {
                        Swapped::Done => loaded.record = Some(record),
                        Swapped::Refused(present) => loaded = *present,
                    }
                }
            }
        }
        Err(contended())
    }
}

/// What a reader without a claim may hand on: the next try of its own step, or the same place; nothing else.
fn without_claim(settlement: Settlement, received: &Ticket) -> Option<Settlement> {
    let is_quiet = match &settlement.entry {
        Entry::Outcome(outcome) => *outcome == Outcome::Nothing,
        Entry::LetGo => true,
        Entry::Nothing | Entry::LetGoIfHeld | Entry::Panicked | Entry::End { .. } | Entry::EndAgain { .. } => false,
    };
    let Next::Ticket(ticket) = settlement.next else { return None };
    let is_own_step = ticket.place.generation == received.place.generation && ticket.place.step == received.place.step;
    (is_quiet && is_own_step && settlement.events.is_empty()).then(|| Settlement {
        received: settlement.received,
        claimant: None,
        entry: Entry::Nothing,
        events: Vec::new(),
        next: Next::Ticket(Box::new(ticket.suspected(true))),
    })
}

/// A job that is not let in: nothing is done for it, a `refused` event tells why, and a person may look at it.
fn refused(taken: &Taken, message_id: Option<&str>, (class, problem): (Class, &str), now: Moment) -> Settlement {
    let ticket = &taken.ticket;
    let aside = SetAside {
        job: Some(ticket.key()),
        class,
        fingerprint: format!("{class}:{}", taken.step.name()),
        message: problem.to_owned(),
        trace: Some(ticket.trace_context()),
        body: serde_json::to_string(&ticket.job).unwrap_or_default(),
    };
    let events = vec![refused_event(ticket, message_id, (class, problem), now)];
    let received = Some(Box::new(ticket.clone()));
    let next = Next::SetAside(Box::new(aside));
    Settlement { received, claimant: None, entry: Entry::Nothing, events, next }
}
