//! From the configuration to what each part is told: plain values, by hand, so that no part knows the configuration.
//!
//! A key is read as `section.key`, with the section's own name: a test of the configuration looks for just that, here and
//! wherever else the configuration is known.

use std::time::Duration;

use crate::{
    config::{self, Account, Loaded},
    domain::{claim, ids::Sha256, plan, quota, retry},
    embedded,
    engine::{
        admission::{Admission, Producers},
        settings as engine,
    },
    http, identity, redis, sandbox, transfer,
    transfer::{sink::SinkRules, source},
};

/// Between two looks whether an account has become known.
const UNKNOWN_ACCOUNT: Duration = Duration::from_secs(32);

/// The largest job of a fleet, in bytes: with its progress it must fit into a message.
const FLEET_JOB: usize = 64 << 10;

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
            stuck_after_review: waits.stuck.hlk,
            commit_shown_for: jobs.commit_shown,
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
            unavailable_most: waits.parks.memory_down_last,
            busy_least: waits.parks.busy_least,
            busy_most: waits.parks.busy_most,
            newer: waits.parks.newer_version,
            unknown_account: UNKNOWN_ACCOUNT.min(waits.parks.unknown_account),
            unknown_account_for: waits.parks.unknown_account,
            next_turn: Duration::ZERO,
            control: waits.parks.control,
        },
        markers: engine::Markers { products: markers.products, submissions: markers.submissions },
        account_markers: settings
            .accounts
            .iter()
            .filter_map(|(name, of)| Some((name.clone(), own(of, markers)?)))
            .collect(),
        clock_tolerance: engine::Tolerance(memory.clock_tolerance),
        handler: engine::HandlerTime(worker.handler_deadline),
        admission: admission(settings),
    }
}

/// What an account says of markers itself.
fn own(account: &Account, markers: &config::Markers) -> Option<engine::Markers> {
    let own = account.markers.as_ref()?;
    Some(engine::Markers {
        products: own.products.unwrap_or(markers.products),
        submissions: own.submissions.unwrap_or(markers.submissions),
    })
}

/// What the embedded home is told.
#[must_use]
pub fn home(loaded: &Loaded) -> embedded::Options {
    let settings = &loaded.settings;
    embedded::Options {
        policy: engine(settings).claim,
        retention: settings.memory.retention,
        retention_batch: settings.memory.retention_batch,
        limits: settings.accounts.iter().map(|(name, account)| (name.clone(), limits(settings, account))).collect(),
        accounts: Some(settings.accounts.keys().cloned().collect()),
        turn_for: settings.waits.turns.name,
        listing_for: settings.waits.listings.keep,
        listing_lease: longest_page(settings),
        page_failures: settings.waits.listings.page_failures,
        control_for: settings.waits.parks.control_life,
        delivery_limit: settings.worker.delivery_limit,
        sweep: settings.worker.holder_check,
        ..embedded::Options::new(loaded.data_dir())
    }
}

/// What the memory of the fleet is told.
#[must_use]
pub fn memory(settings: &config::Settings) -> redis::Options {
    let scope = |account: &Account| redis::Scope {
        name: Sha256::of(
            format!("{} {} {}", settings.endpoints.hardware.as_str(), account.tenant_id, account.client_id).as_bytes(),
        )
        .to_string(),
        limits: limits(settings, account),
    };
    redis::Options {
        prefix: settings.topology.prefix.as_str().to_owned(),
        connect_timeout: settings.redis.connect_timeout,
        response_timeout: settings.redis.response_timeout,
        retention: settings.memory.retention,
        shown_for: settings.memory.retention,
        turn_for: settings.waits.turns.name,
        listing_for: settings.waits.listings.keep,
        listing_lease: longest_page(settings),
        page_failures: settings.waits.listings.page_failures,
        max_workers: settings.fleet.max_workers,
        accounts: settings.accounts.iter().map(|(name, account)| (name.clone(), scope(account))).collect(),
        ..redis::Options::default()
    }
}

/// What is asked of a new job.
fn admission(settings: &config::Settings) -> Admission {
    let producers = if settings.is_fleet() {
        let users = |names: &[String]| names.iter().cloned().collect();
        let of = |account: &Account| users(account.producers.as_deref().unwrap_or_default());
        Producers::Listed {
            operators: users(&settings.security.operators),
            of: settings.accounts.iter().map(|(name, account)| (name.clone(), of(account))).collect(),
        }
    } else {
        Producers::Anybody
    };
    let most = usize::try_from(settings.jobs.max_size.0).unwrap_or(usize::MAX);
    let max_size = if settings.is_fleet() { most.min(FLEET_JOB) } else { most };
    Admission { producers, needs_hash: settings.is_fleet(), max_size, deadline: settings.jobs.deadline }
}

/// How long one page of a listing may take at most: a handler begins none when its time is up, waits for no permit beyond
/// that time, and then asks for a token and calls; both once more when the token was refused.
fn longest_page(settings: &config::Settings) -> Duration {
    let config::Settings { worker, http, identity, .. } = settings;
    let attempt = identity.response_timeout.saturating_add(identity.backoff_cap);
    let call = attempt.saturating_mul(identity.max_attempts).saturating_add(http.response_timeout);
    worker.handler_deadline.saturating_add(call.saturating_mul(2))
}

/// What an account is allowed.
#[must_use]
pub fn limits(settings: &config::Settings, account: &Account) -> quota::Limits {
    let config::Settings { quota, gate, .. } = settings;
    let hardware = account.hardware_rate(&settings.limits);
    quota::Limits {
        calls_per_minute: f64::from(hardware.calls_per_minute),
        download_share: quota.download_share,
        poll_share: quota.poll_share,
        ahead: quota.ahead,
        wait_min: quota.park_least,
        wait_max: quota.park_most,
        waiting_memory: quota.waiting_decay,
        floor_per_minute: f64::from(quota.floor),
        slow_down: quota.slow_down,
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

/// The largest answer of the hardware API that is read, in bytes.
#[must_use]
pub fn largest_answer(settings: &config::Settings) -> usize {
    usize::try_from(settings.http.max_answer.0).unwrap_or(usize::MAX)
}

/// What sign-in is told.
#[must_use]
pub fn identity(settings: &config::Settings) -> identity::Settings {
    let identity = &settings.identity;
    identity::Settings {
        renew_early: identity.renew_early,
        renew_jitter: identity.renew_jitter,
        unused_before_end: identity.unused_before_end,
        lease: identity.lease,
        refused_for: identity.refused_for,
        default_pause: identity.default_pause,
        pause_cap: identity.pause_cap,
        max_attempts: identity.max_attempts,
        backoff_base: identity.backoff_base,
        backoff_cap: identity.backoff_cap,
        assertion_backdate: identity.assertion_backdate,
        assertion_life: identity.assertion_life,
    }
}

/// What the sandbox is told: the table of the overlay, and what the configuration says over it.
///
/// # Errors
/// [`toml::de::Error`] names the key that the sandbox does not know, or its value that is of no use.
pub fn sandbox(settings: &config::Settings) -> Result<sandbox::Options, toml::de::Error> {
    let overlay: toml::Table = config::SANDBOX.parse()?;
    let mut table = overlay.get("sandbox").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    table.extend(settings.sandbox.0.clone());
    table.try_into()
}

/// How packages are moved.
#[must_use]
pub fn transfer(settings: &config::Settings) -> transfer::Settings {
    let transfer = &settings.transfer;
    transfer::Settings {
        single_shot_max: transfer.single_shot.0,
        block_size: transfer.block_size.0,
        concurrency: usize::try_from(transfer.concurrency).unwrap_or(1),
        attempts: transfer.block_attempts,
        backoff_base: transfer.backoff_base,
        backoff_cap: transfer.backoff_cap,
        request_timeout: transfer.base_timeout,
        min_rate: transfer.least_rate.0,
        idle_timeout: transfer.idle_timeout,
        stall_timeout: transfer.stall_timeout,
        file_timeout: transfer.file_timeout,
        renew_margin: transfer.renew_url_before,
        max_renewals: transfer.max_renewals,
        commit_rounds: transfer.commit_rounds,
        speed_up_after: transfer.speed_up_after,
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
        file: settings.transfer.file_timeout,
        whole: settings.transfer.source_timeout,
        least_rate: settings.transfer.least_rate.0,
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
    use crate::domain::time::Moment;

    #[test]
    fn the_defaults_of_configuration_and_adapters_are_the_same() {
        let settings = config::defaults();
        assert_eq!(transfer(&settings), transfer::Settings::default());
        assert_eq!(identity(&settings), identity::Settings::default());
        let account = overlaid().settings.accounts.into_values().next().unwrap();
        assert_eq!(limits(&settings, &account), quota::Limits::default());
        let (told, known) = (engine(&settings), engine::Settings::default());
        assert_eq!(told.waits, known.waits);
        assert_eq!(format!("{told:?}"), format!("{known:?}"));
    }

    #[test]
    fn the_defaults_of_configuration_and_home_are_the_same() {
        let loaded = config::load_in(&config::Surroundings::default(), &[]).unwrap();
        let none_is_configured = Some(std::collections::BTreeSet::new());
        let known = embedded::Options { accounts: none_is_configured, ..embedded::Options::new(loaded.data_dir()) };
        assert_eq!(format!("{:?}", home(&loaded)), format!("{known:?}"));
    }

    /// The configuration with the overlay of the sandbox and an account.
    fn overlaid() -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sandbox.toml");
        let account = "\n[accounts.contoso]\ntenant_id = \"11111111-2222-4333-8444-555555555555\"\n\
            client_id = \"66666666-7777-4888-8999-aaaaaaaaaaaa\"\ncredential = { secret = \"env:NONE\" }\n";
        std::fs::write(&file, format!("{}{account}", config::SANDBOX)).unwrap();
        config::load_in(&config::Surroundings::default(), &[file]).unwrap()
    }

    #[test]
    fn an_account_says_for_itself_which_of_its_names_carry_markers() {
        let mut loaded = overlaid();
        let contoso = loaded.settings.accounts.keys().next().unwrap().clone();
        let markers = |loaded: &Loaded| {
            let engine::Markers { products, submissions } = engine(&loaded.settings).markers_of(&contoso);
            (products, submissions)
        };
        assert_eq!(markers(&loaded), (false, true));
        loaded.settings.markers.submissions = false;
        assert_eq!(markers(&loaded), (false, false));
        let account = loaded.settings.accounts.get_mut(&contoso).unwrap();
        account.markers = Some(config::AccountMarkers { products: Some(true), submissions: None });
        assert_eq!(markers(&loaded), (true, false));
    }

    #[test]
    fn every_wait_that_the_overlay_shortens_reaches_its_part() {
        let secs = Duration::from_secs;
        let loaded = overlaid();
        let settings = &loaded.settings;
        let told = engine(settings);
        assert_eq!(told.claim.lease, secs(12));
        assert_eq!(told.claim.lost_record_pause, secs(2));
        assert_eq!(told.claim.memory_grace, secs(3_600), "it stays: a fresh memory is a clean one");
        assert_eq!(told.waits.product_looks, [secs(1), secs(2), secs(3)]);
        assert_eq!(told.waits.submission_looks, [secs(0), secs(2)]);
        assert_eq!(told.waits.commit_looks, [secs(0), secs(1)]);
        assert_eq!(told.waits.settling, secs(5 + 2), "the response time-out and a sixth of the lease");
        assert_eq!([0, 1, 60, 90_000].map(|age| told.waits.poll_interval(secs(age)).as_secs()), [1, 2, 2, 2]);
        assert_eq!(told.retry.cap, secs(8));
        let parks = told.parks;
        for short in [parks.control, parks.name_turn, parks.product_turn, parks.listing] {
            assert_eq!(short, secs(1));
        }
        assert_eq!([parks.down(0.0), parks.down(1.0)], [secs(1), secs(8)]);
        let busy = |seconds: i64| parks.busy(Moment::from_millis(seconds * 1_000), Moment::default());
        assert_eq!(busy(600), Moment::default().after(secs(16)));
        let home = home(&loaded);
        assert_eq!((home.turn_for, home.policy.lease), (secs(30), secs(12)));
        let limits = home.limits.into_values().next().unwrap();
        assert!((limits.calls_per_minute - 1_200.0).abs() < f64::EPSILON);
        assert_eq!(limits.wait_max, secs(16));
        assert_eq!((limits.close_for_min, limits.close_for_max), (secs(1), secs(8)));
        assert_eq!(http(settings).response_timeout, secs(5));
    }

    #[test]
    fn the_sandbox_reads_its_table_and_refuses_what_it_does_not_know() {
        let mut settings = overlaid().settings;
        let told = sandbox(&settings).unwrap();
        assert_eq!((told.speed, told.list_lag), (60.0, Duration::from_secs(1)));
        settings.sandbox.0.insert("list_lag".to_owned(), "250ms".into());
        assert_eq!(sandbox(&settings).unwrap().list_lag, Duration::from_millis(250));
        assert_eq!(sandbox(&config::defaults()).unwrap().list_lag, Duration::from_secs(1));
        settings.sandbox.0.insert("list_lga".to_owned(), "250ms".into());
        assert!(sandbox(&settings).unwrap_err().to_string().contains("list_lga"));
    }
}
