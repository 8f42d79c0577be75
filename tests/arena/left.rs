//! What is still in the broker when all jobs have ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions, QueuePurgeOptions},
    types::FieldTable,
};
use longshore::{
    clock,
    domain::{step::Kind, time::Moment},
    rabbitmq::{Lane, Names, topology},
};
use serde_json::Value;

/// Marks a message that proves a way.
const CANARY: &str = "longshore-canary";
/// Levels of the delays.
const LEVELS: std::ops::RangeInclusive<u8> = 0..=12;

/// Counts of messages that nobody holds, by queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// In lanes and delays, and among what had no route.
    pub(crate) at_work: BTreeMap<String, u32>,
    /// Set aside for a person.
    pub(crate) set_aside: u32,
}

/// A look at the queues.
pub(super) struct Looker {
    connection: Connection,
    channel: Channel,
    names: Names,
}

impl Looker {
    pub(super) async fn connect(url: &str, names: &Names) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self { connection, channel, names: names.clone() })
    }

    async fn count(&self, queue: &str) -> Result<u32> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        Ok(declared.with_context(|| format!("queue {queue}"))?.message_count())
    }

    pub(super) async fn left(&self) -> Result<Left> {
        let kinds = topology::with_hand_overs(&BTreeSet::from([Kind::Submission]));
        let lanes = kinds.into_iter().flat_map(|kind| Lane::ALL.map(|lane| self.names.lane(kind, lane)));
        let delays = LEVELS.map(|level| self.names.delay_queue(level));
        let others = [self.names.dead_lane(), self.names.unrouted()];
        let mut left = Left { set_aside: self.count(&self.names.set_aside()).await?, ..Left::default() };
        for queue in lanes.chain(delays).chain(others) {
            let count = self.count(&queue).await?;
            if count > 0 {
                left.at_work.insert(queue, count);
            }
        }
        Ok(left)
    }

    /// The longest wait of the tickets that are parked: they are looked at, and all let go by closing the channel.
    pub(super) async fn longest_due(self) -> Result<Duration> {
        let now = clock::moment();
        let mut longest = Duration::ZERO;
        for level in LEVELS {
            let queue = self.names.delay_queue(level);
            while let Some(message) = self.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await? {
                let ticket: Value = serde_json::from_slice(&message.delivery.data).unwrap_or_default();
                let due: Option<Moment> = ticket.get("due").and_then(|due| serde_json::from_value(due.clone()).ok());
                longest = longest.max(due.map(|due| due.since(now)).unwrap_or_default());
            }
        }
        self.channel.close(200, "looked at".into()).await?;
        Ok(longest)
    }

    /// Takes everything away that lies there when no worker runs. Canaries flew when their worker stopped, and the next one would have
    /// taken them; everything else is told.
    pub(super) async fn catch_canaries(&self) -> Result<Vec<String>> {
        let mut others = Vec::new();
        for queue in self.left().await?.at_work.into_keys() {
            while let Some(message) = self.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await? {
                let headers = message.delivery.properties.headers().as_ref();
                if !headers.is_some_and(|headers| headers.contains_key(CANARY)) {
                    let ticket: Value = serde_json::from_slice(&message.delivery.data).unwrap_or_default();
                    let part = |at: &str| ticket.pointer(at).cloned().unwrap_or_default();
                    let (job, place, due) = (part("/job/id"), part("/place"), part("/due"));
                    others.push(format!("{queue}: {job} at {place}, due {due}"));
                }
                message.delivery.acker.ack(BasicAckOptions::default()).await?;
            }
        }
        Ok(others)
    }

    /// Throws the dead letters away.
    pub(super) async fn clear(&self) -> Result<()> {
        self.channel.queue_purge(self.names.set_aside().as_str().into(), QueuePurgeOptions::default()).await?;
        Ok(())
    }
}
