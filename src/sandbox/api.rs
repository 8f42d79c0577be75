//! The hardware API: which operation a path means, who may call it, and the refusals that come before any operation.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use super::errors::{Refusal, Reply, gateway};
use super::faults::{FaultKind, Hits};
use super::operation::{Call, Operation};
use super::state::State;
use super::token::{self, BadBearer, Claims};
use super::wire::Oddities;
use super::{Shared, products, submissions, wire};

/// One request to the hardware API, as its operation sees it.
pub(super) struct Api<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) state: &'a mut State,
    pub(super) call: &'a mut Call,
    pub(super) hits: &'a Hits,
    /// Scheme and host of every URL handed out.
    pub(super) base: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: &'a [u8],
}

impl Api<'_> {
    pub(super) fn tenant_id(&self) -> &str {
        self.call.tenant_id.as_deref().unwrap_or_default()
    }

    pub(super) fn seller_id(&self) -> u64 {
        self.state.apps.iter().find(|app| app.tenant_id == self.tenant_id()).map_or(0, |app| app.seller_id)
    }

    /// A link to a path of the API; `path` starts with a slash.
    pub(super) fn link(&self, rel: &str, method: &str, path: &str) -> Value {
        let href = if self.shared.options.wrong_link_host {
            format!("https://hardwareapi.microsoft.com/api/v2.0/hardware{path}")
        } else {
            format!("{}{}{path}", self.base, self.shared.options.prefix)
        };
        json!({ "href": href, "rel": rel, "method": method })
    }

    /// An answer with a body, with the oddities that options and faults ask for.
    pub(super) fn json(&self, status: StatusCode, mut body: Value) -> Reply {
        let oddities = Oddities {
            string_ids: self.shared.options.string_ids || self.hits.has(FaultKind::StringIds),
            pascal_case: self.hits.has(FaultKind::CaseFlip),
        };
        wire::shape(&mut body, oddities);
        Reply::json(status, &body)
    }
}

/// The operation that a request means, with the ids in its path. `path` is what follows the prefix.
pub(super) fn identify(method: &Method, path: &str, body: &[u8], call: &mut Call) {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let number = |text: &str| Some(text.parse::<u64>().unwrap_or_default());
    let is = |wanted: &Method| method == wanted;
    call.operation = match parts.as_slice() {
        ["products"] if is(&Method::GET) => Operation::ListProducts,
        ["products"] if is(&Method::POST) => Operation::CreateProduct,
        ["products", product] => {
            call.product_id = number(product);
            if is(&Method::GET) {
                Operation::GetProduct
            } else if is(&Method::PATCH) {
                Operation::UpdateProduct
            } else {
                Operation::Unknown
            }
        }
        ["products", product, "submissions"] => {
            call.product_id = number(product);
            if is(&Method::GET) {
                Operation::ListSubmissions
            } else if is(&Method::POST) {
                create_operation(body)
            } else {
                Operation::Unknown
            }
        }
        ["products", product, "submissions", submission, rest @ ..] => {
            (call.product_id, call.submission_id) = (number(product), number(submission));
            match rest {
                [] if is(&Method::GET) => Operation::GetSubmission,
                [] if is(&Method::PATCH) => Operation::UpdateSubmission,
                ["commit"] if is(&Method::POST) => Operation::CommitSubmission,
                ["createpublishermetadata"] if is(&Method::POST) => Operation::CreatePublisherMetadata,
                _ => Operation::Unknown,
            }
        }
        _ => Operation::Unknown,
    };
}

fn create_operation(body: &[u8]) -> Operation {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.eq_ignore_ascii_case("derived") {
        Operation::CreateDerivedSubmission
    } else {
        Operation::CreateInitialSubmission
    }
}

/// Fills in what the headers, the body and the memory say about the request.
pub(super) fn describe(state: &State, headers: &HeaderMap, body: &[u8], claims: Option<&Claims>, call: &mut Call) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    call.correlation_id = header("ms-correlationid");
    call.request_id = header("ms-requestid");
    if let Some(claims) = claims {
        call.tenant_id = Some(claims.tid.clone());
        call.client_id = Some(claims.appid.clone());
        call.token_serial = claims.uti;
    }
    call.product_name = if call.operation == Operation::CreateProduct {
        serde_json::from_slice::<Value>(body).ok().and_then(|body| body.get("productName")?.as_str().map(str::to_owned))
    } else {
        call.product_id.and_then(|id| state.products.get(&id)).map(|product| product.name.clone())
    };
}

/// Who is calling, or why that does not count.
pub(super) fn authenticate(
    shared: &Shared,
    state: &State,
    bearer: Result<Claims, BadBearer>,
    operation: Operation,
) -> Result<(), Reply> {
    let claims = bearer.map_err(|bad| match bad {
        BadBearer::Malformed if shared.options.bad_bearer_is_403 => Reply::empty(StatusCode::FORBIDDEN),
        BadBearer::Malformed | BadBearer::Invalid => Reply::empty(StatusCode::UNAUTHORIZED),
        BadBearer::Audience => gateway(401, "Unauthorized: Invalid Authorization header, incorrect audience"),
    })?;
    if state.tokens.is_refused(claims.uti) {
        return Err(Reply::empty(StatusCode::UNAUTHORIZED));
    }
    let app = state.app(&claims.tid, &claims.appid);
    let may_call =
        app.is_some_and(|app| app.has_role("Manager") && (!operation.is_write() || app.has_role("Driver Submitter")));
    if may_call { Ok(()) } else { Err(Reply::empty(StatusCode::FORBIDDEN)) }
}

/// Refusals for headers that a write must have.
pub(super) fn check_headers(shared: &Shared, call: &Call, headers: &HeaderMap) -> Option<Reply> {
    if ![Method::POST, Method::PATCH].contains(&call.method) {
        return None;
    }
    let is_commit = call.operation == Operation::CommitSubmission;
    let as_503 = is_commit && shared.options.commit_without_headers_503;
    let refuse =
        |status, message| Some(if as_503 { gateway(503, "Service Unavailable") } else { gateway(status, message) });
    if !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING) {
        return refuse(411, "Length Required");
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") { None } else { refuse(415, "Unsupported Media Type") }
}

/// Executes the operation.
pub(super) fn execute(api: &mut Api<'_>) -> Reply {
    let (product, submission) = (api.call.product_id.unwrap_or_default(), api.call.submission_id.unwrap_or_default());
    let result = match api.call.operation {
        Operation::ListProducts => products::list(api),
        Operation::GetProduct => products::get(api, product),
        Operation::CreateProduct => products::create(api),
        Operation::UpdateProduct => products::update(api, product),
        Operation::ListSubmissions => submissions::list(api, product),
        Operation::GetSubmission => submissions::get(api, product, submission),
        Operation::CreateInitialSubmission | Operation::CreateDerivedSubmission => submissions::create(api, product),
        Operation::UpdateSubmission => submissions::update(api, product, submission),
        Operation::CommitSubmission => submissions::commit(api, product, submission),
        Operation::CreatePublisherMetadata => submissions::create_metadata(api, product, submission),
        Operation::GetTokenV1
        | Operation::GetTokenV2
        | Operation::PutBlob
        | Operation::PutBlock
        | Operation::PutBlockList
        | Operation::GetBlockList
        | Operation::HeadBlob
        | Operation::DownloadBlob
        | Operation::DeleteBlob
        | Operation::DownloadCertificationReport
        | Operation::Unknown => Ok(gateway(404, "Resource not found")),
    };
    let reply = result.unwrap_or_else(|refusal: Refusal| refusal.reply(&api.shared.options));
    if api.hits.has(FaultKind::Commit502) && api.call.operation == Operation::CommitSubmission && reply.effect {
        return submissions::only_pending().under(502).reply(&api.shared.options).effective();
    }
    reply
}

/// The bearer token of a request.
pub(super) fn bearer(shared: &Shared, headers: &HeaderMap) -> Result<Claims, BadBearer> {
    token::bearer(shared, headers)
}
