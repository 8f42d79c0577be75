//! Submissions: create, read, list, patch and commit (hardware-api.md 5.7 to 5.12).

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::api::Api;
use super::errors::{Refusal, Reply};
use super::faults::{FaultKind, Hits};
use super::package::{self, Judgement, Order};
use super::products::{is_listed, read_body, unknown};
use super::sas::{self, Sas};
use super::state::{Commit, Hold, Inspection, Kind, Looks, Results, Script, Stale, State, Submission};
use super::store::{Blob, Content, blob_id};
use super::workflow::{self, StepState, View};
use super::{Shared, seconds, wire};

/// Whether a submission of the product turned out to hold an extension INF.
pub(super) fn is_extension(state: &State, product_id: u64) -> bool {
    state
        .submissions_of(product_id)
        .filter_map(|submission| submission.commit.as_ref())
        .any(|commit| matches!(&commit.inspection, Inspection::Good(results) if results.is_extension))
}

/// `POST /products/{p}/submissions`
pub(super) fn create(api: &mut Api<'_>, product_id: u64) -> Result<Reply, Refusal> {
    let body = read_body(api.body)?;
    let mut targets = unknown(api, &body, &["name", "type"]);
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.trim().is_empty() {
        targets.push(("name".to_owned(), "The name must not be empty.".to_owned()));
    }
    let kind = match body.get("type").and_then(Value::as_str).map(str::to_lowercase).as_deref() {
        Some("initial") => Kind::Initial,
        Some("derived") => Kind::Derived,
        Some(_) | None => {
            targets.push(("type".to_owned(), "The type must be initial or derived.".to_owned()));
            Kind::Initial
        }
    };
    if !targets.is_empty() {
        return Err(Refusal::invalid(targets));
    }
    check_kind(api, product_id, kind)?;
    let now = api.state.clock.now();
    let lag = api.hits.get(FaultKind::LateList).map(|params| seconds(params.seconds.unwrap_or(60.0)));
    let id = api.state.next_shared_id();
    let slot = open_slot(api, product_id, id, kind);
    let submission = Submission {
        id,
        product_id,
        name,
        kind,
        correlation_id: api.call.correlation_id.clone(),
        created: api.shared.now(),
        made_at: now,
        visible_at: now.saturating_add(lag.unwrap_or(api.shared.options.list_lag)),
        slots: vec![slot],
        commit: None,
        looks: Looks::default(),
    };
    api.state.submissions.insert(id, submission);
    api.call.submission_id = Some(id);
    let answer = read(api, id);
    Ok(api.json(StatusCode::CREATED, answer).effective())
}

/// Refuses a submission that the product cannot have.
fn check_kind(api: &Api<'_>, product_id: u64, kind: Kind) -> Result<(), Refusal> {
    let product = api.state.product(api.tenant_id(), product_id).ok_or_else(Refusal::product_not_found)?;
    let initial = api.state.submissions_of(product_id).find(|submission| submission.kind == Kind::Initial);
    match (kind, initial) {
        (Kind::Initial, None) => Ok(()),
        (Kind::Initial, Some(_)) => Err(Refusal::state("Initial submission already exists")),
        (Kind::Derived, initial) => {
            let is_test = product.is_flag("isTestSign");
            if product.harness == "attestation" || is_test || is_extension(api.state, product_id) {
                let text =
                    "Cannot create derived submission for Attestation, TestSigned and ExtensionInf type of products.";
                return Err(Refusal::new("invalidInput", 400, text));
            }
            let Some(initial) = initial else {
                let text = "Cannot create derived submission since no initial submission created";
                return Err(Refusal::state(text));
            };
            let view = workflow::view(&api.shared.options, initial, api.state.clock.now());
            if api.shared.options.derived_needs_signed && !view.is_signed {
                let text = "Cannot create derived submission since the initial submission is not signed";
                return Err(Refusal::state(text));
            }
            Ok(())
        }
    }
}

fn open_slot(api: &mut Api<'_>, product_id: u64, id: u64, kind: Kind) -> Uuid {
    let harness = api.state.products.get(&product_id).map(|product| product.harness.clone()).unwrap_or_default();
    let ending = match harness.as_str() {
        "hlk" => "hlkx",
        "hck" => "hckx",
        _ => "cab",
    };
    let slot = blob_id();
    api.state.blobs.insert(slot, Blob::slot(id, format!("{}_{id}.{ending}", kind.name())));
    slot
}

/// `GET /products/{p}/submissions`
pub(super) fn list(api: &mut Api<'_>, product_id: u64) -> Result<Reply, Refusal> {
    api.state.product(api.tenant_id(), product_id).ok_or_else(Refusal::product_not_found)?;
    let now = api.state.clock.now();
    let late = api.hits.get(FaultKind::LateList).map(|params| seconds(params.seconds.unwrap_or(60.0)));
    let value: Vec<Value> = api
        .state
        .submissions_of(product_id)
        .filter(|submission| is_listed(submission.made_at, submission.visible_at, now, late))
        .map(|submission| {
            let view = workflow::view(&api.shared.options, submission, now);
            let mut members = members(api, submission, &view);
            // List entries tell less than a single read: nobody may decide by them.
            if view.is_pending() {
                members.remove("commitStatus");
            }
            if view.is_signed {
                members.insert("workflowStatus".to_owned(), workflow_status(api, &view, None));
            }
            Value::Object(members)
        })
        .collect();
    let links = [api.link("self", "GET", &format!("/products/{product_id}/submissions"))];
    Ok(api.json(StatusCode::OK, json!({ "value": value, "links": links })))
}

/// `GET /products/{p}/submissions/{s}`
pub(super) fn get(api: &mut Api<'_>, product_id: u64, id: u64) -> Result<Reply, Refusal> {
    api.state.submission(api.tenant_id(), product_id, id).ok_or_else(Refusal::submission_not_found)?;
    if api.shared.options.moving_slot && !api.shared.options.fixed_sas {
        move_slot(api, product_id, id);
    }
    let answer = read(api, id);
    Ok(api.json(StatusCode::OK, answer))
}

fn move_slot(api: &mut Api<'_>, product_id: u64, id: u64) {
    let Some(kind) = api.state.submissions.get(&id).filter(|s| s.commit.is_none()).map(|s| s.kind) else { return };
    let slot = open_slot(api, product_id, id, kind);
    if let Some(submission) = api.state.submissions.get_mut(&id) {
        submission.slots.push(slot);
    }
}

/// `PATCH /products/{p}/submissions/{s}`
pub(super) fn update(api: &mut Api<'_>, product_id: u64, id: u64) -> Result<Reply, Refusal> {
    let body = read_body(api.body)?;
    let submission = api.state.submission(api.tenant_id(), product_id, id).ok_or_else(Refusal::submission_not_found)?;
    let mut targets = unknown(api, &body, &["name"]);
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.trim().is_empty() {
        targets.push(("name".to_owned(), "The name must not be empty.".to_owned()));
    }
    if !targets.is_empty() {
        return Err(Refusal::invalid(targets));
    }
    if workflow::view(&api.shared.options, submission, api.state.clock.now()).is_failed() {
        return Err(Refusal::unauthorized_update("Cannot update the submission since the workflows have failed"));
    }
    if let Some(submission) = api.state.submissions.get_mut(&id) {
        submission.name = name;
    }
    Ok(Reply::empty(StatusCode::NO_CONTENT).effective())
}

/// `POST /products/{p}/submissions/{s}/createpublishermetadata`: for own submissions it changes nothing.
pub(super) fn create_metadata(api: &mut Api<'_>, product_id: u64, id: u64) -> Result<Reply, Refusal> {
    api.state.submission(api.tenant_id(), product_id, id).ok_or_else(Refusal::submission_not_found)?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `POST /products/{p}/submissions/{s}/commit`
pub(super) fn commit(api: &mut Api<'_>, product_id: u64, id: u64) -> Result<Reply, Refusal> {
    if !api.body.is_empty() {
        read_body(api.body)?;
    }
    let submission = api.state.submission(api.tenant_id(), product_id, id).ok_or_else(Refusal::submission_not_found)?;
    if submission.commit.is_some() {
        let status = if submission.looks.commit_502 { 502 } else { 400 };
        api.state.tally.repeated_commits += 1;
        return Err(only_pending().under(status));
    }
    let slots = submission.slots.clone();
    let kind = submission.kind;
    let content = slots.iter().rev().find_map(|slot| api.state.blobs.get(slot)?.content.clone());
    for slot in &slots {
        if let Some(blob) = api.state.blobs.get_mut(slot) {
            blob.is_frozen = !api.shared.options.overwritable_after_commit;
        }
    }
    let commit = Commit {
        at: api.state.clock.now(),
        correlation_id: api.call.correlation_id.clone(),
        inspection: Inspection::Pending,
        script: script(api.hits),
        had_blob: content.is_some(),
    };
    if let Some(submission) = api.state.submissions.get_mut(&id) {
        submission.commit = Some(commit);
        submission.looks.commit_502 = api.hits.has(FaultKind::Commit502);
    }
    let product = api.state.products.get(&product_id);
    let order = Order {
        product_id,
        submission_id: id,
        harness: product.map(|product| product.harness.clone()).unwrap_or_default(),
        signatures: product.map(super::state::Product::signatures).unwrap_or_default(),
        kind,
        content,
    };
    start_inspection(api.shared, order);
    Ok(Reply::empty(StatusCode::ACCEPTED).effective())
}

/// The refusal of a second commit.
pub(super) fn only_pending() -> Refusal {
    Refusal::state("Only pending submissions can be committed.")
}

fn script(hits: &Hits) -> Script {
    let step = |step: &Option<String>, usual: &str| {
        step.clone().filter(|step| workflow::is_step(step)).unwrap_or_else(|| usual.to_owned())
    };
    let fails = hits.get(FaultKind::FailedStep).map(|params| {
        let message = params.message.clone().unwrap_or_else(|| "The simulated step failed as asked.".to_owned());
        (step(&params.step, "scanning"), message)
    });
    let review = hits.get(FaultKind::ManualReview).map(|params| match params.seconds {
        Some(length) => Hold::For(seconds(length)),
        None => Hold::UntilReleased,
    });
    let stuck = hits.get(FaultKind::Stuck).map(|params| step(&params.step, "scanning"));
    Script { fails, review, stuck }
}

/// Looks at the package on a thread of its own; the workflow waits for it in its first step.
fn start_inspection(shared: &Arc<Shared>, order: Order) {
    shared.inspections.send_modify(|running| *running += 1);
    let shared = Arc::clone(shared);
    let tracker = shared.tracker.clone();
    tracker.spawn_blocking(move || {
        let judgement = package::inspect(&shared.folder, &order);
        let report = match &judgement {
            Judgement::Good(_) => Ok(None),
            Judgement::Bad { messages, .. } => {
                super::store::Segment::write(&shared.folder, messages.join("\r\n").as_bytes()).map(Some)
            }
        };
        let report = report.unwrap_or_else(|error| {
            tracing::warn!(%error, "the sandbox cannot write an error report");
            None
        });
        file_judgement(&mut shared.lock(), &order, judgement, report);
        shared.inspections.send_modify(|running| *running = running.saturating_sub(1));
    });
}

fn file_judgement(state: &mut State, order: &Order, judgement: Judgement, report: Option<Arc<super::store::Segment>>) {
    let id = order.submission_id;
    let mut put = |container, name: String, segment, content_type| {
        let blob = blob_id();
        state.blobs.insert(blob, Blob::result(container, id, name, Content::single(segment, content_type)));
        blob
    };
    let inspection = match judgement {
        Judgement::Bad { messages, sha256 } => Inspection::Bad {
            messages,
            sha256,
            report: report.map_or_else(Uuid::nil, |report| put("reports", String::new(), report, "text/plain")),
        },
        Judgement::Good(made) => Inspection::Good(Results {
            sha256: made.sha256,
            is_extension: made.is_extension,
            signed: put("ingestion", format!("Signed_{id}.zip"), made.signed, "application/zip"),
            metadata: put("ingestion", format!("DriverMetadata_{id}.json"), made.metadata, "application/json"),
            shell: made.shell.map(|shell| put("ingestion", format!("Shell_{id}.hlkx"), shell, "application/zip")),
        }),
    };
    if let Some(commit) = state.submissions.get_mut(&id).and_then(|submission| submission.commit.as_mut()) {
        commit.inspection = inspection;
    }
}

/// How this one read looks.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent oddity")]
struct Look {
    view: View,
    without_downloads: bool,
    without_workflow: bool,
    without_signed: bool,
    is_expired: bool,
}

/// Decides how this read looks, and counts it.
fn look(api: &mut Api<'_>, id: u64) -> Option<Look> {
    let now = api.state.clock.now();
    let serial = api.call.token_serial;
    let (options, hits) = (&api.shared.options, api.hits);
    let reads = |kind, usual| hits.get(kind).map(|params| params.reads.unwrap_or(usual));
    let submission = api.state.submissions.get_mut(&id)?;
    let looks = &mut submission.looks;
    // The faulty read itself is one of them.
    if let Some(reads) = reads(FaultKind::MissingDownloads, 0) {
        looks.without_downloads = reads.saturating_add(1);
    }
    if let Some(reads) = reads(FaultKind::NullWorkflow, 1) {
        looks.without_workflow = reads.max(1);
    }
    if let Some(reads) = reads(FaultKind::LateSigned, 1) {
        looks.without_signed = reads;
    }
    if hits.has(FaultKind::StaleReads) && looks.stale.is_none() {
        looks.stale = Some(Stale { token: serial, at: now, was_open: submission.commit.is_none() });
    }
    if looks.stale.is_some_and(|stale| serial > stale.token) {
        looks.stale = None;
    }
    let view = match looks.stale {
        Some(Stale { was_open: true, .. }) => View::open(),
        Some(stale) => workflow::view(options, submission, stale.at),
        None => workflow::view(options, submission, now),
    };
    let looks = &mut submission.looks;
    let take = |count: &mut u32| {
        let is_left = *count > 0;
        *count = count.saturating_sub(1);
        is_left
    };
    let without_downloads = take(&mut looks.without_downloads);
    let without_workflow = take(&mut looks.without_workflow);
    let without_signed = view.is_signed && take(&mut looks.without_signed);
    let is_expired = hits.has(FaultKind::ExpiredSas);
    Some(Look { view, without_downloads, without_workflow, without_signed, is_expired })
}

/// A submission as a single read, or the answer to its creation, tells it.
fn read(api: &mut Api<'_>, id: u64) -> Value {
    let Some(look) = look(api, id) else { return Value::Null };
    let items = items(api, id, &look);
    let report = match api.state.submissions.get(&id).and_then(|submission| submission.commit.as_ref()) {
        Some(Commit { inspection: Inspection::Bad { report, .. }, .. }) if look.view.is_failed() => {
            let report = *report;
            Some(url(api, report, "rl", look.is_expired))
        }
        Some(_) | None => None,
    };
    let Some(submission) = api.state.submissions.get(&id) else { return Value::Null };
    let mut members = members(api, submission, &look.view);
    if look.without_workflow {
        members.insert("workflowStatus".to_owned(), Value::Null);
    } else if look.view.step.is_some() {
        members.insert("workflowStatus".to_owned(), workflow_status(api, &look.view, report));
    }
    if !look.without_downloads {
        members.insert("downloads".to_owned(), json!({ "items": items, "messages": [] }));
    }
    Value::Object(members)
}

/// The members that lists have, too.
fn members(api: &Api<'_>, submission: &Submission, view: &View) -> Map<String, Value> {
    let path = format!("/products/{}/submissions/{}", submission.product_id, submission.id);
    let mut links = vec![api.link("self", "GET", &path), api.link("update_submission", "PATCH", &path)];
    if view.is_pending() {
        links.push(api.link("commit_submission", "POST", &format!("{path}/commit")));
    }
    let (is_known, is_extension) = match submission.commit.as_ref().map(|commit| &commit.inspection) {
        Some(Inspection::Good(results)) => (true, results.is_extension),
        Some(Inspection::Pending | Inspection::Bad { .. }) | None => (false, false),
    };
    let value = json!({
        "id": submission.id,
        "productId": submission.product_id,
        "links": links,
        "commitStatus": view.commit_status,
        "isExtensionInf": is_extension,
        "isUniversal": is_known,
        "isDeclarativeInf": is_known,
        "name": submission.name,
        "type": submission.kind.name(),
    });
    let mut members = match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    if api.shared.options.created_date_time {
        members.insert("createdDateTime".to_owned(), json!(wire::date_time(submission.created)));
    }
    members
}

fn workflow_status(api: &Api<'_>, view: &View, report: Option<String>) -> Value {
    let Some((step, state)) = view.step else { return Value::Null };
    let step = if api.hits.has(FaultKind::NumericStep) { json!(view.step_number()) } else { json!(step) };
    let mut status = json!({ "currentStep": step, "state": state.name(), "messages": view.messages });
    if let (Some(report), Some(members)) = (report, status.as_object_mut()) {
        members.insert("errorReport".to_owned(), json!(report));
    }
    status
}

/// What can be uploaded to or downloaded from at this point.
fn items(api: &mut Api<'_>, id: u64, look: &Look) -> Vec<Value> {
    let Some(submission) = api.state.submissions.get(&id) else { return Vec::new() };
    let (product_id, slot) = (submission.product_id, submission.slots.last().copied().unwrap_or_default());
    let results = match submission.commit.as_ref().map(|commit| &commit.inspection) {
        Some(Inspection::Good(results)) => Some((results.signed, results.metadata, results.shell)),
        Some(Inspection::Pending | Inspection::Bad { .. }) | None => None,
    };
    if matches!(look.view.step, Some((_, StepState::Failed))) {
        return Vec::new();
    }
    let item = |kind: &str, url: String| json!({ "type": kind, "url": url });
    let permissions =
        if look.view.is_pending() { api.shared.options.upload_permissions.clone() } else { "rl".to_owned() };
    let mut items = vec![item("initialPackage", url(api, slot, &permissions, look.is_expired))];
    let Some((signed, metadata, shell)) = results.filter(|_| look.view.is_signed && !look.without_signed) else {
        return items;
    };
    if let Some(shell) = shell {
        items.push(item("derivedPackage", url(api, shell, "rl", look.is_expired)));
    }
    items.push(item("signedPackage", url(api, signed, "rl", look.is_expired)));
    let seller = api.seller_id();
    let report =
        format!("{}/dashboard/hardware/Driver/DownloadCertificationReport/{seller}/{product_id}/{id}", api.base);
    items.push(item("certificationReport", report));
    if look.view.has_metadata {
        items.push(item("driverMetadata", url(api, metadata, "rl", look.is_expired)));
    }
    items
}

/// A freshly signed URL of a blob.
fn url(api: &mut Api<'_>, blob: Uuid, permissions: &str, is_expired: bool) -> String {
    let options = &api.shared.options;
    let now = api.shared.now();
    let lifetime = SignedDuration::try_from(options.sas_lifetime).unwrap_or(SignedDuration::from_hours(24));
    let expires =
        if is_expired { now.saturating_sub(SignedDuration::from_secs(60)) } else { now.saturating_add(lifetime) };
    let expires = expires.ok().and_then(|at| Timestamp::from_second(at.as_second()).ok()).unwrap_or(now);
    let serial = api.state.next_sas();
    let Some(entry) = api.state.blobs.get_mut(&blob) else { return String::new() };
    let fresh = Sas {
        kind: options.sas_kind,
        version: options.sas_version.clone(),
        permissions: permissions.to_owned(),
        container: entry.container.to_owned(),
        blob,
        expires,
        serial,
        file_name: entry.file_name.clone(),
    };
    let known = entry.fixed.clone().filter(|known| {
        options.fixed_sas
            && !is_expired
            && known.expires > now
            && known.serial > entry.revoked
            && known.permissions == permissions
    });
    let sas = known.unwrap_or(fresh);
    if options.fixed_sas && !is_expired {
        entry.fixed = Some(sas.clone());
    }
    let query = sas.query(&api.shared.sas_key);
    api.state.hand_out(&query, "sig=");
    let query = if options.raw_sas { sas::raw(&query) } else { query };
    format!("{}/{}/{blob}?{query}", api.base, sas.container)
}

/// Lets a held workflow go on.
pub(super) fn release(shared: &Shared, state: &mut State, id: u64) -> bool {
    let now: Duration = state.clock.now();
    let commit = state.submissions.get_mut(&id).and_then(|submission| submission.commit.as_mut());
    commit.map(|commit| workflow::release(&shared.options, commit, now)).is_some()
}
