//! Twenty processes with ten token caches each, all cold, all asking at once: token requests for each (tenant, client,
//! audience), counted by the sandbox. At most one, and one more for each process that was killed in a token request.
//!
//! The second run kills: the process that makes the first request of a key is killed while the endpoint takes its time,
//! and so is the next, for one key; the others must go on.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use longshore::{
    app::identity::Shelf,
    clock,
    domain::time::Moment,
    identity::{self, Cache, Credential, EndpointVersion, Identity, SignInError, SystemClock, Token, TokenEndpoint},
    redis::{self, Address, Store, Tls},
    sandbox::{Fault, FaultKind, Params, Sandbox},
    seal::Keyring,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    bed::{self, Bed, Role},
    figures::{say, verdict},
    role::{Told, tell},
};

const PROCESSES: usize = 20;
const CACHES: usize = 10;
const KILLS: u64 = 2;
const ACCOUNTS: [&str; 4] = ["first", "second", "third", "fourth"];
/// How long a process may take to have its tokens: two leases of killed ones, and the requests.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tokens {
    store: String,
    keyring: PathBuf,
    authority: String,
    /// Tenant, client and secret of each account.
    accounts: Vec<(String, String, String)>,
}

/// The endpoint; says aloud that it is about to be asked.
struct Loud(TokenEndpoint);

impl identity::SignIn for Loud {
    async fn sign_in(&self, identity: &Identity, now: Moment) -> Result<Token, SignInError> {
        // Nobody to hear it, no harm.
        tell(&format!("asks {}", identity.client_id)).ok();
        self.0.request(identity, now).await
    }
}

pub(crate) async fn play(told: Tokens) -> Result<()> {
    let mut lines = Told::new();
    let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let mut caches = Vec::new();
    for _ in 0..CACHES {
        let address = Address { url: told.store.as_str().into(), sentinel: None, tls: Tls::default() };
        let shelf = Shelf::fleet(Store::new(&address, redis::Options::default())?);
        let endpoint = Loud(TokenEndpoint::new(http.clone(), Duration::from_secs(30)));
        let keyring = Keyring::from_files([&told.keyring])?;
        caches.push(Arc::new(Cache::new(shelf, endpoint, SystemClock::default(), keyring)));
    }
    let mut identities = Vec::new();
    for (tenant, client, secret) in &told.accounts {
        identities.push(Identity {
            authority: told.authority.parse()?,
            tenant: tenant.clone(),
            version: EndpointVersion::V1,
            client_id: client.clone(),
            credential: Credential::Secret(secret.as_str().into()),
            audience: "https://manage.devcenter.microsoft.com".to_owned(),
        });
    }
    tell("ready")?;
    lines.line().await.context("nobody said when to begin")?;
    let work = async {
        let asked = caches.iter().flat_map(|cache| identities.iter().map(move |identity| (cache, identity)));
        let got = join_all(asked.map(|(cache, identity)| cache.token(identity, PATIENCE))).await;
        let count = got.iter().filter(|token| token.is_ok()).count();
        tell(&format!("has {count}"))
    };
    lines.until_alone(work).await
}

pub(crate) async fn run() -> Result<()> {
    let bed = Bed::new().await?;
    let sandbox = bed::sandbox(&bed.path(""), &ACCOUNTS).await?;
    // Kinder to nobody: every request is under way for a while, so that many could be at once.
    slow(&sandbox, 1.0)?;
    let begun = clock::monotonic();
    let processes = start(&bed, &sandbox).await?;
    finish(processes).await?;
    let seconds = begun.elapsed().as_secs_f64();
    told(
        &sandbox,
        &format!(
            "cold, {PROCESSES} processes with {CACHES} caches: all had all {} tokens in {seconds:.1} s",
            ACCOUNTS.len()
        ),
        0,
    );
    sandbox.stop().await;

    bed.redis.flush();
    let sandbox = bed::sandbox(&bed.path(""), &ACCOUNTS).await?;
    slow(&sandbox, 1.0)?;
    let begun = clock::monotonic();
    let mut processes = start(&bed, &sandbox).await?;
    let mut kills = 0;
    while kills < KILLS {
        let first = bed::client_id(0);
        let asking = asks(&mut processes, &first).await?;
        processes.swap_remove(asking).kill().await?;
        kills += 1;
    }
    finish(processes).await?;
    let seconds = begun.elapsed().as_secs_f64();
    told(&sandbox, &format!("the same, {KILLS} processes killed in a request for the first: {seconds:.1} s"), KILLS);
    sandbox.stop().await;
    Ok(())
}

fn slow(sandbox: &Sandbox, seconds: f64) -> Result<()> {
    let params = Params { seconds: Some(seconds), ..Params::default() };
    let fault = Fault { count: None, params, ..Fault::next("token", FaultKind::Slow) };
    sandbox.fault(fault)?;
    Ok(())
}

async fn start(bed: &Bed, sandbox: &Sandbox) -> Result<Vec<Role>> {
    bed.configuration(sandbox, "")?;
    let accounts = ACCOUNTS.iter().enumerate().map(|(number, name)| -> Result<_> {
        let secret = fs::read_to_string(bed.path(&format!("{name}.secret")))?;
        Ok((bed::tenant_id(number), bed::client_id(number), secret))
    });
    let told = Tokens {
        store: bed.redis.url(),
        keyring: bed.path("seal-key"),
        authority: sandbox.url(),
        accounts: accounts.collect::<Result<_>>()?,
    };
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        let mut process = Role::start("tokens", &told)?;
        process.heard("ready").await?;
        processes.push(process);
    }
    for process in &mut processes {
        process.tell("go").await?;
    }
    Ok(processes)
}

/// Waits until a process asks for a token of this client; its place.
async fn asks(processes: &mut [Role], client: &str) -> Result<usize> {
    let asking = format!("asks {client}");
    let mut heard = processes.iter_mut().enumerate().map(|(place, process)| {
        let asking = &asking;
        Box::pin(async move {
            while process.line().await? != *asking {}
            anyhow::Ok(place)
        })
    });
    let heard: Vec<_> = heard.by_ref().collect();
    futures_util::future::select_ok(heard).await.map(|(place, _)| place)
}

async fn finish(processes: Vec<Role>) -> Result<()> {
    for mut process in processes {
        let has = async {
            loop {
                let line = process.line().await?;
                if let Some(count) = line.strip_prefix("has ") {
                    ensure!(count.parse() == Ok(CACHES * ACCOUNTS.len()), "a process has {count} tokens");
                    return Ok(());
                }
            }
        };
        timeout(PATIENCE, has).await.context("a process has not all its tokens")??;
    }
    Ok(())
}

fn told(sandbox: &Sandbox, what: &str, kills: u64) {
    say(what);
    let verdict_of = sandbox.verdict();
    for key in verdict_of.get("tokens").and_then(Value::as_array).into_iter().flatten() {
        let requests = key.get("requests").and_then(Value::as_u64).unwrap_or_default();
        let client = key.get("client_id").and_then(Value::as_str).unwrap_or_default();
        let bound = 1 + if client == bed::client_id(0) { kills } else { 0 };
        say(&format!("  client {client}: {requests} token requests   bound {bound}: {}", verdict(requests <= bound)));
    }
}
