//! The protocol's rules, each of which can be left out: emulated around `domain/claim.rs`, which stays as it is.

use longshore::domain::{
    claim::{self, Arrival, Claim, Claimant, Denied, Loaded, Outcome, Policy, Record},
    step::Place,
};

/// A rule of docs/protocol.md that a search leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    HolderIsOneClaim,
    AnnounceAgain,
    SetAsideAgain,
    StaleIsDropped,
    PlaceIsTakenAtClaim,
    LaterTryKeeps,
    FirstEndStays,
    OtherEpochIsUnknown,
    BirthMarkIsWrittenAnew,
    SuspectForTheRest,
    SuspectPastFirstPlace,
    SuspectOfGeneration,
    SuspectWhenMarked,
    SuspectInGrace,
    DoubtOutlivesGeneration,
    AbsenceOnlyInLastLook,
    AbsenceIsRecorded,
    PauseOfLostRecord,
    NextTicketBeforeAck,
    EveryParkIsMarked,
    UnclaimedEndsNothing,
}

impl Rule {
    /// The rules marked ‡ in the protocol, then others that the search shows to be needed.
    pub(crate) const ALL: [Self; 21] = [
        Self::HolderIsOneClaim,
        Self::AnnounceAgain,
        Self::SetAsideAgain,
        Self::StaleIsDropped,
        Self::PlaceIsTakenAtClaim,
        Self::LaterTryKeeps,
        Self::FirstEndStays,
        Self::OtherEpochIsUnknown,
        Self::BirthMarkIsWrittenAnew,
        Self::SuspectForTheRest,
        Self::SuspectPastFirstPlace,
        Self::SuspectOfGeneration,
        Self::SuspectWhenMarked,
        Self::SuspectInGrace,
        Self::DoubtOutlivesGeneration,
        Self::AbsenceOnlyInLastLook,
        Self::AbsenceIsRecorded,
        Self::PauseOfLostRecord,
        Self::NextTicketBeforeAck,
        Self::EveryParkIsMarked,
        Self::UnclaimedEndsNothing,
    ];

    /// The rule in words.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::HolderIsOneClaim => "‡ a holder is one claim, never a process",
            Self::AnnounceAgain => "‡ ended: the end is announced again",
            Self::SetAsideAgain => "‡ ended: the ticket is set aside again",
            Self::StaleIsDropped => "‡ a stale ticket is settled, nothing else",
            Self::PlaceIsTakenAtClaim => "‡ the place is taken at the claim, not at the record",
            Self::LaterTryKeeps => "‡ a later try keeps begun_at and result",
            Self::FirstEndStays => "‡ the first end stays",
            Self::OtherEpochIsUnknown => "‡ a record of another epoch is unknown",
            Self::BirthMarkIsWrittenAnew => "‡ a birth mark naming another id is written anew",
            Self::SuspectForTheRest => "‡ an unknown job is suspect for its whole rest",
            Self::SuspectPastFirstPlace => "‡ unknown and past the first place: suspect",
            Self::SuspectOfGeneration => "‡ unknown and of a later generation: suspect",
            Self::SuspectWhenMarked => "‡ unknown and redelivered or marked: suspect",
            Self::SuspectInGrace => "‡ unknown soon after an unclean birth: suspect",
            Self::DoubtOutlivesGeneration => "  a later generation looks when the one before is in doubt",
            Self::AbsenceOnlyInLastLook => "  absence counts in the last look only",
            Self::AbsenceIsRecorded => "  proven absence is recorded",
            Self::PauseOfLostRecord => "  a job that lost its record waits before it writes",
            Self::NextTicketBeforeAck => "  the next ticket is confirmed before the ack",
            Self::EveryParkIsMarked => "  every parked ticket is marked",
            Self::UnclaimedEndsNothing => "  an unclaimed poll announces no end",
        }
    }
}

/// The rules in force: all, or all but one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The one that is left out.
    pub(crate) without: Option<Rule>,
}

impl Rules {
    /// Is this rule in force?
    pub(crate) fn has(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// What every operation sees of the memory.
    pub(crate) fn see(self, mut loaded: Loaded<u8, u8>) -> Loaded<u8, u8> {
        let epoch = loaded.birth.epoch;
        if let Some(record) = &mut loaded.record {
            if !self.has(Rule::OtherEpochIsUnknown) {
                record.epoch = epoch;
            }
            if !self.has(Rule::FirstEndStays) {
                record.end = None;
            }
        }
        loaded
    }

    /// `claim`, and what the rule that is left out makes of it.
    pub(crate) fn claim(
        self,
        loaded: &Loaded<u8, u8>,
        arrival: &Arrival,
        me: Claimant,
        policy: &Policy,
    ) -> Claim<u8, u8> {
        let mut decided = claim::claim(loaded, arrival, me, policy);
        let Some(without) = self.without else { return decided };
        let known = loaded.known();
        if without == Rule::StaleIsDropped
            && let (Claim::Stale, Some(known)) = (&decided, known)
        {
            let fresh = Loaded { record: None, ..loaded.clone() };
            decided = claim::claim(&fresh, arrival, me, policy);
            if let Claim::Take { record, .. } = &mut decided {
                record.suspect_since = known.suspect_since;
                record.write_not_before = None;
            }
            return decided;
        }
        let Claim::Take { record, .. } = &mut decided else { return decided };
        match known {
            None => self.doubt_unknown(loaded, arrival, record),
            Some(known) => {
                let is_same_generation = arrival.place.generation == known.place.generation;
                let is_same_step = arrival.place.step == known.place.step;
                if without == Rule::LaterTryKeeps && is_same_generation && is_same_step && arrival.place > known.place {
                    record.begun_at = None;
                    record.seen_to_end = None;
                    record.result = None;
                }
                if without == Rule::SuspectForTheRest && !is_same_step {
                    record.suspect_since = None;
                }
                if without == Rule::DoubtOutlivesGeneration && !is_same_generation && record.result.is_none() {
                    record.suspect_since = None;
                    record.begun_at = None;
                }
                if without == Rule::PlaceIsTakenAtClaim {
                    record.place = known.place;
                }
            }
        }
        decided
    }

    /// The reasons for which an unknown job is suspect, without the one that is left out.
    fn doubt_unknown(self, loaded: &Loaded<u8, u8>, arrival: &Arrival, record: &mut Record<u8, u8>) {
        let first = Place { generation: arrival.place.generation, ..Place::FIRST };
        let reasons = [
            (Rule::SuspectPastFirstPlace, arrival.place > first),
            (Rule::SuspectOfGeneration, arrival.place.generation > 1),
            (Rule::SuspectWhenMarked, arrival.is_suspect),
            (Rule::SuspectInGrace, !loaded.birth.is_clean),
        ];
        if reasons.iter().any(|(rule, _)| !self.has(*rule)) && !reasons.iter().any(|(rule, is)| *is && self.has(*rule))
        {
            record.suspect_since = None;
            record.write_not_before = None;
        }
        if !self.has(Rule::PauseOfLostRecord) {
            record.write_not_before = None;
        }
    }

    /// `record`; `next` is the place that the handler will hand on to.
    pub(crate) fn record(
        self,
        loaded: &Loaded<u8, u8>,
        me: Claimant,
        outcome: Outcome<u8>,
        next: Option<Place>,
    ) -> Result<Record<u8, u8>, Denied> {
        let outcome = match outcome {
            Outcome::Absent if !self.has(Rule::AbsenceIsRecorded) => Outcome::Nothing,
            Outcome::Absent | Outcome::Finished(_) | Outcome::NotExecuted | Outcome::Unclear | Outcome::Nothing => {
                outcome
            }
        };
        let mut record = claim::record(loaded, me, outcome)?;
        if !self.has(Rule::PlaceIsTakenAtClaim)
            && let Some(next) = next
        {
            record.place = next;
        }
        Ok(record)
    }
}
