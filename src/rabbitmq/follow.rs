//! Events as they happen, for whoever waits for a job's end: a queue of our own that the broker names and forgets with us.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{
    Connection, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{
    Rabbit, message,
    session::{down, told},
};
use crate::{
    domain::{
        event::Event,
        ids::{AccountName, Topic},
    },
    engine::ports::Unavailable,
};

/// Why events cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A right is missing.
    #[error("the broker's user lacks a right: {0}")]
    Forbidden(&'static str),
    /// The broker.
    #[error(transparent)]
    Down(#[from] Unavailable),
}

/// Events that are on their way to us.
#[derive(Debug)]
pub struct Follow {
    connection: Connection,
    events: Consumer,
}

impl Rabbit {
    /// Follows what happens under these accounts and topics from now on, without a topic whatever happens to the account's
    /// jobs. Bound before it returns: what happens next is seen.
    ///
    /// # Errors
    /// [`Error`] names the right that is missing.
    pub async fn follow(&self, of: &[(AccountName, Option<Topic>)]) -> Result<Follow, Error> {
        let connection = self.connection().await?;
        let failed = |right: &'static str| {
            move |error: lapin::Error| {
                if let lapin::ErrorKind::ProtocolError(refusal) = error.kind()
                    && refusal.get_id() == 403
                {
                    return Error::Forbidden(right);
                }
                down(told(&error)).into()
            }
        };
        let channel = connection.create_channel().await.map_err(failed("to connect"))?;
        // A classic one: the broker names no quorum queue.
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare("".into(), options, FieldTable::default()).await;
        let queue = declared.map_err(failed("configure on ^amq\\.gen-"))?.name().clone();
        for (account, topic) in of {
            let topic = topic.as_ref().map_or("#", Topic::as_str);
            let key = format!("v1.{account}.*.*.{topic}");
            let (exchange, options) = (self.names().events(), QueueBindOptions::default());
            let bound = channel.queue_bind(
                queue.clone(),
                exchange.as_str().into(),
                key.as_str().into(),
                options,
                FieldTable::default(),
            );
            bound.await.map_err(failed("write on ^amq\\.gen-, and read on the events' exchange"))?;
        }
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        let events = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await;
        Ok(Follow { connection, events: events.map_err(failed("read on ^amq\\.gen-"))? })
    }
}

impl Follow {
    /// The next event; none after so long without one.
    ///
    /// # Errors
    /// [`Unavailable`]: what happens from now on is not seen.
    pub async fn next(&mut self, longest: Duration) -> Result<Option<Event>, Unavailable> {
        let next = async {
            loop {
                let message = match self.events.next().await {
                    Some(Ok(message)) => message,
                    Some(Err(error)) => return Err(down(told(&error))),
                    None => return Err(down("the broker ended the following of events")),
                };
                if let Some(event) = message::read_event(&message) {
                    return Ok(event);
                }
            }
        };
        match tokio::time::timeout(longest, next).await {
            Ok(event) => event.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Ends it: the broker forgets the queue.
    pub async fn close(self) {
        if let Err(error) = self.connection.close(200, "done".into()).await {
            tracing::debug!(%error, "a connection could not be closed");
        }
    }
}
