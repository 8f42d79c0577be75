//! The way of every request: identify it, draw its faults, execute it, write the journal, answer, or not answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::api::{self, Api};
use super::connection::Line;
use super::errors::{self, Payload, Reply};
use super::faults::{FaultKind, Hits, Params, ThrottleStyle};
use super::journal::Outcome;
use super::operation::{Call, Operation, Service};
use super::{Shared, blob, control, seconds, token};

/// No request of the API or the token endpoint is larger.
const MOST_BODY: usize = 1 << 20;

/// Serves one request.
pub(super) async fn serve(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if path == "/_sim" || path.starts_with("/_sim/") {
        return control::serve(&shared, parts, body).await;
    }
    if let Some((tenant, version)) = token::route(&path) {
        return serve_token(&shared, &line, &parts, body, (tenant, version)).await;
    }
    let prefix = shared.options.prefix.as_str();
    if let Some(rest) = path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        return serve_api(&shared, &line, &parts, body, rest).await;
    }
    if let Some(target) = blob::identify(&path) {
        return blob::serve(&shared, &line, &parts, body, target).await;
    }
    let call = Call::new(Operation::Unknown, &parts.method, &path);
    let recorder = Recorder::new(&shared, call, None);
    recorder.answer(&line, &Hits::default(), errors::gateway(404, "Resource not found")).await
}

async fn serve_token(
    shared: &Arc<Shared>,
    line: &Line,
    parts: &Parts,
    body: Body,
    (tenant, version): (&str, u8),
) -> Response {
    let mut recorder =
        Recorder::new(shared, Call::new(token::operation(version), &parts.method, parts.uri.path()), None);
    let Some(body) = read(body).await else { return recorder.give_up() };
    token::describe(&mut recorder.call, tenant, &body);
    let hits = recorder.draw();
    if let Some(instead) = before(shared, &recorder.call, &hits) {
        {
            let mut state = shared.lock();
            let form = |name: &str| {
                url::form_urlencoded::parse(&body).find(|(own, _)| own == name).map(|(_, v)| v.into_owned())
            };
            let audience = form("resource").or_else(|| form("scope")).unwrap_or_default();
            let audience = audience.strip_suffix("/.default").unwrap_or(&audience);
            let client_id = recorder.call.client_id.clone().unwrap_or_default();
            state.tally.token(&tenant.to_lowercase(), &client_id, audience, false);
        }
        return recorder.instead(line, &hits, instead).await;
    }
    let reply = token::answer(shared, &mut shared.lock(), &parts.method, &parts.headers, (tenant, version), &body);
    recorder.answer(line, &hits, reply).await
}

async fn serve_api(shared: &Arc<Shared>, line: &Line, parts: &Parts, body: Body, path: &str) -> Response {
    let mut recorder = Recorder::new(shared, Call::new(Operation::Unknown, &parts.method, parts.uri.path()), None);
    let Some(body) = read(body).await else { return recorder.give_up() };
    let bearer = api::bearer(shared, &parts.headers);
    let hits = {
        let mut state = shared.lock();
        api::identify(&parts.method, path, &body, &mut recorder.call);
        api::describe(&state, &parts.headers, &body, bearer.as_ref().ok(), &mut recorder.call);
        state.tally.call(recorder.call.client_id.as_deref(), recorder.call.operation);
        state.faults.draw(&recorder.call)
    };
    recorder.fault = hits.names();
    if let Some(instead) = before(shared, &recorder.call, &hits) {
        return recorder.instead(line, &hits, instead).await;
    }
    let reply = {
        let mut state = shared.lock();
        let refused = api::authenticate(shared, &state, bearer, recorder.call.operation)
            .err()
            .or_else(|| limit(shared, &mut state, &recorder.call))
            .or_else(|| refuse_method(&recorder.call))
            .or_else(|| api::check_headers(shared, &recorder.call, &parts.headers));
        match refused {
            Some(reply) => reply,
            None => api::execute(&mut Api {
                shared,
                state: &mut state,
                call: &mut recorder.call,
                hits: &hits,
                base: shared.base(&parts.headers),
                query: pairs(parts.uri.query().unwrap_or_default()),
                body: &body,
            }),
        }
    };
    recorder.answer(line, &hits, reply).await
}

fn pairs(query: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(query.as_bytes()).map(|(n, v)| (n.into_owned(), v.into_owned())).collect()
}

/// The real limiter, when there is one.
fn limit(shared: &Shared, state: &mut super::state::State, call: &Call) -> Option<Reply> {
    let wait = state.tally.admit(call.client_id.as_deref(), shared.options.calls_per_minute?)?;
    state.tally.throttled(call.client_id.as_deref());
    let params = Params { seconds: Some(wait.as_secs_f64()), ..Params::default() };
    Some(throttled(Service::Api, &params))
}

fn refuse_method(call: &Call) -> Option<Reply> {
    if call.operation != Operation::Unknown {
        return None;
    }
    let is_known = [Method::GET, Method::POST, Method::PATCH, Method::PUT].contains(&call.method);
    let has_resource = call.product_id.is_some() || call.path.trim_end_matches('/').ends_with("/products");
    if has_resource && is_known { Some(errors::gateway(405, "Method Not Allowed")) } else { None }
}

/// The whole body, or none when the caller went away or sent too much.
async fn read(body: Body) -> Option<Bytes> {
    axum::body::to_bytes(body, MOST_BODY).await.ok()
}

/// What happens instead of the operation.
pub(super) enum Instead {
    Cut,
    Hole,
    Reply(Reply),
}

/// The common faults that keep a request from being executed.
pub(super) fn before(shared: &Shared, call: &Call, hits: &Hits) -> Option<Instead> {
    let service = call.operation.service();
    if hits.has(FaultKind::BlackHole) {
        return Some(Instead::Hole);
    }
    if let Some(params) = hits.get(FaultKind::DroppedRequest) {
        return Some(params.status.map_or(Instead::Cut, |status| Instead::Reply(failed(service, status, params))));
    }
    if let Some(params) = hits.get(FaultKind::Throttle) {
        if service == Service::Api {
            shared.lock().tally.throttled(call.client_id.as_deref());
        }
        return Some(Instead::Reply(throttled(service, params)));
    }
    if let Some(params) = hits.get(FaultKind::TokenExpiry).filter(|_| service == Service::Api) {
        if params.executed != Some(false) {
            shared.lock().tokens.expire(call.token_serial);
        }
        return Some(Instead::Reply(Reply::empty(axum::http::StatusCode::UNAUTHORIZED)));
    }
    if hits.has(FaultKind::RoleMissing) && service == Service::Api {
        return Some(Instead::Reply(Reply::empty(axum::http::StatusCode::FORBIDDEN)));
    }
    replacement(service, hits, false).map(Instead::Reply)
}

/// The answer of a fault that stands in for the real one, `executed` or not.
fn replacement(service: Service, hits: &Hits, executed: bool) -> Option<Reply> {
    let of = |kind| hits.get(kind).filter(|params| params.executed.unwrap_or(false) == executed);
    if let Some(params) = of(FaultKind::Gateway500) {
        return Some(failed(service, params.status.unwrap_or(500), params));
    }
    if let Some(params) = of(FaultKind::Html502) {
        return Some(errors::html(params.status.unwrap_or(502)));
    }
    let params = of(FaultKind::Status)?;
    let status = params.status.unwrap_or(500);
    let reply = match &params.body {
        Some(body) => Reply::text(errors::status_code(status), "application/json; charset=utf-8", body.clone()),
        None => failed(service, status, params),
    };
    Some(if params.seconds.is_some() { with_wait(reply, params) } else { reply })
}

/// A failure in the words of the service.
fn failed(service: Service, status: u16, params: &Params) -> Reply {
    let message = params.message.as_deref();
    match service {
        Service::Api => errors::gateway(status, message.unwrap_or("Internal server error")),
        Service::Token if status >= 500 => errors::html(status),
        Service::Token => {
            let error = params.code.as_deref().unwrap_or("temporarily_unavailable");
            let body = serde_json::json!({
                "error": error,
                "error_description": message.unwrap_or("AADSTS90033: A transient error has occurred. Please try again."),
                "error_codes": [90033],
            });
            Reply::json(errors::status_code(status), &body)
        }
        Service::Blob => {
            let code = params.code.as_deref().unwrap_or(match status {
                503 => "ServerBusy",
                _ => "InternalError",
            });
            errors::storage(
                status,
                code,
                message.unwrap_or("(simulated) the server cannot serve this request now"),
                &[],
            )
        }
    }
}

/// A 429 in the words of the service.
fn throttled(service: Service, params: &Params) -> Reply {
    let wait = whole_seconds(params);
    let reply = match service {
        Service::Token => Reply::text(errors::status_code(429), "text/plain", "Too Many Requests"),
        Service::Blob => Reply::empty(errors::status_code(429)),
        Service::Api if params.style == ThrottleStyle::Message => {
            errors::gateway(429, &format!("Rate limit is exceeded. Try again in {wait} seconds."))
        }
        Service::Api => errors::gateway(429, "Rate limit is exceeded."),
    };
    with_wait(reply, params)
}

fn whole_seconds(params: &Params) -> u64 {
    let wait = seconds(params.seconds.unwrap_or(1.0));
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn with_wait(reply: Reply, params: &Params) -> Reply {
    let wait = seconds(params.seconds.unwrap_or(1.0));
    match params.style {
        ThrottleStyle::Header => reply.with(header::RETRY_AFTER, &whole_seconds(params).to_string()),
        ThrottleStyle::Date => {
            let whole = i64::try_from(whole_seconds(params)).unwrap_or_default();
            let at = crate::clock::now().saturating_add(jiff::SignedDuration::from_secs(whole));
            reply.with(header::RETRY_AFTER, &at.map(http_date).unwrap_or_default())
        }
        ThrottleStyle::Milliseconds => {
            reply.with(HeaderName::from_static("retry-after-ms"), &wait.as_millis().to_string())
        }
        ThrottleStyle::MsMilliseconds => {
            reply.with(HeaderName::from_static("x-ms-retry-after-ms"), &wait.as_millis().to_string())
        }
        ThrottleStyle::Message | ThrottleStyle::Bare => reply,
    }
}

/// An instant as HTTP headers say it.
pub(super) fn http_date(at: jiff::Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Sees to it that every request has its entry in the journal, also one whose caller went away.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    pub(super) call: Call,
    pub(super) fault: Option<String>,
    violation: Option<&'static str>,
    is_written: bool,
}

impl Recorder {
    pub(super) fn new(shared: &Arc<Shared>, call: Call, violation: Option<&'static str>) -> Self {
        Self { shared: Arc::clone(shared), call, fault: None, violation, is_written: false }
    }

    /// Draws the faults of this request.
    pub(super) fn draw(&mut self) -> Hits {
        let hits = self.shared.lock().faults.draw(&self.call);
        self.fault = hits.names();
        hits
    }

    fn write(&mut self, status: u16, effect: bool, aborted: bool) {
        self.is_written = true;
        let outcome = Outcome { status, effect, fault: self.fault.take(), aborted, violation: self.violation };
        self.shared.lock().journal.add(crate::clock::now(), &self.call, outcome);
    }

    /// The caller went away, or the body cannot be read: the entry says so, and what is answered hardly matters.
    pub(super) fn give_up(mut self) -> Response {
        self.write(400, false, true);
        errors::gateway(400, "Bad Request").into_response()
    }

    /// Does what a fault does instead of the operation.
    pub(super) async fn instead(mut self, line: &Line, hits: &Hits, instead: Instead) -> Response {
        match instead {
            Instead::Reply(reply) => self.send(hits, reply).await,
            Instead::Cut => {
                self.write(0, false, false);
                line.cut();
                Response::new(Body::empty())
            }
            Instead::Hole => {
                self.write(0, false, false);
                self.shared.stop.cancelled().await;
                line.cut();
                Response::new(Body::empty())
            }
        }
    }

    /// Answers an executed request, or loses the answer.
    pub(super) async fn answer(mut self, line: &Line, hits: &Hits, reply: Reply) -> Response {
        let service = self.call.operation.service();
        if let Some(params) = hits.get(FaultKind::LostAnswer) {
            let Some(status) = params.status else {
                self.write(0, reply.effect, false);
                line.cut();
                return Response::new(Body::empty());
            };
            let effect = reply.effect;
            return self.send(hits, Reply { effect, ..failed(service, status, params) }).await;
        }
        let effect = reply.effect;
        match replacement(service, hits, true) {
            Some(other) => self.send(hits, Reply { effect, ..other }).await,
            None => self.send(hits, damaged(hits, reply)).await,
        }
    }

    async fn send(&mut self, hits: &Hits, reply: Reply) -> Response {
        self.write(reply.status.as_u16(), reply.effect, false);
        if let Some(params) = hits.get(FaultKind::Slow) {
            self.shared.pause(seconds(params.seconds.unwrap_or(10.0))).await;
        }
        let mut response = reply.into_response();
        let offset = hits.get(FaultKind::DateOffset).and_then(|params| params.seconds);
        date(&self.shared, offset, response.headers_mut());
        response
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.is_written {
            self.write(0, false, true);
        }
    }
}

/// Sets the date when the service's clock is not ours.
fn date(shared: &Shared, offset: Option<f64>, headers: &mut HeaderMap) {
    let mut now = shared.now();
    let is_off = offset.is_some() || shared.is_clock_off();
    if let Some(offset) = offset {
        let by = jiff::SignedDuration::try_from_secs_f64(offset).unwrap_or_default();
        now = now.saturating_add(by).unwrap_or(now);
    }
    if is_off && let Ok(value) = HeaderValue::from_str(&http_date(now)) {
        headers.insert(header::DATE, value);
    }
}

/// The faults that spoil the body of a good answer.
fn damaged(hits: &Hits, mut reply: Reply) -> Reply {
    if hits.has(FaultKind::LargeBody) {
        reply.payload = Payload::Bytes(Bytes::from(vec![b'x'; 96 * 1024]));
    }
    if hits.has(FaultKind::FlippedBit) && reply.status.is_success() {
        reply.payload = match reply.payload {
            Payload::Bytes(bytes) => Payload::Bytes(super::store::flipped(&bytes)),
            Payload::Stream(body, length) => Payload::Stream(flip_first(body), length),
        };
    }
    if let Some(params) = hits.get(FaultKind::TruncatedBody) {
        let (body, length) = streamed(reply.payload);
        let keep = params.bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(length / 2);
        reply.payload = Payload::Stream(truncated(body, keep), length);
    }
    if let Some(params) = hits.get(FaultKind::SlowBody) {
        let (body, length) = streamed(reply.payload);
        let piece = params.bytes.unwrap_or(1024).max(1);
        reply.payload = Payload::Stream(trickling(body, piece, seconds(params.seconds.unwrap_or(0.1))), length);
    }
    reply
}

fn streamed(payload: Payload) -> (Body, u64) {
    match payload {
        Payload::Stream(body, length) => (body, length),
        Payload::Bytes(bytes) => {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            (Body::from_stream(futures_util::stream::iter([Ok::<_, Infallible>(bytes)])), length)
        }
    }
}

fn flip_first(body: Body) -> Body {
    let mut is_first = true;
    Body::from_stream(body.into_data_stream().map(move |piece| {
        let flip = std::mem::replace(&mut is_first, false);
        piece.map(|piece| if flip { super::store::flipped(&piece) } else { piece })
    }))
}

/// Ends with an error after `keep` bytes, so the connection breaks.
fn truncated(body: Body, keep: u64) -> Body {
    let stream = futures_util::stream::unfold((body.into_data_stream(), keep), |(mut stream, left)| async move {
        if left == 0 {
            // What was written before must leave the buffers, or the caller would not even see the head of the answer.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            let end = Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
            return Some((end, (stream, 0)));
        }
        let piece = stream.next().await?.map_err(std::io::Error::other);
        let piece = piece.map(|piece| piece.slice(..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))));
        let size = piece.as_ref().map_or(0, |piece| u64::try_from(piece.len()).unwrap_or(u64::MAX));
        Some((piece, (stream, left.saturating_sub(size))))
    });
    Body::from_stream(stream)
}

fn trickling(body: Body, size: usize, pause: Duration) -> Body {
    let start = (body.into_data_stream(), Bytes::new());
    let stream = futures_util::stream::unfold(start, move |(mut stream, mut rest)| async move {
        while rest.is_empty() {
            match stream.next().await? {
                Ok(piece) => rest = piece,
                Err(error) => return Some((Err(error), (stream, rest))),
            }
        }
        tokio::time::sleep(pause).await;
        let piece = rest.split_to(rest.len().min(size));
        Some((Ok(piece), (stream, rest)))
    });
    Body::from_stream(stream)
}
