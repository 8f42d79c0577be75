//! One request to the token endpoint, and what became of it.
//!
//! Never repeats by itself, with one exception: an assertion refused for its time is built again, once, by the clock of
//! the answer. Source: contract/identity.md, sections 1, 4, 5, 7 and 9.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::{
    credential::{ASSERTION_TYPE, Credential},
    response::{self, Problem},
    settings::Settings,
};
use crate::{
    clock,
    domain::{
        failure::{Cause, Kind},
        ids::Sha256,
        time::Moment,
    },
    http,
};

/// Microsoft's public authority (section 1).
pub const AUTHORITY: &str = "https://login.microsoftonline.com";

/// Larger answers are not read (section 7).
const BODY_CAP: usize = 64 * 1024;

/// Which of the two token endpoints is used. Both serve every audience (section 4.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointVersion {
    /// `/oauth2/token` with `resource`: what the hardware API's documentation prescribes.
    #[default]
    V1,
    /// `/oauth2/v2.0/token` with `scope`.
    V2,
}

/// For whom, to whom and for what a token is asked.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The sign-in host; [`AUTHORITY`] in the public cloud.
    pub authority: Url,
    /// The directory: a GUID or a verified domain, never an alias such as `common`.
    pub tenant: String,
    /// The endpoint.
    pub version: EndpointVersion,
    /// The application.
    pub client_id: String,
    /// What proves that we are the application.
    pub credential: Credential,
    /// What the token is for, without `/.default`.
    pub audience: String,
}

impl Identity {
    /// The URL that is posted to.
    ///
    /// # Errors
    /// [`Refusal`] when authority or tenant cannot be used.
    pub fn url(&self) -> Result<Url, Refusal> {
        http::check_endpoint(&self.authority)
            .map_err(|error| Refusal::of_settings(error.to_string(), "configure an https authority"))?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let is_alias = ["", ".", "..", "common", "organizations", "consumers"].contains(&self.tenant.as_str());
        if is_alias || !self.tenant.chars().all(is_plain) {
            let message = format!("tenant {:?} is neither a GUID nor a domain name", self.tenant);
            return Err(Refusal::of_settings(message, "configure the tenant's GUID or verified domain"));
        }
        let end = match self.version {
            EndpointVersion::V1 => "oauth2/token",
            EndpointVersion::V2 => "oauth2/v2.0/token",
        };
        let mut url = self.authority.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.set_path(&format!("{}/{}/{end}", self.authority.path().trim_end_matches('/'), self.tenant));
        Ok(url)
    }
}

/// A short hash of a token: tells tokens apart without showing them.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenVersion(String);

impl TokenVersion {
    /// The version of this token: 16 hexadecimal digits.
    #[must_use]
    pub fn of(secret: &SecretString) -> Self {
        Self(Sha256::of(secret.expose_secret().as_bytes()).to_string().chars().take(16).collect())
    }
}

impl fmt::Display for TokenVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TokenVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bearer token. Opaque; never shown.
#[derive(Debug, Clone)]
pub struct Token {
    /// What stands behind `Bearer`.
    pub secret: SecretString,
    /// The instant before the request plus the life that the answer told, by the caller's clock.
    pub expires_at: Moment,
    /// When the endpoint would like it renewed, if it said so.
    pub renew_at: Option<Moment>,
    /// Tells it from its successors.
    pub version: TokenVersion,
}

/// Why the endpoint, or our own check before it, refused for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// AADSTS numbers.
    pub codes: Vec<u32>,
    /// The `error` value; `settings` when nothing was sent, `token_refused` when an API refused a fresh token.
    pub error: String,
    /// What it means, for the operator.
    pub message: String,
    /// What the operator does next.
    pub next_step: String,
    /// The HTTP status, when there was an answer.
    pub http_status: Option<u16>,
    /// Set when nobody was asked: the cache's memory of an earlier request gives the answer.
    #[serde(skip)]
    pub remembered: Option<Box<Remembered>>,
}

/// An answer of the cache's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// How long ago it was refused.
    pub ago: Duration,
    /// How long nobody will be asked yet.
    pub rest: Duration,
}

impl Refusal {
    fn of_settings(message: String, next_step: &str) -> Self {
        let (codes, error, next_step) = (Vec::new(), "settings".to_owned(), next_step.to_owned());
        Self { codes, error, message, next_step, http_status: None, remembered: None }
    }

    /// An API refused a token that had just been made.
    pub(super) fn of_fresh_token(audience: &str) -> Self {
        Self {
            codes: Vec::new(),
            error: "token_refused".to_owned(),
            message: format!("{audience} refuses a token that was just renewed"),
            next_step: "link the app in Partner Center and give it the role Manager and its hardware roles".to_owned(),
            http_status: Some(401),
            remembered: None,
        }
    }
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// A person must change something.
    #[error("sign-in refused: {0}")]
    Refused(Refusal),
    /// The endpoint asked for a pause.
    #[error("sign-in throttled for {} s", wait.as_secs())]
    Throttled {
        /// How long, at most an hour.
        wait: Duration,
    },
    /// It may work in a while.
    #[error("sign-in failed for now: {cause}")]
    Transient {
        /// What went wrong.
        cause: Cause,
    },
}

/// A client of the token endpoints. One per process.
#[derive(Debug)]
pub struct TokenEndpoint {
    http: reqwest::Client,
    response_timeout: Duration,
    /// Seconds that Entra's clock is ahead of ours.
    settings: Settings,
    offset_secs: AtomicI64,
    requests: AtomicU64,
}

impl TokenEndpoint {
    /// A client that waits this long for an answer.
    #[must_use]
    pub fn new(http: reqwest::Client, response_timeout: Duration) -> Self {
        let settings = Settings::default();
        Self { http, response_timeout, settings, offset_secs: AtomicI64::new(0), requests: AtomicU64::new(0) }
    }

    /// The same client with other waits.
    #[must_use]
    pub const fn with(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Requests sent so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How far Entra's clock was found ahead of ours.
    #[must_use]
    pub fn clock_offset(&self) -> SignedDuration {
        SignedDuration::from_secs(self.offset_secs.load(Ordering::Relaxed))
    }

    /// Asks for one token; `now` is the caller's clock.
    ///
    /// # Errors
    /// [`SignInError`], sorted by what may be done next.
    ///
    /// # Cancel safety
    /// Cancel safe: a token that was under way is lost and another may be asked for.
    pub async fn request(&self, identity: &Identity, now: Moment) -> Result<Token, SignInError> {
        let url = identity.url().map_err(SignInError::Refused)?;
        match self.attempt(identity, &url, now).await? {
            Outcome::Token(token) => Ok(token),
            Outcome::Error(error) => Err(error),
            Outcome::OutsideTime { server, error } => {
                // Entra judges assertions by its own clock: go by it from now on, and try once more (section 9).
                let offset = server.duration_since(now.timestamp());
                self.offset_secs.store(offset.as_secs(), Ordering::Relaxed);
                tracing::warn!(
                    offset_s = offset.as_secs(),
                    "sign-in server judges our clock to be off; going by its clock"
                );
                match self.attempt(identity, &url, now).await? {
                    Outcome::Token(token) => Ok(token),
                    Outcome::Error(error) => Err(error),
                    Outcome::OutsideTime { .. } => Err(error),
                }
            }
        }
    }

    async fn attempt(&self, identity: &Identity, url: &Url, now: Moment) -> Result<Outcome, SignInError> {
        let body = self.form(identity, url, now)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let response = self
            .http
            .post(url.clone())
            .timeout(self.response_timeout)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header("client-request-id", clock::uuid_v4().to_string())
            .body(body.expose_secret().to_owned())
            .send()
            .await
            .map_err(|error| transport(&error))?;
        let status = response.status();
        let server = http::date(response.headers());
        if status.is_success() {
            let body = http::read_capped(response, BODY_CAP).await.map_err(|error| match error {
                http::BodyError::TooLarge(_) => unreadable(status.as_u16(), &error.to_string()),
                http::BodyError::Transport(error) => transport(&error),
            })?;
            let granted = response::granted(&body, server.unwrap_or_else(|| now.timestamp()))
                .map_err(|problem| unreadable(status.as_u16(), problem))?;
            return Ok(Outcome::Token(Token {
                version: TokenVersion::of(&granted.secret),
                secret: granted.secret,
                expires_at: now.after(granted.life),
                renew_at: granted.refresh_in.map(|wait| now.after(wait)),
            }));
        }
        let headers = response.headers().clone();
        let problem = Problem::read(&http::read_start(response, BODY_CAP).await);
        let is_outside_time = problem.is_outside_time() && matches!(identity.credential, Credential::Certificate(_));
        let error = response::refused(status.as_u16(), &headers, problem, now.timestamp(), &self.settings);
        Ok(match server {
            Some(server) if is_outside_time => Outcome::OutsideTime { server, error },
            Some(_) | None => Outcome::Error(error),
        })
    }

    /// The form, every value percent-encoded, the secret above all.
    fn form(&self, identity: &Identity, url: &Url, now: Moment) -> Result<SecretString, SignInError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials").append_pair("client_id", &identity.client_id);
        match &identity.credential {
            Credential::Secret(secret) => form.append_pair("client_secret", secret.expose_secret()),
            Credential::Certificate(certificate) => {
                let entra = now.timestamp().saturating_add(self.clock_offset()).unwrap_or_else(|_| now.timestamp());
                let assertion = certificate
                    .assertion(&identity.client_id, url, entra, clock::uuid_v4(), &self.settings)
                    .map_err(|error| Refusal::of_settings(error.to_string(), "check the certificate's key"))
                    .map_err(SignInError::Refused)?;
                form.append_pair("client_assertion_type", ASSERTION_TYPE)
                    .append_pair("client_assertion", assertion.expose_secret())
            }
        };
        match identity.version {
            EndpointVersion::V1 => form.append_pair("resource", &identity.audience),
            EndpointVersion::V2 => form.append_pair("scope", &format!("{}/.default", identity.audience)),
        };
        Ok(SecretString::from(form.finish()))
    }
}

enum Outcome {
    Token(Token),
    Error(SignInError),
    /// The assertion's time was refused by a server whose clock shows `server`.
    OutsideTime {
        server: Timestamp,
        error: SignInError,
    },
}

fn transport(error: &reqwest::Error) -> SignInError {
    let kind = match http::classify_transport(error) {
        http::Sent::Nothing => Kind::NotSent,
        http::Sent::Perhaps if error.is_timeout() => Kind::Timeout,
        http::Sent::Perhaps => Kind::Disconnected,
    };
    let message = format!("the token endpoint gave no answer: {}", http::describe(error));
    SignInError::Transient { cause: Cause::new(kind, message) }
}

fn unreadable(status: u16, problem: &str) -> SignInError {
    let message = format!("the token endpoint answered {status}, but {problem}");
    SignInError::Transient { cause: Cause::new(Kind::BadAnswer, message).with_status(status) }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, VecDeque},
        sync::{Arc, Mutex},
    };

    use axum::{body::Body, extract::State, http::HeaderMap, response::Response as Reply};
    use tokio::{net::TcpListener, task::JoinSet};

    use super::*;
    use crate::{
        identity::credential::{Algorithm, Certificate, testing},
        partner_center::contract,
    };

    const TENANT: &str = "7d1f0c52-3a6e-4b19-9f41-5c2e8ab70d13";
    const NOW: Moment = Moment::from_millis(1_793_527_200_000);

    type Script = Arc<Mutex<VecDeque<(u16, Vec<(&'static str, String)>, String)>>>;
    type Journal = Arc<Mutex<Vec<(String, HeaderMap, String)>>>;

    /// A token endpoint that answers from a script, once each.
    struct Server {
        authority: Url,
        journal: Journal,
        tasks: JoinSet<()>,
    }

    async fn server(script: impl IntoIterator<Item = (u16, Vec<(&'static str, String)>, String)>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (journal, script) = (Journal::default(), Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>())));
        let handler = |State((journal, script)): State<(Journal, Script)>, uri: axum::http::Uri, headers, body| {
            journal.lock().unwrap().push((uri.path().to_owned(), headers, body));
            let (status, headers, body) = script.lock().unwrap().pop_front().expect("an unexpected request");
            let reply =
                headers.into_iter().fold(Reply::builder().status(status), |r, (name, value)| r.header(name, value));
            async { reply.body(Body::from(body)).unwrap() }
        };
        let router = axum::Router::new().fallback(axum::routing::post(handler)).with_state((journal.clone(), script));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Server { authority, journal, tasks }
    }

    impl Server {
        fn identity(&self, version: EndpointVersion, credential: Credential) -> Identity {
            Identity {
                authority: self.authority.clone(),
                tenant: TENANT.to_owned(),
                version,
                client_id: "c0a9e6d4-58b7-4f02-8e3d-91a64b7f2c58".to_owned(),
                credential,
                audience: "https://manage.devcenter.microsoft.com".to_owned(),
            }
        }

        fn forms(&self) -> Vec<HashMap<String, String>> {
            let journal = self.journal.lock().unwrap();
            journal.iter().map(|(.., body)| form_urlencoded::parse(body.as_bytes()).into_owned().collect()).collect()
        }
    }

    fn endpoint() -> TokenEndpoint {
        TokenEndpoint::new(http::client(&http::Options::default()).unwrap(), Duration::from_secs(30))
    }

    fn secret() -> Credential {
        Credential::Secret(SecretString::from("Zk8~q+T1/=%example"))
    }

    fn certificate() -> Credential {
        let (certificate, key) = testing::pair();
        Credential::Certificate(Box::new(Certificate::from_pem(&certificate, &key, Algorithm::Ps256).unwrap()))
    }

    fn example(name: &str) -> String {
        contract::identity_examples(name)[0].to_string()
    }

    #[tokio::test]
    async fn a_secret_is_sent_encoded_to_the_path_of_its_version() {
        for (version, path, audience) in [
            (EndpointVersion::V1, "oauth2/token", ("resource", "https://manage.devcenter.microsoft.com")),
            (EndpointVersion::V2, "oauth2/v2.0/token", ("scope", "https://manage.devcenter.microsoft.com/.default")),
        ] {
            let name = if version == EndpointVersion::V1 { "TokenResponseV1" } else { "TokenResponseV2" };
            let server = server([(200, vec![], example(name))]).await;
            let endpoint = endpoint();
            let token = endpoint.request(&server.identity(version, secret()), NOW).await.unwrap();
            assert_eq!(token.expires_at, NOW.after(Duration::from_secs(3599)));
            assert_eq!(token.version, TokenVersion::of(&token.secret));
            assert!(!format!("{token:?}").contains(token.secret.expose_secret()));
            assert_eq!(endpoint.requests(), 1);
            let (sent_path, headers, body) = server.journal.lock().unwrap()[0].clone();
            assert_eq!(sent_path, format!("/{TENANT}/{path}"));
            assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
            assert!(headers["client-request-id"].to_str().unwrap().parse::<uuid::Uuid>().is_ok());
            assert!(!body.contains("+T1/=%e"), "{body}");
            let expected: HashMap<_, _> = [
                ("grant_type", "client_credentials"),
                ("client_id", "c0a9e6d4-58b7-4f02-8e3d-91a64b7f2c58"),
                ("client_secret", "Zk8~q+T1/=%example"),
                audience,
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
            assert_eq!(server.forms(), [expected]);
        }
    }

    #[tokio::test]
    async fn a_form_of_each_version_fits_the_contracts_schema() {
        for (version, schema) in [(EndpointVersion::V1, "TokenFormV1"), (EndpointVersion::V2, "TokenFormV2")] {
            let server = server([(200, vec![], example("TokenResponseV1"))]).await;
            endpoint().request(&server.identity(version, secret()), NOW).await.unwrap();
            let form = serde_json::to_value(&server.forms()[0]).unwrap();
            assert_eq!(contract::objections(schema, &form), Vec::<String>::new());
        }
    }

    fn claims(form: &HashMap<String, String>) -> serde_json::Value {
        use base64::Engine as _;
        let part = form["client_assertion"].split('.').nth(1).unwrap();
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn an_assertion_names_the_url_and_is_built_again_by_the_servers_clock() {
        let outside = r#"{"error":"invalid_client","error_codes":[500133]}"#.to_owned();
        let date = vec![("date", "Sun, 01 Nov 2026 13:20:00 GMT".to_owned())];
        let server = server([(401, date, outside), (200, vec![], example("TokenResponseV1"))]).await;
        let endpoint = endpoint();
        endpoint.request(&server.identity(EndpointVersion::V1, certificate()), NOW).await.unwrap();
        assert_eq!(endpoint.requests(), 2);
        let forms = server.forms();
        assert!(
            forms
                .iter()
                .all(|form| form["client_assertion_type"] == ASSERTION_TYPE && !form.contains_key("client_secret"))
        );
        let (first, second) = (claims(&forms[0]), claims(&forms[1]));
        assert_eq!(first["aud"], format!("{}{TENANT}/oauth2/token", server.authority));
        assert_ne!(first["jti"], second["jti"]);
        assert_eq!(first["nbf"].as_i64(), Some(NOW.timestamp().as_second() - 60));
        let shift = "2026-11-01T13:20:00Z".parse::<Timestamp>().unwrap().as_second() - NOW.timestamp().as_second();
        assert_ne!(shift, 0);
        assert_eq!(endpoint.clock_offset().as_secs(), shift);
        assert_eq!(second["nbf"].as_i64(), Some(first["nbf"].as_i64().unwrap() + shift));
    }

    #[tokio::test]
    async fn a_clock_is_repaired_once_and_never_for_a_secret() {
        let outside = || {
            let body = r#"{"error":"invalid_client","error_codes":[500133]}"#.to_owned();
            (401, vec![("date", "Sun, 01 Nov 2026 13:20:00 GMT".to_owned())], body)
        };
        for (credential, requests) in [(certificate(), 2), (secret(), 1)] {
            let server = server([outside(), outside()]).await;
            let endpoint = endpoint();
            let error = endpoint.request(&server.identity(EndpointVersion::V1, credential), NOW).await.unwrap_err();
            assert!(matches!(error, SignInError::Refused(_)), "{error:?}");
            assert_eq!(endpoint.requests(), requests);
        }
    }

    #[tokio::test]
    async fn answers_without_json_and_too_large_ones_are_sorted_by_status() {
        let large = |status| (status, vec![], format!(r#"{{"access_token":"{}"}}"#, "x".repeat(BODY_CAP)));
        let throttled = (429, vec![("retry-after", "60".to_owned())], "Too Many Requests".to_owned());
        let cases = [
            (throttled, "throttled"),
            ((503, vec![], "<html>Service is unavailable</html>".to_owned()), "transient"),
            ((200, vec![], r#"{"access_token":"cut"#.to_owned()), "transient"),
            (large(200), "transient"),
            (large(500), "transient"),
            (large(400), "refused"),
        ];
        for (answer, expected) in cases {
            let status = answer.0;
            let server = server([answer]).await;
            let error = endpoint().request(&server.identity(EndpointVersion::V1, secret()), NOW).await.unwrap_err();
            let name = match error {
                SignInError::Refused(_) => "refused",
                SignInError::Throttled { wait } => {
                    assert_eq!(wait.as_secs(), 60);
                    "throttled"
                }
                SignInError::Transient { .. } => "transient",
            };
            assert_eq!(name, expected, "{status}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_never_sent() {
        let server = server([]).await;
        let good = server.identity(EndpointVersion::V1, secret());
        let plain = Identity { authority: "http://login.example".parse().unwrap(), ..good.clone() };
        let alias = Identity { tenant: "common".to_owned(), ..good.clone() };
        let path = Identity { tenant: "a/../b".to_owned(), ..good };
        for identity in [plain, alias, path] {
            let endpoint = endpoint();
            let error = endpoint.request(&identity, NOW).await.unwrap_err();
            assert!(matches!(&error, SignInError::Refused(refusal) if refusal.error == "settings"), "{error:?}");
            assert_eq!(endpoint.requests(), 0);
        }
    }

    #[tokio::test]
    async fn no_connection_is_transient() {
        let server = server([]).await;
        let identity = server.identity(EndpointVersion::V1, secret());
        let Server { mut tasks, .. } = server;
        tasks.shutdown().await;
        let error = endpoint().request(&identity, NOW).await.unwrap_err();
        assert!(matches!(error, SignInError::Transient { cause } if cause.kind == Kind::NotSent));
    }
}
