//! What sandbox and workers are told.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use longshore::{
    clock, config,
    sandbox::{self, Sandbox},
    seal::Keyring,
};
use serde_json::json;

use super::{Account, Memory, Options, Proxy};
use crate::{run_folder, servers::RabbitMq};

/// What every name at broker and memory begins with.
pub(super) const PREFIX: &str = "longshore";

/// Files of the workers, and of whoever goes past the proxy.
pub(super) struct Files {
    pub(super) workers: Vec<PathBuf>,
    pub(super) direct: Vec<PathBuf>,
}

fn secret_of(root: &Path, account: &Account) -> PathBuf {
    root.join(format!("{}.secret", account.name))
}

/// A service that works fast.
pub(super) fn sandbox(root: &Path, options: &Options, accounts: &[Account]) -> Result<sandbox::Options> {
    for part in ["cabinets", "signed", "logs", "sandbox", "home"] {
        fs::create_dir_all(root.join(part))?;
    }
    run_folder::by_design(&root.join("sandbox"))?;
    let mut known = Vec::new();
    for (number, account) in accounts.iter().enumerate() {
        let secret = clock::random_bytes::<24>().map(|byte| format!("{byte:02x}")).concat();
        let path = secret_of(root, account);
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        fs::write(&path, &secret)?;
        run_folder::register_secret(secret.as_bytes())?;
        run_folder::by_design(&path)?;
        let id = |first: &str| format!("{first}-2222-4333-8444-{number:012}");
        let mut one = sandbox::Account::new(&account.name, &id("11111111"), &id("66666666")).with_secret(&secret);
        one.secret_reference = Some(format!("file:{}", path.display()));
        known.push(one);
    }
    Ok(sandbox::Options {
        seed: options.seed,
        data_dir: Some(root.join("sandbox")),
        step_duration: Duration::from_millis(300),
        list_lag: options.list_lag,
        accounts: known,
        ..sandbox::Options::default()
    })
}

/// Writes everything that the program is told: waits of the sandbox's overlay, everything below 16 s.
pub(super) fn write(
    root: &Path,
    options: &Options,
    (sandbox, memory, accounts): (&Sandbox, &Memory, &[Account]),
    (broker, proxy): (&RabbitMq, &Proxy),
) -> Result<Files> {
    let proxied = format!("amqp://guest:guest@127.0.0.1:{}/%2f", proxy.port);
    for (name, text) in [("broker-url", proxied), ("direct-url", broker.url()), ("redis-url", memory.url())] {
        fs::write(root.join(name), text)?;
    }
    let key = root.join("seal-key");
    Keyring::generate_file(&key)?;
    run_folder::by_design(&key)?;
    let quoted = |part: &str| json!(root.join(part)).to_string();
    let lease = options.lease.as_secs();
    let mut own = format!(
        "[home]\nbroker = \"file:broker-url\"\nstore = \"file:redis-url\"\ndata_dir = {home}\n\n\
         [topology]\nprefix = \"{PREFIX}\"\nkinds = [\"submission\"]\n\n[fleet]\nmax_workers = 4\n\n\
         [security]\nkeys = [\"file:seal-key\"]\n\n[sources]\nroots = [{cabinets}]\n\n[sinks]\nroots = [{signed}]\n\n\
         [worker]\nconcurrency = {concurrency}\nlease = \"{lease}s\"\npoison_after = 50\ndrain = \"20s\"\n\n\
         [rabbitmq]\nconnect_timeout = \"3s\"\nheartbeat = \"2s\"\nconfirm_timeout = \"3s\"\n\n\
         [redis]\nconnect_timeout = \"1s\"\nresponse_timeout = \"1s\"\n{sentinels}\n\
         [telemetry]\nformat = \"human\"\n\n{more}\n",
        home = quoted("home"),
        cabinets = quoted("cabinets"),
        signed = quoted("signed"),
        concurrency = options.concurrency,
        sentinels = memory.setting(),
        more = options.more,
    );
    for account in accounts.iter().filter(|account| account.is_marked) {
        writeln!(own, "[accounts.{}.markers]\nproducts = true\n", account.name)?;
    }
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        fs::write(root.join(name), text)?;
        Ok(root.join(name))
    };
    let workers = vec![
        file("waits.toml", config::SANDBOX)?,
        file("service.toml", &sandbox.overlay())?,
        file("fleet.toml", &own)?,
    ];
    let mut direct = workers.clone();
    direct.push(file("direct.toml", "[home]\nbroker = \"file:direct-url\"\n")?);
    Ok(Files { workers, direct })
}
