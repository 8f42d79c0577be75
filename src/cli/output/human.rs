//! Durations, sizes and rates as people read them. In JSON they are numbers of seconds and bytes.

use std::time::Duration;

/// `40 ms`, `4.8 s`, `12 s`, `6 min`, `3 h 20 min`, `2 d 4 h`.
#[must_use]
pub fn duration(span: Duration) -> String {
    let millis = span.as_millis();
    let tenths = (millis + 50) / 100;
    let seconds = (millis + 500) / 1_000;
    let minutes = seconds / 60;
    match seconds {
        _ if millis < 1_000 => format!("{millis} ms"),
        _ if tenths < 100 => format!("{}.{} s", tenths / 10, tenths % 10),
        0..60 => format!("{seconds} s"),
        60..600 if !seconds.is_multiple_of(60) => format!("{minutes} min {} s", seconds % 60),
        60..3_600 => format!("{minutes} min"),
        3_600..86_400 => joined(minutes / 60, "h", minutes % 60, "min"),
        _ => joined(minutes / 1_440, "d", minutes % 1_440 / 60, "h"),
    }
}

fn joined(large: u128, large_unit: &str, small: u128, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// `0 B`, `812 B`, `41.2 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "B";
    for larger in units {
        // rounded, 1,023.95 KiB would read as 1024.0 KiB
        if tenths < 10_235 {
            break;
        }
        tenths = (tenths + 512) / 1_024;
        unit = larger;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// `3.4 MiB/s`; nothing for a span too short to say.
#[must_use]
pub fn rate(bytes: u64, span: Duration) -> Option<String> {
    let millis = span.as_millis();
    if millis < 50 {
        return None;
    }
    let per_second = u128::from(bytes).saturating_mul(1_000) / millis;
    Some(format!("{}/s", size(u64::try_from(per_second).unwrap_or(u64::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (millis, text) in [
            (0, "0 ms"),
            (40, "40 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (4_849, "4.8 s"),
            (9_949, "9.9 s"),
            (9_950, "10 s"),
            (12_400, "12 s"),
            (59_499, "59 s"),
            (60_000, "1 min"),
            (90_000, "1 min 30 s"),
            (599_000, "9 min 59 s"),
            (600_000, "10 min"),
            (3_599_000, "59 min"),
            (3_600_000, "1 h"),
            (12_000_000, "3 h 20 min"),
            (126_000_000, "1 d 11 h"),
            (172_800_000, "2 d"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text, "{millis}");
        }
    }

    #[test]
    fn sizes_and_rates_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (43_200_000, "41.2 MiB"),
            (1_048_575, "1.0 MiB"),
            (8 << 20, "8.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!(rate(43_200_000, Duration::from_secs(12)).as_deref(), Some("3.4 MiB/s"));
        assert_eq!(rate(1, Duration::ZERO), None);
    }
}
