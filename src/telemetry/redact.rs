//! The last guard: whatever looks like a secret is replaced before it leaves the process.

use std::borrow::Cow;

/// What stands in the place of a secret.
const HIDDEN: &str = "[hidden]";

/// Names whose values are secret, in lower case, however they are joined with the value: `sig=…`, `"password": "…"`.
const NAMES: [&str; 11] = [
    "sig",
    "client_secret",
    "client_assertion",
    "access_token",
    "refresh_token",
    "id_token",
    "assertion",
    "password",
    "passwd",
    "accountkey",
    "sharedaccesssignature",
];

/// Schemes of an `Authorization` header, in lower case; the credential follows after a blank.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

/// The text without signatures of URLs, tokens, client secrets and passwords.
///
/// It errs on the side of hiding: a harmless value behind one of the names is hidden as well.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut kept = 0;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some((from, to)) = secret(text, at) {
            out.push_str(text.get(kept..from).unwrap_or(""));
            out.push_str(HIDDEN);
            kept = to;
            at = to;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(kept..).unwrap_or(""));
    Cow::Owned(out)
}

/// Where a secret lies that is announced at `at`: by its name, its scheme, its own look, or the user in a URL.
fn secret(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = text.get(at..)?;
    if let Some(after) = rest.strip_prefix("://") {
        return user(after).map(|(from, to)| (at + 3 + from, at + 3 + to));
    }
    // only at the start of a word: `design=` announces nothing
    let before = text.get(..at)?.chars().next_back();
    if before.is_some_and(|c| c.is_ascii_alphanumeric()) && !follows_percent_escape(text, at) {
        return None;
    }
    if rest.starts_with("eyJ") {
        let length = run(rest, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '=' | '+' | '/'));
        return (length >= 16).then_some((at, at + length));
    }
    let word = run(rest, |c| c.is_ascii_alphanumeric() || c == '_');
    let name = rest.get(..word)?.to_ascii_lowercase();
    let after = rest.get(word..)?;
    let begin = if SCHEMES.contains(&name.as_str()) {
        let blank = run(after, |c| c == ' ');
        // `basic` and `bearer` are words, too: what follows must look like a credential
        let length = value(after.get(blank..)?);
        (blank > 0 && length >= 12).then_some(blank)
    } else if NAMES.contains(&name.as_str()) {
        joint(after)
    } else {
        None
    }?;
    let from = at + word + begin;
    let length = value(text.get(from..)?);
    let is_secret = length > 0 && !is_reference(text.get(from..from + length)?);
    is_secret.then_some((from, from + length))
}

/// `env:NAME` and `file:/path` say where a secret lies, and hold none.
fn is_reference(value: &str) -> bool {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    value.strip_prefix("env:").is_some_and(is_name) || value.starts_with("file:/")
}

/// Is the letter or digit before `at` the end of `%26` and the like, so that a word begins here after all?
fn follows_percent_escape(text: &str, at: usize) -> bool {
    let escape = at.checked_sub(3).and_then(|from| text.get(from..at));
    escape.is_some_and(|escape| escape.starts_with('%') && escape.chars().skip(1).all(|c| c.is_ascii_hexdigit()))
}

/// The length of what joins a name with its value: `=`, `%3D`, `": "`, `\":\"`. `None` when nothing does.
fn joint(after: &str) -> Option<usize> {
    const LOOSE: fn(char) -> bool = |c| matches!(c, ' ' | '"' | '\'' | '\\');
    let before = run(after, LOOSE);
    let rest = after.get(before..)?;
    let sign = if rest.starts_with(['=', ':']) {
        1
    } else if rest.get(..3).is_some_and(|escape| escape.eq_ignore_ascii_case("%3d")) {
        3
    } else {
        return None;
    };
    Some(before + sign + run(rest.get(sign..)?, LOOSE))
}

/// The length of a value: up to a blank, a quote or what ends a parameter.
fn value(text: &str) -> usize {
    let plain = run(text, |c| !c.is_whitespace() && !c.is_control() && !"\"'\\&,;<>(){}[]".contains(c));
    // an escaped `&` ends a value of an escaped query
    let escaped = text.get(..plain).and_then(|text| text.to_ascii_lowercase().find("%26"));
    escaped.unwrap_or(plain)
}

/// `user:password@` at the start of a URL's authority: where the password lies.
fn user(authority: &str) -> Option<(usize, usize)> {
    let end = run(authority, |c| !c.is_whitespace() && !"/?#\"'<>\\".contains(c));
    let authority = authority.get(..end)?;
    let at = authority.rfind('@')?;
    let colon = authority.get(..at)?.find(':')?;
    (colon + 1 < at).then_some((colon + 1, at))
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.len() - text.trim_start_matches(belongs).len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_hidden_and_everything_else_stays() {
        for (text, expected) in [
            (
                "redis.sentinel_password: file:/run/x: no such file",
                "redis.sentinel_password: file:/run/x: no such file",
            ),
            ("password: env:NAME: not set; password: env:hunter-2", "password: env:NAME: not set; password: [hidden]"),
            (
                "PUT https://h/c/b?sv=2021&sig=aB%2Bc%3D&se=1 failed",
                "PUT https://h/c/b?sv=2021&sig=[hidden]&se=1 failed",
            ),
            (
                "url=https%3A%2F%2Fh%3Fsv%3D1%26sig%3DaBc%26se%3D1",
                "url=https%3A%2F%2Fh%3Fsv%3D1%26sig%3D[hidden]%26se%3D1",
            ),
            ("?SIG=abc", "?SIG=[hidden]"),
            ("authorization: Bearer abcdefghijklmnop, next", "authorization: Bearer [hidden], next"),
            ("Basic dXNlcjpwYXNzd29yZA==", "Basic [hidden]"),
            ("client_id=1&client_secret=a~b.c&x=1", "client_id=1&client_secret=[hidden]&x=1"),
            (
                r#"{"access_token":"abc.def","token_type":"Bearer"}"#,
                r#"{"access_token":"[hidden]","token_type":"Bearer"}"#,
            ),
            (r#""{\"refresh_token\": \"0.AX\"}""#, r#""{\"refresh_token\": \"[hidden]\"}""#),
            ("token eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.c2ln end", "token [hidden] end"),
            ("amqps://fleet:p4ss@broker/x", "amqps://fleet:[hidden]@broker/x"),
            ("amqps://fleet:p@ss@broker/x", "amqps://fleet:[hidden]@broker/x"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn harmless_text_is_not_touched() {
        for text in [
            "",
            "design=1",
            "the bearer of this",
            "a basic idea",
            "eyJ",
            "sig",
            "assigned sig to",
            "password reset needed",
            "https://h:8080/a@b",
            "10 % signed",
            "signature=valid",
            "é sigé",
            "file://a:b/c",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(same) if same == text), "{text}: {}", redact(text));
        }
    }

    proptest! {
        #[test]
        fn no_secret_survives_wherever_it_stands(
            before in "[ -~é]{0,20}", secret in "[A-Za-z0-9]{20,40}", after in "[ -~]{0,20}",
        ) {
            for text in [
                format!("{before} ?sv=1&sig={secret}&{after}"),
                format!("{before} Authorization: Bearer {secret} {after}"),
                format!("{before}{{\"client_secret\": \"{secret}\"}}{after}"),
                format!("{before} eyJ{secret}.{secret}.{secret} {after}"),
            ] {
                prop_assert!(!redact(&text).contains(&secret), "{}", redact(&text));
            }
        }

        #[test]
        fn any_text_passes_without_a_panic(text: String) {
            let once = redact(&text).into_owned();
            prop_assert!(once.len() <= text.len() + HIDDEN.len() * text.len());
        }
    }
}
