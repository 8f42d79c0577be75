//! Packages: sources, checks, blobs and sinks, as the engine asks for them.

use std::{
    collections::VecDeque,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{keys, settings, spool::Spool};
use crate::{
    clock,
    config::Settings,
    domain::{
        failure::{Cause, Failure, Kind},
        ids::Sha256,
        job::{Job, PackageSpec},
        service::SignedUrl,
        ticket::{Downloaded, PackageFacts},
    },
    engine::ports::{self, Fetch, Fetched, TransferHooks, Upload},
    http,
    package::{
        preflight,
        verify::{self, Submission},
    },
    seal::Keyring,
    telemetry::{Direction, Metrics},
    transfer::{
        self, LocalPackage, download,
        pace::{Pace, limited},
        sink::SinkRules,
        source, upload,
    },
};

/// Packages whose hashes are remembered from preflight to verification; more are read again.
const REMEMBERED: usize = 8;

/// Everything that moves packages.
pub struct Packages {
    fetcher: source::Fetcher,
    rules: source::SourceRules,
    limits: source::Limits,
    sinks: SinkRules,
    transfer: transfer::Settings,
    uploads: http::Client,
    downloads: http::Client,
    keys: Keyring,
    spool: Arc<Spool>,
    known: Mutex<VecDeque<(String, LocalPackage)>>,
    metrics: Metrics,
    longest: Duration,
}

impl fmt::Debug for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packages").field("rules", &self.rules).field("sinks", &self.sinks).finish_non_exhaustive()
    }
}

impl Packages {
    /// # Errors
    /// [`Failure::Permanent`] when no client can be built.
    pub(super) fn new(told: &Settings, keys: Keyring, spool: Spool, metrics: Metrics) -> Result<Self, Failure> {
        let internal = |error: http::Error| Failure::Permanent(Cause::new(Kind::Internal, error.to_string()));
        let rules = settings::sources(told).map_err(internal)?;
        let (connections, transfer) = (settings::http(told), settings::transfer(told));
        let received = http::Stream::Received { idle: transfer.idle_timeout };
        let sent = http::Stream::Sent { stall: transfer.stall_timeout };
        let builder = http::stream_builder(&connections, received).map_err(internal)?;
        Ok(Self {
            fetcher: source::Fetcher::new(builder, rules.clone())?,
            rules,
            limits: settings::source_limits(told),
            longest: told.longest_package_call(),
            sinks: settings::sinks(told),
            uploads: http::stream_client(&connections, sent).map_err(internal)?,
            downloads: http::stream_client(&connections, received).map_err(internal)?,
            transfer,
            keys,
            spool: Arc::new(spool),
            known: Mutex::default(),
            metrics,
        })
    }

    /// Removes what processes that are gone have left.
    pub(super) fn sweep_spools(&self) {
        if let Err(error) = self.spool.sweep() {
            tracing::warn!(path = %self.spool.folder().display(), %error, "what others have spooled could not be looked at");
        }
    }

    /// Is this a source that may be read, as far as its text tells?
    ///
    /// # Errors
    /// [`Failure::Permanent`], kind source.
    pub fn check_source(&self, spec: &PackageSpec) -> Result<(), Failure> {
        refuse_credential(spec)?;
        self.rules.check(&self.open(spec)?)
    }

    /// Is this a folder that downloads may be written to? Leaves nothing behind.
    ///
    /// # Errors
    /// [`Failure`], kind sink or local I/O.
    pub async fn check_sink(&self, folder: &str) -> Result<(), Failure> {
        let (sinks, folder) = (self.sinks.clone(), folder.to_owned());
        self.on_file(Path::new(&folder.clone()), move |_| sinks.permit(&folder)).await
    }

    /// All that one call does. Each part has a limit of its own; this one keeps their sum within what the settings promise:
    /// no delivery lasts as long as the memory is in grace.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        // Every part of a call may be dropped at any await.
        timeout(self.longest, call).await.unwrap_or_else(|_| {
            let message = format!(
                "the package's source and files have taken longer than {:?}: see [transfer] source_timeout and file_timeout",
                self.longest
            );
            Err(Failure::Transient(Cause::new(Kind::LocalIo, message)))
        })
    }

    /// Work on a file, left behind when it shows no sign of life.
    async fn on_file<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&Pace) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        limited(self.transfer.file_timeout, path, work).await
    }

    fn open(&self, spec: &PackageSpec) -> Result<String, Failure> {
        keys::open_source(&self.keys, &spec.source).map_err(|error| {
            let message = format!("the source's signed query cannot be opened: {error}");
            Failure::Permanent(Cause::new(Kind::Source, message))
        })
    }

    /// The package on this machine; a source that was read before is not read again.
    async fn local(&self, spec: &PackageSpec, expected: Option<&Sha256>) -> Result<LocalPackage, Failure> {
        let remembered = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().find(|(source, _)| *source == spec.source).map(|(_, package)| package.clone())
        };
        let is_expected = |package: &LocalPackage| expected.is_none_or(|hash| *hash == package.sha256);
        if let Some(package) = remembered.filter(is_expected) {
            let check = package.clone();
            if self.on_file(&package.path, move |pace| check.recheck(pace)).await.is_ok() {
                return Ok(package);
            }
        }
        let url = self.open(spec)?;
        let spool = Arc::clone(&self.spool);
        self.on_file(self.spool.folder(), move |_| ready(&spool)).await?;
        let package = self.fetcher.fetch(&url, self.spool.folder(), self.limits).await?;
        if let Some(expected) = expected.filter(|hash| **hash != package.sha256) {
            let message = format!("the source changed: its SHA-256 should be {expected} and is {}", package.sha256);
            return Err(Failure::Permanent(Cause::new(Kind::Source, message)));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(source, _)| *source != spec.source);
        known.push_back((spec.source.clone(), package.clone()));
        if known.len() > REMEMBERED {
            known.pop_front();
        }
        Ok(package)
    }

    /// Reads and checks a package; what `preflight` and `submit` tell a person in full.
    ///
    /// # Errors
    /// [`Inspection`] keeps the findings apart from other failures.
    pub async fn look_into(
        &self,
        spec: &PackageSpec,
        product: Option<&Map<String, Value>>,
    ) -> Result<(PackageFacts, preflight::Report), Inspection> {
        let package = self.local(spec, spec.sha256.as_ref()).await.map_err(Inspection::Failed)?;
        let facts = PackageFacts { sha256: package.sha256, size: package.size, files: 0, inf_files: 0 };
        let (harness, signatures) = wanted(product);
        let path = package.path.clone();
        let checking = move |pace: &Pace| preflight::check_paced(&path, &harness, &signatures, pace);
        let report =
            (self.on_file(&package.path, checking).await).map_err(Inspection::Failed)?.map_err(Inspection::Refused)?;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let facts = PackageFacts { files: count(report.files), inf_files: count(report.inf_files.len()), ..facts };
        Ok((facts, report))
    }

    /// The package as it was submitted, to compare with. The source may be gone by now: a build agent's folder, a URL that
    /// ran out. That is no fault of the signed package.
    async fn submission(&self, spec: &PackageSpec, facts: &PackageFacts) -> Result<Submission, Failure> {
        let local = match self.local(spec, Some(&facts.sha256)).await {
            Ok(local) => local,
            Err(Failure::Permanent(cause)) if cause.kind == Kind::Source => {
                return Ok(Submission::unread(verify::GONE.to_owned()));
            }
            Err(failure) => return Err(failure),
        };
        let path = local.path.clone();
        // With the package itself: one that was spooled goes with its last user.
        self.on_file(&path, move |pace| Submission::read(&local.path, pace)).await
    }

    /// Reads and hashes a package without looking into it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn measure(&self, spec: &PackageSpec) -> Result<PackageFacts, Failure> {
        let package = self.local(spec, spec.sha256.as_ref()).await?;
        Ok(PackageFacts { sha256: package.sha256, size: package.size, files: 0, inf_files: 0 })
    }
}

/// Why a package was not accepted.
#[derive(Debug)]
pub enum Inspection {
    /// It breaks rules.
    Refused(preflight::Refusal),
    /// It could not be read.
    Failed(Failure),
}

fn refuse_credential(spec: &PackageSpec) -> Result<(), Failure> {
    let message = "a credential beside a source is not available in this version; use a signed URL";
    if spec.credential.is_some() { Err(Failure::Permanent(Cause::new(Kind::Source, message))) } else { Ok(()) }
}

/// What to compare a signed package with when its source may not answer: a later attempt may find it, and after the last one
/// a good package is not kept from its name. `lies_at` is where the signed one lies meanwhile.
fn comparable(read: Result<Submission, Failure>, is_last: bool, lies_at: &Path) -> Result<Submission, Failure> {
    match read {
        Err(Failure::Transient(cause)) if is_last => Ok(Submission::unread(format!(
            "the submitted package could not be read in any attempt ({cause}); the signed one was not compared with it"
        ))),
        Err(Failure::Transient(cause)) => {
            let message = format!("{cause}; the signed package waits for its comparison at {}", lies_at.display());
            Err(Failure::Transient(Cause { message, ..cause }))
        }
        read => read,
    }
}

/// Test harness and OS codes of the product to be made.
fn wanted(product: Option<&Map<String, Value>>) -> (String, Vec<String>) {
    let member = |name: &str| product.and_then(|members| members.get(name));
    let harness = member("testHarness").and_then(Value::as_str).unwrap_or_default().to_owned();
    let signatures = member("requestedSignatures").and_then(Value::as_array).into_iter().flatten();
    (harness, signatures.filter_map(Value::as_str).map(str::to_owned).collect())
}

fn ready(spool: &Spool) -> Result<(), Failure> {
    spool.ready().map_err(|error| {
        let message = format!("the folder {} cannot be made: {error}", spool.folder().display());
        Failure::Transient(Cause::new(Kind::LocalIo, message))
    })
}

/// What a transfer asks, answered by the engine; the first URL is the one the engine has at hand.
struct Hooks<'a, H> {
    engine: &'a H,
    first: Mutex<Option<SignedUrl>>,
}

impl<'a, H> Hooks<'a, H> {
    const fn new(engine: &'a H, first: SignedUrl) -> Self {
        Self { engine, first: Mutex::new(Some(first)) }
    }
}

impl<H: TransferHooks> transfer::Hooks for Hooks<'_, H> {
    async fn fresh_url(&self) -> Result<SignedUrl, Failure> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some(url) => Ok(url),
            None => self.engine.fresh_url().await,
        }
    }

    async fn may_replace(&self) -> bool {
        self.engine.may_replace().await
    }

    fn out_of_time(&self) -> bool {
        self.engine.is_out_of_time()
    }

    fn progress(&self, done: u64, total: u64) {
        self.engine.progress(done, total);
    }

    fn chance(&self) -> f64 {
        clock::chance()
    }
}

impl ports::Packages for Packages {
    fn seal(&self, job: &mut Job) -> Result<(), ports::Unavailable> {
        let Some(source) = job.spec.pointer_mut("/package/source") else { return Ok(()) };
        let Some(text) = source.as_str() else { return Ok(()) };
        let sealed = keys::seal_source(&self.keys, text);
        *source = sealed.map_err(|error| ports::Unavailable { what: "sealing", why: error.to_string() })?.into();
        Ok(())
    }

    async fn inspect(
        &self,
        package: &PackageSpec,
        product: Option<&Map<String, Value>>,
    ) -> Result<(PackageFacts, Vec<String>), Failure> {
        refuse_credential(package)?;
        let inspected = async {
            if !package.preflight {
                return self.measure(package).await.map(|facts| (facts, Vec::new()));
            }
            match self.look_into(package, product).await {
                Ok((facts, report)) => Ok((facts, report.warnings)),
                Err(Inspection::Failed(failure)) => Err(failure),
                Err(Inspection::Refused(refusal)) => {
                    Err(Failure::Permanent(Cause::new(Kind::Preflight, refusal.to_string())))
                }
            }
        };
        self.in_time(inspected).await
    }

    async fn upload<H: TransferHooks>(
        &self,
        package: &PackageSpec,
        facts: &PackageFacts,
        slot: SignedUrl,
        hooks: &H,
    ) -> Result<Upload, Failure> {
        let uploaded = async {
            let local = self.local(package, Some(&facts.sha256)).await?;
            let hooks = Hooks::new(hooks, slot);
            match upload::upload(&self.uploads, &self.transfer, &local, &hooks).await? {
                upload::Outcome::Uploaded(uploaded) => {
                    self.metrics.transferred(Direction::Upload, uploaded.sent);
                    Ok(Upload::Done { bytes: local.size })
                }
                upload::Outcome::Paused { .. } => Ok(Upload::Paused),
                upload::Outcome::NotHolder => Ok(Upload::NotHolder),
            }
        };
        self.in_time(uploaded).await
    }

    async fn download<H: TransferHooks>(
        &self,
        fetch: &Fetch<'_>,
        url: SignedUrl,
        hooks: &H,
    ) -> Result<Fetched, Failure> {
        self.in_time(self.fetched(fetch, url, hooks)).await
    }
}

impl Packages {
    async fn fetched<H: TransferHooks>(
        &self,
        fetch: &Fetch<'_>,
        url: SignedUrl,
        hooks: &H,
    ) -> Result<Fetched, Failure> {
        let (sinks, folder, name) = (self.sinks.clone(), fetch.spec.to.clone(), file_name(fetch));
        let target = self.on_file(Path::new(&fetch.spec.to), move |_| sinks.resolve(&folder, &name)).await?;
        let wanted = download::Wanted { target, max_bytes: self.limits.max_bytes, overwrite: fetch.spec.overwrite };
        let hooks = Hooks::new(hooks, url);
        let ready = match download::fetch(&self.downloads, &self.transfer, &wanted, &hooks).await? {
            download::Fetched::Ready(ready) => ready,
            download::Fetched::Paused { .. } => return Ok(Fetched::Paused),
        };
        self.metrics.transferred(Direction::Download, ready.size());
        // ORDER: compared before it gets its name; what lies under a package's name is that package.
        let (file, verified) = match fetch.submitted {
            None => ready.place(|_, _| Ok(None)).await?,
            Some((submitted, facts)) => {
                let submission = self.submission(submitted, facts).await;
                let submission = comparable(submission, fetch.is_last_attempt, ready.lies_at())?;
                ready.place(move |signed, pace| verify::verify_paced(signed, submission, pace).map(Some)).await?
            }
        };
        let is_verified = verified.as_ref().is_some_and(|of| of.warnings.is_empty() && !of.inf_files.is_empty());
        let warnings = verified.map(|of| of.warnings).unwrap_or_default();
        let unverified = warnings.first().cloned();
        let (kind, path) = (fetch.kind.to_owned(), file.path.display().to_string());
        let file = Downloaded { kind, path, sha256: file.sha256, size: file.size, is_verified, unverified };
        Ok(Fetched::Done { file, warnings })
    }
}

/// A name that says kind and submission, so that two jobs may share a folder.
fn file_name(fetch: &Fetch<'_>) -> String {
    let kind: String = fetch.kind.chars().filter(char::is_ascii_alphanumeric).collect();
    let extension = match kind.to_ascii_lowercase().as_str() {
        "signedpackage" => "zip",
        "drivermetadata" => "json",
        "certificationreport" => "pdf",
        "initialpackage" | "derivedpackage" => "package",
        _ => "bin",
    };
    format!("{kind}-{}.{extension}", fetch.submission)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ids::{ProductId, SubmissionId},
        job::DownloadSpec,
    };

    fn packages(dir: &Path) -> Packages {
        let keys = Keyring::new([zeroize::Zeroizing::new([7; crate::seal::KEY_BYTES])]).unwrap();
        let spool = Spool::new(dir.join("spool"));
        Packages::new(&crate::config::defaults(), keys, spool, Metrics::new().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_source_that_does_not_answer_keeps_a_signed_package_from_its_name_until_the_last_attempt() {
        let dir = tempfile::tempdir().unwrap();
        // Nobody listens there any more.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let spec = PackageSpec {
            source: format!("http://{address}/nic.cab"),
            sha256: None,
            preflight: true,
            credential: None,
        };
        let facts = PackageFacts { sha256: Sha256::of(b"x"), size: 1, files: 1, inf_files: 1 };
        let packages = packages(dir.path());
        let lies_at = dir.path().join(".signed.zip.part");

        let early = comparable(packages.submission(&spec, &facts).await, false, &lies_at).unwrap_err();
        assert!(matches!(&early, Failure::Transient(cause) if cause.kind == Kind::NotSent), "{early:?}");
        assert!(early.to_string().contains(".signed.zip.part"), "{early}");

        let last = comparable(packages.submission(&spec, &facts).await, true, &lies_at).unwrap();
        let signed = dir.path().join("signed.zip");
        let mut zip = zip::ZipWriter::new(std::fs::File::create(&signed).unwrap());
        zip.start_file("nic.cat", zip::write::SimpleFileOptions::default()).unwrap();
        zip.finish().unwrap();
        let verified = verify::verify_paced(&signed, last, &Pace::default()).unwrap();
        assert!(verified.inf_files.is_empty() && verified.warnings[0].contains("was not compared"), "{verified:?}");
    }

    #[tokio::test]
    async fn a_call_ends_with_its_time_whatever_its_source_does() {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = PackageSpec {
            source: format!("http://{}/nic.cab", listener.local_addr().unwrap()),
            sha256: None,
            preflight: true,
            credential: None,
        };
        let packages = Packages { longest: Duration::from_millis(50), ..packages(dir.path()) };
        // The connection is taken by the system and never answered; an answer alone may take longer.
        let failure = ports::Packages::inspect(&packages, &spec, None).await.unwrap_err();
        assert!(matches!(&failure, Failure::Transient(_)), "{failure:?}");
        assert!(failure.to_string().contains("[transfer] source_timeout and file_timeout"), "{failure}");
    }

    #[test]
    fn a_downloads_name_says_kind_and_submission_and_is_a_plain_name() {
        let spec = DownloadSpec { to: "file:///out/".into(), kinds: Vec::new(), overwrite: false };
        let name = |kind| {
            let (product, submission) = (ProductId::new(1), SubmissionId::new(1_152_921_504_606_846_977));
            file_name(&Fetch { product, submission, kind, spec: &spec, submitted: None, is_last_attempt: false })
        };
        assert_eq!(name("signedPackage"), "signedPackage-1152921504606846977.zip");
        assert_eq!(name("driverMetadata"), "driverMetadata-1152921504606846977.json");
        for kind in ["signedPackage", "../../etc/passwd", "a b"] {
            assert!(transfer::sink::is_plain_name(&name(kind)), "{kind}");
        }
    }
}
