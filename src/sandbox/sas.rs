//! SAS URLs of the blob service: made with the formulas of blob-upload.md section 3, compared byte for byte.
//!
//! Nothing issued is stored. A URL is good when what it says, written out again and signed again, gives the very bytes
//! that were presented; the caller's own parameters (`comp`, `blockid` and the like) are set aside before.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use uuid::Uuid;

use super::options::SasKind;

/// The name of the simulated storage account, as it stands in what is signed.
const ACCOUNT: &str = "ingestionpackagessim";
const OBJECT_ID: &str = "5d6a1c0e-8f0b-4b7e-9d55-0c1f2a3b4c5d";
const DIRECTORY: &str = "72f988bf-0000-4000-8000-000000000000";

/// What a SAS URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sas {
    pub(super) kind: SasKind,
    pub(super) version: String,
    pub(super) permissions: String,
    pub(super) container: String,
    pub(super) blob: Uuid,
    /// Whole seconds.
    pub(super) expires: Timestamp,
    /// Tells one issue from the next; what is revoked is revoked by it.
    pub(super) serial: u64,
    /// For the `Content-Disposition` of a download.
    pub(super) file_name: String,
}

/// What was found in the query of a request.
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) sas: Sas,
    /// The query without the caller's own parameters.
    issued: String,
}

/// Why a query is no SAS of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// There is no signature at all.
    Missing,
    /// It does not say what ours say.
    Foreign,
}

impl Sas {
    /// The query, with its signature, as it must be presented.
    pub(super) fn query(&self, key: &[u8]) -> String {
        let mut query = String::new();
        for (name, value) in self.parameters() {
            push(&mut query, name, &value);
        }
        push(&mut query, "sig", &sign(key, &self.string_to_sign()));
        query
    }

    fn expiry(&self) -> String {
        match self.kind {
            SasKind::UserDelegation => self.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            // The service form has no member to tell two issues apart, so the fraction of the second does.
            SasKind::Service => {
                format!("{}.{:07}Z", self.expires.strftime("%Y-%m-%dT%H:%M:%S"), self.serial % 10_000_000)
            }
        }
    }

    /// The key that signs lasts seven days, from the start of the day before.
    fn key_times(&self) -> (String, String) {
        let start = self.expires.as_second().div_euclid(86_400).saturating_sub(2).saturating_mul(86_400);
        let text = |second: i64| {
            Timestamp::from_second(second).map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
        };
        (text(start), text(start.saturating_add(7 * 86_400)))
    }

    fn scope_id(&self) -> String {
        Uuid::from_u128(0x5a50_0000_0000_4000_8000_0000_0000_0000 | u128::from(self.serial & 0xffff_ffff_ffff))
            .to_string()
    }

    fn disposition(&self) -> String {
        if self.file_name.is_empty() { String::new() } else { format!("attachment; filename={}", self.file_name) }
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut list = Vec::new();
        if self.kind == SasKind::UserDelegation {
            let (start, end) = self.key_times();
            list.push(("skoid", OBJECT_ID.to_owned()));
            list.push(("sktid", DIRECTORY.to_owned()));
            list.push(("skt", start));
            list.push(("ske", end));
            list.push(("sks", "b".to_owned()));
            list.push(("skv", self.version.clone()));
            list.push(("scid", self.scope_id()));
        }
        list.push(("sv", self.version.clone()));
        list.push(("se", self.expiry()));
        list.push(("sr", "b".to_owned()));
        list.push(("sp", self.permissions.clone()));
        if !self.file_name.is_empty() {
            list.push(("rscd", self.disposition()));
        }
        list
    }

    fn string_to_sign(&self) -> String {
        let resource = format!("/blob/{ACCOUNT}/{}/{}", self.container, self.blob);
        let (expiry, disposition) = (self.expiry(), self.disposition());
        match self.kind {
            SasKind::Service => service_string_to_sign(&ServiceFields {
                version: &self.version,
                permissions: &self.permissions,
                expiry: &expiry,
                canonical: &resource,
                protocol: "",
                resource: "b",
                disposition: &disposition,
            }),
            SasKind::UserDelegation => {
                let (start, end) = self.key_times();
                let version = &self.version;
                let scope = self.scope_id();
                [
                    self.permissions.as_str(),
                    "",
                    &expiry,
                    &resource,
                    OBJECT_ID,
                    DIRECTORY,
                    &start,
                    &end,
                    "b",
                    version,
                    "",
                    "",
                    &scope,
                    "",
                    "",
                    version,
                    "b",
                    "",
                    "",
                    "",
                    &disposition,
                    "",
                    "",
                    "",
                ]
                .join("\n")
            }
        }
    }

    /// Reads the query of a request for this blob.
    pub(super) fn read(query: &str, container: &str, blob: Uuid) -> Result<Presented, Unreadable> {
        let issued: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_own(name_of(pair))).collect();
        let value = |name: &str| {
            let pair = issued.iter().find(|pair| name_of(pair) == name)?;
            Some(decode(pair.split_once('=').map_or("", |(_, value)| value)))
        };
        if value("sig").is_none() {
            return Err(Unreadable::Missing);
        }
        let sas = (|| {
            let expiry = value("se")?;
            let kind = if value("skoid").is_some() { SasKind::UserDelegation } else { SasKind::Service };
            let serial = match kind {
                SasKind::UserDelegation => {
                    let scope = Uuid::parse_str(&value("scid")?).ok()?.as_u128() & 0xffff_ffff_ffff;
                    u64::try_from(scope).ok()?
                }
                SasKind::Service => expiry.split_once('.')?.1.trim_end_matches('Z').parse().ok()?,
            };
            let expires: Timestamp = expiry.parse().ok()?;
            let disposition = value("rscd").unwrap_or_default();
            Some(Sas {
                kind,
                version: value("sv")?,
                permissions: value("sp")?,
                container: container.to_owned(),
                blob,
                expires: Timestamp::from_second(expires.as_second()).ok()?,
                serial,
                file_name: disposition.strip_prefix("attachment; filename=").unwrap_or_default().to_owned(),
            })
        })()
        .ok_or(Unreadable::Foreign)?;
        Ok(Presented { sas, issued: issued.join("&") })
    }
}

impl Presented {
    /// Whether these are the very bytes that were issued under this key.
    pub(super) fn is_genuine(&self, key: &[u8]) -> bool {
        self.issued == self.sas.query(key)
    }
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

fn is_own(name: &str) -> bool {
    ["comp", "blockid", "blocklisttype", "timeout", "restype", "snapshot", "versionid"].contains(&name)
}

/// The URL as the service sometimes hands it out: a bare plus in the signature, a blank in `rscd`.
pub(super) fn raw(query: &str) -> String {
    let Some((before, signature)) = query.rsplit_once("sig=") else { return query.to_owned() };
    format!("{}sig={}", before.replace("%20", " "), signature.replace("%2B", "+"))
}

/// `base64(HMAC-SHA256(key, text))`.
fn sign(key: &[u8], text: &str) -> String {
    STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()))
}

struct ServiceFields<'a> {
    version: &'a str,
    permissions: &'a str,
    expiry: &'a str,
    canonical: &'a str,
    protocol: &'a str,
    resource: &'a str,
    disposition: &'a str,
}

/// The text that a service SAS of this version signs.
fn service_string_to_sign(fields: &ServiceFields<'_>) -> String {
    let ServiceFields { version, permissions, expiry, canonical, protocol, resource, disposition } = *fields;
    let start = [permissions, "", expiry, canonical, ""];
    let middle: &[&str] = if version >= "2020-12-06" {
        &["", protocol, version, resource, "", ""]
    } else if version >= "2018-11-09" {
        &["", protocol, version, resource, ""]
    } else if version >= "2015-04-05" {
        &["", protocol, version]
    } else {
        &[version]
    };
    let end = ["", disposition, "", "", ""];
    [start.as_slice(), middle, end.as_slice()].concat().join("\n")
}

fn push(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(name);
    query.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            query.push(char::from(byte));
        } else {
            query.push('%');
            query.push_str(&super::store::hex(&[byte]).to_uppercase());
        }
    }
}

/// Percent-decodes one value; a bare plus is a blank, as the service reads it.
fn decode(value: &str) -> String {
    url::form_urlencoded::parse(format!("v={value}").as_bytes()).next().map(|(_, v)| v.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    fn sas(kind: SasKind) -> Sas {
        Sas {
            kind,
            version: "2024-05-04".to_owned(),
            permissions: "rwl".to_owned(),
            container: "ingestion".to_owned(),
            blob: Uuid::from_u128(1),
            expires: Timestamp::from_second(1_793_530_799).unwrap(),
            serial: 42,
            file_name: "initial_1152921505900000077.cab".to_owned(),
        }
    }

    #[test]
    fn the_contracts_vectors_come_out() {
        let text = include_str!("../../tests/contract/blob-upload.md");
        let start = text.find("```json example=SasVectors\n").unwrap();
        let block = text[start..].split_once('\n').unwrap().1.split_once("```").unwrap().0;
        let vectors: Vec<serde_json::Value> = serde_json::from_str(block).unwrap();
        assert_eq!(vectors.len(), 4);
        for vector in vectors {
            let get = |name: &str| vector.get(name).and_then(|v| v.as_str()).unwrap_or("");
            let text = service_string_to_sign(&ServiceFields {
                version: get("sv"),
                permissions: get("sp"),
                expiry: get("se"),
                canonical: get("canonical"),
                protocol: get("spr"),
                resource: get("sr"),
                disposition: "",
            });
            assert_eq!(sign(&STANDARD.decode(get("key")).unwrap(), &text), get("sig"), "{}", get("sv"));
        }
    }

    #[test]
    fn an_issued_url_is_good_with_the_callers_own_parameters_anywhere() {
        for kind in [SasKind::UserDelegation, SasKind::Service] {
            let sas = sas(kind);
            let query = sas.query(&KEY);
            for text in [
                query.clone(),
                format!("{query}&comp=block&blockid=AAA%3D"),
                format!("comp=block&{query}&blockid=AAA%3D"),
            ] {
                let presented = Sas::read(&text, "ingestion", sas.blob).unwrap();
                assert!(presented.is_genuine(&KEY), "{text}");
                assert_eq!(presented.sas, sas);
            }
        }
    }

    #[test]
    fn one_byte_of_difference_is_enough() {
        let sas = sas(SasKind::UserDelegation);
        let query = sas.query(&KEY);
        let other = [
            query.replace("%3D", "%3d"),
            query.replace("%3A", ":"),
            query.replace("sp=rwl", "sp=rw"),
            query.replace("%20", "+"),
        ];
        for text in other {
            assert_ne!(text, query);
            assert!(
                !Sas::read(&text, "ingestion", sas.blob).is_ok_and(|presented| presented.is_genuine(&KEY)),
                "{text}"
            );
        }
        assert!(!Sas::read(&query, "ingestion", Uuid::from_u128(2)).unwrap().is_genuine(&KEY));
        assert!(!Sas::read(&query, "reports", sas.blob).unwrap().is_genuine(&KEY));
        assert!(!Sas::read(&query, "ingestion", sas.blob).unwrap().is_genuine(&[8; 32]));
        assert_eq!(Sas::read("comp=block", "ingestion", sas.blob).unwrap_err(), Unreadable::Missing);
    }

    proptest! {
        #[test]
        fn reading_a_query_survives_any_text(query in ".*") {
            let presented = Sas::read(&query, "ingestion", Uuid::from_u128(1));
            prop_assert!(!presented.is_ok_and(|presented| presented.is_genuine(&KEY)));
        }
    }
}
