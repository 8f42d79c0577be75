//! From the configuration to what each part is told: plain values, by hand, so that no part knows the configuration.

use std::time::Duration;

use crate::{
    config::{self, Account, Loaded},
    domain::{claim, plan, quota, retry},
    embedded,
    engine::settings as engine,
    http, transfer,
    transfer::{sink::SinkRules, source},
};

/// Between two looks whether an account has become known.
const UNKNOWN_ACCOUNT: Duration = Duration::from_secs(32);

/// What the engine is told.
#[must_use]
pub fn engine(settings: &config::Settings) -> engine::Settings {
    let config::Settings { worker, memory, waits, retry, quota, jobs, markers, .. } = settings;
    let polls = &waits.polls;
    let rung = |until_age, every| plan::PollInterval { until_age, every };
    engine::Settings {
        claim: claim::Policy {
            lease: worker.lease,
            memory_grace: memory.grace,
            lost_record_pause: waits.parks.lost_record,
            poison_after: worker.poison_after,
            poison_after_panics: worker.poison_after_panics,
        },
        waits: plan::Waits {
            product_looks: waits.looks.product.clone(),
            submission_looks: waits.looks.submission.clone(),
            commit_looks: waits.looks.commit.clone(),
            settling: settings.settling_time(),
            polls: vec![
                rung(Some(polls.first_for), polls.first),
                rung(Some(polls.second_for), polls.second),
                rung(Some(polls.third_for), polls.third),
                rung(None, polls.last),
            ],
            metadata_for: jobs.metadata_limit,
            stuck_after: waits.stuck.attestation,
            fresh_for: jobs.recent_create,
            ..plan::Waits::default()
        },
        retry: retry::Policy {
            base: retry.backoff_base,
            cap: retry.backoff_cap,
            max_attempts: retry.max_attempts,
            throttle_pause: quota.default_pause,
            throttle_jitter: quota.throttle_jitter,
        },
        parks: engine::Parks {
            name_turn: waits.turns.name_taken,
            product_turn: waits.turns.product_taken,
            listing: waits.parks.listing,
            unavailable: waits.parks.memory_down_first,
            newer: waits.parks.newer_version,
            unknown_account: UNKNOWN_ACCOUNT.min(waits.parks.unknown_account),
            unknown_account_for: waits.parks.unknown_account,
            next_turn: Duration::ZERO,
            control: waits.parks.control,
        },
        markers: engine::Markers { products: markers.products, submissions: markers.submissions },
        clock_tolerance: engine::Tolerance(memory.clock_tolerance),
        handler: engine::HandlerTime(worker.handler_deadline),
    }
}

/// What the embedded home is told.
#[must_use]
pub fn home(loaded: &Loaded) -> embedded::Options {
    let settings = &loaded.settings;
    embedded::Options {
        policy: engine(settings).claim,
        retention: settings.memory.retention,
        limits: settings.accounts.iter().map(|(name, account)| (name.clone(), limits(settings, account))).collect(),
        turn_for: settings.waits.turns.name,
        listing_for: settings.waits.listings.keep,
        listing_lease: settings.worker.lease,
        sweep: settings.worker.holder_check,
        ..embedded::Options::new(loaded.data_dir())
    }
}

/// What an account is allowed.
#[must_use]
pub fn limits(settings: &config::Settings, account: &Account) -> quota::Limits {
    let config::Settings { quota, gate, .. } = settings;
    quota::Limits {
        calls_per_minute: f64::from(account.hardware_rate(&settings.limits).calls_per_minute),
        download_share: quota.download_share,
        poll_share: quota.poll_share,
        ahead: quota.ahead,
        wait_min: quota.park_least,
        wait_max: quota.park_most,
        waiting_memory: quota.waiting_decay,
        floor_per_minute: f64::from(quota.floor),
        recovery_per_minute: quota.recovery,
        failures_to_close: gate.close_after,
        close_for_min: gate.first,
        close_for_max: gate.last,
    }
}

/// How connections are made.
#[must_use]
pub fn http(settings: &config::Settings) -> http::Options {
    http::Options {
        proxy: settings.http.proxy.as_ref().map(|proxy| proxy.url().to_string()),
        ca_file: settings.http.ca_file.clone(),
        connect_timeout: settings.http.connect_timeout,
        response_timeout: settings.http.response_timeout,
        ..http::Options::default()
    }
}

/// How packages are moved.
#[must_use]
pub fn transfer(settings: &config::Settings) -> transfer::Settings {
    let told = &settings.transfer;
    transfer::Settings {
        single_shot_max: told.single_shot.0,
        block_size: told.block_size.0,
        concurrency: usize::try_from(told.concurrency).unwrap_or(1),
        attempts: told.block_attempts,
        backoff_base: told.backoff_base,
        backoff_cap: told.backoff_cap,
        request_timeout: told.base_timeout,
        min_rate: told.least_rate.0,
        idle_timeout: told.idle_timeout,
        renew_margin: told.renew_url_before,
    }
}

/// Where packages may come from.
///
/// # Errors
/// [`http::Error::Proxy`] when the proxy's address cannot be used.
pub fn sources(settings: &config::Settings) -> Result<source::SourceRules, http::Error> {
    Ok(source::SourceRules {
        roots: settings.sources.roots.clone(),
        hosts: settings.sources.hosts.iter().map(|host| host.as_str().to_owned()).collect(),
        allow_loopback_http: true,
        proxies: http::proxy_host(&http(settings))?.into_iter().collect(),
    })
}

/// How much of a source is read, and how long.
#[must_use]
pub fn source_limits(settings: &config::Settings) -> source::Limits {
    source::Limits {
        max_bytes: settings.transfer.max_package.0,
        answer: settings.transfer.base_timeout,
        idle: settings.transfer.idle_timeout,
    }
}

/// Where downloads may be written.
#[must_use]
pub fn sinks(settings: &config::Settings) -> SinkRules {
    SinkRules { roots: settings.sinks.roots.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_configuration_and_engine_are_the_same_waits() {
        let told = engine(&config::defaults());
        let known = engine::Settings::default();
        assert_eq!(told.waits.product_looks, known.waits.product_looks);
        assert_eq!(told.waits.submission_looks, known.waits.submission_looks);
        assert_eq!(told.waits.commit_looks, known.waits.commit_looks);
        assert_eq!(told.waits.settling, known.waits.settling);
        assert_eq!(format!("{:?}", told.waits.polls), format!("{:?}", known.waits.polls));
        assert_eq!(format!("{:?}", told.parks), format!("{:?}", known.parks));
        assert_eq!(format!("{:?}", told.retry), format!("{:?}", known.retry));
        assert_eq!(format!("{:?}", told.claim), format!("{:?}", known.claim));
    }

    #[test]
    fn the_defaults_of_configuration_and_transfer_are_the_same() {
        assert_eq!(transfer(&config::defaults()), transfer::Settings::default());
    }
}
