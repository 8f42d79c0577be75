//! What a process of the fleet counts of broker and memory, beside [`super::Metrics`]. Documented in `docs/fleet/metrics.md`.
//!
//! The broker and the memory are given a copy each. One that is not registered counts nothing, which is what tests and the
//! embedded home have.

use std::{sync::Arc, time::Duration};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::metrics::label;
use crate::domain::{
    event::Class,
    quota::Admission,
    step::{Kind, QuotaClass},
};

label! {
    /// What became of a connection to the broker.
    pub enum BrokerSession {
        /// It was made.
        Opened = "opened",
        /// It could not be made.
        Failed = "failed",
        /// It ended by itself.
        Lost = "lost",
    }
}

label! {
    /// What became of a message that was published.
    pub enum Publish {
        /// The broker has it.
        Confirmed = "confirmed",
        /// It has no route, and came back.
        Returned = "returned",
        /// The broker is full, for the moment.
        Refused = "refused",
        /// Whether the broker has it is not known.
        Unknown = "unknown",
    }
}

label! {
    /// What became of a call of the memory.
    pub enum MemoryCall {
        /// It answered.
        Ok = "ok",
        /// It refused.
        Refused = "refused",
        /// It did not answer.
        Gone = "gone",
    }
}

label! {
    /// Why an account's gate closed.
    pub enum GateCause {
        /// The service asked for a pause.
        Throttled = "throttled",
        /// The service fails.
        Failures = "failures",
    }
}

label! {
    /// Who gave a permit or refused it.
    pub enum Decider {
        /// The memory, for the whole fleet.
        Shared = "shared",
        /// This process by itself, with its share of the rate.
        Own = "own",
    }
}

label! {
    /// What was found of a token in the memory.
    pub enum Lookup {
        /// It was there.
        Hit = "hit",
        /// It was not.
        Miss = "miss",
        /// The memory did not say.
        Failed = "failed",
    }
}

/// Lanes as the labels name them.
const LANES: [&str; 3] = ["return", "intake", "bulk"];

/// Scripts and commands of the memory, as the label names them.
const CALLS: [&str; 13] = [
    "born_clean",
    "command",
    "lease",
    "list",
    "listed",
    "listing",
    "load",
    "own",
    "quota",
    "shown",
    "swap",
    "turn",
    "waits",
];

const CLASSES: [Class; 19] = [
    Class::AccountRemoved,
    Class::AttemptsSpent,
    Class::Cancelled,
    Class::Changed,
    Class::Deadline,
    Class::Forbidden,
    Class::Internal,
    Class::LocalIo,
    Class::NeedsPerson,
    Class::NotAllowed,
    Class::OtherContent,
    Class::Poison,
    Class::Preflight,
    Class::Rejected,
    Class::Source,
    Class::Transfer,
    Class::Undecodable,
    Class::Verification,
    Class::WorkflowFailed,
];

/// Buckets of answers of broker and memory, in seconds: from a loopback to a time-out.
const ANSWERS: [f64; 10] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 10.0];

/// The fleet's metrics of one process; cheap to clone, and empty by default.
#[derive(Debug, Clone, Default)]
pub struct FleetMetrics(Option<Arc<Counts>>);

#[derive(Debug)]
struct Counts {
    connected: IntGauge,
    blocked: IntGauge,
    sessions: IntCounterVec,
    publishes: IntCounterVec,
    confirm: Histogram,
    in_hand: IntGaugeVec,
    dead_letters: IntCounterVec,
    memory_up: IntGauge,
    memory_calls: IntCounterVec,
    memory_seconds: HistogramVec,
    epochs: IntCounter,
    permits: IntCounterVec,
    gates: IntCounterVec,
    tokens: IntCounterVec,
}

impl FleetMetrics {
    /// All of them, at zero, in this registry.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let confirm = Histogram::with_opts(
            HistogramOpts::new(
                "longshore_broker_confirm_seconds",
                "Time from publishing to the broker's confirmation.",
            )
            .buckets(ANSWERS.to_vec()),
        )?;
        registry.register(Box::new(confirm.clone()))?;
        let memory_seconds = HistogramVec::new(
            HistogramOpts::new("longshore_memory_call_duration_seconds", "Time to the memory's answer.")
                .buckets(ANSWERS.to_vec()),
            &["call"],
        )?;
        registry.register(Box::new(memory_seconds.clone()))?;
        let in_hand = IntGaugeVec::new(
            Opts::new(
                "longshore_broker_deliveries_in_hand",
                "Deliveries that the broker gave out and nobody settled yet.",
            ),
            &["kind", "lane"],
        )?;
        registry.register(Box::new(in_hand.clone()))?;
        let epochs =
            IntCounter::new("longshore_memory_epochs_total", "Times that the memory was found in another life.")?;
        registry.register(Box::new(epochs.clone()))?;
        let counts = Counts {
            connected: gauge("longshore_broker_connected", "1 while the broker is connected.")?,
            blocked: gauge("longshore_broker_blocked", "1 while an alarm of the broker stops publishers.")?,
            sessions: counters("longshore_broker_sessions_total", "Connections to the broker.", &["outcome"])?,
            publishes: counters("longshore_broker_publishes_total", "Messages published.", &["outcome"])?,
            confirm,
            in_hand,
            dead_letters: counters("longshore_dead_letters_total", "Messages set aside for a person.", &["class"])?,
            memory_up: gauge("longshore_memory_up", "1 while the memory answers.")?,
            memory_calls: counters("longshore_memory_calls_total", "Calls of the memory.", &["call", "outcome"])?,
            memory_seconds,
            epochs,
            permits: counters("longshore_permits_total", "Permits asked for.", &["class", "outcome", "by"])?,
            gates: counters("longshore_gate_closings_total", "Closings of an account's gate.", &["cause"])?,
            tokens: counters("longshore_token_lookups_total", "Looks for a token in the memory.", &["outcome"])?,
        };
        counts.show_zeros();
        Ok(Self(Some(Arc::new(counts))))
    }

    fn with(&self, count: impl FnOnce(&Counts)) {
        if let Some(counts) = &self.0 {
            count(counts);
        }
    }

    /// A connection to the broker was made, could not be made, or ended.
    pub fn session(&self, outcome: BrokerSession) {
        self.with(|counts| {
            counts.sessions.with_label_values(&[outcome.label()]).inc();
            counts.connected.set(i64::from(outcome == BrokerSession::Opened));
            counts.blocked.set(0);
        });
    }

    /// The connection was closed by us.
    pub fn hung_up(&self) {
        self.with(|counts| counts.connected.set(0));
    }

    /// An alarm of the broker began or ended.
    pub fn blocked(&self, is_blocked: bool) {
        self.with(|counts| counts.blocked.set(i64::from(is_blocked)));
    }

    /// A message was published, and this came of it after so long.
    pub fn published(&self, outcome: Publish, took: Duration) {
        self.with(|counts| {
            counts.publishes.with_label_values(&[outcome.label()]).inc();
            if outcome == Publish::Confirmed {
                counts.confirm.observe(took.as_secs_f64());
            }
        });
    }

    /// The broker gave a delivery out: one more is in hand.
    pub fn given_out(&self, kind: Kind, lane: &'static str) {
        self.with(|counts| counts.in_hand.with_label_values(&[kind.name(), lane]).inc());
    }

    /// A delivery was settled or given back: one less is in hand.
    pub fn let_go(&self, kind: Kind, lane: &'static str) {
        self.with(|counts| counts.in_hand.with_label_values(&[kind.name(), lane]).dec());
    }

    /// A message was set aside.
    pub fn dead_letter(&self, class: Class) {
        self.with(|counts| counts.dead_letters.with_label_values(&[class.as_str()]).inc());
    }

    /// The memory was called; `call` names a script, or is `command`.
    pub fn memory_call(&self, call: &'static str, outcome: MemoryCall, took: Duration) {
        self.with(|counts| {
            counts.memory_calls.with_label_values(&[call, outcome.label()]).inc();
            counts.memory_seconds.with_label_values(&[call]).observe(took.as_secs_f64());
            counts.memory_up.set(i64::from(outcome != MemoryCall::Gone));
        });
    }

    /// The memory was found in another life than before.
    pub fn epoch_changed(&self) {
        self.with(|counts| counts.epochs.inc());
    }

    /// A permit was asked for.
    pub fn permit(&self, class: QuotaClass, admission: &Admission, by: Decider) {
        let outcome = match admission {
            Admission::Granted { .. } => "granted",
            Admission::Refused { by_gate: true, .. } => "gate",
            Admission::Refused { by_gate: false, .. } => "wait",
        };
        self.with(|counts| counts.permits.with_label_values(&[name_of(class), outcome, by.label()]).inc());
    }

    /// An account's gate was closed.
    pub fn gate_closed(&self, cause: GateCause) {
        self.with(|counts| counts.gates.with_label_values(&[cause.label()]).inc());
    }

    /// A token was looked for in the memory.
    pub fn token_lookup(&self, lookup: Lookup) {
        self.with(|counts| counts.tokens.with_label_values(&[lookup.label()]).inc());
    }
}

const fn name_of(class: QuotaClass) -> &'static str {
    match class {
        QuotaClass::Write => "write",
        QuotaClass::Look => "look",
        QuotaClass::Download => "download",
        QuotaClass::Poll => "poll",
    }
}

impl Counts {
    /// A counter that has never counted must show as zero, else the first count is no increase.
    fn show_zeros(&self) {
        for outcome in BrokerSession::ALL {
            self.sessions.with_label_values(&[outcome.label()]);
        }
        for outcome in Publish::ALL {
            self.publishes.with_label_values(&[outcome.label()]);
        }
        for kind in Kind::ALL {
            for lane in LANES {
                self.in_hand.with_label_values(&[kind.name(), lane]);
            }
        }
        for class in CLASSES {
            self.dead_letters.with_label_values(&[class.as_str()]);
        }
        for call in CALLS {
            for outcome in MemoryCall::ALL {
                self.memory_calls.with_label_values(&[call, outcome.label()]);
            }
            self.memory_seconds.with_label_values(&[call]);
        }
        for class in QuotaClass::ALL {
            for outcome in ["granted", "gate", "wait"] {
                for by in Decider::ALL {
                    self.permits.with_label_values(&[name_of(class), outcome, by.label()]);
                }
            }
        }
        for cause in GateCause::ALL {
            self.gates.with_label_values(&[cause.label()]);
        }
        for lookup in Lookup::ALL {
            self.tokens.with_label_values(&[lookup.label()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prometheus::{Encoder as _, TextEncoder};

    use super::*;
    use crate::domain::time::Moment;

    /// Sums of all metrics, by name; of a histogram, how much it has seen.
    fn sums(registry: &Registry) -> BTreeMap<String, f64> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let mut sums = BTreeMap::new();
        for line in String::from_utf8(text).unwrap().lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            if name.ends_with("_bucket") || name.ends_with("_sum") {
                continue;
            }
            *sums.entry(name.trim_end_matches("_count").to_owned()).or_default() += value.parse::<f64>().unwrap();
        }
        sums
    }

    #[test]
    fn every_metric_of_the_fleet_moves_by_what_it_is_named_for() {
        let registry = Registry::new();
        let metrics = FleetMetrics::new(&registry).unwrap();
        let is = |sum: f64, wanted: f64| (sum - wanted).abs() < f64::EPSILON;
        let zeros = sums(&registry);
        assert!(zeros.len() == 14 && zeros.values().all(|sum| is(*sum, 0.0)), "{zeros:?}");
        metrics.session(BrokerSession::Opened);
        metrics.blocked(true);
        metrics.published(Publish::Confirmed, Duration::from_millis(2));
        metrics.given_out(Kind::Upload, "return");
        metrics.dead_letter(Class::Rejected);
        metrics.memory_call("swap", MemoryCall::Ok, Duration::from_millis(1));
        metrics.epoch_changed();
        let refused = Admission::Refused { until: Moment::default(), by_gate: true };
        metrics.permit(QuotaClass::Poll, &refused, Decider::Shared);
        metrics.gate_closed(GateCause::Throttled);
        metrics.token_lookup(Lookup::Hit);
        for (name, sum) in sums(&registry) {
            assert!(is(sum, 1.0), "{name} is {sum}");
        }
        metrics.session(BrokerSession::Lost);
        metrics.let_go(Kind::Upload, "return");
        metrics.memory_call("swap", MemoryCall::Gone, Duration::from_secs(5));
        let now = sums(&registry);
        for name in ["connected", "blocked", "deliveries_in_hand", "memory_up"] {
            let (_, sum) = now.iter().find(|(metric, _)| metric.ends_with(name)).unwrap();
            assert!(is(*sum, 0.0), "{name} is {sum}");
        }
        // Without a registry nothing is counted, and nothing fails.
        FleetMetrics::default().session(BrokerSession::Failed);
    }
}
