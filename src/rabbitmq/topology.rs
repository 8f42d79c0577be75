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
use serde_json::{Value, json};

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
        arguments: BTreeMap<&'static str, Argument>,
    },
    /// A quorum queue.
    Queue {
        /// Its name.
        name: String,
        /// Its arguments.
        arguments: BTreeMap<&'static str, Argument>,
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
    let queue = |name: String, arguments: BTreeMap<&'static str, Argument>| {
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

fn table(arguments: &BTreeMap<&'static str, Argument>) -> FieldTable {
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

/// Declares everything; an object that is there already stays as it is.
///
/// # Errors
/// The connection is gone.
pub async fn declare(connection: &Connection, objects: &[Object]) -> Result<Vec<(Object, Found)>, lapin::Error> {
    let mut found = Vec::new();
    for object in objects {
        // On a channel of its own: a refusal closes the channel.
        let channel = connection.create_channel().await?;
        let told = declare_one(&channel, object).await;
        found.push((object.clone(), sorted(told)?));
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

/// Looks whether everything is there. Bindings cannot be looked at this way: the canary proves them.
///
/// # Errors
/// The connection is gone.
pub async fn check(connection: &Connection, objects: &[Object]) -> Result<Vec<(Object, Found)>, lapin::Error> {
    let mut found = Vec::new();
    for object in objects {
        let channel = connection.create_channel().await?;
        let told = match object {
            Object::Exchange { name, .. } => {
                let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                let (name, kind) = (name.as_str().into(), ExchangeKind::Topic);
                channel.exchange_declare(name, kind, options, FieldTable::default()).await
            }
            Object::Queue { name, .. } => {
                let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.map(|_| ())
            }
            Object::Binding { .. } => Ok(()),
        };
        found.push((object.clone(), sorted(told)?));
        close(&channel).await;
    }
    Ok(found)
}

/// A refusal is an answer; everything else ends the looking. Codes are matched, never words: those differ by version.
fn sorted(told: Result<(), lapin::Error>) -> Result<Found, lapin::Error> {
    let error = match told {
        Ok(()) => return Ok(Found::Well),
        Err(error) => error,
    };
    let lapin::ErrorKind::ProtocolError(refusal) = error.kind() else { return Err(error) };
    match refusal.get_id() {
        403 => Ok(Found::Forbidden),
        404 => Ok(Found::Missing),
        406 => Ok(Found::Differs(refusal.get_message().to_string())),
        _ => Err(error),
    }
}

/// A channel that a refusal has closed is closed already.
async fn close(channel: &Channel) {
    if channel.status().connected()
        && let Err(error) = channel.close(200, "done".into()).await
    {
        tracing::debug!(%error, "a channel could not be closed");
    }
}

/// The same as a file for `rabbitmqctl import_definitions`, for teams whose broker belongs to somebody else.
#[must_use]
pub fn definitions(objects: &[Object], vhost: &str) -> Value {
    let arguments = |arguments: &BTreeMap<&'static str, Argument>| {
        let value = |argument: &Argument| match argument {
            Argument::Text(text) => json!(text),
            Argument::Number(number) => json!(number),
            Argument::Flag(flag) => json!(flag),
        };
        arguments
            .iter()
            .map(|(name, argument)| ((*name).to_owned(), value(argument)))
            .collect::<serde_json::Map<_, _>>()
    };
    let (mut exchanges, mut queues, mut bindings) = (Vec::new(), Vec::new(), Vec::new());
    for object in objects {
        match object {
            Object::Exchange { name, kind, arguments: own } => exchanges.push(json!({
                "name": name, "vhost": vhost, "type": kind, "durable": true, "auto_delete": false, "internal": false,
                "arguments": arguments(own),
            })),
            Object::Queue { name, arguments: own } => queues.push(json!({
                "name": name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": arguments(own),
            })),
            Object::Binding { exchange, queue, key } => bindings.push(json!({
                "source": exchange, "vhost": vhost, "destination": queue, "destination_type": "queue",
                "routing_key": key, "arguments": {},
            })),
        }
    }
    json!({ "exchanges": exchanges, "queues": queues, "bindings": bindings })
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

    #[test]
    fn the_definitions_name_everything() {
        let objects = all();
        let definitions = definitions(&objects, "/");
        let count = |what: &str| definitions[what].as_array().unwrap().len();
        assert_eq!(count("exchanges") + count("queues") + count("bindings"), objects.len());
    }
}
