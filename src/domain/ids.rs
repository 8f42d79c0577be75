//! Names and numbers of the things we deal with. Each is parsed once, at the edge, and never converts into another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// Why a text is not the name or number it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {found:?} is not valid: {rule}")]
pub struct Malformed {
    /// What the text was meant to be.
    pub what: &'static str,
    /// The text, cut to 140 characters.
    pub found: String,
    /// The rule it breaks, in words.
    pub rule: &'static str,
}

impl Malformed {
    fn new(what: &'static str, found: &str, rule: &'static str) -> Self {
        Self { what, found: found.chars().take(140).collect(), rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks the text and keeps it.
            ///
            /// # Errors
            /// [`Malformed`] names the rule that the text breaks.
            pub fn parse(text: &str) -> Result<Self, Malformed> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err(Malformed::new($what, text, $rule)) }
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// A configured account: one Partner Center seller account and the application that speaks for it.
    AccountName, "account name", "1 to 40 of a-z, 0-9 and '-', beginning with a letter or digit",
    |text| text.len() <= 40 && begins_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

name!(
    /// The caller's name for a job, its idempotency key within the account.
    JobId, "job id", "1 to 128 of A-Z, a-z, 0-9, '.', '_', ':' and '-', beginning with a letter or digit",
    |text| text.len() <= 128 && begins_alphanumeric(text)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
);

name!(
    /// Words of the producer's own that end an event's routing key.
    Topic, "topic", "at most 120 characters: words of a-z, 0-9, '_' and '-' joined by dots",
    |text| text.len() <= 120 && text.split('.').all(|word| !word.is_empty()
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-')))
);

fn begins_alphanumeric(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

impl Topic {
    /// The topic of a job that names none: its id in lower case, other characters turned into `-`, empty words too,
    /// cut at 120 characters.
    #[must_use]
    pub fn of_job(id: &JobId) -> Self {
        let words: Vec<String> = id
            .as_str()
            .to_ascii_lowercase()
            .split('.')
            .map(|word| {
                let word: String =
                    word.chars()
                        .map(|c| {
                            if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-') { c } else { '-' }
                        })
                        .collect();
                if word.is_empty() { "-".to_owned() } else { word }
            })
            .collect();
        let mut text = words.join(".");
        text.truncate(120);
        if text.ends_with('.') {
            text.pop();
            text.push('-');
        }
        Self(text)
    }
}

/// A job: its account and its id together, everywhere.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobKey {
    /// The account the job speaks for.
    pub account: AccountName,
    /// The caller's id within that account.
    pub id: JobId,
}

/// The namespace of every name-based UUID that Longshore makes.
const NAMESPACE: Uuid = Uuid::from_u128(0x6c6f_6e67_7368_5f72_8f65_2d64_6f63_6b73);

impl JobKey {
    /// Reads what [`fmt::Display`] writes: `account/id`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (account, id) = text.split_once('/')?;
        Some(Self { account: AccountName::parse(account).ok()?, id: JobId::parse(id).ok()? })
    }

    /// A name-based UUID over the job and `parts`: the same on every worker, in every try.
    #[must_use]
    pub fn uuid(&self, parts: &[&str]) -> Uuid {
        let mut name = Vec::new();
        for part in [self.account.as_str(), self.id.as_str()].iter().chain(parts) {
            name.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            name.extend_from_slice(part.as_bytes());
        }
        Uuid::new_v5(&NAMESPACE, &name)
    }

    /// `MS-CorrelationId`: one per job, for tracing with Microsoft support.
    #[must_use]
    pub fn correlation_id(&self) -> CorrelationId {
        CorrelationId(self.uuid(&["correlation"]))
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.id)
    }
}

impl fmt::Debug for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// Written as text, read from text or an integer; never through a floating-point type.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The id with this number.
            #[must_use]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number itself.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                text.parse()
                    .ok()
                    .filter(|_| digits)
                    .map(Self)
                    .ok_or_else(|| Malformed::new($what, text, "digits only, below 2^64"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(NumberOrText).and_then(|found| match found {
                    Found::Number(number) => Ok(Self(number)),
                    Found::Text(text) => text.parse().map_err(de::Error::custom),
                })
            }
        }
    };
}

number!(
    /// A product's private id: the number this account sees, 16-17 digits, above 2^53.
    ///
    /// Another account sees the same product under another number; [`SharedProductId`] is the one they have in common.
    /// Source: contract/hardware-api.md, section 3.3.
    ProductId, "product id"
);
number!(
    /// The number under which all accounts see one product. Source: contract/hardware-api.md, section 3.3.
    SharedProductId, "shared product id"
);
number!(
    /// A submission's id, 19 digits. Source: contract/hardware-api.md, section 3.3.
    SubmissionId, "submission id"
);

enum Found {
    Number(u64),
    Text(String),
}

struct NumberOrText;

impl de::Visitor<'_> for NumberOrText {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id: digits, as an integer or as text")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Found, E> {
        Ok(Found::Number(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Found, E> {
        u64::try_from(number).map(Found::Number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(text.to_owned()))
    }
}

/// One per job, sent as `MS-CorrelationId`, for tracing with Microsoft support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CorrelationId(pub Uuid);

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One per (job, step, try) and the same on its in-process repeats, sent as `MS-RequestId`; never an idempotency key.
///
/// Source: contract/hardware-api.md, section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub Uuid);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The hash of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(hash)
    }

    /// The hash with these 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Sha256 {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed::new("SHA-256", text, "64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(malformed());
        }
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| malformed())?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Eight characters in a name at the service that say which job and step made the thing.
///
/// First 8 characters of base32(SHA-256(account, job id, step)), lower-case RFC 4648 letters without padding; each part
/// stands as a 4-byte big-endian length and its UTF-8 bytes. No generation and no try, so a replay finds what an earlier
/// generation made.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Marker(String);

impl Marker {
    /// The marker of this job's step, the step given by its name.
    #[must_use]
    pub fn of(job: &JobKey, step: &str) -> Self {
        const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut named = Vec::new();
        for part in [job.account.as_str(), job.id.as_str(), step] {
            named.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            named.extend_from_slice(part.as_bytes());
        }
        let hash = Sha256::of(&named);
        let bits = hash.as_bytes().iter().take(5).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let letter = |n: u32| {
            let index = usize::try_from(bits >> (35 - 5 * n) & 31).unwrap_or(0);
            char::from(*LETTERS.get(index).unwrap_or(&b'a'))
        };
        Self((0..8).map(letter).collect())
    }

    /// The eight characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name with the marker behind it: `name [ls:7q2k4dax]`.
    #[must_use]
    pub fn mark(&self, name: &str) -> String {
        format!("{name} [ls:{}]", self.0)
    }

    /// Does this name carry the marker?
    #[must_use]
    pub fn is_in(&self, name: &str) -> bool {
        name.ends_with(&format!("[ls:{}]", self.0))
    }
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_above_two_to_the_53_stay_exact_as_text_and_as_integer() {
        for text in ["1152921505900000077", "\"1152921505900000077\""] {
            let id: SubmissionId = serde_json::from_str(text).unwrap();
            assert_eq!(id.get(), 1_152_921_505_900_000_077);
            assert_eq!(serde_json::to_string(&id).unwrap(), "\"1152921505900000077\"");
        }
        for text in ["1.5", "-1", "\"\"", "\"+7\"", "\"18446744073709551616\"", "null", "[1]"] {
            assert!(serde_json::from_str::<ProductId>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_hold_to_their_rules() {
        for good in ["a", "contoso-2", "0"] {
            assert!(AccountName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a_b", "a b", &"a".repeat(41)] {
            assert!(AccountName::parse(bad).is_err(), "{bad}");
        }
        assert!(JobId::parse("nic-driver:4711.B_2").is_ok());
        assert!(JobId::parse(&"x".repeat(129)).is_err());
        assert!(Topic::parse("netdrv.release-2-4").is_ok());
        assert!(Topic::parse("a..b").is_err());
    }

    #[test]
    fn a_marker_depends_on_account_job_and_step_alone() {
        let job = JobKey { account: "contoso".parse().unwrap(), id: "nic-4711".parse().unwrap() };
        let marker = Marker::of(&job, "create-product");
        assert_eq!(marker.as_str().len(), 8);
        assert_ne!(marker, Marker::of(&job, "create-submission"));
        assert!(marker.is_in(&marker.mark("Contoso NIC")));
        // base32 of the first five bytes, checked against Python's base64.b32encode.
        assert_eq!(marker.as_str(), "6uiaajj4");
    }

    proptest! {
        #[test]
        fn the_topic_of_any_job_is_a_topic(id in "[A-Za-z0-9][A-Za-z0-9._:-]{0,127}") {
            let topic = Topic::of_job(&JobId::parse(&id).unwrap());
            prop_assert!(Topic::parse(topic.as_str()).is_ok(), "{}", topic);
        }
    }
}
