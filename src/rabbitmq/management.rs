//! What the broker's management API tells and AMQP does not: with which arguments something was declared, and which policies
//! count for it.
//!
//! Everything here is read. Source: the management plugin's HTTP API of 3.10 and later.

use std::{collections::BTreeMap, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::{
    definitions,
    names::{LAST_LEVEL, Lane, Names},
    topology::{Argument, Arguments, Object},
};
use crate::{domain::step::Kind, engine::ports::Unavailable, http};

/// One answer is about one object, or the bindings of one queue.
const LARGEST: usize = 4 << 20;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(20);

/// The management API, with its user.
#[derive(Debug)]
pub struct Management {
    client: http::Client,
    base: Url,
    user: String,
    password: SecretString,
    vhost: String,
}

/// Why it cannot be asked. Never holds the password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference gives no URL that may be called.
    #[error("topology.management_url: {0}")]
    Address(String),
    /// The user is unknown, or may not look.
    #[error("the management API refuses the user {0}: it needs the tag \"monitoring\" and a right on the virtual host")]
    Refused(String),
    /// It does not answer.
    #[error(transparent)]
    Down(#[from] Unavailable),
}

/// What is wrong with one object that is there, each in words; nothing when it is as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The object.
    pub object: Object,
    /// Arguments that differ, or a binding that is missing.
    pub differs: Vec<String>,
    /// What a policy does to it that must not be.
    pub harmful: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Described {
    #[serde(rename = "type")]
    kind: Option<String>,
    durable: Option<bool>,
    arguments: Map<String, Value>,
    policy: Option<String>,
    operator_policy: Option<String>,
    /// An empty one is written as a list.
    effective_policy_definition: Value,
}

#[derive(Debug, Deserialize)]
struct Bound {
    routing_key: String,
}

impl Management {
    /// The API at this URL, which holds user and password, for a virtual host.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn new(url: &SecretString, vhost: &str, options: &http::Options) -> Result<Self, Error> {
        let mut base = Url::parse(url.expose_secret()).map_err(|error| Error::Address(error.to_string()))?;
        let user = percent_decoded(base.username());
        let password = SecretString::from(percent_decoded(base.password().unwrap_or_default()));
        // What cannot hold a user is no http URL, which the next line says.
        if base.set_username("").is_err() || base.set_password(None).is_err() {
            return Err(Error::Address("not a https:// URL".to_owned()));
        }
        http::check_endpoint(&base).map_err(|error| Error::Address(error.to_string()))?;
        let client = http::client(options).map_err(|error| Error::Address(error.to_string()))?;
        Ok(Self { client, base, user, password, vhost: vhost.to_owned() })
    }

    /// Where it is, for people; never user or password.
    #[must_use]
    pub fn address(&self) -> String {
        http::without_secrets(&self.base)
    }

    /// Compares everything that is there.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn compare(&self, names: &Names, objects: &[Object]) -> Result<Vec<Compared>, Error> {
        let mut compared = Vec::new();
        for object in objects {
            let (differs, harmful) = match object {
                Object::Exchange { name, kind, arguments } => {
                    let Some(found) = self.get::<Described>(&["exchanges", &self.vhost, name]).await? else { continue };
                    let mut differs = different(&found, arguments);
                    if found.kind.as_deref() != Some(kind) {
                        differs.push(format!("type is {}, not {kind}", found.kind.unwrap_or_default()));
                    }
                    (differs, Vec::new())
                }
                Object::Queue { name, arguments } => {
                    let Some(found) = self.get::<Described>(&["queues", &self.vhost, name]).await? else { continue };
                    (different(&found, arguments), harmful(names, name, &found))
                }
                Object::Binding { exchange, queue, key } => {
                    let path = ["bindings", &self.vhost, "e", exchange, "q", queue];
                    let Some(bound) = self.get::<Vec<Bound>>(&path).await? else { continue };
                    let is_there = bound.iter().any(|bound| bound.routing_key == *key);
                    (if is_there { Vec::new() } else { vec!["it is missing".to_owned()] }, Vec::new())
                }
            };
            compared.push(Compared { object: object.clone(), differs, harmful });
        }
        Ok(compared)
    }

    /// One object; none when it is not there.
    async fn get<T: serde::de::DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, Error> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let down = |why: String| Error::Down(Unavailable { what: "management API", why });
        let sent = self.client.get(url).basic_auth(&self.user, Some(self.password.expose_secret())).send();
        let answer = tokio::time::timeout(ANSWER, sent).await.map_err(|_| down("no answer in time".to_owned()))?;
        let answer = answer.map_err(|error| down(http::describe(&error)))?;
        match answer.status().as_u16() {
            200 => {}
            401 | 403 => return Err(Error::Refused(self.user.clone())),
            404 => return Ok(None),
            status => return Err(down(format!("it answered {status}"))),
        }
        let body = http::read_capped(answer, LARGEST).await.map_err(|error| down(error.to_string()))?;
        serde_json::from_slice(&body).map(Some).map_err(|_| down("it answered something else".to_owned()))
    }
}

fn percent_decoded(text: &str) -> String {
    // A form reads as the text itself, but for a plus, which is a blank there.
    let form = format!("t={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(form.as_bytes()).next().map(|(_, text)| text.into_owned()).unwrap_or_default()
}

/// Arguments that are not those that we declare.
fn different(found: &Described, wanted: &Arguments) -> Vec<String> {
    let wanted = definitions::arguments(wanted);
    let wanted = wanted.as_object().cloned().unwrap_or_default();
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut differs: Vec<String> = Vec::new();
    for (name, value) in &wanted {
        match found.arguments.get(name) {
            Some(own) if own == value => {}
            Some(own) => differs.push(format!("{name} is {}, not {}", shown(own), shown(value))),
            None => differs.push(format!("{name} is not set, not {}", shown(value))),
        }
    }
    let more = found.arguments.iter().filter(|(name, _)| !wanted.contains_key(*name));
    differs.extend(more.map(|(name, value)| format!("{name} is {}, and should not be set", shown(value))));
    if found.durable == Some(false) {
        differs.push("it is not durable".to_owned());
    }
    differs
}

/// What a queue is for, as far as policies matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Intake,
    Return,
    /// Holds what waits for this level.
    Wait(u8),
    /// What the broker dead-lettered, what was set aside, what had no route.
    Kept,
}

fn use_of(names: &Names, queue: &str) -> Option<Use> {
    if [names.dead_lane(), names.set_aside(), names.unrouted()].iter().any(|own| own == queue) {
        return Some(Use::Kept);
    }
    if let Some(level) = (0..=LAST_LEVEL).find(|level| names.delay_queue(*level) == queue) {
        return Some(Use::Wait(level));
    }
    let lanes = Kind::ALL.into_iter().flat_map(|kind| Lane::ALL.map(|lane| (kind, lane)));
    let (_, lane) = lanes.into_iter().find(|(kind, lane)| names.lane(*kind, *lane) == queue)?;
    Some(if lane == Lane::Return { Use::Return } else { Use::Intake })
}

/// What policies do to this queue that loses messages, or stops the fleet. Arguments win over policies, but for limits, where the
/// smaller one counts.
fn harmful(names: &Names, queue: &str, found: &Described) -> Vec<String> {
    let Some(used) = use_of(names, queue) else { return Vec::new() };
    let Some(definition) = found.effective_policy_definition.as_object() else { return Vec::new() };
    let numbers: BTreeMap<&str, i64> =
        definition.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_i64()?))).collect();
    let limit = |name: &str| found.arguments.get(name).and_then(Value::as_i64).unwrap_or(i64::MAX);
    let by = [&found.policy, &found.operator_policy].into_iter().flatten().filter(|name| !name.is_empty());
    let by = by.cloned().collect::<Vec<_>>().join(" and ");
    let mut harms = Vec::new();
    for (name, value) in numbers {
        let harm = match (name, used) {
            ("expires", _) => "the queue is deleted with all it holds when nobody uses it for a while",
            ("delivery-limit", Use::Kept) if value < limit("x-delivery-limit") => {
                "what is looked at more often is dropped without a trace"
            }
            ("delivery-limit", Use::Intake | Use::Return) if value < limit("x-delivery-limit") => {
                "healthy jobs are dead-lettered after a few stops of their workers"
            }
            ("message-ttl", Use::Wait(_)) if value < limit("x-message-ttl") => "waits end too early",
            ("message-ttl", Use::Intake | Use::Return) => "jobs are dead-lettered that wait longer",
            ("message-ttl", Use::Kept) if value < limit("x-message-ttl") => {
                "what a person has not seen by then is dropped"
            }
            ("max-length" | "max-length-bytes", Use::Return) => "a return lane that refuses stops every wait",
            ("max-length" | "max-length-bytes", Use::Kept) => "what does not fit is dropped, or stops what comes there",
            _ => continue,
        };
        harms.push(format!("policy {by} sets {name} {value}: {harm}"));
    }
    harms
}

impl Argument {
    /// The number, where it is one.
    #[cfg(test)]
    fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) | Self::Flag(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::rabbitmq::topology::objects;

    fn queue(name: &str) -> (String, Arguments) {
        let all = objects(&Names::new("x"), &BTreeSet::from([Kind::Submission]));
        let found = all.into_iter().find_map(|object| match object {
            Object::Queue { name: own, arguments } if own == name => Some((own, arguments)),
            Object::Exchange { .. } | Object::Queue { .. } | Object::Binding { .. } => None,
        });
        found.unwrap()
    }

    fn described(arguments: &Arguments, policy: Value) -> Described {
        Described {
            arguments: definitions::arguments(arguments).as_object().cloned().unwrap(),
            policy: Some("broad".to_owned()),
            effective_policy_definition: policy,
            ..Described::default()
        }
    }

    fn harms(name: &str, policy: Value) -> Vec<String> {
        let (name, arguments) = queue(name);
        harmful(&Names::new("x"), &name, &described(&arguments, policy))
    }

    #[test]
    fn a_broad_delivery_limit_makes_the_dead_letters_lossy_and_is_named() {
        for name in ["x.w.dead.v1", "x.dlq.v1", "x.unrouted.v1"] {
            let told = harms(name, json!({ "delivery-limit": 20 }));
            assert!(told.len() == 1 && told[0].contains("policy broad sets delivery-limit 20"), "{name}: {told:?}");
            assert!(harms(name, json!({ "delivery-limit": 1_000_000 })).is_empty(), "{name}");
        }
        assert_eq!(harms("x.w.upload.v1", json!({ "delivery-limit": 20 })).len(), 1);
        assert!(harms("x.delay.v1.l03", json!({ "delivery-limit": 20 })).is_empty(), "nobody consumes what waits");
    }

    #[test]
    fn lengths_are_for_intake_lanes_and_delays_and_times_for_nothing() {
        let length = || json!({ "max-length": 1_000, "target-group-size": 3 });
        assert!(harms("x.w.submission.v1", length()).is_empty());
        assert!(harms("x.w.submission.bulk.v1", length()).is_empty());
        assert!(harms("x.delay.v1.l00", length()).is_empty());
        assert_eq!(harms("x.w.submission.return.v1", length()).len(), 1);
        assert_eq!(harms("x.dlq.v1", length()).len(), 1);
        for name in ["x.w.submission.v1", "x.w.upload.return.v1", "x.delay.v1.l12", "x.dlq.v1", "x.unrouted.v1"] {
            assert_eq!(harms(name, json!({ "message-ttl": 60_000 })).len(), 1, "{name}");
            assert_eq!(harms(name, json!({ "expires": 60_000 })).len(), 1, "{name}");
        }
        // No shorter than it is anyway.
        let longest = queue("x.delay.v1.l12").1["x-message-ttl"].number().unwrap();
        assert!(harms("x.delay.v1.l12", json!({ "message-ttl": longest })).is_empty());
        assert!(harms("x.dlq.v1", json!([])).is_empty(), "an empty definition is written as a list");
    }

    #[test]
    fn each_argument_that_differs_is_named_with_both_values() {
        let (_, wanted) = queue("x.w.upload.return.v1");
        assert!(different(&described(&wanted, json!({})), &wanted).is_empty());
        let mut other = wanted.clone();
        other.insert("x-delivery-limit", Argument::Number(7));
        other.remove("x-dead-letter-strategy");
        other.insert("x-max-length", Argument::Number(9));
        let told = different(&described(&other, json!({})), &wanted).join("; ");
        for words in [
            "x-delivery-limit is 7, not 100",
            "x-dead-letter-strategy is not set, not at-least-once",
            "x-max-length is 9, and should not be set",
        ] {
            assert!(told.contains(words), "no {words:?} in {told}");
        }
    }

    #[test]
    fn an_address_is_told_without_its_password_and_only_a_safe_one_is_called() {
        let new = |url: &str| Management::new(&url.into(), "/", &http::Options::default());
        let there = new("http://look:p%40ss+word@127.0.0.1:15672").unwrap();
        assert_eq!((there.user.as_str(), there.password.expose_secret()), ("look", "p@ss+word"));
        assert!(!there.address().contains("ss+word") && !format!("{there:?}").contains("p@ss"));
        for url in ["http://look:hunter2@broker.example.com:15672", "amqp://look:hunter2@127.0.0.1", "hunter2"] {
            let error = new(url).unwrap_err().to_string();
            assert!(error.starts_with("topology.management_url: ") && !error.contains("hunter2"), "{error}");
        }
    }
}
