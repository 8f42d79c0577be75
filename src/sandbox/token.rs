//! The token endpoint, versions 1 and 2 (identity.md): real JWTs signed by a key of the sandbox, assertions and secrets
//! verified, refusals with the bodies of section 7.3.

use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::assertion;
use super::errors::Reply;
use super::operation::{Call, Operation};
use super::state::{App, State};
use super::{Shared, errors};

/// The audience of the hardware API.
pub(super) const HARDWARE: &str = "https://manage.devcenter.microsoft.com";

/// Resources that the simulated directories know.
const RESOURCES: [&str; 6] = [
    HARDWARE,
    "https://onestore.microsoft.com",
    "https://onestore.microsoft.com/b2b/keys/create/collections",
    "https://onestore.microsoft.com/b2b/keys/create/purchase",
    "https://api.partner.microsoft.com",
    "https://api.store.microsoft.com",
];

const AUTHORITIES: [&str; 4] = [
    "https://login.microsoftonline.com",
    "https://login.windows.net",
    "https://login.microsoftonline.us",
    "https://login.chinacloudapi.cn",
];

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What the sandbox puts into an access token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) aud: String,
    iss: String,
    iat: i64,
    nbf: i64,
    pub(super) exp: i64,
    pub(super) appid: String,
    appidacr: String,
    oid: String,
    sub: String,
    pub(super) tid: String,
    ver: String,
    /// The number of the token.
    pub(super) uti: u64,
}

/// A refusal: number, status, `error`, text.
struct Refusal(u32, u16, &'static str, String);

/// A request, as far as it could be read.
struct Form<'a> {
    fields: Vec<(String, String)>,
    tenant: &'a str,
    version: u8,
}

impl Form<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, value)| own == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    fn need(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal(
                900_144,
                400,
                "invalid_request",
                format!("The request body must contain the following parameter: '{name}'."),
            )
        })
    }
}

/// Where a token request goes: tenant and version.
pub(super) fn route(path: &str) -> Option<(&str, u8)> {
    let (tenant, rest) = path.strip_prefix('/')?.split_once('/')?;
    match rest.trim_end_matches('/') {
        "oauth2/token" => Some((tenant, 1)),
        "oauth2/v2.0/token" => Some((tenant, 2)),
        _ => None,
    }
}

/// The operation of a token request.
pub(super) fn operation(version: u8) -> Operation {
    if version == 1 { Operation::GetTokenV1 } else { Operation::GetTokenV2 }
}

/// Reads enough of the request for faults and journal to know whom it is for.
pub(super) fn describe(call: &mut Call, tenant: &str, body: &[u8]) {
    call.tenant_id = Some(tenant.to_lowercase());
    call.client_id =
        url::form_urlencoded::parse(body).find(|(name, _)| name == "client_id").map(|(_, id)| id.to_lowercase());
}

/// Answers a token request.
pub(super) fn answer(
    shared: &Shared,
    state: &mut State,
    method: &Method,
    headers: &HeaderMap,
    path: (&str, u8),
    body: &[u8],
) -> Reply {
    let (tenant, version) = path;
    let fields = url::form_urlencoded::parse(body).map(|(n, v)| (n.into_owned(), v.into_owned())).collect();
    let form = Form { fields, tenant, version };
    let result = if method == Method::POST {
        issue(shared, state, headers, &form)
    } else {
        let text = "The endpoint only accepts POST requests. Received a GET request.".to_owned();
        Err(Refusal(900_561, 400, "invalid_request", text))
    };
    if method == Method::POST {
        let audience = form
            .get("resource")
            .or_else(|| form.get("scope"))
            .map(|text| text.strip_suffix("/.default").unwrap_or(text))
            .unwrap_or_default();
        let client_id = form.get("client_id").unwrap_or_default().to_lowercase();
        state.tally.token(&tenant.to_lowercase(), &client_id, audience, result.is_ok());
    }
    match result {
        Ok(reply) => reply,
        Err(refusal) => refused(shared, headers, refusal),
    }
}

fn issue(shared: &Shared, state: &mut State, headers: &HeaderMap, form: &Form<'_>) -> Result<Reply, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
        let text = "Request parsing failed: the content type is not application/x-www-form-urlencoded.".to_owned();
        return Err(Refusal(9_002_313, 400, "invalid_request", text));
    }
    let tenant = form.tenant.to_lowercase();
    if ["common", "organizations", "consumers"].contains(&tenant.as_str()) {
        let text = "Application is not configured as a multi-tenant application. Use a tenant-specific endpoint.";
        return Err(Refusal(50194, 400, "invalid_request", text.to_owned()));
    }
    if !state.apps.iter().any(|app| app.tenant_id == tenant) {
        return Err(Refusal(90002, 400, "invalid_request", format!("Tenant '{tenant}' not found.")));
    }
    let grant = form.need("grant_type")?;
    if grant != "client_credentials" {
        let text = format!("The app requested an unsupported grant type '{grant}'.");
        return Err(Refusal(70003, 400, "unsupported_grant_type", text));
    }
    let client_id = form.need("client_id")?.to_lowercase();
    let audience = audience(form)?;
    let Some(app) = state.app(&tenant, &client_id) else {
        let text = format!("Application with identifier '{client_id}' was not found in the directory '{tenant}'.");
        return Err(Refusal(700_016, 400, "unauthorized_client", text));
    };
    let (method, jti) = authenticate(shared, headers, form, app)?;
    if !RESOURCES.contains(&audience.as_str()) {
        let error = if form.version == 1 { "invalid_resource" } else { "invalid_scope" };
        let text = format!("The resource principal named {audience} was not found in the tenant named {tenant}.");
        return Err(Refusal(500_011, 400, error, text));
    }
    if let Some(jti) = jti
        && !state.note_jti(&jti)
        && shared.options.reject_reused_jti
    {
        let text = "Client assertion contains a jti that was used before.".to_owned();
        return Err(Refusal(50013, 401, "invalid_client", text));
    }
    let now = shared.now().as_second();
    let lifetime = i64::try_from(shared.options.token_lifetime.as_secs()).unwrap_or(i64::MAX / 2);
    let object = uuid::Uuid::from_u128(uuid::Uuid::parse_str(&client_id).map_or(1, |id| id.as_u128().rotate_left(17)))
        .to_string();
    let claims = Claims {
        aud: audience.clone(),
        iss: format!("https://sts.windows.net/{tenant}/"),
        iat: now,
        nbf: now.saturating_sub(300),
        exp: now.saturating_add(lifetime),
        appid: client_id,
        appidacr: method.to_owned(),
        oid: object.clone(),
        sub: object,
        tid: tenant,
        ver: "1.0".to_owned(),
        uti: state.tokens.issue(),
    };
    let key = EncodingKey::from_secret(&shared.token_key);
    let Ok(token) = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key) else {
        return Err(Refusal(50000, 500, "server_error", "There was an error issuing a token.".to_owned()));
    };
    state.hand_out(&token, ".");
    let body = if form.version == 1 {
        json!({
            "token_type": "Bearer",
            "expires_in": lifetime.to_string(),
            "ext_expires_in": lifetime.to_string(),
            "expires_on": claims.exp.to_string(),
            "not_before": claims.nbf.to_string(),
            "resource": audience,
            "access_token": token,
        })
    } else {
        json!({ "token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token })
    };
    Ok(uncached(Reply::json(StatusCode::OK, &body)).effective())
}

/// The audience of the request, from `resource` in version 1 and `scope` in version 2.
fn audience(form: &Form<'_>) -> Result<String, Refusal> {
    if form.version == 1 {
        return form.need("resource").map(str::to_owned);
    }
    if form.get("resource").is_some() {
        let text = "The 'resource' request parameter is not supported.".to_owned();
        return Err(Refusal(901_002, 400, "invalid_request", text));
    }
    let scope = form.need("scope")?;
    scope.strip_suffix("/.default").filter(|audience| !audience.contains(' ')).map(str::to_owned).ok_or_else(|| {
        let text =
            format!("The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid.");
        Refusal(70011, 400, "invalid_scope", text)
    })
}

/// How the application proved itself (`appidacr`), and the id of its assertion.
fn authenticate(
    shared: &Shared,
    headers: &HeaderMap,
    form: &Form<'_>,
    app: &App,
) -> Result<(&'static str, Option<String>), Refusal> {
    let refusal = |number, text: &str| Refusal(number, 401, "invalid_client", text.to_owned());
    if let Some(secret) = form.get("client_secret") {
        let known = app.secrets.iter().find(|own| own.value.expose_secret() == secret).ok_or_else(|| {
            refusal(
                7_000_215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                 value, not the client secret ID.",
            )
        })?;
        if known.expires.is_some_and(|expires| expires <= shared.now()) {
            return Err(refusal(7_000_222, "The provided client secret keys are expired."));
        }
        return Ok(("1", None));
    }
    let Some(text) = form.get("client_assertion") else {
        let text = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
        return Err(refusal(7_000_218, text));
    };
    if form.need("client_assertion_type")? != ASSERTION_TYPE {
        let text = "The client assertion type is not supported.".to_owned();
        return Err(Refusal(9_002_313, 400, "invalid_request", text));
    }
    let expected = assertion::Expected {
        client_id: &app.client_id,
        audiences: &assertion_audiences(shared, headers, form.tenant),
        certificates: &app.certificates,
        now: shared.now().as_second(),
    };
    assertion::verify(text, &expected).map(|jti| ("2", Some(jti))).map_err(|(number, text)| refusal(number, text))
}

/// The shapes of `aud` that are good, for every name this endpoint goes by.
fn assertion_audiences(shared: &Shared, headers: &HeaderMap, tenant: &str) -> Vec<String> {
    let mut hosts: Vec<String> = AUTHORITIES.map(str::to_owned).to_vec();
    hosts.push(shared.base(headers));
    hosts.push(format!("http://{}", shared.address));
    let paths = ["oauth2/token", "oauth2/v2.0/token", "v2.0", ""];
    hosts.iter().flat_map(|host| paths.map(|path| format!("{host}/{tenant}/{path}"))).collect()
}

fn refused(shared: &Shared, headers: &HeaderMap, refusal: Refusal) -> Reply {
    let Refusal(number, status, error, text) = refusal;
    let trace_id = crate::clock::uuid_v4().to_string();
    let correlation_id = headers
        .get("client-request-id")
        .and_then(|value| uuid::Uuid::parse_str(value.to_str().ok()?).ok())
        .unwrap_or_else(crate::clock::uuid_v4)
        .to_string();
    let timestamp = shared.now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let mut body = json!({
        "error": error,
        "error_description": format!(
            "AADSTS{number}: {text}\r\nTrace ID: {trace_id}\r\nCorrelation ID: {correlation_id}\r\nTimestamp: {timestamp}"
        ),
        "error_codes": [number],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
    });
    // Some of them name a page, as on the real endpoint.
    if error == "invalid_client"
        && let Some(members) = body.as_object_mut()
    {
        members.insert("error_uri".to_owned(), json!(format!("{}/error?code={number}", shared.base(headers))));
    }
    uncached(Reply::json(errors::status_code(status), &body))
}

fn uncached(reply: Reply) -> Reply {
    reply
        .with(header::CACHE_CONTROL, "no-cache, no-store")
        .with(header::PRAGMA, "no-cache")
        .with(header::EXPIRES, "-1")
        .with(HeaderName::from_static("x-ms-request-id"), &crate::clock::uuid_v4().to_string())
}

/// What is wrong with the bearer token of a request to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadBearer {
    /// There is none, or it does not start with `Bearer`.
    Malformed,
    /// It is not ours, not for this resource any more, or refused by now.
    Invalid,
    /// It is good, for another resource.
    Audience,
}

/// Reads the bearer token of a request to the hardware API.
pub(super) fn bearer(shared: &Shared, headers: &HeaderMap) -> Result<Claims, BadBearer> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, token) = value.split_once(' ').unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(BadBearer::Malformed);
    }
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.validate_aud = false;
    let key = DecodingKey::from_secret(&shared.token_key);
    let claims =
        jsonwebtoken::decode::<Claims>(token.trim(), &key, &validation).map_err(|_| BadBearer::Invalid)?.claims;
    if claims.aud != HARDWARE {
        return Err(BadBearer::Audience);
    }
    if claims.exp <= shared.now().as_second() {
        return Err(BadBearer::Invalid);
    }
    Ok(claims)
}
