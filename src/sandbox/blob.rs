//! The blob service: who may do what with a SAS URL, and the way of each request (blob-upload.md). What the operations
//! do to a blob is in `blob_ops.rs`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use uuid::Uuid;

use super::blob_ops::{self, Upload};
use super::connection::Line;
use super::errors::{Reply, storage};
use super::faults::{FaultKind, Hits};
use super::operation::{Call, Operation};
use super::route::{Recorder, before, http_date};
use super::sas::{Sas, Unreadable};
use super::state::State;
use super::store::{self, Block, Content, Receive, Segment, Unreceived};
use super::{Shared, errors};

/// The newest version of the service that the sandbox knows.
const NEWEST_VERSION: &str = "2026-06-06";

/// What a path outside the API means.
pub(super) enum Target {
    Blob(&'static str, Uuid),
    /// The report of a submission, which anybody may read.
    Report(u64),
}

/// Which blob or report a path names.
pub(super) fn identify(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["ingestion", id] => Some(Target::Blob("ingestion", Uuid::parse_str(id).ok()?)),
        ["reports", id] => Some(Target::Blob("reports", Uuid::parse_str(id).ok()?)),
        ["dashboard", "hardware", "Driver", "DownloadCertificationReport", _, _, submission] => {
            Some(Target::Report(submission.parse().ok()?))
        }
        _ => None,
    }
}

/// What a request to a blob wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Write(Write),
    BlockList,
    Head,
    Download,
    Delete,
    Unknown,
}

/// The three ways to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Blob,
    Block,
    List,
}

impl Action {
    fn of(method: &Method, comp: Option<&str>) -> Self {
        match (method.as_str(), comp) {
            ("PUT", None) => Self::Write(Write::Blob),
            ("PUT", Some("block")) => Self::Write(Write::Block),
            ("PUT", Some("blocklist")) => Self::Write(Write::List),
            ("GET", Some("blocklist")) => Self::BlockList,
            ("GET", None) => Self::Download,
            ("HEAD", None) => Self::Head,
            ("DELETE", None) => Self::Delete,
            _ => Self::Unknown,
        }
    }

    fn operation(self) -> Operation {
        match self {
            Self::Write(Write::Blob) => Operation::PutBlob,
            Self::Write(Write::Block) => Operation::PutBlock,
            Self::Write(Write::List) => Operation::PutBlockList,
            Self::BlockList => Operation::GetBlockList,
            Self::Head => Operation::HeadBlob,
            Self::Download => Operation::DownloadBlob,
            Self::Delete => Operation::DeleteBlob,
            Self::Unknown => Operation::Unknown,
        }
    }
}

/// Serves one request to the blob host or for a report.
pub(super) async fn serve(shared: &Arc<Shared>, line: &Line, parts: &Parts, body: Body, target: Target) -> Response {
    let path = parts.uri.path();
    let (container, id) = match target {
        Target::Blob(container, id) => (container, id),
        Target::Report(submission) => {
            let mut call = Call::new(Operation::DownloadCertificationReport, &parts.method, path);
            call.submission_id = Some(submission);
            let mut recorder = Recorder::new(shared, call, None);
            let hits = recorder.draw();
            if let Some(instead) = before(shared, &recorder.call, &hits) {
                return recorder.instead(line, &hits, instead).await;
            }
            return recorder.answer(line, &hits, report(shared, submission)).await;
        }
    };
    let query = parts.uri.query().unwrap_or_default();
    let own = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes()).find(|(own, _)| own == name).map(|(_, value)| value.into_owned())
    };
    let action = Action::of(&parts.method, own("comp").as_deref());
    let is_bearer = parts.headers.contains_key(header::AUTHORIZATION);
    let mut call = Call::new(action.operation(), &parts.method, path);
    call.block_id = own("blockid");
    call.size = length(&parts.headers);
    let mut recorder = Recorder::new(shared, call, is_bearer.then_some("bearer-to-blob"));
    describe(&mut shared.lock(), id, is_bearer, &mut recorder.call);
    let hits = recorder.draw();
    if let Some(instead) = before(shared, &recorder.call, &hits) {
        return recorder.instead(line, &hits, instead).await;
    }
    meddle(shared, id, &hits);
    let request = Request { shared, parts, container, id, action, query };
    let mut reply = match request.check(is_bearer) {
        Err(refusal) => {
            // An answer while the caller is still sending would reach it as a broken connection.
            drain(body).await;
            refusal
        }
        Ok(sas) => request.execute(&sas, body, &hits, &mut recorder).await,
    };
    if action == Action::Head && !reply.status.is_success() {
        reply.payload = errors::Payload::Bytes(bytes::Bytes::new());
    }
    let is_told = !hits.has(FaultKind::LostAnswer);
    if is_told && reply.status == StatusCode::CREATED && action == Action::Write(Write::Block) {
        acknowledge(&mut shared.lock(), id, recorder.call.block_id.as_deref().unwrap_or_default());
    }
    let reply = with_common_headers(reply, &parts.headers, &request.version(None));
    recorder.answer(line, &hits, reply).await
}

/// Fills in what the memory says about the blob.
fn describe(state: &mut State, id: Uuid, is_bearer: bool, call: &mut Call) {
    state.tally.bearer_to_blob += u64::from(is_bearer);
    call.blob = Some(id);
    call.submission_id = state.blobs.get(&id).and_then(|blob| blob.submission_id);
    let submission = call.submission_id.and_then(|id| state.submissions.get(&id));
    call.product_id = submission.map(|submission| submission.product_id);
    let product = call.product_id.and_then(|id| state.products.get(&id));
    call.product_name = product.map(|product| product.name.clone());
    call.correlation_id = submission
        .and_then(|submission| submission.correlation_id.clone())
        .or_else(|| product.and_then(|product| product.correlation_id.clone()));
}

/// What others and time do to the blob right before the operation.
fn meddle(shared: &Shared, id: Uuid, hits: &Hits) {
    let mut state = shared.lock();
    let last = state.last_sas();
    let Some(blob) = state.blobs.get_mut(&id) else { return };
    if hits.has(FaultKind::ExpiredSas) {
        blob.revoked = last;
    }
    if hits.has(FaultKind::LostBlocks) {
        blob.staged.clear();
    }
    let Some(params) = hits.get(FaultKind::ForeignWrite) else { return };
    let Ok(segment) = Segment::write(&shared.folder, b"somebody else was here") else { return };
    if params.mode.as_deref() == Some("stage") {
        let name = "Zm9yZWlnbg==".to_owned();
        blob.staged.insert(name.clone(), Block { id: name, segment, acknowledged: false });
    } else {
        blob.content = Some(Content::single(segment, "application/octet-stream"));
    }
}

fn acknowledge(state: &mut State, id: Uuid, block: &str) {
    if let Some(block) = state.blobs.get_mut(&id).and_then(|blob| blob.staged.get_mut(block)) {
        block.acknowledged = true;
    }
}

/// Takes what is still being sent, up to the size of the largest sensible block.
async fn drain(body: Body) {
    let mut stream = body.into_data_stream();
    let mut left = 256_usize << 20;
    while let Some(Ok(piece)) = stream.next().await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

/// The announced length of the body.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// One request to a blob.
pub(super) struct Request<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) parts: &'a Parts,
    container: &'static str,
    pub(super) id: Uuid,
    action: Action,
    query: &'a str,
}

impl Request<'_> {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The version that the request runs under.
    fn version(&self, sas: Option<&Sas>) -> String {
        self.header("x-ms-version").map_or_else(
            || sas.map_or_else(|| self.shared.options.sas_version.clone(), |sas| sas.version.clone()),
            str::to_owned,
        )
    }

    /// Whether the request may be executed at all.
    fn check(&self, is_bearer: bool) -> Result<Sas, Reply> {
        if is_bearer {
            let text = "(simulated) Authentication information is not given in the correct format.";
            return Err(storage(400, "InvalidAuthenticationInfo", text, &[]));
        }
        let failed = |detail: &str| {
            let text = "Server failed to authenticate the request. Make sure the value of the Authorization header is \
                        formed correctly including the signature.";
            storage(403, "AuthenticationFailed", text, &[("AuthenticationErrorDetail", detail)])
        };
        let presented = Sas::read(self.query, self.container, self.id).map_err(|why| match why {
            Unreadable::Missing => {
                let text = "Server failed to authenticate the request. Please refer to the information in the \
                            www-authenticate header.";
                storage(401, "NoAuthenticationInformation", text, &[])
            }
            Unreadable::Foreign => failed("Signature fields not well formed."),
        })?;
        if !presented.is_genuine(&self.shared.sas_key) {
            return Err(failed("Signature did not match. String to sign used was different."));
        }
        let sas = presented.sas;
        let now = self.shared.now();
        let revoked = self.shared.lock().blobs.get(&self.id).map_or(0, |blob| blob.revoked);
        if sas.expires <= now || sas.serial <= revoked {
            let expiry = if sas.expires <= now { sas.expires } else { now };
            return Err(failed(&format!(
                "Signature not valid in the specified time frame: Start [] - Expiry [{}] - Current [{}]",
                http_date(expiry),
                http_date(now)
            )));
        }
        if let Some(version) = self.header("x-ms-version")
            && (version.len() != 10 || !version.starts_with("20") || version > NEWEST_VERSION)
        {
            let details = [("HeaderName", "x-ms-version"), ("HeaderValue", version)];
            let text = "The value for one of the HTTP headers is not in the correct format.";
            return Err(storage(400, "InvalidHeaderValue", text, &details));
        }
        self.check_permission(&sas)?;
        Ok(sas)
    }

    fn check_permission(&self, sas: &Sas) -> Result<(), Reply> {
        let has = |permission: char| sas.permissions.contains(permission);
        let exists = || self.shared.lock().blobs.get(&self.id).is_some_and(|blob| blob.content.is_some());
        let is_allowed = match self.action {
            Action::Write(Write::Blob) if !has('w') && has('c') && exists() => {
                let text = "This request is not authorized to perform blob overwrites.";
                return Err(storage(403, "UnauthorizedBlobOverwrite", text, &[]));
            }
            Action::Write(Write::Blob) => has('w') || has('c'),
            // Whether `c` alone may stage blocks is not clear: refusing is what a client must be able to take.
            Action::Write(Write::Block | Write::List) => has('w'),
            Action::BlockList | Action::Head | Action::Download => has('r'),
            // Nothing that is handed out allows it.
            Action::Delete => false,
            Action::Unknown => {
                let text = "The resource doesn't support specified Http Verb.";
                return Err(storage(405, "UnsupportedHttpVerb", text, &[]));
            }
        };
        if is_allowed {
            return Ok(());
        }
        let text = "This request is not authorized to perform this operation using this permission.";
        Err(storage(403, "AuthorizationPermissionMismatch", text, &[]))
    }

    async fn execute(&self, sas: &Sas, body: Body, hits: &Hits, recorder: &mut Recorder) -> Reply {
        let read = |answer: &dyn Fn(Option<&store::Blob>) -> Reply| answer(self.shared.lock().blobs.get(&self.id));
        match self.action {
            Action::Write(write) => self.write(write, sas, body, hits, recorder).await,
            Action::BlockList => read(&|blob| blob_ops::block_list(self.query, blob)),
            Action::Head => read(&|blob| blob_ops::read(self, sas, blob, true)),
            Action::Download => read(&|blob| blob_ops::read(self, sas, blob, false)),
            // Refused before, as nothing allows it.
            Action::Delete | Action::Unknown => Reply::empty(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    async fn write(&self, write: Write, sas: &Sas, body: Body, hits: &Hits, recorder: &mut Recorder) -> Reply {
        let limits = blob_ops::limits(&self.version(Some(sas)));
        let most = match write {
            Write::Block => limits.block,
            Write::Blob => limits.blob,
            Write::List => blob_ops::MOST_LIST,
        };
        let Some(announced) = length(&self.parts.headers) else {
            drain(body).await;
            return storage(411, "MissingContentLengthHeader", "Content-Length HTTP header is missing", &[]);
        };
        let refusal = if announced > most {
            let text = "The request body is too large and exceeds the maximum permissible limit.";
            Some(storage(413, "RequestBodyTooLarge", text, &[("MaxLimit", &most.to_string())]))
        } else {
            self.precheck(write, recorder.call.block_id.as_deref())
        };
        if let Some(refusal) = refusal {
            drain(body).await;
            return refusal;
        }
        let declared = self.header("x-ms-content-crc64").map(str::to_owned);
        let with_crc64 = declared.is_some() || (write == Write::Block && self.header("content-md5").is_none());
        let how = Receive { with_crc64, flip_bit: hits.has(FaultKind::FlippedBit) };
        let received = match store::receive(&self.shared.folder, body, announced, how).await {
            Ok(received) => received,
            Err(Unreceived::Aborted) => {
                return storage(408, "RequestBodyIncomplete", "(simulated) the body ended early", &[]);
            }
            Err(Unreceived::Disk(error)) => {
                tracing::warn!(%error, "the sandbox cannot store a block");
                return storage(500, "InternalError", "(simulated) the disk of the sandbox refuses", &[]);
            }
        };
        recorder.call.size = Some(received.segment.size);
        recorder.call.md5 = Some(received.segment.md5.clone());
        if let Some(refusal) = self.verify(write, &received, declared.as_deref()) {
            return refusal;
        }
        let upload = Upload { request: self, received };
        match write {
            Write::Block => upload.put_block(recorder.call.block_id.as_deref().unwrap_or_default()),
            Write::Blob => upload.put_blob(),
            Write::List => upload.put_block_list().await,
        }
    }

    /// What can be refused before the body is taken.
    fn precheck(&self, write: Write, block_id: Option<&str>) -> Option<Reply> {
        if self.header("x-ms-content-crc64").is_some() && self.header("content-md5").is_some() {
            let text = "Both x-ms-content-crc64 header and Content-MD5 header are present.";
            return Some(storage(400, "BothCrc64AndMd5HeaderPresent", text, &[]));
        }
        for name in ["content-md5", "x-ms-blob-content-md5"] {
            if self.header(name).is_some_and(|value| !blob_ops::is_md5(value)) {
                let text =
                    "The MD5 value specified in the request is invalid. MD5 value must be 128 bits and Base64-encoded.";
                return Some(storage(400, "InvalidMd5", text, &[]));
            }
        }
        if write == Write::Blob {
            return match self.header("x-ms-blob-type") {
                Some("BlockBlob") => None,
                Some(other) => {
                    let details = [("HeaderName", "x-ms-blob-type"), ("HeaderValue", other)];
                    let text = "The value for one of the HTTP headers is not in the correct format.";
                    Some(storage(400, "InvalidHeaderValue", text, &details))
                }
                None => {
                    let text = "An HTTP header that's mandatory for this request is not specified.";
                    Some(storage(400, "MissingRequiredHeader", text, &[("HeaderName", "x-ms-blob-type")]))
                }
            };
        }
        if write == Write::Block { blob_ops::check_block_id(block_id) } else { None }
    }

    /// The checksums in transit.
    fn verify(&self, write: Write, received: &store::Received, crc64: Option<&str>) -> Option<Reply> {
        let declared = match write {
            Write::Blob => self.header("x-ms-blob-content-md5").or_else(|| self.header("content-md5")),
            Write::Block | Write::List => self.header("content-md5"),
        };
        let computed = received.segment.md5.as_str();
        if let Some(declared) = declared.filter(|declared| *declared != computed) {
            let text =
                "The MD5 value specified in the request did not match with the MD5 value calculated by the server.";
            let details = [("UserSpecifiedMd5", declared), ("ServerCalculatedMd5", computed)];
            return Some(storage(400, "Md5Mismatch", text, &details));
        }
        let computed = received.crc64.as_deref().unwrap_or_default();
        let declared = crc64.filter(|declared| *declared != computed)?;
        let text =
            "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.";
        let details = [("UserSpecifiedCrc64", declared), ("ServerCalculatedCrc64", computed)];
        Some(storage(400, "Crc64Mismatch", text, &details))
    }
}

fn with_common_headers(mut reply: Reply, request: &HeaderMap, version: &str) -> Reply {
    let id = HeaderName::from_static("x-ms-request-id");
    if !reply.headers.iter().any(|(name, _)| *name == id) {
        reply = reply.with(id, &crate::clock::uuid_v4().to_string());
    }
    reply = reply.with(HeaderName::from_static("x-ms-version"), version);
    let caller = request.get("x-ms-client-request-id").and_then(|value| value.to_str().ok());
    match caller.filter(|value| value.len() <= 1024) {
        Some(value) => reply.with(HeaderName::from_static("x-ms-client-request-id"), value),
        None => reply,
    }
}

/// The certification report: a page that opens without sign-in.
fn report(shared: &Shared, submission: u64) -> Reply {
    let state = shared.lock();
    let view = state.submissions.get(&submission).map(|s| super::workflow::view(&shared.options, s, state.clock.now()));
    if view.is_some_and(|view| view.is_signed) {
        let text = format!("Simulated certification report of submission {submission}.\n");
        Reply::text(StatusCode::OK, "text/plain", text)
    } else {
        errors::html(404)
    }
}
