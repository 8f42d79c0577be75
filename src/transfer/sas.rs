//! A signed URL, looked into without changing it.
//!
//! The query is a signature over its own bytes, so it is kept as text: a bare `+` within `sig` becomes `%2B`, a raw
//! blank `%20`, nothing else is touched, and our own parameters are appended. Source: contract/blob-upload.md, section 2.

use std::{borrow::Cow, fmt, net::IpAddr, time::Duration};

use jiff::Timestamp;

use super::permanent;
use crate::domain::{
    failure::{Failure, Kind},
    service::SignedUrl,
};

/// A signed URL that may be used: `https`, or `http` to a loopback address.
#[derive(Clone, PartialEq, Eq)]
pub struct Sas {
    text: String,
}

impl Sas {
    /// Repairs what services are known to deliver broken, and checks scheme and shape.
    ///
    /// # Errors
    /// Permanent, kind `Transfer`, when this is no URL that we may use.
    pub fn parse(url: &SignedUrl) -> Result<Self, Failure> {
        let sas = Self { text: repaired(url.expose()) };
        let refuse = |why: &str| Err(permanent(Kind::Transfer, format!("the signed URL {sas} cannot be used: {why}")));
        let parsed = sas.request_url(&[])?;
        match parsed.scheme() {
            "https" => {}
            "http" if is_loopback(&parsed) => {}
            "http" => return refuse("plain http is for loopback addresses only"),
            _ => return refuse("only https will do"),
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return refuse("it holds a user name");
        }
        if parsed.fragment().is_some() {
            return refuse("it holds a fragment");
        }
        Ok(sas)
    }

    /// The URL for one request: the delivered query byte for byte, then these parameters, percent-encoded.
    ///
    /// # Errors
    /// Permanent, kind `Transfer`, when the text is no URL, or sending it would change what was signed.
    pub fn request_url(&self, parameters: &[(&str, &str)]) -> Result<reqwest::Url, Failure> {
        let mut text = self.text.clone();
        for (name, value) in parameters {
            text.push(if text.contains('?') { '&' } else { '?' });
            text.push_str(name);
            text.push('=');
            text.extend(url::form_urlencoded::byte_serialize(value.as_bytes()));
        }
        let refuse = |why: &str| permanent(Kind::Transfer, format!("the signed URL {self} cannot be used: {why}"));
        let parsed = reqwest::Url::parse(&text).map_err(|_| refuse("it is no URL"))?;
        if parsed.host_str().is_none_or(str::is_empty) {
            return Err(refuse("it names no host"));
        }
        let sent = (decoded(parsed.path()), parsed.query().map(decoded));
        let meant = parts(&text).map(|(_, path, query)| (decoded(path), query.map(decoded)));
        if meant.as_ref() == Some(&sent) { Ok(parsed) } else { Err(refuse("sending it would change it")) }
    }

    /// When it ends (`se`), when it says so in a form we can read.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        let text = self.parameter("se")?;
        let whole = match text.len() {
            10 => format!("{text}T00:00:00Z"),
            17 if text.ends_with('Z') => format!("{}:00Z", text.trim_end_matches('Z')),
            _ => text,
        };
        whole.parse().ok()
    }

    /// Time left at `now` of the service's clock; `None` when the URL does not say when it ends.
    #[must_use]
    pub fn time_left(&self, now: Timestamp) -> Option<Duration> {
        let left = self.expires()?.duration_since(now);
        Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
    }

    /// May it read (block list, properties)? A URL that does not tell is taken to.
    #[must_use]
    pub fn can_read(&self) -> bool {
        self.parameter("sp").is_none_or(|allowed| allowed.contains('r'))
    }

    /// May it write? A URL that does not tell is taken to.
    #[must_use]
    pub fn can_write(&self) -> bool {
        self.parameter("sp").is_none_or(|allowed| allowed.contains('w'))
    }

    /// Is it for one blob (`sr=b`)? A URL that does not tell is taken to be.
    #[must_use]
    pub fn is_for_one_blob(&self) -> bool {
        self.parameter("sr").is_none_or(|kind| kind == "b")
    }

    /// Do both lead to the same blob: scheme, host and path?
    #[must_use]
    pub fn same_target(&self, other: &Self) -> bool {
        self.target() == other.target()
    }

    /// Scheme, host and path.
    #[must_use]
    pub fn target(&self) -> &str {
        self.text.split(['?', '#']).next().unwrap_or_default()
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.text.split_once('?')?;
        url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

impl fmt::Debug for Sas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?…", self.target())
    }
}

impl fmt::Display for Sas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Is the host of this URL a literal loopback address (127.0.0.0/8, `::1`)?
#[must_use]
pub fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn repaired(text: &str) -> String {
    let text = text.replace(' ', "%20");
    let Some((target, query)) = text.split_once('?') else { return text };
    let parameters: Vec<Cow<'_, str>> = query
        .split('&')
        .map(|parameter| {
            if parameter.starts_with("sig=") {
                Cow::Owned(parameter.replace('+', "%2B"))
            } else {
                Cow::Borrowed(parameter)
            }
        })
        .collect();
    format!("{target}?{}", parameters.join("&"))
}

/// Authority, path and query of an absolute URL as text.
fn parts(text: &str) -> Option<(&str, &str, Option<&str>)> {
    let (_, rest) = text.split_once("://")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (front, query) = match rest.split_once('?') {
        Some((front, query)) => (front, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = match front.find('/') {
        Some(at) => front.split_at(at),
        None => (front, "/"),
    };
    Some((authority, path, query))
}

/// The bytes behind percent-escapes; whatever is no escape stands for itself.
pub(super) fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escape = behind.get(..2).filter(|_| *first == b'%').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())?
        });
        bytes.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const URL: &str = "https://store.blob.core.windows.net/ingestion/7f?sv=2024-05-04&se=2026-04-01T12%3A00%3A00Z&sr=b\
                       &sp=rwl&rscd=attachment%3B filename%3Dinitial_1.cab&sig=a+b/c%2Fd%2b=";

    fn sas(text: &str) -> Sas {
        Sas::parse(&SignedUrl::new(text)).unwrap()
    }

    #[test]
    fn a_bare_plus_in_the_signature_and_a_raw_blank_are_repaired_and_nothing_else_is_touched() {
        let sent = sas(URL).request_url(&[("comp", "block"), ("blockid", "YQ+/==")]).unwrap();
        let expected = URL.replace(' ', "%20").replace("a+b", "a%2Bb") + "&comp=block&blockid=YQ%2B%2F%3D%3D";
        assert_eq!(sent.as_str(), expected);
        // A plus elsewhere is somebody else's business.
        let plus = "https://h.example/c/b?rscd=a+b&sig=x";
        assert_eq!(sas(plus).request_url(&[]).unwrap().as_str(), plus);
    }

    #[test]
    fn the_query_says_when_it_ends_and_what_it_allows() {
        let url = sas(URL);
        assert_eq!(url.expires().unwrap().to_string(), "2026-04-01T12:00:00Z");
        assert!(url.can_read() && url.can_write() && url.is_for_one_blob());
        for (se, expected) in [
            ("2026-04-01", "2026-04-01T00:00:00Z"),
            ("2026-04-01T10:30Z", "2026-04-01T10:30:00Z"),
            ("2026-04-01T10:30:01.1234567Z", "2026-04-01T10:30:01.1234567Z"),
        ] {
            assert_eq!(sas(&format!("https://h/c/b?se={se}")).expires().unwrap().to_string(), expected);
        }
        assert_eq!(sas("https://h/c/b?se=soon").expires(), None);
        assert!(!sas("https://h/c/b?sp=c&sr=c").can_write());
        let now = "2026-04-01T13:00:00Z".parse().unwrap();
        assert_eq!(url.time_left(now), Some(Duration::ZERO));
    }

    #[test]
    fn only_https_or_loopback_http_is_used() {
        for good in ["https://h/c/b?sig=x", "http://127.0.0.1:1/c/b?sig=x", "http://127.9.9.9/c", "http://[::1]:80/c"] {
            assert!(Sas::parse(&SignedUrl::new(good)).is_ok(), "{good}");
        }
        for bad in [
            "http://h/c/b?sig=x",
            "http://localhost/c",
            "ftp://h/c",
            "https://u:p@h/c/b",
            "",
            "not a url",
            "https:///c",
            "https://h/a/../b?sig=x",
            "https://h/c/b?sig=x#part",
            "file:///etc/passwd",
            "http://10.0.0.1/c",
        ] {
            let failure = Sas::parse(&SignedUrl::new(bad)).unwrap_err();
            assert!(!failure.to_string().contains("sig=x"), "{failure}");
        }
    }

    #[test]
    fn neither_debug_nor_display_show_the_query() {
        let url = sas("https://h.example/c/b?sig=geheim");
        assert_eq!(format!("{url:?} {url}"), "https://h.example/c/b?… https://h.example/c/b?…");
    }

    #[test]
    fn the_same_blob_is_told_by_host_and_path() {
        assert!(sas("https://h/c/b?sig=1").same_target(&sas("https://h/c/b?sig=2")));
        assert!(!sas("https://h/c/b?sig=1").same_target(&sas("https://h/c/d?sig=1")));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_sent_as_it_was_meant(text in "https://h/[ -~]{0,60}") {
            if let Ok(url) = Sas::parse(&SignedUrl::new(text.as_str())) {
                let sent = url.request_url(&[]).unwrap();
                prop_assert_eq!(decoded(sent.path()), decoded(url.target().trim_start_matches("https://h")));
            }
        }
    }
}
