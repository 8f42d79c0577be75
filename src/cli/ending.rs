//! What the end of a job means to a script: its exit code.

use super::exit::Exit;
use crate::{
    domain::event::{Class, EndName, Event, Name},
    embedded::{JobView, State},
};

/// The code of a job as it stands, told by its view and its events.
#[must_use]
pub(super) fn exit_of(view: &JobView, events: &[Event]) -> Exit {
    let Some(end) = &view.end else {
        return match view.state() {
            State::Accepted | State::Running | State::Waiting | State::Cancelling | State::Completed => Exit::Done,
            State::Cancelled => Exit::Cancelled,
            State::TimedOut => Exit::TimedOut,
            State::Failed | State::DeadLettered => Exit::WorkflowFailed,
        };
    };
    match end.name {
        EndName::Completed => Exit::Done,
        EndName::Cancelled => Exit::Cancelled,
        EndName::DeadLettered => Exit::WorkflowFailed,
        EndName::TimedOut => timed_out(view, events),
        EndName::Failed => end.reason.as_ref().map_or(Exit::WorkflowFailed, |reason| failed(reason.class)),
    }
}

/// The code of a failed job, by the class of its reason.
const fn failed(class: Class) -> Exit {
    match class {
        Class::Preflight | Class::Source | Class::OtherContent => Exit::Input,
        Class::Forbidden | Class::NotAllowed => Exit::NotAllowed,
        Class::Rejected => Exit::Rejected,
        Class::Transfer => Exit::Transfer,
        Class::AttemptsSpent => Exit::Unavailable,
        Class::Verification => Exit::NotVerified,
        Class::LocalIo => Exit::LocalIo,
        Class::Internal => Exit::Internal,
        Class::WorkflowFailed
        | Class::Cancelled
        | Class::Deadline
        | Class::NeedsPerson
        | Class::Poison
        | Class::AccountRemoved
        | Class::Undecodable
        | Class::Changed => Exit::WorkflowFailed,
    }
}

/// The deadline came: what was the service's last word?
fn timed_out(view: &JobView, events: &[Event]) -> Exit {
    let generation = view.summary.place.generation;
    let of_this = |event: &&Event| event.sequence.split('.').next().and_then(|g| g.parse().ok()) == Some(generation);
    let last = events.iter().filter(of_this).rfind(|event| !event.name.is_end());
    if last.is_some_and(|event| event.name == Name::Throttled) {
        return Exit::RateLimited;
    }
    let is_in_doubt = last.is_some_and(|event| event.data.get("in_doubt").is_some());
    let is_failing = view.ticket.as_ref().is_some_and(|ticket| ticket.attempts > 0);
    if is_in_doubt || is_failing { Exit::Unavailable } else { Exit::TimedOut }
}

/// Would the same again help without a change by anybody?
pub(super) const fn is_retryable(class: Class) -> bool {
    match class {
        Class::Transfer | Class::AttemptsSpent | Class::Deadline | Class::LocalIo | Class::Cancelled => true,
        Class::Preflight
        | Class::Source
        | Class::Forbidden
        | Class::Rejected
        | Class::WorkflowFailed
        | Class::Verification
        | Class::NeedsPerson
        | Class::Poison
        | Class::AccountRemoved
        | Class::Undecodable
        | Class::NotAllowed
        | Class::OtherContent
        | Class::Changed
        | Class::Internal => false,
    }
}
