//! What several settings must hold to together.

use std::{collections::BTreeMap, time::Duration};

use super::{
    quantity::Span,
    read::Reader,
    settings::{Place, Settings},
};

/// Tells every pair of settings that do not fit.
pub(crate) fn check(settings: &Settings, reader: &mut Reader<'_>) {
    home(settings, reader);
    fleet(settings, reader);
    accounts(settings, reader);
    ordered(settings, reader);
    calls(settings, reader);
    deliveries(settings, reader);
}

/// So many of `transfer.file_timeout` are the time for all work on files in one call for a package, beside its source.
const FILE_LIMITS: u32 = 15;

impl Settings {
    /// How long one call for a package may take: a transfer until the handler's time is up, the source, the files.
    #[must_use]
    pub fn longest_package_call(&self) -> Duration {
        let Self { worker, transfer, .. } = self;
        let files = transfer.file_timeout.saturating_mul(FILE_LIMITS);
        worker.handler_deadline.saturating_add(transfer.source_timeout).saturating_add(files)
    }
}

/// No delivery lasts as long as the memory is in grace (docs/protocol.md): its last call begins before the handler's time is
/// up.
fn deliveries(settings: &Settings, reader: &mut Reader<'_>) {
    let longest = settings.worker.handler_deadline.saturating_add(settings.longest_package_call());
    let grace = settings.memory.grace;
    if longest >= grace {
        let problem = format!(
            "{} is no longer than a delivery may last, {}: 2 × worker.handler_deadline + transfer.source_timeout + \
             {FILE_LIMITS} × transfer.file_timeout",
            Span(grace),
            Span(longest)
        );
        reader.wrong("memory.grace", problem);
    }
}

fn home(settings: &Settings, reader: &mut Reader<'_>) {
    let home = &settings.home;
    if matches!(home.broker, Place::Embedded) != matches!(home.store, Place::Embedded) {
        reader.wrong("home.store", "home.broker and home.store must both be \"embedded\", or neither");
    }
}

/// What one fleet's workers must agree on, or cannot do without.
fn fleet(settings: &Settings, reader: &mut Reader<'_>) {
    let Settings { redis, rabbitmq, topology, .. } = settings;
    if topology.kinds.is_empty() {
        reader.wrong("topology.kinds", "empty: a worker without a kind works nothing");
    }
    if redis.sentinel_master.is_some() == redis.sentinels.is_empty() {
        reader.wrong("redis.sentinels", "redis.sentinel_master and redis.sentinels are set together");
    }
    for (key, is_set) in [
        ("redis.sentinel_user", redis.sentinel_user.is_some()),
        ("redis.sentinel_password", redis.sentinel_password.is_some()),
    ] {
        if is_set && redis.sentinel_master.is_none() {
            reader.wrong(key, "set without redis.sentinel_master: there are no Sentinels to sign in to");
        }
    }
    if redis.sentinel_user.is_some() && redis.sentinel_password.is_none() {
        reader.wrong("redis.sentinel_user", "set without redis.sentinel_password");
    }
    for (section, certificate, key) in
        [("redis", &redis.certificate, &redis.key), ("rabbitmq", &rabbitmq.certificate, &rabbitmq.key)]
    {
        if certificate.is_some() != key.is_some() {
            reader
                .wrong(&format!("{section}.key"), format!("{section}.certificate and {section}.key are set together"));
        }
    }
    if !settings.is_fleet() {
        return;
    }
    if settings.security.keys.is_empty() {
        let hint = "make one with `openssl rand -base64 32 > key`; every worker reads the same".to_owned();
        let problem = "empty: the workers of a fleet share the keys that seal tokens and signed URLs";
        reader.wrong_with_hint("security.keys", problem, Some(hint));
    }
    for (key, roots) in [("sources.roots", &settings.sources.roots), ("sinks.roots", &settings.sinks.roots)] {
        if roots.is_none() {
            reader.wrong(key, "missing: in a fleet a job names paths on the worker's machine (an empty list: none)");
        }
    }
}

fn accounts(settings: &Settings, reader: &mut Reader<'_>) {
    let mut seen = BTreeMap::new();
    for (name, account) in &settings.accounts {
        if let Some(first) = seen.insert((account.tenant_id, account.client_id), name) {
            let problem = format!("the same tenant_id and client_id as accounts.{first}: they share one quota");
            reader.wrong(&format!("accounts.{name}.client_id"), problem);
        }
    }
}

fn ordered(settings: &Settings, reader: &mut Reader<'_>) {
    let Settings { waits, gate, retry, quota, identity, transfer, .. } = settings;
    let polls = &waits.polls;
    for ((lower, less), (higher, more)) in [
        (("waits.polls.first", polls.first), ("waits.polls.second", polls.second)),
        (("waits.polls.second", polls.second), ("waits.polls.third", polls.third)),
        (("waits.polls.third", polls.third), ("waits.polls.last", polls.last)),
        (("waits.polls.first_for", polls.first_for), ("waits.polls.second_for", polls.second_for)),
        (("waits.polls.second_for", polls.second_for), ("waits.polls.third_for", polls.third_for)),
        (("waits.parks.busy_least", waits.parks.busy_least), ("waits.parks.busy_most", waits.parks.busy_most)),
        (
            ("waits.parks.memory_down_first", waits.parks.memory_down_first),
            ("waits.parks.memory_down_last", waits.parks.memory_down_last),
        ),
        (("gate.first", gate.first), ("gate.last", gate.last)),
        (("retry.backoff_base", retry.backoff_base), ("retry.backoff_cap", retry.backoff_cap)),
        (("quota.park_least", quota.park_least), ("quota.park_most", quota.park_most)),
        (("identity.backoff_base", identity.backoff_base), ("identity.backoff_cap", identity.backoff_cap)),
        (("identity.default_pause", identity.default_pause), ("identity.pause_cap", identity.pause_cap)),
        (("transfer.backoff_base", transfer.backoff_base), ("transfer.backoff_cap", transfer.backoff_cap)),
    ] {
        if less > more {
            reader.wrong(lower, format!("{} is more than {higher}, {}", Span(less), Span(more)));
        }
    }
}

fn calls(settings: &Settings, reader: &mut Reader<'_>) {
    let response = settings.http.response_timeout;
    let last_look = settings.waits.looks.product.last().copied().unwrap_or(Duration::ZERO);
    let needed = response.saturating_add(last_look);
    for (key, found, needed, why) in [
        (
            "worker.drain",
            settings.worker.drain,
            response,
            "http.response_timeout: every stop would leave calls in doubt",
        ),
        (
            "waits.turns.name",
            settings.waits.turns.name,
            needed,
            "http.response_timeout and the last of waits.looks.product: a turn would end before it is known what was made",
        ),
    ] {
        if found < needed {
            reader.wrong(key, format!("{} is less than {}, {why}", Span(found), Span(needed)));
        }
    }
    let identity = &settings.identity;
    if identity.unused_before_end > identity.renew_early {
        reader.wrong(
            "identity.unused_before_end",
            "more than identity.renew_early: a token would be out of use before it is renewed",
        );
    }
}
