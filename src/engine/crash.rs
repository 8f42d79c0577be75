//! Named points at which a debug build can be made to die, for the crash matrix. Release builds have none.
//!
//! `LONGSHORE_CRASH_AT=create-product.after-begin:1` kills the process the first time a worker comes there, `:2` the
//! second time. It says so on stderr before it dies, so a test can tell this death from any other.

#[cfg(debug_assertions)]
use std::time::Duration;

use crate::domain::step::Step;

/// How long an answer may take at `request-sent` before the process dies. The service has to hold it back for longer.
#[cfg(debug_assertions)]
pub(super) const HELD_BACK: Duration = Duration::from_secs(1);

/// The variable that arms a point: `name:count`.
pub const VARIABLE: &str = "LONGSHORE_CRASH_AT";

/// The edges of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The message is ours, nothing is claimed.
    AfterReceive,
    /// The place is taken.
    AfterClaim,
    /// Permit and token are there.
    BeforeBegin,
    /// The write is marked as begun.
    AfterBegin,
    /// The request is with the service, its answer is not read.
    RequestSent,
    /// The answer is read, nothing is recorded.
    AnswerRead,
    /// All that is to be written is known.
    BeforeSettle,
    /// Everything is written.
    AfterSettle,
}

impl Edge {
    /// All edges, in the order in which a step passes them.
    pub const ALL: [Self; 8] = [
        Self::AfterReceive,
        Self::AfterClaim,
        Self::BeforeBegin,
        Self::AfterBegin,
        Self::RequestSent,
        Self::AnswerRead,
        Self::BeforeSettle,
        Self::AfterSettle,
    ];

    /// The edge's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AfterReceive => "after-receive",
            Self::AfterClaim => "after-claim",
            Self::BeforeBegin => "before-begin",
            Self::AfterBegin => "after-begin",
            Self::RequestSent => "request-sent",
            Self::AnswerRead => "answer-read",
            Self::BeforeSettle => "before-settle",
            Self::AfterSettle => "after-settle",
        }
    }

    /// Does this step pass this edge?
    #[must_use]
    pub const fn is_passed_by(self, step: Step) -> bool {
        match self {
            Self::AfterReceive | Self::AfterClaim | Self::BeforeSettle | Self::AfterSettle => true,
            Self::BeforeBegin | Self::AfterBegin => step.retry_class().needs_begin(),
            Self::RequestSent | Self::AnswerRead => step.quota_class().is_some(),
        }
    }
}

/// Between two writes where broker and memory are apart: points of the fleet alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrow {
    /// The record is written, nothing is announced.
    AfterRecord,
    /// The events are confirmed, no next ticket is out.
    AfterEvents,
    /// The next ticket, or the copy set aside, is confirmed; the delivery is not acknowledged.
    AfterNext,
    /// The acknowledgement is sent, the claim stands.
    AfterAcknowledge,
    /// A ticket that woke too early is parked again and not acknowledged.
    RestParked,
    /// A message that nobody has looked at is given back at a stop and not acknowledged.
    GivenBack,
}

impl Arrow {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AfterRecord,
        Self::AfterEvents,
        Self::AfterNext,
        Self::AfterAcknowledge,
        Self::RestParked,
        Self::GivenBack,
    ];

    /// The point's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AfterRecord => "settle.after-record",
            Self::AfterEvents => "settle.after-events",
            Self::AfterNext => "settle.after-next",
            Self::AfterAcknowledge => "settle.after-acknowledge",
            Self::RestParked => "park-rest.after-publish",
            Self::GivenBack => "give-back.after-publish",
        }
    }
}

/// Points that only a fleet's worker passes; none in a release build.
#[must_use]
pub fn arrows() -> Vec<Arrow> {
    if cfg!(debug_assertions) { Arrow::ALL.to_vec() } else { Vec::new() }
}

/// All points of this build that every home passes; none in a release build.
#[must_use]
pub fn points() -> Vec<(Step, Edge)> {
    if !cfg!(debug_assertions) {
        return Vec::new();
    }
    let edges = |step| Edge::ALL.into_iter().filter(move |edge| edge.is_passed_by(step)).map(move |edge| (step, edge));
    Step::ALL.into_iter().flat_map(edges).collect()
}

/// A point's name: `step.edge`.
#[must_use]
pub fn name(step: Step, edge: Edge) -> String {
    format!("{}.{}", step.name(), edge.name())
}

/// Dies here when this point is armed.
#[cfg(debug_assertions)]
pub(super) fn point(step: Step, edge: Edge) {
    if is_armed(step, edge) {
        die(step, edge);
    }
}

/// Dies here when this point of the fleet is armed.
#[cfg(debug_assertions)]
pub(crate) fn arrow(arrow: Arrow) {
    if armed::is_here(|| arrow.name().to_owned()) {
        die_at(arrow.name());
    }
}

/// Says where, then dies as a killed process does: nothing is cleaned up, nothing is flushed.
#[cfg(debug_assertions)]
pub(super) fn die(step: Step, edge: Edge) -> ! {
    die_at(&name(step, edge))
}

#[cfg(debug_assertions)]
fn die_at(name: &str) -> ! {
    eprintln!("crash point {name} reached");
    std::process::abort()
}

/// Is it this pass at which the point kills? Asked in place of [`point`] where the request has to go first.
#[cfg(debug_assertions)]
pub(super) fn is_armed(step: Step, edge: Edge) -> bool {
    armed::is_here(|| name(step, edge))
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    use super::VARIABLE;

    struct Armed {
        name: String,
        passes_left: AtomicU32,
    }

    fn armed() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        ARMED
            .get_or_init(|| {
                let text = std::env::var(VARIABLE).ok()?;
                let (name, count) = text.rsplit_once(':').unwrap_or((&text, "1"));
                Some(Armed { name: name.to_owned(), passes_left: AtomicU32::new(count.parse().unwrap_or(1)) })
            })
            .as_ref()
    }

    pub(super) fn is_here(name: impl Fn() -> String) -> bool {
        armed().is_some_and(|armed| {
            armed.name == name()
                && armed
                    .passes_left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok_and(|left| left == 1)
        })
    }
}

#[cfg(not(debug_assertions))]
pub(super) const fn point(_step: Step, _edge: Edge) {}

#[cfg(not(debug_assertions))]
pub(crate) const fn arrow(_arrow: Arrow) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_received_and_settled_and_only_writes_are_begun() {
        let points = points();
        for step in Step::ALL {
            let of = |edge| points.contains(&(step, edge));
            assert!(of(Edge::AfterReceive) && of(Edge::AfterClaim) && of(Edge::BeforeSettle) && of(Edge::AfterSettle));
            assert_eq!(of(Edge::BeforeBegin), of(Edge::AfterBegin));
            assert_eq!(of(Edge::RequestSent), step != Step::Preflight, "{step}");
        }
        let begun: Vec<Step> =
            points.iter().filter(|(_, edge)| *edge == Edge::AfterBegin).map(|(step, _)| *step).collect();
        assert_eq!(begun, [Step::CreateProduct, Step::CreateSubmission, Step::Commit]);
    }
}
