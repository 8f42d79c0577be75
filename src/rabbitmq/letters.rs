//! Dead letters, looked at and decided: a queue is no table, so whoever looks takes what lies there, acts, and lets go.
//!
//! The queue has a single active consumer: a second person who looks would wait for ever, and is told so instead. What is let
//! go comes back in its order. Source: docs/FLEET.md, "Dead letters".

use std::time::Duration;

use lapin::{
    Acker, Channel, Connection, Consumer,
    options::{BasicAckOptions, BasicPublishOptions},
};

use super::{
    Rabbit,
    message::{self, Headers, Outgoing},
    names::{Lane, Names, job_key},
    session::{down, told},
};
use crate::{
    domain::{dead_letter::DeadLetter, step::Kind, ticket::Ticket, trace::Trace},
    engine::ports::Unavailable,
};

/// How long the broker may take to confirm.
const PATIENCE: Duration = Duration::from_secs(10);

/// Letters in somebody's hands. Dropped, all that was not acted on goes back in its order.
#[derive(Debug)]
pub struct Letters {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
    pub(super) found: Vec<Held>,
    /// Bytes of their bodies.
    pub bytes: usize,
    /// More lie behind those that were found.
    pub has_more: bool,
    /// Who else looks is told that somebody looks already.
    pub(super) _consumer: Option<Consumer>,
}

/// A letter, and what it takes to act on it.
#[derive(Debug)]
pub(super) struct Held {
    pub letter: DeadLetter,
    pub route: Route,
    /// In whose name it was handed in.
    pub user: Option<String>,
    /// The length of a message of which only the beginning is known.
    pub cut: Option<usize>,
    /// The trace that it came with.
    pub trace: Option<Trace>,
    pub acker: Option<Acker>,
}

/// Where a message goes when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// To the lane that it came from.
    Lane(Kind, Lane),
    /// To the exchange where it had no route, with the key that it had.
    Again {
        exchange: String,
        key: String,
        /// Workers write there and producers do not.
        is_ours: bool,
    },
}

impl Route {
    pub(super) fn of(names: &Names, exchange: String, key: String) -> Self {
        let is_ours = [names.out(), names.delay()].contains(&exchange);
        Self::Again { exchange, key, is_ours }
    }

    /// Was it a producer's message?
    pub(super) fn is_producers(&self) -> bool {
        match self {
            Self::Lane(_, lane) => *lane != Lane::Return,
            Self::Again { is_ours, .. } => !is_ours,
        }
    }

    fn place(&self, names: &Names) -> (String, String) {
        match self {
            Self::Lane(kind, Lane::Return) => (names.out(), kind.name().to_owned()),
            Self::Lane(kind, lane) => (names.jobs(), job_key(*kind, *lane == Lane::Bulk)),
            Self::Again { exchange, key, .. } => (exchange.clone(), key.clone()),
        }
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

    /// Throws the letters away that speak of an earlier generation of this ticket's job: it speaks for them.
    ///
    /// # Errors
    /// As [`Letters::discard`].
    pub async fn settle_others(&mut self, ticket: &Ticket) -> Result<usize, Unavailable> {
        let (job, generation) = (ticket.key(), ticket.place.generation);
        let is_spoken_for = |letter: &DeadLetter| {
            let end = letter.end.as_ref();
            end.is_some_and(|end| end.ticket.key() == job && end.ticket.place.generation < generation)
        };
        let others: Vec<u64> = self.all().filter(|letter| is_spoken_for(letter)).map(|letter| letter.id).collect();
        for id in &others {
            self.discard(*id).await?;
        }
        Ok(others.len())
    }

    /// Hands a message that never was a job to the workers as it came, and then throws the letter away. A producer's goes in
    /// the name of our own user, who vouches for it: nobody can publish in another's name.
    ///
    /// # Errors
    /// As [`Letters::go_on`]; and when only its beginning is known.
    pub async fn send_again(&mut self, id: u64, rabbit: &Rabbit) -> Result<bool, Unavailable> {
        let Some(held) = self.found.iter().find(|held| held.letter.id == id && held.acker.is_some()) else {
            return Ok(false);
        };
        if let Some(length) = held.cut {
            let why =
                format!("only its beginning was kept, of {length} bytes: have it handed in anew, then discard it");
            return Err(Unavailable { what: "the message", why });
        }
        let body = held.letter.body.clone().unwrap_or_default().into_bytes();
        let (exchange, key) = held.route.place(rabbit.names());
        let properties = if held.route.is_producers() {
            let mut headers = Headers::default().of_trace("", held.trace.as_ref());
            let ours = rabbit.user();
            for (name, user) in [("longshore-vouched-by", &ours), ("longshore-published-by", &held.user)] {
                if let Some(user) = user {
                    headers = headers.with(name, user);
                }
            }
            let properties = message::properties("longshore.job", headers);
            match ours {
                Some(user) => properties.with_user_id(user.into()),
                None => properties,
            }
        } else {
            message::properties("longshore.ticket", Headers::default())
        };
        self.publish(Outgoing { exchange, key, body, properties }).await?;
        self.discard(id).await
    }

    /// Was this letter a producer's message, which somebody must vouch for before it is sent again?
    #[must_use]
    pub fn is_producers(&self, id: u64) -> bool {
        self.found.iter().any(|held| held.letter.id == id && held.letter.end.is_none() && held.route.is_producers())
    }

    /// The user in whose name a message was handed in, where it is known.
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
