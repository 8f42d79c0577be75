//! Reads the bodies of refusals. Whatever comes, something is said about it: parsing never hides the error.
//!
//! The shapes E1 to E5 are those of contract/hardware-api.md, section 4.1.

use serde_json::Value;

use crate::telemetry::redact;

/// No more of a body is looked at.
pub(super) const READ_AT_MOST: usize = 16 * 1024;
const SHOW_AT_MOST: usize = 400;
const DETAILS_AT_MOST: usize = 8;

/// What a body says about the refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Problem {
    /// The code as it came.
    pub(super) code: Option<String>,
    /// The message as it came: for keywords, not for showing.
    pub(super) message: Option<String>,
    /// `validationErrors`: target and message.
    pub(super) details: Vec<(String, String)>,
    /// `activityId` of the gateway.
    pub(super) activity_id: Option<String>,
}

impl Problem {
    /// Reads the first 16 KiB.
    pub(super) fn read(body: &[u8]) -> Self {
        let body = body.get(..READ_AT_MOST).unwrap_or(body);
        let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii();
        match serde_json::from_slice::<Value>(text) {
            Ok(value) => Self::of_json(&value),
            Err(_) if text.starts_with(b"{") => Self::of_cut_json(text),
            Err(_) if text.starts_with(b"<") => Self::of_xml(&String::from_utf8_lossy(text)),
            Err(_) => Self::default(),
        }
    }

    /// E1, an OAuth body, E2 and E3.
    fn of_json(value: &Value) -> Self {
        let inner = value.get("error").unwrap_or(value);
        if let Some(code) = inner.as_str() {
            let message = text(value, "error_description").or_else(|| text(value, "message"));
            return Self { code: Some(code.to_owned()), message, ..Self::default() };
        }
        let details = inner.get("validationErrors").and_then(Value::as_array).into_iter().flatten();
        let detail =
            |entry: &Value| (text(entry, "target").unwrap_or_default(), text(entry, "message").unwrap_or_default());
        Self {
            code: text(inner, "code"),
            message: text(inner, "message"),
            details: details.take(DETAILS_AT_MOST).map(detail).collect(),
            activity_id: text(inner, "activityId").or_else(|| text(value, "activityId")),
        }
    }

    /// JSON that was cut at 16 KiB, or is broken: code and message are still found where they stand.
    fn of_cut_json(body: &[u8]) -> Self {
        let member = |name: &str| {
            let at = body.windows(name.len()).position(|window| window == name.as_bytes())?;
            let rest = body.get(at + name.len()..)?.trim_ascii_start().strip_prefix(b":")?;
            serde_json::Deserializer::from_slice(rest).into_iter::<String>().next()?.ok()
        };
        Self { code: member("\"code\""), message: member("\"message\""), ..Self::default() }
    }

    /// E5.
    fn of_xml(body: &str) -> Self {
        let element = |name: &str| {
            let (_, rest) = body.split_once(&format!("<{name}>"))?;
            rest.split_once(&format!("</{name}>")).map(|(content, _)| content.trim().to_owned())
        };
        Self { code: element("Code"), message: element("Message"), ..Self::default() }
    }

    /// Code, message and details in one line, fit for people and logs.
    pub(super) fn sentence(&self) -> Option<String> {
        let details = self.details.iter().map(|(target, message)| format!("{target}: {message}"));
        let details = details.collect::<Vec<_>>().join("; ");
        let details = if details.is_empty() { String::new() } else { format!(" ({details})") };
        let said = match (&self.code, &self.message) {
            (Some(code), Some(message)) => format!("{code}: {message}{details}"),
            (Some(one), None) | (None, Some(one)) => format!("{one}{details}"),
            (None, None) => return None,
        };
        Some(presentable(&said))
    }
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

/// Somebody else's text in one line of at most 400 characters, queries of URLs and tokens taken out.
pub(super) fn presentable(text: &str) -> String {
    let line = one_line(text);
    if line.chars().count() <= SHOW_AT_MOST { line } else { line.chars().take(SHOW_AT_MOST).chain(['…']).collect() }
}

/// Somebody else's text in one line, without control characters, queries of URLs, tokens and other secrets.
pub(super) fn one_line(text: &str) -> String {
    let mut words = Vec::new();
    let mut follows_bearer = false;
    for word in
        text.split(|c: char| c.is_whitespace() || c.is_control() || is_unseen(c)).filter(|word| !word.is_empty())
    {
        let shown = if follows_bearer || word.contains("eyJ") {
            "…"
        } else if word.contains("://") || word.contains("sig=") {
            word.split(['?', '#']).next().filter(|head| !head.is_empty() && !head.contains("sig=")).unwrap_or("…")
        } else {
            word
        };
        follows_bearer = word.eq_ignore_ascii_case("bearer");
        words.push(shown);
    }
    redact(&words.join(" ")).into_owned()
}

/// Marks that turn text around or hide in it: they have no place in a terminal or a log.
const fn is_unseen(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sentence(body: &str) -> Option<String> {
        Problem::read(body.as_bytes()).sentence()
    }

    #[test]
    fn every_shape_of_the_contract_is_read() {
        let read = |body: &str| Problem::read(body.as_bytes());
        let e1 = read(
            r#"{"error":{"code":"invalidInput","message":"Validation Failed.","validationErrors":
                [{"target":"a.b","message":"needed"},{"target":null,"message":null}]}}"#,
        );
        assert_eq!(e1.code.as_deref(), Some("invalidInput"));
        assert_eq!(e1.sentence().unwrap(), "invalidInput: Validation Failed. (a.b: needed; : )");
        let e2 = read(r#"{"statusCode":"429","message":"Slow down","activityId":"5b6f4f0a"}"#);
        assert_eq!((e2.code.as_deref(), e2.activity_id.as_deref()), (None, Some("5b6f4f0a")));
        assert_eq!(sentence(r#"{"message":"m","httpErrorCode":3,"validationErrors":null}"#).unwrap(), "m");
        assert_eq!(sentence(r#"{"error":"invalid_token","error_description":"old"}"#).unwrap(), "invalid_token: old");
        let e5 =
            "\u{feff}<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>No.</Message></Error>";
        assert_eq!(sentence(e5).unwrap(), "AuthenticationFailed: No.");
        for raw in ["", "null", "[]", "3", "<html>..</html>", "plain text", "{", r#"{"error":{"code":5}}"#] {
            assert_eq!(sentence(raw), None, "{raw}");
        }
    }

    #[test]
    fn a_code_survives_a_body_that_is_cut() {
        let long = format!(
            r#"{{"error":{{"code":"requestInvalidForCurrentState","message":"Only pending","x":"{}"}}}}"#,
            "y".repeat(READ_AT_MOST)
        );
        let problem = Problem::read(long.as_bytes());
        assert_eq!(problem.code.as_deref(), Some("requestInvalidForCurrentState"));
        assert_eq!(problem.message.as_deref(), Some("Only pending"));
    }

    #[test]
    fn tokens_and_signatures_are_taken_out() {
        let text =
            presentable("Bearer abc was\r\nrefused for https://blob.example/x?sp=r&sig=SECRET eyJ0.e30.c2ln ?sig=A");
        assert_eq!(text, "Bearer … was refused for https://blob.example/x … …");
        assert_eq!(presentable(&"x".repeat(1_000)).chars().count(), SHOW_AT_MOST + 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body in proptest::collection::vec(any::<u8>(), 0..300), start in "[{<\\[]?") {
            let _sentence = Problem::read(&[start.as_bytes(), &body].concat()).sentence();
        }
    }
}
