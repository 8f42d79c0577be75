//! A worker as its account's quota sees it: many tickets, one call at a time, permits asked for as the engine does.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use anyhow::{Context as _, Result};
use longshore::{
    clock,
    domain::{
        ids::AccountName,
        quota::{Admission, Limits},
        step::QuotaClass,
        time::Moment,
    },
    engine::ports::Quota as _,
    redis::{self, Address, Rates, Scope, Store, Tls},
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::role::{Told, tell};

/// What a client is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Clients {
    pub(crate) store: String,
    pub(crate) account: String,
    pub(crate) per_minute: f64,
    /// Tickets that want to call, again and again.
    pub(crate) tickets: usize,
    pub(crate) seconds: u64,
    /// What is called, and the token for it.
    pub(crate) url: String,
    pub(crate) token: String,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Permits {
    /// The instants they were given for, milliseconds by the memory's clock.
    pub(crate) at: Vec<i64>,
    pub(crate) refused: u64,
}

pub(crate) async fn play(told: Clients) -> Result<()> {
    let mut lines = Told::new();
    let (rates, account) = rates(&told)?;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    tell("ready")?;
    lines.line().await.context("nobody said when to begin")?;
    lines.until_alone(call(&told, &rates, &account, &http)).await
}

fn rates(told: &Clients) -> Result<(Rates, AccountName)> {
    let account = AccountName::parse(&told.account)?;
    let address = Address { url: told.store.as_str().into(), sentinel: None, tls: Tls::default() };
    // The overlay's longest park.
    let wait_max = Duration::from_secs(16);
    let limits = Limits { calls_per_minute: told.per_minute, wait_max, ..Limits::default() };
    let scope = Scope { name: told.account.clone(), limits };
    let options = redis::Options { accounts: [(account.clone(), scope)].into(), ..redis::Options::default() };
    Ok((Rates::new(Store::new(&address, options)?), account))
}

async fn call(told: &Clients, rates: &Rates, account: &AccountName, http: &reqwest::Client) -> Result<()> {
    let end = clock::moment().after(Duration::from_secs(told.seconds));
    let mut permits = Permits::default();
    // Due, and refusals so far.
    let mut waiting: BinaryHeap<Reverse<(Moment, u32)>> =
        (0..told.tickets).map(|_| Reverse((Moment::default(), 0))).collect();
    while let Some(Reverse((due, refusals))) = waiting.pop() {
        if due >= end || clock::moment() >= end {
            break;
        }
        sleep(due.since(clock::moment())).await;
        match rates.permit(account, QuotaClass::Write, refusals, clock::chance()).await? {
            Admission::Granted { at } => {
                permits.at.push(at.as_millis());
                sleep(at.since(clock::moment())).await;
                http.get(&told.url).bearer_auth(&told.token).send().await?.bytes().await?;
                waiting.push(Reverse((Moment::default(), 0)));
            }
            Admission::Refused { until, .. } => {
                permits.refused += 1;
                waiting.push(Reverse((until, refusals.saturating_add(1))));
            }
        }
    }
    tell(&serde_json::to_string(&permits)?)
}
