//! Dead letters, looked at and decided: a queue is no table, so whoever looks takes all there is, acts, and lets go.
//!
//! The queue has a single active consumer: a second person who looks would wait for ever, and is told so instead. What is let
//! go comes back in its order. Source: docs/FLEET.md, "Dead letters".

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{
    Acker, BasicProperties, Channel, Connection,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};

use super::{
    Rabbit,
    message::{self, FORM, Headers, Outgoing},
    names::{Lane, job_key},
    session::{down, told},
};
use crate::{
    domain::{
        dead_letter::DeadLetter,
        event::{Class, End},
        ids::{JobKey, Sha256},
        step::Kind,
        ticket::Ticket,
        time::Moment,
        trace::Trace,
    },
    engine::ports::Unavailable,
};

/// So many are looked at once at most: what lies behind them stays where it is.
const WINDOW: u16 = 10_000;

/// How long the next letter may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing can be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else looks.
    #[error("somebody else is looking at {0}: only one at a time can")]
    Taken(String),
    /// The broker's user may not.
    #[error("the broker's user may not read {0}")]
    Forbidden(String),
    /// It is not there.
    #[error("there is no queue {0}")]
    Missing(String),
    /// The broker.
    #[error(transparent)]
    Down(#[from] Unavailable),
}

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    /// What was set aside.
    SetAside,
    /// What had no route.
    Unrouted,
}

/// Letters in somebody's hands. Dropped, all that was not acted on goes back in its order.
#[derive(Debug)]
pub struct Letters {
    connection: Connection,
    channel: Channel,
    found: Vec<Held>,
    /// More lie behind those that were found.
    pub has_more: bool,
}

/// A letter, and what it takes to act on it.
#[derive(Debug)]
struct Held {
    letter: DeadLetter,
    from: (Kind, Lane),
    /// Exchange and key of what had no route.
    unrouted: Option<(String, String)>,
    user: Option<String>,
    trace: Option<Trace>,
    acker: Option<Acker>,
}

impl Rabbit {
    /// Takes everything on a shelf, the oldest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn letters(&self, from: Shelf) -> Result<Letters, Error> {
        let queue = match from {
            Shelf::SetAside => self.names().set_aside(),
            Shelf::Unrouted => self.names().unrouted(),
        };
        let connection = self.connection().await?;
        let failed = |error: lapin::Error| refusal(&error, &queue).unwrap_or_else(|| down(told(&error)).into());
        let channel = connection.create_channel().await.map_err(failed)?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let looked = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await;
        let looked = looked.map_err(failed)?;
        if looked.consumer_count() > 0 {
            return Err(Error::Taken(queue));
        }
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        channel.basic_qos(WINDOW, BasicQosOptions::default()).await.map_err(failed)?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await;
        let mut consumer = consumer.map_err(failed)?;
        let there = looked.message_count();
        let count = there.min(u32::from(WINDOW));
        let mut found = Vec::new();
        for _ in 0..count {
            match tokio::time::timeout(PATIENCE, consumer.next()).await {
                Ok(Some(Ok(delivery))) => found.push(held(delivery, from)),
                Ok(Some(Err(error))) => return Err(failed(error)),
                // Another was quicker between our look and our asking.
                Ok(None) | Err(_) => break,
            }
        }
        Ok(Letters { connection, channel, found, has_more: there > count })
    }
}

/// Codes are matched, never words: those differ by version.
fn refusal(error: &lapin::Error, queue: &str) -> Option<Error> {
    let lapin::ErrorKind::ProtocolError(refusal) = error.kind() else { return None };
    match refusal.get_id() {
        403 => Some(Error::Forbidden(queue.to_owned())),
        404 => Some(Error::Missing(queue.to_owned())),
        _ => None,
    }
}

fn held(delivery: Delivery, shelf: Shelf) -> Held {
    // What had no route may be anybody's: no header of it is believed.
    let header = |name: &str| message::header(&delivery, name).filter(|_| shelf == Shelf::SetAside);
    let kind = header("longshore-kind").and_then(|kind| kind.parse().ok());
    let lane = header("longshore-lane").and_then(|name| Lane::ALL.into_iter().find(|lane| lane.name() == name));
    let from = (kind.unwrap_or(Kind::Submission), lane.unwrap_or(Lane::Return));
    let at = header("longshore-fail-last").and_then(|at| at.parse::<jiff::Timestamp>().ok()).map(Moment::from);
    let at = at.or_else(|| message::published_at(&delivery)).unwrap_or_default();
    let body = String::from_utf8_lossy(&delivery.data).into_owned();
    let end: Option<End> = header(FORM).filter(|form| form == "end").and_then(|_| serde_json::from_str(&body).ok());
    let id = number(&body);
    let letter = match end {
        Some(end) => DeadLetter {
            id,
            job: Some(end.ticket.key()),
            at,
            class: end.class(),
            fingerprint: end.fingerprint(),
            message: end.message(),
            end: Some(end),
            body: None,
        },
        None => DeadLetter {
            id,
            job: header("longshore-job").and_then(|job| JobKey::parse(&job)),
            at,
            class: header("longshore-fail-class")
                .and_then(|class| serde_json::from_value(class.into()).ok())
                .unwrap_or(Class::Undecodable),
            fingerprint: header("longshore-fail-fingerprint").unwrap_or_else(|| "unrouted".to_owned()),
            message: header("longshore-fail-message").unwrap_or_else(|| {
                format!("no queue is bound for {:?} at {}", delivery.routing_key.as_str(), delivery.exchange.as_str())
            }),
            end: None,
            body: Some(body),
        },
    };
    let (user, trace) = (message::producer(&delivery), message::trace(&delivery));
    // An alternate exchange leaves a message the exchange and the key that it was published with.
    let published = (delivery.exchange.to_string(), delivery.routing_key.to_string());
    let unrouted = (shelf == Shelf::Unrouted).then_some(published);
    Held { letter, from, unrouted, user, trace, acker: Some(delivery.acker) }
}

/// A number that stays the same however often the letter is looked at: forty-eight bits of its content's hash.
fn number(body: &str) -> u64 {
    Sha256::of(body.as_bytes()).as_bytes().iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// In the name of our own user: nobody can publish in another's.
fn as_ours(rabbit: &Rabbit, properties: BasicProperties) -> BasicProperties {
    match rabbit.user() {
        Some(user) => properties.with_user_id(user.into()),
        None => properties,
    }
}

impl Letters {
    /// All of them, the oldest first, those that were acted on left out.
    pub fn all(&self) -> impl Iterator<Item = &DeadLetter> {
        self.found.iter().filter(|held| held.acker.is_some()).map(|held| &held.letter)
    }

    /// Throws a letter away for good; false when there is none of this number.
    ///
    /// # Errors
    /// [`Unavailable`]: it may lie there still.
    pub async fn discard(&mut self, id: u64) -> Result<bool, Unavailable> {
        let Some(held) = self.found.iter_mut().find(|held| held.letter.id == id && held.acker.is_some()) else {
            return Ok(false);
        };
        let Some(acker) = held.acker.take() else { return Ok(false) };
        let is_ours = acker.ack(BasicAckOptions::default()).await.map_err(|error| down(told(&error)))?;
        if is_ours { Ok(true) } else { Err(down("the letter is no longer ours; it lies where it was")) }
    }

    /// Hands a ticket to the workers, and then throws the letter away.
    ///
    /// # Errors
    /// [`Unavailable`]: the ticket may have been handed on, and the letter lie there still; both are harmless.
    pub async fn go_on(&mut self, id: u64, ticket: &Ticket, rabbit: &Rabbit) -> Result<bool, Unavailable> {
        let body =
            serde_json::to_vec(ticket).map_err(|error| down(format!("the ticket cannot be written: {error}")))?;
        let properties = message::properties("longshore.ticket", Headers::default());
        let key = ticket.lane().name().to_owned();
        self.publish(Outgoing { exchange: rabbit.names().out(), key, body, properties }).await?;
        self.discard(id).await
    }

    /// Hands a message that never was a job to the workers as it came, a producer's in the name of our own user, and then
    /// throws the letter away.
    ///
    /// # Errors
    /// As [`Letters::go_on`].
    pub async fn send_again(&mut self, id: u64, rabbit: &Rabbit) -> Result<bool, Unavailable> {
        let Some(held) = self.found.iter().find(|held| held.letter.id == id && held.acker.is_some()) else {
            return Ok(false);
        };
        let (body, (kind, lane)) = (held.letter.body.clone().unwrap_or_default().into_bytes(), held.from);
        let (names, headers) = (rabbit.names(), Headers::default().of_trace("", held.trace.as_ref()));
        if let Some((exchange, key)) = held.unrouted.clone() {
            let properties = as_ours(rabbit, message::properties("longshore.job", headers));
            self.publish(Outgoing { exchange, key, body, properties }).await?;
            return self.discard(id).await;
        }
        let message = match lane {
            Lane::Return => {
                let properties = message::properties("longshore.ticket", Headers::default());
                Outgoing { exchange: names.out(), key: kind.name().to_owned(), body, properties }
            }
            Lane::Intake | Lane::Bulk => {
                let properties = as_ours(rabbit, message::properties("longshore.job", headers));
                Outgoing { exchange: names.jobs(), key: job_key(kind, lane == Lane::Bulk), body, properties }
            }
        };
        self.publish(message).await?;
        self.discard(id).await
    }

    /// The user in whose name a message came, by the broker's word; none for what a worker set aside.
    #[must_use]
    pub fn user(&self, id: u64) -> Option<&str> {
        self.found.iter().find(|held| held.letter.id == id)?.user.as_deref()
    }

    async fn publish(&self, message: Outgoing) -> Result<(), Unavailable> {
        let Outgoing { exchange, key, body, properties } = message;
        let sent = async {
            let (exchange, key) = (exchange.as_str().into(), key.as_str().into());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent = self.channel.basic_publish(exchange, key, options, &body, properties);
            sent.await?.await
        };
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(lapin::Confirmation::Ack(None))) => Ok(()),
            Ok(Ok(_)) => Err(down(format!("the broker did not accept a message for {key:?} at {exchange:?}"))),
            Ok(Err(error)) => Err(down(told(&error))),
            Err(_) => Err(down("the broker did not confirm in time")),
        }
    }

    /// Lets go of what was not acted on; half a second after the last act, so that its acknowledgement arrives.
    pub async fn close(self) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if let Err(error) = self.connection.close(200, "done".into()).await {
            tracing::debug!(%error, "a connection could not be closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_keeps_its_number_and_another_has_another() {
        assert_eq!(number("{}"), number("{}"));
        assert_ne!(number("{}"), number("[]"));
        assert!(number("x") < 1 << 48);
    }
}
