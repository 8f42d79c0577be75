//! What to do next with a ticket whose place is taken: arithmetic on what is known, no call.

use std::time::Duration;

use super::{
    claim::{Finished, Record},
    event::End,
    job::Work,
    step::Step,
    ticket::{StepResult, Ticket},
    time::Moment,
};

/// The record of a job, as memory keeps it.
pub type JobRecord = Record<StepResult, End>;

/// The waits that a plan needs; every one is a setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Waits {
    /// When to look for a product after its create began to be in doubt; the last one counts from the doubt's end.
    pub product_looks: Vec<Duration>,
    /// The same for a submission.
    pub submission_looks: Vec<Duration>,
    /// The same for a commit.
    pub commit_looks: Vec<Duration>,
    /// How long after `begun_at` a call may still take effect when nobody saw it end: response time-out and a sixth of
    /// the lease.
    pub settling: Duration,
    /// Poll intervals: each holds until the watch is so old; the last entry holds for ever.
    pub polls: Vec<PollInterval>,
    /// How long to wait for the signed package after the workflow was seen complete.
    pub almost_for: Duration,
    /// How long to wait for driver metadata after the signed package was seen.
    pub metadata_for: Duration,
    /// A workflow step that takes longer is announced as stuck, once.
    pub stuck_after: Duration,
    /// The same where a package of another harness than attestation is known to be signed: people review those.
    pub stuck_after_review: Duration,
    /// How long the service may take to show a commit that it accepted.
    pub commit_shown_for: Duration,
    /// A 404 on an id that this job made is transient for so long.
    pub fresh_for: Duration,
}

/// One rung of the poll ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollInterval {
    /// Until the watch is so old; `None` for ever.
    pub until_age: Option<Duration>,
    /// Look every so often.
    pub every: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        let seconds = |list: &[u64]| list.iter().copied().map(Duration::from_secs).collect();
        let rung = |age: Option<u64>, every| PollInterval {
            until_age: age.map(Duration::from_secs),
            every: Duration::from_secs(every),
        };
        Self {
            product_looks: seconds(&[60, 300, 600]),
            submission_looks: seconds(&[0, 60]),
            commit_looks: seconds(&[0, 30]),
            settling: Duration::from_secs(310),
            polls: vec![rung(Some(60), 8), rung(Some(3_600), 32), rung(Some(21_600), 128), rung(None, 512)],
            almost_for: Duration::from_secs(1_800),
            metadata_for: Duration::from_secs(21_600),
            stuck_after: Duration::from_secs(21_600),
            stuck_after_review: Duration::from_secs(7 * 86_400),
            commit_shown_for: Duration::from_secs(600),
            fresh_for: Duration::from_secs(600),
        }
    }
}

impl Waits {
    fn looks(&self, step: Step) -> &[Duration] {
        match step {
            Step::CreateProduct => &self.product_looks,
            Step::CreateSubmission => &self.submission_looks,
            Step::Commit => &self.commit_looks,
            Step::Preflight | Step::Upload | Step::Poll | Step::Download => &[],
        }
    }

    /// The age above which a workflow step is called stuck. A product that the job did not make is taken for attestation.
    #[must_use]
    pub fn stuck_after(&self, work: &Work) -> Duration {
        match work.test_harness() {
            Some(harness) if !harness.eq_ignore_ascii_case("attestation") => self.stuck_after_review,
            Some(_) | None => self.stuck_after,
        }
    }

    /// How long until the next look at a submission whose watch is so old.
    #[must_use]
    pub fn poll_interval(&self, age: Duration) -> Duration {
        self.polls
            .iter()
            .find(|rung| rung.until_age.is_none_or(|until| age < until))
            .or(self.polls.last())
            .map_or(Duration::from_secs(32), |rung| rung.every)
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// The record has what finishes the step: no call.
    Use(Finished<StepResult>),
    /// Do the step.
    Call,
    /// Look whether the step's write has happened.
    Look(Look),
    /// Nothing before this instant.
    Wait(Moment),
    /// End the job before a new call.
    Finish(Ending),
}

/// A look at the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What is read must have been asked for at this instant or later.
    pub not_before: Moment,
    /// Does absence count? Only in the last look.
    pub is_last: bool,
    /// When the next look is due, if this one decides nothing; now, when it is the last.
    pub next: Moment,
    /// The job ends after this look unless it finds the write.
    pub then: Option<Ending>,
}

/// Why a job ends before a new call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Somebody wished so.
    Cancelled,
    /// The deadline came.
    TimedOut,
    /// Its claims were lost too often.
    Poison,
}

/// Plans the ticket's step.
///
/// The order: what is recorded is used; poison, a wish and the deadline come before a new call, but a doubt is looked at
/// once before; then the pause of a lost record; then the looks; then the call.
#[must_use]
pub fn next(step: Step, ticket: &Ticket, record: &JobRecord, is_poison: bool, now: Moment, waits: &Waits) -> Next {
    if let Some(result) = &record.result {
        return Next::Use(result.clone());
    }
    if is_poison {
        return Next::Finish(Ending::Poison);
    }
    let doubt = doubt(step, record, waits);
    let ending = if record.wish.is_some() {
        Some(Ending::Cancelled)
    } else if now >= ticket.deadline {
        Some(Ending::TimedOut)
    } else {
        None
    };
    match (ending, doubt) {
        (Some(ending), None) => return Next::Finish(ending),
        (Some(ending), Some(_)) => {
            return Next::Look(Look { not_before: now, is_last: false, next: now, then: Some(ending) });
        }
        (None, _) => {}
    }
    if step.is_write()
        && let Some(pause) = record.write_not_before
        && now < pause
    {
        return Next::Wait(pause);
    }
    match doubt {
        None => Next::Call,
        Some(doubt) => doubt.look(waits.looks(step), now),
    }
}

/// A write that may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// The call may have begun at this instant at the earliest.
    pub start: Moment,
    /// It can take effect no later than this.
    pub end: Moment,
}

/// The doubt about this step, if there is one.
#[must_use]
pub fn doubt(step: Step, record: &JobRecord, waits: &Waits) -> Option<Doubt> {
    if !step.retry_class().needs_begin() || !record.needs_look() {
        return None;
    }
    let start = record.begun_at.or(record.suspect_since)?;
    let end = record.seen_to_end.unwrap_or_else(|| start.after(waits.settling));
    Some(Doubt { start, end })
}

impl Doubt {
    /// The instants of all looks: after the start, the last one after the end.
    #[must_use]
    pub fn looks(self, schedule: &[Duration]) -> Vec<Moment> {
        let last = schedule.len().saturating_sub(1);
        schedule
            .iter()
            .enumerate()
            .map(|(n, wait)| if n == last { self.end.max(self.start) } else { self.start }.after(*wait))
            .collect()
    }

    /// The look that is due now, or the wait for the next.
    fn look(self, schedule: &[Duration], now: Moment) -> Next {
        let instants = self.looks(schedule);
        let last = instants.last().copied().unwrap_or(self.end);
        if now >= last {
            return Next::Look(Look { not_before: last, is_last: true, next: now, then: None });
        }
        let due = instants.iter().copied().filter(|at| *at <= now).max();
        let next = instants.iter().copied().filter(|at| *at > now).min().unwrap_or(last);
        match due {
            Some(due) => Next::Look(Look { not_before: due, is_last: false, next, then: None }),
            None => Next::Wait(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        claim::{Arrival, Wish},
        claim::{Birth, Claim, Claimant, Epoch, Loaded, Outcome, Policy, begin, claim, record},
        ids::Sha256,
        job::{Job, Target},
        step::Place,
    };

    const ME: Claimant = Claimant { worker: 1, number: 1 };

    fn at(seconds: i64) -> Moment {
        Moment::from_millis(seconds * 1_000)
    }

    fn ticket() -> Ticket {
        let job = Job::decode(
            br#"{"id":"a","kind":"status-poll","account":"contoso","spec":{"product":{"id":"1"},"submission":{"id":"2"}}}"#,
            || None,
        )
        .unwrap();
        let hash = job.content_hash();
        Ticket::new(job, hash, None, at(0))
    }

    fn taken(suspect: bool, now: Moment) -> JobRecord {
        let birth = Birth { epoch: Epoch(1), at: at(0), is_clean: true };
        let loaded = Loaded { record: None, version: 0, birth, now, holder_lives: false };
        let arrival = Arrival { place: Place::FIRST, hash: Sha256::of(b""), is_intake: false, is_suspect: suspect };
        match claim(&loaded, &arrival, ME, &Policy::default()) {
            Claim::Take { record, .. } => record,
            other @ (Claim::OtherContent | Claim::Ended { .. } | Claim::Stale | Claim::Busy { .. }) => {
                panic!("{other:?}")
            }
        }
    }

    fn memory(record: &JobRecord, now: Moment) -> Loaded<StepResult, End> {
        let birth = Birth { epoch: Epoch(1), at: at(0), is_clean: true };
        Loaded { record: Some(record.clone()), version: 1, birth, now, holder_lives: true }
    }

    #[test]
    fn a_clean_step_is_called_at_once() {
        let record = taken(false, at(0));
        assert_eq!(next(Step::CreateProduct, &ticket(), &record, false, at(0), &Waits::default()), Next::Call);
    }

    #[test]
    fn an_unclear_create_is_looked_up_at_its_times_and_only_the_last_look_proves_absence() {
        let waits = Waits::default();
        let begun = begin(&memory(&taken(false, at(0)), at(10)), ME, &Policy::default()).unwrap();
        let unclear = record(&memory(&begun, at(40)), ME, Outcome::Unclear).unwrap();
        let plan = |now| next(Step::CreateProduct, &ticket(), &unclear, false, at(now), &waits);
        assert_eq!(plan(40), Next::Wait(at(70)));
        let look = |not_before, next, is_last| Next::Look(Look { not_before, is_last, next, then: None });
        assert_eq!(plan(70), look(at(70), at(310), false));
        assert_eq!(plan(320), look(at(310), at(640), false));
        assert_eq!(plan(640), look(at(640), at(640), true));
        // nobody saw the call end: the last look counts from the time it can end at the latest
        let unseen = next(Step::CreateProduct, &ticket(), &begun, false, at(700), &waits);
        assert_eq!(unseen, look(at(310), at(920), false));
    }

    #[test]
    fn a_wish_and_a_deadline_look_once_at_a_doubt_and_end_the_job_otherwise() {
        let waits = Waits::default();
        let mut clean = taken(false, at(0));
        clean.wish = Some(Wish { at: at(1) });
        assert_eq!(next(Step::CreateProduct, &ticket(), &clean, false, at(2), &waits), Next::Finish(Ending::Cancelled));
        let mut begun = begin(&memory(&taken(false, at(0)), at(10)), ME, &Policy::default()).unwrap();
        let late = at(8 * 86_400);
        let Next::Look(look) = next(Step::CreateProduct, &ticket(), &begun, false, late, &waits) else { panic!() };
        assert_eq!(look.then, Some(Ending::TimedOut));
        begun.result = Some(Finished::Done(StepResult::Commit { adopted: false }));
        assert!(matches!(next(Step::CreateProduct, &ticket(), &begun, false, late, &waits), Next::Use(_)));
    }

    #[test]
    fn a_job_that_lost_its_record_waits_before_any_write_and_not_before_a_poll() {
        let waits = Waits::default();
        let lost = taken(true, at(0));
        assert_eq!(next(Step::Upload, &ticket(), &lost, false, at(1), &waits), Next::Wait(at(60)));
        assert_eq!(next(Step::Upload, &ticket(), &lost, false, at(60), &waits), Next::Call);
        assert_eq!(next(Step::Poll, &ticket(), &lost, false, at(1), &waits), Next::Call);
    }

    #[test]
    fn the_signing_of_a_package_that_people_review_is_called_stuck_later() {
        let waits = Waits::default();
        let watched = ticket().job.work().unwrap();
        let made = |harness: &str| {
            let members = serde_json::json!({ "productName": "x", "testHarness": harness });
            Work { product: Target::Create(members.as_object().cloned().unwrap()), ..watched.clone() }
        };
        assert_eq!(waits.stuck_after(&made("Attestation")), waits.stuck_after);
        assert_eq!(waits.stuck_after(&made("HLK")), waits.stuck_after_review);
        assert_eq!(waits.stuck_after(&watched), waits.stuck_after);
    }

    #[test]
    fn polls_slow_down_as_the_watch_grows_old() {
        let waits = Waits::default();
        let every = |age| waits.poll_interval(Duration::from_secs(age)).as_secs();
        assert_eq!([every(0), every(60), every(3_600), every(21_600), every(1_000_000)], [8, 32, 128, 512, 512]);
    }

    proptest! {
        #[test]
        fn no_write_is_called_while_it_is_in_doubt(now in 0_i64..100_000, begun in 0_i64..1_000, seen in proptest::option::of(0_i64..300)) {
            let mut record = taken(false, at(0));
            record.begun_at = Some(at(begun));
            record.seen_to_end = seen.map(|after| at(begun + after));
            for step in [Step::CreateProduct, Step::CreateSubmission, Step::Commit] {
                let next = next(step, &ticket(), &record, false, at(now), &Waits::default());
                prop_assert!(matches!(next, Next::Look(_) | Next::Wait(_)), "{next:?}");
                if let Next::Look(look) = next && look.is_last {
                    let end = record.seen_to_end.unwrap_or_else(|| at(begun + 310));
                    prop_assert!(at(now) >= end && look.not_before >= end);
                }
            }
        }
    }

    /// One job's memory and the tickets that were ever published for it.
    struct Story {
        memory: Loaded<StepResult, End>,
        published: Vec<Place>,
        written: Vec<u16>,
        claims: u64,
    }

    impl Story {
        fn new() -> Self {
            let birth = Birth { epoch: Epoch(1), at: at(0), is_clean: true };
            let memory = Loaded { record: None, version: 0, birth, now: at(0), holder_lives: false };
            let start = Place::FIRST.at_step(Step::CreateProduct.number());
            // The first ticket was claimed before: a known job, not a lost one.
            let mut story = Self { memory, published: vec![Place::FIRST, start], written: Vec::new(), claims: 0 };
            let first = story.receive(Place::FIRST, false);
            assert!(first.is_some());
            story
        }

        /// A worker receives a ticket: its plan, when the place is taken.
        fn receive(&mut self, place: Place, holder_lives: bool) -> Option<(Claimant, Step, Next)> {
            self.claims += 1;
            self.memory.holder_lives = holder_lives;
            self.memory.now = self.memory.now.after(Duration::from_secs(1_000));
            let claimant = Claimant { worker: 1, number: self.claims };
            let arrival = Arrival { place, hash: Sha256::of(b""), is_intake: false, is_suspect: false };
            let Claim::Take { record, .. } = claim(&self.memory, &arrival, claimant, &Policy::default()) else {
                return None;
            };
            self.memory.record = Some(record.clone());
            let step = Step::from_number(place.step).unwrap();
            let plan = next(step, &ticket(), &record, false, self.memory.now, &Waits::default());
            Some((claimant, step, plan))
        }

        /// The handler does what its plan says; `fate` decides what comes of a call.
        fn act(&mut self, place: Place, claimant: Claimant, step: Step, plan: &Next, fate: u8) {
            let done = Finished::Done(StepResult::Commit { adopted: false });
            let number = step.number();
            let was_written = self.written.contains(&number);
            let outcome = match plan {
                Next::Call if step == Step::Preflight => Outcome::Finished(done),
                Next::Call => {
                    assert!(!was_written, "{step} is written again at {place}");
                    self.memory.record = Some(begin(&self.memory, claimant, &Policy::default()).unwrap());
                    match fate % 5 {
                        0 => Outcome::NotExecuted,
                        1 => Outcome::Unclear,
                        2 => {
                            self.written.push(number);
                            Outcome::Unclear
                        }
                        // The worker dies: the call was made, nothing is recorded.
                        3 => {
                            self.written.push(number);
                            return;
                        }
                        _ => {
                            self.written.push(number);
                            Outcome::Finished(done)
                        }
                    }
                }
                Next::Look(_) if was_written => Outcome::Finished(done),
                Next::Look(look) if look.is_last => Outcome::Absent,
                Next::Look(_) => Outcome::Nothing,
                Next::Use(finished) => Outcome::Finished(finished.clone()),
                Next::Wait(_) | Next::Finish(_) => return,
            };
            let is_finished = matches!(outcome, Outcome::Finished(_));
            let Ok(written) = record(&self.memory, claimant, outcome) else { return };
            self.memory.record = Some(written);
            let following = Step::ALL.into_iter().find(|later| *later > step && later.retry_class().needs_begin());
            match following {
                Some(later) if is_finished => self.published.push(place.at_step(later.number())),
                Some(_) | None if !is_finished => self.published.push(place.next_try()),
                Some(_) | None => {}
            }
        }
    }

    proptest! {
        #[test]
        fn replaying_any_prefix_of_a_history_never_repeats_a_finished_write(
            deliveries in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 1..120),
        ) {
            let mut story = Story::new();
            for (which, holder_lives, fate) in deliveries {
                // Any ticket that was ever in the broker may come again, at any time.
                let place = *which.get(&story.published);
                if let Some((claimant, step, plan)) = story.receive(place, holder_lives) {
                    story.act(place, claimant, step, &plan, fate);
                }
            }
            let mut once = story.written.clone();
            once.dedup();
            prop_assert_eq!(once, story.written);
        }
    }
}
