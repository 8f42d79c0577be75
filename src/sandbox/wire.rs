//! How answers of the hardware API look on the wire, and the ways in which they may look odd.

use jiff::Timestamp;
use serde_json::Value;

/// Which oddities an answer has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Oddities {
    pub(super) string_ids: bool,
    pub(super) pascal_case: bool,
}

/// An instant with seven digits of fraction.
pub(super) fn date_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string()
}

/// The same answer with these oddities.
pub(super) fn shape(value: &mut Value, oddities: Oddities) {
    match value {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                let is_id = ["id", "productId", "submissionId", "sharedProductId"].contains(&name.as_str());
                if oddities.string_ids && is_id && value.is_u64() {
                    *value = Value::String(value.to_string());
                }
                let is_enumeration = ["commitStatus", "currentStep", "state", "type", "testHarness", "deviceType"]
                    .contains(&name.as_str());
                if let Some(text) = value.as_str().filter(|_| oddities.pascal_case && is_enumeration) {
                    *value = Value::String(pascal(text));
                }
                shape(value, oddities);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| shape(value, oddities)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn pascal(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_become_text_and_enumerations_change_their_case_only_when_asked() {
        let before = json!({ "id": 1_u64 << 60, "value": [{ "state": "started", "name": "started" }] });
        let mut value = before.clone();
        shape(&mut value, Oddities::default());
        assert_eq!(value, before);
        shape(&mut value, Oddities { string_ids: true, pascal_case: true });
        let expected = json!({ "id": "1152921504606846976", "value": [{ "state": "Started", "name": "started" }] });
        assert_eq!(value, expected);
    }
}
