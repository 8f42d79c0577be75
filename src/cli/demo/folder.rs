//! The demo's own folder: home, packages, logs, the sandbox's files. It goes when all went well.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::drivers::ACCOUNT;
use crate::{
    clock, config,
    sandbox::{Account, Options, Sandbox},
};

/// A step of the service's workflow.
const STEP: Duration = Duration::from_millis(350);
/// How long lists lag behind what was made: less than the first look waits.
const LIST_LAG: Duration = Duration::from_millis(500);
/// The tenant and the application of the demo's account.
const TENANT: &str = "11111111-2222-4333-8444-555555555555";
const CLIENT: &str = "66666666-7777-4888-8999-aaaaaaaaaaaa";

/// The demo's own folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    out: PathBuf,
    secret: SecretString,
    is_kept: bool,
}

impl Folder {
    /// Makes the folder, and the one for the signed packages.
    pub(super) fn make(out: &Path) -> Result<Self, String> {
        let root = std::env::temp_dir().join(format!("longshore-demo-{}", clock::uuid_v4().simple()));
        let secret = format!("{}{}", clock::uuid_v4().simple(), clock::uuid_v4().simple()).into();
        let cannot = |path: &Path, error: &std::io::Error| format!("{} cannot be made: {error}", path.display());
        for folder in ["cabinets", "logs", "home", "sandbox"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(|error| cannot(&folder, &error))?;
        }
        fs::create_dir_all(out).map_err(|error| cannot(out, &error))?;
        let out = out.canonicalize().map_err(|error| cannot(out, &error))?;
        let folder = Self { root, out, secret, is_kept: false };
        folder.write_secret().map_err(|error| cannot(&folder.secret_file(), &error))?;
        Ok(folder)
    }

    fn write_secret(&self) -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(self.secret_file())?.write_all(self.secret.expose_secret().as_bytes())
    }

    /// Where the account's secret lies, by design.
    pub(super) fn secret_file(&self) -> PathBuf {
        self.root.join("secret")
    }

    pub(super) const fn secret(&self) -> &SecretString {
        &self.secret
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn out(&self) -> &Path {
        &self.out
    }

    pub(super) fn cabinets(&self) -> PathBuf {
        self.root.join("cabinets")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Where the sandbox keeps blobs; whatever it holds is Microsoft's.
    pub(super) fn sandbox(&self) -> PathBuf {
        self.root.join("sandbox")
    }

    /// A service that works fast and is otherwise as the contract says.
    pub(super) fn sandbox_options(&self, told: Options) -> Options {
        let mut account = Account::new(ACCOUNT, TENANT, CLIENT).with_secret(self.secret.expose_secret());
        account.secret_reference = Some(format!("file:{}", self.secret_file().display()));
        Options {
            data_dir: Some(self.sandbox()),
            speed: 1.0,
            step_duration: STEP,
            list_lag: LIST_LAG.min(told.list_lag),
            accounts: vec![account],
            ..told
        }
    }

    /// Writes the configuration that the workers and this process share.
    pub(super) fn write_configuration(&self, sandbox: &Sandbox) -> Result<Vec<PathBuf>, String> {
        let quoted = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
        let own = format!(
            "{}\n[home]\ndata_dir = {}\n\n[sources]\nroots = [{}]\n\n[sinks]\nroots = [{}]\n\n\
             # Small blocks, so that a package of 8 MiB is sent in several.\n\
             [transfer]\nsingle_shot = \"1MiB\"\nblock_size = \"1MiB\"\nconcurrency = 1\n",
            sandbox.overlay(),
            quoted(&self.root.join("home")),
            quoted(&self.cabinets()),
            quoted(&self.out),
        );
        let write = |name: &str, text: &str| {
            let path = self.root.join(name);
            fs::write(&path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
            Ok::<_, String>(path)
        };
        Ok(vec![write("sandbox.toml", config::SANDBOX)?, write("demo.toml", &own)?])
    }

    /// Leaves the folder where it is.
    pub(super) const fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = fs::remove_dir_all(&self.root)
        {
            tracing::warn!(path = %self.root.display(), %error, "the demo's folder could not be removed");
        }
    }
}
