//! Faults on demand: the misbehaviour of hardware-api.md 15.3, identity.md 12 and blob-upload.md 12, each by
//! operation, count and probability.
//!
//! A fault is drawn once per request, before anything is executed; what it does is decided by the pipeline (common
//! faults) or by the operation itself (those that change the look of one answer).

use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::operation::{Call, Operation};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// 429; `style` says where the wait is told, `seconds` how long.
    Throttle,
    /// Executed; then the connection is cut, or `status` is sent.
    LostAnswer,
    /// Not executed; the connection is cut, or `status` is sent.
    DroppedRequest,
    /// The gateway's own 500 (or `status`); `executed` says whether the operation took place before.
    #[serde(rename = "gateway-500")]
    Gateway500,
    /// An HTML page with 502 (or `status`).
    #[serde(rename = "html-502")]
    Html502,
    /// Any `status` with `body`, `code` and `headers`; not executed unless `executed`.
    Status,
    /// The commit is executed, it and every later one answer 502 with the functional code.
    #[serde(rename = "commit-502")]
    Commit502,
    /// A create answer without downloads, and the next `reads` reads.
    MissingDownloads,
    /// `workflowStatus` null for `reads` reads.
    NullWorkflow,
    /// `currentStep` as a number.
    NumericStep,
    /// `signedPackage` only `reads` reads after the end of the workflow.
    LateSigned,
    /// The submission looks as it does now until a newer token is used.
    StaleReads,
    /// The new entity (or, on a list, every entity younger than that) is missing in lists for `seconds` virtual seconds.
    LateList,
    /// Enumeration values in `PascalCase`.
    CaseFlip,
    /// Ids as text.
    StringIds,
    /// On a read: the SAS is expired when handed out. On a blob operation: all SAS of the blob expire right before it.
    ExpiredSas,
    /// 401, and the token stays refused (unless `executed` is false: this request only).
    TokenExpiry,
    /// 403.
    RoleMissing,
    /// Executed, the answer comes `seconds` later.
    Slow,
    /// Never answered, never executed.
    BlackHole,
    /// The body of the answer ends early, after `bytes` bytes.
    TruncatedBody,
    /// A body of more than 64 KiB that is no JSON.
    LargeBody,
    /// The body trickles: `seconds` between two pieces of `bytes` bytes.
    SlowBody,
    /// The `Date` header is `seconds` off.
    DateOffset,
    /// One bit of the body is wrong: of the answer on a download, as received on an upload.
    FlippedBit,
    /// The staged blocks of the blob are gone before the operation.
    LostBlocks,
    /// Somebody else replaces the blob before the operation, or stages a block with another id length (`mode`: `stage`).
    ForeignWrite,
    /// On a commit: the workflow fails at `step` with `message`.
    FailedStep,
    /// On a commit: people look at the package, for `seconds` virtual seconds or until released.
    ManualReview,
    /// On a commit: the workflow stays at `step` until released.
    Stuck,
}

/// How a throttled caller is told to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThrottleStyle {
    /// `Retry-After` in seconds.
    #[default]
    Header,
    /// `Retry-After` as an HTTP date.
    Date,
    /// `retry-after-ms`.
    Milliseconds,
    /// `x-ms-retry-after-ms`.
    MsMilliseconds,
    /// Only in the text of the message.
    Message,
    /// Not at all.
    Bare,
}

/// What a fault can be told; each kind reads the members its own description names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Seconds, by kind.
    pub seconds: Option<f64>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Number of reads.
    pub reads: Option<u32>,
    /// Where the wait is told.
    pub style: ThrottleStyle,
    /// Whether the operation is executed all the same.
    pub executed: Option<bool>,
    /// Error code in the body.
    pub code: Option<String>,
    /// Message in the body.
    pub message: Option<String>,
    /// The body as it is.
    pub body: Option<String>,
    /// Workflow step.
    pub step: Option<String>,
    /// Number of bytes.
    pub bytes: Option<usize>,
    /// Variant of the kind.
    pub mode: Option<String>,
}

/// Which requests a fault is for; an absent member matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// `MS-CorrelationId`; for a blob that of the request that made its product.
    pub correlation_id: Option<String>,
    /// `MS-RequestId`.
    pub request_id: Option<String>,
    /// Application id of the token.
    pub client_id: Option<String>,
    /// A part of the product's name.
    pub product_name: Option<String>,
    /// The product's id.
    pub product_id: Option<u64>,
    /// The submission's id.
    pub submission_id: Option<u64>,
    /// The block's id, as sent (base64).
    pub block_id: Option<String>,
}

impl Match {
    fn holds(&self, call: &Call) -> bool {
        let text = |wanted: &Option<String>, is: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| is.as_ref().is_some_and(|is| is.eq_ignore_ascii_case(wanted)))
        };
        text(&self.correlation_id, &call.correlation_id)
            && text(&self.request_id, &call.request_id)
            && text(&self.client_id, &call.client_id)
            && self.block_id.as_ref().is_none_or(|wanted| call.block_id.as_ref() == Some(wanted))
            && self.product_id.is_none_or(|wanted| call.product_id == Some(wanted))
            && self.submission_id.is_none_or(|wanted| call.submission_id == Some(wanted))
            && self
                .product_name
                .as_ref()
                .is_none_or(|part| call.product_name.as_ref().is_some_and(|name| name.contains(part.as_str())))
    }
}

/// A fault as it is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// An operation of the contract, one of its wider names (`createSubmission`, `uploadPackage`), `api`, `blob`,
    /// `token`, or `*`.
    pub operation: String,
    /// What goes wrong.
    pub fault: FaultKind,
    /// How many requests it hits; `null`: all.
    #[serde(default = "once")]
    pub count: Option<u64>,
    /// How likely each of them is hit.
    #[serde(default = "certain")]
    pub probability: f64,
    /// How many matching requests it lets pass first.
    #[serde(default)]
    pub after: u64,
    /// Which requests it is for.
    #[serde(default, rename = "match")]
    pub matching: Match,
    /// Details.
    #[serde(default)]
    pub params: Params,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the type of the member")]
fn once() -> Option<u64> {
    Some(1)
}

fn certain() -> f64 {
    1.0
}

impl Fault {
    /// A fault that hits the next request of an operation.
    #[must_use]
    pub fn next(operation: &str, fault: FaultKind) -> Self {
        Self {
            operation: operation.to_owned(),
            fault,
            count: once(),
            probability: certain(),
            after: 0,
            matching: Match::default(),
            params: Params::default(),
        }
    }

    /// Says what is wrong with it, if anything is.
    pub(super) fn check(&self) -> Result<(), String> {
        if !Operation::is_known(&self.operation) {
            return Err(format!("unknown operation `{}`", self.operation));
        }
        if !(0.0..=1.0).contains(&self.probability) {
            return Err("probability is a number from 0 to 1".to_owned());
        }
        if self.params.status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Err("status is a number from 200 to 599".to_owned());
        }
        if self.params.seconds.is_some_and(|seconds| !seconds.is_finite() || seconds.abs() > 1e9) {
            return Err("seconds is out of range".to_owned());
        }
        Ok(())
    }
}

/// A fault at work.
#[derive(Clone, Debug, Serialize)]
struct Armed {
    id: u64,
    #[serde(flatten)]
    fault: Fault,
    seen: u64,
    hits: u64,
}

/// All faults at work.
#[derive(Debug)]
pub(super) struct Faults {
    armed: Vec<Armed>,
    next_id: u64,
    chance: StdRng,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self { armed: Vec::new(), next_id: 1, chance: StdRng::seed_from_u64(seed) }
    }

    pub(super) fn arm(&mut self, fault: Fault) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.armed.push(Armed { id, fault, seen: 0, hits: 0 });
        id
    }

    /// Removes one fault, or all. Says how many there were.
    pub(super) fn disarm(&mut self, id: Option<u64>) -> usize {
        let before = self.armed.len();
        self.armed.retain(|armed| id.is_some_and(|id| armed.id != id));
        before - self.armed.len()
    }

    pub(super) fn show(&self) -> serde_json::Value {
        serde_json::to_value(&self.armed).unwrap_or_default()
    }

    /// The faults that hit this request.
    pub(super) fn draw(&mut self, call: &Call) -> Hits {
        let mut hits = Vec::new();
        for armed in &mut self.armed {
            if !call.operation.is_named(&armed.fault.operation)
                || !armed.fault.matching.holds(call)
                || armed.fault.count.is_some_and(|count| armed.hits >= count)
            {
                continue;
            }
            armed.seen += 1;
            if armed.seen <= armed.fault.after || self.chance.random::<f64>() >= armed.fault.probability {
                continue;
            }
            armed.hits += 1;
            hits.push(Hit { kind: armed.fault.fault, params: armed.fault.params.clone() });
        }
        Hits(hits)
    }
}

/// The faults of one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Hits(Vec<Hit>);

#[derive(Clone, Debug)]
struct Hit {
    kind: FaultKind,
    params: Params,
}

impl Hits {
    pub(super) fn get(&self, kind: FaultKind) -> Option<&Params> {
        self.0.iter().find(|hit| hit.kind == kind).map(|hit| &hit.params)
    }

    pub(super) fn has(&self, kind: FaultKind) -> bool {
        self.get(kind).is_some()
    }

    /// Their names, for the journal.
    pub(super) fn names(&self) -> Option<String> {
        let names: Vec<String> =
            self.0.iter().filter_map(|hit| serde_json::to_value(hit.kind).ok()?.as_str().map(str::to_owned)).collect();
        (!names.is_empty()).then(|| names.join(","))
    }
}

/// A number that no other call of the process has got, for file names.
pub(super) fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Method;

    fn call(operation: Operation) -> Call {
        Call::new(operation, &Method::GET, "/")
    }

    #[test]
    fn a_fault_lets_the_first_pass_hits_its_count_and_then_no_more() {
        let mut faults = Faults::new(1);
        faults.arm(Fault { after: 2, count: Some(2), ..Fault::next("putBlock", FaultKind::Slow) });
        let hits: Vec<bool> = (0..6).map(|_| faults.draw(&call(Operation::PutBlock)).has(FaultKind::Slow)).collect();
        assert_eq!(hits, [false, false, true, true, false, false]);
        assert!(!faults.draw(&call(Operation::PutBlob)).has(FaultKind::Slow));
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let draw = |seed| -> Vec<bool> {
            let mut faults = Faults::new(seed);
            faults.arm(Fault { count: None, probability: 0.5, ..Fault::next("api", FaultKind::Gateway500) });
            (0..64).map(|_| faults.draw(&call(Operation::GetProduct)).has(FaultKind::Gateway500)).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).contains(&true) && draw(7).contains(&false));
    }

    #[test]
    fn a_fault_is_only_for_the_requests_it_names() {
        let mut faults = Faults::new(1);
        let matching = Match { product_name: Some("NIC".to_owned()), ..Match::default() };
        faults.arm(Fault { count: None, matching, ..Fault::next("createProduct", FaultKind::LostAnswer) });
        let mut create = call(Operation::CreateProduct);
        assert!(!faults.draw(&create).has(FaultKind::LostAnswer));
        create.product_name = Some("My NIC 10G".to_owned());
        assert!(faults.draw(&create).has(FaultKind::LostAnswer));
    }

    #[test]
    fn a_fault_that_can_never_hit_is_refused() {
        assert!(Fault::next("createProdukt", FaultKind::Slow).check().is_err());
        assert!(Fault { probability: 1.5, ..Fault::next("*", FaultKind::Slow) }.check().is_err());
        assert!(Fault::next("uploadPackage", FaultKind::Slow).check().is_ok());
        let text = r#"{"operation": "commitSubmission", "fault": "commit-502", "match": {"product_name": "x"}}"#;
        assert_eq!(serde_json::from_str::<Fault>(text).unwrap().count, Some(1));
        assert!(
            serde_json::from_str::<Fault>(r#"{"operation": "*", "fault": "slow", "match": {"nam": "x"}}"#).is_err()
        );
    }
}
