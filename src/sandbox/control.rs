//! The control endpoint below `/_sim/`: faults, clock, journal, verdict, keys, tokens, roles, held workflows.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::errors::Reply;
use super::faults::Fault;
use super::journal::Filter;
use super::{Shared, seconds, submissions, verdict};

const MOST_BODY: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clock {
    /// Virtual seconds.
    advance: Option<f64>,
    speed: Option<f64>,
    /// How far the service's real clock is ahead, in seconds.
    offset: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleWish {
    client_id: String,
    missing: Option<bool>,
    roles: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Workflow {
    submission_id: u64,
    release: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// A refusal, in words.
struct Wrong(StatusCode, String);

fn bad(message: impl Into<String>) -> Wrong {
    Wrong(StatusCode::BAD_REQUEST, message.into())
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Wrong> {
    serde_json::from_slice(body).map_err(|error| bad(error.to_string()))
}

/// Serves one request of a test or a person.
pub(super) async fn serve(shared: &Arc<Shared>, parts: Parts, body: Body) -> Response {
    let result = match axum::body::to_bytes(body, MOST_BODY).await {
        Ok(body) => answer(shared, &parts, &body),
        Err(_) => Err(bad("the body cannot be read")),
    };
    let reply = result.unwrap_or_else(|Wrong(status, message)| Reply::json(status, &json!({ "error": message })));
    reply.into_response()
}

fn answer(shared: &Shared, parts: &Parts, body: &[u8]) -> Result<Reply, Wrong> {
    let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).skip(1).collect();
    let ok = |value: &Value| Ok(Reply::json(StatusCode::OK, value));
    match (parts.method.as_str(), path.as_slice()) {
        ("POST", ["faults"]) => arm(shared, body),
        ("GET", ["faults"]) => ok(&shared.lock().faults.show()),
        ("DELETE", ["faults"]) => ok(&json!({ "removed": shared.lock().faults.disarm(None) })),
        ("DELETE", ["faults", id]) => {
            let id = id.parse().map_err(|_| bad("a fault is named by its number"))?;
            ok(&json!({ "removed": shared.lock().faults.disarm(Some(id)) }))
        }
        ("GET", ["journal"]) => journal(shared, parts.uri.query().unwrap_or_default()),
        ("GET", ["verdict"]) => ok(&verdict::verdict(&shared.lock())),
        ("GET", ["keys"]) => ok(&json!({ "token_keys": shared.lock().tally.token_keys() })),
        ("POST", ["clock"]) => {
            set_clock(shared, &read(body)?)?;
            ok(&clock(shared))
        }
        ("GET", ["clock"]) => ok(&clock(shared)),
        ("POST", ["tokens", "expire"]) => {
            shared.lock().tokens.expire_all();
            ok(&json!({}))
        }
        ("POST", ["roles"]) => set_roles(shared, read(body)?),
        ("POST", ["workflow"]) => {
            let wish: Workflow = read(body)?;
            let is_known = wish.release && submissions::release(shared, &mut shared.lock(), wish.submission_id);
            if is_known { ok(&json!({})) } else { Err(bad("nothing to release")) }
        }
        ("GET", []) => ok(&json!({
            "endpoints": ["faults", "journal", "verdict", "keys", "clock", "tokens/expire", "roles", "workflow"],
        })),
        _ if parts.method == Method::OPTIONS => {
            Err(Wrong(StatusCode::METHOD_NOT_ALLOWED, "not for browsers".to_owned()))
        }
        _ => Err(Wrong(StatusCode::NOT_FOUND, "there is no such control".to_owned())),
    }
}

fn arm(shared: &Shared, body: &[u8]) -> Result<Reply, Wrong> {
    let faults = match read::<Value>(body)? {
        Value::Array(_) => match read::<OneOrMany<Fault>>(body) {
            Ok(OneOrMany::Many(faults)) => faults,
            Ok(OneOrMany::One(fault)) => vec![fault],
            // Read again for an error that names the member.
            Err(_) => read::<Vec<Fault>>(body)?,
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => vec![read(body)?],
    };
    for fault in &faults {
        fault.check().map_err(bad)?;
    }
    let mut state = shared.lock();
    let ids: Vec<u64> = faults.into_iter().map(|fault| state.faults.arm(fault)).collect();
    Ok(Reply::json(StatusCode::CREATED, &json!({ "ids": ids })))
}

fn journal(shared: &Shared, query: &str) -> Result<Reply, Wrong> {
    // The query is text; numbers and truth values in it are read as what they are.
    let members: serde_json::Map<String, Value> = url::form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| {
            let is_typed =
                ["product_id", "submission_id", "effect", "faulted", "status", "since", "limit"].contains(&&*name);
            let typed = if is_typed { serde_json::from_str(&value).ok() } else { None };
            (name.into_owned(), typed.unwrap_or_else(|| Value::String(value.into_owned())))
        })
        .collect();
    let filter: Filter = serde_json::from_value(Value::Object(members)).map_err(|error| bad(error.to_string()))?;
    let entries = shared.lock().journal.read(&filter);
    if filter.format.as_deref() == Some("ndjson") {
        let mut lines = String::new();
        for entry in &entries {
            lines.push_str(&serde_json::to_string(entry).unwrap_or_default());
            lines.push('\n');
        }
        return Ok(Reply::text(StatusCode::OK, "application/x-ndjson", lines));
    }
    let entries = serde_json::to_value(&entries).map_err(|error| bad(error.to_string()))?;
    Ok(Reply::json(StatusCode::OK, &entries))
}

fn clock(shared: &Shared) -> Value {
    let state = shared.lock();
    json!({
        "virtual_seconds": state.clock.now().as_secs_f64(),
        "speed": state.clock.speed,
        "now": shared.now().to_string(),
    })
}

fn set_clock(shared: &Shared, wish: &Clock) -> Result<(), Wrong> {
    let is_good = |value: f64| (0.0..=1e9).contains(&value);
    if !wish.advance.is_none_or(is_good) || !wish.speed.is_none_or(is_good) {
        return Err(bad("advance and speed are numbers from 0 to 1e9"));
    }
    let mut state = shared.lock();
    if let Some(speed) = wish.speed {
        state.clock.set_speed(speed);
    }
    if let Some(by) = wish.advance {
        state.clock.advance(seconds(by));
    }
    if let Some(offset) = wish.offset {
        shared.set_offset(offset);
    }
    Ok(())
}

fn set_roles(shared: &Shared, wish: RoleWish) -> Result<Reply, Wrong> {
    let mut state = shared.lock();
    let client_id = wish.client_id.to_lowercase();
    let app = state.apps.iter_mut().find(|app| app.client_id == client_id).ok_or_else(|| bad("no such application"))?;
    if let Some(missing) = wish.missing {
        app.is_unlinked = missing;
    }
    if let Some(roles) = wish.roles {
        app.roles = roles;
    }
    Ok(Reply::json(StatusCode::OK, &json!({ "roles": app.roles, "missing": app.is_unlinked })))
}
