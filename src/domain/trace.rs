//! W3C Trace Context: what ties a job's events, log lines and dead letters to the pipeline that handed it in.
//!
//! A producer's context is carried as it came: Longshore adds no span of its own to it. A job without one has a context made of
//! its own name, so that every worker, every try and every retry has the same. What cannot be read counts as missing.
//!
//! Source: W3C Recommendation "Trace Context", sections 3.2 and 3.3; `CloudEvents` extension "Distributed Tracing".

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ids::JobKey;

/// The longest `tracestate` that is carried, in bytes: what the Recommendation asks for at least.
const LONGEST_STATE: usize = 512;

/// The most members of a `tracestate`.
const MOST_MEMBERS: usize = 32;

/// Where a job stands in somebody's trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// `00-<trace id>-<parent id>-<flags>`.
    traceparent: String,
    /// What other tracing systems want carried along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
}

impl Trace {
    /// Reads a context; none when `traceparent` is not one. A `tracestate` that is none is left out.
    #[must_use]
    pub fn read(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let traceparent = parent(traceparent)?;
        let tracestate = tracestate.map(str::trim).filter(|state| is_state(state)).map(str::to_owned);
        Some(Self { traceparent, tracestate })
    }

    /// The context of a job that came without one. Its trace id is the job's correlation id, so that Microsoft's logs are found
    /// by it, too; nobody recorded a span for it, which the flags say.
    #[must_use]
    pub fn of_job(job: &JobKey) -> Self {
        let (id, parent) = (job.correlation_id().0.as_u128(), job.uuid(&["trace"]).as_u64_pair().0);
        Self { traceparent: format!("00-{id:032x}-{parent:016x}-00"), tracestate: None }
    }

    /// The header `traceparent`.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.traceparent
    }

    /// The header `tracestate`.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// The trace id, 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }
}

/// The context in the form of version 00. A later version may say more behind the same four members.
fn parent(text: &str) -> Option<String> {
    let mut members = text.trim().splitn(5, '-');
    let mut hex = |length: usize| members.next().filter(|member| member.len() == length && is_hex(member));
    let (version, id, parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let is_null = |id: &str| id.bytes().all(|b| b == b'0');
    let is_longer = members.next().is_some();
    if is_null(id) || is_null(parent) || version == "ff" || (version == "00" && is_longer) {
        return None;
    }
    if version == "00" {
        return Some(format!("00-{id}-{parent}-{flags}"));
    }
    // Of a later version's flags only the one that version 00 knows is understood.
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1;
    Some(format!("00-{id}-{parent}-{sampled:02x}"))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// At most 32 members `key=value`, no key twice; members may be empty.
fn is_state(text: &str) -> bool {
    let members: Vec<&str> = text.split(',').map(|member| member.trim_matches([' ', '\t'])).collect();
    let mut keys = BTreeSet::new();
    text.len() <= LONGEST_STATE
        && members.len() <= MOST_MEMBERS
        && members.iter().any(|member| !member.is_empty())
        && members.into_iter().filter(|member| !member.is_empty()).all(|member| {
            member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value) && keys.insert(key))
        })
}

fn is_key(key: &str) -> bool {
    let is_word = |word: &str, longest: usize| {
        (1..=longest).contains(&word.len())
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/'))
    };
    let begins = |word: &str| word.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    match key.split_once('@') {
        None => is_word(key, 256) && begins(key),
        Some((tenant, system)) => is_word(tenant, 241) && is_word(system, 14) && begins(system),
    }
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b',' && b != b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_carried_as_it_came() {
        let trace = Trace::read(GIVEN, Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")).unwrap();
        assert_eq!((trace.parent(), trace.id()), (GIVEN, "4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(trace.state(), Some("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"));
        let text = serde_json::to_string(&trace).unwrap();
        assert_eq!(serde_json::from_str::<Trace>(&text).unwrap(), trace);
    }

    #[test]
    fn what_is_no_context_counts_as_missing() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Trace::read(text, Some("congo=1")), None, "{text:?}");
        }
    }

    #[test]
    fn a_later_version_is_understood_as_far_as_it_is_known() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-what-the-future-holds";
        assert_eq!(Trace::read(later, None).unwrap().parent(), GIVEN);
    }

    #[test]
    fn a_state_that_is_none_is_left_out_and_the_rest_is_kept() {
        let many = (0..33).map(|n| format!("a{n}=1")).collect::<Vec<_>>().join(",");
        for state in ["", ",", "congo", "=1", "Congo=1", "congo=1,congo=2", "a=b=c", "a=\u{7f}", "a=é", "a@=1", &many]
        {
            assert_eq!(Trace::read(GIVEN, Some(state)).unwrap().state(), None, "{state:?}");
        }
        assert_eq!(Trace::read(GIVEN, Some(&format!("a={}", "x".repeat(511)))).unwrap().state(), None);
        for state in ["a=1", "a=1, b=2", "a=1,,b=2", "0tenant@sys=x y", "a/b*c_d-e=1"] {
            assert_eq!(Trace::read(GIVEN, Some(state)).unwrap().state(), Some(state));
        }
    }

    #[test]
    fn a_job_without_one_has_its_own_on_every_worker() {
        let job = JobKey::parse("contoso/nic-4711").unwrap();
        let trace = Trace::of_job(&job);
        assert_eq!(trace, Trace::of_job(&job));
        assert_eq!(Trace::read(trace.parent(), None), Some(trace.clone()), "it is a context");
        assert_eq!(trace.id(), job.correlation_id().0.simple().to_string(), "and Microsoft's logs are found by it");
        assert_ne!(trace.id(), Trace::of_job(&JobKey::parse("contoso/nic-4712").unwrap()).id());
    }

    proptest! {
        #[test]
        fn whatever_is_carried_can_be_read_again(parent in "\\PC{0,80}", state in "\\PC{0,80}") {
            if let Some(trace) = Trace::read(&parent, Some(&state)) {
                prop_assert_eq!(Trace::read(trace.parent(), trace.state()), Some(trace.clone()));
            }
        }
    }
}
