//! `longshore schema`: the shapes of what goes in and comes out.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

mod asyncapi;
mod events;

use super::{
    context::Context,
    exit::Exit,
    output::Form,
    stop::{Outcome, Stop},
};
use crate::{
    config,
    domain::{job, step::Kind},
};

/// Prints the shape of jobs, of events, of both at the broker, or of the configuration.
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
    /// JSON Schema of jobs, and an example of each kind
    Jobs,
    /// JSON Schema of events
    Events,
    /// AsyncAPI 3 document: exchanges, routing keys and messages of a fleet
    Asyncapi,
    /// Every setting, with unit, range and reason
    Config,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Outcome {
    match arguments.what {
        What::Jobs => context.out.document(&jobs())?,
        What::Events => context.out.document(&events::schema())?,
        // It may have no member of ours, a schema number included.
        What::Asyncapi => context.out.text(&in_lines(&asyncapi::document())?)?,
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

fn in_lines(document: &Value) -> Result<String, Stop> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Stop::internal(error.to_string()))?;
    Ok(text + "\n")
}

/// A job of any kind.
fn jobs() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12();
    let mut generator = settings.into_generator();
    let kinds: Vec<Value> = Kind::ALL.into_iter().map(|kind| job::schema_of(kind, &mut generator)).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Job",
        "oneOf": kinds,
        "$defs": generator.take_definitions(true),
        "examples": examples(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::job::Job;

    /// Compares what is in the repository with what the program prints; with `LONGSHORE_WRITE_SCHEMAS=1` it is written instead.
    #[test]
    fn the_files_of_the_repository_are_what_the_program_prints() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
        for (name, document) in
            [("job.json", jobs()), ("event.json", events::schema()), ("asyncapi.json", asyncapi::document())]
        {
            let printed = in_lines(&document).unwrap();
            if std::env::var_os("LONGSHORE_WRITE_SCHEMAS").is_some() {
                std::fs::write(folder.join(name), &printed).unwrap();
            }
            let kept = std::fs::read_to_string(folder.join(name)).unwrap();
            assert!(
                kept == printed,
                "docs/schemas/{name} is old; renew it with LONGSHORE_WRITE_SCHEMAS=1 and this test"
            );
        }
    }

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
