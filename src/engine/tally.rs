//! What is worth counting, told to whoever counts as it happens. Nothing hangs on it: the numbers may be lost.

use super::ports::Ports;
use crate::domain::{
    claim::{Finished, Outcome},
    event::{Class, EndName, Name},
    settlement::{Entry, Next, Settlement},
    step::{Kind, Step},
};

/// Something that happened, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A lane turned.
    Turn {
        /// The lane.
        lane: Kind,
        /// Did the home serve it? None: it was not asked.
        is_well: Option<bool>,
    },
    /// A lane takes no more work, and all that it had is done.
    LaneEnded {
        /// The lane.
        lane: Kind,
    },
    /// A step was finished.
    StepDone(Step),
    /// A job of this kind ended.
    JobEnded(Kind, EndName),
    /// A message never became a job, or brought other content.
    Refused(Class),
    /// A ticket was set aside until a time.
    Parked,
    /// A ticket waits without a call.
    Waits(Cause),
    /// A ticket was claimed, or could not be.
    Claimed(Found),
    /// A job was claimed that may have called before anybody remembers.
    Suspect,
    /// A job was taken over from a holder that is gone.
    TakenOver,
    /// A step takes longer than it should.
    Stuck(Step),
    /// So many events were announced.
    Announced(u64),
    /// A write in doubt was looked for.
    Looked(Sighted),
}

/// Why a ticket waits without a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Another worker has its job.
    Busy,
    /// The account's rate.
    Permit,
    /// A pause of the service, or its failures.
    Gate,
    /// Another job's turn, or a listing that another reads.
    Turn,
    /// The next look.
    Look,
    /// The handler's time was up.
    NextTurn,
    /// An account that is not configured.
    Account,
    /// Sign-in.
    SignIn,
    /// The memory does not answer.
    MemoryDown,
}

/// What the claim of a ticket came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its place was taken.
    Taken,
    /// A later ticket of its job was there before.
    Stale,
    /// Another worker has it.
    Busy,
    /// Its job has ended.
    Ended,
    /// Its job is known with other content.
    OtherContent,
}

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighted {
    /// It is there.
    Found,
    /// It is not there, for certain.
    Absent,
    /// The look decided nothing.
    Undecided,
}

/// Tells of a settlement that was written: `work` is the job's kind and step, none when the message is no job's ticket.
pub(super) fn settled<P: Ports>(ports: &P, work: Option<(Kind, Step)>, tally: Tally) {
    let Tally { is_step_done, end, refused, is_parked, is_stuck, events } = tally;
    if let Some((kind, step)) = work {
        if is_step_done {
            ports.note(Happened::StepDone(step));
        }
        if is_stuck {
            ports.note(Happened::Stuck(step));
        }
        if let Some(end) = end {
            ports.note(Happened::JobEnded(kind, end));
        }
    }
    if let Some(class) = refused {
        ports.note(Happened::Refused(class));
    }
    if is_parked {
        ports.note(Happened::Parked);
    }
    if events > 0 {
        ports.note(Happened::Announced(events));
    }
}

/// What there is to count in a settlement once it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    is_step_done: bool,
    end: Option<EndName>,
    refused: Option<Class>,
    is_parked: bool,
    is_stuck: bool,
    events: u64,
}

impl Tally {
    pub(super) fn of(settlement: &Settlement) -> Self {
        let (is_step_done, end, own_events) = match &settlement.entry {
            Entry::Outcome(Outcome::Finished(Finished::Done(_))) => (true, None, 0),
            Entry::End { end, result } => (matches!(result.as_deref(), Some(Finished::Done(_))), Some(end.name), 1),
            Entry::EndAgain { .. } => (false, None, 1),
            Entry::Outcome(_) | Entry::Nothing | Entry::LetGo | Entry::LetGoIfHeld | Entry::Panicked => {
                (false, None, 0)
            }
        };
        let (refused, is_parked) = match &settlement.next {
            Next::Nothing => (None, false),
            Next::Ticket(ticket) => (None, ticket.due.is_some()),
            Next::Raw { .. } => (None, true),
            Next::SetAside(message) => (Some(message.class), false),
        };
        let is_stuck = settlement.events.iter().any(|event| event.name == Name::Stuck);
        let events = u64::try_from(settlement.events.len()).unwrap_or(u64::MAX).saturating_add(own_events);
        Self { is_step_done, end, refused, is_parked, is_stuck, events }
    }
}
