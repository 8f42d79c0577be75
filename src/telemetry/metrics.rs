//! All metrics, declared here. Base units; counters end in `_total`; labels are closed sets, never an id.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::fleet::FleetMetrics;
use crate::domain::{
    event::{Class, EndName},
    step::{Kind, Step},
};

/// All ends of jobs.
const ENDS: [EndName; 5] =
    [EndName::Completed, EndName::Failed, EndName::Cancelled, EndName::TimedOut, EndName::DeadLettered];

/// Declares the values that a label may have.
macro_rules! label {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value as the label shows it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

pub(super) use label;

label! {
    /// What the claim of a ticket came to.
    pub enum ClaimOutcome {
        /// Its place was taken.
        Taken = "taken",
        /// A later ticket of its job was there before.
        Stale = "stale",
        /// Another worker has it.
        Busy = "busy",
        /// Its job has ended.
        Ended = "ended",
        /// Its job is known with other content.
        OtherContent = "other-content",
    }
}

label! {
    /// Why a ticket waits without a call.
    pub enum WaitCause {
        /// Another worker has its job.
        Busy = "busy",
        /// The account's rate.
        Permit = "permit",
        /// A pause of the service, or its failures.
        Gate = "gate",
        /// Another job's turn, or a listing that another reads.
        Turn = "turn",
        /// The next look.
        Look = "look",
        /// The handler's time was up.
        NextTurn = "next-turn",
        /// An account that is not configured.
        Account = "account",
        /// Sign-in.
        SignIn = "sign-in",
        /// The memory does not answer.
        MemoryDown = "memory-down",
    }
}

label! {
    /// How a call ended.
    pub enum CallClass {
        /// With an answer.
        Ok = "ok",
        /// Without effect; it is sent again.
        Transient = "transient",
        /// The service asked for a pause.
        Throttled = "throttled",
        /// Its effect is unknown.
        Indeterminate = "indeterminate",
        /// Repeating cannot help.
        Permanent = "permanent",
    }
}

label! {
    /// How a look for the effect of a write in doubt ended.
    pub enum LookOutcome {
        /// It was there.
        Found = "found",
        /// It was not there, for certain.
        Absent = "absent",
        /// It is looked again, or a person is asked.
        Undecided = "undecided",
    }
}

label! {
    /// How a token request ended.
    pub enum TokenOutcome {
        /// With a token.
        Issued = "issued",
        /// Sign-in was refused.
        Refused = "refused",
        /// Without a usable answer.
        Failed = "failed",
    }
}

label! {
    /// Which way bytes went.
    pub enum Direction {
        /// To the service.
        Upload = "upload",
        /// From the service.
        Download = "download",
    }
}

/// Buckets of waits, in seconds: a pause of a second, of a minute, of a quarter of an hour.
const WAITS: [f64; 8] = [1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0];

/// Buckets of calls, in seconds: up to the response time-out.
const CALLS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 100.0, 300.0];

/// The metrics of one process, in a registry of their own.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    jobs_ended: IntCounterVec,
    steps_done: IntCounterVec,
    refused: IntCounterVec,
    calls: IntCounterVec,
    call_seconds: HistogramVec,
    throttle_wait: Histogram,
    token_requests: IntCounterVec,
    looks: IntCounterVec,
    parked: IntCounter,
    waits: IntCounterVec,
    claims: IntCounterVec,
    suspects: IntCounter,
    takeovers: IntCounter,
    stuck: IntCounterVec,
    events_published: IntCounter,
    transfer_bytes: IntCounterVec,
    queue_age: IntGauge,
    queue_length: IntGaugeVec,
    fleet: FleetMetrics,
}

impl Metrics {
    /// Those of a process of the fleet: the queue is the broker's, so its own metrics tell of it; ours tell of both servers.
    ///
    /// # Errors
    /// As [`Metrics::new`].
    pub fn of_fleet() -> Result<Self, prometheus::Error> {
        let mut metrics = Self::new()?;
        metrics.registry.unregister(Box::new(metrics.queue_age.clone()))?;
        metrics.registry.unregister(Box::new(metrics.queue_length.clone()))?;
        metrics.fleet = FleetMetrics::new(&metrics.registry)?;
        Ok(metrics)
    }

    /// What is counted of broker and memory; nothing on the embedded home.
    #[must_use]
    pub const fn fleet(&self) -> &FleetMetrics {
        &self.fleet
    }

    /// All metrics of the embedded home, at zero.
    ///
    /// # Errors
    /// None that the fixed names here could cause; the registry's own signature has one.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let queue_age =
            IntGauge::new("longshore_queue_age_seconds", "Age of the oldest ticket that is due and waits.")?;
        registry.register(Box::new(queue_age.clone()))?;
        let queue_length =
            IntGaugeVec::new(Opts::new("longshore_queue_length", "Tickets, by what they do."), &["state"])?;
        registry.register(Box::new(queue_length.clone()))?;
        let throttle_wait = Histogram::with_opts(
            HistogramOpts::new("longshore_throttle_wait_seconds", "Pauses that the service asked for.")
                .buckets(WAITS.to_vec()),
        )?;
        registry.register(Box::new(throttle_wait.clone()))?;
        let call_seconds = HistogramVec::new(
            HistogramOpts::new("longshore_call_duration_seconds", "Time to the whole answer of a call.")
                .buckets(CALLS.to_vec()),
            &["operation"],
        )?;
        registry.register(Box::new(call_seconds.clone()))?;
        let metrics = Self {
            jobs_ended: counters("longshore_jobs_ended_total", "Jobs that ended.", &["kind", "end"])?,
            steps_done: counters("longshore_steps_done_total", "Steps that were finished.", &["step"])?,
            refused: counters("longshore_messages_refused_total", "Messages that never became a job.", &["class"])?,
            calls: counters("longshore_calls_total", "Calls to the service.", &["operation", "class"])?,
            token_requests: counters(
                "longshore_token_requests_total",
                "Requests to the token endpoint.",
                &["outcome"],
            )?,
            looks: counters("longshore_looks_total", "Looks for the effect of a write in doubt.", &["outcome"])?,
            parked: counter("longshore_tickets_parked_total", "Tickets that were set aside until a time.")?,
            waits: counters("longshore_waits_total", "Tickets that wait without a call, by cause.", &["cause"])?,
            claims: counters("longshore_claims_total", "Claims of tickets, by what they came to.", &["outcome"])?,
            suspects: counter(
                "longshore_suspect_claims_total",
                "Claims of jobs that may have called before anybody remembers.",
            )?,
            takeovers: counter("longshore_takeovers_total", "Jobs taken over from a holder that was lost.")?,
            stuck: counters("longshore_steps_stuck_total", "Steps that exceeded their usual time.", &["step"])?,
            events_published: counter("longshore_events_published_total", "Events that were announced.")?,
            transfer_bytes: counters("longshore_transfer_bytes_total", "Bytes of packages.", &["direction"])?,
            call_seconds,
            throttle_wait,
            queue_age,
            queue_length,
            fleet: FleetMetrics::default(),
            registry: registry.clone(),
        };
        metrics.show_zeros();
        Ok(metrics)
    }

    /// A counter that has never counted must show as zero, else the first count is no increase.
    fn show_zeros(&self) {
        for outcome in TokenOutcome::ALL {
            self.token_requests.with_label_values(&[outcome.label()]);
        }
        for outcome in ClaimOutcome::ALL {
            self.claims.with_label_values(&[outcome.label()]);
        }
        for cause in WaitCause::ALL {
            self.waits.with_label_values(&[cause.label()]);
        }
        for outcome in LookOutcome::ALL {
            self.looks.with_label_values(&[outcome.label()]);
        }
        for direction in Direction::ALL {
            self.transfer_bytes.with_label_values(&[direction.label()]);
        }
        for kind in Kind::ALL {
            for end in ENDS {
                self.jobs_ended.with_label_values(&[kind.name(), end.event().as_str()]);
            }
        }
        for step in Step::ALL {
            self.steps_done.with_label_values(&[step.name()]);
        }
        self.stuck.with_label_values(&[Step::Poll.name()]);
        for class in [Class::Undecodable, Class::NotAllowed, Class::OtherContent] {
            self.refused.with_label_values(&[class.as_str()]);
        }
        for state in ["waiting", "parked", "held"] {
            self.queue_length.with_label_values(&[state]);
        }
    }

    /// A job ended.
    pub fn job_ended(&self, kind: Kind, end: EndName) {
        self.jobs_ended.with_label_values(&[kind.name(), end.event().as_str()]).inc();
    }

    /// A step was finished.
    pub fn step_done(&self, step: Step) {
        self.steps_done.with_label_values(&[step.name()]).inc();
    }

    /// A message never became a job, or brought other content under a job's id.
    pub fn refused(&self, class: Class) {
        self.refused.with_label_values(&[class.as_str()]).inc();
    }

    /// A call ended. `operation` is [`crate::domain::service::Request::operation`], one of a closed set.
    pub fn call(&self, operation: &'static str, class: CallClass, took: Duration) {
        self.calls.with_label_values(&[operation, class.label()]).inc();
        self.call_seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// The service asked for a pause.
    pub fn throttled(&self, pause: Duration) {
        self.throttle_wait.observe(pause.as_secs_f64());
    }

    /// A token was asked for.
    pub fn token_request(&self, outcome: TokenOutcome) {
        self.token_requests.with_label_values(&[outcome.label()]).inc();
    }

    /// A write in doubt was looked for.
    pub fn look(&self, outcome: LookOutcome) {
        self.looks.with_label_values(&[outcome.label()]).inc();
    }

    /// A ticket was set aside until a time.
    pub fn ticket_parked(&self) {
        self.parked.inc();
    }

    /// A ticket waits without a call.
    pub fn waits(&self, cause: WaitCause) {
        self.waits.with_label_values(&[cause.label()]).inc();
    }

    /// A ticket was claimed, or could not be.
    pub fn claimed(&self, outcome: ClaimOutcome) {
        self.claims.with_label_values(&[outcome.label()]).inc();
    }

    /// A job was claimed that may have called before anybody remembers.
    pub fn claimed_suspect(&self) {
        self.suspects.inc();
    }

    /// A job was taken over from a holder that was lost.
    pub fn taken_over(&self) {
        self.takeovers.inc();
    }

    /// A step exceeded its usual time.
    pub fn stuck(&self, step: Step) {
        self.stuck.with_label_values(&[step.name()]).inc();
    }

    /// Events were announced.
    pub fn events_published(&self, count: u64) {
        self.events_published.inc_by(count);
    }

    /// Bytes of a package went by.
    pub fn transferred(&self, direction: Direction, bytes: u64) {
        self.transfer_bytes.with_label_values(&[direction.label()]).inc_by(bytes);
    }

    /// What the queue looks like now: age of the oldest ticket that is due, and tickets by what they do.
    pub fn queue(&self, oldest: Duration, waiting: u64, parked: u64, held: u64) {
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.queue_age.set(whole(oldest.as_secs()));
        for (state, count) in [("waiting", waiting), ("parked", parked), ("held", held)] {
            self.queue_length.with_label_values(&[state]).set(whole(count));
        }
    }

    /// The names of all metrics that have been declared and have a value.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }

    /// All metrics in the text format of Prometheus, version 0.0.4.
    ///
    /// # Errors
    /// The encoder found two metrics that cannot stand beside each other.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_listed_with_its_labels() {
        let metrics = Metrics::new().unwrap();
        metrics.call("createProduct", CallClass::Ok, Duration::from_millis(300));
        let list: Vec<String> = metrics
            .registry
            .gather()
            .iter()
            .map(|family| {
                let labels: Vec<&str> =
                    family.get_metric()[0].get_label().iter().map(prometheus::proto::LabelPair::name).collect();
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                format!("{} {kind} [{}] {}", family.name(), labels.join(", "), family.help())
            })
            .collect();
        insta::assert_snapshot!(list.join("\n"));
        for line in list {
            assert!(line.starts_with("longshore_"), "{line}");
            assert!(line.contains("_total counter") == line.contains(" counter "), "{line}");
        }
    }

    /// The table of the documentation: names, and labels.
    fn documented() -> Vec<(String, String)> {
        let rows = include_str!("../../docs/fleet/metrics.md").lines().filter(|line| line.starts_with("| `longshore_"));
        let cell = |text: &str| text.replace('`', "").trim().to_owned();
        rows.map(|row| {
            let mut cells = row.split('|').skip(1);
            (cell(cells.next().unwrap()), cell(cells.next().unwrap()))
        })
        .collect()
    }

    #[test]
    fn the_documentation_names_every_metric_with_its_labels_and_no_other() {
        let mut there: Vec<(String, String)> = Vec::new();
        for metrics in [Metrics::new().unwrap(), Metrics::of_fleet().unwrap()] {
            metrics.call("createProduct", CallClass::Ok, Duration::from_millis(300));
            for family in metrics.registry.gather() {
                let labels = family.get_metric()[0].get_label().iter().map(prometheus::proto::LabelPair::name);
                there.push((family.name().to_owned(), labels.collect::<Vec<_>>().join(", ")));
            }
        }
        there.sort();
        there.dedup();
        let mut documented = documented();
        documented.sort();
        assert_eq!(documented, there);
    }

    #[test]
    fn in_the_fleet_the_queue_is_the_brokers_to_tell_of() {
        let names = Metrics::of_fleet().unwrap().names();
        assert!(!names.iter().any(|name| name.starts_with("longshore_queue_")), "{names:?}");
        assert!(names.contains(&"longshore_memory_up".to_owned()), "{names:?}");
    }

    #[test]
    fn what_is_counted_shows_in_the_text() {
        let metrics = Metrics::new().unwrap();
        metrics.job_ended(Kind::Submission, EndName::Completed);
        metrics.throttled(Duration::from_secs(40));
        metrics.transferred(Direction::Upload, 4_194_304);
        metrics.queue(Duration::from_secs(7), 1, 2, 3);
        let text = metrics.text().unwrap();
        for line in [
            "longshore_jobs_ended_total{end=\"completed\",kind=\"submission\"} 1",
            "longshore_throttle_wait_seconds_bucket{le=\"60\"} 1",
            "longshore_throttle_wait_seconds_bucket{le=\"15\"} 0",
            "longshore_transfer_bytes_total{direction=\"upload\"} 4194304",
            "longshore_queue_age_seconds 7",
            "longshore_queue_length{state=\"parked\"} 2",
            "longshore_looks_total{outcome=\"found\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
