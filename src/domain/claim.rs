//! The job record and the operations on it: claim, begin, record, end; renew, let go, wish.
//!
//! All homes, the exhaustive search and the simulation run this code and no copy of it. A port loads a record together
//! with what the memory knows ([`Loaded`]), a function here decides, and a compare-and-swap writes the decision; when the
//! swap is refused the decision is made again on what it brings. Source: docs/protocol.md.
//!
//! Generic in what a step's result (`R`) and a job's end (`E`) are, so that the search can use small numbers for them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ids::Sha256, step::Place, time::Moment};

/// The life of one memory: new whenever what it remembers may be gone or older than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u128);

/// When the memory's life began, and whether anything can have been lost then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Birth {
    /// The life.
    pub epoch: Epoch,
    /// Its beginning.
    pub at: Moment,
    /// Nothing was remembered before: no job was under way.
    pub is_clean: bool,
}

/// One claim: a worker and a number of the claim's own. Never a process alone: two claims of one worker are two holders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claimant {
    /// The worker's random id.
    pub worker: u128,
    /// The number of the claim within the worker.
    pub number: u64,
}

/// A claim that holds a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// Whose claim.
    pub claimant: Claimant,
    /// When its lease runs out, unless renewed.
    pub until: Moment,
}

/// What finishes a step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finished<R> {
    /// The step's work stands.
    Done(R),
    /// The service, or our own check, said no.
    Refused(R),
}

/// A person's wish that the job be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Wish {
    /// When it was written.
    pub at: Moment,
}

/// What memory knows of one job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record<R, E> {
    /// The life of the memory that this was written in.
    pub epoch: Epoch,
    /// The content that the job's id stands for.
    pub hash: Sha256,
    /// The latest place that was claimed.
    pub place: Place,
    /// Who has it.
    pub holder: Option<Holder>,
    /// Claims of this place in a row whose lease ran out.
    pub lost: u32,
    /// Panics of this place in a row.
    #[serde(default)]
    pub panics: u32,
    /// Since when the job may have called without anybody remembering: for its whole rest.
    pub suspect_since: Option<Moment>,
    /// The pause of a job that lost its record: no write before, so that a wish can reach it.
    pub write_not_before: Option<Moment>,
    /// A write that cannot be repeated was begun, and its outcome is not known to be "not executed".
    pub begun_at: Option<Moment>,
    /// When that write was seen to end without a usable answer.
    pub seen_to_end: Option<Moment>,
    /// A look proved that the write left nothing.
    pub absent: bool,
    /// What finished the step.
    pub result: Option<Finished<R>>,
    /// Somebody wants it cancelled.
    pub wish: Option<Wish>,
    /// How this generation ended.
    pub end: Option<E>,
}

impl<R, E> Record<R, E> {
    /// Must the service be looked at before the step's write?
    ///
    /// When the job is suspect, or a write was begun and has no result; not when a look has proved absence.
    #[must_use]
    pub fn needs_look(&self) -> bool {
        self.result.is_none() && !self.absent && (self.suspect_since.is_some() || self.begun_at.is_some())
    }

    fn is_held_by(&self, claimant: Claimant) -> bool {
        self.holder.is_some_and(|holder| holder.claimant == claimant)
    }
}

/// What `load` brings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Loaded<R, E> {
    /// The record, of whatever epoch.
    pub record: Option<Record<R, E>>,
    /// Its version, for the swap; 0 when there is none.
    pub version: u64,
    /// The memory's life.
    pub birth: Birth,
    /// The memory's clock.
    pub now: Moment,
    /// Does the record's holder still live?
    pub holder_lives: bool,
}

impl<R, E> Loaded<R, E> {
    /// The record, when it is of this epoch: one of another counts as unknown.
    #[must_use]
    pub fn known(&self) -> Option<&Record<R, E>> {
        self.record.as_ref().filter(|record| record.epoch == self.birth.epoch)
    }
}

/// The times that the protocol needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long a claim holds without renewal.
    pub lease: Duration,
    /// How long after an unclean birth a job's first arrival is suspect.
    pub memory_grace: Duration,
    /// The pause of a job that lost its record, before any write.
    pub lost_record_pause: Duration,
    /// The claim in a row of one place whose lease ran out that makes the job poison.
    pub poison_after: u32,
    /// The panic in a row of one place that makes the job poison.
    pub poison_after_panics: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            memory_grace: Duration::from_secs(3600),
            lost_record_pause: Duration::from_secs(60),
            poison_after: 5,
            poison_after_panics: 2,
        }
    }
}

/// A ticket as it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Arrival {
    /// Where it stands.
    pub place: Place,
    /// The content of its job.
    pub hash: Sha256,
    /// Was it a producer's message, which may bring other content under the same id?
    pub is_intake: bool,
    /// Redelivered, or marked by whoever handed it on.
    pub is_suspect: bool,
}

/// What a claim decides.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and its record is written at once")]
pub enum Claim<R, E> {
    /// The id stands for other content: `refused`, settle.
    OtherContent,
    /// This generation has ended: announce its end again, settle.
    Ended {
        /// The recorded end.
        end: E,
        /// Does the ticket stand before the place where the job ended?
        is_before: bool,
    },
    /// A later ticket of this job was in the broker before: settle, nothing else.
    Stale,
    /// Somebody alive has this very place: park the same ticket.
    Busy {
        /// When the holder's lease runs out.
        until: Moment,
    },
    /// Write this record; then the place is taken.
    Take {
        /// The record to write.
        record: Record<R, E>,
        /// Too many claims of this place were lost in a row: end the job before it is touched.
        is_poison: bool,
        /// A claim whose holder died was taken over.
        is_takeover: bool,
    },
}

/// Decides what becomes of a received ticket.
#[must_use]
pub fn claim<R: Clone, E: Clone>(
    loaded: &Loaded<R, E>,
    arrival: &Arrival,
    claimant: Claimant,
    policy: &Policy,
) -> Claim<R, E> {
    let holder = Some(Holder { claimant, until: loaded.now.after(policy.lease) });
    let Some(known) = loaded.known() else {
        let record = Record { holder, ..unknown(loaded, arrival, policy) };
        return Claim::Take { record, is_poison: false, is_takeover: false };
    };
    if arrival.is_intake && arrival.hash != known.hash {
        return Claim::OtherContent;
    }
    if let Some(end) = &known.end
        && arrival.place.generation == known.place.generation
    {
        return Claim::Ended { end: end.clone(), is_before: arrival.place < known.place };
    }
    if arrival.place < known.place {
        return Claim::Stale;
    }
    if arrival.place == known.place {
        return match known.holder {
            Some(holder) if loaded.holder_lives => Claim::Busy { until: holder.until },
            before => {
                let lost = if before.is_some() { known.lost.saturating_add(1) } else { known.lost };
                Claim::Take {
                    record: Record { holder, lost, ..known.clone() },
                    is_poison: lost >= policy.poison_after || known.panics >= policy.poison_after_panics,
                    is_takeover: before.is_some(),
                }
            }
        };
    }
    let record = Record { holder, place: arrival.place, lost: 0, panics: 0, ..advance(loaded.now, known, arrival) };
    Claim::Take { record, is_poison: false, is_takeover: false }
}

/// The record of a job that this memory does not know.
fn unknown<R, E>(loaded: &Loaded<R, E>, arrival: &Arrival, policy: &Policy) -> Record<R, E> {
    let birth = &loaded.birth;
    let in_grace = !birth.is_clean && loaded.now < birth.at.after(policy.memory_grace);
    let is_suspect = arrival.place > Place::FIRST || arrival.is_suspect || in_grace;
    let since = if birth.is_clean { loaded.now } else { birth.at };
    Record {
        epoch: birth.epoch,
        hash: arrival.hash,
        place: arrival.place,
        holder: None,
        lost: 0,
        panics: 0,
        suspect_since: is_suspect.then_some(since),
        write_not_before: is_suspect.then(|| loaded.now.after(policy.lost_record_pause)),
        begun_at: None,
        seen_to_end: None,
        absent: false,
        result: None,
        wish: None,
        end: None,
    }
}

/// What a known record keeps when a later place is claimed.
fn advance<R: Clone, E: Clone>(now: Moment, known: &Record<R, E>, arrival: &Arrival) -> Record<R, E> {
    let is_same_step = arrival.place.step == known.place.step;
    if arrival.place.generation > known.place.generation {
        let in_doubt = known.suspect_since.is_some() || (known.begun_at.is_some() && known.result.is_none());
        let is_settled = known.end.is_some() && !in_doubt && is_same_step;
        let (begun_at, seen_to_end, result) = match &known.result {
            Some(Finished::Done(_)) if is_same_step => (known.begun_at, known.seen_to_end, known.result.clone()),
            Some(Finished::Refused(_)) => (None, None, None),
            Some(Finished::Done(_)) | None => (known.begun_at.filter(|_| is_same_step), known.seen_to_end, None),
        };
        return Record {
            suspect_since: if is_settled { None } else { known.suspect_since.or(Some(now)) },
            begun_at,
            seen_to_end,
            result,
            absent: false,
            wish: None,
            end: None,
            ..known.clone()
        };
    }
    if is_same_step {
        return known.clone();
    }
    Record { begun_at: None, seen_to_end: None, result: None, absent: false, ..known.clone() }
}

/// Why an operation of a holder is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Another claim has the record, or nobody remembers this one.
    #[error("this claim no longer holds the job's record")]
    NotHolder,
    /// The step's write may have happened already: look first.
    #[error("the step is in doubt: look before the call")]
    InDoubt,
}

fn held<R, E>(loaded: &Loaded<R, E>, claimant: Claimant) -> Result<&Record<R, E>, Denied> {
    loaded.known().filter(|record| record.is_held_by(claimant)).ok_or(Denied::NotHolder)
}

/// Right before the first byte of a write that cannot be repeated: marks it, and renews the lease in the same write.
///
/// # Errors
/// [`Denied::NotHolder`]; [`Denied::InDoubt`] when a look must come first.
pub fn begin<R: Clone, E: Clone>(
    loaded: &Loaded<R, E>,
    claimant: Claimant,
    policy: &Policy,
) -> Result<Record<R, E>, Denied> {
    let known = held(loaded, claimant)?;
    if known.needs_look() || known.result.is_some() {
        return Err(Denied::InDoubt);
    }
    let holder = Some(Holder { claimant, until: loaded.now.after(policy.lease) });
    Ok(Record { holder, begun_at: Some(loaded.now), seen_to_end: None, absent: false, ..known.clone() })
}

/// What a call, or a look, has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<R> {
    /// It finishes the step.
    Finished(Finished<R>),
    /// Certainly not executed: 429, 401, nothing sent.
    NotExecuted,
    /// No usable answer: what became of the call must be looked up.
    Unclear,
    /// A look proved that the call left nothing.
    Absent,
    /// Nothing worth keeping: a poll without change, a look that decides nothing.
    Nothing,
}

/// Writes down what was shown. Whoever gets so far has a healthy claim: nothing counts as lost any more.
///
/// # Errors
/// [`Denied::NotHolder`].
pub fn record<R: Clone, E: Clone>(
    loaded: &Loaded<R, E>,
    claimant: Claimant,
    outcome: Outcome<R>,
) -> Result<Record<R, E>, Denied> {
    let mut record = Record { lost: 0, panics: 0, ..held(loaded, claimant)?.clone() };
    match outcome {
        Outcome::Finished(finished) => record.result = Some(finished),
        Outcome::NotExecuted => {
            record.begun_at = None;
            record.seen_to_end = None;
        }
        Outcome::Unclear => record.seen_to_end = Some(loaded.now),
        Outcome::Absent => record.absent = true,
        Outcome::Nothing => {}
    }
    Ok(record)
}

/// Ends this generation. The first outcome stays: the end that is returned is the one to announce.
///
/// # Errors
/// [`Denied::NotHolder`].
pub fn end<R: Clone, E: Clone>(loaded: &Loaded<R, E>, claimant: Claimant, end: E) -> Result<(Record<R, E>, E), Denied> {
    let known = held(loaded, claimant)?;
    let first = known.end.clone().unwrap_or(end);
    Ok((Record { end: Some(first.clone()), ..known.clone() }, first))
}

/// Prolongs the lease.
///
/// # Errors
/// [`Denied::NotHolder`].
pub fn renew<R: Clone, E: Clone>(
    loaded: &Loaded<R, E>,
    claimant: Claimant,
    policy: &Policy,
) -> Result<Record<R, E>, Denied> {
    let known = held(loaded, claimant)?;
    Ok(Record { holder: Some(Holder { claimant, until: loaded.now.after(policy.lease) }), ..known.clone() })
}

/// Lets the record go after the same place was parked or given back; a healthy end of a claim, so nothing counts as lost.
///
/// # Errors
/// [`Denied::NotHolder`].
pub fn let_go<R: Clone, E: Clone>(loaded: &Loaded<R, E>, claimant: Claimant) -> Result<Record<R, E>, Denied> {
    Ok(Record { holder: None, lost: 0, panics: 0, ..held(loaded, claimant)?.clone() })
}

/// Lets the record go after a panic, which counts as a lost claim.
///
/// # Errors
/// [`Denied::NotHolder`].
pub fn panicked<R: Clone, E: Clone>(loaded: &Loaded<R, E>, claimant: Claimant) -> Result<Record<R, E>, Denied> {
    let known = held(loaded, claimant)?;
    Ok(Record {
        holder: None,
        lost: known.lost.saturating_add(1),
        panics: known.panics.saturating_add(1),
        ..known.clone()
    })
}

/// What a control ticket finds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and its record is written at once")]
pub enum Wished<R, E> {
    /// Write this record; then the wish is there.
    Write(Record<R, E>),
    /// The wish stands already.
    Stands,
    /// Nobody has claimed the job in this epoch, or it is at an earlier generation: come again later.
    TooEarly,
    /// The generation has ended, or a later one runs: the control ticket has nothing left to do.
    Void,
}

/// Writes a wish into a record that a claim has made in this epoch; it never makes one.
///
/// Without a generation it takes the first that it meets.
#[must_use]
pub fn wish<R: Clone, E: Clone>(loaded: &Loaded<R, E>, generation: Option<u32>) -> Wished<R, E> {
    let Some(known) = loaded.known() else { return Wished::TooEarly };
    let wanted = generation.unwrap_or(known.place.generation);
    if wanted > known.place.generation {
        return Wished::TooEarly;
    }
    if wanted < known.place.generation || known.end.is_some() {
        return Wished::Void;
    }
    if known.wish.is_some() {
        return Wished::Stands;
    }
    Wished::Write(Record { wish: Some(Wish { at: loaded.now }), ..known.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Loaded = super::Loaded<u8, u8>;

    const POLICY: Policy = Policy {
        lease: Duration::from_secs(60),
        memory_grace: Duration::from_secs(3600),
        lost_record_pause: Duration::from_secs(60),
        poison_after: 5,
        poison_after_panics: 2,
    };
    const ME: Claimant = Claimant { worker: 1, number: 1 };
    const OTHER: Claimant = Claimant { worker: 2, number: 1 };

    fn memory(record: Option<Record<u8, u8>>) -> Loaded {
        let birth = Birth { epoch: Epoch(1), at: Moment::from_millis(0), is_clean: true };
        Loaded { record, version: 1, birth, now: Moment::from_millis(1_000), holder_lives: true }
    }

    fn ticket(step: u16, r#try: u32) -> Arrival {
        let place = Place { generation: 1, step, r#try };
        Arrival { place, hash: Sha256::of(b"job"), is_intake: place == Place::FIRST, is_suspect: false }
    }

    fn take(loaded: &Loaded, arrival: &Arrival, claimant: Claimant) -> Record<u8, u8> {
        match claim(loaded, arrival, claimant, &POLICY) {
            Claim::Take { record, .. } => record,
            other @ (Claim::OtherContent | Claim::Ended { .. } | Claim::Stale | Claim::Busy { .. }) => {
                panic!("{other:?}")
            }
        }
    }

    #[test]
    fn a_new_job_is_taken_without_suspicion() {
        let record = take(&memory(None), &ticket(0, 0), ME);
        assert!(!record.needs_look());
        assert_eq!(record.place, Place::FIRST);
    }

    #[test]
    fn an_unknown_job_past_its_first_place_looks_before_it_writes() {
        for arrival in [ticket(10, 0), ticket(0, 1), Arrival { is_suspect: true, ..ticket(0, 0) }] {
            let record = take(&memory(None), &arrival, ME);
            assert!(record.needs_look(), "{arrival:?}");
            assert_eq!(record.write_not_before, Some(Moment::from_millis(61_000)));
        }
    }

    #[test]
    fn a_record_of_another_epoch_counts_as_unknown() {
        let mut old = take(&memory(None), &ticket(0, 0), OTHER);
        old.epoch = Epoch(0);
        let record = take(&memory(Some(old)), &ticket(0, 1), ME);
        assert!(record.needs_look());
    }

    #[test]
    fn a_job_that_arrives_soon_after_an_unclean_birth_is_suspect_and_later_it_is_not() {
        let mut loaded = memory(None);
        loaded.birth.is_clean = false;
        assert!(take(&loaded, &ticket(0, 0), ME).needs_look());
        loaded.now = Moment::from_millis(3_600_000);
        assert!(!take(&loaded, &ticket(0, 0), ME).needs_look());
    }

    #[test]
    fn the_same_place_is_busy_while_its_holder_lives_and_a_later_place_takes_over_at_once() {
        let held = take(&memory(None), &ticket(10, 0), OTHER);
        let mut loaded = memory(Some(held));
        assert!(matches!(claim(&loaded, &ticket(10, 0), ME, &POLICY), Claim::Busy { .. }));
        assert_eq!(take(&loaded, &ticket(20, 0), ME).place.step, 20);
        assert_eq!(claim(&loaded, &ticket(0, 0), ME, &POLICY), Claim::Stale);
        loaded.holder_lives = false;
        assert_eq!(take(&loaded, &ticket(10, 0), ME).lost, 1);
    }

    #[test]
    fn the_fifth_lost_claim_in_a_row_is_poison_and_letting_go_forgives() {
        let mut loaded = memory(None);
        for turn in 0..6 {
            let Claim::Take { record, is_poison, .. } = claim(&loaded, &ticket(10, 0), ME, &POLICY) else { panic!() };
            assert_eq!(is_poison, turn == 5, "claim {turn}");
            loaded = Loaded { holder_lives: false, ..memory(Some(record)) };
        }
        let record = let_go(&loaded, ME).unwrap();
        let Claim::Take { is_poison, .. } = claim(&memory(Some(record)), &ticket(10, 0), ME, &POLICY) else { panic!() };
        assert!(!is_poison);
    }

    #[test]
    fn begin_is_for_the_holder_alone_and_never_in_doubt() {
        let record = take(&memory(None), &ticket(0, 0), ME);
        let begun = begin(&memory(Some(record.clone())), ME, &POLICY).unwrap();
        assert_eq!(begin(&memory(Some(record)), OTHER, &POLICY), Err(Denied::NotHolder));
        assert_eq!(begin(&memory(Some(begun.clone())), ME, &POLICY), Err(Denied::InDoubt));
        let unclear = super::record(&memory(Some(begun)), ME, Outcome::Unclear).unwrap();
        assert!(take(&memory(Some(unclear.clone())), &ticket(0, 1), ME).needs_look());
        let absent = super::record(&memory(Some(unclear)), ME, Outcome::Absent).unwrap();
        assert!(begin(&memory(Some(absent)), ME, &POLICY).is_ok());
    }

    #[test]
    fn the_first_end_stays_and_is_announced_again_by_whoever_comes_later() {
        let record = take(&memory(None), &ticket(10, 0), ME);
        let (record, first) = end(&memory(Some(record)), ME, 7).unwrap();
        assert_eq!(first, 7);
        let (record, second) = end(&memory(Some(record)), ME, 8).unwrap();
        assert_eq!(second, 7);
        let loaded = memory(Some(record));
        assert_eq!(claim(&loaded, &ticket(10, 0), OTHER, &POLICY), Claim::Ended { end: 7, is_before: false });
        assert_eq!(claim(&loaded, &ticket(0, 0), OTHER, &POLICY), Claim::Ended { end: 7, is_before: true });
    }

    #[test]
    fn other_content_under_the_same_id_is_refused() {
        let record = take(&memory(None), &ticket(0, 0), ME);
        let stranger = Arrival { hash: Sha256::of(b"other"), ..ticket(0, 0) };
        assert_eq!(claim(&memory(Some(record)), &stranger, ME, &POLICY), Claim::OtherContent);
    }

    #[test]
    fn a_retry_after_a_plain_refusal_goes_on_at_once_and_one_in_doubt_looks() {
        let record = take(&memory(None), &ticket(0, 0), ME);
        let refused =
            super::record(&memory(Some(record.clone())), ME, Outcome::Finished(Finished::Refused(1))).unwrap();
        let (ended, _) = end(&memory(Some(refused)), ME, 7).unwrap();
        let again = Arrival { place: ended.place.next_generation(), is_intake: false, ..ticket(0, 0) };
        let retried = take(&memory(Some(ended)), &again, ME);
        assert!(!retried.needs_look() && retried.result.is_none() && retried.end.is_none());

        let begun = begin(&memory(Some(record)), ME, &POLICY).unwrap();
        let (ended, _) = end(&memory(Some(begun)), ME, 7).unwrap();
        assert!(take(&memory(Some(ended)), &again, ME).needs_look());
    }

    #[test]
    fn a_wish_never_makes_a_record_and_never_outlives_its_generation() {
        assert_eq!(wish(&memory(None), None), Wished::TooEarly);
        let record = take(&memory(None), &ticket(0, 0), ME);
        let Wished::Write(wished) = wish(&memory(Some(record)), None) else { panic!() };
        let (ended, _) = end(&memory(Some(wished)), ME, 7).unwrap();
        assert_eq!(wish(&memory(Some(ended.clone())), Some(1)), Wished::Void);
        assert_eq!(wish(&memory(Some(ended)), Some(2)), Wished::TooEarly);
    }
}
