//! One life of the connections to the broker: made whole, used, and torn down whole at the first error.
//!
//! lapin's own recovery hides an outage from the consumer, and leaves channels dead after errors of their own; so there is
//! one path for everything: whatever goes wrong ends the session, and the supervisor makes the next one. The one exception
//! is a lane that cannot be consumed, see `lanes.rs`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    Acker, Channel, Confirmation, Connection, Event,
    options::{BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions},
    protocol::AMQPErrorKind,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    canary::Came,
    lanes::{Fault, Lined, give_back},
    link::connect,
    message::Outgoing,
    names::{Lane, Source},
};
use crate::{
    clock,
    engine::ports::Unavailable,
    telemetry::{FleetMetrics, Publish},
};

/// How long a connection may take to be closed.
const CLOSING: Duration = Duration::from_secs(5);

/// Who is told what a session hears.
#[derive(Debug, Clone)]
pub(super) struct Ears {
    /// Canaries that came over a return lane, where producers cannot write.
    pub tickets: mpsc::Sender<Came>,
    /// Those of all other lanes.
    pub jobs: mpsc::Sender<Came>,
    /// Does the broker refuse everything for the moment: no memory, no disk?
    pub blocked: watch::Sender<bool>,
}

/// One life of both connections.
#[derive(Debug)]
pub(super) struct Session {
    out: Channel,
    /// Who publishes: one at a time, until its message is on its way.
    turn: tokio::sync::Mutex<()>,
    confirm_timeout: Duration,
    /// The largest job, in bytes.
    pub(super) max_job: usize,
    pub(super) over: CancellationToken,
    why: Mutex<Option<String>>,
    returns: mpsc::UnboundedSender<Acker>,
    ears: Ears,
    publishing: Connection,
    pub(super) consuming: Option<Connection>,
    pub(super) consumers: Mutex<BTreeMap<Source, Lined>>,
    pub(super) faults: Mutex<BTreeMap<Source, Fault>>,
    /// The latest change of what is wanted that the lanes have heeded.
    pub(super) heeded: watch::Sender<u64>,
    /// Lanes whose messages are being taken in.
    pub(super) taking_in: watch::Sender<usize>,
    pub(super) metrics: FleetMetrics,
}

pub(super) fn down(why: impl Into<String>) -> Unavailable {
    Unavailable { what: "broker", why: why.into() }
}

/// What lapin said. Its errors name hosts and codes, never a password.
pub(super) fn told(error: &lapin::Error) -> String {
    error.to_string()
}

/// Why a message was not accepted.
#[derive(Debug)]
pub(super) enum Refused {
    /// The broker is full for now, and says so.
    Full(String),
    /// It has no route.
    Returned(String),
    /// Anything else.
    Down(Unavailable),
}

/// For whoever counts.
const fn outcome_of(published: &Result<(), Refused>) -> Publish {
    match published {
        Ok(()) => Publish::Confirmed,
        Err(Refused::Full(_)) => Publish::Refused,
        Err(Refused::Returned(_)) => Publish::Returned,
        Err(Refused::Down(_)) => Publish::Unknown,
    }
}

impl From<Unavailable> for Refused {
    fn from(down: Unavailable) -> Self {
        Self::Down(down)
    }
}

impl From<Refused> for Unavailable {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full(why) => down(format!("the broker accepts nothing for the moment: {why}")),
            Refused::Returned(why) => down(why),
            Refused::Down(down) => down,
        }
    }
}

impl Session {
    /// Connects; nothing is consumed yet.
    pub(super) async fn open(options: &Options, ears: Ears, tasks: &mut JoinSet<()>) -> Result<Arc<Self>, String> {
        let publishing = connect(options, "publishes").await?;
        let out = publishing.create_channel().await.map_err(|error| told(&error))?;
        out.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| told(&error))?;
        let consuming = if options.lanes.is_empty() { None } else { Some(connect(options, "consumes").await?) };
        let (returns, returned) = mpsc::unbounded_channel();
        // Whether the broker is blocked now is told at the first message.
        ears.blocked.send_replace(false);
        let session = Arc::new(Self {
            out,
            turn: tokio::sync::Mutex::default(),
            confirm_timeout: options.confirm_timeout,
            max_job: options.max_job,
            over: CancellationToken::new(),
            why: Mutex::new(None),
            returns,
            ears,
            publishing,
            consuming,
            consumers: Mutex::default(),
            faults: Mutex::default(),
            heeded: watch::Sender::new(0),
            taking_in: watch::Sender::new(0),
            metrics: options.metrics.clone(),
        });
        tasks.spawn(listen(Arc::clone(&session), session.publishing.events_listener(), Purpose::Publishes));
        if let Some(consuming) = &session.consuming {
            tasks.spawn(listen(Arc::clone(&session), consuming.events_listener(), Purpose::Consumes));
        }
        tasks.spawn(give_back(Arc::clone(&session), returned));
        Ok(session)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Returns when the session is over.
    pub(super) async fn ended(&self) -> String {
        self.over.cancelled().await;
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Ends the session; the first reason stays.
    pub(super) fn end(&self, why: impl Into<String>) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why.into());
        self.over.cancel();
    }

    pub(super) fn is_blocked(&self) -> bool {
        *self.ears.blocked.borrow()
    }

    /// Returns when the broker accepts messages.
    async fn unblocked(&self) {
        let mut blocked = self.ears.blocked.subscribe();
        // The sender lives as long as `self`.
        drop(blocked.wait_for(|is_blocked| !is_blocked).await);
    }

    /// Returns when the broker could have confirmed for so long: while it is blocked it reads nothing, and no time passes.
    async fn patience(&self, longest: Duration) {
        let mut blocked = self.ears.blocked.subscribe();
        loop {
            drop(blocked.wait_for(|is_blocked| !is_blocked).await);
            tokio::select! {
                biased;
                // The sender lives as long as `self`.
                _ = blocked.changed() => {}
                () = tokio::time::sleep(longest) => return,
            }
        }
    }

    /// Publishes, and returns when the broker has confirmed. While the broker is full (an alarm, a queue at its limit) it waits and
    /// publishes again, for as long as the session lives: the delivery behind it is kept, for one that goes back at once
    /// comes again at once.
    pub(super) async fn publish(&self, message: &Outgoing) -> Result<(), Unavailable> {
        let mut wait = Duration::from_millis(250);
        loop {
            match self.publish_once(message).await {
                Err(Refused::Full(why)) => tracing::warn!(why, "the broker is full; publishing again"),
                Err(refused @ (Refused::Returned(_) | Refused::Down(_))) => return Err(refused.into()),
                Ok(()) => return Ok(()),
            }
            let until_again = async {
                tokio::time::sleep(wait).await;
                self.unblocked().await;
            };
            tokio::select! {
                biased;
                () = self.over.cancelled() => return Err(down("the connection went down while the broker was full")),
                () = until_again => wait = wait.saturating_mul(2).min(Duration::from_secs(10)),
            }
        }
    }

    /// Publishes once, for whoever would rather know that the broker is full. What is on its way when the broker blocks is
    /// confirmed when it reads again: until then nothing is known of it, and it is not sent a second time.
    pub(super) async fn publish_once(&self, message: &Outgoing) -> Result<(), Refused> {
        let begun = clock::monotonic();
        let published = self.publish_and_confirm(message).await;
        self.metrics.published(outcome_of(&published), begun.elapsed());
        published
    }

    async fn publish_and_confirm(&self, message: &Outgoing) -> Result<(), Refused> {
        if self.is_over() {
            return Err(down("the connection is gone").into());
        }
        if self.is_blocked() {
            return Err(Refused::Full("memory or disk alarm".to_owned()));
        }
        let Outgoing { exchange, key, body, properties } = message;
        let sent = async {
            let options = BasicPublishOptions { mandatory: message.is_mandatory(), ..BasicPublishOptions::default() };
            let (name, key, properties) = (exchange.as_str().into(), key.as_str().into(), properties.clone());
            let confirm = {
                // ORDER: the number that a message is confirmed by is drawn before it is sent, and the broker counts as they come;
                // two at once would be confirmed by each other's.
                let _turn = self.turn.lock().await;
                self.out.basic_publish(name, key, options, body, properties).await?
            };
            confirm.await
        };
        let confirmed = tokio::select! {
            biased;
            sent = sent => sent,
            () = self.over.cancelled() => return Err(down("the connection went down before the broker confirmed").into()),
            () = self.patience(self.confirm_timeout) => {
                self.end("no confirmation in time");
                return Err(down("the broker did not confirm in time").into());
            }
        };
        match confirmed {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(Confirmation::Ack(Some(_))) => Err(Refused::Returned(format!("{exchange:?} has no route for {key:?}"))),
            Ok(Confirmation::Nack(_)) => Err(Refused::Full(format!("a queue behind {exchange:?} refused a message"))),
            Ok(Confirmation::NotRequested) => {
                self.end("confirms are off");
                Err(down("confirms are off").into())
            }
            Err(error) => {
                self.end(told(&error));
                Err(down(told(&error)).into())
            }
        }
    }

    /// Acknowledges. An `Ok(false)` says that the delivery is no longer ours.
    pub(super) async fn acknowledge(&self, acker: &Acker) -> Result<(), Unavailable> {
        let sent = tokio::select! {
            biased;
            sent = acker.ack(BasicAckOptions::default()) => sent,
            () = self.over.cancelled() => return Err(down("the connection is gone")),
            () = tokio::time::sleep(self.confirm_timeout) => {
                self.end("an acknowledgement could not be sent in time");
                return Err(down("an acknowledgement could not be sent in time"));
            }
        };
        match sent {
            Ok(true) if !self.is_over() => Ok(()),
            Ok(_) => {
                self.end("a delivery was no longer ours");
                Err(down("the delivery is no longer ours; it comes again"))
            }
            Err(error) => {
                self.end(told(&error));
                Err(down(told(&error)))
            }
        }
    }

    /// A canary has come: it is settled here, and told of. Where nobody asks for them, the first few are kept; those of
    /// producers' lanes have a place of their own, so that nobody fills that of the others.
    pub(super) async fn canary(&self, source: Source, came: Came, acker: &Acker) {
        let ear = match source {
            Source::Lane(_, Lane::Return) => &self.ears.tickets,
            Source::Lane(_, Lane::Intake | Lane::Bulk) | Source::Dead => &self.ears.jobs,
        };
        if let Err(error) = self.acknowledge(acker).await {
            tracing::debug!(%error, "a canary could not be acknowledged");
        } else if ear.try_send(came).is_err() {
            tracing::debug!("a canary is not told of");
        }
    }

    /// Gives a delivery back that nobody settled: it comes again, as redelivered.
    pub(super) fn reject(&self, acker: Acker) {
        if !self.is_over() && self.returns.send(acker).is_err() {
            self.end("deliveries cannot be given back");
        }
    }

    /// Closes both connections in good order; half a second later, so that the last acknowledgements arrive.
    pub(super) async fn close(&self) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.end("closed by us");
        self.shut().await;
    }

    /// Closes what is still open of the connections, whoever still holds a delivery.
    pub(super) async fn shut(&self) {
        let consuming = async {
            if let Some(consuming) = &self.consuming {
                close(consuming).await;
            }
        };
        futures_util::future::join(close(&self.publishing), consuming).await;
    }
}

async fn close(connection: &Connection) {
    if let Ok(Err(error)) = tokio::time::timeout(CLOSING, connection.close(200, "done".into())).await {
        tracing::debug!(%error, "a connection could not be closed");
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Publishes,
    Consumes,
}

/// Notes what the broker says of a connection.
async fn listen(session: Arc<Session>, events: impl futures_util::Stream<Item = Event> + Send, purpose: Purpose) {
    let mut events = Box::pin(events);
    loop {
        let event = tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(reason, "the broker accepts nothing for the moment");
                session.ears.blocked.send_replace(true);
                session.metrics.blocked(true);
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("the broker accepts messages again");
                session.ears.blocked.send_replace(false);
                session.metrics.blocked(false);
            }
            // Of a lane's channel alone: whoever waits for its answer, or reads its messages, is told.
            Some(Event::Error(error)) if purpose == Purpose::Consumes && is_of_a_channel(&error) => {}
            Some(Event::Error(error)) => return session.end(told(&error)),
            Some(_) => {}
            None => return session.end("the connection ended"),
        }
    }
}

fn is_of_a_channel(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(error) if matches!(error.kind(), AMQPErrorKind::Soft(_)))
}
