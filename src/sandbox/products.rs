//! Products: create, read, list with pages, patch (hardware-api.md 5.3 to 5.6).

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::time::Duration;

use super::api::Api;
use super::errors::{Refusal, Reply, gateway};
use super::faults::FaultKind;
use super::state::Product;
use super::{seconds, wire, workflow};

/// The shape of a member of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Text,
    Flag,
    Texts,
    Object,
    Date,
}

const MEMBERS: [(&str, Shape); 13] = [
    ("productName", Shape::Text),
    ("testHarness", Shape::Text),
    ("announcementDate", Shape::Date),
    ("deviceMetadataIds", Shape::Texts),
    ("firmwareVersion", Shape::Text),
    ("deviceType", Shape::Text),
    ("isTestSign", Shape::Flag),
    ("isFlightSign", Shape::Flag),
    ("marketingNames", Shape::Texts),
    ("selectedProductTypes", Shape::Object),
    ("requestedSignatures", Shape::Texts),
    ("additionalAttributes", Shape::Object),
    ("packageType", Shape::Text),
];

const PATCHABLE: [&str; 3] = ["announcementDate", "marketingNames", "productName"];

impl Shape {
    /// What is wrong with the value, if anything is.
    fn problem(self, value: &Value) -> Option<&'static str> {
        if value.is_null() {
            return None;
        }
        let is_good = match self {
            Self::Text => value.is_string(),
            Self::Flag => value.is_boolean(),
            Self::Texts => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
            Self::Object => value.is_object(),
            Self::Date => value.as_str().is_some_and(is_date),
        };
        (!is_good).then_some(match self {
            Self::Text => "The value must be a string.",
            Self::Flag => "The value must be a boolean.",
            Self::Texts => "The value must be an array of strings.",
            Self::Object => "The value must be an object.",
            Self::Date => "The value must be a date.",
        })
    }

    /// What a missing member reads as.
    fn default(self) -> Option<Value> {
        match self {
            Self::Text => Some(json!("")),
            Self::Flag => Some(json!(false)),
            Self::Texts => Some(json!([])),
            Self::Object => Some(json!({})),
            Self::Date => None,
        }
    }
}

fn is_date(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok() || text.parse::<jiff::civil::DateTime>().is_ok()
}

/// Reads a request body and checks the members it may have.
pub(super) fn read_body(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) | Err(_) => Err(Refusal::broken_json()),
    }
}

/// Names the members that the service would ignore, when that is asked for.
pub(super) fn unknown(api: &Api<'_>, body: &Map<String, Value>, known: &[&str]) -> Vec<(String, String)> {
    if !api.shared.options.strict_requests {
        return Vec::new();
    }
    body.keys()
        .filter(|name| !known.contains(&name.as_str()))
        .map(|name| (name.clone(), "The member is unknown and would be ignored.".to_owned()))
        .collect()
}

fn text_of<'a>(members: &'a Map<String, Value>, name: &str) -> &'a str {
    members.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// `POST /products`
pub(super) fn create(api: &mut Api<'_>) -> Result<Reply, Refusal> {
    let body = read_body(api.body)?;
    let mut targets = unknown(api, &body, &MEMBERS.map(|(name, _)| name));
    for (name, shape) in MEMBERS {
        if let Some(problem) = body.get(name).and_then(|value| shape.problem(value)) {
            targets.push((name.to_owned(), problem.to_owned()));
        }
    }
    if text_of(&body, "productName").trim().is_empty() {
        targets.push(("productName".to_owned(), "The product name must not be empty.".to_owned()));
    }
    if body.get("requestedSignatures").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        targets.push(("requestedSignatures".to_owned(), "At least one signature must be requested.".to_owned()));
    }
    if !targets.is_empty() {
        return Err(Refusal::invalid(targets));
    }
    let mut members = Map::new();
    for (name, shape) in MEMBERS {
        if ["productName", "testHarness", "packageType"].contains(&name) {
            continue;
        }
        if let Some(value) = body.get(name).filter(|value| !value.is_null()).cloned().or_else(|| shape.default()) {
            members.insert(name.to_owned(), value);
        }
    }
    let harness = Some(text_of(&body, "testHarness").to_lowercase()).filter(|text| !text.is_empty());
    let now = api.state.clock.now();
    let lag = api.hits.get(FaultKind::LateList).map(|params| seconds(params.seconds.unwrap_or(60.0)));
    let (id, shared_id) = (api.state.next_product_id(), api.state.next_shared_id());
    let product = Product {
        id,
        shared_id,
        tenant_id: api.tenant_id().to_owned(),
        correlation_id: api.call.correlation_id.clone(),
        created: api.shared.now(),
        updated: api.shared.now(),
        made_at: now,
        visible_at: now.saturating_add(lag.unwrap_or(api.shared.options.list_lag)),
        name: text_of(&body, "productName").to_owned(),
        harness: harness.unwrap_or_else(|| "notset".to_owned()),
        members,
    };
    api.state.products.insert(id, product);
    api.call.product_id = Some(id);
    let answer = api.state.products.get(&id).map(|product| show(api, product)).unwrap_or_default();
    Ok(api.json(StatusCode::CREATED, answer).effective())
}

/// `GET /products/{p}`
pub(super) fn get(api: &mut Api<'_>, id: u64) -> Result<Reply, Refusal> {
    let product = api.state.product(api.tenant_id(), id).ok_or_else(Refusal::product_not_found)?;
    let answer = show(api, product);
    Ok(api.json(StatusCode::OK, answer))
}

/// `GET /products`
pub(super) fn list(api: &mut Api<'_>) -> Result<Reply, Refusal> {
    let query = |name: &str| api.query.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let asked = query("pageSize").or_else(|| query("top")).and_then(|text| text.parse::<usize>().ok());
    let after = match query("continuationToken") {
        None => 0,
        Some(token) => read_token(token)
            .ok_or_else(|| Refusal::new("invalidInput", 400, "The continuation token is not valid."))?,
    };
    let usual = api.shared.options.page_size;
    let size = asked.filter(|size| (1..=1000).contains(size)).unwrap_or(usual);
    let now = api.state.clock.now();
    let late = api.hits.get(FaultKind::LateList).map(|params| seconds(params.seconds.unwrap_or(60.0)));
    let visible: Vec<&Product> = api
        .state
        .products
        .values()
        .filter(|product| {
            product.tenant_id == api.tenant_id() && is_listed(product.made_at, product.visible_at, now, late)
        })
        .collect();
    let first = visible.iter().filter(|product| product.id <= after).count();
    if let Some(page) = api.shared.options.list_fails_at_page
        && first.checked_div(size).is_some_and(|pages| pages + 1 >= page)
    {
        return Ok(gateway(500, "Internal server error"));
    }
    let count = if size == 0 { usize::MAX } else { size };
    let page: Vec<&Product> = visible.iter().skip(first).take(count).copied().collect();
    let value: Vec<Value> = page.iter().map(|product| show(api, product)).collect();
    let mut answer = json!({ "value": value });
    if size > 0
        && let Some(members) = answer.as_object_mut()
    {
        let mut links = vec![api.link("self", "GET", &format!("/products?pageSize={size}"))];
        if let Some(last) = page.last().filter(|_| first + page.len() < visible.len()) {
            let path = format!("/products?pageSize={size}&continuationToken={}", token(last.id));
            links.push(api.link("next_link", "GET", &path));
        }
        members.insert("links".to_owned(), Value::Array(links));
    }
    Ok(api.json(StatusCode::OK, answer))
}

/// Whether an entity shows in a list by now.
pub(super) fn is_listed(made_at: Duration, visible_at: Duration, now: Duration, late: Option<Duration>) -> bool {
    visible_at <= now && late.is_none_or(|late| made_at.saturating_add(late) <= now)
}

/// The opaque token of the page after this product, percent-encoded.
fn token(last: u64) -> String {
    let xml = format!(
        "<ContinuationToken><Version>2.0</Version><Type>Table</Type><NextRowKey>{last:020}</NextRowKey></ContinuationToken>"
    );
    url::form_urlencoded::byte_serialize(STANDARD.encode(xml).as_bytes()).collect()
}

fn read_token(token: &str) -> Option<u64> {
    let xml = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    xml.split_once("<NextRowKey>")?.1.split_once('<')?.0.parse().ok()
}

/// `PATCH /products/{p}`
pub(super) fn update(api: &mut Api<'_>, id: u64) -> Result<Reply, Refusal> {
    let body = read_body(api.body)?;
    let product = api.state.product(api.tenant_id(), id).ok_or_else(Refusal::product_not_found)?;
    let mut targets = unknown(api, &body, &PATCHABLE);
    for (name, shape) in MEMBERS.iter().filter(|(name, _)| PATCHABLE.contains(name)) {
        if let Some(problem) = body.get(*name).and_then(|value| shape.problem(value)) {
            targets.push(((*name).to_owned(), problem.to_owned()));
        }
    }
    let given: Vec<&str> = PATCHABLE.into_iter().filter(|name| body.get(*name).is_some_and(|v| !v.is_null())).collect();
    if given.is_empty() {
        targets.extend(
            PATCHABLE.map(|name| (name.to_owned(), "At least one property is required for update.".to_owned())),
        );
    }
    if body.get("productName").and_then(Value::as_str).is_some_and(|name| name.trim().is_empty()) {
        targets.push(("productName".to_owned(), "The product name must not be empty.".to_owned()));
    }
    if !targets.is_empty() {
        return Err(Refusal::invalid(targets));
    }
    let now = api.state.clock.now();
    let initial = api.state.submissions_of(product.id).next();
    let Some(initial) = initial.map(|initial| workflow::view(&api.shared.options, initial, now)) else {
        return Err(Refusal::unauthorized_update("Cannot update product without an initial submission"));
    };
    if initial.is_failed() {
        return Err(Refusal::unauthorized_update("Cannot update product because the workflow has failed"));
    }
    if initial.is_signed && given.contains(&"announcementDate") {
        let text = "Announcement Date cannot be updated after the ingestion process is finished";
        return Err(Refusal::unauthorized_update(text));
    }
    let updated = api.shared.now();
    if let Some(product) = api.state.products.get_mut(&id) {
        for name in given {
            let Some(value) = body.get(name) else { continue };
            if name == "productName" {
                value.as_str().unwrap_or_default().clone_into(&mut product.name);
            } else {
                product.members.insert(name.to_owned(), value.clone());
            }
        }
        product.updated = updated;
    }
    Ok(Reply::empty(StatusCode::NO_CONTENT).effective())
}

/// A product as it is read.
fn show(api: &Api<'_>, product: &Product) -> Value {
    let path = format!("/products/{}", product.id);
    let is_committed = api.state.submissions_of(product.id).any(|submission| submission.commit.is_some());
    let mut members = Map::new();
    let fixed = json!({
        "id": product.id,
        "sharedProductId": product.shared_id,
        "links": [
            api.link("self", "GET", &path),
            api.link("get_submissions", "GET", &format!("{path}/submissions")),
        ],
        "isCommitted": is_committed,
        "isExtensionInf": super::submissions::is_extension(api.state, product.id),
        "originType": "author",
        "sourceProductId": 0,
        "sourcePublisherId": 0,
        "isRetpolineCompiled": false,
        "message": "",
        "driverType": "desktop",
        "productName": product.name,
        "testHarness": product.harness,
    });
    if let Value::Object(fixed) = fixed {
        members.extend(fixed);
    }
    members.extend(product.members.clone());
    if api.shared.options.created_date_time {
        members.insert("createdDateTime".to_owned(), json!(wire::date_time(product.created)));
        members.insert("updatedDateTime".to_owned(), json!(wire::date_time(product.updated)));
    }
    Value::Object(members)
}
