//! Packages and jobs, and the producer that hands them in.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use longshore::{
    clock,
    domain::ids::{AccountName, JobId, JobKey, Sha256},
    package::cabinet::{self, NewFile},
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use url::Url;

use super::Account;

/// No broker is away for longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// One driver: its package on disk and its job.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) key: JobKey,
    pub(crate) is_marked: bool,
    pub(crate) sha256: Sha256,
    pub(crate) cabinet: PathBuf,
    body: String,
    is_handed_in: AtomicBool,
}

impl Driver {
    pub(super) fn build(number: usize, account: &Account, arena: &str, root: &Path) -> Result<Self> {
        let name = format!("{}-{number:03}", arena.replace('/', "-"));
        let key = JobKey { account: AccountName::parse(&account.name)?, id: JobId::parse(&name)? };
        let cabinet = root.join("cabinets").join(format!("{name}.cab"));
        let binary = [b"MZ".as_slice(), name.as_bytes(), &[0x5a; 4 << 10]].concat();
        let files = vec![
            NewFile { path: "nic/nic.inf".into(), content: Box::new(Cursor::new(inf(&name))) },
            NewFile { path: "nic/nic.sys".into(), content: Box::new(Cursor::new(binary)) },
        ];
        cabinet::write(files, &cabinet)?;
        let sha256 = Sha256::of(&fs::read(&cabinet)?);
        let full = |path: &Path| anyhow!("{} is no full path", path.display());
        let source = Url::from_file_path(&cabinet).map_err(|()| full(&cabinet))?;
        let signed = root.join("signed");
        let to = Url::from_directory_path(&signed).map_err(|()| full(&signed))?;
        let body = json!({
            "id": key.id,
            "kind": "submission",
            "account": key.account,
            "deadline": "30m",
            "spec": {
                "package": { "source": source, "sha256": sha256 },
                "product": { "create": {
                    "productName": format!("Contoso {name}"),
                    "testHarness": "attestation",
                    "deviceType": "internalExternal",
                    "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
                } },
                "submission": { "create": { "name": name, "type": "initial" } },
                "download": { "to": to, "kinds": ["signedPackage"], "overwrite": true },
            },
        });
        let is_handed_in = AtomicBool::new(false);
        Ok(Self { key, is_marked: account.is_marked, sha256, cabinet, body: body.to_string(), is_handed_in })
    }

    pub(super) fn is_handed_in(&self) -> bool {
        self.is_handed_in.load(Ordering::Relaxed)
    }

    /// The job as its producer writes it.
    pub(crate) fn body(&self) -> &str {
        &self.body
    }
}

fn inf(name: &str) -> Vec<u8> {
    let text = format!(
        "[Version]\nSignature=\"$Windows NT$\"\nClass=Net\nProvider=%C%\nDriverVer=11/21/2026,1.0.0.0\n[Manufacturer]\n\
         %C%=C,NTamd64\n[Strings]\nC=\"Contoso {name}\"\n"
    );
    text.replace('\n', "\r\n").into_bytes()
}

/// Publishes each job until the broker has confirmed it. A copy is the same job.
pub(super) async fn hand_in(url: &str, exchange: &str, jobs: &[Arc<Driver>]) -> Result<()> {
    let begun = clock::monotonic();
    let mut tries = interval(Duration::from_millis(500));
    tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tries.tick().await;
        let publishing = tokio::time::timeout(Duration::from_secs(10), publish(url, exchange, jobs)).await;
        match publishing {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => ensure!(begun.elapsed() < PATIENCE, "jobs could not be handed in: {error:#}"),
            Err(_) => ensure!(begun.elapsed() < PATIENCE, "jobs could not be handed in: the broker does not answer"),
        }
    }
}

async fn publish(url: &str, exchange: &str, jobs: &[Arc<Driver>]) -> Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for job in jobs.iter().filter(|job| !job.is_handed_in()) {
        let seconds = u64::try_from(clock::moment().as_millis() / 1_000).context("a time before 1970")?;
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(job.key.id.to_string().into())
            .with_timestamp(seconds)
            .with_user_id("guest".into());
        let (options, body) = (BasicPublishOptions::default(), job.body.as_bytes());
        let sent = channel.basic_publish(exchange.into(), "submission".into(), options, body, properties).await?;
        ensure!(sent.await?.is_ack(), "the broker refused a job");
        job.is_handed_in.store(true, Ordering::Relaxed);
    }
    Ok(())
}
