//! Everything the simulated services remember, behind one lock that is never held across an await.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::faults::Faults;
use super::journal::Journal;
use super::options::{Account, ClientSecret, Options};
use super::store::Blob;
use super::verdict::Tally;

/// The first product id is one above this.
const PRODUCTS: u64 = 14_300_000_000_000_000;
/// The first shared product, submission and label id is one above this.
const SHARED: u64 = 1 << 60;
/// Signatures that are remembered.
const MOST_HANDED_OUT: usize = 1_000;

/// Time as the service experiences it: workflow steps, metadata and list lag follow it.
#[derive(Debug)]
pub(super) struct VirtualClock {
    then: Instant,
    at: Duration,
    pub(super) speed: f64,
}

impl VirtualClock {
    fn new(speed: f64) -> Self {
        Self { then: crate::clock::monotonic(), at: Duration::ZERO, speed }
    }

    pub(super) fn now(&self) -> Duration {
        let passed = crate::clock::monotonic().saturating_duration_since(self.then).as_secs_f64() * self.speed;
        self.at.saturating_add(Duration::try_from_secs_f64(passed).unwrap_or(Duration::MAX))
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.at = self.at.saturating_add(by);
    }

    pub(super) fn set_speed(&mut self, speed: f64) {
        (self.at, self.then) = (self.now(), crate::clock::monotonic());
        self.speed = speed;
    }
}

/// One application of one directory, as the services know it.
#[derive(Debug)]
pub(super) struct App {
    pub(super) alias: String,
    pub(super) tenant_id: String,
    pub(super) client_id: String,
    pub(super) secrets: Vec<ClientSecret>,
    pub(super) certificates: Vec<super::assertion::Certificate>,
    pub(super) roles: Vec<String>,
    /// All roles are gone for now.
    pub(super) is_unlinked: bool,
    pub(super) secret_reference: Option<String>,
    /// The number at the end of dashboard URLs.
    pub(super) seller_id: u64,
}

impl App {
    pub(super) fn new(
        account: &Account,
        certificates: Vec<super::assertion::Certificate>,
        secret_reference: Option<String>,
        seller_id: u64,
    ) -> Self {
        Self {
            alias: account.alias.clone(),
            tenant_id: account.tenant_id.to_lowercase(),
            client_id: account.client_id.to_lowercase(),
            secrets: account.secrets.clone(),
            certificates,
            roles: account.roles.clone(),
            is_unlinked: false,
            secret_reference,
            seller_id,
        }
    }

    pub(super) fn has_role(&self, role: &str) -> bool {
        !self.is_unlinked && self.roles.iter().any(|own| own.eq_ignore_ascii_case(role))
    }
}

/// A product.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) id: u64,
    pub(super) shared_id: u64,
    pub(super) tenant_id: String,
    pub(super) correlation_id: Option<String>,
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
    /// On the virtual clock: when it shows in lists.
    pub(super) made_at: Duration,
    pub(super) visible_at: Duration,
    pub(super) name: String,
    /// Lower case.
    pub(super) harness: String,
    /// The caller's other members, with their defaults.
    pub(super) members: Map<String, Value>,
}

impl Product {
    pub(super) fn is_flag(&self, name: &str) -> bool {
        self.members.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    pub(super) fn signatures(&self) -> Vec<String> {
        let list = self.members.get("requestedSignatures").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// The two kinds of submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Initial,
    Derived,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Derived => "derived",
        }
    }
}

/// A submission.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) id: u64,
    pub(super) product_id: u64,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) correlation_id: Option<String>,
    pub(super) created: Timestamp,
    pub(super) made_at: Duration,
    pub(super) visible_at: Duration,
    /// The upload slots, the newest last; one unless they move.
    pub(super) slots: Vec<Uuid>,
    pub(super) commit: Option<Commit>,
    pub(super) looks: Looks,
}

/// A commit that took effect.
#[derive(Debug)]
pub(super) struct Commit {
    /// On the virtual clock.
    pub(super) at: Duration,
    pub(super) correlation_id: Option<String>,
    pub(super) inspection: Inspection,
    pub(super) script: Script,
    /// Whether there was anything to commit.
    pub(super) had_blob: bool,
}

/// What became of the package.
#[derive(Debug)]
pub(super) enum Inspection {
    Pending,
    Good(Results),
    Bad { messages: Vec<String>, report: Uuid, sha256: Option<String> },
}

/// What a good package turns into.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) sha256: String,
    pub(super) signed: Uuid,
    pub(super) metadata: Uuid,
    pub(super) shell: Option<Uuid>,
    pub(super) is_extension: bool,
}

/// What was scripted for the workflow of a submission.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// Step and message.
    pub(super) fails: Option<(String, String)>,
    pub(super) review: Option<Hold>,
    pub(super) stuck: Option<String>,
}

/// How long people look at a package.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    For(Duration),
    UntilReleased,
}

/// How the next reads of a submission differ from the truth.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub(super) without_downloads: u32,
    pub(super) without_workflow: u32,
    pub(super) without_signed: u32,
    pub(super) stale: Option<Stale>,
    /// Repeated commits answer 502.
    pub(super) commit_502: bool,
}

/// An old state that some callers keep seeing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    /// Tokens up to this number see it.
    pub(super) token: u64,
    /// When it was, on the virtual clock, which may stand still.
    pub(super) at: Duration,
    pub(super) was_open: bool,
}

/// The whole memory.
#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: VirtualClock,
    pub(super) faults: Faults,
    pub(super) journal: Journal,
    pub(super) tally: Tally,
    pub(super) apps: Vec<App>,
    pub(super) products: BTreeMap<u64, Product>,
    pub(super) submissions: BTreeMap<u64, Submission>,
    pub(super) blobs: HashMap<Uuid, Blob>,
    pub(super) tokens: Tokens,
    seen_jti: HashSet<String>,
    next_product: u64,
    next_shared: u64,
    next_sas: u64,
    handed_out: VecDeque<String>,
}

/// Which tokens are out, and which of them are refused.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    last: u64,
    expired: u64,
    refused: HashSet<u64>,
}

impl Tokens {
    pub(super) fn issue(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn expire_all(&mut self) {
        self.expired = self.last;
        self.refused.clear();
    }

    pub(super) fn expire(&mut self, serial: u64) {
        self.refused.insert(serial);
    }

    pub(super) fn is_refused(&self, serial: u64) -> bool {
        serial <= self.expired || self.refused.contains(&serial)
    }
}

impl State {
    pub(super) fn new(options: &Options, apps: Vec<App>) -> Self {
        Self {
            clock: VirtualClock::new(options.speed),
            faults: Faults::new(options.seed),
            journal: Journal::new(options.journal_entries),
            tally: Tally::default(),
            apps,
            products: BTreeMap::new(),
            submissions: BTreeMap::new(),
            blobs: HashMap::new(),
            tokens: Tokens::default(),
            seen_jti: HashSet::new(),
            next_product: PRODUCTS,
            next_shared: SHARED,
            next_sas: 0,
            handed_out: VecDeque::new(),
        }
    }

    pub(super) fn next_product_id(&mut self) -> u64 {
        self.next_product += 1;
        self.next_product
    }

    pub(super) fn next_shared_id(&mut self) -> u64 {
        self.next_shared += 1;
        self.next_shared
    }

    pub(super) fn next_sas(&mut self) -> u64 {
        self.next_sas += 1;
        self.next_sas
    }

    /// The number of the last SAS that was issued.
    pub(super) fn last_sas(&self) -> u64 {
        self.next_sas
    }

    /// Remembers the signature of a token or SAS URL, its last part: whoever has it may call. The newest are kept.
    pub(super) fn hand_out(&mut self, signed: &str, before_signature: &str) {
        let Some((_, signature)) = signed.rsplit_once(before_signature) else { return };
        if self.handed_out.len() >= MOST_HANDED_OUT {
            self.handed_out.pop_front();
        }
        self.handed_out.push_back(signature.to_owned());
    }

    /// What was remembered so.
    pub(super) fn handed_out(&self) -> impl Iterator<Item = &str> {
        self.handed_out.iter().map(String::as_str)
    }

    /// Remembers the id of an assertion; says whether it is new.
    pub(super) fn note_jti(&mut self, jti: &str) -> bool {
        if self.seen_jti.len() >= 100_000 {
            self.seen_jti.clear();
        }
        self.seen_jti.insert(jti.to_owned())
    }

    /// The product, if this directory can see it.
    pub(super) fn product(&self, tenant_id: &str, id: u64) -> Option<&Product> {
        self.products.get(&id).filter(|product| product.tenant_id == tenant_id)
    }

    /// The submission of the product, if this directory can see it.
    pub(super) fn submission(&self, tenant_id: &str, product_id: u64, id: u64) -> Option<&Submission> {
        self.product(tenant_id, product_id)?;
        self.submissions.get(&id).filter(|submission| submission.product_id == product_id)
    }

    /// The product's submissions, oldest first.
    pub(super) fn submissions_of(&self, product_id: u64) -> impl Iterator<Item = &Submission> {
        self.submissions.values().filter(move |submission| submission.product_id == product_id)
    }

    pub(super) fn app(&self, tenant_id: &str, client_id: &str) -> Option<&App> {
        self.apps.iter().find(|app| app.tenant_id == tenant_id && app.client_id == client_id)
    }
}
