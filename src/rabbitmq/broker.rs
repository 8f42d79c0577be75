//! Receiving, publishing, acknowledging: the broker's half of a home.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Rabbit,
    arrived::{Arrived, Delivery},
    message::{self, Headers, Outgoing},
    names::{self, Lane, Source, job_key},
    session::{Refused, Session, down},
};
use crate::{
    clock,
    domain::{
        event::{Class, End, Event},
        job::Job,
        settlement::SetAside,
        step::Kind,
        ticket::Ticket,
        time::Moment,
        trace::Trace,
    },
    engine::{
        crash::{self, Arrow},
        intake::{self, ControlTicket, Message},
        ports::{Completes, Origin, Received, Unavailable},
        settle::{Broker, Proof},
    },
    telemetry,
};

/// What a receiver comes by.
enum Next {
    /// From an inbox.
    Arrived(Arrived),
    /// A ticket that has rested here for the last part of its wait.
    Woken(Arrived),
}

/// What of a ticket is read before it is given to anybody.
#[derive(Deserialize)]
struct Due {
    due: Option<Moment>,
}

/// A wait below this is waited here: the shortest class of the delays is one second.
const SHORT: Duration = Duration::from_secs(1);

impl Rabbit {
    /// Waits for the next message of a kind: tickets before jobs, interactive jobs before bulk; every eighth time the other way
    /// round, so that nothing that was given out lies beyond the broker's patience.
    pub(crate) async fn receive(&self, kind: Kind) -> Result<Received<Delivery>, Unavailable> {
        self.want(kind);
        let mut blocked = self.inner.ears.blocked.subscribe();
        loop {
            // Nothing new is begun while nothing can be published. The sender lives as long as `self`.
            drop(blocked.wait_for(|is_blocked| !is_blocked).await);
            // Dropped at any await below, the delivery goes back to the broker, or rests on.
            let next = tokio::select! {
                biased;
                _ = blocked.changed() => continue,
                next = self.next(kind) => next?,
            };
            let arrived = match next {
                Next::Woken(arrived) => {
                    if arrived.delivery.session.is_over() {
                        continue;
                    }
                    return Ok(received(arrived));
                }
                Next::Arrived(arrived) => arrived,
            };
            // What an older session gave out comes again.
            if arrived.delivery.session.is_over() {
                continue;
            }
            if arrived.problem.is_some() {
                self.refuse(arrived).await?;
                continue;
            }
            if arrived.delivery.lane.1 == Lane::Return
                && let Some(wait) = wait_of(&arrived.body, self.now())
            {
                if wait < SHORT {
                    let due = Instant::from_std(clock::monotonic() + wait);
                    self.resting(kind).push((due, arrived));
                } else {
                    self.park_rest(arrived, wait).await?;
                }
                continue;
            }
            return Ok(received(arrived));
        }
    }

    async fn next(&self, kind: Kind) -> Result<Next, Unavailable> {
        let inbox = |source| async move {
            match self.inner.inboxes.get(&source) {
                Some(inbox) => inbox.lock().await.recv().await,
                None => std::future::pending().await,
            }
        };
        let (resting, first) = {
            let resting = self.resting(kind);
            (resting.len(), resting.iter().map(|(due, _)| *due).min())
        };
        let woken = async {
            match first {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let bound = usize::from(self.inner.options.prefetch(Source::Lane(kind, Lane::Return)));
        let tickets = async {
            if resting < bound { inbox(Source::Lane(kind, Lane::Return)).await } else { std::future::pending().await }
        };
        let lane = |lane| inbox(Source::Lane(kind, lane));
        let is_turned = self.inner.received.fetch_add(1, Ordering::Relaxed) % 8 == 7;
        let arrived = tokio::select! {
            biased;
            () = woken => return Ok(self.wake(kind)),
            arrived = inbox(Source::Dead), if is_turned => arrived,
            arrived = lane(Lane::Bulk), if is_turned => arrived,
            arrived = tickets => arrived,
            arrived = lane(Lane::Intake) => arrived,
            arrived = lane(Lane::Bulk), if !is_turned => arrived,
            arrived = inbox(Source::Dead), if !is_turned => arrived,
        };
        arrived.map(Next::Arrived).ok_or_else(|| down("the inbox is closed"))
    }

    fn resting(&self, kind: Kind) -> std::sync::MutexGuard<'_, Vec<(Instant, Arrived)>> {
        let of = self.inner.resting.get(&kind).unwrap_or(&self.inner.nobody_rests);
        of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes whoever has rested longest beyond its time.
    fn wake(&self, kind: Kind) -> Next {
        let mut resting = self.resting(kind);
        let first = resting.iter().enumerate().min_by_key(|(_, (due, _))| *due).map(|(at, _)| at);
        Next::Woken(resting.swap_remove(first.unwrap_or_default()).1)
    }

    /// A ticket that woke before its time waits for the rest of it, untouched but for its mark.
    async fn park_rest(&self, arrived: Arrived, wait: Duration) -> Result<(), Unavailable> {
        let Arrived { delivery, body, is_redelivered, .. } = arrived;
        // A new message has no flag: what was redelivered is marked.
        let body = if is_redelivered { marked(&body) } else { body };
        let level = names::level_within(wait);
        self.publish_to(&delivery.session, delivery.lane.0, level, body.into_bytes()).await?;
        crash::arrow(Arrow::RestParked);
        settle(delivery).await
    }

    /// Sets a message aside that is no job of its lane, and settles it.
    async fn refuse(&self, arrived: Arrived) -> Result<(), Unavailable> {
        let Arrived { delivery, body, trace, problem, .. } = arrived;
        let (class, message) = (Class::Undecodable, problem.unwrap_or_default());
        tracing::warn!(message, "a message is no job of its lane, and is set aside");
        let aside = SetAside { job: None, class, fingerprint: format!("{class}:message"), message, body, trace };
        self.set_message_aside(&delivery, &aside).await?;
        settle(delivery).await
    }

    /// Gives a message back that nobody has looked at: as a new one on its return lane, so that it counts no delivery. By
    /// `reject` when that cannot be published in time.
    pub(super) async fn give_back(&self, arrived: Arrived, complete: &Completes<'_>) -> Result<(), Unavailable> {
        // What is spent keeps its count: a stop must not give it another hundred lives. What is no job of its lane goes back
        // as it is. What an older session gave out comes again by itself.
        if arrived.is_spent || arrived.problem.is_some() || arrived.delivery.session.is_over() {
            return Ok(());
        }
        let received = received(arrived);
        let (session, kind) = (Arc::clone(&received.delivery.session), received.delivery.lane.0);
        let body = match (received.origin, intake::read(&received, self.now())) {
            (Origin::Return, _) if received.is_redelivered => marked(&received.body),
            (Origin::Return, _) => received.body.clone(),
            // A job becomes the ticket at its first place that its claim would have made of it.
            (Origin::Producer | Origin::Accepted, Message::Ticket(mut taken)) => {
                complete(&mut taken)?;
                let ticket = taken.ticket.suspected(received.is_redelivered);
                serde_json::to_string(&ticket).map_err(|error| down(format!("a ticket cannot be written: {error}")))?
            }
            // What cannot be read is given back as it is, and counted.
            (Origin::Producer | Origin::Accepted, _) => return Ok(()),
        };
        self.soon(session.publish_once(&self.ticket(kind, None, body.into_bytes()))).await?;
        crash::arrow(Arrow::GivenBack);
        settle(received.delivery).await
    }

    /// Publishing for somebody who does not wait until a full broker has room.
    async fn soon(&self, publishing: impl Future<Output = Result<(), Refused>>) -> Result<(), Refused> {
        // A little longer than a confirmation may take: then the session ends, and says why.
        let patience = self.inner.options.confirm_timeout.saturating_add(SHORT);
        match tokio::time::timeout(patience, publishing).await {
            Ok(published) => published,
            Err(_) => Err(down("the broker accepts nothing for the moment: memory or disk alarm").into()),
        }
    }

    /// The same, tried again for a while when the broker refuses: a lane whose leader died refuses until the next one is
    /// elected. Accepted twice it is the same job.
    async fn insist(&self, message: &Outgoing) -> Result<(), Unavailable> {
        let begun = clock::monotonic();
        let mut wait = Duration::from_millis(100);
        loop {
            let session = self.session()?;
            match self.soon(session.publish_once(message)).await {
                Err(Refused::Full(why)) if begun.elapsed() < self.inner.options.insistence => {
                    tracing::info!(why, "the broker refuses a message; publishing it again");
                    tokio::time::sleep(wait).await;
                    wait = wait.saturating_mul(2).min(SHORT);
                }
                published => return Ok(published?),
            }
        }
    }

    fn ticket(&self, kind: Kind, level: Option<u8>, body: Vec<u8>) -> Outgoing {
        let (exchange, key) = match level {
            Some(level) => (self.names().delay(), names::delay_key(level, kind)),
            None => (self.names().out(), kind.name().to_owned()),
        };
        Outgoing { exchange, key, body, properties: message::properties("longshore.ticket", Headers::default()) }
    }

    async fn publish_to(
        &self,
        session: &Session,
        kind: Kind,
        level: Option<u8>,
        body: Vec<u8>,
    ) -> Result<(), Unavailable> {
        session.publish(&self.ticket(kind, level, body)).await
    }

    /// Sends a wish on its way to a job's record: any worker writes it, so any lane in use carries it.
    ///
    /// # Errors
    /// [`Unavailable`]: it may be on its way all the same; the same wish again is the same wish.
    pub async fn control(&self, lane: Kind, control: &ControlTicket) -> Result<(), Unavailable> {
        let body = serde_json::to_vec(control).map_err(|error| down(format!("the wish cannot be written: {error}")))?;
        Ok(self.soon(self.session()?.publish_once(&self.ticket(lane, None, body))).await?)
    }

    /// Hands a job in as a producer does.
    ///
    /// # Errors
    /// [`Unavailable`]: it may have been handed in all the same; the same job again is the same job.
    pub async fn submit(&self, job: &Job, trace: Option<&Trace>, body: Vec<u8>) -> Result<(), Unavailable> {
        let properties = message::properties("longshore.job", Headers::default().of_trace("", trace));
        let mut properties = properties.with_message_id(job.id.to_string().into());
        if let Some(user) = self.user() {
            // The broker verifies it; without it nobody knows who asks.
            properties = properties.with_user_id(user.into());
        }
        let key = job_key(job.kind, job.bulk);
        let message = Outgoing { exchange: self.names().jobs(), key, body, properties };
        self.insist(&message).await
    }

    /// Hands a job's last ticket in, of its next generation, that it runs again.
    ///
    /// # Errors
    /// As [`Rabbit::submit`].
    pub async fn run_again(&self, ticket: &Ticket) -> Result<(), Unavailable> {
        let body =
            serde_json::to_vec(ticket).map_err(|error| down(format!("the ticket cannot be written: {error}")))?;
        self.insist(&self.ticket(ticket.lane(), None, body)).await
    }
}

/// How long a ticket must still wait, by its own `due`; none when it is due, or is no ticket.
fn wait_of(body: &str, now: Moment) -> Option<Duration> {
    let due = serde_json::from_str::<Due>(body).ok()?.due?;
    let wait = due.since(now);
    (!wait.is_zero()).then_some(wait)
}

/// The same ticket, marked: somebody may have called before it was given back.
fn marked(body: &str) -> String {
    match serde_json::from_str::<Value>(body) {
        Ok(Value::Object(mut ticket)) => {
            ticket.insert("suspect".to_owned(), Value::Bool(true));
            Value::Object(ticket).to_string()
        }
        Ok(_) | Err(_) => body.to_owned(),
    }
}

fn received(arrived: Arrived) -> Received<Delivery> {
    let Arrived { delivery, body, is_redelivered, is_spent, message_id, published_at, trace, .. } = arrived;
    let producer = delivery.producer.clone();
    let origin = match delivery.lane.1 {
        Lane::Intake | Lane::Bulk => Origin::Producer,
        Lane::Return => Origin::Return,
    };
    Received { delivery, origin, body, is_redelivered, is_spent, producer, message_id, published_at, trace }
}

async fn settle(mut delivery: Delivery) -> Result<(), Unavailable> {
    let Some(acker) = delivery.acker.take() else { return Ok(()) };
    delivery.session.acknowledge(&acker).await
}

impl Broker for Rabbit {
    type Delivery = Delivery;

    fn publish(&self, ticket: &Ticket) -> impl Future<Output = Result<(), Unavailable>> + Send {
        let body = serde_json::to_vec(ticket).map_err(|error| down(format!("the ticket cannot be written: {error}")));
        let wait = ticket.due.map(|due| due.since(self.now())).unwrap_or_default();
        let kind = ticket.lane();
        async move { self.publish_to(&*self.session()?, kind, names::level_within(wait), body?).await }
    }

    async fn publish_raw(&self, of: &Delivery, body: &str, due: Moment) -> Result<(), Unavailable> {
        let level = names::level_above(due.since(self.now()));
        self.publish_to(&*self.session()?, of.lane.0, level, body.as_bytes().to_vec()).await
    }

    async fn announce(&self, event: &Event) -> Result<(), Unavailable> {
        let message = message::of_event(event, self.names().events(), names::event_key(event));
        self.session()?.publish(&message).await
    }

    async fn set_aside(&self, end: &End) -> Result<(), Unavailable> {
        let message = message::of_end(end, self.names().dead())
            .map_err(|error| down(format!("the dead letter cannot be written: {error}")))?;
        self.session()?.publish(&message).await?;
        if let Some(reason) = &end.reason {
            self.inner.options.metrics.dead_letter(reason.class);
        }
        Ok(())
    }

    async fn set_message_aside(&self, of: &Delivery, aside: &SetAside) -> Result<(), Unavailable> {
        // What cannot be read cannot be sealed either: a signed query in it is hidden.
        let hidden = SetAside {
            message: telemetry::redact(&aside.message).into_owned(),
            body: if aside.class == Class::Undecodable {
                telemetry::redact(&aside.body).into_owned()
            } else {
                aside.body.clone()
            },
            ..aside.clone()
        };
        self.session()?.publish(&message::of_set_aside(of, &hidden, self.names().dead())).await?;
        self.inner.options.metrics.dead_letter(aside.class);
        Ok(())
    }

    async fn acknowledge(&self, delivery: Delivery, _proof: Proof) -> Result<(), Unavailable> {
        settle(delivery).await
    }
}
