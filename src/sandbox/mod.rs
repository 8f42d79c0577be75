//! The sandbox: the Microsoft services that Longshore calls, simulated on loopback.
//!
//! It serves the token endpoint, the hardware API and the blob storage as the contracts describe them (`hardware-api.md`
//! section 15, `identity.md` section 12, `blob-upload.md` section 12), misbehaves on demand and keeps a journal of
//! effects. It shares no type with the client: a mistake in one must not hide in the other.
//!
//! Two clocks: what the service does in its own time (workflow steps, metadata, list lag) follows a virtual clock that
//! can be sped up and moved; what the caller is handed as time (token life, SAS expiry, `Retry-After`, `Date`,
//! `createdDateTime`) is real time. Control lives below `/_sim/`.
//!
//! Left to later steps: shipping labels, audiences, pre-production signing, the Store services.

mod api;
mod assertion;
mod blob;
mod blob_ops;
mod connection;
mod control;
mod errors;
mod faults;
mod inf;
mod journal;
mod operation;
mod options;
mod package;
mod products;
mod route;
mod sas;
mod state;
mod store;
mod submissions;
#[cfg(test)]
mod tests;
mod token;
mod verdict;
mod wire;
mod workflow;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use faults::{Fault, FaultKind, Match, Params, ThrottleStyle};
pub use options::{Account, ClientSecret, Options, SasKind};

use state::{App, State};
use store::Folder;

/// How long a stop waits for requests in progress.
const DRAIN: Duration = Duration::from_secs(2);

/// Why a sandbox does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not loopback, and nobody allowed that.
    #[error("the sandbox listens on loopback only, not on {0}; `allow_remote` changes that")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The folder for blobs cannot be used.
    #[error("cannot use the sandbox's folder")]
    Folder(#[source] io::Error),
    /// An account cannot be used.
    #[error("account `{0}`: {1}")]
    Account(String, String),
    /// An option is out of its range.
    #[error("option `{0}`: {1}")]
    Option(&'static str, &'static str),
    /// A fault cannot be set.
    #[error("fault: {0}")]
    Fault(String),
}

/// What every request shares.
struct Shared {
    options: Options,
    address: SocketAddr,
    folder: Arc<Folder>,
    state: Mutex<State>,
    token_key: [u8; 32],
    sas_key: [u8; 32],
    /// Milliseconds that the service's clock is ahead of ours.
    offset_ms: AtomicI64,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// How many packages are being looked at.
    inspections: watch::Sender<usize>,
}

impl Shared {
    /// The memory. Nothing in it is half-written when a holder panics, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service's clock.
    fn now(&self) -> Timestamp {
        let now = crate::clock::now();
        now.saturating_add(SignedDuration::from_millis(self.offset_ms.load(Ordering::Relaxed))).unwrap_or(now)
    }

    fn is_clock_off(&self) -> bool {
        self.offset_ms.load(Ordering::Relaxed) != 0
    }

    fn set_offset(&self, seconds: i64) {
        self.offset_ms.store(seconds.clamp(-1_000_000_000, 1_000_000_000).saturating_mul(1000), Ordering::Relaxed);
    }

    /// Scheme and host of URLs handed out: as configured, or as the caller named us, so that a proxy stays in between.
    fn base(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.options.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_host = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".:-[]".contains(c));
        if is_host { format!("http://{host}") } else { format!("http://{}", self.address) }
    }

    /// Waits, but not longer than the sandbox lives.
    async fn pause(&self, length: Duration) {
        tokio::select! {
            () = tokio::time::sleep(length) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Seconds from outside as a duration; what is no duration is none.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// A running sandbox. Dropped without [`Sandbox::stop`] it stops by itself, without waiting for requests in progress.
pub struct Sandbox {
    shared: Arc<Shared>,
    _stop: tokio_util::sync::DropGuard,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Starts a sandbox; it serves from when this returns.
    ///
    /// # Errors
    ///
    /// The address or the folder cannot be used, or an option or account makes no sense.
    pub async fn start(mut options: Options) -> Result<Self, Error> {
        check(&options)?;
        let folder = Arc::new(Folder::open(options.data_dir.as_deref()).map_err(Error::Folder)?);
        if options.accounts.is_empty() {
            options.accounts.push(Account::new(
                "sandbox",
                "11111111-2222-4333-8444-555555555555",
                "66666666-7777-4888-8999-aaaaaaaaaaaa",
            ));
        }
        let apps = apps(&mut options.accounts, folder.path())?;
        let listener = TcpListener::bind(options.listen).await.map_err(|error| Error::Listen(options.listen, error))?;
        let address = listener.local_addr().map_err(|error| Error::Listen(options.listen, error))?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(&options, apps)),
            address,
            folder,
            token_key: crate::clock::random_bytes(),
            sas_key: crate::clock::random_bytes(),
            offset_ms: AtomicI64::new(0),
            tracker: TaskTracker::new(),
            stop: stop.clone(),
            inspections: watch::Sender::new(0),
            options,
        });
        shared.set_offset(shared.options.clock_offset_seconds);
        let router = axum::Router::new().fallback(route::serve).with_state(Arc::clone(&shared));
        let service = router.into_make_service_with_connect_info::<connection::Line>();
        let serve =
            axum::serve(connection::Listener(listener), service).with_graceful_shutdown(stop.clone().cancelled_owned());
        shared.tracker.spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the sandbox stopped serving");
            }
        });
        tracing::info!(%address, "sandbox is ready");
        Ok(Self { shared, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Its URL, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        self.shared.options.public_url.clone().unwrap_or_else(|| format!("http://{}", self.shared.address))
    }

    /// Where it keeps what it is sent; removed with it when nobody named it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.shared.folder.path()
    }

    /// A configuration for a worker that points at this sandbox, in TOML. Secrets are in it as references only.
    #[must_use]
    pub fn overlay(&self) -> String {
        let url = self.url();
        let endpoints =
            format!("[endpoints]\nauthority = \"{url}\"\nhardware = \"{url}{}\"\n", self.shared.options.prefix);
        let accounts: Vec<String> = self.shared.lock().apps.iter().map(account_table).collect();
        endpoints + &accounts.concat()
    }

    /// The verdict as it stands: effects per correlation id, and whether the invariants were kept (`clean`).
    #[must_use]
    pub fn verdict(&self) -> Value {
        verdict::verdict(&self.shared.lock())
    }

    /// The journal, oldest entry first.
    #[must_use]
    pub fn journal(&self) -> Value {
        let entries = self.shared.lock().journal.read(&journal::Filter::default());
        serde_json::to_value(entries).unwrap_or_default()
    }

    /// What lets its bearer in: the signatures of the newest tokens and SAS URLs, for tests that look for leaks.
    #[must_use]
    pub fn handed_out(&self) -> Vec<SecretString> {
        self.shared.lock().handed_out().map(SecretString::from).collect()
    }

    /// Sets a fault; says its number.
    ///
    /// # Errors
    ///
    /// The fault could never hit.
    pub fn fault(&self, fault: Fault) -> Result<u64, Error> {
        fault.check().map_err(Error::Fault)?;
        Ok(self.shared.lock().faults.arm(fault))
    }

    /// Moves the virtual clock.
    pub fn advance(&self, by: Duration) {
        self.shared.lock().clock.advance(by);
    }

    /// Waits until every package that was committed has been looked at.
    pub async fn inspected(&self) {
        let mut running = self.shared.inspections.subscribe();
        // An error means that the sandbox is gone, and with it what was waited for.
        running.wait_for(|running| *running == 0).await.ok();
    }

    /// Stops: no new connections, requests in progress may end, a temporary folder is removed.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.shared.tracker.close();
        if tokio::time::timeout(DRAIN, self.shared.tracker.wait()).await.is_err() {
            tracing::warn!("the sandbox stops with requests in progress");
        }
    }
}

/// One account of the overlay.
fn account_table(app: &App) -> String {
    let credential = match &app.secret_reference {
        Some(reference) => format!("credential = {{ secret = {} }}", quoted(reference)),
        None => "# credential: a certificate; name its file here".to_owned(),
    };
    let App { alias, tenant_id, client_id, .. } = app;
    let alias = key(alias);
    format!("\n[accounts.{alias}]\ntenant_id = \"{tenant_id}\"\nclient_id = \"{client_id}\"\n{credential}\n")
}

/// A text as a TOML string: the escapes of JSON are legal there.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A name as a TOML key.
fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if is_bare { name.to_owned() } else { quoted(name) }
}

fn check(options: &Options) -> Result<(), Error> {
    if !options.allow_remote && !options.listen.ip().is_loopback() {
        return Err(Error::NotLoopback(options.listen));
    }
    if !(0.0..=1e9).contains(&options.speed) {
        return Err(Error::Option("speed", "is a number from 0 to 1e9"));
    }
    if !options.prefix.starts_with('/') || options.prefix.ends_with('/') {
        return Err(Error::Option("prefix", "starts with a slash and does not end in one"));
    }
    if options.statuses.values().any(|status| !(400..=599).contains(status)) {
        return Err(Error::Option("statuses", "are numbers from 400 to 599"));
    }
    Ok(())
}

/// The applications, with a secret for those that have neither secret nor certificate.
fn apps(accounts: &mut [Account], folder: &Path) -> Result<Vec<App>, Error> {
    let mut apps = Vec::new();
    for (position, account) in accounts.iter_mut().enumerate() {
        let refuse = |text: &str| Error::Account(account.alias.clone(), text.to_owned());
        for id in [&account.tenant_id, &account.client_id] {
            uuid::Uuid::parse_str(id).map_err(|_| refuse("tenant and client id are GUIDs"))?;
        }
        if !account.alias.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(refuse("an alias is made of letters, digits, `-`, `_` and `.`"));
        }
        let certificates = account
            .certificates
            .iter()
            .map(|pem| assertion::Certificate::read(pem).map_err(|text| refuse(&text)))
            .collect::<Result<Vec<_>, _>>()?;
        if account.secrets.is_empty() && certificates.is_empty() {
            let secret = store::hex(&crate::clock::random_bytes::<24>());
            account.secrets.push(ClientSecret::new(&secret));
        }
        let mut reference = account.secret_reference.clone();
        if let (None, Some(secret)) = (&reference, account.secrets.first()) {
            let path = folder.join(format!("{}.secret", account.alias));
            write_private(&path, secret.value.expose_secret().as_bytes()).map_err(Error::Folder)?;
            let path = std::path::absolute(&path).map_err(Error::Folder)?;
            reference = Some(format!("file:{}", path.display()));
        }
        let seller = 55_500_111_u64.saturating_add(u64::try_from(position).unwrap_or_default());
        apps.push(App::new(account, certificates, reference, seller));
    }
    Ok(apps)
}

/// Writes a file that only its owner can read, where the system knows such files.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    io::Write::write_all(&mut options.open(path)?, bytes)
}
