//! The machine-checkable blocks of the contracts in `tests/contract/`, for the tests.

use serde_json::{Value, json};

const HARDWARE: &str = include_str!("../../tests/contract/hardware-api.md");
const IDENTITY: &str = include_str!("../../tests/contract/identity.md");

/// The fenced blocks of a contract: what stands behind `json `, and the content.
fn fences(text: &'static str) -> Vec<(&'static str, Value)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("\n```json ") {
        let (label, body) = after.split_once('\n').unwrap();
        let (content, tail) = body.split_once("\n```").unwrap();
        found.push((label.trim(), serde_json::from_str(content).unwrap()));
        rest = tail;
    }
    assert!(found.len() > 10, "the contract has lost its blocks");
    found
}

fn labelled(text: &'static str, label: &str) -> Vec<Value> {
    fences(text).into_iter().filter(|(found, _)| *found == label).map(|(_, value)| value).collect()
}

/// The block `json contract=<name>` of hardware-api.md.
pub(crate) fn block(name: &str) -> Value {
    labelled(HARDWARE, &format!("contract={name}")).pop().unwrap()
}

/// Every `json example=<schema>` of hardware-api.md; at least one.
pub(crate) fn examples(schema: &str) -> Vec<Value> {
    let found = labelled(HARDWARE, &format!("example={schema}"));
    assert!(!found.is_empty(), "no example of {schema}");
    found
}

/// What the schema of hardware-api.md says against a value.
pub(crate) fn objections(schema: &str, value: &Value) -> Vec<String> {
    against(&block("schemas")["$defs"], schema, value)
}

/// Every `json example=<schema>` of identity.md; at least one.
pub(crate) fn identity_examples(schema: &str) -> Vec<Value> {
    let found = labelled(IDENTITY, &format!("example={schema}"));
    assert!(!found.is_empty(), "no example of {schema}");
    found
}

/// Every `json counterexample=<schema>` of identity.md.
pub(crate) fn identity_counterexamples(schema: &str) -> Vec<Value> {
    labelled(IDENTITY, &format!("counterexample={schema}"))
}

/// What the schema of identity.md says against a value.
pub(crate) fn identity_objections(schema: &str, value: &Value) -> Vec<String> {
    against(&labelled(IDENTITY, "schema").pop().unwrap()["$defs"], schema, value)
}

fn against(definitions: &Value, schema: &str, value: &Value) -> Vec<String> {
    let schema = json!({"$ref": format!("#/$defs/{schema}"), "$defs": definitions});
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}
