//! Events as JSON Schema: the envelope, and what each says.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::domain::{event::Name, event_data};

/// A generator for what is written, with its shared parts at this place of the document.
pub(super) fn generator(settings: SchemaSettings) -> SchemaGenerator {
    settings.for_serialize().into_generator()
}

/// Events as the program prints them and as the home keeps them: `CloudEvents` in structured mode.
pub(super) fn schema() -> Value {
    let mut generator = generator(SchemaSettings::draft2020_12());
    let each: Vec<Value> = Name::ALL
        .into_iter()
        .map(|name| {
            let data = event_data::schema_of(name, &mut generator);
            json!({ "title": name, "properties": { "type": { "const": name.type_name() }, "data": data } })
        })
        .collect();
    let mut properties = attributes();
    properties.insert("datacontenttype".to_owned(), json!({ "const": "application/json" }));
    properties.insert("data".to_owned(), json!({ "type": "object" }));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        "description": "A CloudEvent 1.0. Delivery is at least once: keep the first of each source and id.",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "sequence", "datacontenttype", "data"],
        "properties": properties,
        "oneOf": each,
        "$defs": generator.take_definitions(true),
    })
}

/// The attributes of every event but its data and that data's type: on the broker each is a header behind `ce-`.
pub(super) fn attributes() -> Map<String, Value> {
    let attributes = json!({
        "specversion": { "type": "string", "const": "1.0" },
        "id": {
            "type": "string",
            "format": "uuid",
            "description": "The same on every repeat: consumers keep the first of a source and id. All ends of a generation share one.",
        },
        "source": { "type": "string", "pattern": "^/accounts/[a-z0-9][a-z0-9-]{0,39}$", "description": "The account." },
        "type": { "type": "string", "pattern": "^dev\\.longshore\\.job\\.[a-z-]+\\.v1$" },
        "subject": { "type": "string", "description": "The job's id; of a refused event the message's." },
        "time": { "type": "string", "format": "date-time", "description": "By the memory's clock." },
        "sequence": {
            "type": "string",
            "pattern": "^[0-9]{4,}\\.[0-9]{3,}\\.[0-9]{6,}\\.[0-9]{2,}$",
            "description": "generation.step.try.n, padded with zeros: the order of a job's events, as text.",
        },
        "traceparent": {
            "type": "string",
            "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            "description": "W3C Trace Context: the producer's, else one made of the job's name.",
        },
        "tracestate": { "type": "string", "maxLength": 512, "description": "As the producer gave it, if it did." },
    });
    match attributes {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock,
        domain::{event::Event, job::Job, ticket::Ticket, trace::Trace},
    };

    #[test]
    fn an_event_has_the_members_that_are_told_and_no_other() {
        let text = r#"{"id":"a","kind":"status-poll","account":"contoso","spec":{"product":{"id":"1"},"submission":{"id":"2"}}}"#;
        let job = Job::decode(text.as_bytes(), || None).unwrap();
        let hash = job.content_hash();
        let trace = Trace::read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some("a=1"));
        assert!(trace.is_some());
        let ticket = Ticket { trace, ..Ticket::new(job, hash, None, clock::moment()) };
        let event = Event::of(&ticket, Name::Started, 1, clock::moment(), json!({})).cloud_event();
        let schema = schema();
        let told: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(event.as_object().unwrap().keys().collect::<Vec<_>>(), told);
        for required in schema["required"].as_array().unwrap() {
            assert!(event.get(required.as_str().unwrap()).is_some(), "{required}");
        }
    }
}
