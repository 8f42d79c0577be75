//! The topology told to people and to other tools: what each object is for, the file for `rabbitmqctl`, and policies.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value, json};

use super::{
    names::{LAST_LEVEL, Lane, Names},
    topology::{Argument, Arguments, Object, with_hand_overs},
};
use crate::domain::step::Kind;

/// An intake lane that holds so many jobs refuses the next one: producers are told, nothing is dropped.
const MOST_JOBS: u64 = 1_000_000;
/// The same in bytes.
const MOST_BYTES: u64 = 4 << 30;

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

/// Arguments as JSON.
#[must_use]
pub fn arguments(arguments: &Arguments) -> Value {
    let value = |argument: &Argument| match argument {
        Argument::Text(text) => json!(text),
        Argument::Number(number) => json!(number),
        Argument::Flag(flag) => json!(flag),
    };
    arguments.iter().map(|(name, argument)| ((*name).to_owned(), value(argument))).collect::<Map<_, _>>().into()
}

/// What an object is for, in a few words.
#[must_use]
pub fn purpose(names: &Names, object: &Object) -> String {
    match object {
        Object::Exchange { name, .. } => of_exchange(names, name).to_owned(),
        Object::Queue { name, .. } => of_queue(names, name),
        Object::Binding { exchange, key, .. } if key.is_empty() => format!("takes everything from {exchange}"),
        Object::Binding { exchange, key, .. } => format!("takes {key} from {exchange}"),
    }
}

fn of_exchange(names: &Names, name: &str) -> &'static str {
    [
        (names.jobs(), "jobs; producers write here, workers never"),
        (names.out(), "tickets; workers and operators write here, producers never"),
        (names.delay(), "tickets that wait"),
        (names.dead(), "what is set aside"),
        (names.events(), "public events"),
    ]
    .into_iter()
    .find_map(|(own, purpose)| (own == name).then_some(purpose))
    .unwrap_or("whatever had no route")
}

fn of_queue(names: &Names, name: &str) -> String {
    for kind in Kind::ALL {
        for lane in Lane::ALL {
            if names.lane(kind, lane) == name {
                return match lane {
                    Lane::Intake => format!("jobs of kind {kind} that people wait for"),
                    Lane::Bulk => format!("jobs of kind {kind} that may wait behind everything else"),
                    Lane::Return => format!("tickets of kind {kind}: hand-overs, retries, due polls; no length limit"),
                };
            }
        }
    }
    if let Some(level) = (0..=LAST_LEVEL).find(|level| names.delay_queue(*level) == name) {
        return format!("waits of {} s", 1_u32 << level);
    }
    let others = [
        (names.dead_lane(), "what the broker sets aside by itself, until a worker has recorded its end"),
        (names.set_aside(), "dead letters, for a person"),
        (names.unrouted(), "whatever had no route: alarm at one"),
    ];
    let purpose = others.into_iter().find_map(|(own, purpose)| (own == name).then_some(purpose));
    purpose.unwrap_or_default().to_owned()
}

/// The objects and the policies as a file for `rabbitmqctl import_definitions`, for teams whose broker belongs to somebody
/// else.
#[must_use]
pub fn definitions(objects: &[Object], policies: &[Value], vhost: &str) -> Value {
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
    json!({ "exchanges": exchanges, "queues": queues, "bindings": bindings, "policies": policies })
}

/// The policies that we recommend: a length for intake lanes, and for them alone, since a return lane that refuses would
/// stop every timer; and members of each queue in a cluster, where the broker knows that key (3.10.8 refuses it). One policy
/// counts for a queue, the one of the highest priority, so the first holds both.
#[must_use]
pub fn policies(names: &Names, kinds: &BTreeSet<Kind>, vhost: &str, group_size: Option<u8>) -> Vec<Value> {
    let kinds: Vec<&str> = with_hand_overs(kinds).into_iter().map(Kind::name).collect();
    let prefix = names.prefix();
    let policy = |name: &str, pattern: String, priority: u8, mut definition: Value| {
        if let (Some(size), Some(members)) = (group_size, definition.as_object_mut()) {
            members.insert("target-group-size".to_owned(), size.into());
        }
        json!({
            "vhost": vhost, "name": format!("{prefix}-{name}"), "pattern": pattern, "apply-to": "queues",
            "priority": priority, "definition": definition,
        })
    };
    let lanes = format!(r"^{prefix}\.w\.({})(\.bulk)?\.v1$", kinds.join("|"));
    let length = json!({ "max-length": MOST_JOBS, "max-length-bytes": MOST_BYTES });
    let mut policies = vec![policy("intake", lanes, 10, length)];
    if group_size.is_some() {
        policies.push(policy("group", format!(r"^{prefix}\."), 1, json!({})));
    }
    policies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rabbitmq::topology::objects;

    fn all() -> (Names, Vec<Object>) {
        let names = Names::new("longshore");
        let objects = objects(&names, &BTreeSet::from([Kind::Submission]));
        (names, objects)
    }

    #[test]
    fn the_definitions_name_everything() {
        let (names, objects) = all();
        let policies = policies(&names, &BTreeSet::from([Kind::Submission]), "/", None);
        let definitions = definitions(&objects, &policies, "/");
        let count = |what: &str| definitions[what].as_array().unwrap().len();
        assert_eq!(count("exchanges") + count("queues") + count("bindings"), objects.len());
        assert_eq!(count("policies"), 1);
    }

    #[test]
    fn every_object_has_a_purpose_of_its_own_kind() {
        let (names, objects) = all();
        for object in objects {
            assert!(purpose(&names, &object).len() > 10, "{}", object.name());
            let is_unrouted = object.name().ends_with("unrouted.v1");
            let is_told_so = purpose(&names, &object).starts_with("whatever had no route");
            assert_eq!(is_told_so, is_unrouted, "{}", object.name());
        }
    }

    #[test]
    fn a_length_is_recommended_for_intake_lanes_alone() {
        let (names, objects) = all();
        let policies = policies(&names, &BTreeSet::from([Kind::Submission]), "/", Some(3));
        let pattern = policies[0]["pattern"].as_str().unwrap();
        let middle = pattern.strip_prefix(r"^longshore\.w\.(").unwrap().strip_suffix(r")(\.bulk)?\.v1$").unwrap();
        // Read as the broker does: the kind, `.bulk` or nothing, the version.
        let is_limited = |name: &str| {
            let Some(rest) = name.strip_prefix("longshore.w.").and_then(|rest| rest.strip_suffix(".v1")) else {
                return false;
            };
            middle.split('|').any(|kind| rest == kind || rest.strip_suffix(".bulk") == Some(kind))
        };
        let mut limited = 0;
        for object in objects {
            let Object::Queue { name, .. } = object else { continue };
            let is_intake = purpose(&names, &Object::Queue { name: name.clone(), arguments: Arguments::new() })
                .starts_with("jobs of kind");
            assert_eq!(is_limited(&name), is_intake, "{name}");
            limited += usize::from(is_intake);
        }
        assert_eq!(limited, 6);
        assert!(policies[1]["definition"].get("max-length").is_none());
        assert!(policies.iter().all(|policy| policy["definition"]["target-group-size"] == 3));
    }
}
