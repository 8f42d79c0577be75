//! Is a thing at the service ours? Evidence in, verdict out.
//!
//! A product of the job's name is *ours* when it is equal in every field the job sets and was made after our create began,
//! or carries our marker; *not ours* when another job owns it, a set field differs, or it is older than the job; else
//! *open*, and a person decides. Source: docs/protocol.md, "Adoption".

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value};

use super::{
    event::Candidate,
    ids::{JobKey, Marker, ProductId, SubmissionId},
    job::{Target, Work},
    service::{Product, Submission, SubmissionKind},
    step::Step,
    ticket::Progress,
    time::Moment,
};

/// Can a person have this step's create made again, when nothing that was found is ours?
///
/// A product has one initial submission: where another stands, no second can be made.
#[must_use]
pub fn can_create_again(step: Step, work: &Work) -> bool {
    match (step, &work.submission) {
        (Step::CreateProduct, _) => true,
        (Step::CreateSubmission, Some(Target::Create(wanted))) => wanted.kind == SubmissionKind::Derived,
        (Step::CreateSubmission, Some(Target::Existing(_)) | None)
        | (Step::Preflight | Step::Upload | Step::Commit | Step::Poll | Step::Download, _) => false,
    }
}

/// What a look has found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<I> {
    /// Exactly one is ours, none is open.
    Ours(I),
    /// None is ours, none is open.
    Nothing,
    /// Only a person can tell.
    Open(Vec<Candidate>),
}

/// How one thing stands to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Ours(&'static str),
    NotOurs,
    Open(&'static str),
}

/// What is known about a product that has the job's product name.
#[derive(Debug, Clone, PartialEq)]
pub struct ProductEvidence {
    /// The product, read singly when the list left out what matters.
    pub product: Product,
    /// The job that made or adopted it, if memory knows.
    pub owner: Option<JobKey>,
    /// Its submissions, when they were read.
    pub submissions: Option<Vec<Submission>>,
}

/// What the job knows of itself when it looks for its product.
#[derive(Debug, Clone)]
pub struct ProductQuestion<'a> {
    /// The job.
    pub job: &'a JobKey,
    /// The members it sets, its product name included.
    pub members: &'a Map<String, Value>,
    /// When it was accepted; none when it may have been accepted before, too.
    pub accepted_at: Option<Moment>,
    /// When its create began, if the turn for the name still proves it.
    pub begun_at: Option<Moment>,
    /// Was memory lost since the create began, or is that unknown?
    pub is_memory_lost: bool,
    /// Is this the last look, after which nothing of our call can still come?
    pub is_last_look: bool,
    /// How far our clock and the service's may differ.
    pub tolerance: Duration,
    /// What a person said, and what is known.
    pub progress: &'a Progress,
}

impl ProductQuestion<'_> {
    /// Does the verdict on this product hang on its submissions?
    #[must_use]
    pub fn needs_submissions(&self, evidence: &ProductEvidence) -> bool {
        evidence.submissions.is_none() && matches!(self.standing(evidence), Standing::Open(_))
    }

    /// The verdict over all products of the name.
    #[must_use]
    pub fn decide(&self, all: &[ProductEvidence]) -> Found<ProductId> {
        if let Some(adopted) = self.progress.adopt.get(&Step::CreateProduct) {
            return Found::Ours(ProductId::new(*adopted));
        }
        let standings = all.iter().map(|evidence| (evidence, self.standing(evidence)));
        settle(standings.map(|(evidence, standing)| {
            let candidate = Candidate {
                id: evidence.product.id.to_string(),
                name: evidence.product.name.clone(),
                created: evidence.product.created,
                evidence: String::new(),
            };
            (evidence.product.id, candidate, standing)
        }))
    }

    fn standing(&self, evidence: &ProductEvidence) -> Standing {
        let product = &evidence.product;
        if self.progress.is_not_ours(Step::CreateProduct, product.id.get()) {
            return Standing::NotOurs;
        }
        match &evidence.owner {
            Some(owner) if owner == self.job => return Standing::Ours("this job made it, memory says"),
            Some(_) => return Standing::NotOurs,
            None => {}
        }
        let likeness = likeness(self.members, &product.fields);
        if likeness == Likeness::Differs {
            return Standing::NotOurs;
        }
        let created = product.created.map(Moment::from);
        if let (Some(created), Some(accepted)) = (created, self.accepted_at)
            && created.after(self.tolerance) < accepted
        {
            return Standing::NotOurs;
        }
        if Marker::of(self.job, Step::CreateProduct.name()).is_in(&product.name) {
            return Standing::Ours("its name carries this job's marker");
        }
        if self.is_marked_by_submission(evidence) {
            return Standing::Ours("its pending submission carries this job's marker");
        }
        if likeness != Likeness::Equal {
            return Standing::Open("the answer leaves out fields that the job sets");
        }
        match (created, self.begun_at) {
            (Some(created), Some(begun)) if created >= begun.before(self.tolerance) => {
                Standing::Ours("equal in every field, and made after this job's create began")
            }
            (Some(_), Some(_)) => Standing::Open("equal in every field, but made before this job's create began"),
            (Some(_), None) => Standing::Open("equal in every field; when this job's create began is not proven"),
            (None, _) if self.is_memory_lost => Standing::Open("equal in every field; nothing says when it was made"),
            (None, _) => match &evidence.submissions {
                // Before the last look our own product may still be on its way, and this may be another's.
                Some(_) if !self.is_last_look => Standing::Open("equal in every field; nothing says when it was made"),
                Some(submissions) if submissions.is_empty() => {
                    Standing::Ours("equal in every field, without a submission, and nobody else is at work on it")
                }
                Some(_) => Standing::Open("equal in every field, but it has submissions"),
                None => Standing::Open("equal in every field; its submissions were not read"),
            },
        }
    }

    /// Our marker stands in its one initial submission, which is still pending.
    fn is_marked_by_submission(&self, evidence: &ProductEvidence) -> bool {
        let marker = Marker::of(self.job, Step::CreateSubmission.name());
        let mut initial = evidence.submissions.iter().flatten().filter(|s| s.kind.eq_ignore_ascii_case("initial"));
        match (initial.next(), initial.next()) {
            (Some(only), None) => marker.is_in(&only.name) && only.is_committed() != Some(true),
            _ => false,
        }
    }
}

/// What the job knows of itself when it looks for its submission.
#[derive(Debug, Clone)]
pub struct SubmissionQuestion<'a> {
    /// The job.
    pub job: &'a JobKey,
    /// The name that our create sent, marker included.
    pub name: &'a str,
    /// Initial or derived.
    pub kind: SubmissionKind,
    /// What a person said, and what is known.
    pub progress: &'a Progress,
}

impl SubmissionQuestion<'_> {
    /// The verdict over all submissions of the product.
    #[must_use]
    pub fn decide(&self, all: &[Submission]) -> Found<SubmissionId> {
        if let Some(adopted) = self.progress.adopt.get(&Step::CreateSubmission) {
            return Found::Ours(SubmissionId::new(*adopted));
        }
        let kind = match self.kind {
            SubmissionKind::Initial => "initial",
            SubmissionKind::Derived => "derived",
        };
        settle(all.iter().filter(|s| s.kind.eq_ignore_ascii_case(kind)).filter_map(|submission| {
            let standing = self.standing(submission)?;
            let candidate = Candidate {
                id: submission.id.to_string(),
                name: submission.name.clone(),
                created: submission.created,
                evidence: String::new(),
            };
            Some((submission.id, candidate, standing))
        }))
    }

    fn standing(&self, submission: &Submission) -> Option<Standing> {
        if self.progress.is_not_ours(Step::CreateSubmission, submission.id.get()) {
            return None;
        }
        if submission.name == self.name {
            return Some(Standing::Ours("its name is the one we sent"));
        }
        // A product has one initial submission: another's stands in our way, whatever its name.
        match self.kind {
            SubmissionKind::Initial => Some(Standing::Open("the product's one initial submission has another name")),
            SubmissionKind::Derived => None,
        }
    }
}

fn settle<I: Copy>(all: impl Iterator<Item = (I, Candidate, Standing)>) -> Found<I> {
    let (mut ours, mut candidates, mut is_open) = (Vec::new(), Vec::new(), false);
    for (id, candidate, standing) in all {
        match standing {
            Standing::Ours(evidence) => {
                ours.push(id);
                candidates.push(Candidate { evidence: evidence.to_owned(), ..candidate });
            }
            Standing::Open(evidence) => {
                is_open = true;
                candidates.push(Candidate { evidence: evidence.to_owned(), ..candidate });
            }
            Standing::NotOurs => {}
        }
    }
    match (ours.as_slice(), is_open) {
        ([only], false) => Found::Ours(*only),
        ([], false) => Found::Nothing,
        _ => Found::Open(candidates),
    }
}

/// How like two sets of fields are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Likeness {
    /// Every field that the job sets is there and equal.
    Equal,
    /// Nothing differs, but the answer leaves out something that the job sets.
    Unknown,
    /// A field differs.
    Differs,
}

fn likeness(set: &Map<String, Value>, read: &Map<String, Value>) -> Likeness {
    let mut likeness = Likeness::Equal;
    for (name, wanted) in set.iter().filter(|(name, _)| *name != "productName") {
        match read.get(name) {
            None if normal(wanted) == Normal::Nothing => {}
            None => likeness = Likeness::Unknown,
            Some(found) if normal(found) == normal(wanted) => {}
            Some(_) => return Likeness::Differs,
        }
    }
    likeness
}

/// A field after normalising: texts without case, dates as instants, nothing = null = empty, lists as sets.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Normal {
    Nothing,
    Text(String),
    Instant(jiff::Timestamp),
    Set(BTreeSet<Normal>),
    Members(Vec<(String, Normal)>),
}

fn normal(value: &Value) -> Normal {
    match value {
        Value::Null => Normal::Nothing,
        Value::String(text) if text.is_empty() => Normal::Nothing,
        Value::String(text) => instant(text).map_or_else(|| Normal::Text(text.to_lowercase()), Normal::Instant),
        Value::Bool(_) | Value::Number(_) => Normal::Text(value.to_string()),
        Value::Array(items) if items.is_empty() => Normal::Nothing,
        Value::Array(items) => Normal::Set(items.iter().map(normal).collect()),
        Value::Object(members) => {
            let mut members: Vec<_> = members
                .iter()
                .map(|(name, member)| (name.to_lowercase(), normal(member)))
                .filter(|(_, member)| *member != Normal::Nothing)
                .collect();
            members.sort();
            if members.is_empty() { Normal::Nothing } else { Normal::Members(members) }
        }
    }
}

/// A date as the service writes it, with or without a zone; without one it is UTC.
fn instant(text: &str) -> Option<jiff::Timestamp> {
    if !text.contains('T') {
        return None;
    }
    text.parse().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members() -> Map<String, Value> {
        json!({
            "productName": "NIC", "testHarness": "Attestation", "announcementDate": "2026-11-02T00:00:00Z",
            "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL", "WINDOWS_v100_X64_25H2_FULL"], "marketingNames": [],
        })
        .as_object()
        .cloned()
        .unwrap()
    }

    fn evidence(id: u64, created: Option<i64>) -> ProductEvidence {
        let fields = json!({
            "testHarness": "attestation", "announcementDate": "2026-11-02T00:00:00", "marketingNames": null,
            "requestedSignatures": ["WINDOWS_v100_X64_25H2_FULL", "WINDOWS_v100_X64_GE_FULL"], "deviceType": "internal",
        });
        let product = Product {
            id: ProductId::new(id),
            shared_id: None,
            name: "NIC".to_owned(),
            is_committed: None,
            created: created.map(|s| jiff::Timestamp::from_second(s).unwrap()),
            fields: fields.as_object().cloned().unwrap(),
        };
        ProductEvidence { product, owner: None, submissions: None }
    }

    fn key(id: &str) -> JobKey {
        JobKey { account: "contoso".parse().unwrap(), id: id.parse().unwrap() }
    }

    fn decide(begun: Option<i64>, is_memory_lost: bool, all: &[ProductEvidence]) -> Found<ProductId> {
        let (job, members, progress) = (key("a"), members(), Progress::default());
        ProductQuestion {
            job: &job,
            members: &members,
            accepted_at: Some(Moment::from_millis(10_000_000)),
            begun_at: begun.map(|s| Moment::from_millis(s * 1_000)),
            is_memory_lost,
            is_last_look: true,
            tolerance: Duration::from_secs(300),
            progress: &progress,
        }
        .decide(all)
    }

    #[test]
    fn an_equal_product_made_after_our_create_began_is_ours() {
        assert_eq!(decide(Some(20_000), false, &[evidence(1, Some(20_001))]), Found::Ours(ProductId::new(1)));
        assert_eq!(decide(Some(20_000), false, &[evidence(1, Some(19_701))]), Found::Ours(ProductId::new(1)));
    }

    #[test]
    fn what_another_job_owns_differs_or_is_older_than_the_job_is_not_ours() {
        let owned = ProductEvidence { owner: Some(key("b")), ..evidence(1, Some(20_001)) };
        let mut other = evidence(2, Some(20_001));
        other.product.fields.insert("testHarness".to_owned(), json!("hlk"));
        let old = evidence(3, Some(9_000));
        assert_eq!(decide(Some(20_000), false, &[owned, other, old]), Found::Nothing);
    }

    #[test]
    fn without_a_proven_begin_an_equal_product_is_open_unless_it_carries_our_marker() {
        assert!(matches!(decide(None, true, &[evidence(1, Some(20_001))]), Found::Open(_)));
        let mut marked = evidence(1, Some(20_001));
        marked.product.name = Marker::of(&key("a"), "create-product").mark("NIC");
        assert_eq!(decide(None, true, &[marked]), Found::Ours(ProductId::new(1)));
    }

    #[test]
    fn two_of_ours_or_one_open_beside_ours_is_for_a_person() {
        assert!(matches!(
            decide(Some(20_000), false, &[evidence(1, Some(20_001)), evidence(2, Some(20_002))]),
            Found::Open(candidates) if candidates.len() == 2
        ));
        assert!(matches!(
            decide(Some(20_000), false, &[evidence(1, Some(20_001)), evidence(2, Some(19_000))]),
            Found::Open(_)
        ));
    }

    #[test]
    fn without_a_creation_time_an_empty_equal_product_is_ours_only_while_memory_was_kept() {
        let empty = ProductEvidence { submissions: Some(Vec::new()), ..evidence(1, None) };
        assert_eq!(decide(Some(20_000), false, std::slice::from_ref(&empty)), Found::Ours(ProductId::new(1)));
        assert!(matches!(decide(Some(20_000), true, &[empty]), Found::Open(_)));
    }

    #[test]
    fn without_a_creation_time_equality_counts_in_the_last_look_only() {
        let (job, members, progress) = (key("a"), members(), Progress::default());
        let early = ProductQuestion {
            job: &job,
            members: &members,
            accepted_at: Some(Moment::from_millis(10_000_000)),
            begun_at: Some(Moment::from_millis(20_000_000)),
            is_memory_lost: false,
            is_last_look: false,
            tolerance: Duration::from_secs(300),
            progress: &progress,
        };
        let empty = ProductEvidence { submissions: Some(Vec::new()), ..evidence(1, None) };
        assert!(matches!(early.decide(std::slice::from_ref(&empty)), Found::Open(_)));
        let last = ProductQuestion { is_last_look: true, ..early };
        assert_eq!(last.decide(&[empty]), Found::Ours(ProductId::new(1)));
    }

    #[test]
    fn a_field_that_the_answer_leaves_out_is_no_difference_and_no_proof() {
        let mut partial = evidence(1, Some(20_001));
        partial.product.fields.remove("testHarness");
        assert!(matches!(decide(Some(20_000), false, &[partial]), Found::Open(_)));
    }
}
