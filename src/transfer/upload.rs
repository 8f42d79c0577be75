//! The resumable upload of contract/blob-upload.md, section 8.
//!
//! Small packages go in one request, larger ones in blocks, in parallel. The service's own list of staged blocks is the only
//! progress there is: whoever goes on reads it and sends what is missing. Every request here may be repeated; the two
//! that replace the blob are preceded by the question whether we are still the job's holder. At most `concurrency` blocks
//! are in memory at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

use bytes::Bytes;
use reqwest::Method;
use tokio::time::{sleep, timeout};

use super::{
    Hooks, LocalPackage, Settings,
    blob::{self, Answer, Payload, Request},
    block_list::{self, BlockList},
    blocks::{FIRST_GENERATION, Plan},
    pace::limited,
    package_file::md5_of,
    permanent,
    renewal::Renewal,
    sas::Sas,
    transient,
    trouble::{self, Action, Trouble},
};
use crate::domain::failure::{Failure, Kind};
use flight::Buffers;

/// Whole rounds (missing blocks, commit, verification) besides those that missing blocks cost, before we give up.
const ROUNDS: u32 = 4;

/// How an upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The blob is complete and, as far as the URL lets us look, verified.
    Uploaded(Uploaded),
    /// Stopped at a block border because the time was up; a later call goes on.
    Paused {
        /// Bytes that the service has.
        acknowledged: u64,
    },
    /// Somebody else holds the job now; the blob was not touched.
    NotHolder,
}

/// A finished upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The blob's `ETag`, when the service told.
    pub etag: Option<String>,
    /// Length and MD5 were read back and are ours.
    pub is_verified: bool,
    /// Bytes that this call sent and the service acknowledged.
    pub sent: u64,
    /// Bytes found there by this call.
    pub resumed: u64,
    /// Most blocks in memory at one time.
    pub peak_blocks: usize,
}

/// Why a step of the upload does not go on; `Stop` is for the caller to decide.
enum Halt {
    Failed(Failure),
    Paused,
    NotHolder,
    Stop(Trouble),
    OtherBlob,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a look at the blob shows.
enum Seen {
    Ours(Option<String>),
    Other,
    Unreadable,
}

/// The steps that lead to the next one.
enum Next {
    /// The blob should be complete now.
    Verify,
    /// From the block list again.
    Again,
}

/// Carries the package into the slot behind the hooks' URL.
///
/// # Errors
/// Transient when the tries are spent or the service asks for a long pause: park, and call again. Permanent when the
/// service refuses, the URL stays refused (kind `SasExpired`), or the source changed (kind `Source`). What the hooks
/// return is passed on.
///
/// # Cancel safety
/// May be dropped at any await; staged blocks stay and are found again.
pub async fn upload<H: Hooks>(
    http: &reqwest::Client,
    settings: &Settings,
    package: &LocalPackage,
    hooks: &H,
) -> Result<Outcome, Failure> {
    recheck(package, settings).await?;
    let renewal = Renewal::begin(settings, hooks).await?;
    if !renewal.sas().can_write() || !renewal.sas().is_for_one_blob() {
        return Err(permanent(
            Kind::Transfer,
            format!("the signed URL {} does not let us write a blob", renewal.sas()),
        ));
    }
    let mut session = Session {
        http,
        settings,
        package,
        hooks,
        can_read: renewal.sas().can_read(),
        renewal,
        plan: Plan::new(&package.sha256, package.size, settings.block_size, FIRST_GENERATION),
        in_blocks: package.size > settings.single_shot_max,
        acknowledged: BTreeSet::new(),
        sent: 0,
        resumed: 0,
        was_cleared: false,
        missing_blocks: 0,
        tries: BTreeMap::new(),
        lanes: settings.lanes(),
        streak: 0,
        buffers: Buffers::default(),
    };
    match session.run().await {
        Ok(uploaded) => Ok(Outcome::Uploaded(uploaded)),
        Err(Halt::Failed(failure)) => Err(failure),
        Err(Halt::Stop(trouble)) => Err(trouble.permanent()),
        Err(Halt::Paused) => Ok(Outcome::Paused { acknowledged: session.done() }),
        Err(Halt::NotHolder) => Ok(Outcome::NotHolder),
        Err(Halt::OtherBlob) => Err(transient(Kind::Transfer, "the upload slot keeps changing")),
    }
}

async fn recheck(package: &LocalPackage, settings: &Settings) -> Result<(), Failure> {
    let checked = package.clone();
    limited(settings.file_timeout, &package.path, move |pace| checked.recheck(pace)).await
}

/// Tries of one request.
#[derive(Debug, Clone, Copy, Default)]
struct Tries {
    spent: u32,
    had_second_chance: bool,
    delay: Duration,
}

struct Session<'a, H> {
    http: &'a reqwest::Client,
    settings: &'a Settings,
    package: &'a LocalPackage,
    hooks: &'a H,
    renewal: Renewal<'a, H>,
    can_read: bool,
    plan: Plan,
    in_blocks: bool,
    /// Blocks of `plan` that the service has.
    acknowledged: BTreeSet<u32>,
    sent: u64,
    resumed: u64,
    was_cleared: bool,
    missing_blocks: u32,
    tries: BTreeMap<u32, Tries>,
    lanes: usize,
    streak: u32,
    buffers: Buffers,
}

impl<H: Hooks> Session<'_, H> {
    async fn run(&mut self) -> Result<Uploaded, Halt> {
        for round in 0..ROUNDS.saturating_add(self.settings.commit_rounds) {
            let step = if self.in_blocks { self.blocks(round).await } else { self.single_shot().await };
            match step {
                Ok(Next::Verify) => {}
                Ok(Next::Again) => continue,
                Err(Halt::OtherBlob) => {
                    self.acknowledged.clear();
                    continue;
                }
                Err(Halt::Stop(trouble)) if trouble.action == Action::Verify => {
                    // Somebody wrote, perhaps we ourselves with an answer that was lost.
                    return match self.look().await? {
                        Seen::Ours(etag) => Ok(self.finished(etag, true)),
                        Seen::Other | Seen::Unreadable => Err(Halt::Stop(trouble)),
                    };
                }
                Err(halt) => return Err(halt),
            }
            match self.look().await? {
                Seen::Ours(etag) => return Ok(self.finished(etag, true)),
                Seen::Unreadable => return Ok(self.finished(None, false)),
                Seen::Other => self.acknowledged.clear(),
            }
        }
        Err(permanent(Kind::Transfer, "the blob does not become what was sent: somebody else writes to the slot")
            .into())
    }

    fn finished(&self, etag: Option<String>, is_verified: bool) -> Uploaded {
        self.hooks.progress(self.package.size, self.package.size);
        let peak_blocks = self.buffers.most.load(Ordering::SeqCst);
        Uploaded { etag, is_verified, sent: self.sent, resumed: self.resumed, peak_blocks }
    }

    /// Bytes that the service has.
    fn done(&self) -> u64 {
        self.acknowledged.iter().map(|index| self.plan.block(*index).length).sum()
    }

    async fn single_shot(&mut self) -> Result<Next, Halt> {
        let md5 = self.package.md5.clone();
        let headers = [
            ("x-ms-blob-type", "BlockBlob"),
            ("content-type", "application/octet-stream"),
            ("content-md5", md5.as_str()),
            ("x-ms-blob-content-md5", md5.as_str()),
        ];
        let payload = Payload::File(self.package.path.clone(), self.package.size);
        let answer = match self.call("Put Blob", Method::PUT, &[], &headers, payload, true).await {
            Ok(answer) => answer,
            Err(Halt::Stop(trouble)) if trouble.action == Action::Shrink => {
                self.in_blocks = true;
                return Ok(Next::Again);
            }
            Err(Halt::Stop(trouble)) if trouble.action == Action::Resync => return Ok(Next::Again),
            Err(halt) => return Err(halt),
        };
        if trouble::text(&answer.headers, "content-md5").is_some_and(|echo| echo != md5) {
            return Ok(Next::Again);
        }
        self.sent = self.package.size;
        Ok(Next::Verify)
    }

    async fn blocks(&mut self, round: u32) -> Result<Next, Halt> {
        if let Some(list) = self.read_list().await? {
            if round == 0 && self.plan.is_committed_by(&list) {
                self.resumed = self.package.size;
                return Ok(Next::Verify);
            }
            let (plan, kept) = self.plan.resume(&list);
            self.plan = plan;
            self.acknowledged = kept;
        }
        if round == 0 {
            self.resumed = self.done();
        }
        self.hooks.progress(self.done(), self.package.size);
        loop {
            match self.send_missing().await {
                Ok(()) => return self.commit().await,
                Err(Halt::Stop(trouble)) => match trouble.action {
                    Action::NewSas => self.renew(&trouble).await?,
                    Action::Shrink => {
                        self.plan = self.plan.shrunk().ok_or_else(|| trouble.permanent())?;
                        self.acknowledged.clear();
                        self.tries.clear();
                        return Ok(Next::Again);
                    }
                    Action::Resync if !self.was_cleared => {
                        self.clear().await?;
                        return Ok(Next::Again);
                    }
                    Action::Resync | Action::Verify | Action::Permanent | Action::Retry | Action::RetryOnce => {
                        return Err(Halt::Stop(trouble));
                    }
                },
                Err(halt) => return Err(halt),
            }
        }
    }

    /// The service's block list; `None` when the URL does not let us read.
    async fn read_list(&mut self) -> Result<Option<BlockList>, Halt> {
        if !self.can_read {
            return Ok(None);
        }
        let parameters = [("comp", "blocklist"), ("blocklisttype", "all")];
        match self.call("Get Block List", Method::GET, &parameters, &[], Payload::Nothing, false).await {
            Ok(answer) => block_list::read(&answer.body).map(Some).ok_or_else(|| {
                transient(Kind::BadAnswer, "blob storage answered Get Block List with something that is none").into()
            }),
            Err(Halt::Stop(trouble)) if trouble.action == Action::Resync => Ok(Some(BlockList::default())),
            Err(Halt::Stop(trouble)) if is_unreadable(&trouble) => {
                self.can_read = false;
                Ok(None)
            }
            Err(halt) => Err(halt),
        }
    }

    /// Throws away what somebody left with ids of another length (blob-upload 8, step 4).
    async fn clear(&mut self) -> Result<(), Halt> {
        self.was_cleared = true;
        self.acknowledged.clear();
        self.put_list(&[], None).await.map(|_| ())
    }

    async fn commit(&mut self) -> Result<Next, Halt> {
        recheck(self.package, self.settings).await?;
        let md5 = self.package.md5.clone();
        match self.put_list(&self.plan.ids(), Some(&md5)).await {
            Ok(_) => Ok(Next::Verify),
            Err(Halt::Stop(trouble)) if trouble.action == Action::Resync => {
                self.missing_blocks += 1;
                self.acknowledged.clear();
                if self.missing_blocks > self.settings.commit_rounds {
                    return Err(Halt::Stop(trouble));
                }
                Ok(Next::Again)
            }
            Err(halt) => Err(halt),
        }
    }

    async fn put_list(&mut self, ids: &[String], content_md5: Option<&str>) -> Result<Answer, Halt> {
        let xml = block_list::write(ids);
        let md5 = md5_of(xml.as_bytes());
        let mut headers = vec![
            ("content-type", "application/xml"),
            ("content-md5", md5.as_str()),
            ("x-ms-blob-content-type", "application/octet-stream"),
        ];
        headers.extend(content_md5.map(|md5| ("x-ms-blob-content-md5", md5)));
        let payload = Payload::Bytes(Bytes::from(xml));
        self.call("Put Block List", Method::PUT, &[("comp", "blocklist")], &headers, payload, true).await
    }

    /// Length and MD5 as the service has them (blob-upload 8, step 6).
    async fn look(&mut self) -> Result<Seen, Halt> {
        if !self.can_read {
            return Ok(Seen::Unreadable);
        }
        let answer = match self.call("Get Blob Properties", Method::HEAD, &[], &[], Payload::Nothing, false).await {
            Ok(answer) => answer,
            // A HEAD has no body, so a 404 may come without its code.
            Err(Halt::Stop(trouble)) if trouble.status == Some(404) => return Ok(Seen::Other),
            Err(Halt::Stop(trouble)) if is_unreadable(&trouble) => {
                self.can_read = false;
                return Ok(Seen::Unreadable);
            }
            Err(halt) => return Err(halt),
        };
        let length = trouble::text(&answer.headers, "content-length").and_then(|length| length.parse::<u64>().ok());
        let md5 = trouble::text(&answer.headers, "content-md5");
        let is_ours =
            length.is_none_or(|length| length == self.package.size) && md5.is_none_or(|md5| md5 == self.package.md5);
        Ok(if is_ours { Seen::Ours(trouble::text(&answer.headers, "etag")) } else { Seen::Other })
    }

    /// One request, repeated as its answers ask; what is not a matter of repeating comes back as `Stop`.
    async fn call(
        &mut self,
        what: &'static str,
        method: Method,
        parameters: &[(&str, &str)],
        headers: &[(&'static str, &str)],
        payload: Payload,
        replaces: bool,
    ) -> Result<Answer, Halt> {
        let mut tries = Tries::default();
        loop {
            if self.hooks.out_of_time() {
                return Err(Halt::Paused);
            }
            self.renew_near_end().await?;
            // ORDER: asked last before the request, so that a worker that was overtaken does not replace the blob.
            if replaces && !self.may_replace().await? {
                return Err(Halt::NotHolder);
            }
            let request = Request { what, method: method.clone(), parameters, headers, payload: payload.clone() };
            let is_file = matches!(payload, Payload::File(..));
            let (hooks, total) = (self.hooks, self.package.size);
            let moved = |bytes: u64| {
                if is_file {
                    hooks.progress(bytes.min(total), total);
                }
            };
            let trouble = match blob::send(self.http, self.settings, self.renewal.sas(), request, moved).await {
                Ok(answer) => {
                    self.renewal.heard(trouble::date(&answer.headers), true);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            self.renewal.heard(trouble.date, false);
            match trouble.action {
                Action::Retry | Action::RetryOnce => {
                    let delay = self.next_try(&trouble, &mut tries).await?;
                    sleep(delay).await;
                }
                Action::NewSas if method == Method::HEAD && trouble.status == Some(404) => {
                    return Err(Halt::Stop(trouble));
                }
                Action::NewSas => self.renew(&trouble).await?,
                Action::Resync | Action::Shrink | Action::Verify | Action::Permanent => {
                    return Err(Halt::Stop(trouble));
                }
            }
        }
    }

    /// Counts a try and says how long to wait for the next.
    async fn next_try(&mut self, trouble: &Trouble, tries: &mut Tries) -> Result<Duration, Halt> {
        if trouble.action == Action::RetryOnce {
            if tries.had_second_chance {
                return Err(Halt::Stop(trouble.clone()));
            }
            tries.had_second_chance = true;
            recheck(self.package, self.settings).await?;
        }
        tries.spent += 1;
        Ok(trouble.backoff(self.settings, tries.spent, self.hooks.chance())?)
    }

    async fn may_replace(&self) -> Result<bool, Halt> {
        timeout(self.settings.request_timeout, self.hooks.may_replace())
            .await
            .map_err(|_| transient(Kind::Timeout, "no answer in time to whether we still hold the job").into())
    }

    async fn renew_near_end(&mut self) -> Result<(), Halt> {
        let rest = self.plan.count().saturating_sub(u32::try_from(self.acknowledged.len()).unwrap_or(u32::MAX));
        if self.renewal.is_near_end(if self.in_blocks { rest } else { 1 }, self.lanes) {
            let before = self.renewal.sas().clone();
            self.renewal.early().await?;
            return self.same_blob(&before);
        }
        Ok(())
    }

    async fn renew(&mut self, trouble: &Trouble) -> Result<(), Halt> {
        let before = self.renewal.sas().clone();
        self.renewal.after_refusal(trouble).await?;
        self.same_blob(&before)
    }

    fn same_blob(&mut self, before: &Sas) -> Result<(), Halt> {
        self.can_read = self.can_read && self.renewal.sas().can_read();
        if self.renewal.sas().same_target(before) { Ok(()) } else { Err(Halt::OtherBlob) }
    }
}

/// Does this answer say that the URL does not let us read?
fn is_unreadable(trouble: &Trouble) -> bool {
    trouble.code == "AuthorizationPermissionMismatch"
}

#[path = "flight.rs"]
mod flight;

#[cfg(test)]
#[path = "upload_tests.rs"]
mod tests;
