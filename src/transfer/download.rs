//! A signed file, fetched with range resume and put in its place whole or not at all.
//!
//! Bytes go to `.NAME.part` beside the target, locked by the kernel for as long as this process works on it; its `ETag`
//! lies in `.NAME.part.etag`, so that a later process goes on only with the same content. Complete, it is hashed,
//! flushed to disk and renamed. A file with other content is never overwritten unless told. Source:
//! contract/hardware-api.md, section 8.4.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Response,
    header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE},
};
use tokio::{
    io::{AsyncSeekExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::{
    Hooks, Settings, blob, disk,
    pace::{Pace, limited, within},
    part::{Part, Paths},
    permanent,
    renewal::Renewal,
    trouble::{self, Action, Trouble},
};
use crate::domain::{
    failure::{Failure, Kind},
    ids::Sha256,
};

/// Bytes written between two words about progress.
const STRIDE: u64 = 1 << 20;

/// What is wanted, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The file, in a folder that exists (see [`super::sink::SinkRules::resolve`]); its name says kind and submission.
    pub target: PathBuf,
    /// Bytes at most.
    pub max_bytes: u64,
    /// May a file with other content be replaced?
    pub overwrite: bool,
}

/// How a download ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The file is in its place.
    Downloaded(Downloaded),
    /// Stopped because the time was up; a later call goes on.
    Paused {
        /// Bytes that are on the disk.
        done: u64,
    },
}

/// A finished download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub size: u64,
    /// Its hash.
    pub sha256: Sha256,
    /// A file with the same content was there already.
    pub was_there: bool,
}

/// How a fetch ended.
#[derive(Debug)]
pub enum Fetched {
    /// All bytes are on the disk, beside their place.
    Ready(Ready),
    /// Stopped because the time was up; a later call goes on.
    Paused {
        /// Bytes that are on the disk.
        done: u64,
    },
}

/// A file that is whole and has not got its name yet; nobody else works on it while this value lives.
#[derive(Debug)]
pub struct Ready {
    part: Part,
    wanted: Wanted,
    size: u64,
    patience: Duration,
}

impl Ready {
    /// Its length.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Where it lies until it has its name.
    #[must_use]
    pub fn lies_at(&self) -> &Path {
        &self.part.paths.part
    }

    /// Gives the file its name when `check` finds nothing against its bytes; blocking work off this thread.
    ///
    /// # Errors
    /// As [`download`]. What `check` says; after a permanent refusal the bytes lie beside the place as `NAME.rejected`, and
    /// the message says so.
    pub async fn place<T: Send + 'static>(
        self,
        check: impl FnOnce(&Path, &Pace) -> Result<T, Failure> + Send + 'static,
    ) -> Result<(Downloaded, T), Failure> {
        let Self { part, wanted, size, patience } = self;
        let target = wanted.target.clone();
        limited(patience, &target, move |pace| {
            let checked = check(&part.paths.part, pace);
            // ORDER: after the check and before anything is renamed. A turn that is over has no verdict, whatever the
            // check made of reads that were stopped, and another turn may be at these bytes.
            pace.beat().map_err(|error| disk("look into", &part.paths.part, &error))?;
            let checked = part.checked(checked)?;
            part.place(&wanted, size, pace).map(|placed| (placed, checked))
        })
        .await
    }
}

/// Fetches the file behind the hooks' URL into its place, unchecked.
///
/// # Errors
/// Transient: tries spent, our disk, another process at the same file. Permanent: refused by the service, URL stays
/// refused (`SasExpired`), too large (`Transfer`), a file with other content in the way (`Sink`).
///
/// # Cancel safety
/// May be dropped at any await; what is on the disk is gone on with.
pub async fn download<H: Hooks>(
    http: &reqwest::Client,
    settings: &Settings,
    wanted: &Wanted,
    hooks: &H,
) -> Result<Outcome, Failure> {
    match fetch(http, settings, wanted, hooks).await? {
        Fetched::Ready(ready) => ready.place(|_, _| Ok(())).await.map(|(file, ())| Outcome::Downloaded(file)),
        Fetched::Paused { done } => Ok(Outcome::Paused { done }),
    }
}

/// Fetches the file behind the hooks' URL to where it can be looked at before it gets its name.
///
/// # Errors
/// As [`download`].
///
/// # Cancel safety
/// As [`download`].
pub async fn fetch<H: Hooks>(
    http: &reqwest::Client,
    settings: &Settings,
    wanted: &Wanted,
    hooks: &H,
) -> Result<Fetched, Failure> {
    let paths = Paths::of(&wanted.target)?;
    let part = {
        let of = paths.clone();
        limited(settings.file_timeout, &paths.part, move |_| Part::open(&of)).await?
    };
    let mut session = Session { http, settings, wanted, hooks, renewal: Renewal::begin(settings, hooks).await?, part };
    let Some(size) = session.run().await? else {
        return Ok(Fetched::Paused { done: session.part.done });
    };
    hooks.progress(size, size);
    let patience = settings.file_timeout;
    Ok(Fetched::Ready(Ready { part: session.part, wanted: wanted.clone(), size, patience }))
}

struct Session<'a, H> {
    http: &'a reqwest::Client,
    settings: &'a Settings,
    wanted: &'a Wanted,
    hooks: &'a H,
    renewal: Renewal<'a, H>,
    part: Part,
}

/// How one request ended.
enum Read {
    Complete(u64),
    OutOfTime,
    Broken(Trouble),
}

impl<H: Hooks> Session<'_, H> {
    /// The whole length when all of it is there; `None` when the time was up.
    async fn run(&mut self) -> Result<Option<u64>, Failure> {
        let mut spent = 0;
        loop {
            if self.hooks.out_of_time() {
                return Ok(None);
            }
            if self.renewal.is_near_end(1, 1) {
                self.renewal.early().await?;
            }
            let before = self.part.done;
            let trouble = match self.once().await? {
                Read::Complete(size) => return Ok(Some(size)),
                Read::OutOfTime => return Ok(None),
                Read::Broken(trouble) => trouble,
            };
            self.renewal.heard(trouble.date, false);
            match trouble.action {
                Action::NewSas => self.renewal.after_refusal(&trouble).await?,
                Action::Retry | Action::RetryOnce => {
                    spent = if self.part.done > before { 1 } else { spent + 1 };
                    sleep(trouble.backoff(self.settings, spent, self.hooks.chance())?).await;
                }
                Action::Resync | Action::Shrink | Action::Verify | Action::Permanent => return Err(trouble.permanent()),
            }
        }
    }

    async fn once(&mut self) -> Result<Read, Failure> {
        let what = "Get Blob";
        let mut request = self.http.get(self.renewal.sas().request_url(&[])?).header("x-ms-version", blob::VERSION);
        request = request.header("accept-encoding", "identity");
        let asked_from = match &self.part.etag {
            Some(etag) if self.part.done > 0 => {
                request = request.header(RANGE, format!("bytes={}-", self.part.done)).header(IF_RANGE, etag);
                self.part.done
            }
            Some(_) | None => 0,
        };
        let late = || Ok(Read::Broken(Trouble::unanswered(Kind::Timeout, format!("{what}: no answer in time"))));
        let answer = match timeout(self.settings.request_timeout, request.send()).await {
            Err(_) => return late(),
            Ok(Err(error)) => {
                let kind = if error.is_connect() { Kind::NotSent } else { Kind::Disconnected };
                return Ok(Read::Broken(Trouble::unanswered(kind, format!("{what}: no answer, the connection broke"))));
            }
            Ok(Ok(answer)) => answer,
        };
        let status = answer.status().as_u16();
        let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let date = trouble::date(answer.headers());
        let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).and_then(range_of);
        let total = match (status, range) {
            (200, _) => {
                self.renewal.heard(date, true);
                self.restart(etag).await?;
                answer.content_length()
            }
            (206, Some((Some(first), total))) if first == asked_from && asked_from > 0 && etag == self.part.etag => {
                self.renewal.heard(date, true);
                total
            }
            (416, Some((None, Some(total)))) if total == asked_from => return Ok(Read::Complete(total)),
            (206 | 416, _) => {
                self.restart(None).await?;
                return Ok(Read::Broken(Trouble::unanswered(
                    Kind::BadAnswer,
                    format!("{what}: another range than asked"),
                )));
            }
            _ => {
                let headers = answer.headers().clone();
                let body = blob::text(answer, blob::MAX_ERROR_BODY, self.settings).await.unwrap_or_default();
                return Ok(Read::Broken(Trouble::read(what, status, &headers, &body)));
            }
        };
        if total.is_some_and(|total| total > self.wanted.max_bytes) {
            return Err(self.too_large());
        }
        self.receive(answer, total).await
    }

    /// Begins anew, off the thread that others share.
    async fn restart(&mut self, etag: Option<String>) -> Result<(), Failure> {
        let mut part = self.part.clone();
        let restart = move |_: &Pace| part.restart(etag).map(|()| part);
        self.part = limited(self.settings.file_timeout, &self.part.paths.part, restart).await?;
        Ok(())
    }

    fn too_large(&self) -> Failure {
        let text =
            format!("the download for {} has more than {} bytes", self.wanted.target.display(), self.wanted.max_bytes);
        permanent(Kind::Transfer, text)
    }

    async fn receive(&mut self, mut answer: Response, total: Option<u64>) -> Result<Read, Failure> {
        let (path, patience) = (&self.part.paths.part, self.settings.file_timeout);
        let file = self.part.file.try_clone().map_err(|error| disk("write", path, &error))?;
        let mut file = tokio::fs::File::from_std(file);
        within(patience, path, "write", file.seek(SeekFrom::Start(self.part.done))).await?;
        let mut written = self.part.done;
        let mut reported = written;
        let broken = |kind, why: &str| Read::Broken(Trouble::unanswered(kind, format!("Get Blob: {why}")));
        let ended = loop {
            let chunk = match next(&mut answer, self.settings.idle_timeout).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if total.is_none_or(|total| total == written) => break Read::Complete(written),
                Ok(None) => break broken(Kind::Disconnected, "the body ended early"),
                Err(kind) => break broken(kind, "the body broke off"),
            };
            written = written.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if written > self.wanted.max_bytes || total.is_some_and(|total| written > total) {
                return Err(self.too_large());
            }
            within(patience, path, "write", file.write_all(&chunk)).await?;
            if written - reported >= STRIDE {
                reported = written;
                self.hooks.progress(written, total.unwrap_or(written));
            }
            // Not by bytes: a body that drips ends here, whatever it still promises.
            if self.hooks.out_of_time() {
                break Read::OutOfTime;
            }
        };
        within(patience, path, "write", file.flush()).await?;
        self.part.done = written;
        Ok(ended)
    }
}

async fn next(answer: &mut Response, patience: Duration) -> Result<Option<bytes::Bytes>, Kind> {
    match timeout(patience, answer.chunk()).await {
        Err(_) => Err(Kind::Timeout),
        Ok(Err(_)) => Err(Kind::Disconnected),
        Ok(Ok(chunk)) => Ok(chunk),
    }
}

/// `bytes 5-9/10` as first byte and whole length; `bytes */10` without a first byte.
fn range_of(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.parse().ok());
    Some((first, total.parse().ok()))
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
