//! Times as people read them: local with the zone once per screen, or UTC for logs and tickets.

use jiff::{Timestamp, tz::TimeZone};

/// The zone in which times are shown.
#[derive(Debug, Clone)]
pub struct Times {
    zone: TimeZone,
}

impl Times {
    /// Local time, or UTC with `--utc`.
    #[must_use]
    pub fn new(is_utc: bool) -> Self {
        Self::of(if is_utc { TimeZone::UTC } else { TimeZone::system() })
    }

    /// Times of this zone.
    #[must_use]
    pub const fn of(zone: TimeZone) -> Self {
        Self { zone }
    }

    /// `14:02:11` for a time of the same day as `now`, else `2026-11-20 14:02:11`.
    #[must_use]
    pub fn short(&self, time: Timestamp, now: Timestamp) -> String {
        let (time, now) = (time.to_zoned(self.zone.clone()), now.to_zoned(self.zone.clone()));
        let format = if time.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
        time.strftime(format).to_string()
    }

    /// `2026-11-21 14:02:09 UTC`: what gets copied into a support ticket.
    #[must_use]
    pub fn full(&self, time: Timestamp) -> String {
        let time = time.to_zoned(self.zone.clone());
        format!("{} {}", time.strftime("%Y-%m-%d %H:%M:%S"), self.name(time.timestamp()))
    }

    /// The zone's name at this time, to be said once per screen: `CET`, `+05:30`, `UTC`.
    #[must_use]
    pub fn name(&self, at: Timestamp) -> String {
        let name = at.to_zoned(self.zone.clone()).strftime("%Z").to_string();
        if name.starts_with(['+', '-']) { at.to_zoned(self.zone.clone()).strftime("%:z").to_string() } else { name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_today_are_short_and_others_carry_their_date() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let utc = Times::new(true);
        let now = at("2026-11-21T15:00:00Z");
        assert_eq!(utc.short(at("2026-11-21T14:02:11Z"), now), "14:02:11");
        assert_eq!(utc.short(at("2026-11-20T14:02:11Z"), now), "2026-11-20 14:02:11");
        assert_eq!(utc.full(at("2026-11-21T14:02:09Z")), "2026-11-21 14:02:09 UTC");
        let india = Times::of(TimeZone::fixed(jiff::tz::offset(5).saturating_add(jiff::Span::new().minutes(30))));
        assert_eq!(india.short(at("2026-11-21T20:00:00Z"), now), "2026-11-22 01:30:00");
        assert_eq!(india.name(now), "+05:30");
    }
}
