//! A token as it is kept, in memory and sealed in the store.

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    endpoint::{Identity, Token, TokenVersion},
    settings::Settings,
};
use crate::{
    domain::{ids::Sha256, time::Moment},
    seal::Keyring,
};

/// The five parts that make two tokens different: authority host, tenant, client id, credential kind, audience.
#[derive(Debug, Clone)]
pub(super) struct Key {
    parts: Vec<u8>,
    hash: String,
}

impl Key {
    pub(super) fn of(identity: &Identity) -> Self {
        let authority = identity.authority.origin().ascii_serialization();
        let tenant = identity.tenant.to_ascii_lowercase();
        let client = identity.client_id.to_ascii_lowercase();
        let mut parts = Vec::new();
        for part in [&authority, &tenant, &client, identity.credential.kind(), &identity.audience] {
            parts.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            parts.extend_from_slice(part.as_bytes());
        }
        let hash = Sha256::of(&parts).to_string();
        Self { parts, hash }
    }

    /// The name in the store.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}

/// A token with its times.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) obtained_at: Moment,
    /// When to renew it.
    pub(super) due: Moment,
    /// Not handed out from then on.
    pub(super) usable_until: Moment,
    /// Made because an API refused the one before.
    pub(super) is_forced: bool,
}

impl Held {
    /// `chance` spreads the renewals of a fleet.
    pub(super) fn new(token: Token, obtained_at: Moment, is_forced: bool, chance: f64, settings: &Settings) -> Self {
        let life = token.expires_at.since(obtained_at);
        let half = obtained_at.after(life / 2);
        let regular = if life < settings.renew_early.saturating_mul(2) {
            half
        } else {
            let spread = settings.renew_jitter.mul_f64(chance.clamp(0.0, 1.0));
            token.expires_at.before(settings.renew_early.saturating_add(spread)).max(half)
        };
        let due = token.renew_at.map_or(regular, |hint| hint.min(regular));
        let usable_until = token.expires_at.before(settings.unused_before_end.min(life / 10));
        Self { token, obtained_at, due, usable_until, is_forced }
    }

    pub(super) fn is_usable(&self, now: Moment) -> bool {
        now < self.usable_until
    }
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    token: T,
    obtained_at: Moment,
    expires_at: Moment,
    renew_at: Option<Moment>,
    is_forced: bool,
}

pub(super) fn seal(keyring: &Keyring, key: &Key, held: &Held) -> Option<Vec<u8>> {
    let kept = Kept {
        token: held.token.secret.expose_secret(),
        obtained_at: held.obtained_at,
        expires_at: held.token.expires_at,
        renew_at: held.token.renew_at,
        is_forced: held.is_forced,
    };
    let plain = Zeroizing::new(serde_json::to_vec(&kept).ok()?);
    keyring.seal(&plain, &key.parts).ok().map(String::into_bytes)
}

/// Opens what [`seal`] made for this key. Anything else counts as absent: a token can always be asked for.
pub(super) fn open(keyring: &Keyring, key: &Key, sealed: &[u8], chance: f64, settings: &Settings) -> Option<Held> {
    let plain = keyring.open(std::str::from_utf8(sealed).ok()?, &key.parts).ok()?;
    let kept: Kept<String> = serde_json::from_slice(&plain).ok()?;
    let secret = SecretString::from(kept.token);
    let version = TokenVersion::of(&secret);
    let token = Token { secret, expires_at: kept.expires_at, renew_at: kept.renew_at, version };
    Some(Held::new(token, kept.obtained_at, kept.is_forced, chance, settings))
}
