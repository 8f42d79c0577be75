//! One request to blob storage, with its time-outs: sent, watched, read.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::{
    Body, Method, Response,
    header::{CONTENT_LENGTH, HeaderMap},
};
use tokio::{
    io::AsyncReadExt,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::io::ReaderStream;

use super::{
    Settings,
    pace::within,
    sas::Sas,
    trouble::{Action, Trouble},
};
use crate::{clock, domain::failure::Kind};

/// The service version whose answers we know; no `api-version` is added (blob-upload 6).
pub(super) const VERSION: &str = "2021-12-02";
/// Bytes of a body handed to the connection at once.
const SLICE: usize = 64 << 10;
/// Bytes of an error's body that are read.
pub(super) const MAX_ERROR_BODY: usize = 64 << 10;
/// Bytes of a block list that are read: 150,000 blocks of at most 200 bytes.
const MAX_LIST_BODY: usize = 32 << 20;

/// What is sent.
#[derive(Clone)]
pub(super) enum Payload {
    /// No body at all.
    Nothing,
    /// Bytes in memory; possibly none.
    Bytes(Bytes),
    /// A whole file, read while it is sent.
    File(PathBuf, u64),
}

impl Payload {
    fn length(&self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Bytes(bytes) => Some(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::File(_, size) => Some(*size),
        }
    }
}

/// One request.
pub(super) struct Request<'a> {
    /// Its name in blob-upload.md, for messages.
    pub(super) what: &'static str,
    pub(super) method: Method,
    pub(super) parameters: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'static str, &'a str)],
    pub(super) payload: Payload,
}

/// A good answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

/// Sends one request and reads its answer; `moved` hears how many bytes of the body have gone.
pub(super) async fn send(
    http: &reqwest::Client,
    settings: &Settings,
    sas: &Sas,
    request: Request<'_>,
    moved: impl Fn(u64),
) -> Result<Answer, Trouble> {
    let what = request.what;
    let is_head = request.method == Method::HEAD;
    let length = request.payload.length();
    let url = sas.request_url(request.parameters).map_err(|failure| Trouble {
        action: Action::Permanent,
        ..Trouble::unanswered(Kind::Transfer, failure.to_string())
    })?;
    let counter = Arc::new(AtomicU64::new(0));
    let mut sending = http
        .request(request.method, url)
        .header("x-ms-version", VERSION)
        .header("x-ms-client-request-id", clock::uuid_v4().to_string());
    for (name, value) in request.headers {
        sending = sending.header(*name, *value);
    }
    if let Some(length) = length {
        sending = sending.header(CONTENT_LENGTH, length).body(body(request.payload, settings, &counter).await?);
    }
    let answer = watched(sending.send(), settings, length.unwrap_or(0), &counter, moved, what).await?;
    let status = answer.status();
    let headers = answer.headers().clone();
    let most = if status.is_success() { MAX_LIST_BODY } else { MAX_ERROR_BODY };
    let text = if is_head { Some(String::new()) } else { text(answer, most, settings).await };
    match (status.is_success(), text) {
        (true, Some(body)) => Ok(Answer { headers, body }),
        (true, None) => {
            Err(Trouble::unanswered(Kind::BadAnswer, format!("the answer of blob storage to {what} broke off")))
        }
        (false, body) => Err(Trouble::read(what, status.as_u16(), &headers, &body.unwrap_or_default())),
    }
}

async fn body(payload: Payload, settings: &Settings, counter: &Arc<AtomicU64>) -> Result<Body, Trouble> {
    let counter = Arc::clone(counter);
    let count = move |bytes: &Bytes| {
        counter.fetch_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
    };
    Ok(match payload {
        Payload::Nothing => Body::from(Bytes::new()),
        Payload::Bytes(bytes) if bytes.is_empty() => Body::from(bytes),
        Payload::Bytes(bytes) => {
            let slices = futures_util::stream::unfold(bytes, |mut rest| async move {
                (!rest.is_empty()).then(|| (rest.split_to(rest.len().min(SLICE)), rest))
            });
            Body::wrap_stream(slices.map(move |slice| {
                count(&slice);
                Ok::<_, std::io::Error>(slice)
            }))
        }
        Payload::File(path, size) => {
            let opening = within(settings.file_timeout, &path, "read", tokio::fs::File::open(&path));
            let file = opening.await.map_err(|failure| Trouble::unanswered(Kind::LocalIo, failure.to_string()))?;
            Body::wrap_stream(ReaderStream::with_capacity(file.take(size), 4 * SLICE).inspect(move |slice| {
                if let Ok(bytes) = slice {
                    count(bytes);
                }
            }))
        }
    })
}

/// Waits for the answer's headers, at most as long as the body's size allows and while its bytes move.
async fn watched(
    sending: impl Future<Output = reqwest::Result<Response>>,
    settings: &Settings,
    length: u64,
    counter: &AtomicU64,
    moved: impl Fn(u64),
    what: &'static str,
) -> Result<Response, Trouble> {
    let late = |why: &str| Trouble::unanswered(Kind::Timeout, format!("{what}: {why}"));
    let step = (settings.stall_timeout / 16).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let mut ticks = interval(step);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gone = 0;
    let mut still = Duration::ZERO;
    let deadline = sleep(settings.timeout(length));
    tokio::pin!(sending, deadline);
    loop {
        tokio::select! {
            answer = &mut sending => return answer.map_err(|error| unsent(what, &error)),
            () = &mut deadline => return Err(late("no answer in time")),
            _ = ticks.tick() => {
                let now = counter.load(Ordering::Relaxed);
                still = if now == gone { still.saturating_add(step) } else { Duration::ZERO };
                gone = now;
                moved(now);
                if now < length && still > settings.stall_timeout {
                    return Err(late("no byte moved for too long"));
                }
            }
        }
    }
}

fn unsent(what: &str, error: &reqwest::Error) -> Trouble {
    if error.is_connect() {
        Trouble::unanswered(Kind::NotSent, format!("{what}: blob storage cannot be reached"))
    } else if error.is_timeout() {
        Trouble::unanswered(Kind::Timeout, format!("{what}: no answer in time"))
    } else {
        Trouble::unanswered(Kind::Disconnected, format!("{what}: the connection broke"))
    }
}

/// A body as text, cut at `most` bytes; `None` when it broke off, stood still, or was slower than the slowest rate.
pub(super) async fn text(answer: Response, most: usize, settings: &Settings) -> Option<String> {
    let whole = settings.timeout(u64::try_from(most).unwrap_or(u64::MAX));
    timeout(whole, pieces(answer, most, settings.idle_timeout)).await.ok().flatten()
}

async fn pieces(mut answer: Response, most: usize, idle: Duration) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        match timeout(idle, answer.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                let room = most.saturating_sub(bytes.len());
                bytes.extend_from_slice(chunk.get(..chunk.len().min(room)).unwrap_or_default());
                if bytes.len() >= most {
                    break;
                }
            }
            Ok(Ok(None)) => break,
            Ok(Err(_)) | Err(_) => return None,
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
