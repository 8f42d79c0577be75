//! The memory of the fleet: records, turns, listings, quota and sealed tokens in Redis.
//!
//! Promises: nothing here is needed for safety. All of it may vanish or step back at any moment: the birth mark and the
//! server's replication id name the memory's life, every record is written in one, and what belongs to another life counts
//! as unknown. Every operation is one script, atomic, on the server's own clock. No key but the birth mark lives without
//! an end. Every command ends by a time-out, and after one the connection is made anew.
//!
//! Left to others: what a record means (`domain/claim.rs`), when to ask (`engine`), sealing of tokens (`identity`). Only
//! this folder names the crate `redis`.

mod canary;
mod exam;
mod known;
mod link;
mod listings;
mod memory;
mod quota;
mod rates;
mod scripts;
mod tokens;
mod turns;
mod view;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::redis::{FromRedisValue, ScriptInvocation};

use crate::{
    clock::Shift,
    domain::{
        ids::{AccountName, JobKey},
        quota::Limits,
    },
    engine::ports::Unavailable,
    telemetry::FleetMetrics,
};

pub use self::{
    exam::{Exam, Mark},
    link::{Address, Error, Node, Sentinel, Server, Tls},
    memory::Written,
    quota::Told,
    rates::Rates,
    view::{Shown, TicketFacts},
};
use self::{known::Known, link::Link, scripts::Scripts};

/// How the memory is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// What every key begins with.
    pub prefix: String,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub response_timeout: Duration,
    /// How long a record stays after it was last touched.
    pub retention: Duration,
    /// How long what people are shown of a job stays after it was last written.
    pub shown_for: Duration,
    /// How long a turn lasts at most, counted from its stamp, else from its taking.
    pub turn_for: Duration,
    /// How long a whole listing may be read.
    pub listing_for: Duration,
    /// How long the right to read on lasts without a page.
    pub listing_lease: Duration,
    /// So many failures of one page in a row make a listing one that cannot be read to its end.
    pub page_failures: u32,
    /// Processes that may share the accounts' rates: while the memory is silent, each has its part of them.
    pub max_workers: u32,
    /// What each account is allowed, and in whose name: accounts of one scope share one rate.
    pub accounts: BTreeMap<AccountName, Scope>,
    /// Moves the clock, for tests.
    pub shift: Shift,
    /// Where it is counted what happens here.
    pub metrics: FleetMetrics,
}

/// An account's quota.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// Host, tenant and client id in one word.
    pub name: String,
    /// What is allowed.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: "longshore".to_owned(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
            retention: Duration::from_hours(30 * 24),
            shown_for: Duration::from_hours(30 * 24),
            turn_for: Duration::from_mins(20),
            listing_for: Duration::from_mins(10),
            listing_lease: Duration::from_secs(1_380),
            page_failures: 5,
            max_workers: 16,
            accounts: BTreeMap::new(),
            shift: Shift::default(),
            metrics: FleetMetrics::default(),
        }
    }
}

/// The memory. Cheap to clone: all clones share one connection.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    scripts: Scripts,
    options: Options,
    known: Known,
}

impl Store {
    /// A memory at this address. Connects with its first command, and anew whenever the connection is gone.
    ///
    /// # Errors
    /// [`Error`] when the address or its certificates cannot be used.
    pub fn new(address: &Address, options: Options) -> Result<Self, Error> {
        let timeouts = (options.connect_timeout, options.response_timeout);
        let link = Link::new(address, timeouts, options.metrics.clone())?;
        Ok(Self { inner: Arc::new(Inner { link, scripts: Scripts::new(), options, known: Known::default() }) })
    }

    /// What the server says of itself, as far as it matters here.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn server(&self) -> Result<Server, Unavailable> {
        self.inner.link.server().await
    }

    /// Where the memory is, for people; never a password.
    #[must_use]
    pub fn address(&self) -> &str {
        self.inner.link.place()
    }

    /// Writes the birth mark as clean: nothing was under way before. `only_missing`: unless there is one.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn born_clean(&self, only_missing: bool) -> Result<bool, Unavailable> {
        let mut call = self.inner.scripts.born_clean.prepare_invoke();
        call.key(self.born()).arg(if only_missing { "1" } else { "0" });
        self.run("born_clean", &mut call).await.map(|written: u8| written == 1)
    }

    /// Runs a script, which is counted by its name; its last argument moves its clock.
    async fn run<T: FromRedisValue>(
        &self,
        name: &'static str,
        call: &mut ScriptInvocation<'_>,
    ) -> Result<T, Unavailable> {
        call.arg(self.options().shift.millis());
        self.inner.link.run(name, call).await
    }

    fn options(&self) -> &Options {
        &self.inner.options
    }

    fn key(&self, kind: &str, rest: &str) -> String {
        format!("{}:{kind}:{rest}", self.options().prefix)
    }

    fn born(&self) -> String {
        format!("{}:born", self.options().prefix)
    }

    fn record(&self, job: &JobKey) -> String {
        self.key("job", &job.to_string())
    }

    fn polls(&self, account: &AccountName) -> String {
        self.key("polls", account.as_str())
    }
}

/// An answer that is not what our own scripts give: another program writes under our keys.
fn foreign(what: &str) -> Unavailable {
    Unavailable { what: "memory", why: format!("{what} in Redis is not what Longshore wrote") }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
