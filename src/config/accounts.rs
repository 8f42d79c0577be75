//! Accounts: who speaks for which seller account, with which credential, at which rate.

use std::path::PathBuf;

use config::{Value, ValueKind};
use uuid::Uuid;

use super::{
    nearest::nearest,
    read::{Reader, Setting, choice, section},
    secret::SecretReference,
};

section! {
    /// One Partner Center seller account and the application that speaks for it.
    pub struct Account {
        /// Directory (tenant) id.
        pub tenant_id: Uuid,
        /// Application (client) id.
        pub client_id: Uuid,
        /// How the application proves who it is.
        pub credential: Credential,
        /// Users of the broker that may name this account; `*`: anybody.
        pub producers: Option<Vec<String>>,
        /// Token endpoint, where it differs from `[identity]`.
        pub token_version: Option<TokenVersion>,
        /// Signature of assertions, where it differs from `[identity]`.
        pub assertion_algorithm: Option<AssertionAlgorithm>,
        /// Limits, where they differ from `[limits]`.
        pub limits: Option<AccountLimits>,
        /// Names that are found again, where they differ from `[markers]`.
        pub markers: Option<AccountMarkers>,
    }
}

section! {
    /// What an account says about markers; the rest is that of `[markers]`.
    pub struct AccountMarkers {
        /// In the names of submissions and labels.
        pub submissions: Option<bool>,
        /// In the names of products.
        pub products: Option<bool>,
    }
}

section! {
    /// Limits of one account.
    pub struct AccountLimits {
        /// Of the hardware API.
        pub hardware: Option<AccountRate>,
    }
}

section! {
    /// What an account says about the rate of one API; the rest is that of `[limits]`.
    pub struct AccountRate {
        /// Calls per minute.
        pub calls_per_minute: Option<u32> => PerMinute,
    }
}

section! {
    /// Limits of accounts that do not say.
    pub struct Limits {
        /// Of the hardware API.
        pub hardware: Rate,
    }
}

section! {
    /// How fast an API may be called.
    pub struct Rate {
        /// Calls per minute.
        pub calls_per_minute: u32 => PerMinute,
    }
}

/// The range of calls per minute, the same for `[limits]` and for accounts.
struct PerMinute;

macro_rules! same_rule {
    ($name:ident, $range:expr) => {
        impl super::read::Rule<u32> for $name {
            fn check(&self, value: &u32) -> Result<(), String> {
                super::read::Rule::<u32>::check(&$range, value)
            }

            fn text(&self) -> String {
                super::read::Rule::<u32>::text(&$range)
            }
        }

        impl super::read::Rule<Option<u32>> for $name {
            fn check(&self, value: &Option<u32>) -> Result<(), String> {
                value.map_or(Ok(()), |value| super::read::Rule::<u32>::check(&$range, &value))
            }

            fn text(&self) -> String {
                super::read::Rule::<u32>::text(&$range)
            }
        }
    };
}
same_rule!(PerMinute, 1_u32..=60_000);

impl Account {
    /// The rate of the hardware API: the account's own word, else that of `[limits]`.
    #[must_use]
    pub fn hardware_rate(&self, limits: &Limits) -> Rate {
        let own = self.limits.as_ref().and_then(|limits| limits.hardware.as_ref());
        Rate { calls_per_minute: own.and_then(|own| own.calls_per_minute).unwrap_or(limits.hardware.calls_per_minute) }
    }
}

choice! {
    /// The token endpoint of a directory. Source: contract/identity.md, section 1.
    pub enum TokenVersion {
        /// `/oauth2/token`, which takes a resource.
        V1 = "v1",
        /// `/oauth2/v2.0/token`, which takes a scope.
        V2 = "v2",
    }
}

choice! {
    /// How a certificate assertion is signed. Source: contract/identity.md, section 4.2.
    pub enum AssertionAlgorithm {
        /// RSA-PSS with SHA-256.
        Ps256 = "PS256",
        /// RSA PKCS#1 v1.5 with SHA-256.
        Rs256 = "RS256",
    }
}

/// How an application proves who it is. Source: contract/identity.md, section 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A client secret.
    Secret(SecretReference),
    /// A certificate whose key signs an assertion.
    Certificate {
        /// The certificate, PEM.
        certificate: SecretReference,
        /// Its private key, PEM; `None`: it is beside the certificate.
        key: Option<SecretReference>,
    },
    /// A token of another issuer in a file that its owner renews.
    FederatedTokenFile(PathBuf),
    /// The identity of the machine.
    ManagedIdentity {
        /// The client id of a user-assigned identity; `None`: the system's own.
        client_id: Option<Uuid>,
    },
    /// A user's password, for the Partner API alone.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: SecretReference,
    },
}

/// The members that say which credential is meant.
const KINDS: [&str; 5] = ["secret", "certificate", "federated_token_file", "managed_identity", "password"];

impl Setting for Credential {
    fn read(value: &Value, at: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(value.kind, ValueKind::String(_)) {
            let hint = "write { secret = \"env:NAME\" }".to_owned();
            reader.wrong_with_hint(at, "must be a table that says which kind of credential it is", Some(hint));
            return None;
        }
        let members: Vec<&'static str> = KINDS.into_iter().chain(["key", "username"]).collect();
        let table = reader.table(value, at, &members)?;
        let mut named = KINDS.into_iter().filter(|kind| table.contains_key(*kind));
        let (Some(kind), None) = (named.next(), named.next()) else {
            // an unknown member has been told, and was probably the one that is missing
            let slip = table.keys().any(|key| !members.contains(&key.as_str()) && nearest(key, KINDS).is_some());
            if !slip {
                reader.wrong(at, format!("must hold exactly one of {}", KINDS.join(", ")));
            }
            return None;
        };
        for (member, of) in [("key", "certificate"), ("username", "password")] {
            if table.contains_key(member) && kind != of {
                reader.wrong(&super::layer::join(at, member), format!("belongs to a {of}, not to a {kind}"));
            }
        }
        match kind {
            "secret" => reader.field(&table, at, kind, None).map(Self::Secret),
            "certificate" => {
                let certificate = reader.field(&table, at, kind, None);
                let key = reader.field(&table, at, "key", None);
                Some(Self::Certificate { certificate: certificate?, key: key? })
            }
            "federated_token_file" => reader.field(&table, at, kind, None).map(Self::FederatedTokenFile),
            "managed_identity" => {
                let is_system =
                    matches!(table.get(kind), Some(Value { kind: ValueKind::String(text), .. }) if text == "system");
                let client_id = if is_system { None } else { Some(reader.field(&table, at, kind, None)?) };
                Some(Self::ManagedIdentity { client_id })
            }
            _ => {
                let username = reader.field(&table, at, "username", None);
                let password = reader.field(&table, at, kind, None);
                Some(Self::Password { username: username?, password: password? })
            }
        }
    }
}
