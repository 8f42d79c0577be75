//! `longshore schema`: the shapes of what goes in and comes out.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{context::Context, exit::Exit, output::Form, stop::Outcome};
use crate::{
    config,
    domain::{
        event::{Class, Name},
        job,
    },
};

/// Prints the shape of jobs, of events or of the configuration, with examples.
///
/// Example: longshore schema jobs
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to describe
    #[arg(value_enum, default_value = "jobs")]
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// JSON Schemas of jobs, and an example of each kind
    Jobs,
    /// JSON Schema of events
    Events,
    /// Every setting, with unit, range and reason
    Config,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Outcome {
    match arguments.what {
        What::Jobs => {
            let mut schemas = job::schemas();
            if let Some(members) = schemas.as_object_mut() {
                members.insert("examples".to_owned(), examples());
            }
            context.out.document(&schemas)?;
        }
        What::Events => context.out.document(&events())?,
        What::Config if context.form() == Form::Table => context.out.text(config::DEFAULT)?,
        What::Config => {
            let settings: Vec<Value> = config::described()
                .into_iter()
                .map(|setting| json!({ "key": setting.key, "range": setting.range }))
                .collect();
            context.out.document(&json!({ "settings": settings, "default": config::DEFAULT }))?;
        }
    }
    Ok(Exit::Done)
}

/// One job of each kind, as it can be handed in.
pub(super) fn examples() -> Value {
    json!([
        {
            "id": "nic-4711",
            "kind": "submission",
            "account": "contoso",
            "labels": { "build": "4711" },
            "deadline": "36h",
            "spec": {
                "package": { "source": "file:///build/nic.cab" },
                "product": { "create": {
                    "productName": "Contoso Net Driver 2.4.1",
                    "testHarness": "attestation",
                    "deviceType": "internalExternal",
                    "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
                } },
                "submission": { "create": { "name": "nic 2.4.1", "type": "initial" } },
                "commit": true,
                "wait": "signed",
                "download": { "to": "file:///build/out/", "kinds": ["signedPackage"] },
            },
        },
        {
            "id": "nic-4711-again",
            "kind": "upload",
            "account": "contoso",
            "spec": {
                "package": { "source": "file:///build/nic.cab" },
                "product": { "id": "14300000000000001" },
                "submission": { "id": "1152921504606846977" },
            },
        },
        {
            "id": "nic-4711-watch",
            "kind": "status-poll",
            "account": "contoso",
            "spec": {
                "product": { "id": "14300000000000001" },
                "submission": { "id": "1152921504606846977" },
                "wait": "signed",
            },
        },
    ])
}

/// The CloudEvents that the home keeps, and that `--output ndjson` prints.
fn events() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "sequence", "data"],
        "properties": {
            "specversion": { "const": "1.0" },
            "id": { "type": "string", "format": "uuid", "description": "Deterministic: keep the first of an id." },
            "source": { "type": "string", "description": "/accounts/<account>" },
            "type": { "type": "string", "pattern": "^dev\\.longshore\\.job\\.[a-z-]+\\.v1$" },
            "subject": { "type": "string", "description": "The job's id; of a refused event the message's." },
            "time": { "type": "string", "format": "date-time" },
            "sequence": { "type": "string", "description": "generation.step.try.n, padded with zeros." },
            "datacontenttype": { "const": "application/json" },
            "data": { "type": "object" },
        },
        "names": schemars::schema_for!(Name),
        "classes": schemars::schema_for!(Class),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::Job;

    #[test]
    fn every_example_is_a_job_and_there_is_one_of_each_kind() {
        let mut kinds = Vec::new();
        for example in examples().as_array().unwrap() {
            let job = Job::decode(example.to_string().as_bytes(), || None).unwrap();
            kinds.push(job.kind);
        }
        assert_eq!(kinds, crate::domain::step::Kind::ALL);
    }
}
