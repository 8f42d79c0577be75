//! What a bad answer of blob storage asks us to do.
//!
//! The table is that of contract/blob-upload.md, section 10; a test holds the two together.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;

use super::Settings;
use crate::domain::failure::{Cause, Failure, Kind};

/// What to do about a bad answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The same request after a backoff.
    Retry,
    /// The same request once more.
    RetryOnce,
    /// The same request with a new signed URL.
    NewSas,
    /// Read the block list and plan again.
    Resync,
    /// Smaller blocks.
    Shrink,
    /// Look whether the blob is already what it should be.
    Verify,
    /// Repeating cannot help.
    Permanent,
}

use Action::{NewSas, Permanent, Resync, Retry, RetryOnce, Shrink, Verify};

/// Status, code, action; an empty code stands for every answer of this status.
pub const TABLE: &[(u16, &str, Action)] = &[
    (400, "InvalidBlobOrBlock", Resync),
    (400, "InvalidBlockId", Permanent),
    (400, "InvalidBlockList", Resync),
    (400, "BlockListTooLong", Permanent),
    (400, "Md5Mismatch", RetryOnce),
    (400, "Crc64Mismatch", RetryOnce),
    (400, "InvalidMd5", Permanent),
    (400, "BothCrc64AndMd5HeaderPresent", Permanent),
    (400, "InvalidHeaderValue", Permanent),
    (400, "InvalidQueryParameterValue", Permanent),
    (400, "OutOfRangeInput", Permanent),
    (400, "OutOfRangeQueryParameterValue", Permanent),
    (400, "InvalidXmlDocument", Permanent),
    (400, "InvalidInput", Permanent),
    (400, "InvalidUri", Permanent),
    (400, "InvalidOperation", RetryOnce),
    (400, "MissingRequiredHeader", Permanent),
    (400, "MissingRequiredQueryParameter", Permanent),
    (400, "UnsupportedHeader", Permanent),
    (400, "UnsupportedQueryParameter", Permanent),
    (400, "RequestUrlFailedToParse", Permanent),
    (400, "MultipleConditionHeadersNotSupported", Permanent),
    (401, "NoAuthenticationInformation", NewSas),
    (401, "InvalidAuthenticationInfo", NewSas),
    (403, "AuthenticationFailed", NewSas),
    (403, "AuthorizationFailure", NewSas),
    (403, "AuthorizationPermissionMismatch", Permanent),
    (403, "AuthorizationProtocolMismatch", Permanent),
    (403, "AuthorizationSourceIPMismatch", Permanent),
    (403, "AuthorizationServiceMismatch", Permanent),
    (403, "AuthorizationResourceTypeMismatch", Permanent),
    (403, "UnauthorizedBlobOverwrite", Verify),
    (403, "InsufficientAccountPermissions", Permanent),
    (403, "AccountIsDisabled", Permanent),
    (404, "BlobNotFound", Resync),
    (404, "ContainerNotFound", NewSas),
    (404, "ResourceNotFound", NewSas),
    (405, "UnsupportedHttpVerb", Permanent),
    (409, "BlobAlreadyExists", Verify),
    (409, "BlockCountExceedsLimit", Resync),
    (409, "InvalidBlobType", Permanent),
    (409, "BlobImmutableDueToPolicy", Verify),
    (409, "BlobArchived", Permanent),
    (409, "SnapshotsPresent", Permanent),
    (409, "ContainerBeingDeleted", NewSas),
    (409, "ContainerDisabled", Permanent),
    (409, "MemoryExtentStoreAtSizeLimit", Permanent),
    (411, "MissingContentLengthHeader", Permanent),
    (412, "ConditionNotMet", Verify),
    (412, "LeaseIdMissing", NewSas),
    (412, "LeaseLost", Permanent),
    (413, "RequestBodyTooLarge", Shrink),
    (429, "", Retry),
    (500, "InternalError", Retry),
    (500, "OperationTimedOut", Retry),
    (500, "FeatureNotSupported", Permanent),
    (501, "NotImplemented", Permanent),
    (503, "ServerBusy", Retry),
];

/// What an answer with this status and code asks for: by the code, else by the status.
#[must_use]
pub fn action(status: u16, code: &str) -> Action {
    if let Some((_, _, action)) = TABLE.iter().find(|(_, known, _)| !known.is_empty() && *known == code) {
        return *action;
    }
    match status {
        401 | 403 | 404 => NewSas,
        413 => Shrink,
        409 | 412 => Verify,
        408 | 429 | 500 | 502 | 503 | 504 => Retry,
        _ => Permanent,
    }
}

/// A request to blob storage that did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What to do about it.
    pub action: Action,
    /// One sentence without secrets.
    pub message: String,
    /// The kind, should it end the transfer.
    pub kind: Kind,
    /// The status, when there was an answer.
    pub status: Option<u16>,
    /// The service's code, when it gave one.
    pub code: String,
    /// How long the service asks us to wait.
    pub wait: Option<Duration>,
    /// The service's clock.
    pub date: Option<Timestamp>,
    /// The service's request id.
    pub request_id: Option<String>,
}

impl Trouble {
    /// A request that got no answer: worth a repeat.
    #[must_use]
    pub fn unanswered(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            action: Retry,
            message: message.into(),
            kind,
            status: None,
            code: String::new(),
            wait: None,
            date: None,
            request_id: None,
        }
    }

    /// Reads a bad answer; `body` may be cut and may be anything.
    #[must_use]
    pub fn read(what: &str, status: u16, headers: &HeaderMap, body: &str) -> Self {
        let code = text(headers, "x-ms-error-code")
            .filter(|code| is_code(code))
            .or_else(|| super::block_list::error_code(body).filter(|code| is_code(code)))
            .unwrap_or_default();
        let action = action(status, &code);
        let kind = match action {
            NewSas => Kind::SasExpired,
            Retry | RetryOnce if status == 429 || status == 503 => Kind::Throttled,
            Retry if status >= 500 => Kind::ServerError,
            Retry | RetryOnce | Resync | Shrink | Verify | Permanent => Kind::Transfer,
        };
        let shown = if code.is_empty() { String::new() } else { format!(" {code}") };
        Self {
            action,
            message: format!("blob storage answered {status}{shown} to {what}"),
            kind,
            status: Some(status),
            code,
            wait: wait(headers),
            date: date(headers),
            request_id: text(headers, "x-ms-request-id").filter(|id| id.len() <= 128),
        }
    }

    /// Does the service ask for less at a time?
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.status == Some(503) || self.code == "OperationTimedOut"
    }

    /// The evidence.
    #[must_use]
    pub fn cause(&self) -> Cause {
        Cause {
            http_status: self.status,
            api_code: (!self.code.is_empty()).then(|| self.code.clone()),
            retry_after: self.wait,
            service_request_id: self.request_id.clone(),
            ..Cause::new(self.kind, self.message.clone())
        }
    }

    /// The end of the transfer, for good.
    #[must_use]
    pub fn permanent(&self) -> Failure {
        let kind = if self.kind == Kind::SasExpired { Kind::SasExpired } else { Kind::Transfer };
        Failure::Permanent(Cause { kind, ..self.cause() })
    }

    /// The end of the transfer for now.
    #[must_use]
    pub fn transient(&self) -> Failure {
        Failure::Transient(self.cause())
    }

    /// The wait before the next try, or the end when the tries are spent or the service asks for a long pause.
    ///
    /// # Errors
    /// Transient, for the engine to park.
    pub fn backoff(&self, settings: &Settings, spent: u32, chance: f64) -> Result<Duration, Failure> {
        let wanted = self.wait.unwrap_or_default();
        if spent >= settings.attempts || wanted > settings.backoff_cap {
            return Err(self.transient());
        }
        Ok(settings.backoff(spent, chance).max(wanted))
    }
}

/// The service's clock in an answer.
#[must_use]
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = text(headers, "date")?;
    jiff::fmt::rfc2822::parse(&text).ok().map(|zoned| zoned.timestamp())
}

/// `x-ms-retry-after-ms`, `retry-after-ms`, then `Retry-After` in seconds or as a date beside the answer's own.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let number = |name| text(headers, name).and_then(|value| value.trim().parse().ok());
    number("x-ms-retry-after-ms")
        .or_else(|| number("retry-after-ms"))
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
        .or_else(|| {
            let until = jiff::fmt::rfc2822::parse(&text(headers, "retry-after")?).ok()?.timestamp();
            Duration::try_from(until.duration_since(date(headers)?)).ok()
        })
}

/// A header as text.
#[must_use]
pub fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Codes are words; anything else in their place is not repeated in our messages.
fn is_code(code: &str) -> bool {
    !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(action: Action) -> &'static str {
        match action {
            Retry => "retry",
            RetryOnce => "retry_once",
            NewSas => "new_sas",
            Resync => "resync",
            Shrink => "shrink",
            Verify => "verify",
            Permanent => "permanent",
        }
    }

    #[test]
    fn the_table_is_that_of_the_contract() {
        let contract = include_str!("../../tests/contract/blob-upload.md");
        let fence = contract.split("```json example=ErrorTable\n").nth(1).unwrap().split("```").next().unwrap();
        let theirs: Vec<(u64, String, String)> = serde_json::from_str::<Vec<serde_json::Value>>(fence)
            .unwrap()
            .into_iter()
            .map(|row| {
                let word = |member: &str| row[member].as_str().unwrap().to_owned();
                (row["status"].as_u64().unwrap(), word("code"), word("action"))
            })
            .collect();
        let ours: Vec<(u64, String, String)> = TABLE
            .iter()
            .map(|(status, code, action)| (u64::from(*status), (*code).to_owned(), named(*action).to_owned()))
            .collect();
        assert_eq!(ours, theirs);
        for (status, code, wanted) in TABLE {
            assert_eq!(action(*status, code), *wanted, "{status} {code}");
        }
    }

    #[test]
    fn an_answer_without_a_known_code_goes_by_its_status() {
        for (status, wanted) in
            [(400, Permanent), (403, NewSas), (408, Retry), (413, Shrink), (502, Retry), (503, Retry), (507, Permanent)]
        {
            assert_eq!(action(status, "SomethingNew"), wanted, "{status}");
            assert_eq!(action(status, ""), wanted, "{status}");
        }
        // The limit of 100,000 blocks comes as 409 or 413: resync on both.
        assert_eq!(action(413, "BlockCountExceedsLimit"), Resync);
    }

    #[test]
    fn the_code_is_read_from_the_header_else_from_the_body() {
        let body = "<?xml version=\"1.0\"?><Error><Code>ServerBusy</Code><Message>x</Message></Error>";
        let mut headers = HeaderMap::new();
        let trouble = Trouble::read("Put Block", 503, &headers, body);
        assert_eq!((trouble.code.as_str(), trouble.action, trouble.is_busy()), ("ServerBusy", Retry, true));
        headers.insert("x-ms-error-code", "Md5Mismatch".parse().unwrap());
        assert_eq!(Trouble::read("Put Block", 400, &headers, body).action, RetryOnce);
        let html = Trouble::read("Put Block", 502, &HeaderMap::new(), "<html><body>Bad gateway & sig=x</body>");
        assert_eq!((html.action, html.code.as_str()), (Retry, ""));
    }

    #[test]
    fn the_wait_that_a_service_asks_for_is_read_in_the_contracts_order() {
        let mut headers = HeaderMap::new();
        headers.insert("date", "Wed, 01 Apr 2026 12:00:00 GMT".parse().unwrap());
        headers.insert("retry-after", "Wed, 01 Apr 2026 12:00:07 GMT".parse().unwrap());
        assert_eq!(wait(&headers), Some(Duration::from_secs(7)));
        headers.insert("retry-after", "5".parse().unwrap());
        assert_eq!(wait(&headers), Some(Duration::from_secs(5)));
        headers.insert("retry-after-ms", "30".parse().unwrap());
        assert_eq!(wait(&headers), Some(Duration::from_millis(30)));
        headers.insert("x-ms-retry-after-ms", "20".parse().unwrap());
        assert_eq!(wait(&headers), Some(Duration::from_millis(20)));
        assert_eq!(date(&headers).unwrap().to_string(), "2026-04-01T12:00:00Z");
    }

    #[test]
    fn a_long_pause_and_spent_tries_are_parked() {
        let settings = Settings::default();
        let mut trouble = Trouble::unanswered(Kind::Disconnected, "x");
        assert!(trouble.backoff(&settings, 7, 0.5).is_ok());
        assert!(trouble.backoff(&settings, 8, 0.5).is_err());
        trouble.wait = Some(Duration::from_secs(3));
        assert_eq!(trouble.backoff(&settings, 1, 0.0), Ok(Duration::from_secs(3)));
        trouble.wait = Some(Duration::from_secs(31));
        assert!(
            matches!(trouble.backoff(&settings, 1, 0.0), Err(Failure::Transient(cause)) if cause.retry_after.is_some())
        );
    }
}
