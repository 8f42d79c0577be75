//! The one place where an answer of Partner Center becomes a [`Failure`].
//!
//! Operation and retry class decide together with code, keywords and status: contract/hardware-api.md, sections 4, 5.2,
//! 11, 12.4 and A.2. Below 500 a known code goes before the status. From 500 on nothing is known of a write, so the
//! status decides: a gateway may have repeated a request itself and show the refusal of its second try (Q11). Only
//! "check whether it is done already" is believed with any status, since it leads to a look in every case.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;

use super::error_body::{Problem, READ_AT_MOST, presentable};
use crate::{
    domain::failure::{Cause, Failure, Kind, Pause, RetryClass},
    http::{self, Sent},
};

/// As much of a refusal's body is worth reading.
pub const ERROR_BODY_CAP: usize = READ_AT_MOST;

/// The call whose answer is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The operation's name in hardware-api.md A.1.
    pub operation: &'static str,
    /// What an unclear answer to it means.
    pub class: RetryClass,
}

/// An answer that is no success.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The start of the body, as far as it came.
    pub body: &'a [u8],
    /// Our clock, for a `Retry-After` that names an instant in an answer without a `Date`.
    pub now: Timestamp,
}

/// Sorts an answer that is no success.
#[must_use]
pub fn refusal(call: Call, refusal: &Refusal<'_>) -> Failure {
    let problem = Problem::read(refusal.body);
    let told = http::retry_after(refusal.headers, refusal.now);
    let said = problem.sentence().unwrap_or_else(|| "without an explanation".to_owned());
    let cause = |kind| Cause {
        http_status: Some(refusal.status),
        api_code: problem.code.as_deref().map(presentable),
        retry_after: told,
        service_request_id: service_request_id(refusal.headers, &problem),
        ..Cause::new(kind, format!("{} answered {} {said}", call.operation, refusal.status))
    };
    let meaning = meaning(call.operation, &problem);
    match (refusal.status, meaning) {
        (_, Some(Meaning::CheckAlreadyDone)) => Failure::Indeterminate(cause(Kind::AlreadyDone)),
        (401, _) => Failure::Unauthorized(cause(Kind::Unauthorized)),
        (429, _) => {
            let retry_after = told.or_else(|| seconds_in(&String::from_utf8_lossy(refusal.body)));
            Failure::Throttled(Pause { retry_after, cause: cause(Kind::Throttled) })
        }
        (400..=499, Some(Meaning::RetryLater)) => Failure::Transient(cause(Kind::RetryLater)),
        (403, _) => Failure::Permanent(cause(Kind::Forbidden)),
        (404, _) | (400..=499, Some(Meaning::Missing)) => Failure::Permanent(cause(Kind::NotFound)),
        // A proxy gave up waiting for our request: it may have passed on a part of it.
        (408, _) => unclear(call, cause(Kind::Timeout)),
        (400..=499, _) => Failure::Permanent(cause(Kind::Rejected)),
        (500..=599, _) => unclear(call, cause(Kind::ServerError)),
        // Redirects are not followed, and nothing else is documented.
        _ => unclear(call, cause(Kind::BadAnswer)),
    }
}

/// Sorts a request that got no whole answer.
#[must_use]
pub fn transport(call: Call, error: &reqwest::Error) -> Failure {
    let what = http::describe(error);
    match http::classify_transport(error) {
        Sent::Nothing => not_sent(call, &what),
        Sent::Perhaps if error.is_timeout() => lost(call, Kind::Timeout, &what),
        Sent::Perhaps => lost(call, Kind::Disconnected, &what),
    }
}

/// A request of which nothing left this process.
#[must_use]
pub fn not_sent(call: Call, what: &str) -> Failure {
    Failure::Transient(Cause::new(Kind::NotSent, format!("{} was not sent: {what}", call.operation)))
}

/// A request that may have arrived and got no whole answer.
#[must_use]
pub fn lost(call: Call, kind: Kind, what: &str) -> Failure {
    unclear(call, Cause::new(kind, format!("{} got no answer: {what}", call.operation)))
}

/// A success that cannot be read: whatever was asked for has happened.
#[must_use]
pub fn unreadable(call: Call, status: u16, what: &str) -> Failure {
    let message = format!("{} answered {status}, but the answer cannot be read: {}", call.operation, presentable(what));
    unclear(call, Cause::new(Kind::BadAnswer, message).with_status(status))
}

/// Nobody knows whether the request took effect: harmless for what may be repeated, to be looked at for the rest.
fn unclear(call: Call, cause: Cause) -> Failure {
    match call.class {
        RetryClass::Read | RetryClass::Overwrite => Failure::Transient(cause),
        RetryClass::Converge | RetryClass::Guarded | RetryClass::Create => Failure::Indeterminate(cause),
    }
}

/// What a known code means (the classes of A.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Fatal,
    Missing,
    RetryLater,
    CheckAlreadyDone,
}

/// A row of A.2: code in lower case, keywords that must all be in the lower-cased message, operations, meaning.
type Row = (&'static str, &'static [&'static str], &'static [&'static str], Meaning);

const STATE: &str = "requestinvalidforcurrentstate";
const UPDATE: &str = "updateunauthorized";

/// Appendix A.2 of the contract; a test holds the two together.
const ROWS: &[Row] = &[
    ("invalidinput", &[], &["*"], Meaning::Fatal),
    ("invalidinput", &["extension", "automatic"], &["createShippingLabel"], Meaning::Fatal),
    ("invalidinput", &["chids", "hardwareids"], &["createShippingLabel", "updateShippingLabel"], Meaning::Fatal),
    ("invalidinput", &["another workflow", "progress"], &["updateShippingLabel"], Meaning::RetryLater),
    ("invalidinput", &["derived submission", "attestation"], &["createDerivedSubmission"], Meaning::Fatal),
    ("invalidinput", &["validation failed"], &["updateShippingLabel"], Meaning::Fatal),
    (STATE, &["only pending submissions"], &["commitSubmission"], Meaning::CheckAlreadyDone),
    (STATE, &["initial submission already exists"], &["createInitialSubmission"], Meaning::CheckAlreadyDone),
    (STATE, &["derived submission", "no initial submission"], &["createDerivedSubmission"], Meaning::Fatal),
    (STATE, &["publishing shipping label", "inbox"], &["createShippingLabel"], Meaning::Fatal),
    (STATE, &["ready", "shipping label", "retry"], &["createShippingLabel"], Meaning::RetryLater),
    (UPDATE, &["not authorized", "product"], &["updateProduct"], Meaning::Fatal),
    (UPDATE, &["without an initial submission"], &["updateProduct"], Meaning::Fatal),
    (UPDATE, &["product", "workflow", "failed"], &["updateProduct"], Meaning::Fatal),
    (UPDATE, &["announcement date", "ingestion"], &["updateProduct"], Meaning::Fatal),
    (UPDATE, &["product name", "at this time"], &["updateProduct"], Meaning::RetryLater),
    (UPDATE, &["not authorized", "submission"], &["updateSubmission"], Meaning::Fatal),
    (UPDATE, &["submission", "workflow", "failed"], &["updateSubmission"], Meaning::Fatal),
    ("entitynotfound", &["no submission found"], &["commitSubmission", "getSubmission"], Meaning::Missing),
    (
        "entitynotfound",
        &["product not found"],
        &["createInitialSubmission", "createDerivedSubmission", "getProduct"],
        Meaning::Missing,
    ),
    ("readonlyproduct", &["read only product"], &["createShippingLabel"], Meaning::Fatal),
];

fn meaning(operation: &str, problem: &Problem) -> Option<Meaning> {
    let code = problem.code.as_deref()?.to_lowercase();
    let message = problem.message.as_deref().unwrap_or_default().to_lowercase();
    let fits = |(row_code, keywords, operations, _): &&Row| {
        *row_code == code
            && keywords.iter().all(|keyword| message.contains(keyword))
            && operations.iter().any(|known| *known == "*" || *known == operation)
    };
    let best = ROWS.iter().filter(fits).max_by_key(|(_, keywords, ..)| keywords.len()).map(|(.., meaning)| *meaning);
    // The code alone says this much, whatever the operation and the wording.
    best.or_else(|| (code == "entitynotfound").then_some(Meaning::Missing))
}

/// The pause in a text such as "Try again in 30 seconds.": digits before "second".
fn seconds_in(text: &str) -> Option<Duration> {
    let text = text.to_lowercase();
    text.match_indices("second").find_map(|(at, _)| {
        let before = text.get(..at)?.trim_end();
        let number = before.trim_end_matches(|c: char| c.is_ascii_digit());
        before.get(number.len()..)?.parse().ok().map(Duration::from_secs)
    })
}

/// The service's own id of the request, for Microsoft support.
fn service_request_id(headers: &HeaderMap, problem: &Problem) -> Option<String> {
    let from_header = ["x-ms-request-id", "request-id", "x-ms-activity-id"]
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok().map(str::to_owned));
    let id = from_header.or_else(|| problem.activity_id.clone())?;
    let is_plain = id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    (is_plain && !id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::partner_center::contract;

    const CLASSES: [RetryClass; 5] =
        [RetryClass::Read, RetryClass::Overwrite, RetryClass::Converge, RetryClass::Guarded, RetryClass::Create];

    fn judge(operation: &'static str, class: RetryClass, status: u16, headers: &[(&str, &str)], body: &str) -> Failure {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse::<reqwest::header::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        let refused = Refusal { status, headers: &headers, body: body.as_bytes(), now: Timestamp::UNIX_EPOCH };
        refusal(Call { operation, class }, &refused)
    }

    fn e1(code: &str, message: &str) -> String {
        serde_json::json!({"error": {"code": code, "message": message}}).to_string()
    }

    fn short(failure: &Failure) -> String {
        let name = match failure {
            Failure::Transient(_) => "transient",
            Failure::Throttled(_) => "throttled",
            Failure::Indeterminate(_) => "indeterminate",
            Failure::Permanent(_) => "permanent",
            Failure::Unauthorized(_) => "unauthorized",
        };
        format!("{name}({:?})", failure.cause().kind)
    }

    /// A.1's class of an operation, and its name with a life as long as the program.
    fn operation(name: &str) -> Call {
        let operations = contract::block("operations");
        let entry = operations.as_array().unwrap().iter().find(|entry| entry["id"] == name).unwrap().clone();
        let class = serde_json::from_value(entry["retryClass"].clone()).unwrap();
        Call { operation: name.to_owned().leak(), class }
    }

    #[test]
    fn the_rows_are_those_of_the_contract() {
        let theirs: Vec<Value> = contract::block("errors").as_array().unwrap().clone();
        let ours = ROWS.iter().map(|(code, keywords, operations, meaning)| {
            let class = match meaning {
                Meaning::Fatal => "fatal",
                Meaning::Missing => "fatal-missing",
                Meaning::RetryLater => "retry-later",
                Meaning::CheckAlreadyDone => "check-already-done",
            };
            serde_json::json!({"code": code, "messageKeywords": keywords, "operations": operations, "class": class})
        });
        let theirs = theirs.iter().map(|row| {
            let class = row["class"].as_str().unwrap();
            let class = if matches!(class, "fatal-input" | "fatal-state") { "fatal" } else { class };
            serde_json::json!({"code": row["code"].as_str().unwrap().to_lowercase(),
                "messageKeywords": row["messageKeywords"], "operations": row["operations"], "class": class})
        });
        assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>());
    }

    #[test]
    fn the_whole_table_is_known() {
        let mut table = String::new();
        writeln!(
            table,
            "{:<24}{}",
            "without an answer",
            CLASSES.map(|class| format!("{:<30}", format!("{class:?}"))).concat().trim_end()
        )
        .unwrap();
        let mut line = |name: &str, judged: &dyn Fn(RetryClass) -> Failure| {
            let cells = CLASSES.map(|class| format!("{:<30}", short(&judged(class)))).concat();
            writeln!(table, "{name:<24}{}", cells.trim_end()).unwrap();
        };
        let call = |class| Call { operation: "createProduct", class };
        line("nothing sent", &|class| not_sent(call(class), "x"));
        line("time-out after sending", &|class| lost(call(class), Kind::Timeout, "x"));
        line("reset after sending", &|class| lost(call(class), Kind::Disconnected, "x"));
        line("2xx not readable", &|class| unreadable(call(class), 201, "x"));
        for status in [302, 400, 401, 403, 404, 405, 408, 409, 411, 413, 415, 422, 429, 500, 502, 503, 504, 599, 600] {
            line(&format!("{status} without a code"), &|class| judge("createProduct", class, status, &[], ""));
        }
        table.push_str("\ncodes: below 500, 500 and above\n");
        for row in contract::block("errors").as_array().unwrap() {
            let (code, message) = (row["code"].as_str().unwrap(), row["sampleMessage"].as_str().unwrap());
            for name in row["operations"].as_array().unwrap() {
                let name = name.as_str().unwrap();
                let call = operation(if name == "*" { "createProduct" } else { name });
                let [below, above] = [row["assumedStatus"].as_u64().unwrap(), 502].map(|status| {
                    let body = e1(code, message);
                    judge(call.operation, call.class, u16::try_from(status).unwrap(), &[], &body)
                });
                writeln!(
                    table,
                    "{:<26}{code} {message:.60}\n    {:<28}{}",
                    call.operation,
                    short(&below),
                    short(&above)
                )
                .unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn done_already_is_believed_with_any_status_and_any_case() {
        for status in [400, 409, 422, 500, 502, 503] {
            for code in ["requestInvalidForCurrentState", "RequestInvalidForCurrentState"] {
                let commit = judge(
                    "commitSubmission",
                    RetryClass::Guarded,
                    status,
                    &[],
                    &e1(code, "ONLY PENDING submissions may be committed"),
                );
                assert_eq!(short(&commit), "indeterminate(AlreadyDone)", "{status}");
            }
            let derived = e1("requestInvalidForCurrentState", "Initial submission already exists");
            let other = judge("createDerivedSubmission", RetryClass::Create, status, &[], &derived);
            assert_ne!(other.cause().kind, Kind::AlreadyDone, "another operation's answer");
        }
    }

    #[test]
    fn a_pause_is_read_from_header_then_from_the_message_then_left_open() {
        let wait = |headers: &[(&str, &str)], body: &str| {
            let failure = judge("getProduct", RetryClass::Read, 429, headers, body);
            let Failure::Throttled(pause) = failure else { panic!("{failure:?}") };
            pause.retry_after.map(|wait| wait.as_secs())
        };
        let said = r#"{"statusCode":429,"message":"Rate limit is exceeded. Try again in 30 seconds."}"#;
        assert_eq!(wait(&[("retry-after", "7")], said), Some(7));
        assert_eq!(wait(&[], said), Some(30));
        assert_eq!(wait(&[], "Slow down: 1 second"), Some(1));
        assert_eq!(wait(&[], "in a few seconds, or 12 seconds"), Some(12));
        assert_eq!(wait(&[], "Too Many Requests"), None);
    }

    #[test]
    fn a_503_with_retry_after_is_no_throttle_but_keeps_the_pause() {
        let create = judge("createProduct", RetryClass::Create, 503, &[("retry-after", "20")], "");
        assert_eq!(short(&create), "indeterminate(ServerError)");
        assert_eq!(create.cause().retry_after, Some(Duration::from_secs(20)));
        let read = judge("getProduct", RetryClass::Read, 503, &[("retry-after-ms", "20")], "");
        assert_eq!(read.cause().retry_after, Some(Duration::from_millis(20)));
    }

    #[test]
    fn the_cause_tells_status_code_id_and_what_the_service_said() {
        let body = r#"{"statusCode":500,"message":"Internal server error","activityId":"5b6f4f0a-93b1"}"#;
        let failure = judge("getProduct", RetryClass::Read, 500, &[], body);
        let cause = failure.cause();
        assert_eq!(cause.message, "getProduct answered 500 Internal server error");
        assert_eq!(cause.service_request_id.as_deref(), Some("5b6f4f0a-93b1"));
        let named = judge("getProduct", RetryClass::Read, 500, &[("request-id", "abc"), ("x-y", "z")], body);
        assert_eq!(named.cause().service_request_id.as_deref(), Some("abc"));
        let refused = judge("createProduct", RetryClass::Create, 400, &[], &e1("invalidInput", "No."));
        assert_eq!(refused.cause().message, "createProduct answered 400 invalidInput: No.");
        assert_eq!(refused.cause().api_code.as_deref(), Some("invalidInput"));
        assert_eq!(refused.cause().http_status, Some(400));
    }

    #[test]
    fn error_bodies_that_must_not_break_the_client_are_classified_by_status() {
        for (status, body, expected) in [
            (401, "", "unauthorized(Unauthorized)"),
            (403, "", "permanent(Forbidden)"),
            (502, "", "indeterminate(ServerError)"),
            (503, "<html>..</html>", "indeterminate(ServerError)"),
            (500, "null", "indeterminate(ServerError)"),
            (429, r#"{"statusCode":"429","message":"..."}"#, "throttled(Throttled)"),
        ] {
            assert_eq!(
                short(&judge("createProduct", RetryClass::Create, status, &[], body)),
                expected,
                "{status} {body}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_body_turns_an_unclear_write_into_a_clear_one(
            status in 500_u16..600, body in proptest::collection::vec(any::<u8>(), 0..200), row in 0..ROWS.len(),
        ) {
            let (code, keywords, ..) = ROWS[row];
            let bodies = [String::from_utf8_lossy(&body).into_owned(), e1(code, &keywords.join(" "))];
            for body in bodies {
                for operation in ["createProduct", "commitSubmission", "createInitialSubmission"] {
                    let failure = judge(operation, RetryClass::Create, status, &[], &body);
                    prop_assert!(matches!(failure, Failure::Indeterminate(_)), "{failure:?}");
                }
            }
        }

        #[test]
        fn throttled_means_429_and_nothing_else(status in 100_u16..700, message in ".{0,40}") {
            let failure = judge("getProduct", RetryClass::Read, status, &[("retry-after", "5")], &e1("x", &message));
            prop_assert_eq!(matches!(failure, Failure::Throttled(_)), status == 429);
        }
    }
}
