//! One life of the connections to the broker: made whole, used, and torn down whole at the first error.
//!
//! lapin's own recovery hides an outage from the consumer, and leaves channels dead after errors of their own; so there is
//! one path for everything: whatever goes wrong ends the session, and the supervisor makes the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    Acker, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Event,
    message::Delivery as Message,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        BasicRejectOptions, ConfirmSelectOptions,
    },
    tcp::{OwnedIdentity, OwnedTLSConfig},
    types::{FieldTable, ShortString},
    uri::AMQPUri,
};
use secrecy::ExposeSecret as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    message::{self, Outgoing},
    names::{Lane, Names, Source},
};
use crate::{
    clock,
    domain::{step::Kind, time::Moment, trace::Trace},
    engine::ports::Unavailable,
    telemetry::{FleetMetrics, Publish},
};

/// A message in our hands. Dropped without being settled it is given back, and comes again as redelivered.
#[derive(Debug)]
pub struct Delivery {
    pub(super) session: Arc<Session>,
    pub(super) lane: (Kind, Lane),
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
    pub producer: Option<String>,
    pub message_id: Option<String>,
    pub published_at: Option<Moment>,
    pub trace: Option<Trace>,
}

impl Arrived {
    fn new(session: Arc<Session>, lane: (Kind, Lane), is_spent: bool, message: Message) -> Self {
        let (producer, message_id) = (message::producer(&message), message::message_id(&message));
        let (published_at, trace) = (message::published_at(&message), message::trace(&message));
        let body = String::from_utf8(message.data)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        session.metrics.given_out(lane.0, lane.1.name());
        let delivery = Delivery { session, lane, acker: Some(message.acker) };
        // What the broker dead-lettered may come flagged at its first delivery, and has been given out in any case.
        let is_redelivered = message.redelivered || is_spent;
        Self { delivery, body, is_redelivered, is_spent, producer, message_id, published_at, trace }
    }
}

/// Where the messages of the lanes go.
pub(super) type Inboxes = BTreeMap<Source, mpsc::Sender<Arrived>>;

/// A lane's channel, and its consumer when there is one.
#[derive(Debug, Clone)]
struct Lined {
    channel: Channel,
    tag: ShortString,
    is_on: bool,
}

/// One life of both connections.
#[derive(Debug)]
pub(super) struct Session {
    out: Channel,
    /// Who publishes: one at a time, until its message is on its way.
    turn: tokio::sync::Mutex<()>,
    confirm_timeout: Duration,
    is_blocked: AtomicBool,
    over: CancellationToken,
    why: Mutex<Option<String>>,
    returns: mpsc::UnboundedSender<Acker>,
    canaries: mpsc::Sender<String>,
    publishing: Connection,
    consuming: Option<Connection>,
    consumers: Mutex<BTreeMap<Source, Lined>>,
    /// Lanes whose messages are being taken in.
    taking_in: watch::Sender<usize>,
    metrics: FleetMetrics,
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
    /// Connects, and begins to consume.
    pub(super) async fn open(
        options: &Options,
        canaries: mpsc::Sender<String>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Arc<Self>, String> {
        let publishing = connect(options, "publishes").await?;
        let out = publishing.create_channel().await.map_err(|error| told(&error))?;
        out.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| told(&error))?;
        let consuming = if options.lanes.is_empty() { None } else { Some(connect(options, "consumes").await?) };
        let (returns, returned) = mpsc::unbounded_channel();
        let session = Arc::new(Self {
            out,
            turn: tokio::sync::Mutex::default(),
            confirm_timeout: options.confirm_timeout,
            is_blocked: AtomicBool::new(false),
            over: CancellationToken::new(),
            why: Mutex::new(None),
            returns,
            canaries,
            publishing,
            consuming,
            consumers: Mutex::default(),
            taking_in: watch::Sender::new(0),
            metrics: options.metrics.clone(),
        });
        tasks.spawn(listen(Arc::clone(&session), session.publishing.events_listener()));
        if let Some(consuming) = &session.consuming {
            tasks.spawn(listen(Arc::clone(&session), consuming.events_listener()));
        }
        tasks.spawn(give_back(Arc::clone(&session), returned));
        Ok(session)
    }

    /// Consumes the lanes of these kinds and no others.
    pub(super) async fn consume(
        self: &Arc<Self>,
        kinds: &BTreeSet<Kind>,
        (options, names): (&Options, &Names),
        inboxes: &Inboxes,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), lapin::Error> {
        for (source, inbox) in inboxes {
            let known = self.consumers().get(source).cloned();
            let is_wanted = match source {
                Source::Lane(kind, _) => kinds.contains(kind),
                Source::Dead => !kinds.is_empty(),
            };
            match (is_wanted, known) {
                (true, Some(Lined { is_on: true, .. })) | (false, None | Some(Lined { is_on: false, .. })) => {}
                (true, known) => {
                    let channel = match known {
                        Some(Lined { channel, .. }) => channel,
                        None => self.channel(options.prefetch(*source)).await?,
                    };
                    let consumer = self.begin(&channel, &names.queue(*source)).await?;
                    self.consumers().insert(*source, Lined { channel, tag: consumer.tag(), is_on: true });
                    self.taking_in.send_modify(|lanes| *lanes += 1);
                    let (session, source, inbox) = (Arc::clone(self), *source, inbox.clone());
                    let names = names.clone();
                    tasks.spawn(async move {
                        forward(&session, (&names, source), consumer, inbox).await;
                        session.taking_in.send_modify(|lanes| *lanes -= 1);
                    });
                }
                (false, Some(Lined { channel, tag, .. })) => {
                    // The channel stays: closing it would give back what handlers are at work on.
                    let off = Lined { channel: channel.clone(), tag: tag.clone(), is_on: false };
                    self.consumers().insert(*source, off);
                    channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
                }
            }
        }
        Ok(())
    }

    async fn channel(&self, prefetch: u16) -> Result<Channel, lapin::Error> {
        let Some(connection) = &self.consuming else { return Err(lapin::ErrorKind::InvalidChannel(0).into()) };
        let channel = connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        Ok(channel)
    }

    async fn begin(&self, channel: &Channel, queue: &str) -> Result<Consumer, lapin::Error> {
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
    }

    fn consumers(&self) -> MutexGuard<'_, BTreeMap<Source, Lined>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no lane takes anything in: what the broker had sent ahead lies in the inboxes, or the session is over.
    pub(super) async fn is_at_rest(&self) {
        let mut taking_in = self.taking_in.subscribe();
        tokio::select! {
            biased;
            () = self.over.cancelled() => {}
            // The sender lives as long as `self`.
            _ = taking_in.wait_for(|lanes| *lanes == 0) => {}
        }
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
        self.is_blocked.load(Ordering::Relaxed)
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
            tokio::select! {
                biased;
                () = self.over.cancelled() => return Err(down("the connection went down while the broker was full")),
                () = tokio::time::sleep(wait) => wait = wait.saturating_mul(2).min(Duration::from_secs(10)),
            }
        }
    }

    /// Publishes once, for whoever would rather know that the broker is full.
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
            () = tokio::time::sleep(self.confirm_timeout) => {
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

    /// A canary has come: it is settled here, and told of. Where nobody asks for them, the first few are kept.
    async fn canary(&self, id: String, acker: &Acker) {
        if let Err(error) = self.acknowledge(acker).await {
            tracing::debug!(%error, "a canary could not be acknowledged");
        } else if let Err(error) = self.canaries.try_send(id) {
            tracing::debug!(%error, "a canary is not told of");
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
        for connection in [Some(&self.publishing), self.consuming.as_ref()].into_iter().flatten() {
            let closed = tokio::time::timeout(Duration::from_secs(5), connection.close(200, "done".into())).await;
            if let Ok(Err(error)) = closed {
                tracing::debug!(%error, "a connection could not be closed");
            }
        }
    }
}

/// Hosts and ports of the brokers, for people.
pub(super) fn address(options: &Options) -> String {
    let places = options.urls.iter().filter_map(|url| url.expose_secret().parse::<AMQPUri>().ok());
    let places: Vec<String> =
        places.map(|uri| format!("{}:{}{}", uri.authority.host, uri.authority.port, vhost(&uri.vhost))).collect();
    places.join(", ")
}

fn vhost(name: &str) -> String {
    if name == "/" { String::new() } else { format!("/{name}") }
}

/// Connects to the first of the brokers that answers; the order changes from time to time, so that they share the load.
pub(super) async fn connect(options: &Options, purpose: &str) -> Result<Connection, String> {
    let mut why = "no broker is named".to_owned();
    let first = clock::below(options.urls.len());
    let (before, after) = options.urls.split_at(first.min(options.urls.len()));
    for url in after.iter().chain(before) {
        let uri: AMQPUri = match url.expose_secret().parse() {
            Ok(uri) => uri,
            Err(_) => return Err("the address of the broker is no amqp:// or amqps:// URL".to_owned()),
        };
        let mut uri = uri;
        uri.query.heartbeat.get_or_insert(u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX));
        let name = format!("longshore {} {purpose}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let identity = options.identity.as_ref().map(|(certificate, key)| OwnedIdentity::PKCS8 {
            pem: certificate.clone().into_bytes(),
            key: key.expose_secret().as_bytes().to_vec(),
        });
        let tls = OwnedTLSConfig { identity, cert_chain: options.ca.clone() };
        let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
        let connected = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        match tokio::time::timeout(options.connect_timeout, connected).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => why = told(&error),
            Err(_) => why = format!("no answer within {} s", options.connect_timeout.as_secs()),
        }
    }
    Err(why)
}

/// Notes what the broker says of a connection.
async fn listen(session: Arc<Session>, events: impl futures_util::Stream<Item = Event> + Send) {
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
                session.is_blocked.store(true, Ordering::Relaxed);
                session.metrics.blocked(true);
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("the broker accepts messages again");
                session.is_blocked.store(false, Ordering::Relaxed);
                session.metrics.blocked(false);
            }
            Some(Event::Error(error)) => return session.end(told(&error)),
            Some(_) => {}
            None => return session.end("the connection ended"),
        }
    }
}

/// Takes a lane's messages in. The end of the stream, with or without an error, ends the session: a queue that was
/// deleted, or a consumer that the broker cancelled, ends it silently.
async fn forward(
    session: &Arc<Session>,
    (names, source): (&Names, Source),
    mut consumer: Consumer,
    inbox: mpsc::Sender<Arrived>,
) {
    loop {
        let message = tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            message = consumer.next() => message,
        };
        match message {
            Some(Ok(message)) => {
                if let Some(id) = message::canary(&message) {
                    session.canary(id, &message.acker).await;
                    continue;
                }
                let arrived = arrived(session, (names, source), message);
                // The inbox holds as many as the broker gives out at once.
                if inbox.send(arrived).await.is_err() {
                    return session.end("nobody takes messages any more");
                }
            }
            Some(Err(error)) => return session.end(told(&error)),
            // Cancelled by us.
            None if session.consumers().get(&source).is_some_and(|lined| !lined.is_on) => return,
            None => return session.end(format!("the broker ended the consumer of {source:?}")),
        }
    }
}

/// A message with where it came from. What the broker dead-lettered because it was given out too often is spent; for any other
/// reason (somebody's policy) it goes on as if it had come from its lane.
fn arrived(session: &Arc<Session>, (names, source): (&Names, Source), message: Message) -> Arrived {
    let session = Arc::clone(session);
    match source {
        Source::Lane(kind, lane) => Arrived::new(session, (kind, lane), false, message),
        Source::Dead => {
            let (queue, reason) = message::death(&message).unwrap_or_default();
            // A queue of tomorrow, or none: nobody knows whether a worker wrote it, so it is read as a producer's.
            let lane = names.lane_of(&queue).unwrap_or((Kind::StatusPoll, Lane::Intake));
            tracing::warn!(queue, reason, "the broker dead-lettered a message");
            Arrived::new(session, lane, reason == "delivery_limit", message)
        }
    }
}

/// Gives deliveries back that were dropped. By `reject`: on 4.3 `nack` does not count toward the delivery limit.
async fn give_back(session: Arc<Session>, mut returned: mpsc::UnboundedReceiver<Acker>) {
    loop {
        let acker = tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            acker = returned.recv() => acker,
        };
        let Some(acker) = acker else { return };
        if let Err(error) = acker.reject(BasicRejectOptions { requeue: true }).await {
            return session.end(told(&error));
        }
    }
}
