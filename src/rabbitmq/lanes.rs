//! The lanes of one session: consumed while they are wanted and the broker is well, each on a channel of its own.
//!
//! A lane that is missing, or that our user may not read, costs that lane alone: it is told with what to do, and tried again
//! while the others work. Every other trouble ends the session.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    Acker, Channel, Consumer,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::{FieldTable, ShortString},
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    Options,
    arrived::Arrived,
    canary::Came,
    message,
    names::{Names, Source},
    session::{Session, told},
};
use crate::{clock, domain::step::Kind};

/// The first pause before a lane is tried again that could not be consumed; each is twice the one before.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where the messages of the lanes go.
pub(super) type Inboxes = BTreeMap<Source, mpsc::Sender<Arrived>>;

/// A lane's channel, and its consumer when there is one.
#[derive(Debug, Clone)]
pub(super) struct Lined {
    channel: Channel,
    tag: ShortString,
    is_on: bool,
}

/// Why a lane is not consumed, and when it is tried again.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    why: String,
    pause: Duration,
    again: Instant,
}

/// Why this error is one lane's alone; none when it is anything else. Codes are matched, never words.
fn of_the_lane(error: &lapin::Error, queue: &str) -> Option<String> {
    let lapin::ErrorKind::ProtocolError(refusal) = error.kind() else { return None };
    match refusal.get_id() {
        403 => Some(format!("{queue}: the broker's user may not read it; grant read, see longshore doctor")),
        404 => Some(format!("{queue} is missing; with admin rights: longshore topology declare")),
        _ => None,
    }
}

impl Session {
    /// Consumes the lanes of these kinds and no others. Returns when to ask again for those that could not be consumed.
    pub(super) async fn consume(
        self: &Arc<Self>,
        kinds: &BTreeSet<Kind>,
        (options, names): (&Options, &Names),
        inboxes: &Inboxes,
        tasks: &mut JoinSet<()>,
    ) -> Result<Option<Instant>, lapin::Error> {
        for (source, inbox) in inboxes {
            let known = self.consumers().get(source).cloned();
            let is_wanted = match source {
                Source::Lane(kind, _) => kinds.contains(kind),
                Source::Dead => !kinds.is_empty(),
            };
            match (is_wanted, known) {
                (true, Some(Lined { is_on: true, .. })) => {}
                (true, known) if !self.must_wait(*source) => {
                    let queue = names.queue(*source);
                    match self.begin(known, &queue, options.prefetch(*source)).await {
                        Ok((channel, consumer)) => {
                            self.consumers().insert(*source, Lined { channel, tag: consumer.tag(), is_on: true });
                            self.mended(*source, &queue);
                            self.taking_in.send_modify(|lanes| *lanes += 1);
                            let (session, source, inbox) = (Arc::clone(self), *source, inbox.clone());
                            let names = names.clone();
                            tasks.spawn(async move {
                                forward(&session, (&names, source), consumer, inbox).await;
                                session.taking_in.send_modify(|lanes| *lanes -= 1);
                            });
                        }
                        Err(error) => match of_the_lane(&error, &queue) {
                            Some(why) => self.faulty(*source, why),
                            None => return Err(error),
                        },
                    }
                }
                (true, _) => {}
                (false, known) => {
                    self.faults().remove(source);
                    let Some(Lined { channel, tag, is_on: true }) = known else { continue };
                    // The channel stays: closing it would give back what handlers are at work on.
                    let off = Lined { channel: channel.clone(), tag: tag.clone(), is_on: false };
                    self.consumers().insert(*source, off);
                    channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
                }
            }
        }
        Ok(self.faults().values().map(|fault| fault.again).min())
    }

    /// Begins to consume, on the channel that the lane has already.
    async fn begin(
        &self,
        known: Option<Lined>,
        queue: &str,
        prefetch: u16,
    ) -> Result<(Channel, Consumer), lapin::Error> {
        let channel = if let Some(Lined { channel, .. }) = known {
            channel
        } else {
            let Some(connection) = &self.consuming else { return Err(lapin::ErrorKind::InvalidChannel(0).into()) };
            let channel = connection.create_channel().await?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            channel
        };
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        Ok((channel, consumer))
    }

    fn consumers(&self) -> MutexGuard<'_, BTreeMap<Source, Lined>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, BTreeMap<Source, Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with lanes that should be consumed, in one text.
    pub(super) fn fault(&self) -> Option<String> {
        let faults = self.faults();
        let whys: Vec<&str> = faults.values().map(|fault| fault.why.as_str()).collect();
        (!whys.is_empty()).then(|| whys.join("; "))
    }

    fn must_wait(&self, source: Source) -> bool {
        self.faults().get(&source).is_some_and(|fault| fault.again > now())
    }

    fn faulty(&self, source: Source, why: String) {
        // The refusal has closed its channel.
        self.consumers().remove(&source);
        let mut faults = self.faults();
        let pause = faults.get(&source).map_or(PAUSE, |fault| fault.pause.saturating_mul(2).min(LONGEST_PAUSE));
        if faults.get(&source).is_none_or(|fault| fault.why != why) {
            tracing::error!(why, "a lane cannot be consumed; the others are, and it is tried again");
        }
        faults.insert(source, Fault { why, pause, again: now() + pause });
    }

    fn mended(&self, source: Source, queue: &str) {
        if self.faults().remove(&source).is_some() {
            tracing::info!(queue, "the lane is consumed again");
        }
    }

    /// Waits until this change is heeded and no lane takes anything in: what the broker had sent ahead lies in the inboxes, or
    /// the session is over.
    pub(super) async fn is_at_rest(&self, change: u64) {
        let (mut heeded, mut taking_in) = (self.heeded.subscribe(), self.taking_in.subscribe());
        let at_rest = async {
            // The senders live as long as `self`.
            drop(heeded.wait_for(|heeded| *heeded >= change).await);
            drop(taking_in.wait_for(|lanes| *lanes == 0).await);
        };
        tokio::select! {
            biased;
            () = self.over.cancelled() => {}
            () = at_rest => {}
        }
    }
}

fn now() -> Instant {
    Instant::from_std(clock::monotonic())
}

/// Takes a lane's messages in. The end of the stream, with or without an error, ends the session: a queue that was
/// deleted, or a consumer that the broker cancelled, ends it silently.
async fn forward(
    session: &Arc<Session>,
    (names, source): (&Names, Source),
    mut consumer: Consumer,
    inbox: mpsc::Sender<Arrived>,
) {
    let tag = consumer.tag();
    loop {
        let message = tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            message = consumer.next() => message,
        };
        match message {
            Some(Ok(message)) => {
                if let Some(id) = message::canary(&message) {
                    session.canary(source, Came { id, lane: names.queue(source) }, &message.acker).await;
                    continue;
                }
                let arrived = Arrived::new(session, (names, source), message);
                // The inbox holds as many as the broker gives out at once.
                if inbox.send(arrived).await.is_err() {
                    return session.end("nobody takes messages any more");
                }
            }
            Some(Err(error)) => return session.end(told(&error)),
            // Cancelled by us; another consumer may have begun since.
            None if session.consumers().get(&source).is_some_and(|lined| !lined.is_on || lined.tag != tag) => return,
            None => return session.end(format!("the broker ended the consumer of {}", names.queue(source))),
        }
    }
}

/// Gives deliveries back that were dropped. By `reject`: on 4.3 `nack` does not count toward the delivery limit.
pub(super) async fn give_back(session: Arc<Session>, mut returned: mpsc::UnboundedReceiver<Acker>) {
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
