//! Every wait and every count that decides when something is done again: plain durations, taken by value.

use std::time::Duration;

use super::read::{Rising, section};

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn mins(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

const fn hours(count: u64) -> Duration {
    Duration::from_secs(3_600 * count)
}

const fn days(count: u64) -> Duration {
    Duration::from_secs(86_400 * count)
}

section! {
    /// Waits that are parked, by what is waited for.
    pub struct Waits {
        /// Looks for the effect of a write in doubt.
        pub looks: Looks,
        /// Between polls.
        pub polls: Polls,
        /// Turns of several jobs at one thing.
        pub turns: Turns,
        /// Of tickets that cannot go on.
        pub parks: Parks,
        /// Shared listings.
        pub listings: Listings,
        /// When a step counts as stuck.
        pub stuck: Stuck,
    }
}

section! {
    /// When to look for the effect of a write in doubt, counted from the start of the doubt; absence counts in the last.
    pub struct Looks {
        /// After an unclear create of a product.
        pub product: Vec<Duration> => Rising(secs(0)..=hours(1)),
        /// After an unclear create of a submission.
        pub submission: Vec<Duration> => Rising(secs(0)..=hours(1)),
        /// After an unclear commit.
        pub commit: Vec<Duration> => Rising(secs(0)..=hours(1)),
    }
}

section! {
    /// Between two polls, by the age of the step.
    pub struct Polls {
        /// At first.
        pub first: Duration => millis(500)..=hours(1),
        /// Age up to which `first` is used.
        pub first_for: Duration => secs(0)..=days(1),
        /// After that.
        pub second: Duration => millis(500)..=hours(1),
        /// Age up to which `second` is used.
        pub second_for: Duration => secs(0)..=days(7),
        /// After that.
        pub third: Duration => millis(500)..=hours(1),
        /// Age up to which `third` is used.
        pub third_for: Duration => secs(0)..=days(30),
        /// Of everything older.
        pub last: Duration => millis(500)..=days(1),
    }
}

section! {
    /// Turns of several jobs at one thing.
    pub struct Turns {
        /// Longest life of a turn to create under one product name.
        pub name: Duration => secs(10)..=hours(2),
        /// Wait of a job that finds a name's turn taken.
        pub name_taken: Duration => millis(100)..=mins(10),
        /// Wait of a job that finds a write to its product under way.
        pub product_taken: Duration => millis(100)..=mins(10),
    }
}

section! {
    /// Waits of tickets that cannot go on.
    pub struct Parks {
        /// Between two tries of a control ticket to find its record.
        pub control: Duration => millis(100)..=mins(10),
        /// How long the wish to cancel a job that nobody has claimed stands, when its deadline is unknown.
        pub control_life: Duration => mins(1)..=days(90),
        /// For a listing that another worker reads.
        pub listing: Duration => millis(100)..=mins(10),
        /// Before any write of a job that lost its record.
        pub lost_record: Duration => secs(0)..=mins(10),
        /// For an account that this worker does not know yet, in all.
        pub unknown_account: Duration => secs(0)..=days(1),
        /// Of a ticket that a later version wrote.
        pub newer_version: Duration => secs(1)..=hours(1),
        /// For a record whose holder lives, at least.
        pub busy_least: Duration => millis(10)..=mins(1),
        /// For a record whose holder lives, at most.
        pub busy_most: Duration => millis(100)..=mins(10),
        /// Shortest wait while the memory is out of reach.
        pub memory_down_first: Duration => secs(1)..=mins(10),
        /// Longest wait while the memory is out of reach.
        pub memory_down_last: Duration => secs(1)..=hours(1),
        /// How long `job cancel` works the job itself.
        pub cancel: Duration => secs(0)..=mins(5),
        /// How long `job watch` waits for the end after the deadline.
        pub after_deadline: Duration => secs(0)..=hours(1),
    }
}

section! {
    /// Shared listings.
    pub struct Listings {
        /// How long a whole listing is shared.
        pub keep: Duration => secs(1)..=hours(1),
        /// Failures of one page that make a listing unreadable.
        pub page_failures: u32 => 1_u32..=100,
    }
}

section! {
    /// Ages above which a step is called stuck, once.
    pub struct Stuck {
        /// Signing of an attestation package.
        pub attestation: Duration => mins(1)..=days(30),
        /// Signing of a package of another test harness than attestation.
        pub hlk: Duration => mins(1)..=days(60),
    }
}

section! {
    /// Repeats of failed attempts.
    pub struct Retry {
        /// Attempts of a step that keep failing before the job fails.
        pub max_attempts: u32 => 1_u32..=100,
        /// First wait; the n-th is drawn between 0 and 2^n times this.
        pub backoff_base: Duration => millis(10)..=mins(1),
        /// Longest wait between attempts.
        pub backoff_cap: Duration => secs(1)..=days(1),
    }
}

section! {
    /// The gate that hours of 5xx close, for one account and API.
    pub struct Gate {
        /// 5xx answers in a row that close it.
        pub close_after: u32 => 1_u32..=100,
        /// First pause; it doubles.
        pub first: Duration => secs(1)..=mins(10),
        /// Longest pause.
        pub last: Duration => secs(1)..=hours(1),
    }
}

section! {
    /// How the rate of an account is shared and learned.
    pub struct Quota {
        /// Share of the rate that downloads may use.
        pub download_share: f64 => 0.05..=1.0,
        /// Share of the rate that polls may use.
        pub poll_share: f64 => 0.05..=1.0,
        /// How far ahead a permit may be given.
        pub ahead: Duration => secs(0)..=secs(3),
        /// Shortest wait of a ticket that got no permit.
        pub park_least: Duration => millis(100)..=mins(1),
        /// Longest wait of a ticket that got no permit.
        pub park_most: Duration => secs(1)..=hours(1),
        /// Time without a refusal in which the count of waiting tickets decays to zero.
        pub waiting_decay: Duration => secs(1)..=days(1),
        /// Pause after a 429 that names none.
        pub default_pause: Duration => secs(1)..=hours(1),
        /// Most that is added to a pause the service asked for, as a part of it.
        pub throttle_jitter: f64 => 0.0..=1.0,
        /// Factor of the learned rate after a 429.
        pub slow_down: f64 => 0.1..=0.95,
        /// Part of the configured rate added to the learned rate in a minute without a 429.
        pub recovery: f64 => 0.01..=1.0,
        /// Calls per minute below which the learned rate never falls.
        pub floor: u32 => 1_u32..=60,
    }
}

section! {
    /// The worker.
    pub struct Worker {
        /// Address of `/livez`, `/readyz` and `/metrics`.
        pub listen: std::net::SocketAddr,
        /// Tickets worked at once by one process.
        pub concurrency: u32 => 1_u32..=256,
        /// How long a claim holds without being renewed.
        pub lease: Duration => secs(3)..=mins(10),
        /// How often the embedded home looks whether the holders of records live.
        pub holder_check: Duration => millis(10)..=secs(10),
        /// How long one delivery is worked before a long step stops at its next border.
        pub handler_deadline: Duration => secs(5)..=mins(15),
        /// How long an orderly stop waits for what is under way.
        pub drain: Duration => secs(1)..=hours(1),
        /// Lost claims in a row that make a job poison.
        pub poison_after: u32 => 2_u32..=100,
        /// Caught panics in a row that make a job poison.
        pub poison_after_panics: u32 => 1_u32..=100,
        /// Times a message is given out and never settled before it is set aside as poison.
        pub delivery_limit: u32 => 10_u32..=10_000,
    }
}

impl Worker {
    /// How soon after `begin` a call must go out: a sixth of the lease.
    #[must_use]
    pub fn call_within(&self) -> Duration {
        self.lease / 6
    }
}

section! {
    /// Jobs.
    pub struct Jobs {
        /// Deadline of a job that names none.
        pub deadline: Duration => mins(1)..=days(90),
        /// The largest job accepted.
        pub max_size: super::Size => super::Size(4 << 10)..=super::Size(1 << 20),
        /// How long a finished submission waits for publisher metadata.
        pub metadata_limit: Duration => secs(1)..=days(7),
        /// How long an id that the job made itself may answer 404 before that is believed.
        pub recent_create: Duration => secs(0)..=hours(1),
        /// How long a commit that was accepted may not be shown.
        pub commit_shown: Duration => mins(1)..=hours(1),
    }
}

section! {
    /// What is remembered, and for how long.
    pub struct Memory {
        /// For how long after an unclean birth of the memory an unknown job is suspect.
        pub grace: Duration => mins(1)..=days(7),
        /// For how long ended jobs, events and dead letters stay.
        pub retention: Duration => days(1)..=days(365),
        /// Rows of one kind removed in one transaction.
        pub retention_batch: u32 => 1_u32..=10_000,
        /// How far the service's clock and ours may differ.
        pub clock_tolerance: Duration => secs(1)..=hours(1),
    }
}

section! {
    /// Calls in general.
    pub struct Http {
        /// Time to connect.
        pub connect_timeout: Duration => millis(100)..=mins(2),
        /// Time to the whole answer of a call.
        pub response_timeout: Duration => secs(1)..=mins(30),
        /// The largest answer of the hardware API that is read.
        pub max_answer: super::Size => super::Size(64 << 10)..=super::Size(256 << 20),
        /// Proxy; `None`: `HTTPS_PROXY` and `NO_PROXY`.
        pub proxy: Option<super::ProxyUrl>,
        /// PEM file with further certificate authorities to trust.
        pub ca_file: Option<std::path::PathBuf>,
    }
}

section! {
    /// Sign-in.
    pub struct Identity {
        /// Token endpoint of accounts that do not say.
        pub token_version: super::TokenVersion,
        /// Signature of certificate assertions of accounts that do not say.
        pub assertion_algorithm: super::AssertionAlgorithm,
        /// How long before its end a token is renewed.
        pub renew_early: Duration => secs(0)..=mins(30),
        /// Up to how much earlier still.
        pub renew_jitter: Duration => secs(0)..=mins(10),
        /// For how long before its end a token is no longer used.
        pub unused_before_end: Duration => secs(0)..=mins(10),
        /// How long one process may hold the right to renew.
        pub lease: Duration => secs(1)..=mins(5),
        /// Time to the whole answer of the token endpoint.
        pub response_timeout: Duration => secs(1)..=mins(5),
        /// For how long a refused sign-in is remembered.
        pub refused_for: Duration => secs(0)..=hours(1),
        /// Pause after a 429 of the token endpoint that names none.
        pub default_pause: Duration => secs(1)..=hours(1),
        /// Longest pause taken from the token endpoint's word.
        pub pause_cap: Duration => secs(1)..=days(1),
        /// Attempts of one token request.
        pub max_attempts: u32 => 1_u32..=20,
        /// First wait between them, with full jitter.
        pub backoff_base: Duration => millis(10)..=mins(1),
        /// Longest wait between them.
        pub backoff_cap: Duration => millis(100)..=mins(10),
        /// How far back an assertion's `nbf` lies.
        pub assertion_backdate: Duration => secs(0)..=mins(5),
        /// How far ahead an assertion's `exp` lies.
        pub assertion_life: Duration => mins(1)..=mins(10),
    }
}

section! {
    /// Upload and download of packages.
    pub struct Transfer {
        /// Packages up to this size go up in one request.
        pub single_shot: super::Size => super::Size(0)..=super::Size(64 << 20),
        /// Size of a block.
        pub block_size: super::Size => super::Size(64 << 10)..=super::Size(100 << 20),
        /// Blocks of one package sent at once.
        pub concurrency: u32 => 1_u32..=16,
        /// Blocks in a row without trouble that add one more at once.
        pub speed_up_after: u32 => 1_u32..=1000,
        /// Attempts of one block.
        pub block_attempts: u32 => 1_u32..=100,
        /// First wait between them, with full jitter.
        pub backoff_base: Duration => millis(10)..=mins(1),
        /// Longest wait between them.
        pub backoff_cap: Duration => millis(100)..=mins(10),
        /// Time-out of a request before its size is counted.
        pub base_timeout: Duration => secs(1)..=mins(10),
        /// Slowest rate of a request in bytes per second: adds (size ÷ this) to its time-out.
        pub least_rate: super::Size => super::Size(1 << 10)..=super::Size(1 << 30),
        /// Time without a byte received after which a download or a source is given up for now.
        pub idle_timeout: Duration => secs(1)..=mins(10),
        /// Longest time for a whole source from the web.
        pub source_timeout: Duration => mins(1)..=hours(6),
        /// Time without a byte sent after which a block is sent again.
        pub stall_timeout: Duration => secs(1)..=mins(10),
        /// Time without a sign of life after which work on a file is given up for now.
        pub file_timeout: Duration => secs(1)..=mins(10),
        /// Life left of an upload URL below which a new one is fetched.
        pub renew_url_before: Duration => secs(0)..=hours(2),
        /// Signed URLs of one transfer that are replaced because they were refused.
        pub max_renewals: u32 => 1_u32..=10,
        /// How often a block list may be refused because a block is missing.
        pub commit_rounds: u32 => 1_u32..=10,
        /// The largest package.
        pub max_package: super::Size => super::Size(1 << 20)..=super::Size(190 << 30),
    }
}
