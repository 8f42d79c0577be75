//! The mixes of faults that are searched, and which of them finds which rule that is left out.

use crate::{
    job::Mix,
    rules::Rule,
    turns::{TurnRule, Turns},
    world::Faults,
};

const NO_FAULTS: Faults = Faults {
    kills: 0,
    cuts: 0,
    lost_answers: 0,
    throttles: 0,
    losses: 0,
    duplicates: 0,
    twice: 0,
    retries: 0,
    failovers: 0,
    splits: 0,
    ends: 0,
    deadlines: 0,
    cancels: 0,
    panics: 0,
    silences: 0,
};

const ONE_CREATE: Mix = Mix {
    name: "",
    creates: 1,
    workers: &[0, 1],
    faults: NO_FAULTS,
    is_quota_scarce: false,
    early_looks: 1,
    may_copies_end_anew: false,
    poison_after: 5,
    at_least: 0,
};

const TWO_CREATES: Mix = Mix { creates: 2, ..ONE_CREATE };

/// One job; the numbers of states are those of the day when the mix was written, less a tenth.
pub(crate) const MIXES: [Mix; 12] = [
    Mix {
        name: "kill, cut, lost answer, 429",
        faults: Faults { kills: 1, cuts: 1, lost_answers: 1, throttles: 1, ..NO_FAULTS },
        at_least: 300_000,
        ..ONE_CREATE
    },
    Mix {
        name: "kill, cut, lost answer; both handlers in one worker",
        workers: &[0, 0],
        faults: Faults { kills: 1, cuts: 1, lost_answers: 1, ..NO_FAULTS },
        at_least: 180_000,
        ..ONE_CREATE
    },
    Mix {
        name: "two creates: kill, loss of memory, cut",
        faults: Faults { kills: 1, cuts: 1, losses: 1, ..NO_FAULTS },
        at_least: 430_000,
        ..TWO_CREATES
    },
    Mix {
        name: "two creates: kill, loss, duplicate, ticket twice",
        faults: Faults { kills: 1, losses: 1, duplicates: 1, twice: 1, ..NO_FAULTS },
        early_looks: 0,
        at_least: 500_000,
        ..TWO_CREATES
    },
    Mix {
        name: "fail-over that keeps the birth mark, duplicate",
        workers: &[0, 1, 2],
        faults: Faults { failovers: 1, duplicates: 1, ..NO_FAULTS },
        at_least: 7_000,
        ..ONE_CREATE
    },
    Mix {
        name: "two creates: the same fail-over, kill, 429, no permit",
        faults: Faults { failovers: 1, kills: 1, throttles: 1, ..NO_FAULTS },
        is_quota_scarce: true,
        at_least: 700_000,
        ..TWO_CREATES
    },
    Mix {
        name: "cancel, loss, cut",
        faults: Faults { cancels: 1, losses: 1, cuts: 1, ..NO_FAULTS },
        at_least: 105_000,
        ..ONE_CREATE
    },
    Mix {
        name: "end, retry, kill, loss",
        faults: Faults { ends: 1, retries: 1, kills: 1, losses: 1, ..NO_FAULTS },
        at_least: 55_000,
        ..ONE_CREATE
    },
    Mix {
        name: "split memory, cut, duplicate",
        faults: Faults { splits: 1, cuts: 1, duplicates: 1, ..NO_FAULTS },
        at_least: 420_000,
        ..ONE_CREATE
    },
    Mix {
        name: "deadline, 2 kills, cut",
        faults: Faults { deadlines: 1, kills: 2, cuts: 1, ..NO_FAULTS },
        at_least: 250_000,
        ..ONE_CREATE
    },
    Mix {
        name: "2 panics, kill, lost answer; poison at the second",
        faults: Faults { panics: 2, kills: 1, lost_answers: 1, ..NO_FAULTS },
        poison_after: 2,
        at_least: 100_000,
        ..ONE_CREATE
    },
    Mix {
        name: "silent memory, deadline, ticket twice, kill",
        faults: Faults { silences: 2, deadlines: 1, twice: 1, kills: 1, ..NO_FAULTS },
        at_least: 117_000,
        ..ONE_CREATE
    },
];

/// The same with more of everything, for a run by hand.
pub(crate) const WIDER: [Mix; 4] = [
    Mix { name: "as above, three handlers", workers: &[0, 1, 2], ..MIXES[0] },
    Mix {
        name: "two creates: 2 kills, loss of memory, cut",
        faults: Faults { kills: 2, ..MIXES[2].faults },
        ..MIXES[2]
    },
    Mix { name: "two creates: kill, loss, duplicate, twice; early looks", early_looks: 1, ..MIXES[3] },
    Mix {
        name: "end, retry, 2 kills, loss, duplicate",
        faults: Faults { kills: 2, duplicates: 1, ..MIXES[7].faults },
        may_copies_end_anew: true,
        ..MIXES[7]
    },
];

/// The mix that finds a rule left out soonest.
pub(crate) const fn finder(rule: Rule) -> usize {
    match rule {
        Rule::StaleIsDropped
        | Rule::PlaceIsTakenAtClaim
        | Rule::LaterTryKeeps
        | Rule::AbsenceOnlyInLastLook
        | Rule::NextTicketBeforeAck => 0,
        Rule::HolderIsOneClaim => 1,
        Rule::SuspectForTheRest | Rule::SuspectWhenMarked => 2,
        Rule::SuspectPastFirstPlace | Rule::EveryParkIsMarked => 3,
        Rule::OtherEpochIsUnknown | Rule::BirthMarkIsWrittenAnew | Rule::SuspectInGrace | Rule::AbsenceIsRecorded => 4,
        Rule::PauseOfLostRecord => 6,
        Rule::AnnounceAgain | Rule::SetAsideAgain | Rule::SuspectOfGeneration | Rule::DoubtOutlivesGeneration => 7,
        Rule::FirstEndStays => 9,
        Rule::UnclaimedEndsNothing => 11,
    }
}

/// Name turns: two jobs that create a product of one name.
pub(crate) const TURNS: [Turns; 2] = [
    Turns {
        name: "name turns, two jobs: kill, lost answer, 429, loss",
        is_dated: true,
        faults: [1, 1, 1, 1],
        without: None,
        at_least: 900_000,
    },
    Turns {
        name: "the same without createdDateTime: kill, lost answer, loss",
        is_dated: false,
        faults: [1, 1, 0, 1],
        without: None,
        at_least: 250_000,
    },
];

/// The mix of [`TURNS`] that finds a rule left out.
pub(crate) const fn turn_finder(rule: TurnRule) -> usize {
    match rule {
        TurnRule::MarkProvesInItsTurnOnly | TurnRule::OpenIsForAPerson => 0,
        TurnRule::CreatesTakeTurns
        | TurnRule::LookTakesTheTurn
        | TurnRule::OwnerIsWritten
        | TurnRule::OwnerBeforeTurnIsOver
        | TurnRule::EqualityInLastLookOnly => 1,
    }
}
