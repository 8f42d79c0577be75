//! The run's own folder and configuration.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use longshore::{
    clock, config,
    sandbox::{Account, Fault, FaultKind, Options, Params, Sandbox},
};

use super::{RATE, drivers::ACCOUNT, run_folder};

/// How long a token lives: renewed at half of it, so that renewals meet kills.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// The run's own folder.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    secret: String,
}

impl Folder {
    pub(crate) fn make() -> Result<Self> {
        let root = run_folder::folder("load")?;
        for name in ["cabinets", "signed", "logs", "sandbox", "home"] {
            fs::create_dir(root.join(name))?;
        }
        let secret = format!("{}{}", clock::uuid_v4().simple(), clock::uuid_v4().simple());
        let folder = Self { root, secret };
        fs::write(folder.secret_file(), &folder.secret)?;
        run_folder::register_secret(folder.secret.as_bytes())?;
        run_folder::by_design(&folder.secret_file())?;
        Ok(folder)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn secret_file(&self) -> PathBuf {
        self.root.join("secret")
    }

    /// A service that works fast.
    pub(crate) fn sandbox(&self, seed: u64) -> Options {
        let mut account =
            Account::new(ACCOUNT, "11111111-2222-4333-8444-555555555555", "66666666-7777-4888-8999-aaaaaaaaaaaa")
                .with_secret(&self.secret);
        account.secret_reference = Some(format!("file:{}", self.secret_file().display()));
        Options {
            seed,
            data_dir: Some(self.at("sandbox")),
            step_duration: Duration::from_secs(1),
            list_lag: Duration::from_millis(500),
            token_lifetime: TOKEN_LIFE,
            accounts: vec![account],
            ..Options::default()
        }
    }

    /// Writes the configuration: the sandbox's overlay, and where things lie.
    pub(crate) fn configure(&self, sandbox: &Sandbox) -> Result<Vec<PathBuf>> {
        let quoted = |name: &str| serde_json::Value::from(self.at(name).display().to_string()).to_string();
        let own = format!(
            "{}\n[home]\ndata_dir = {}\n\n[sources]\nroots = [{}]\n\n[sinks]\nroots = [{}]\n\n\
             [limits.hardware]\ncalls_per_minute = {}\n\n[transfer]\nsingle_shot = \"256KiB\"\nblock_size = \"256KiB\"\n",
            sandbox.overlay(),
            quoted("home"),
            quoted("cabinets"),
            quoted("signed"),
            RATE * 60,
        );
        let files = [("sandbox.toml", config::SANDBOX), ("load.toml", own.as_str())];
        files
            .map(|(name, text)| fs::write(self.at(name), text).map(|()| self.at(name)))
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(Into::into)
    }
}

/// The faults of the run: two in a hundred requests lose their answer, two are answered 5xx, one of these after the
/// operation took place. Three times the API refuses a good token.
pub(crate) fn arm(sandbox: &Sandbox) -> Result<()> {
    let always =
        |operation: &str, kind, probability| Fault { count: None, probability, ..Fault::next(operation, kind) };
    let executed = Params { executed: Some(true), ..Params::default() };
    sandbox.fault(always("*", FaultKind::LostAnswer, 0.02))?;
    sandbox.fault(always("*", FaultKind::Gateway500, 0.01))?;
    sandbox.fault(Fault { params: executed, ..always("*", FaultKind::Gateway500, 0.01) })?;
    for after in [300, 900, 1_500] {
        sandbox.fault(Fault { after, ..Fault::next("api", FaultKind::TokenExpiry) })?;
    }
    Ok(())
}
