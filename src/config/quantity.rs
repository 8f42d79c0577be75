//! Durations and sizes as people write them: "30s", "1h30m", "4MiB".

use std::{fmt, str::FromStr, time::Duration};

/// A duration as settings and jobs write it: "500ms", "30s", "5m", "36h", "7d", also joined ("1h30m"), whole numbers
/// only.
///
/// Shown in the largest units that keep it exact, so that what is shown reads back as the same duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

/// Units of a span with their milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is no duration or size, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAQuantity {
    /// Not a duration.
    #[error("not a duration: write \"500ms\", \"30s\", \"5m\", \"36h\", \"7d\" or \"1h30m\"")]
    Span,
    /// Not a size.
    #[error("not a size: write \"64KiB\", \"4MiB\", \"1GiB\" or bytes")]
    Size,
}

impl FromStr for Span {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let mut rest = text;
        let mut total = 0_u64;
        let mut largest = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, after) = rest.split_at_checked(digits).ok_or(NotAQuantity::Span)?;
            let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
            let (unit, after) = after.split_at_checked(letters).ok_or(NotAQuantity::Span)?;
            let number: u64 = number.parse().map_err(|_| NotAQuantity::Span)?;
            let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(NotAQuantity::Span)?;
            // each unit once, the larger before the smaller
            if *millis >= largest {
                return Err(NotAQuantity::Span);
            }
            largest = *millis;
            total = number.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or(NotAQuantity::Span)?;
            rest = after;
        }
        if largest == u64::MAX { Err(NotAQuantity::Span) } else { Ok(Self(Duration::from_millis(total))) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in UNITS {
            let count = left / millis;
            if count > 0 {
                write!(f, "{count}{unit}")?;
                left -= count * millis;
            }
        }
        Ok(())
    }
}

/// A number of bytes as settings write it: "64KiB", "4MiB", "1GiB" or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

/// Units of a size with their bytes, the largest first.
const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for Size {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let unit = SIZES.iter().find(|(unit, _)| text.ends_with(unit));
        let (digits, bytes) = unit.map_or((text, 1), |(unit, bytes)| (text.strip_suffix(unit).unwrap_or(text), *bytes));
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotAQuantity::Size);
        }
        let number: u64 = digits.parse().map_err(|_| NotAQuantity::Size)?;
        number.checked_mul(bytes).map(Self).ok_or(NotAQuantity::Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes)) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("36h", 129_600_000), ("1h30m", 5_400_000)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for bad in
            ["", "30", "s", "-1s", "1.5s", "1 s", "1S", "30m1h", "1s1s", "5min", "99999999999999999999s", "1sé", "٣s"]
        {
            assert_eq!(bad.parse::<Span>(), Err(NotAQuantity::Span), "{bad}");
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("7", 7), ("64KiB", 65_536), ("4MiB", 4_194_304), ("1GiB", 1 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "KiB", "4MB", "4 MiB", "-1", "+1", "1.5GiB", "99999999999999999999", "99999999999999GiB"] {
            assert_eq!(bad.parse::<Size>(), Err(NotAQuantity::Size), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0_u64..=u64::MAX / 2, bytes: u64) {
            let span = Span(Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
    }
}
