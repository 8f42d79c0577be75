//! What must be at the broker: exchanges, queues, bindings; declared by who has the right, checked by who has not.
//!
//! Queue type, dead lettering, strategy, overflow and time to live are arguments, since correctness must not depend on
//! somebody's policy. Lengths and group sizes belong into policies, so that operators can change them.

use std::collections::{BTreeMap, BTreeSet};

use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::names::{LAST_LEVEL, Lane, Names, job_key};
use crate::domain::step::Kind;

/// How often a message may be given out before the broker sets it aside by itself: a backstop only.
const DELIVERY_LIMIT: i64 = 100;
/// The same for queues that people look into, where every look counts.
const LOOKED_INTO: i64 = 1_000_000;
/// How long what was set aside stays, in milliseconds.
const SET_ASIDE_FOR: i64 = 30 * 24 * 3_600 * 1_000;

/// An argument's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

/// Arguments by their names.
pub type Arguments = BTreeMap<&'static str, Argument>;

/// One object at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// An exchange, durable.
    Exchange {
        /// Its name.
        name: String,
        /// `topic` or `fanout`.
        kind: &'static str,
        /// Its arguments.
        arguments: Arguments,
    },
    /// A quorum queue.
    Queue {
        /// Its name.
        name: String,
        /// Its arguments.
        arguments: Arguments,
    },
    /// A binding of a queue to an exchange.
    Binding {
        /// The exchange.
        exchange: String,
        /// The queue.
        queue: String,
        /// The key.
        key: String,
    },
}

impl Object {
    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Exchange { name, .. } => format!("exchange {name}"),
            Self::Queue { name, .. } => format!("queue {name}"),
            Self::Binding { exchange, queue, key } => format!("binding of {queue} to {exchange} with {key:?}"),
        }
    }
}

fn text(value: impl Into<String>) -> Argument {
    Argument::Text(value.into())
}

/// Everything that these kinds, and those that they hand over to, need; in the order in which it can be declared.
#[must_use]
pub fn objects(names: &Names, kinds: &BTreeSet<Kind>) -> Vec<Object> {
    let kinds = with_hand_overs(kinds);
    let mut objects = exchanges(names);
    objects.extend(delays(names));
    for kind in &kinds {
        objects.extend(lanes(names, *kind));
    }
    let queue = |name: String, arguments: Arguments| {
        let mut arguments = arguments;
        arguments.insert("x-queue-type", text("quorum"));
        arguments.insert("x-delivery-limit", Argument::Number(LOOKED_INTO));
        Object::Queue { name, arguments }
    };
    objects.push(queue(names.dead_lane(), BTreeMap::from([("x-overflow", text("reject-publish"))])));
    objects.push(queue(
        names.set_aside(),
        BTreeMap::from([
            ("x-single-active-consumer", Argument::Flag(true)),
            ("x-message-ttl", Argument::Number(SET_ASIDE_FOR)),
        ]),
    ));
    objects.push(queue(names.unrouted(), BTreeMap::new()));
    let bind = |exchange: String, queue: String, key: &str| Object::Binding { exchange, queue, key: key.to_owned() };
    objects.push(bind(names.dead(), names.dead_lane(), "broker"));
    objects.push(bind(names.dead(), names.set_aside(), "set-aside"));
    objects.push(bind(names.unrouted(), names.unrouted(), ""));
    objects
}

/// The kinds, and those whose lanes their tickets travel on.
#[must_use]
pub fn with_hand_overs(kinds: &BTreeSet<Kind>) -> BTreeSet<Kind> {
    let mut all = kinds.clone();
    for kind in kinds {
        match kind {
            Kind::Submission => all.extend([Kind::Upload, Kind::StatusPoll]),
            Kind::Upload | Kind::StatusPoll => {}
        }
    }
    all
}

fn exchanges(names: &Names) -> Vec<Object> {
    let caught = || BTreeMap::from([("alternate-exchange", text(names.unrouted()))]);
    let topic = |name, arguments| Object::Exchange { name, kind: "topic", arguments };
    vec![
        Object::Exchange { name: names.unrouted(), kind: "fanout", arguments: BTreeMap::new() },
        topic(names.jobs(), caught()),
        topic(names.out(), caught()),
        topic(names.delay(), caught()),
        topic(names.dead(), caught()),
        topic(names.events(), BTreeMap::new()),
    ]
}

/// One queue for each class of waits: with one time to live for all its messages the head is always the next to expire.
fn delays(names: &Names) -> Vec<Object> {
    let mut objects = Vec::new();
    for level in 0..=LAST_LEVEL {
        objects.push(Object::Queue {
            name: names.delay_queue(level),
            arguments: BTreeMap::from([
                ("x-queue-type", text("quorum")),
                ("x-message-ttl", Argument::Number(1_000 << level)),
                ("x-dead-letter-exchange", text(names.out())),
                ("x-dead-letter-strategy", text("at-least-once")),
                ("x-overflow", text("reject-publish")),
            ]),
        });
        objects.push(Object::Binding {
            exchange: names.delay(),
            queue: names.delay_queue(level),
            key: format!("l{level:02}.#"),
        });
    }
    objects
}

fn lanes(names: &Names, kind: Kind) -> Vec<Object> {
    let mut objects = Vec::new();
    for lane in Lane::ALL {
        let (exchange, key) = match lane {
            Lane::Intake => (names.jobs(), job_key(kind, false)),
            Lane::Bulk => (names.jobs(), job_key(kind, true)),
            Lane::Return => (names.out(), format!("#.{}", kind.name())),
        };
        objects.push(Object::Queue {
            name: names.lane(kind, lane),
            arguments: BTreeMap::from([
                ("x-queue-type", text("quorum")),
                ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
                ("x-dead-letter-exchange", text(names.dead())),
                ("x-dead-letter-routing-key", text("broker")),
                ("x-dead-letter-strategy", text("at-least-once")),
                ("x-overflow", text("reject-publish")),
            ]),
        });
        objects.push(Object::Binding { exchange, queue: names.lane(kind, lane), key });
    }
    objects
}

fn table(arguments: &Arguments) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert((*name).into(), value);
    }
    table
}

/// What was found of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is there, or was made.
    Well,
    /// It is there with other arguments: the broker's own words.
    Differs(String),
    /// It is not there.
    Missing,
    /// The user may not look, or not declare.
    Forbidden,
}

/// What became of an object that was to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// The object.
    pub object: Object,
    /// Was it there before? None where nobody can look: bindings, and what the user may not see.
    pub was_there: Option<bool>,
    /// What the declaration came to.
    pub found: Found,
}

/// Looks, then declares everything; an object that is there already stays as it is.
///
/// # Errors
/// The connection is gone.
pub async fn provision(connection: &Connection, objects: &[Object]) -> Result<Vec<Provisioned>, lapin::Error> {
    let before = check(connection, objects).await?;
    let after = declare(connection, objects).await?;
    let told = before.into_iter().zip(after).map(|(looked, (object, found))| {
        let was_there = match (&object, looked.found) {
            (Object::Binding { .. }, _) | (_, Found::Forbidden | Found::Differs(_)) => None,
            (_, Found::Well) => Some(true),
            (_, Found::Missing) => Some(false),
        };
        Provisioned { object, was_there, found }
    });
    Ok(told.collect())
}

/// Declares everything; an object that is there already stays as it is.
///
/// # Errors
/// The connection is gone.
pub async fn declare(connection: &Connection, objects: &[Object]) -> Result<Vec<(Object, Found)>, lapin::Error> {
    let mut found = Vec::new();
    for object in objects {
        // On a channel of its own: a refusal closes the channel.
        let channel = connection.create_channel().await?;
        let told = sorted(declare_one(&channel, object).await)?;
        found.push((object.clone(), told.err().unwrap_or(Found::Well)));
        close(&channel).await;
    }
    Ok(found)
}

async fn declare_one(channel: &Channel, object: &Object) -> Result<(), lapin::Error> {
    match object {
        Object::Exchange { name, kind, arguments } => {
            let kind = if *kind == "fanout" { ExchangeKind::Fanout } else { ExchangeKind::Topic };
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(name.as_str().into(), kind, options, table(arguments)).await
        }
        Object::Queue { name, arguments } => {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(name.as_str().into(), options, table(arguments)).await.map(|_| ())
        }
        Object::Binding { exchange, queue, key } => {
            let (queue, exchange, key) = (queue.as_str().into(), exchange.as_str().into(), key.as_str().into());
            channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await
        }
    }
}

/// What a queue holds, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that nobody has been given.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// An object that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The object.
    pub object: Object,
    /// `Well` for bindings, which cannot be looked at: canaries prove them. Arguments are not compared.
    pub found: Found,
    /// Of a queue that is there.
    pub depth: Option<Depth>,
}

/// Looks whether everything is there.
///
/// # Errors
/// The connection is gone.
pub async fn check(connection: &Connection, objects: &[Object]) -> Result<Vec<Looked>, lapin::Error> {
    let mut looked = Vec::new();
    for object in objects {
        let (found, depth) = match object {
            Object::Exchange { name, .. } => {
                let channel = connection.create_channel().await?;
                let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                // Of a passive declare the kind does not count.
                let told =
                    channel.exchange_declare(name.as_str().into(), ExchangeKind::Topic, options, FieldTable::default());
                let found = sorted(told.await)?.err().unwrap_or(Found::Well);
                close(&channel).await;
                (found, None)
            }
            Object::Queue { name, .. } => match depth(connection, name).await? {
                Ok(depth) => (Found::Well, Some(depth)),
                Err(found) => (found, None),
            },
            Object::Binding { .. } => (Found::Well, None),
        };
        looked.push(Looked { object: object.clone(), found, depth });
    }
    Ok(looked)
}

/// Looks into a queue; what was found in place of it when it cannot be seen.
///
/// # Errors
/// The connection is gone.
pub async fn depth(connection: &Connection, queue: &str) -> Result<Result<Depth, Found>, lapin::Error> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let told = sorted(channel.queue_declare(queue.into(), options, FieldTable::default()).await)?;
    close(&channel).await;
    Ok(told.map(|queue| Depth { messages: queue.message_count(), consumers: queue.consumer_count() }))
}

/// A refusal is an answer; everything else ends the looking. Codes are matched, never words: those differ by version.
pub(super) fn sorted<T>(told: Result<T, lapin::Error>) -> Result<Result<T, Found>, lapin::Error> {
    let error = match told {
        Ok(answer) => return Ok(Ok(answer)),
        Err(error) => error,
    };
    let lapin::ErrorKind::ProtocolError(refusal) = error.kind() else { return Err(error) };
    match refusal.get_id() {
        403 => Ok(Err(Found::Forbidden)),
        404 => Ok(Err(Found::Missing)),
        406 => Ok(Err(Found::Differs(refusal.get_message().to_string()))),
        _ => Err(error),
    }
}

/// A channel that a refusal has closed is closed already.
pub(super) async fn close(channel: &Channel) {
    if channel.status().connected()
        && let Err(error) = channel.close(200, "done".into()).await
    {
        tracing::debug!(%error, "a channel could not be closed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Object> {
        objects(&Names::new("longshore"), &BTreeSet::from([Kind::Submission]))
    }

    fn arguments(name: &str) -> BTreeMap<&'static str, Argument> {
        all()
            .into_iter()
            .find_map(|object| match object {
                Object::Queue { name: own, arguments } if own == name => Some(arguments),
                Object::Exchange { .. } | Object::Queue { .. } | Object::Binding { .. } => None,
            })
            .unwrap()
    }

    #[test]
    fn a_submission_brings_the_lanes_that_it_hands_over_to() {
        for lane in ["longshore.w.upload.return.v1", "longshore.w.status-poll.return.v1", "longshore.w.submission.v1"] {
            assert_eq!(arguments(lane)["x-queue-type"], text("quorum"), "{lane}");
        }
    }

    #[test]
    fn every_queue_that_dead_letters_does_so_at_least_once_and_refuses_when_it_is_full() {
        let mut seen = 0;
        for object in all() {
            let Object::Queue { name, arguments } = object else { continue };
            assert_eq!(arguments["x-queue-type"], text("quorum"), "{name}");
            if arguments.contains_key("x-dead-letter-exchange") {
                seen += 1;
                assert_eq!(arguments["x-dead-letter-strategy"], text("at-least-once"), "{name}");
                assert_eq!(arguments["x-overflow"], text("reject-publish"), "{name}");
            } else {
                assert_eq!(arguments["x-delivery-limit"], Argument::Number(LOOKED_INTO), "{name}");
            }
        }
        assert_eq!(seen, 13 + 9);
    }

    #[test]
    fn every_exchange_but_that_of_events_catches_what_has_no_route() {
        for object in all() {
            let Object::Exchange { name, arguments, .. } = object else { continue };
            let is_caught = arguments.contains_key("alternate-exchange");
            assert_eq!(is_caught, !name.contains("events") && !name.contains("unrouted"), "{name}");
        }
    }

    #[test]
    fn every_binding_names_objects_that_are_declared_before_it() {
        let (mut exchanges, mut queues) = (BTreeSet::new(), BTreeSet::new());
        for object in all() {
            match object {
                Object::Exchange { name, .. } => assert!(exchanges.insert(name)),
                Object::Queue { name, .. } => assert!(queues.insert(name)),
                Object::Binding { exchange, queue, .. } => {
                    assert!(exchanges.contains(&exchange) && queues.contains(&queue), "{exchange} {queue}");
                }
            }
        }
    }

    #[test]
    fn waits_double_from_one_second_to_over_an_hour() {
        for level in 0..=LAST_LEVEL {
            let wait = &arguments(&format!("longshore.delay.v1.l{level:02}"))["x-message-ttl"];
            assert_eq!(*wait, Argument::Number(1_000 * 2_i64.pow(u32::from(level))));
        }
    }
}
