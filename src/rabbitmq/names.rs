//! Names of exchanges, queues and keys. Source: docs/FLEET.md, "Topology".

use std::time::Duration;

use crate::domain::{event::Event, step::Kind};

/// The longest wait in one hop is 2 to the power of this, in seconds.
pub(super) const LAST_LEVEL: u8 = 12;

/// The names below one prefix. `.v1` is part of each: arguments cannot be changed after a declare, so a change is a `.v2`
/// beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

/// The three lanes of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Producers' jobs that people wait for.
    Intake,
    /// Producers' jobs that may wait behind everything else.
    Bulk,
    /// Tickets: hand-overs, retries, due polls, control.
    Return,
}

impl Lane {
    /// All lanes, in the order in which they are served.
    pub const ALL: [Self; 3] = [Self::Return, Self::Intake, Self::Bulk];

    /// Its name in headers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Bulk => "bulk",
            Self::Return => "return",
        }
    }
}

impl Names {
    /// Names below this prefix.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// What every name begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn name(&self, rest: &str) -> String {
        format!("{}.{rest}.v1", self.prefix)
    }

    /// Jobs; producers write here, workers never.
    #[must_use]
    pub fn jobs(&self) -> String {
        self.name("jobs")
    }

    /// Tickets; workers and operators write here, producers never.
    #[must_use]
    pub fn out(&self) -> String {
        self.name("out")
    }

    /// Waits.
    #[must_use]
    pub fn delay(&self) -> String {
        self.name("delay")
    }

    /// The queue of one class of waits.
    #[must_use]
    pub fn delay_queue(&self, level: u8) -> String {
        format!("{}.l{level:02}", self.delay())
    }

    /// Where every dead letter goes.
    #[must_use]
    pub fn dead(&self) -> String {
        self.name("dead")
    }

    /// What the broker dead-letters by itself.
    #[must_use]
    pub fn dead_lane(&self) -> String {
        self.name("w.dead")
    }

    /// What was set aside for a person.
    #[must_use]
    pub fn set_aside(&self) -> String {
        self.name("dlq")
    }

    /// Whatever had no route; exchange and queue.
    #[must_use]
    pub fn unrouted(&self) -> String {
        self.name("unrouted")
    }

    /// Public events.
    #[must_use]
    pub fn events(&self) -> String {
        self.name("events")
    }

    /// A queue that workers consume.
    #[must_use]
    pub fn lane(&self, kind: Kind, lane: Lane) -> String {
        let kind = kind.name();
        self.name(&match lane {
            Lane::Intake => format!("w.{kind}"),
            Lane::Bulk => format!("w.{kind}.bulk"),
            Lane::Return => format!("w.{kind}.return"),
        })
    }
}

/// What workers consume: a kind's lanes, and what the broker dead-letters by itself, whatever its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    /// A lane.
    Lane(Kind, Lane),
    /// `w.dead`.
    Dead,
}

impl Names {
    /// The queue of a source.
    pub(super) fn queue(&self, source: Source) -> String {
        match source {
            Source::Lane(kind, lane) => self.lane(kind, lane),
            Source::Dead => self.dead_lane(),
        }
    }

    /// The lane of this name.
    pub(super) fn lane_of(&self, queue: &str) -> Option<(Kind, Lane)> {
        let lanes = Kind::ALL.into_iter().flat_map(|kind| Lane::ALL.map(|lane| (kind, lane)));
        lanes.into_iter().find(|(kind, lane)| self.lane(*kind, *lane) == queue)
    }
}

/// The key that brings a job to its intake lane.
#[must_use]
pub fn job_key(kind: Kind, bulk: bool) -> String {
    if bulk { format!("{}.bulk", kind.name()) } else { kind.name().to_owned() }
}

/// The key of a wait.
#[must_use]
pub(super) fn delay_key(level: u8, kind: Kind) -> String {
    format!("l{level:02}.{}", kind.name())
}

/// The key of an event.
#[must_use]
pub(super) fn event_key(event: &Event) -> String {
    format!("v1.{}.{}.{}.{}", event.job.account, event.kind.name(), event.name, event.topic)
}

/// By so much of itself, and no more than that, a wait may become longer to fill a class.
const SLACK: (u32, Duration) = (32, Duration::from_millis(500));

/// The largest class that fits into a wait; none below a second. The rest of the wait is parked when it wakes.
///
/// A wait that falls short of a class by a moment takes it: a poll's wait of 32 s is a little less when it is published,
/// and would wake at 16, 24, 28, 30 and 31 s.
#[must_use]
pub(super) fn level_within(wait: Duration) -> Option<u8> {
    let (part, most) = SLACK;
    let seconds = wait.saturating_add(most.min(wait / part)).as_secs();
    let level = seconds.checked_ilog2()?;
    Some(u8::try_from(level).unwrap_or(LAST_LEVEL).min(LAST_LEVEL))
}

/// The smallest class that holds a wait: for a message that does not carry its own `due`, so that it is never early.
#[must_use]
pub(super) fn level_above(wait: Duration) -> Option<u8> {
    if wait.is_zero() {
        return None;
    }
    (0..=LAST_LEVEL).find(|level| Duration::from_secs(1 << level) >= wait).or(Some(LAST_LEVEL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_takes_the_largest_class_that_fits_into_it() {
        for (millis, level) in [
            (0, None),
            (960, None),
            (990, Some(0)),
            (1_000, Some(0)),
            (1_900, Some(0)),
            (1_980, Some(1)),
            (2_000, Some(1)),
            (31_400, Some(4)),
            (31_900, Some(5)),
            (32_000, Some(5)),
            (4_095_400, Some(11)),
            (4_095_600, Some(12)),
            (4_096_000, Some(12)),
            (86_400_000, Some(12)),
        ] {
            assert_eq!(level_within(Duration::from_millis(millis)), level, "{millis} ms");
        }
    }

    #[test]
    fn a_message_without_a_due_of_its_own_is_never_early() {
        for (millis, level) in [(0, None), (1, Some(0)), (1_001, Some(1)), (32_000, Some(5)), (33_000, Some(6))] {
            assert_eq!(level_above(Duration::from_millis(millis)), level, "{millis} ms");
        }
        assert_eq!(level_above(Duration::from_secs(1_000_000)), Some(LAST_LEVEL));
    }

    #[test]
    fn names_are_those_that_the_documents_give() {
        let names = Names::new("longshore");
        assert_eq!(names.lane(Kind::Submission, Lane::Intake), "longshore.w.submission.v1");
        assert_eq!(names.lane(Kind::StatusPoll, Lane::Bulk), "longshore.w.status-poll.bulk.v1");
        assert_eq!(names.lane(Kind::Upload, Lane::Return), "longshore.w.upload.return.v1");
        assert_eq!(names.delay_queue(7), "longshore.delay.v1.l07");
        assert_eq!(names.dead_lane(), "longshore.w.dead.v1");
        assert_eq!(names.lane_of("longshore.w.upload.bulk.v1"), Some((Kind::Upload, Lane::Bulk)));
        assert_eq!(names.lane_of("longshore.delay.v1.l03"), None);
        assert_eq!(
            (job_key(Kind::Upload, true), delay_key(3, Kind::Upload)),
            ("upload.bulk".into(), "l03.upload".into())
        );
    }
}
