//! What came from a lane: its text, what the broker says of it, and what it takes to settle it.
//!
//! A producer's message that is no job of its lane (too large, of another kind) is marked here, before anything keeps it: of
//! a body that is too large only the beginning stays in memory.

use std::sync::Arc;

use lapin::{Acker, message::Delivery as Message};
use serde::Deserialize;

use super::{
    message,
    names::{Lane, Names, Source},
    session::Session,
};
use crate::domain::{step::Kind, time::Moment, trace::Trace};

/// So much is kept of a body that is too large, in bytes.
const BEGINNING: usize = 4_096;

/// A message in our hands. Dropped without being settled it is given back, and comes again as redelivered.
#[derive(Debug)]
pub struct Delivery {
    pub(super) session: Arc<Session>,
    pub(super) lane: (Kind, Lane),
    /// The user in whose name it came, by the broker's word.
    pub(super) producer: Option<String>,
    /// The length of a body of which only the beginning was kept.
    pub(super) cut: Option<usize>,
    pub(super) acker: Option<Acker>,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(acker) = self.acker.take() {
            self.session.reject(acker);
        }
        self.session.metrics.let_go(self.lane.0, self.lane.1.name());
    }
}

/// A message as it came, with what it needs to be settled.
#[derive(Debug)]
pub(super) struct Arrived {
    pub delivery: Delivery,
    pub body: String,
    pub is_redelivered: bool,
    pub is_spent: bool,
    pub message_id: Option<String>,
    pub published_at: Option<Moment>,
    pub trace: Option<Trace>,
    /// Why it is no job of its lane.
    pub problem: Option<String>,
}

/// What of a job is read before it is given to anybody.
#[derive(Deserialize)]
struct Named {
    kind: String,
}

/// Where a message is from.
struct From {
    lane: (Kind, Lane),
    /// The kind that its jobs have; none where the lane is not known.
    kind: Option<Kind>,
    /// It came by way of the broker's dead letters.
    is_dead: bool,
    is_spent: bool,
}

impl Arrived {
    /// A message with where it came from. What the broker dead-lettered because it was given out too often is spent; for any
    /// other reason (somebody's policy) it goes on as if it had come from its lane a second time.
    pub(super) fn new(session: &Arc<Session>, (names, source): (&Names, Source), message: Message) -> Self {
        let from = match source {
            Source::Lane(kind, lane) => From { lane: (kind, lane), kind: Some(kind), is_dead: false, is_spent: false },
            Source::Dead => {
                let (queue, reason) = message::death(&message).unwrap_or_default();
                let lane = names.lane_of(&queue);
                tracing::warn!(queue, reason, "the broker dead-lettered a message");
                From {
                    // A queue of tomorrow, or none: nobody knows whether a worker wrote it, so it is read as a producer's.
                    lane: lane.unwrap_or((Kind::StatusPoll, Lane::Intake)),
                    kind: lane.map(|(kind, _)| kind),
                    is_dead: true,
                    is_spent: reason == "delivery_limit",
                }
            }
        };
        Self::of(session, &from, message)
    }

    fn of(session: &Arc<Session>, from: &From, message: Message) -> Self {
        let (producer, message_id) = (message::producer(&message), message::message_id(&message));
        let (published_at, trace) = (message::published_at(&message), message::trace(&message));
        // What the broker dead-lettered is a new message, without a flag, and may have been given out before.
        let is_redelivered = message.redelivered || from.is_dead;
        // Tickets are the workers' own: only what producers write is held to a job's length and kind.
        let is_job = from.lane.1 != Lane::Return;
        let (body, cut) = text(message.data, if is_job { session.max_job } else { usize::MAX });
        let problem = match cut {
            Some(length) => Some(format!(
                "the job has {length} bytes, at most {} are accepted: name large things by reference",
                session.max_job
            )),
            None => from.kind.filter(|_| is_job).and_then(|kind| misplaced(&body, kind)),
        };
        session.metrics.given_out(from.lane.0, from.lane.1.name());
        let delivery =
            Delivery { session: Arc::clone(session), lane: from.lane, producer, cut, acker: Some(message.acker) };
        Self { delivery, body, is_redelivered, is_spent: from.is_spent, message_id, published_at, trace, problem }
    }
}

/// The text of a body; of one that is longer only the beginning, with its length.
pub(super) fn text(data: Vec<u8>, most: usize) -> (String, Option<usize>) {
    if data.len() > most {
        let beginning = String::from_utf8_lossy(data.get(..BEGINNING.min(most)).unwrap_or_default()).into_owned();
        return (beginning, Some(data.len()));
    }
    let body = String::from_utf8(data).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    (body, None)
}

/// Why a job does not belong on a lane of this kind; none when it does, or names no kind that we know.
fn misplaced(body: &str, lane: Kind) -> Option<String> {
    let kind: Kind = serde_json::from_str::<Named>(body).ok()?.kind.parse().ok()?;
    (kind != lane).then(|| {
        format!(
            "the job is of kind {kind} and came on a lane of kind {lane}: publish it with its own kind as routing key"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_body_that_is_too_large_only_the_beginning_is_kept() {
        let (body, cut) = text(vec![b'x'; 100_000], 65_536);
        assert_eq!((body.len(), cut), (BEGINNING, Some(100_000)));
        assert_eq!(text(vec![b'x'; 65_536], 65_536), ("x".repeat(65_536), None));
        assert_eq!(text(vec![0xff], 65_536), ("\u{fffd}".to_owned(), None));
    }

    #[test]
    fn a_job_belongs_on_the_lanes_of_its_kind_and_what_names_none_is_read_by_others() {
        let job = r#"{"id":"a","kind":"upload","account":"contoso","spec":{}}"#;
        assert_eq!(misplaced(job, Kind::Upload), None);
        assert!(
            misplaced(job, Kind::Submission).is_some_and(|why| why.contains("upload") && why.contains("submission"))
        );
        for other in ["", "[]", "{}", r#"{"kind":"dance"}"#, r#"{"kind":7}"#] {
            assert_eq!(misplaced(other, Kind::Submission), None, "{other}");
        }
    }
}
