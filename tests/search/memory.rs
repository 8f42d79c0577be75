//! One memory of one job, without instants: a record as the model keeps it and as `domain/claim.rs` sees it.
//!
//! Time is left out: an instant is there or not there. A record's holder is nobody, a claim whose handler still runs
//! (the handler knows that it is the one) or one whose handler is gone.

use longshore::domain::{
    claim::{Birth, Claimant, Epoch, Finished, Holder, Loaded, Record, Wish},
    ids::Sha256,
    step::Place,
    time::Moment,
};

use crate::world::Ticket;

/// The memory's present; what was written before it counts as past.
pub(crate) const NOW: Moment = Moment::from_millis(1_000_000);
const PAST: Moment = Moment::from_millis(1);
const FUTURE: Moment = Moment::from_millis(9_000_000);

/// The claim of a handler that is gone.
pub(crate) const GONE: Claimant = Claimant { worker: 99, number: 99 };

/// The job's content; one job has one.
pub(crate) const HASH: Sha256 = Sha256::from_bytes([7; 32]);

/// The outcomes of a generation.
pub(crate) mod outcome {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const COMPLETED: u8 = 1;
    pub(crate) const FAILED: u8 = 2;
    pub(crate) const CANCELLED: u8 = 3;
    pub(crate) const TIMED_OUT: u8 = 4;
    pub(crate) const DEAD_LETTERED: u8 = 5;
}

/// The pauses of a record.
pub(crate) mod pause {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const TO_COME: u8 = 1;
    pub(crate) const PASSED: u8 = 2;
}

/// Who holds a remembered record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Nobody,
    /// A handler whose `holds` says so.
    Running,
    /// A claim whose handler is gone.
    Gone,
}

/// A record without its instants.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "a state of the model is made of flags")]
pub(crate) struct Remembered {
    pub(crate) is_of_this_epoch: bool,
    pub(crate) place: Place,
    pub(crate) held: Held,
    pub(crate) lost: u8,
    pub(crate) panics: u8,
    pub(crate) is_suspect: bool,
    /// None, still to come, passed.
    pub(crate) pause: u8,
    pub(crate) is_begun: bool,
    pub(crate) is_seen_to_end: bool,
    pub(crate) is_absent: bool,
    /// Which step (in the turns: which product) a result names, and whether it was a refusal.
    pub(crate) result: Option<(u8, bool)>,
    pub(crate) is_wished: bool,
    pub(crate) end: u8,
}

/// One memory: the record, and whether its birth was unclean and less than `memory_grace` ago.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) record: Option<Remembered>,
    pub(crate) is_in_grace: bool,
}

impl Memory {
    /// What `load` brings; `running` is the claim that holds the record, when its handler still runs.
    pub(crate) fn load(&self, running: impl Fn() -> Option<Claimant>, lives: bool) -> Loaded<u8, u8> {
        let birth = Birth { epoch: Epoch(2), at: Moment::from_millis(0), is_clean: !self.is_in_grace };
        let then = |is: bool| is.then_some(PAST);
        let record = self.record.as_ref().map(|record| Record {
            epoch: if record.is_of_this_epoch { Epoch(2) } else { Epoch(1) },
            hash: HASH,
            place: record.place,
            holder: match record.held {
                Held::Nobody => None,
                Held::Running => running(),
                Held::Gone => Some(GONE),
            }
            .map(|claimant| Holder { claimant, until: NOW }),
            lost: u32::from(record.lost),
            panics: u32::from(record.panics),
            suspect_since: then(record.is_suspect),
            write_not_before: match record.pause {
                pause::NONE => None,
                pause::TO_COME => Some(FUTURE),
                _ => Some(PAST),
            },
            begun_at: then(record.is_begun),
            seen_to_end: then(record.is_seen_to_end),
            absent: record.is_absent,
            result: record.result.map(|(of, no)| if no { Finished::Refused(of) } else { Finished::Done(of) }),
            wish: record.is_wished.then_some(Wish { at: PAST }),
            end: (record.end != outcome::NONE).then_some(record.end),
        });
        Loaded { version: u64::from(record.is_some()), record, birth, now: NOW, holder_lives: lives }
    }

    /// Keeps a record, without its instants.
    pub(crate) fn keep(&mut self, record: &Record<u8, u8>) {
        self.record = Some(Remembered {
            is_of_this_epoch: record.epoch == Epoch(2),
            place: record.place,
            held: match record.holder {
                None => Held::Nobody,
                Some(holder) if holder.claimant == GONE => Held::Gone,
                Some(_) => Held::Running,
            },
            lost: u8::try_from(record.lost).unwrap(),
            panics: u8::try_from(record.panics).unwrap(),
            is_suspect: record.suspect_since.is_some(),
            pause: match record.write_not_before {
                None => pause::NONE,
                Some(until) if until > NOW => pause::TO_COME,
                Some(_) => pause::PASSED,
            },
            is_begun: record.begun_at.is_some(),
            is_seen_to_end: record.seen_to_end.is_some(),
            is_absent: record.absent,
            result: record.result.as_ref().map(|result| match result {
                Finished::Done(of) => (*of, false),
                Finished::Refused(of) => (*of, true),
            }),
            is_wished: record.wish.is_some(),
            end: record.end.unwrap_or(outcome::NONE),
        });
    }

    pub(crate) fn pack(&self) -> u32 {
        let grace = u32::from(self.is_in_grace) << 31;
        let Some(record) = &self.record else { return grace };
        let place = Ticket::at(record.place).pack();
        let held = match record.held {
            Held::Nobody => 0,
            Held::Running => 1,
            Held::Gone => 2,
        };
        let result =
            record.result.map_or(0, |(step, is_refusal)| 1 | u32::from(is_refusal) << 1 | u32::from(step) << 2);
        assert!(record.lost < 8 && record.panics < 4, "a bound of the model is too small: lost claims");
        u32::from(place)
            | held << 7
            | u32::from(record.lost) << 9
            | u32::from(record.panics) << 12
            | u32::from(record.is_suspect) << 14
            | u32::from(record.pause) << 15
            | u32::from(record.is_begun) << 17
            | u32::from(record.is_seen_to_end) << 18
            | u32::from(record.is_absent) << 19
            | result << 20
            | u32::from(record.is_wished) << 24
            | u32::from(record.end) << 25
            | u32::from(record.is_of_this_epoch) << 28
            | grace
    }

    pub(crate) fn unpack(bits: u32) -> Self {
        let is = |bit: u32| bits >> bit & 1 == 1;
        let is_in_grace = is(31);
        if bits << 1 == 0 {
            return Self { record: None, is_in_grace };
        }
        let record = Remembered {
            is_of_this_epoch: is(28),
            place: Ticket::unpack((bits & 0x7f) as u16).place,
            held: [Held::Nobody, Held::Running, Held::Gone, Held::Gone][(bits >> 7 & 3) as usize],
            lost: (bits >> 9 & 7) as u8,
            panics: (bits >> 12 & 3) as u8,
            is_suspect: is(14),
            pause: (bits >> 15 & 3) as u8,
            is_begun: is(17),
            is_seen_to_end: is(18),
            is_absent: is(19),
            result: is(20).then_some(((bits >> 22 & 3) as u8, is(21))),
            is_wished: is(24),
            end: (bits >> 25 & 7) as u8,
        };
        Self { record: Some(record), is_in_grace }
    }
}
