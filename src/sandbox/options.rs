//! What a sandbox can be told at its start: one member per standing switch of the contracts, each with the contract's
//! own value as default.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Every standing switch of the sandbox; faults and the clock are moved while it runs, through its control endpoint.
///
/// Durations read `"250ms"`, `"1s"`, `"5m"`, `"24h"`, `"7d"`, or a number of seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent switch of the contract")]
pub struct Options {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Allows an address that is not loopback. The control endpoint asks nobody's name, so this is for closed networks.
    pub allow_remote: bool,
    /// Base of every URL handed out, without a trailing slash; none: the `Host` that the request named.
    pub public_url: Option<String>,
    /// Path of the hardware API.
    pub prefix: String,
    /// Folder for blobs; none: a temporary one that is removed at the end.
    pub data_dir: Option<PathBuf>,
    /// Seed of the generator behind the probabilities of faults.
    pub seed: u64,
    /// How many virtual seconds pass per real second: workflow steps, metadata delay and list lag follow it.
    pub speed: f64,
    /// Virtual time that one workflow step takes.
    #[serde(with = "period")]
    pub step_duration: Duration,
    /// Virtual time from the signed package to the driver metadata.
    #[serde(with = "period")]
    pub metadata_delay: Duration,
    /// Virtual time for which a new product or submission is missing in lists.
    #[serde(with = "period")]
    pub list_lag: Duration,
    /// Life of an access token, real time.
    #[serde(with = "period")]
    pub token_lifetime: Duration,
    /// Life of a SAS URL, real time.
    #[serde(with = "period")]
    pub sas_lifetime: Duration,
    /// How far the service's clock is ahead of ours, in seconds: `Date`, tokens, SAS and assertions follow it.
    pub clock_offset_seconds: i64,
    /// Products per page; 0: one page without links.
    pub page_size: usize,
    /// Page of the product list that answers 500 (33 was seen); none: no page does.
    pub list_fails_at_page: Option<usize>,
    /// Hardware API calls that one client may make within 60 s; more are answered with 429 and `Retry-After`.
    pub calls_per_minute: Option<u32>,
    /// Products and submissions carry `createdDateTime`.
    pub created_date_time: bool,
    /// Ids go out as text instead of numbers.
    pub string_ids: bool,
    /// Links name a host and path that do not exist, as those of the real service do at times.
    pub wrong_link_host: bool,
    /// After a commit the status is `commitReceived` for a while before it is `commitComplete`.
    pub commit_received_first: bool,
    /// Unknown members of request bodies are refused instead of ignored.
    pub strict_requests: bool,
    /// A commit without content type or length is answered with 503 instead of 415 or 411.
    pub commit_without_headers_503: bool,
    /// A derived submission needs an initial one that is signed; off: any initial one will do.
    pub derived_needs_signed: bool,
    /// A missing bearer prefix is answered with 403 instead of 401.
    pub bad_bearer_is_403: bool,
    /// HTTP status per functional error code, where it should differ from the contract's assumption.
    pub statuses: BTreeMap<String, u16>,
    /// An assertion whose `jti` was seen before is refused.
    pub reject_reused_jti: bool,
    /// Which of the two signatures the SAS URLs carry.
    pub sas_kind: SasKind,
    /// Service version (`sv`) of the SAS URLs; it decides the limits when a request names no version.
    pub sas_version: String,
    /// Permissions (`sp`) of an upload slot.
    pub upload_permissions: String,
    /// Every read hands out the same SAS URL while it is good.
    pub fixed_sas: bool,
    /// Every read hands out a new path for the upload slot.
    pub moving_slot: bool,
    /// SAS URLs are handed out with a bare `+` in the signature and a blank in `rscd`, as seen in the wild.
    pub raw_sas: bool,
    /// The uploaded package can still be overwritten after its submission is committed.
    pub overwritable_after_commit: bool,
    /// Entries of the journal that are kept.
    pub journal_entries: usize,
    /// Seller accounts with the application that speaks for each; none: one is made up.
    pub accounts: Vec<Account>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            allow_remote: false,
            public_url: None,
            prefix: "/v2.0/my/hardware".to_owned(),
            data_dir: None,
            seed: 0,
            speed: 1.0,
            step_duration: Duration::from_mins(1),
            metadata_delay: Duration::from_mins(10),
            list_lag: Duration::ZERO,
            token_lifetime: Duration::from_secs(3599),
            sas_lifetime: Duration::from_hours(24),
            clock_offset_seconds: 0,
            page_size: 50,
            list_fails_at_page: None,
            calls_per_minute: None,
            created_date_time: true,
            string_ids: false,
            wrong_link_host: false,
            commit_received_first: false,
            strict_requests: false,
            commit_without_headers_503: false,
            derived_needs_signed: true,
            bad_bearer_is_403: false,
            statuses: BTreeMap::new(),
            reject_reused_jti: false,
            sas_kind: SasKind::UserDelegation,
            sas_version: "2024-05-04".to_owned(),
            upload_permissions: "rwl".to_owned(),
            fixed_sas: false,
            moving_slot: false,
            raw_sas: false,
            overwritable_after_commit: false,
            journal_entries: 200_000,
            accounts: Vec::new(),
        }
    }
}

/// The signature of a SAS URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SasKind {
    /// With `skoid`, `sktid`, `skt`, `ske`, `sks`, `skv`: what the service hands out since September 2024.
    #[default]
    UserDelegation,
    /// The older form, signed with an account key.
    Service,
}

/// One seller account: a directory, the application in it, and what that application may do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Name of the account in a worker's configuration.
    pub alias: String,
    /// Directory (tenant) id, a GUID.
    pub tenant_id: String,
    /// Application (client) id, a GUID.
    pub client_id: String,
    /// Client secrets; an account without secret and certificate gets a random one.
    #[serde(default)]
    pub secrets: Vec<ClientSecret>,
    /// Certificates (PEM) whose assertions are accepted.
    #[serde(default)]
    pub certificates: Vec<String>,
    /// Roles of the application in Partner Center.
    #[serde(default = "all_roles")]
    pub roles: Vec<String>,
    /// How a worker's configuration names the secret, such as `env:NAME`; none: a file in the sandbox's folder is made.
    #[serde(default)]
    pub secret_reference: Option<String>,
}

impl Account {
    /// An account with every role and neither secret nor certificate yet.
    #[must_use]
    pub fn new(alias: &str, tenant_id: &str, client_id: &str) -> Self {
        Self {
            alias: alias.to_owned(),
            tenant_id: tenant_id.to_owned(),
            client_id: client_id.to_owned(),
            secrets: Vec::new(),
            certificates: Vec::new(),
            roles: all_roles(),
            secret_reference: None,
        }
    }

    /// The same account with this secret.
    #[must_use]
    pub fn with_secret(mut self, secret: &str) -> Self {
        self.secrets.push(ClientSecret::new(secret));
        self
    }

    /// The same account with this certificate (PEM).
    #[must_use]
    pub fn with_certificate(mut self, pem: &str) -> Self {
        self.certificates.push(pem.to_owned());
        self
    }
}

fn all_roles() -> Vec<String> {
    ["Manager", "Driver Submitter", "Shipping Label Owner"].map(str::to_owned).to_vec()
}

/// A client secret and when it ends. Never shown by `Debug`.
#[derive(Clone, Debug)]
pub struct ClientSecret {
    /// The secret itself.
    pub value: SecretString,
    /// When it expires; none: never.
    pub expires: Option<Timestamp>,
}

impl ClientSecret {
    /// A secret that never expires.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self { value: SecretString::from(value.to_owned()), expires: None }
    }
}

impl Serialize for ClientSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // These are secrets of a simulated directory: a configuration handed to a child process must carry them.
        ClientSecretForm::Full { value: self.value.expose_secret().to_owned(), expires: self.expires }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ClientSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match ClientSecretForm::deserialize(deserializer)? {
            ClientSecretForm::Bare(value) => Self { value: SecretString::from(value), expires: None },
            ClientSecretForm::Full { value, expires } => Self { value: SecretString::from(value), expires },
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ClientSecretForm {
    Bare(String),
    Full { value: String, expires: Option<Timestamp> },
}

/// Durations as people write them.
pub(super) mod period {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub(in crate::sandbox) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}ms", value.as_millis()))
    }

    pub(in crate::sandbox) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Whole(u64),
            Part(f64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Whole(seconds) => Ok(Duration::from_secs(seconds)),
            Form::Part(seconds) => Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom),
            Form::Text(text) => parse(&text)
                .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no duration such as 250ms, 1s, 5m, 24h"))),
        }
    }

    /// Reads one number with a unit (`ms`, `s`, `m`, `h`, `d`); a bare number counts seconds.
    pub(in crate::sandbox) fn parse(text: &str) -> Option<Duration> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(end)?;
        let number: f64 = number.parse().ok()?;
        let factor = match unit.trim() {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number * factor).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in
            [("250ms", 250), ("1s", 1000), ("1.5s", 1500), ("5m", 300_000), ("24h", 86_400_000), ("7", 7000)]
        {
            assert_eq!(period::parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "1 week", "-1s", "1s2"] {
            assert_eq!(period::parse(text), None, "{text}");
        }
    }

    #[test]
    fn options_travel_through_json_with_their_secrets_and_never_show_them() {
        let mut options = Options::default();
        options.accounts.push(Account::new("contoso", "t", "c").with_secret("hush-hush-hush"));
        let text = serde_json::to_string(&options).unwrap();
        let read: Options = serde_json::from_str(&text).unwrap();
        assert_eq!(read.accounts[0].secrets[0].value.expose_secret(), "hush-hush-hush");
        assert_eq!(read.sas_lifetime, options.sas_lifetime);
        assert!(!format!("{options:?}").contains("hush"));
    }

    #[test]
    fn an_unknown_option_is_refused() {
        assert!(serde_json::from_str::<Options>(r#"{"sped": 2}"#).is_err());
        let read: Options = serde_json::from_str(r#"{"speed": 60, "step_duration": "2s", "list_lag": 1}"#).unwrap();
        assert_eq!((read.step_duration, read.list_lag), (Duration::from_secs(2), Duration::from_secs(1)));
    }
}
