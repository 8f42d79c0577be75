//! A connection of its own for who declares, looks, or lets canaries fly: what is refused there harms no worker.

use std::{future::Future, time::Duration};

use lapin::Connection;

use super::{
    Rabbit,
    canary::{self, StandIn, Way},
    link,
    names::Names,
    rights,
    session::{down, told},
    topology::{self, Depth, Found, Looked, Object, Provisioned},
};
use crate::{domain::step::Kind, engine::ports::Unavailable};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long all objects may take: a quorum queue of a cluster under load takes a second or two.
const ALL: Duration = Duration::from_secs(300);

/// A connection of its own.
#[derive(Debug)]
pub struct Visit {
    connection: Connection,
    names: Names,
}

impl Rabbit {
    /// Connects once more, for a while.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn visit(&self) -> Result<Visit, Unavailable> {
        Ok(Visit { connection: self.connection().await?, names: self.names().clone() })
    }
}

impl Visit {
    /// Declares everything, and says what was there before.
    ///
    /// # Errors
    /// [`Unavailable`]: a part of it may be declared; it can be done again.
    pub async fn provision(&self, objects: &[Object]) -> Result<Vec<Provisioned>, Unavailable> {
        within(ALL, topology::provision(&self.connection, objects)).await
    }

    /// Looks whether everything is there.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn check(&self, objects: &[Object]) -> Result<Vec<Looked>, Unavailable> {
        within(ALL, topology::check(&self.connection, objects)).await
    }

    /// Looks into a queue; what was found in place of it when it cannot be seen.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn depth(&self, queue: &str) -> Result<Result<Depth, Found>, Unavailable> {
        within(ANSWER, topology::depth(&self.connection, queue)).await
    }

    /// Lets a canary fly; `Well` when the broker has confirmed it.
    ///
    /// # Errors
    /// [`Unavailable`]: it may fly all the same.
    pub async fn release(&self, way: (Kind, Way), id: &str) -> Result<Found, Unavailable> {
        within(ANSWER, canary::release(&self.connection, &self.names, way, id)).await
    }

    /// May this user publish there? `Well` when it may. Nothing is published.
    ///
    /// # Errors
    /// [`Unavailable`]: gone, or an alarm stops all publishers.
    pub async fn may_write(&self, exchange: &str) -> Result<Found, Unavailable> {
        within(rights::ANSWER, rights::may_write(&self.connection, exchange)).await
    }

    /// May this user consume the queue? `Well` when it may. Nothing is consumed.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn may_read(&self, queue: &str) -> Result<Found, Unavailable> {
        within(rights::ANSWER, rights::may_read(&self.connection, queue)).await
    }

    /// May this user configure a topic exchange that is there? `Well` when it may. Nothing is changed.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn may_configure(&self, exchange: &str) -> Result<Found, Unavailable> {
        within(rights::ANSWER, rights::may_configure(&self.connection, exchange)).await
    }

    /// Stands in for the consumers of a lane.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn stand_in(&self, queue: String) -> Result<StandIn, Unavailable> {
        within(ANSWER, StandIn::new(&self.connection, queue)).await
    }

    /// Hangs up in good order.
    pub async fn leave(self) {
        let closed = tokio::time::timeout(ANSWER, self.connection.close(200, "done".into())).await;
        if let Ok(Err(error)) = closed {
            tracing::debug!(%error, "a connection could not be closed");
        }
    }
}

async fn within<T>(span: Duration, asked: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, Unavailable> {
    match tokio::time::timeout(span, asked).await {
        Ok(answer) => answer.map_err(|error| down(told(&error))),
        Err(_) => Err(down(format!("no answer within {} s", span.as_secs()))),
    }
}

impl Rabbit {
    /// A connection of its own, for declaring and checking.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn connection(&self) -> Result<Connection, Unavailable> {
        link::connect(&self.inner.options, "looks").await.map_err(down)
    }
}
