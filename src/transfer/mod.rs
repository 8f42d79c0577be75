//! Packages in, packages out: sources read, blobs uploaded, signed files downloaded.
//!
//! Everything here streams with flat memory, has a time-out on every await, and repeats in process only what blob
//! storage lets one repeat. What does not work within the attempts is handed back as a [`Failure`], for the engine to
//! park. A signed URL is used byte for byte and never shown with its query. Facts about blob storage:
//! contract/blob-upload.md, sections 2 to 10.

pub mod pace;
pub mod sas;
pub mod sink;
pub mod source;
pub(crate) mod stamp;
pub mod trouble;

pub mod block_list;
pub mod blocks;

mod blob;
mod package_file;
mod part;
mod renewal;

pub mod download;
pub mod upload;

#[cfg(test)]
mod blob_server;
#[cfg(test)]
mod slow_tests;

use std::{future::Future, time::Duration};

pub use package_file::LocalPackage;

use crate::domain::{
    failure::{Cause, Failure, Kind},
    service::SignedUrl,
};

/// The largest package there is: Zip64 is refused by the service, so 4 GiB less one byte (hardware-api 8.2).
pub const MAX_PACKAGE: u64 = (4 << 30) - 1;

/// How blobs are moved. Every number is the contract's default (blob-upload 6 and 9).
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Packages up to this many bytes go in one request.
    pub single_shot_max: u64,
    /// Bytes per block, at least 1 and at most 4,000 MiB.
    pub block_size: u64,
    /// Blocks in flight, 1 to 16; fewer while the service says it is busy.
    pub concurrency: usize,
    /// So many blocks in a row without trouble add one in flight again, after the service was busy.
    pub speed_up_after: u32,
    /// Tries of one request before the transfer gives up for now.
    pub attempts: u32,
    /// First backoff; doubled per try, with full jitter.
    pub backoff_base: Duration,
    /// Longest backoff. A longer pause asked for by the service ends the transfer as transient, to be parked.
    pub backoff_cap: Duration,
    /// What a request may take before its size counts.
    pub request_timeout: Duration,
    /// The slowest rate that is not a time-out, in bytes per second.
    pub min_rate: u64,
    /// An answer of which no byte comes for this long is given up.
    pub idle_timeout: Duration,
    /// A body of which no byte goes for this long is given up, and sent again.
    pub stall_timeout: Duration,
    /// Work on a file that shows no sign of life for this long is left behind.
    pub file_timeout: Duration,
    /// A signed URL that ends within this time is renewed before the next request.
    pub renew_margin: Duration,
    /// Signed URLs of one transfer that are replaced because the service refused them.
    pub max_renewals: u32,
    /// How often the service may say of one transfer that a block of its list is missing.
    pub commit_rounds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            single_shot_max: 32 << 20,
            block_size: blocks::DEFAULT_SIZE,
            concurrency: 4,
            speed_up_after: 20,
            attempts: 8,
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(30),
            request_timeout: Duration::from_mins(1),
            min_rate: 100 << 10,
            idle_timeout: Duration::from_mins(1),
            stall_timeout: Duration::from_mins(1),
            file_timeout: Duration::from_mins(1),
            renew_margin: Duration::from_mins(10),
            max_renewals: 3,
            commit_rounds: 2,
        }
    }
}

impl Settings {
    /// The time-out of a request with this many bytes of body.
    #[must_use]
    pub fn timeout(&self, body: u64) -> Duration {
        self.request_timeout.saturating_add(Duration::from_secs(body.div_ceil(self.min_rate.max(1))))
    }

    /// Blocks in flight at most.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.concurrency.clamp(1, 16)
    }

    /// The wait before try number `spent + 1`, full jitter; `chance` is from 0 (included) to 1 (excluded).
    #[must_use]
    pub fn backoff(&self, spent: u32, chance: f64) -> Duration {
        let doubled = self.backoff_base.saturating_mul(2_u32.saturating_pow(spent.saturating_sub(1).min(16)));
        doubled.min(self.backoff_cap).mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// What a transfer asks of its caller.
pub trait Hooks: Send + Sync {
    /// A freshly signed URL of the same slot; for an upload by reading the submission again.
    fn fresh_url(&self) -> impl Future<Output = Result<SignedUrl, Failure>> + Send;

    /// Are we still the holder of the job? Asked right before every request that replaces the blob.
    fn may_replace(&self) -> impl Future<Output = bool> + Send;

    /// Is the handler's deadline near? Then the transfer stops at the next block border.
    fn out_of_time(&self) -> bool;

    /// So many bytes of so many are safely there.
    fn progress(&self, done: u64, total: u64);

    /// A random number from 0 (included) to 1 (excluded), for jitter.
    fn chance(&self) -> f64;
}

fn permanent(kind: Kind, message: impl Into<String>) -> Failure {
    Failure::Permanent(Cause::new(kind, message))
}

fn transient(kind: Kind, message: impl Into<String>) -> Failure {
    Failure::Transient(Cause::new(kind, message))
}

/// What an I/O error on our own disk means: worth another try later, for a disk may be emptied or come back.
fn disk(what: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
    transient(Kind::LocalIo, format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_a_minute_and_a_second_per_100_kib() {
        let settings = Settings::default();
        assert_eq!(settings.timeout(0), Duration::from_mins(1));
        assert_eq!(settings.timeout(4 << 20), Duration::from_secs(101));
    }

    #[test]
    fn backoff_doubles_to_its_cap_and_is_jittered_in_full() {
        let settings = Settings::default();
        assert_eq!(settings.backoff(1, 0.0), Duration::ZERO);
        assert_eq!(settings.backoff(1, 1.0), Duration::from_millis(500));
        assert_eq!(settings.backoff(3, 1.0), Duration::from_secs(2));
        assert_eq!(settings.backoff(40, 1.0), Duration::from_secs(30));
    }

    #[test]
    fn lanes_stay_between_one_and_sixteen() {
        for (wanted, lanes) in [(0, 1), (4, 4), (99, 16)] {
            assert_eq!(Settings { concurrency: wanted, ..Settings::default() }.lanes(), lanes);
        }
    }
}
