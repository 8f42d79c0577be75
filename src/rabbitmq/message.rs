//! Messages on the wire: properties and headers out, what matters of them in.

use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};

use serde_json::Value;

use super::arrived;

use crate::{
    clock,
    domain::{
        event::{End, Event},
        ids::{AccountName, JobId, JobKey},
        settlement::SetAside,
        time::Moment,
        trace::Trace,
    },
};

/// Marks a message that proves a way, and holds its id.
pub(super) const CANARY: &str = "longshore-canary";
/// The trace that a dead letter belongs to.
const TRACE_ID: &str = "longshore-trace-id";
/// Says what the body of a dead letter is: `end` or `message`.
pub const FORM: &str = "longshore-form";
/// The user in whose name a message came that was set aside.
pub(super) const PRODUCER: &str = "longshore-producer";
/// The length of a message of which only the beginning was set aside.
pub(super) const CUT: &str = "longshore-cut";

/// The header of a trace context, see [`Trace`].
const TRACEPARENT: &str = "traceparent";
/// What other tracing systems want carried along.
const TRACESTATE: &str = "tracestate";

/// A message to be published: persistent, in JSON.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub exchange: String,
    pub key: String,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
}

impl Outgoing {
    /// Must it have a route? Of events nobody may want to hear.
    pub(super) fn is_mandatory(&self) -> bool {
        !self.properties.kind().as_ref().is_some_and(|kind| kind.as_str().starts_with("dev.longshore."))
    }
}

/// Headers of our own. Nothing that came with a delivery is ever carried forward: `x-death` and its kin would make the
/// broker drop the copy on its second way through the delays, silently (3.10), and another's `user-id` is refused.
#[derive(Debug, Default)]
pub(super) struct Headers(FieldTable);

impl Headers {
    pub(super) fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.insert(ShortString::from(name), AMQPValue::LongString(value.as_ref().into()));
        self
    }

    /// A trace context, each name behind this prefix.
    pub(super) fn of_trace(self, prefix: &str, trace: Option<&Trace>) -> Self {
        let Some(trace) = trace else { return self };
        let headers = self.with(&format!("{prefix}{TRACEPARENT}"), trace.parent());
        match trace.state() {
            Some(state) => headers.with(&format!("{prefix}{TRACESTATE}"), state),
            None => headers,
        }
    }
}

pub(super) fn properties(kind: &str, headers: Headers) -> BasicProperties {
    let seconds = u64::try_from(clock::moment().as_millis().div_euclid(1_000)).unwrap_or(0);
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_app_id("longshore".into())
        .with_type(kind.into())
        .with_timestamp(seconds)
        .with_headers(headers.0)
}

/// An event as a `CloudEvent` 1.0 in binary mode: the envelope in headers, the data as the body.
pub(super) fn of_event(event: &Event, exchange: String, key: String) -> Outgoing {
    let envelope = event.cloud_event();
    let mut headers = Headers::default();
    for (name, value) in envelope.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        if name != "data" && name != "datacontenttype" {
            headers = headers.with(&format!("ce-{name}"), text);
        }
    }
    let properties = properties(&event.name.type_name(), headers).with_message_id(event.id.to_string().into());
    Outgoing { exchange, key, body: event.payload().to_string().into_bytes(), properties }
}

/// An event as it comes from the exchange; none for what is not one of ours.
pub(super) fn read_event(delivery: &Delivery) -> Option<Event> {
    let text = |name: &str| header(delivery, name);
    let name = text("ce-type")?.strip_prefix("dev.longshore.job.")?.strip_suffix(".v1")?.to_owned();
    let account = AccountName::parse(text("ce-source")?.strip_prefix("/accounts/")?).ok()?;
    let data: Value = serde_json::from_slice(&delivery.data).ok()?;
    let subject = text("ce-subject")?;
    let id = data.get("job").and_then(Value::as_str).filter(|_| name == "refused").unwrap_or(&subject);
    let mut key = delivery.routing_key.as_str().splitn(5, '.');
    let (kind, topic) = (key.nth(2)?.parse().ok()?, key.nth(1)?);
    Some(Event {
        id: text("ce-id")?.parse().ok()?,
        name: serde_json::from_value(name.into()).ok()?,
        job: JobKey { account, id: JobId::parse(id).ok()? },
        kind,
        sequence: text("ce-sequence")?,
        time: text("ce-time")?.parse::<jiff::Timestamp>().ok()?.into(),
        topic: serde_json::from_value(topic.into()).ok()?,
        labels: data.get("labels").and_then(|labels| serde_json::from_value(labels.clone()).ok()).unwrap_or_default(),
        trace: text("ce-traceparent").and_then(|parent| Trace::read(&parent, text("ce-tracestate").as_deref())),
        data,
    })
}

/// An ended job's ticket, with its end: what a retry starts from.
pub(super) fn of_end(end: &End, exchange: String) -> Result<Outgoing, serde_json::Error> {
    let headers = Headers::default()
        .with(FORM, "end")
        .with("longshore-job", end.ticket.key().to_string())
        .with("longshore-kind", end.ticket.job.kind.name())
        .with("longshore-fail-class", end.class().as_str())
        .with("longshore-fail-fingerprint", end.fingerprint())
        .with("longshore-fail-first", end.failing_since().timestamp().to_string())
        .with("longshore-fail-last", end.at.timestamp().to_string())
        .with("longshore-attempts", end.ticket.attempts.to_string())
        .with("longshore-build", env!("CARGO_PKG_VERSION"));
    let trace = end.ticket.trace_context();
    let headers = headers.with(TRACE_ID, trace.id()).of_trace("", Some(&trace));
    let body = serde_json::to_vec(end)?;
    let properties = properties("longshore.dead-letter", headers);
    Ok(Outgoing { exchange, key: "set-aside".to_owned(), body, properties })
}

/// A message that never became a job: its body stays as it came, and so does the name of who handed it in.
pub(super) fn of_set_aside(of: &arrived::Delivery, message: &SetAside, exchange: String) -> Outgoing {
    let (kind, lane) = of.lane;
    let mut headers = Headers::default()
        .with(FORM, "message")
        .with("longshore-kind", kind.name())
        .with("longshore-lane", lane.name())
        .with("longshore-fail-class", message.class.as_str())
        .with("longshore-fail-fingerprint", &message.fingerprint)
        .with("longshore-fail-message", &message.message)
        .with("longshore-fail-last", clock::moment().timestamp().to_string())
        .with("longshore-build", env!("CARGO_PKG_VERSION"));
    if let Some(job) = &message.job {
        headers = headers.with("longshore-job", job.to_string());
    }
    if let Some(producer) = &of.producer {
        headers = headers.with(PRODUCER, producer);
    }
    if let Some(length) = of.cut {
        headers = headers.with(CUT, length.to_string());
    }
    if let Some(trace) = &message.trace {
        headers = headers.with(TRACE_ID, trace.id()).of_trace("", Some(trace));
    }
    let properties = properties("longshore.dead-letter", headers);
    Outgoing { exchange, key: "set-aside".to_owned(), body: message.body.clone().into_bytes(), properties }
}

/// The trace context that it came with; what is no context counts as none.
pub(super) fn trace(delivery: &Delivery) -> Option<Trace> {
    Trace::read(&header(delivery, TRACEPARENT)?, header(delivery, TRACESTATE).as_deref())
}

/// When it was published, by the publisher's clock.
pub(super) fn published_at(delivery: &Delivery) -> Option<Moment> {
    let seconds = delivery.properties.timestamp().as_ref()?;
    // Some clients give milliseconds, against the protocol: such an instant lies beyond the year 5000.
    let millis = if *seconds > 100_000_000_000 { *seconds } else { seconds.saturating_mul(1_000) };
    i64::try_from(millis).ok().map(Moment::from_millis)
}

/// The user whose connection published it, by the broker's word.
pub(super) fn producer(delivery: &Delivery) -> Option<String> {
    delivery.properties.user_id().as_ref().map(ToString::to_string)
}

/// The message's own id.
pub(super) fn message_id(delivery: &Delivery) -> Option<String> {
    delivery.properties.message_id().as_ref().map(ToString::to_string)
}

/// Why the broker dead-lettered a message, and from which queue: the latest entry of its own history.
pub(super) fn death(delivery: &Delivery) -> Option<(String, String)> {
    let headers = delivery.properties.headers().as_ref()?.inner();
    let AMQPValue::FieldArray(deaths) = headers.get("x-death")? else { return None };
    let AMQPValue::FieldTable(latest) = deaths.as_slice().first()? else { return None };
    let text = |name: &str| in_text(latest.inner().get(name)?);
    Some((text("queue")?, text("reason")?))
}

/// The id of a canary. It has no body: a message with a content is never one, whatever its headers say.
pub(super) fn canary(delivery: &Delivery) -> Option<String> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let id = header(delivery, CANARY).filter(|_| delivery.data.is_empty())?;
    (id.len() == 32 && id.bytes().all(is_digit)).then_some(id)
}

pub(super) fn header(delivery: &Delivery, name: &str) -> Option<String> {
    in_text(delivery.properties.headers().as_ref()?.inner().get(name)?)
}

fn in_text(value: &AMQPValue) -> Option<String> {
    if let Some(text) = value.as_short_string() {
        return Some(text.to_string());
    }
    value.as_long_string().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
}
