//! Reads what the token endpoint answers: tokens of v1 and v2, errors in JSON, plain text or HTML.
//!
//! Status and `error` decide; numbers choose words or add a retry. Source: contract/identity.md, sections 5 and 7.

use std::time::Duration;

use reqwest::header::HeaderMap;
use secrecy::SecretString;
use serde_json::Value;

use super::{
    advice::advice,
    endpoint::{Refusal, SignInError},
    settings::Settings,
};
use crate::{
    domain::failure::{Cause, Kind},
    http,
};

/// A token without either kind of expiry lives this long (section 5).
const DEFAULT_LIFE: Duration = Duration::from_mins(10);
/// After "too many identical requests" the key rests this long (AADSTS50196).
const LOOP_WAIT: Duration = Duration::from_mins(5);

const LOOP: u32 = 50_196;
const TENANT_THROTTLED: u32 = 90_055;
const TRANSIENT: [u32; 7] = [50_033, 90_006, 90_012, 90_024, 90_033, 90_090, 50_000];
/// The assertion is outside its time range. 500133 is the contract's; 700024 is the same refusal for client assertions.
const OUTSIDE_TIME: [u32; 2] = [500_133, 700_024];

/// A token as read.
pub(super) struct Granted {
    pub(super) secret: SecretString,
    /// Life from the instant before the request.
    pub(super) life: Duration,
    /// The endpoint's hint when to renew.
    pub(super) refresh_in: Option<Duration>,
}

/// Reads a 200. Numbers may be integers or decimal text; `server_now` turns `expires_on` into a life.
pub(super) fn granted(body: &[u8], server_now: jiff::Timestamp) -> Result<Granted, &'static str> {
    let value: Value = serde_json::from_slice(body).map_err(|_| "the answer is no JSON")?;
    let secret = value.get("access_token").and_then(Value::as_str).filter(|token| !token.is_empty());
    let secret = secret.ok_or("the answer holds no access_token")?;
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the access_token cannot stand in a header");
    }
    match value.get("token_type") {
        None | Some(Value::Null) => {}
        Some(kind) if kind.as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) => {}
        Some(_) => return Err("the token is no bearer token"),
    }
    let until = |at: u64| {
        let now = u64::try_from(server_now.as_second()).unwrap_or(0);
        Duration::from_secs(at.saturating_sub(now))
    };
    let life =
        number(&value, "expires_in").map(Duration::from_secs).or_else(|| number(&value, "expires_on").map(until));
    let life = life.unwrap_or(DEFAULT_LIFE);
    if life.is_zero() {
        return Err("the token has expired already");
    }
    let refresh_in = number(&value, "refresh_in").map(Duration::from_secs);
    Ok(Granted { secret: SecretString::from(secret), life, refresh_in })
}

fn number(value: &Value, name: &str) -> Option<u64> {
    match value.get(name)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What an error body says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Problem {
    error: String,
    codes: Vec<u32>,
    trace_id: Option<String>,
}

impl Problem {
    pub(super) fn read(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return Self::default() };
        let text = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let plain =
            |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).take(64).collect();
        let listed = value.get("error_codes").and_then(Value::as_array).into_iter().flatten();
        let mut codes: Vec<u32> = listed.filter_map(Value::as_u64).filter_map(|code| code.try_into().ok()).collect();
        if codes.is_empty() {
            codes = text("error_description").split("AADSTS").skip(1).filter_map(leading_number).collect();
        }
        codes.truncate(8);
        let trace_id = Some(plain(text("trace_id"))).filter(|id: &String| !id.is_empty());
        Self { error: plain(text("error")), codes, trace_id }
    }

    /// Was an assertion refused because of the time in it?
    pub(super) fn is_outside_time(&self) -> bool {
        self.has(&OUTSIDE_TIME)
    }

    fn has(&self, codes: &[u32]) -> bool {
        self.codes.iter().any(|code| codes.contains(code))
    }
}

/// Reads these bytes as a token and as a refusal.
#[cfg(fuzzing)]
pub(super) fn read_anything(body: &[u8]) {
    let now = crate::clock::now();
    drop(granted(body, now));
    let problem = Problem::read(body);
    let _is_ours = problem.is_outside_time();
    drop(refused(400, &HeaderMap::new(), problem, now, &Settings::default()));
}

fn leading_number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Sorts an answer that is no token.
pub(super) fn refused(
    status: u16,
    headers: &HeaderMap,
    problem: Problem,
    now: jiff::Timestamp,
    settings: &Settings,
) -> SignInError {
    let told = http::retry_after(headers, now).map(|wait| wait.min(settings.pause_cap));
    let number = problem.codes.first().map(|code| format!(" AADSTS{code}")).unwrap_or_default();
    let error = if problem.error.is_empty() { String::new() } else { format!(" {}", problem.error) };
    let answered = format!("the token endpoint answered {status}{error}{number}");
    if status == 429 || problem.has(&[LOOP, TENANT_THROTTLED]) {
        let least = if problem.has(&[LOOP]) { LOOP_WAIT } else { Duration::ZERO };
        return SignInError::Throttled { wait: told.unwrap_or(settings.default_pause).max(least) };
    }
    let transient = |kind| SignInError::Transient {
        cause: Cause {
            http_status: Some(status),
            retry_after: told,
            service_request_id: problem.trace_id.clone(),
            ..Cause::new(kind, answered.clone())
        },
    };
    if problem.has(&TRANSIENT) || matches!(problem.error.as_str(), "temporarily_unavailable" | "server_error") {
        return transient(Kind::RetryLater);
    }
    match status {
        408 => transient(Kind::Timeout),
        400..=499 => {
            let (meaning, next_step) = advice(&problem.codes, &problem.error, status);
            let trace = problem.trace_id.map(|id| format!(", trace id {id}")).unwrap_or_default();
            SignInError::Refused(Refusal {
                message: format!("{meaning} ({answered}{trace})"),
                codes: problem.codes,
                error: problem.error,
                next_step: next_step.to_owned(),
                http_status: Some(status),
                remembered: None,
            })
        }
        500..=599 => transient(Kind::ServerError),
        // Redirects are not followed; a captive portal or a wrong authority looks like this.
        _ => transient(Kind::BadAnswer),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::partner_center::contract;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn read(value: &Value) -> Result<Granted, &'static str> {
        granted(value.to_string().as_bytes(), "2026-11-01T10:00:00Z".parse().unwrap())
    }

    fn sort(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> SignInError {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        refused(status, &headers, Problem::read(body.as_bytes()), NOW, &Settings::default())
    }

    #[test]
    fn tokens_of_both_versions_are_read() {
        for name in ["TokenResponseV1", "TokenResponseV2", "TokenResponseAccepted", "ImdsTokenResponse"] {
            for example in contract::identity_examples(name) {
                let token = read(&example).unwrap();
                assert_eq!(example["access_token"], token.secret.expose_secret());
                assert!([3599, 3600, 86_399].contains(&token.life.as_secs()), "{example}");
            }
        }
        for name in ["TokenResponseV1", "TokenResponseV2"] {
            for counterexample in contract::identity_counterexamples(name) {
                assert!(!contract::identity_objections(name, &counterexample).is_empty());
                assert!(read(&counterexample).is_ok(), "the other version's shape is read, too");
            }
        }
        for example in contract::examples("TokenResponse") {
            assert_eq!(read(&example).unwrap().life.as_secs(), 3599);
        }
    }

    #[test]
    fn a_life_is_found_wherever_it_stands() {
        let life = |value: Value| read(&value).map(|token| token.life.as_secs());
        let at = "2026-11-01T10:00:50Z".parse::<jiff::Timestamp>().unwrap().as_second();
        assert_eq!(life(serde_json::json!({"access_token": "t", "expires_on": at.to_string()})), Ok(50));
        assert_eq!(life(serde_json::json!({"access_token": "t", "expires_in": 5, "expires_on": at})), Ok(5));
        assert_eq!(life(serde_json::json!({"access_token": "t", "expires_in": "soon"})), Ok(600));
        assert_eq!(life(serde_json::json!({"access_token": "t"})), Ok(600));
        assert!(life(serde_json::json!({"access_token": "t", "expires_in": "0"})).is_err());
        let hinted = read(&serde_json::json!({"access_token": "t", "expires_in": 90, "refresh_in": "40"})).unwrap();
        assert_eq!(hinted.refresh_in, Some(Duration::from_secs(40)));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for body in [
            "",
            "null",
            "{}",
            r#"{"access_token":""}"#,
            r#"{"access_token":"a\nb"}"#,
            r#"{"access_token":7}"#,
            r#"{"access_token":"t","token_type":"mac"}"#,
            r#"{"access_token":"t""#,
        ] {
            assert!(granted(body.as_bytes(), NOW).is_err(), "{body}");
        }
    }

    #[test]
    fn the_errors_of_the_contract_are_refusals_with_a_next_step() {
        let all = contract::identity_examples("TokenError").into_iter().chain(contract::examples("TokenError"));
        let lines: Vec<_> = all
            .map(|example| {
                let SignInError::Refused(refusal) = sort(401, &[], &example.to_string()) else { panic!("{example}") };
                format!("{:?} {}\n    -> {}", refusal.codes, refusal.message, refusal.next_step)
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn statuses_error_values_and_numbers_are_sorted() {
        let body = |error: &str, code: u32| format!(r#"{{"error":"{error}","error_codes":[{code}]}}"#);
        let plain = "Too Many Requests";
        let wait = |error: SignInError| {
            let SignInError::Throttled { wait } = error else { panic!("{error:?}") };
            wait.as_secs()
        };
        assert_eq!(wait(sort(429, &[("retry-after", "17")], plain)), 17);
        assert_eq!(wait(sort(429, &[], plain)), 60);
        assert_eq!(wait(sort(429, &[("retry-after", "999999")], plain)), 3600);
        assert_eq!(wait(sort(429, &[("retry-after-ms", "1500")], plain)), 1);
        assert_eq!(wait(sort(400, &[], &body("invalid_grant", LOOP))), 300);
        assert_eq!(wait(sort(400, &[], &body("invalid_request", TENANT_THROTTLED))), 60);
        for (status, body) in [
            (500, "<html>Service is unavailable to process the request</html>".to_owned()),
            (503, String::new()),
            (504, body("invalid_client", 7_000_215)),
            (400, body("temporarily_unavailable", 0)),
            (400, body("server_error", 0)),
            (400, body("invalid_request", 90_033)),
            (302, String::new()),
            (408, String::new()),
        ] {
            assert!(matches!(sort(status, &[], &body), SignInError::Transient { .. }), "{status} {body}");
        }
        for (status, body) in [
            (400, "not JSON".to_owned()),
            (400, body("invalid_grant", 0)),
            (401, body("invalid_client", 7_000_222)),
            (403, String::new()),
            (404, "<html>".to_owned()),
        ] {
            assert!(matches!(sort(status, &[], &body), SignInError::Refused(_)), "{status} {body}");
        }
        let paused = sort(503, &[("retry-after", "20")], "");
        assert!(
            matches!(paused, SignInError::Transient { cause } if cause.retry_after == Some(Duration::from_secs(20)))
        );
    }

    #[test]
    fn numbers_are_found_in_the_text_when_the_list_is_missing() {
        let body = br#"{"error":"x y","error_description":"AADSTS70002: a. AADSTS70008: b.\r\nTrace"}"#;
        let problem = Problem::read(body);
        assert_eq!((problem.codes, problem.error.as_str()), (vec![70_002, 70_008], "xy"));
    }

    proptest! {
        #[test]
        fn any_answer_is_sorted(status in 100_u16..700, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _token = granted(&body, NOW).is_ok();
            let _error = refused(status, &HeaderMap::new(), Problem::read(&body), NOW, &Settings::default());
        }
    }
}
