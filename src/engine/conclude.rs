//! What is written at the end of a handler's turn: the outcome, the events, the next ticket or the end.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{
    claimed::{Claimed, Stop, Waiting},
    ports::{Clock, Ports, Unavailable},
    steps::Did,
    tally::{self, Happened},
};
use crate::domain::{
    claim::{Finished, Outcome},
    event::{Candidate, Class, End, EndName, Event, Name, Reason},
    event_data::{self, Accepted, Progressed, Refusal, Refused, Started, Stuck, Throttled},
    failure::{Cause, Failure, Kind, Pause},
    plan::Ending,
    retry::{self, Decision},
    settlement::{Entry, Next, Settlement},
    step::{Place, Step},
    ticket::{SignInRefused, StepResult, Ticket, Watch},
    time::Moment,
};

/// Places of events within a try.
mod n {
    pub(super) const ACCEPTED: u32 = 0;
    pub(super) const STARTED: u32 = 1;
    pub(super) const PROGRESSED: u32 = 2;
    pub(super) const THROTTLED: u32 = 3;
    pub(super) const STUCK: u32 = 4;
}

impl<P: Ports> Claimed<'_, P> {
    /// Works out the settlement.
    pub(super) fn conclude(&self, outcome: Result<Did, Stop>) -> Settlement {
        match outcome {
            Ok(Did::Finished(Finished::Done(result))) => self.done(result),
            Ok(Did::Finished(Finished::Refused(result))) => self.refused(result),
            Ok(Did::LookAgain { at }) => {
                let ticket = self.ticket().clone().next_try(self.capped(at)).suspected(true);
                self.settlement(Entry::Outcome(Outcome::Nothing), Vec::new(), Some(ticket))
            }
            Ok(Did::PollAgain { at, watch, moved }) => self.polled(at, watch, moved.as_ref()),
            Ok(Did::Person { message, candidates }) => self.person(message, candidates),
            Ok(Did::End(ending)) => self.ending(ending),
            Ok(Did::AccountRemoved) => self.account_removed(),
            Err(Stop::Panicked) => self.panicked(),
            Err(Stop::Wait { until, why }) => self.wait(until, &why),
            Err(Stop::Failed(failure)) => self.failed(failure),
            Err(Stop::NotHolder) => self.not_holder(),
            Err(Stop::Down(down)) => self.down(&down),
        }
    }

    fn settlement(&self, entry: Entry, events: Vec<Event>, next: Option<Ticket>) -> Settlement {
        Settlement {
            received: Some(Box::new(self.ticket().clone())),
            claimant: Some(self.claimant),
            entry,
            events,
            next: next.map_or(Next::Nothing, |ticket| Next::Ticket(Box::new(ticket))),
        }
    }

    /// No wait is parked past the deadline: the ticket wakes at it, looks once, and ends.
    fn capped(&self, at: Moment) -> Moment {
        let deadline = self.ticket().deadline;
        if deadline > self.now() { at.min(deadline) } else { at }
    }

    fn event(&self, name: Name, n: u32, data: &impl Serialize) -> Event {
        Event::of(self.ticket(), name, n, self.now(), event_data::json(data))
    }

    /// What is announced when a job first gets anywhere.
    fn first_events(&self) -> Vec<Event> {
        if self.ticket().place.r#try > 0 || self.step() != Step::Preflight {
            return Vec::new();
        }
        let accepted = self.event(Name::Accepted, n::ACCEPTED, &Accepted::of(self.ticket()));
        vec![accepted, self.event(Name::Started, n::STARTED, &Started {})]
    }

    fn done(&self, result: StepResult) -> Settlement {
        let step = self.step();
        let mut ticket = self.ticket().clone();
        ticket.progress.apply(step, &result);
        if matches!(step, Step::CreateProduct | Step::CreateSubmission) {
            ticket.progress.made_at = Some(self.now());
        }
        if step == Step::Preflight && self.record.suspect_since.is_some() {
            ticket.progress.is_acceptance_in_doubt = true;
        }
        self.add_missing_downloads(&mut ticket, &result);
        ticket.note(self.now(), format!("{step} done"));
        let Some(next) = self.taken.work.step_after(step) else {
            return self.end(EndName::Completed, None, ticket, Some(Finished::Done(result)));
        };
        let mut events = self.first_events();
        events.push(self.event(Name::Progressed, n::PROGRESSED, &Progressed::Done { step, done: &result }));
        let entry = Entry::Outcome(Outcome::Finished(Finished::Done(result)));
        self.settlement(entry, events, Some(ticket.at_step(next)))
    }

    /// A download that the service does not offer is a warning, not a failure.
    fn add_missing_downloads(&self, ticket: &mut Ticket, result: &StepResult) {
        let (Some(spec), StepResult::Download { files, .. }) = (&self.taken.work.download, result) else { return };
        for kind in &spec.kinds {
            if !files.iter().any(|file| file.kind.eq_ignore_ascii_case(kind)) {
                ticket.progress.warnings.push(format!("{kind} was not there to be downloaded"));
            }
        }
    }

    fn refused(&self, result: StepResult) -> Settlement {
        let cause = match &result {
            StepResult::Refused { cause } => cause.clone(),
            StepResult::Preflight { .. }
            | StepResult::CreateProduct { .. }
            | StepResult::CreateSubmission { .. }
            | StepResult::Upload { .. }
            | StepResult::Commit { .. }
            | StepResult::Poll { .. }
            | StepResult::Download { .. } => Cause::new(Kind::Internal, "a refusal without a cause"),
        };
        let reason = self.reason(self.class_of(&cause), cause);
        self.end(EndName::Failed, Some(reason), self.ticket().clone(), Some(Finished::Refused(result)))
    }

    fn class_of(&self, cause: &Cause) -> Class {
        if self.step() == Step::Poll && cause.api_code.as_deref() == Some("workflowFailed") {
            return Class::WorkflowFailed;
        }
        Class::of(cause.kind)
    }

    fn reason(&self, class: Class, cause: Cause) -> Reason {
        let next = next_step(class, self.key.id.as_str());
        Reason {
            class,
            message: cause.message.clone(),
            next,
            step: Some(self.step()),
            cause: Some(cause),
            candidates: Vec::new(),
        }
    }

    fn end(
        &self,
        name: EndName,
        reason: Option<Reason>,
        mut ticket: Ticket,
        result: Option<Finished<StepResult>>,
    ) -> Settlement {
        ticket.due = None;
        let end = Box::new(End { name, at: self.now(), reason, ticket: Box::new(ticket) });
        self.settlement(Entry::End { end, result: result.map(Box::new) }, self.first_events(), None)
    }

    fn polled(&self, at: Moment, mut watch: Watch, moved: Option<&Value>) -> Settlement {
        let mut events: Vec<_> =
            moved.into_iter().map(|data| self.event(Name::Progressed, n::PROGRESSED, data)).collect();
        let now = self.now();
        if !watch.said_stuck && now.since(watch.unchanged_since) >= self.settings.waits.stuck_after(&self.taken.work) {
            watch.said_stuck = true;
            let since = watch.unchanged_since.timestamp();
            let data = Stuck::Workflow { step: Step::Poll, workflow_step: watch.step.as_deref(), since };
            events.push(self.event(Name::Stuck, n::STUCK, &data));
        }
        let mut ticket = self.ticket().clone().next_try(self.capped(at));
        ticket.progress.watch = Some(watch);
        ticket.attempts = 0;
        self.settlement(Entry::Outcome(Outcome::Nothing), events, Some(ticket))
    }

    fn person(&self, message: String, candidates: Vec<Candidate>) -> Settlement {
        let reason = Reason {
            class: Class::NeedsPerson,
            message,
            next: self.next_of_person(),
            step: Some(self.step()),
            cause: None,
            candidates,
        };
        self.end(EndName::DeadLettered, Some(reason), self.ticket().clone(), None)
    }

    /// Only a create is decided about; what stands later can but be read again.
    fn next_of_person(&self) -> String {
        let id = self.key.id.as_str();
        if matches!(self.step(), Step::CreateProduct | Step::CreateSubmission) {
            return next_step(Class::NeedsPerson, id);
        }
        format!("look at the submission in Partner Center; to have it read again: longshore job retry {id}")
    }

    fn ending(&self, ending: Ending) -> Settlement {
        let is_in_doubt = self.record.needs_look() && self.step().retry_class().needs_begin();
        let doubt = if is_in_doubt { format!("; what became of {} is not known", self.step()) } else { String::new() };
        let (name, class, message) = match ending {
            Ending::Cancelled => {
                (EndName::Cancelled, Class::Cancelled, format!("cancelled before {}{doubt}", self.step()))
            }
            Ending::TimedOut => {
                (EndName::TimedOut, Class::Deadline, format!("the deadline came before {}{doubt}", self.step()))
            }
            Ending::Poison => {
                let lost = self.record.lost;
                (
                    EndName::DeadLettered,
                    Class::Poison,
                    format!("{lost} workers in a row were lost at {}{doubt}", self.step()),
                )
            }
        };
        let next = next_step(class, self.key.id.as_str());
        let reason = Reason { class, message, next, step: Some(self.step()), cause: None, candidates: Vec::new() };
        self.end(name, Some(reason), self.ticket().clone(), None)
    }

    /// The account is not configured, and has not been for long enough.
    fn account_removed(&self) -> Settlement {
        let class = Class::AccountRemoved;
        let reason = Reason {
            class,
            message: format!("account {} is not configured", self.key.account),
            next: next_step(class, self.key.id.as_str()),
            step: Some(self.step()),
            cause: None,
            candidates: Vec::new(),
        };
        self.end(EndName::DeadLettered, Some(reason), self.ticket().clone(), None)
    }

    fn wait(&self, until: Moment, why: &Waiting) -> Settlement {
        let mut ticket = self.ticket().clone();
        let mut events = Vec::new();
        let mut refused = None;
        self.ports.note(Happened::Waits(why.cause()));
        match why {
            Waiting::Permit => ticket.refusals = ticket.refusals.saturating_add(1),
            Waiting::SignIn { message, next, refused_at } => {
                ticket.note(self.now(), message.clone());
                if let Some(at) = *refused_at {
                    let data = Stuck::SignIn { step: self.step(), message, next, sign_in: Refusal::Refused };
                    events.push(self.event(Name::Stuck, n::STUCK, &data));
                    // The event's id is that of the place: a second refusal there is no second event, but it is told here.
                    refused = Some(SignInRefused { at, message: message.clone(), next: next.clone() });
                }
            }
            Waiting::Account => {
                ticket.progress.unknown_since = ticket.progress.unknown_since.or(Some(self.now()));
            }
            Waiting::Gate | Waiting::Turn | Waiting::Listing | Waiting::Look | Waiting::NextTurn => {}
        }
        // The same place in a new message has no redelivery flag, and another copy may call while this one is parked:
        // every parked ticket is marked (docs/adr/0010). It costs nothing while the record is known.
        let mut ticket = ticket.parked(self.capped(until)).suspected(true);
        ticket.sign_in = refused;
        self.settlement(Entry::LetGo, events, Some(ticket))
    }

    /// The claim is lost, or was not renewed in time to trust it: the own ticket goes back, marked, and nothing else.
    fn not_holder(&self) -> Settlement {
        let ticket = self.ticket().clone().parked(self.now()).suspected(true);
        self.settlement(Entry::LetGoIfHeld, Vec::new(), Some(ticket))
    }

    /// The memory does not answer: the own ticket goes back, marked; nothing is rejected and nothing looked up.
    fn down(&self, down: &Unavailable) -> Settlement {
        let mut ticket = self.ticket().clone();
        self.ports.note(Happened::Waits(tally::Cause::MemoryDown));
        ticket.note(self.now(), down.to_string());
        let wait = self.settings.parks.down(self.ports.clock().chance());
        let ticket = ticket.parked(self.now().after(wait)).suspected(true);
        self.settlement(Entry::LetGoIfHeld, Vec::new(), Some(ticket))
    }

    /// A caught panic counts as a lost claim; the second in a row ends the job as poison.
    fn panicked(&self) -> Settlement {
        let mut ticket = self.ticket().clone();
        ticket.note(self.now(), format!("the worker panicked at {}", self.step()));
        let ticket = ticket.parked(self.now().after(self.settings.retry.base)).suspected(true);
        self.settlement(Entry::Panicked, Vec::new(), Some(ticket))
    }

    fn failed(&self, failure: Failure) -> Settlement {
        let failure = self.softened(failure);
        let spent = self.ticket().attempts.saturating_add(1);
        let decision = retry::decide(&self.settings.retry, spent, &failure, self.ports.clock().chance());
        let now = self.now();
        let gate = self.gate();
        let open = |wait: Duration| now.after(wait).max(gate.unwrap_or_default());
        match (decision, failure) {
            // A failure that closes the gate, or meets it just closed, spends no attempt.
            (Decision::RetryIn(wait), failure) => {
                self.again(&failure, open(wait), if gate.is_some() { self.ticket().attempts } else { spent })
            }
            (Decision::GiveUp, failure @ Failure::Transient(_)) if gate.is_some() => {
                self.again(&failure, open(Duration::ZERO), self.ticket().attempts)
            }
            (Decision::PauseFor(wait), failure) => {
                let mut settlement = self.again(&failure, open(wait), self.ticket().attempts);
                let (wait_seconds, message) = (wait.as_secs_f64(), failure.to_string());
                let data = Throttled { step: self.step(), wait_seconds, message };
                settlement.events.push(self.event(Name::Throttled, n::THROTTLED, &data));
                settlement
            }
            (Decision::LookIn(wait), failure) => self.unclear(&failure, open(wait)),
            (Decision::Renew, failure) => {
                self.again(&failure, now.after(self.settings.retry.throttle_pause), self.ticket().attempts)
            }
            (Decision::GiveUp, failure) => self.given_up(&failure),
        }
    }

    /// A 404 on an id that this job made a moment ago is transient (hardware-api 4.2).
    fn softened(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Permanent(cause)
                if cause.kind == Kind::NotFound
                    && self
                        .ticket()
                        .progress
                        .made_at
                        .is_some_and(|at| self.now().since(at) < self.settings.waits.fresh_for) =>
            {
                Failure::Transient(cause)
            }
            // A write's second 401 in a row: the token is new, so sign-in is what is wrong.
            Failure::Unauthorized(cause) => {
                Failure::Throttled(Pause { retry_after: Some(self.settings.parks.unavailable), cause })
            }
            other @ (Failure::Transient(_)
            | Failure::Throttled(_)
            | Failure::Indeterminate(_)
            | Failure::Permanent(_)) => other,
        }
    }

    /// What a failure says of the step's write: nothing, when this handler has not begun it.
    fn of_write(&self, outcome: Outcome<StepResult>) -> Entry {
        Entry::Outcome(if self.has_begun() { outcome } else { Outcome::Nothing })
    }

    /// Not executed: the same call in its next try.
    fn again(&self, failure: &Failure, due: Moment, attempts: u32) -> Settlement {
        let mut ticket = self.ticket().clone();
        ticket.note(self.now(), failure.to_string());
        ticket.attempts = attempts;
        let ticket = ticket.next_try(self.capped(due));
        self.settlement(self.of_write(Outcome::NotExecuted), Vec::new(), Some(ticket))
    }

    /// No usable answer: the look decides.
    fn unclear(&self, failure: &Failure, due: Moment) -> Settlement {
        let mut ticket = self.ticket().clone();
        ticket.note(self.now(), failure.to_string());
        let told = Progressed::InDoubt { step: self.step(), in_doubt: failure.to_string() };
        let event = self.event(Name::Progressed, n::PROGRESSED, &told);
        let ticket = ticket.next_try(self.capped(due)).suspected(true);
        self.settlement(self.of_write(Outcome::Unclear), vec![event], Some(ticket))
    }

    fn given_up(&self, failure: &Failure) -> Settlement {
        let mut cause = failure.cause().clone();
        let class = match failure {
            Failure::Transient(_) if is_transfer(cause.kind) => Class::Transfer,
            Failure::Transient(_) => {
                cause.message =
                    format!("{} attempts were spent; the last: {}", self.settings.retry.max_attempts, cause.message);
                Class::AttemptsSpent
            }
            Failure::Permanent(_) | Failure::Throttled(_) | Failure::Indeterminate(_) | Failure::Unauthorized(_) => {
                self.class_of(&cause)
            }
        };
        let reason = self.reason(class, cause.clone());
        // A look's own failure is no answer to the write: the doubt must outlive this generation, or a retry would call
        // again without a look (docs/adr/0006).
        let is_in_doubt = self.record.needs_look() && self.step().retry_class().needs_begin() && !self.has_begun();
        let refused = (!is_in_doubt).then_some(Finished::Refused(StepResult::Refused { cause }));
        self.end(EndName::Failed, Some(reason), self.ticket().clone(), refused)
    }
}

const fn is_transfer(kind: Kind) -> bool {
    matches!(kind, Kind::Transfer | Kind::SasExpired)
}

/// What a person does next.
fn next_step(class: Class, id: &str) -> String {
    match class {
        Class::Preflight => format!(
            "mend the package or the job as said, then submit it again; check first with: longshore preflight ({id})"
        ),
        Class::Source => format!("make the source readable and unchanged, then: longshore job retry {id}"),
        Class::Forbidden => format!(
            "give the account's application the role \"Driver Submitter\" in Partner Center (Users, Azure AD applications), then: longshore job retry {id}"
        ),
        Class::Rejected => {
            format!("change what the service refused and submit a new job, or: longshore job retry {id}")
        }
        Class::WorkflowFailed => {
            "mend the package and submit a new job: a failed submission can be neither committed again nor replaced"
                .to_owned()
        }
        Class::Transfer => format!("check network and proxy with: longshore doctor; then: longshore job retry {id}"),
        Class::Verification => {
            format!("compare the signed package with what was submitted; fetch it again with: longshore job retry {id}")
        }
        Class::AttemptsSpent => format!("see whether the service is well again, then: longshore job retry {id}"),
        Class::Cancelled => format!("what was made at the service remains there; to go on: longshore job retry {id}"),
        Class::Deadline => format!("to go on with a new deadline of the same length: longshore job retry {id}"),
        Class::NeedsPerson => format!("decide with: longshore dead-letter show {id}"),
        Class::Poison => format!("see the logs of the lost workers, then: longshore job retry {id}"),
        Class::AccountRemoved => format!("configure the account again, then: longshore job retry {id}"),
        Class::Undecodable => "mend the producer; see docs/errors/undecodable.md".to_owned(),
        Class::NotAllowed => {
            "let the producer in with accounts.NAME.producers; see docs/errors/not-allowed.md".to_owned()
        }
        Class::OtherContent => "take another id, or --new".to_owned(),
        Class::LocalIo => format!("make room, or the folder writable, then: longshore job retry {id}"),
        Class::Changed => "look at the product in Partner Center; see docs/errors/changed.md".to_owned(),
        Class::Internal => format!("report this with the correlation id; then: longshore job retry {id}"),
    }
}

/// The event of a message that never became a job, or brought other content under a job's id.
pub(super) fn refused_event(
    ticket: &Ticket,
    message_id: Option<&str>,
    (class, problem): (Class, &str),
    now: Moment,
) -> Event {
    let message_id = message_id.map_or_else(|| ticket.hash.to_string(), ToOwned::to_owned);
    let data = Refused { class, message: problem, message_id: &message_id, job: &ticket.job.id };
    let mut event = Event::of(ticket, Name::Refused, 0, now, event_data::json(&data));
    let Place { generation, .. } = ticket.place;
    event.id = ticket.key().uuid(&[&generation.to_string(), "refused", &ticket.hash.to_string()]);
    event
}
