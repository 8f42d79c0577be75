//! The hardware dashboard API: one request in, one answer or one sorted failure out.
//!
//! Promises: every request goes to the configured host, carries the two ids for Microsoft support, is sent at most once
//! and ends within the response time-out; bodies are read up to 32 MiB. Quota, tokens, repeats and looks are the
//! engine's. Source of every fact: contract/hardware-api.md, sections 2, 3, 5, 6, 10 and 13.

mod paging;
mod wire;

use std::time::Duration;

use reqwest::{
    Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use url::Url;

use self::paging::Base;
use super::classify::{self, Call, Refusal};
use crate::{
    clock,
    domain::{
        failure::{Cause, Failure, Kind},
        ids::{CorrelationId, RequestId},
        service::{Answer, Request, Response},
    },
    http::{self, BodyError},
};

/// Reads these bytes as every answer and as a refusal: what a fuzzer holds the decoders to.
#[cfg(fuzzing)]
pub fn read_anything(body: &[u8]) {
    let base = Url::parse(BASE_URL).map(|url| Base::new(&url));
    let next = |links: &[wire::Link]| base.as_ref().ok().and_then(|base| base.next_page(links, &base.join("products")));
    drop((wire::product(body), wire::submission(body), wire::products(body, next), wire::submissions(body, next)));
    drop(super::error_body::Problem::read(body).sentence());
}

/// Microsoft's own service (section 2.1).
pub const BASE_URL: &str = "https://manage.devcenter.microsoft.com/v2.0/my/hardware";

/// The audience of its tokens (contract/identity.md, section 2).
pub const AUDIENCE: &str = "https://manage.devcenter.microsoft.com";

/// One per job: traces it in Microsoft's logs (section 3.1).
pub const MS_CORRELATION_ID: HeaderName = HeaderName::from_static("ms-correlationid");

/// Names one logical request in Microsoft's logs: the same value on every repeat of one try.
///
/// Not an idempotency key: nothing shows that the service uses it as one (section 3.1).
pub const MS_REQUEST_ID: HeaderName = HeaderName::from_static("ms-requestid");

/// Larger answers are refused unless told otherwise. The largest list page seen is far below one megabyte.
const BODY_CAP: usize = 16 * 1024 * 1024;

/// A client of one hardware API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    base: Base,
    http: reqwest::Client,
    response_timeout: Duration,
    largest: usize,
}

impl Client {
    /// A client of the API at `base_url`; the product's own is [`BASE_URL`].
    ///
    /// # Errors
    /// [`http::Error::Endpoint`] when the address is neither `https` nor plain `http` to a loopback address.
    pub fn new(base_url: &Url, http: reqwest::Client, response_timeout: Duration) -> Result<Self, http::Error> {
        http::check_endpoint(base_url)?;
        Ok(Self { base: Base::new(base_url), http, response_timeout, largest: BODY_CAP })
    }

    /// The same client, reading answers of at most so many bytes.
    #[must_use]
    pub const fn with_largest_answer(mut self, bytes: usize) -> Self {
        self.largest = bytes;
        self
    }

    /// Sends the request once and reads its answer.
    ///
    /// # Errors
    /// [`Failure`], sorted by what may be done next; see [`classify`].
    ///
    /// # Cancel safety
    /// Not cancel safe for writes: dropped after its first poll, the request may have taken effect.
    pub async fn call(
        &self,
        request: &Request,
        token: &SecretString,
        correlation: CorrelationId,
        request_id: RequestId,
    ) -> Result<Answer, Failure> {
        let call = Call { operation: request.operation(), class: request.retry_class() };
        let (method, url, body) = self.prepare(request);
        let mut builder = self
            .http
            .request(method, url.clone())
            .timeout(self.response_timeout)
            .header(AUTHORIZATION, bearer(call, token)?)
            .header(ACCEPT, "application/json")
            .header(MS_CORRELATION_ID, correlation.to_string())
            .header(MS_REQUEST_ID, request_id.to_string());
        if let Some(body) = body {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = builder.send().await.map_err(|error| classify::transport(call, &error))?;
        if response.status().is_success() {
            self.read(call, request, &url, response).await
        } else {
            Err(refused(call, response).await)
        }
    }

    /// Method, address and body of a request (sections 5.1 and 3.2).
    fn prepare(&self, request: &Request) -> (Method, Url, Option<String>) {
        let base = &self.base;
        match request {
            Request::CreateProduct(product) => {
                (Method::POST, base.join("/products"), Some(json!(product.members).to_string()))
            }
            Request::ListProducts { next: Some(link) } | Request::ListSubmissions { next: Some(link), .. } => {
                (Method::GET, base.page(link), None)
            }
            Request::ListProducts { next: None } => (Method::GET, base.join("/products"), None),
            Request::GetProduct(product) => (Method::GET, base.join(&format!("/products/{product}")), None),
            Request::CreateSubmission { product, name, kind } => {
                let body = json!({"name": name, "type": kind}).to_string();
                (Method::POST, base.join(&format!("/products/{product}/submissions")), Some(body))
            }
            Request::ListSubmissions { product, next: None } => {
                (Method::GET, base.join(&format!("/products/{product}/submissions")), None)
            }
            Request::GetSubmission { product, submission } => {
                (Method::GET, base.join(&format!("/products/{product}/submissions/{submission}")), None)
            }
            Request::Commit { product, submission } => {
                let path = format!("/products/{product}/submissions/{submission}/commit");
                // Documented without a body, but only content type and length together are safe: section 3.2.
                (Method::POST, base.join(&path), Some("{}".to_owned()))
            }
        }
    }

    async fn read(
        &self,
        call: Call,
        request: &Request,
        url: &Url,
        response: reqwest::Response,
    ) -> Result<Answer, Failure> {
        let http_status = response.status().as_u16();
        let date = http::date(response.headers());
        let answer = |response| Answer { response, http_status, date };
        if let Request::Commit { .. } = request {
            // Accepted with the status; a body, if one comes, is ignored (S3).
            return Ok(answer(Response::Accepted));
        }
        let body = http::read_capped(response, self.largest).await.map_err(|error| match error {
            BodyError::TooLarge(_) => classify::unreadable(call, http_status, &error.to_string()),
            BodyError::Transport(error) => {
                let kind = if error.is_timeout() { Kind::Timeout } else { Kind::Disconnected };
                classify::lost(call, kind, &http::describe(&error))
            }
        })?;
        let next = |links: &[_]| self.base.next_page(links, url);
        let read = match request {
            Request::CreateProduct(_) | Request::GetProduct(_) => wire::product(&body).map(Response::Product),
            Request::ListProducts { .. } => wire::products(&body, next).map(Response::Products),
            Request::CreateSubmission { .. } | Request::GetSubmission { .. } => {
                wire::submission(&body).map(|submission| Response::Submission(Box::new(submission)))
            }
            Request::ListSubmissions { .. } => wire::submissions(&body, next).map(Response::Submissions),
            Request::Commit { .. } => Ok(Response::Accepted),
        };
        read.map(answer).map_err(|problem| classify::unreadable(call, http_status, &problem))
    }
}

async fn refused(call: Call, response: reqwest::Response) -> Failure {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let body = http::read_start(response, classify::ERROR_BODY_CAP).await;
    classify::refusal(call, &Refusal { status, headers: &headers, body: &body, now: clock::now() })
}

fn bearer(call: Call, token: &SecretString) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|_| {
        let message = format!("{} was not sent: the token cannot stand in a header", call.operation);
        Failure::Unauthorized(Cause::new(Kind::Unauthorized, message))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
