//! What answers say about time.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// An HTTP date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
#[must_use]
pub fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text.trim()).ok().map(|zoned| zoned.timestamp())
}

/// The server's clock: the `Date` header.
#[must_use]
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    text(headers, DATE.as_str()).and_then(http_date)
}

/// The pause that the answer asks for, in every spelling that Azure's services use.
///
/// In this order: `x-ms-retry-after-ms`, `retry-after-ms` (milliseconds), `Retry-After` (seconds or an HTTP date, which
/// is compared with the answer's own `Date`, else with `now`). Source: contract/identity.md, section 8, rule 10.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let millis = |name| text(headers, name).and_then(digits).map(Duration::from_millis);
    millis("x-ms-retry-after-ms").or_else(|| millis("retry-after-ms")).or_else(|| {
        let text = text(headers, RETRY_AFTER.as_str())?;
        digits(text).map(Duration::from_secs).or_else(|| {
            let until = http_date(text)?.duration_since(date(headers).unwrap_or(now));
            Some(Duration::try_from(until).unwrap_or_default())
        })
    })
}

/// Digits only; more than fit are the largest number: a wait is never cut short.
fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn every_spelling_of_a_pause_is_read() {
        let now = http_date("Sun, 01 Nov 2026 10:00:00 GMT").unwrap();
        let read = |list: &[_]| retry_after(&headers(list), now).map(|wait| wait.as_millis());
        assert_eq!(read(&[("retry-after", "60")]), Some(60_000));
        assert_eq!(read(&[("retry-after", " 7 ")]), Some(7_000));
        assert_eq!(read(&[("retry-after", "Sun, 01 Nov 2026 10:01:30 GMT")]), Some(90_000));
        assert_eq!(read(&[("retry-after", "Sun, 01 Nov 2026 09:00:00 GMT")]), Some(0));
        assert_eq!(read(&[("retry-after-ms", "1500"), ("retry-after", "60")]), Some(1_500));
        assert_eq!(read(&[("x-ms-retry-after-ms", "250"), ("retry-after-ms", "1500")]), Some(250));
        for none in [&[("retry-after", "soon")][..], &[("retry-after", "-5")], &[("retry-after", "")], &[]] {
            assert_eq!(read(none), None, "{none:?}");
        }
        assert_eq!(read(&[("retry-after", "99999999999999999999")]), Some(u128::from(u64::MAX) * 1000));
    }

    #[test]
    fn a_date_is_compared_with_the_servers_own_clock() {
        let list = [("date", "Sun, 01 Nov 2026 12:00:00 GMT"), ("retry-after", "Sun, 01 Nov 2026 12:00:20 GMT")];
        let ours = http_date("Sun, 01 Nov 2026 10:00:00 GMT").unwrap();
        assert_eq!(retry_after(&headers(&list), ours), Some(Duration::from_secs(20)));
    }
}
