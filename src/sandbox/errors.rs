//! Error answers, one function per shape of the contracts, and the answer type that the whole sandbox uses.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use super::options::Options;

/// An answer before it is sent: faults may still change it.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) payload: Payload,
    /// Whether something changed.
    pub(super) effect: bool,
}

/// The body of an answer.
pub(super) enum Payload {
    Bytes(Bytes),
    /// A stream and its length.
    Stream(Body, u64),
}

impl Reply {
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), payload: Payload::Bytes(Bytes::new()), effect: false }
    }

    pub(super) fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut reply = Self::empty(status);
        reply.payload = Payload::Bytes(body.into());
        reply.with(header::CONTENT_TYPE, content_type)
    }

    pub(super) fn json(status: StatusCode, body: &Value) -> Self {
        Self::text(status, "application/json; charset=utf-8", body.to_string())
    }

    /// The same answer with one more header; a value that is no header is left out.
    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// The same answer, of something that changed.
    pub(super) fn effective(mut self) -> Self {
        self.effect = true;
        self
    }

    pub(super) fn into_response(self) -> Response {
        let (body, length) = match self.payload {
            Payload::Bytes(bytes) => (Body::from(bytes), None),
            Payload::Stream(body, length) => (body, Some(length)),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        if let Some(length) = length {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// A refusal of the hardware API itself (shape E1).
pub(super) struct Refusal {
    code: &'static str,
    status: u16,
    message: String,
    targets: Vec<(String, String)>,
}

impl Refusal {
    pub(super) fn new(code: &'static str, status: u16, message: &str) -> Self {
        Self { code, status, message: message.to_owned(), targets: Vec::new() }
    }

    /// A failed validation, with what is wrong with each member.
    pub(super) fn invalid(targets: Vec<(String, String)>) -> Self {
        Self { code: "invalidInput", status: 422, message: "Validation Failed.".to_owned(), targets }
    }

    pub(super) fn broken_json() -> Self {
        Self::new("invalidInput", 400, "The request body is not valid JSON.")
    }

    pub(super) fn product_not_found() -> Self {
        Self::new("entityNotFound", 404, "Product not found")
    }

    pub(super) fn submission_not_found() -> Self {
        Self::new("entityNotFound", 404, "No submission found")
    }

    pub(super) fn state(message: &str) -> Self {
        Self::new("requestInvalidForCurrentState", 400, message)
    }

    pub(super) fn unauthorized_update(message: &str) -> Self {
        Self::new("updateUnauthorized", 403, message)
    }

    /// The same refusal under another status.
    pub(super) fn under(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(super) fn reply(self, options: &Options) -> Reply {
        let status = if self.status < 500 {
            options.statuses.get(self.code).copied().unwrap_or(self.status)
        } else {
            self.status
        };
        let mut error = json!({ "code": self.code, "message": self.message });
        if !self.targets.is_empty()
            && let Some(members) = error.as_object_mut()
        {
            let errors: Vec<Value> =
                self.targets.iter().map(|(target, message)| json!({ "target": target, "message": message })).collect();
            members.insert("validationErrors".to_owned(), Value::Array(errors));
        }
        Reply::json(status_code(status), &json!({ "error": error }))
    }
}

/// A failure in the gateway before the service (shape E2).
pub(super) fn gateway(status: u16, message: &str) -> Reply {
    let activity = crate::clock::uuid_v4();
    let body = json!({ "statusCode": status, "message": message, "activityId": activity.to_string() });
    Reply::json(status_code(status), &body)
}

/// A page of a proxy (shape E4).
pub(super) fn html(status: u16) -> Reply {
    let title = status_code(status).canonical_reason().unwrap_or("Error");
    let page = format!(
        "<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {title}</h1></center>\
         \r\nService is unavailable to process the request.\r\n</body>\r\n</html>\r\n"
    );
    Reply::text(status_code(status), "text/html", page)
}

/// A status from a number that may come from outside.
pub(super) fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An error of the blob service (shape E5). `details` are further elements of the body.
pub(super) fn storage(status: u16, code: &str, message: &str, details: &[(&str, &str)]) -> Reply {
    let id = crate::clock::uuid_v4().to_string();
    let now = crate::clock::now().strftime("%Y-%m-%dT%H:%M:%S%.7fZ").to_string();
    let mut xml = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{}</Code><Message>{}\nRequestId:{id}\nTime:{now}</Message>",
        escape(code),
        escape(message)
    );
    for (name, value) in details {
        xml.extend(["<", name, ">", &escape(value), "</", name, ">"]);
    }
    xml.push_str("</Error>");
    Reply::text(status_code(status), "application/xml", xml)
        .with(HeaderName::from_static("x-ms-error-code"), code)
        .with(HeaderName::from_static("x-ms-request-id"), &id)
}

fn escape(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}
