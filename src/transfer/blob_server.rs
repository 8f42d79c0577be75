//! A small, strict blob server for the tests of this folder: signed URLs byte for byte, MD5, block ids, and faults.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, Response, Uri},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::StreamExt;
use tokio::{net::TcpListener, task::JoinSet};

use super::{Hooks, Settings, package_file::md5_of};
use crate::domain::{failure::Failure, service::SignedUrl};

pub(crate) const PATH: &str = "/store/ingestion/7f3c";

/// What goes wrong with the next request of an operation.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status and code, nothing done.
    Answer(u16, &'static str),
    /// The same with a `Retry-After` of so many seconds.
    RetryAfter(u16, u64),
    /// Done, and then the connection breaks without an answer.
    LostAnswer,
    /// Headers and this many bytes of body, then the connection breaks.
    CutBody(usize),
    /// One byte of what was received changes before it is looked at.
    FlippedBit,
    /// An HTML page.
    Html,
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) blob: Option<(Vec<u8>, Option<String>)>,
    pub(crate) list: Vec<(String, usize)>,
    pub(crate) staged: BTreeMap<String, Vec<u8>>,
    /// How often each block id was acknowledged, and with how many bytes.
    pub(crate) landed: HashMap<String, (u32, usize)>,
    /// Block ids in the order of their acknowledgement.
    pub(crate) order: Vec<String>,
    pub(crate) faults: Vec<(&'static str, Fault)>,
    pub(crate) operations: Vec<String>,
    /// Uses left of each query that is valid.
    pub(crate) valid: HashMap<String, i64>,
    pub(crate) max_block: usize,
    pub(crate) etag: u32,
    pub(crate) in_flight: u32,
    pub(crate) most_in_flight: u32,
    pub(crate) ranges: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct BlobServer {
    pub(crate) store: Arc<Mutex<Store>>,
    pub(crate) base: String,
    issued: Arc<AtomicU32>,
    _task: Arc<JoinSet<()>>,
}

impl BlobServer {
    pub(crate) async fn start() -> Self {
        let store = Arc::new(Mutex::new(Store { max_block: usize::MAX, ..Store::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(serve).layer(DefaultBodyLimit::disable()).with_state(Arc::clone(&store));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { store, base, issued: Arc::default(), _task: Arc::new(task) }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// A new URL that works `uses` times, with a signature that a careless client ruins.
    pub(crate) fn issue(&self, uses: i64, se: &str, sp: &str) -> SignedUrl {
        let number = self.issued.fetch_add(1, Ordering::SeqCst);
        let query =
            format!("sv=2024-05-04&se={se}&sr=b&sp={sp}&skoid=a%2Db&rscd=attachment%3B%20x&sig=A%2bb%2F{number}%3d");
        self.store().valid.insert(query.clone(), uses);
        SignedUrl::new(format!("{}{PATH}?{query}", self.base))
    }

    pub(crate) fn fail(&self, operation: &'static str, fault: Fault) {
        self.store().faults.push((operation, fault));
    }

    pub(crate) fn count(&self, operation: &str) -> usize {
        self.store().operations.iter().filter(|done| *done == operation).count()
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.store().blob.clone().unwrap().0
    }
}

fn error(status: u16, code: &str) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>(simulated)</Message></Error>"
    );
    Response::builder().status(status).header("x-ms-error-code", code).body(Body::from(body)).unwrap()
}

fn created() -> axum::http::response::Builder {
    Response::builder().status(201)
}

fn operation(method: &Method, query: &str) -> &'static str {
    match (method.as_str(), query.contains("&comp=blocklist"), query.contains("&comp=block&")) {
        ("HEAD", ..) => "head",
        ("GET", true, _) => "list",
        ("GET", ..) => "get",
        ("PUT", true, _) => "commit",
        ("PUT", _, true) => "block",
        _ => "put",
    }
}

async fn serve(
    State(store): State<Arc<Mutex<Store>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let query = uri.query().unwrap_or_default().to_owned();
    let operation = operation(&method, &query);
    {
        let mut store = store.lock().unwrap();
        store.in_flight += 1;
        store.most_in_flight = store.most_in_flight.max(store.in_flight);
    }
    tokio::task::yield_now().await;
    let (answer, is_lost) = handle(&mut store.lock().unwrap(), operation, &uri, &query, &headers, body.to_vec());
    store.lock().unwrap().in_flight -= 1;
    if is_lost {
        std::panic::resume_unwind(Box::new("the answer is lost"));
    }
    answer
}

fn handle(
    store: &mut Store,
    operation: &'static str,
    uri: &Uri,
    query: &str,
    headers: &HeaderMap,
    mut body: Vec<u8>,
) -> (Response<Body>, bool) {
    let fault = store.faults.iter().position(|(on, _)| *on == operation).map(|at| store.faults.remove(at).1);
    store.operations.push(operation.to_owned());
    match fault {
        Some(Fault::Answer(status, code)) => return (error(status, code), false),
        Some(Fault::RetryAfter(status, seconds)) => {
            let mut answer = error(status, "ServerBusy");
            answer.headers_mut().insert("retry-after", seconds.into());
            return (answer, false);
        }
        Some(Fault::Html) => {
            return (Response::builder().status(502).body(Body::from("<html>Bad gateway</html>")).unwrap(), false);
        }
        Some(Fault::FlippedBit) => body[0] ^= 1,
        Some(Fault::LostAnswer) => return (obey(store, operation, uri, query, headers, &body), true),
        Some(Fault::CutBody(bytes)) => {
            let answer = obey(store, operation, uri, query, headers, &body);
            let (parts, _) = answer.into_parts();
            let content = store.blob.clone().unwrap().0;
            let start = range_start(headers).unwrap_or(0);
            let piece = Bytes::from(content[start..(start + bytes).min(content.len())].to_vec());
            let broken =
                futures_util::stream::iter([Ok(piece), Err(std::io::Error::other("cut"))]).then(async |part| {
                    // Whoever sends flushes what it has when the body is not ready.
                    tokio::task::yield_now().await;
                    part
                });
            return (Response::from_parts(parts, Body::from_stream(broken)), false);
        }
        None => {}
    }
    (obey(store, operation, uri, query, headers, &body), false)
}

fn range_start(headers: &HeaderMap) -> Option<usize> {
    headers.get("range")?.to_str().unwrap().strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn obey(
    store: &mut Store,
    operation: &str,
    uri: &Uri,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Response<Body> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert!(!headers.contains_key("authorization"), "a bearer token never goes to the blob host");
    assert_eq!(text("x-ms-version").as_deref(), Some("2021-12-02"));
    assert!(!query.contains("api-version"));
    let Some(uses) =
        store.valid.iter_mut().find(|(valid, _)| query == **valid || query.starts_with(&format!("{valid}&")))
    else {
        return error(403, "AuthenticationFailed");
    };
    if *uses.1 <= 0 {
        return error(403, "AuthenticationFailed");
    }
    *uses.1 -= 1;
    assert_eq!(uri.path(), PATH);
    if text("content-md5").is_some_and(|md5| operation != "head" && md5 != md5_of(body)) {
        return error(400, "Md5Mismatch");
    }
    if body.len() > store.max_block {
        return error(413, "RequestBodyTooLarge");
    }
    let length = text("content-length").map(|length| length.parse::<usize>().unwrap());
    match operation {
        "put" => {
            assert_eq!((text("x-ms-blob-type").as_deref(), length), (Some("BlockBlob"), Some(body.len())));
            store.staged.clear();
            store.blob = Some((body.to_vec(), text("x-ms-blob-content-md5")));
            store.list.clear();
            store.etag += 1;
            created().header("etag", etag(store)).header("content-md5", md5_of(body)).body(Body::empty()).unwrap()
        }
        "block" => {
            assert_eq!(length, Some(body.len()), "Content-Length is mandatory, chunks are refused");
            let id = query.split("&blockid=").nth(1).unwrap();
            let id: String = url::form_urlencoded::parse(format!("x={id}").as_bytes()).next().unwrap().1.into_owned();
            let decoded = STANDARD.decode(&id).expect("base64");
            if store.staged.keys().any(|other| STANDARD.decode(other).unwrap().len() != decoded.len()) {
                return error(400, "InvalidBlobOrBlock");
            }
            store.staged.insert(id.clone(), body.to_vec());
            store.order.push(id.clone());
            let landed = store.landed.entry(id).or_default();
            *landed = (landed.0 + 1, body.len());
            created().header("content-md5", md5_of(body)).body(Body::empty()).unwrap()
        }
        "list" => {
            if store.blob.is_none() && store.staged.is_empty() {
                return error(404, "BlobNotFound");
            }
            let block = |id: &str, size: usize| format!("<Block><Name>{id}</Name><Size>{size}</Size></Block>");
            let committed: String = store.list.iter().map(|(id, size)| block(id, *size)).collect();
            let staged: String = store.staged.iter().map(|(id, bytes)| block(id, bytes.len())).collect();
            let xml = format!(
                "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><CommittedBlocks>{committed}</CommittedBlocks>\
                 <UncommittedBlocks>{staged}</UncommittedBlocks></BlockList>"
            );
            Response::new(Body::from(xml))
        }
        "commit" => {
            let xml = String::from_utf8(body.to_vec()).unwrap();
            let ids: Vec<String> =
                xml.split("<Latest>").skip(1).map(|rest| rest.split("</Latest>").next().unwrap().to_owned()).collect();
            let mut content = Vec::new();
            let mut list = Vec::new();
            let mut at = 0;
            for id in ids {
                let old = store.list.iter().scan(&mut at, |at, (known, size)| {
                    let start = **at;
                    **at += size;
                    Some((known.clone(), start, *size))
                });
                let committed = old.into_iter().find(|(known, ..)| *known == id);
                at = 0;
                let bytes = match (store.staged.get(&id), committed) {
                    (Some(bytes), _) => bytes.clone(),
                    (None, Some((_, start, size))) => store.blob.as_ref().unwrap().0[start..start + size].to_vec(),
                    (None, None) => return error(400, "InvalidBlockList"),
                };
                list.push((id, bytes.len()));
                content.extend(bytes);
            }
            store.staged.clear();
            store.list = list;
            store.blob = Some((content, text("x-ms-blob-content-md5")));
            store.etag += 1;
            created().header("etag", etag(store)).body(Body::empty()).unwrap()
        }
        "head" => match &store.blob {
            None => error(404, "BlobNotFound"),
            Some((content, md5)) => {
                let answer = Response::builder().header("content-length", content.len()).header("etag", etag(store));
                let answer = md5.iter().fold(answer, |answer, md5| answer.header("content-md5", md5));
                answer.body(Body::empty()).unwrap()
            }
        },
        _ => download(store, headers),
    }
}

fn etag(store: &Store) -> String {
    format!("\"0x{:X}\"", store.etag)
}

fn download(store: &mut Store, headers: &HeaderMap) -> Response<Body> {
    let Some((content, _)) = store.blob.clone() else { return error(404, "BlobNotFound") };
    let is_same = headers.get("if-range").is_none_or(|tag| tag.to_str().unwrap() == etag(store));
    store.ranges.push(headers.get("range").map_or("whole".to_owned(), |range| range.to_str().unwrap().to_owned()));
    let answer = Response::builder().header("etag", etag(store));
    match range_start(headers).filter(|_| is_same) {
        Some(start) if start >= content.len() => answer
            .status(416)
            .header("content-range", format!("bytes */{}", content.len()))
            .body(Body::empty())
            .unwrap(),
        Some(start) => answer
            .status(206)
            .header("content-range", format!("bytes {start}-{}/{}", content.len() - 1, content.len()))
            .header("content-length", content.len() - start)
            .body(Body::from(content[start..].to_vec()))
            .unwrap(),
        None => answer.header("content-length", content.len()).body(Body::from(content)).unwrap(),
    }
}

/// The caller of a transfer, as the tests want it.
pub(crate) struct Caller {
    pub(crate) server: BlobServer,
    /// URLs to hand out before the usual ones.
    pub(crate) urls: Mutex<VecDeque<SignedUrl>>,
    pub(crate) is_holder: AtomicBool,
    pub(crate) asked: AtomicU32,
    pub(crate) fetched: AtomicU32,
    /// Calls of `progress` until the time is up; below zero: never.
    pub(crate) patience: AtomicI64,
    pub(crate) reported: Mutex<Vec<(u64, u64)>>,
}

impl Caller {
    pub(crate) fn of(server: &BlobServer) -> Self {
        Self {
            server: server.clone(),
            urls: Mutex::default(),
            is_holder: AtomicBool::new(true),
            asked: AtomicU32::new(0),
            fetched: AtomicU32::new(0),
            patience: AtomicI64::new(-1),
            reported: Mutex::default(),
        }
    }
}

impl Hooks for Caller {
    async fn fresh_url(&self) -> Result<SignedUrl, Failure> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        let next = self.urls.lock().unwrap().pop_front();
        Ok(next.unwrap_or_else(|| self.server.issue(i64::MAX, "2099-01-01T00%3A00%3A00Z", "rwl")))
    }

    async fn may_replace(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.is_holder.load(Ordering::SeqCst)
    }

    fn out_of_time(&self) -> bool {
        self.patience.load(Ordering::SeqCst) == 0
    }

    fn progress(&self, done: u64, total: u64) {
        self.reported.lock().unwrap().push((done, total));
        if self.patience.load(Ordering::SeqCst) > 0 {
            self.patience.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn chance(&self) -> f64 {
        0.5
    }
}

pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// Small blocks and short waits; everything else as it ships.
pub(crate) fn settings() -> Settings {
    Settings {
        single_shot_max: 1000,
        block_size: 1000,
        backoff_base: Duration::from_millis(2),
        backoff_cap: Duration::from_millis(20),
        ..Settings::default()
    }
}

/// Bytes that repeat nowhere.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// The same caller, whose time is up at an instant.
pub(crate) struct Until {
    pub(crate) caller: Caller,
    pub(crate) ends: std::time::Instant,
}

impl Hooks for Until {
    async fn fresh_url(&self) -> Result<SignedUrl, Failure> {
        self.caller.fresh_url().await
    }

    async fn may_replace(&self) -> bool {
        self.caller.may_replace().await
    }

    fn out_of_time(&self) -> bool {
        crate::clock::monotonic() >= self.ends
    }

    fn progress(&self, done: u64, total: u64) {
        self.caller.progress(done, total);
    }

    fn chance(&self) -> f64 {
        0.5
    }
}
