//! Who speaks for an account: its settings turned into an identity, its tokens shared through the home.

use std::{fmt, time::Duration};

use secrecy::ExposeSecret as _;

use crate::{
    config::{self, AssertionAlgorithm, SecretError, Settings},
    domain::{
        ids::{AccountName, Sha256},
        time::Moment,
    },
    embedded::Embedded,
    identity::{self, Algorithm, Certificate, EndpointVersion, Identity, SignInError, StoreFailed, TokenEndpoint},
    partner_center::hardware,
    redis::Store,
    telemetry::{Metrics, TokenOutcome},
};

/// Why an account's credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A reference gives nothing.
    #[error(transparent)]
    Reference(#[from] SecretError),
    /// The certificate or its key is of no use.
    #[error("{key}: {problem}")]
    Certificate {
        /// The setting.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A kind that this version does not know how to use.
    #[error("{key}: {kind} is not available in this version; use a secret or a certificate")]
    NotYet {
        /// The setting.
        key: String,
        /// What it is.
        kind: &'static str,
    },
}

/// The identity that speaks for an account with the hardware API. Secrets are fetched now.
///
/// # Errors
/// [`Unusable`] names the setting.
pub fn identity(settings: &Settings, name: &AccountName, account: &config::Account) -> Result<Identity, Unusable> {
    let version = match account.token_version.unwrap_or(settings.identity.token_version) {
        config::TokenVersion::V1 => EndpointVersion::V1,
        config::TokenVersion::V2 => EndpointVersion::V2,
    };
    Ok(Identity {
        authority: settings.endpoints.authority.url().clone(),
        tenant: account.tenant_id.to_string(),
        version,
        client_id: account.client_id.to_string(),
        credential: credential(settings, name, account)?,
        audience: hardware::AUDIENCE.to_owned(),
    })
}

fn credential(
    settings: &Settings,
    name: &AccountName,
    account: &config::Account,
) -> Result<identity::Credential, Unusable> {
    let at = format!("accounts.{name}.credential");
    let not_yet = |kind| Unusable::NotYet { key: at.clone(), kind };
    match &account.credential {
        config::Credential::Secret(reference) => {
            Ok(identity::Credential::Secret(reference.resolve(&format!("{at}.secret"))?))
        }
        config::Credential::Certificate { certificate, key } => {
            let algorithm = match account.assertion_algorithm.unwrap_or(settings.identity.assertion_algorithm) {
                AssertionAlgorithm::Ps256 => Algorithm::Ps256,
                AssertionAlgorithm::Rs256 => Algorithm::Rs256,
            };
            let pem = certificate.resolve(&format!("{at}.certificate"))?;
            let key_pem = match key {
                Some(key) => key.resolve(&format!("{at}.key"))?,
                None => pem.clone(),
            };
            let certificate = Certificate::from_pem(pem.expose_secret(), &key_pem, algorithm).map_err(|error| {
                Unusable::Certificate { key: format!("{at}.certificate"), problem: error.to_string() }
            })?;
            Ok(identity::Credential::Certificate(Box::new(certificate)))
        }
        config::Credential::FederatedTokenFile(_) => Err(not_yet("a federated token")),
        config::Credential::ManagedIdentity { .. } => Err(not_yet("a managed identity")),
        config::Credential::Password { .. } => Err(not_yet("a password")),
    }
}

/// Tokens shared by all processes of the home.
pub struct Shelf {
    home: Kept,
    owner: u128,
}

/// Where the tokens lie.
enum Kept {
    Embedded(Embedded),
    Fleet(Store),
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

impl Shelf {
    /// The shelf of this home, for this process.
    #[must_use]
    pub fn new(home: Embedded) -> Self {
        Self::of(Kept::Embedded(home))
    }

    /// The shelf in the fleet's memory, for this process.
    #[must_use]
    pub fn fleet(memory: Store) -> Self {
        Self::of(Kept::Fleet(memory))
    }

    fn of(home: Kept) -> Self {
        Self { home, owner: u128::from_be_bytes(crate::clock::random_bytes()) }
    }
}

fn failed(error: impl fmt::Display) -> StoreFailed {
    StoreFailed(error.to_string())
}

impl identity::TokenStore for Shelf {
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreFailed> {
        let place = Sha256::of(key.as_bytes());
        match &self.home {
            Kept::Embedded(home) => home.load_token(place.as_bytes()).await,
            Kept::Fleet(memory) => memory.load_token(&place.to_string()).await,
        }
        .map_err(failed)
    }

    async fn store(&self, key: &str, sealed: &[u8], expires: Moment) -> Result<(), StoreFailed> {
        let place = Sha256::of(key.as_bytes());
        match &self.home {
            Kept::Embedded(home) => home.store_token(place.as_bytes(), sealed.to_vec(), expires).await,
            Kept::Fleet(memory) => memory.store_token(&place.to_string(), sealed, expires).await,
        }
        .map_err(failed)
    }

    async fn lease(&self, key: &str, span: Duration) -> Result<bool, StoreFailed> {
        let place = Sha256::of(key.as_bytes());
        match &self.home {
            Kept::Embedded(home) => home.lease_token(place.as_bytes(), self.owner, span).await,
            Kept::Fleet(memory) => memory.lease_token(&place.to_string(), self.owner, span).await,
        }
        .map_err(failed)
    }

    async fn release(&self, key: &str) -> Result<(), StoreFailed> {
        let place = Sha256::of(key.as_bytes());
        match &self.home {
            Kept::Embedded(home) => home.release_token(place.as_bytes(), self.owner).await,
            Kept::Fleet(memory) => memory.release_token(&place.to_string(), self.owner).await,
        }
        .map_err(failed)
    }
}

/// The token endpoint, its requests counted.
#[derive(Debug)]
pub struct Counted {
    endpoint: TokenEndpoint,
    metrics: Metrics,
}

impl Counted {
    /// Counts the requests of this endpoint.
    #[must_use]
    pub const fn new(endpoint: TokenEndpoint, metrics: Metrics) -> Self {
        Self { endpoint, metrics }
    }
}

impl identity::SignIn for Counted {
    async fn sign_in(&self, identity: &Identity, now: Moment) -> Result<identity::Token, SignInError> {
        let answer = self.endpoint.request(identity, now).await;
        self.metrics.token_request(match &answer {
            Ok(_) => TokenOutcome::Issued,
            Err(SignInError::Refused(_)) => TokenOutcome::Refused,
            Err(SignInError::Throttled { .. } | SignInError::Transient { .. }) => TokenOutcome::Failed,
        });
        answer
    }
}
