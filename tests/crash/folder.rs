//! One cell's own world: a folder with home, package, logs and configuration, a sandbox, and the job.

use std::{
    fs,
    io::{self, Cursor, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use longshore::{
    app::settings,
    clock,
    config::{self, Surroundings},
    domain::{ids::Sha256, job::Job, ticket::Ticket},
    embedded::{Accepted, Embedded},
    package::cabinet::{self, NewFile},
    sandbox::{Account, Options, Sandbox},
};
use secrecy::ExposeSecret as _;
use serde_json::json;
use url::Url;

use crate::run_folder;

const ACCOUNT: &str = "sandbox";
const TENANT: &str = "11111111-2222-4333-8444-555555555555";
const CLIENT: &str = "66666666-7777-4888-8999-aaaaaaaaaaaa";
/// A step of the service's workflow: the first poll comes before its end, the second behind it.
const STEP: Duration = Duration::from_millis(60);
/// Bytes of the driver's binary: one request carries it.
const BINARY: u64 = 64 << 10;

/// One cell's world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) root: PathBuf,
    pub(crate) sandbox: Sandbox,
    pub(crate) home: Embedded,
    pub(crate) configuration: Vec<PathBuf>,
    /// The job's ticket as it was handed in.
    pub(crate) ticket: Ticket,
    /// Of its package.
    pub(crate) sha256: Sha256,
}

impl World {
    /// Makes everything in an empty folder and hands the job in.
    pub(crate) async fn make(root: &Path, name: &str) -> Self {
        for part in ["home", "out", "sandbox"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        let sandbox = Sandbox::start(options(root)).await.unwrap();
        let configuration = configure(root, &sandbox);
        let surroundings = Surroundings { folder: root.to_owned(), ..Surroundings::default() };
        let loaded = config::load_in(&surroundings, &configuration).unwrap();
        let home = Embedded::open(settings::home(&loaded)).unwrap();
        let sha256 = build(root, name);
        let job = Job::decode(job(root, name).as_bytes(), || None).unwrap();
        let hash = job.content_hash();
        let ticket = Ticket::new(job, hash, None, clock::moment());
        assert_eq!(home.accept(ticket.clone()).await.unwrap(), Accepted::New);
        Self { root: root.to_owned(), sandbox, home, configuration, ticket, sha256 }
    }

    /// What was handed out and made in this cell, for the search at the end of the run.
    pub(crate) fn register_secrets(&self) -> io::Result<()> {
        run_folder::register_home(&self.root.join("home"))?;
        let handed_out = self.sandbox.handed_out();
        handed_out.iter().try_for_each(|signature| run_folder::register_secret(signature.expose_secret().as_bytes()))
    }

    pub(crate) fn cabinet(&self) -> PathBuf {
        self.root.join(CABINET)
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.root.join("out")
    }
}

const CABINET: &str = "driver.cab";

/// A service that works fast and is otherwise as the contract says.
fn options(root: &Path) -> Options {
    let secret = clock::random_bytes::<24>().map(|byte| format!("{byte:02x}")).concat();
    let path = root.join("secret");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(secret.as_bytes()).unwrap();
    run_folder::register_secret(secret.as_bytes()).unwrap();
    run_folder::by_design(&path).unwrap();
    run_folder::by_design(&root.join("sandbox")).unwrap();
    let mut account = Account::new(ACCOUNT, TENANT, CLIENT).with_secret(&secret);
    account.secret_reference = Some(format!("file:{}", path.display()));
    Options { data_dir: Some(root.join("sandbox")), step_duration: STEP, accounts: vec![account], ..Options::default() }
}

fn configure(root: &Path, sandbox: &Sandbox) -> Vec<PathBuf> {
    let quoted = |part: &str| json!(root.join(part)).to_string();
    let own = format!(
        "{}\n[home]\ndata_dir = {}\n\n[sources]\nroots = [{}]\n\n[sinks]\nroots = [{}]\n",
        sandbox.overlay(),
        quoted("home"),
        quoted(""),
        quoted("out"),
    );
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    vec![write("sandbox.toml", config::SANDBOX), write("cell.toml", &own)]
}

/// A real cabinet: an INF and a binary that no other cell has.
fn build(root: &Path, name: &str) -> Sha256 {
    let inf = [
        "[Version]",
        "Signature   = \"$WINDOWS NT$\"",
        "Class       = Net",
        "ClassGuid   = {4d36e972-e325-11ce-bfc1-08002be10318}",
        "Provider    = %Provider%",
        "CatalogFile = crash.cat",
        "DriverVer   = 11/21/2026,2.4.1.0",
        "PnpLockdown = 1",
        "",
        "[Manufacturer]",
        "%Provider% = Models,NTamd64",
        "",
        "[Models.NTamd64]",
        &format!("%Device% = Install, CRASH\\{name}"),
        "",
        "[Install]",
        "CopyFiles = Files",
        "",
        "[Files]",
        "crash.sys",
        "",
        "[Strings]",
        "Provider = \"Contoso\"",
        &format!("Device   = \"Contoso {name}\""),
        "",
    ]
    .join("\r\n");
    let binary = Cursor::new(format!("MZ {name}").into_bytes()).chain(std::io::repeat(0x5a).take(BINARY));
    let file = |name: &str, content| NewFile { path: format!("crash/{name}"), content };
    let files = vec![file("crash.inf", Box::new(Cursor::new(inf)) as _), file("crash.sys", Box::new(binary) as _)];
    let path = root.join(CABINET);
    cabinet::write(files, &path).unwrap();
    Sha256::of(&fs::read(&path).unwrap())
}

/// The job as a build system would write it.
fn job(root: &Path, name: &str) -> String {
    json!({
        "id": name,
        "kind": "submission",
        "account": ACCOUNT,
        "deadline": "10m",
        "spec": {
            "package": { "source": Url::from_file_path(root.join(CABINET)).unwrap() },
            "product": { "create": {
                "productName": format!("Contoso {name}"),
                "testHarness": "attestation",
                "deviceType": "internalExternal",
                "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
            } },
            "submission": { "create": { "name": "crash 2.4.1", "type": "initial" } },
            "download": { "to": Url::from_directory_path(root.join("out")).unwrap(), "kinds": ["signedPackage"] },
        },
    })
    .to_string()
}
