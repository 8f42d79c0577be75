//! Canaries: messages without a body that prove a way through the topology by coming back.
//!
//! They need no right but those of who sends them, and prove bindings, dead lettering and confirms at once. Whoever
//! receives one acknowledges it and hands its id to [`Rabbit::canary`], with the lane that it came over; the engine never
//! sees it. Only a message without a body is taken for one, so that nothing with a content is ever dropped for its headers.
//!
//! A producer can publish such a message, too. It proves nothing: an id counts only where its sender awaits it, random as it
//! is, and only over the lane where its way ends.
//!
//! Left to others: waiting for them (`app/canary.rs`).

use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
};

use super::{
    Rabbit, message,
    message::Headers,
    names::{LAST_LEVEL, Lane, Names, delay_key, job_key},
    topology::{self, Found},
};
use crate::{clock, domain::step::Kind};

/// Messages that are no canaries, and are held meanwhile: beyond so many a lane is left alone.
const HELD: usize = 8;

/// How long a canary of a longer wait waits, in milliseconds.
const CUT_SHORT: &str = "1000";

/// A canary that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// Its id.
    pub id: String,
    /// The lane that it came over.
    pub lane: String,
}

/// A way to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A producer's job to its intake lane.
    Job,
    /// A bulk job to its lane.
    BulkJob,
    /// A ticket through `out` to its return lane.
    HandOver,
    /// A ticket that waits in the shortest class of the delays and comes through `out` to its return lane.
    Wait,
    /// The same in the class of this level, its wait cut short: it comes after a second when nothing lies before it there.
    LongWait(u8),
}

impl Way {
    /// All of them, but for the longer waits: each of those serves all kinds, so one canary proves it.
    pub const ALL: [Self; 4] = [Self::Job, Self::BulkJob, Self::HandOver, Self::Wait];
    /// Those that workers may take: they write no jobs.
    pub const OF_WORKERS: [Self; 2] = [Self::HandOver, Self::Wait];

    /// The classes of waits beyond the shortest.
    pub fn long_waits() -> impl Iterator<Item = Self> {
        (1..=LAST_LEVEL).map(Self::LongWait)
    }

    /// The queue of the delays that it goes through.
    #[must_use]
    pub fn waits_in(self, names: &Names) -> Option<String> {
        match self {
            Self::Job | Self::BulkJob | Self::HandOver => None,
            Self::Wait => Some(names.delay_queue(0)),
            Self::LongWait(level) => Some(names.delay_queue(level)),
        }
    }

    /// In programs' words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::BulkJob => "bulk-job",
            Self::HandOver => "hand-over",
            Self::Wait => "wait",
            Self::LongWait(_) => "long-wait",
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn lane(self, names: &Names, kind: Kind) -> String {
        names.lane(
            kind,
            match self {
                Self::Job => Lane::Intake,
                Self::BulkJob => Lane::Bulk,
                Self::HandOver | Self::Wait | Self::LongWait(_) => Lane::Return,
            },
        )
    }

    /// Where it begins.
    #[must_use]
    pub fn exchange(self, names: &Names) -> String {
        match self {
            Self::Job | Self::BulkJob => names.jobs(),
            Self::HandOver => names.out(),
            Self::Wait | Self::LongWait(_) => names.delay(),
        }
    }

    fn key(self, kind: Kind) -> String {
        match self {
            Self::Job => job_key(kind, false),
            Self::BulkJob => job_key(kind, true),
            Self::HandOver => kind.name().to_owned(),
            Self::Wait => delay_key(0, kind),
            Self::LongWait(level) => delay_key(level, kind),
        }
    }

    /// What may be wrong when nothing arrives, in words.
    #[must_use]
    pub fn lost(self, names: &Names, kind: Kind) -> String {
        let (lane, exchange) = (self.lane(names, kind), self.exchange(names));
        match self {
            Self::Job | Self::BulkJob | Self::HandOver => format!(
                "{lane}: what is published to {exchange} with key {:?} does not arrive; its binding is missing, or nobody takes from it",
                self.key(kind)
            ),
            Self::Wait | Self::LongWait(_) => format!(
                "{lane}: what waits in {queue} does not arrive; that queue, its binding to {exchange}, its way to {} or the binding of the lane there is missing",
                names.out(),
                queue = self.waits_in(names).unwrap_or_default(),
            ),
        }
    }
}

/// An id for a canary.
#[must_use]
pub fn new_id() -> String {
    format!("{:032x}", u128::from_be_bytes(clock::random_bytes()))
}

/// Lets a canary fly; `Well` when the broker has confirmed it.
///
/// # Errors
/// The connection is gone.
pub async fn release(
    connection: &Connection,
    names: &Names,
    (kind, way): (Kind, Way),
    id: &str,
) -> Result<Found, lapin::Error> {
    // On a channel of its own: a refusal closes the channel.
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let (exchange, key) = (way.exchange(names), way.key(kind));
    let mut properties = message::properties("longshore.canary", Headers::default().with(message::CANARY, id));
    if matches!(way, Way::LongWait(_)) {
        // Of this and the queue's own the smaller one counts.
        properties = properties.with_expiration(CUT_SHORT.into());
    }
    let published = async {
        let (exchange, key) = (exchange.as_str().into(), key.as_str().into());
        channel.basic_publish(exchange, key, BasicPublishOptions::default(), &[], properties).await?.await
    };
    let told = topology::sorted(published.await.map(|confirmation| !confirmation.is_nack()))?;
    topology::close(&channel).await;
    Ok(match told {
        Ok(true) => Found::Well,
        Ok(false) => Found::Differs("the broker refused it: a queue on its way is full".to_owned()),
        Err(found) => found,
    })
}

/// Stands in for the consumers of a lane that has none: takes canaries, and leaves everything else where it was.
#[derive(Debug)]
pub struct StandIn {
    channel: Channel,
    queue: String,
    held: usize,
}

impl StandIn {
    /// Begins to look into a lane.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn new(connection: &Connection, queue: String) -> Result<Self, lapin::Error> {
        Ok(Self { channel: connection.create_channel().await?, queue, held: 0 })
    }

    /// The canaries that have come since.
    ///
    /// # Errors
    /// The connection is gone, or the user may not read the queue.
    pub async fn take(&mut self) -> Result<Vec<String>, lapin::Error> {
        let mut ids = Vec::new();
        while self.held < HELD {
            let options = BasicGetOptions::default();
            let Some(got) = self.channel.basic_get(self.queue.as_str().into(), options).await? else { break };
            match message::canary(&got.delivery) {
                Some(id) => {
                    got.delivery.acker.ack(BasicAckOptions::default()).await?;
                    ids.push(id);
                }
                // It goes back when the channel closes.
                None => self.held += 1,
            }
        }
        Ok(ids)
    }

    /// Leaves the lane; what was held is there again.
    pub async fn leave(self) {
        topology::close(&self.channel).await;
    }
}

impl Rabbit {
    /// The next canary that came to this process, whoever sent it: those of the return lanes first.
    pub async fn canary(&self) -> Came {
        let (mut tickets, mut jobs) = (self.inner.canaries.lock().await, self.inner.canaries_of_jobs.lock().await);
        let came = tokio::select! {
            biased;
            came = tickets.recv() => came,
            came = jobs.recv() => came,
        };
        match came {
            Some(came) => came,
            // The senders live as long as `self`.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_is_broken_is_told_by_its_lane_and_its_exchange() {
        let names = Names::new("test");
        for (way, lane, exchange) in [
            (Way::Job, "test.w.upload.v1", "test.jobs.v1"),
            (Way::BulkJob, "test.w.upload.bulk.v1", "test.jobs.v1"),
            (Way::HandOver, "test.w.upload.return.v1", "test.out.v1"),
            (Way::Wait, "test.w.upload.return.v1", "test.delay.v1"),
            (Way::LongWait(7), "test.w.upload.return.v1", "test.delay.v1.l07"),
        ] {
            let lost = way.lost(&names, Kind::Upload);
            assert!(lost.starts_with(&format!("{lane}: ")) && lost.contains(exchange), "{lost}");
        }
        assert!(Way::Wait.lost(&names, Kind::Upload).contains("test.delay.v1.l00"));
    }

    #[test]
    fn only_a_message_without_a_body_and_with_an_id_of_ours_is_a_canary() {
        let id = new_id();
        let message = |header: Option<&str>, body: &[u8]| {
            let mut message = lapin::message::Delivery::mock(1, "x".into(), "k".into(), false, body.to_vec());
            let headers = header.map(|id| Headers::default().with(message::CANARY, id)).unwrap_or_default();
            message.properties = message::properties("longshore.canary", headers);
            message::canary(&message)
        };
        assert_eq!(message(Some(&id), b""), Some(id.clone()));
        assert_eq!(message(Some(&id), br#"{"id":"nic-1"}"#), None, "a job with that header is a job");
        assert_eq!(message(None, b""), None);
        for forged in ["", "1", "x:y", &id.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A"), &format!("{id}0")]
        {
            assert_eq!(message(Some(forged), b""), None, "{forged}");
        }
    }
}
