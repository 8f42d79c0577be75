//! The fleet's side of the broker as an `AsyncAPI` 3 document: what producers write, what consumers hear, what operators find.
//!
//! Names, arguments and shapes are taken from the types and the topology that the program works with. The AMQP 0-9-1 binding
//! (0.3.0) has no place for arguments of queues and exchanges: they stand in `x-arguments` beside it.

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{events, examples};
use crate::{
    domain::{
        event::{Class, Name},
        event_data, job,
        step::Kind,
    },
    rabbitmq::{Lane, Names, definitions, job_key, topology},
};

/// The version of the AMQP 0-9-1 binding.
const BINDING: &str = "0.3.0";

/// The document, for the default prefix and every kind.
pub(super) fn document() -> Value {
    let names = Names::new("longshore");
    let objects = topology::objects(&names, &BTreeSet::from(Kind::ALL));
    let broker = Broker { names: &names, objects: &objects };
    let (messages, schemas) = components();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Longshore on RabbitMQ",
            "version": "1.0.0",
            "description": "Jobs in, events out. Every name stands below `[topology] prefix`, here the default `longshore`. \
                            See docs/FLEET.md and docs/fleet/clients.md.",
        },
        "defaultContentType": "application/json",
        "channels": broker.channels(),
        "operations": operations(),
        "components": { "messages": messages, "schemas": schemas },
    })
}

struct Broker<'a> {
    names: &'a Names,
    objects: &'a [topology::Object],
}

impl Broker<'_> {
    fn channels(&self) -> Value {
        let (jobs, events) = (self.names.jobs(), self.names.events());
        let keys: Vec<String> =
            Kind::ALL.into_iter().flat_map(|kind| [false, true].map(|bulk| job_key(kind, bulk))).collect();
        let mut channels = json!({
            "jobs": {
                "title": "Jobs",
                "address": "{lane}",
                "description": "Producers write here, with publisher confirms and the broker-verified `user_id`.",
                "messages": references(Kind::ALL.map(job_message)),
                "parameters": { "lane": {
                    "description": "The kind; `.bulk` behind it for what may wait behind everything else.",
                    "enum": keys,
                } },
                "bindings": { "amqp": self.exchange(&jobs) },
                "x-arguments": self.arguments(&jobs),
            },
            "events": {
                "title": "Events",
                "address": "v1.{account}.{kind}.{event}.{topic}",
                "description": "CloudEvents 1.0 in binary mode. At least once; order is by `ce-sequence`, not by arrival. \
                                Who wants to hear them binds a queue of its own.",
                "messages": references(Name::ALL.map(event_message)),
                "parameters": {
                    "account": { "description": "The configured account." },
                    "kind": { "description": "The job's kind.", "enum": Kind::ALL },
                    "event": { "description": "What happened.", "enum": Name::ALL },
                    "topic": { "description": "The job's topic, else its id in lower case: words joined by dots." },
                },
                "bindings": { "amqp": self.exchange(&events) },
                "x-arguments": self.arguments(&events),
            },
        });
        let queue = |name: &str, title: String, messages: Value| {
            json!({
                "title": title,
                "address": name,
                "messages": messages,
                "bindings": { "amqp": {
                    "is": "queue",
                    "queue": { "name": name, "durable": true, "exclusive": false, "autoDelete": false, "vhost": "/" },
                    "bindingVersion": BINDING,
                } },
                "x-arguments": self.arguments(name),
            })
        };
        if let Some(channels) = channels.as_object_mut() {
            for kind in Kind::ALL {
                for lane in [Lane::Intake, Lane::Bulk] {
                    let name = self.names.lane(kind, lane);
                    let title = format!("Lane of {}", job_key(kind, lane == Lane::Bulk));
                    channels.insert(
                        format!("{}-{}", kind.name(), lane.name()),
                        queue(&name, title, references([job_message(kind)])),
                    );
                }
            }
            let dead = queue(&self.names.set_aside(), "Dead letters".to_owned(), references(["deadLetter".to_owned()]));
            channels.insert("deadLetters".to_owned(), dead);
        }
        channels
    }

    fn exchange(&self, name: &str) -> Value {
        let kind = self.objects.iter().find_map(|object| match object {
            topology::Object::Exchange { name: found, kind, .. } if found == name => Some(*kind),
            topology::Object::Exchange { .. } | topology::Object::Queue { .. } | topology::Object::Binding { .. } => {
                None
            }
        });
        json!({
            "is": "routingKey",
            "exchange": { "name": name, "type": kind, "durable": true, "autoDelete": false, "vhost": "/" },
            "bindingVersion": BINDING,
        })
    }

    /// What an object is declared with.
    fn arguments(&self, name: &str) -> Value {
        let found = self.objects.iter().find_map(|object| match object {
            topology::Object::Exchange { name: found, arguments, .. }
            | topology::Object::Queue { name: found, arguments }
                if found == name =>
            {
                Some(definitions::arguments(arguments))
            }
            topology::Object::Exchange { .. } | topology::Object::Queue { .. } | topology::Object::Binding { .. } => {
                None
            }
        });
        found.unwrap_or_default()
    }
}

fn job_message(kind: Kind) -> String {
    format!("job-{}", kind.name())
}

fn event_message(name: Name) -> String {
    format!("event-{name}")
}

fn references(names: impl IntoIterator<Item = String>) -> Value {
    names
        .into_iter()
        .map(|name| {
            let place = format!("#/components/messages/{name}");
            (name, json!({ "$ref": place }))
        })
        .collect::<Map<_, _>>()
        .into()
}

fn operations() -> Value {
    let of = |channel: &str, names: Vec<String>| {
        let messages: Vec<Value> =
            names.iter().map(|name| json!({ "$ref": format!("#/channels/{channel}/messages/{name}") })).collect();
        (json!({ "$ref": format!("#/channels/{channel}") }), messages)
    };
    let (jobs, job_messages) = of("jobs", Kind::ALL.map(job_message).to_vec());
    let (events, event_messages) = of("events", Name::ALL.map(event_message).to_vec());
    let (dead, dead_messages) = of("deadLetters", vec!["deadLetter".to_owned()]);
    json!({
        "takeJob": {
            "action": "receive",
            "channel": jobs,
            "summary": "Takes a job of a producer that may name its account.",
            "messages": job_messages,
            "bindings": { "amqp": { "deliveryMode": 2, "mandatory": false, "ack": true, "bindingVersion": BINDING } },
        },
        "announceEvent": {
            "action": "send",
            "channel": events,
            "summary": "Tells what happened to a job. Nobody listening is no error.",
            "messages": event_messages,
            "bindings": { "amqp": { "deliveryMode": 2, "mandatory": false, "bindingVersion": BINDING } },
        },
        "setAside": {
            "action": "send",
            "channel": dead,
            "summary": "Sets aside what a person must look at, for 30 days.",
            "messages": dead_messages,
            "bindings": { "amqp": { "deliveryMode": 2, "mandatory": true, "bindingVersion": BINDING } },
        },
    })
}

/// Messages and the schemas that they share.
fn components() -> (Value, Value) {
    // AsyncAPI's own schema language is a superset of draft 7.
    let settings = || {
        SchemaSettings::draft07().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
    };
    let (mut of_jobs, mut of_events) = (settings().into_generator(), events::generator(settings()));
    let mut messages = Map::new();
    for kind in Kind::ALL {
        messages.insert(job_message(kind), job_message_of(kind, &job::schema_of(kind, &mut of_jobs)));
    }
    for name in Name::ALL {
        messages.insert(event_message(name), event_message_of(name, &event_data::schema_of(name, &mut of_events)));
    }
    let classes = of_events.subschema_for::<Class>();
    messages.insert("deadLetter".to_owned(), dead_letter(&classes.to_value()));
    let mut schemas = of_jobs.take_definitions(true);
    // Every message names its one kind.
    schemas.remove("Kind");
    schemas.extend(of_events.take_definitions(true));
    (messages.into(), schemas.into())
}

fn job_message_of(kind: Kind, payload: &Value) -> Value {
    let own = |example: &&Value| example.get("kind").and_then(Value::as_str) == Some(kind.name());
    let examples: Vec<Value> =
        examples().as_array().into_iter().flatten().filter(own).map(|example| json!({ "payload": example })).collect();
    json!({
        "name": job_message(kind),
        "title": format!("A job: {}", kind.name()),
        "summary": "At most 64 KiB. Properties: `user_id` the connection's own user (the broker verifies it), `delivery_mode` 2, \
                    `message_id` the job's id when it names none, `timestamp` what a deadline that is a duration counts from.",
        "headers": {
            "type": "object",
            "properties": {
                "traceparent": { "type": "string", "description": "W3C Trace Context; what is none counts as missing." },
                "tracestate": { "type": "string", "description": "W3C Trace Context, at most 512 characters." },
            },
        },
        "payload": payload,
        "examples": examples,
    })
}

fn event_message_of(name: Name, payload: &Value) -> Value {
    let mut headers = Map::new();
    for (attribute, schema) in events::attributes() {
        let schema = if attribute == "type" { json!({ "type": "string", "const": name.type_name() }) } else { schema };
        headers.insert(format!("ce-{attribute}"), schema);
    }
    let required: Vec<&String> = headers.keys().filter(|header| *header != "ce-tracestate").collect();
    json!({
        "name": event_message(name),
        "title": name,
        "headers": { "type": "object", "required": required, "properties": headers },
        "payload": payload,
        "bindings": { "amqp": { "messageType": name.type_name(), "bindingVersion": BINDING } },
    })
}

fn dead_letter(classes: &Value) -> Value {
    let text = |told: &str| json!({ "type": "string", "description": told });
    let time = |told: &str| json!({ "type": "string", "format": "date-time", "description": told });
    json!({
        "name": "deadLetter",
        "title": "What was set aside",
        "summary": "Looked at with `longshore dead-letter`. The body is a job's end with its ticket, or a message as it came.",
        "headers": {
            "type": "object",
            "required": [
                "longshore-form", "longshore-kind", "longshore-fail-class", "longshore-fail-fingerprint",
                "longshore-fail-last", "longshore-build",
            ],
            "properties": {
                "longshore-form": { "type": "string", "enum": ["end", "message"], "description": "What the body is." },
                "longshore-job": text("account/id, when it is known."),
                "longshore-kind": { "type": "string", "enum": Kind::ALL, "description": "The kind of job." },
                "longshore-lane": {
                    "type": "string",
                    "enum": Lane::ALL.map(Lane::name),
                    "description": "Where a message came from that never became a job.",
                },
                "longshore-fail-class": classes,
                "longshore-fail-fingerprint": text("Class, step and the error's own code: what equal ones have in common."),
                "longshore-fail-message": text("One plain sentence, for a message that never became a job."),
                "longshore-fail-first": time("Since when its last step has failed."),
                "longshore-fail-last": time("When it was set aside."),
                "longshore-attempts": text("Attempts of its last step that were spent."),
                "longshore-producer": text("The broker's user in whose name a message came that never became a job."),
                "longshore-cut": text("The length in bytes of a message of which only the beginning was kept."),
                "longshore-build": text("The version that set it aside."),
                "longshore-trace-id": text("The trace that its events and log lines belong to."),
                "traceparent": text("W3C Trace Context."),
                "tracestate": text("W3C Trace Context."),
            },
        },
        "payload": {},
    })
}
