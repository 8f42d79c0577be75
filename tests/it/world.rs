//! A sandbox, a home and a configuration of one test's own, and the program run on them.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use assert_cmd::Command;
use longshore::{
    clock, config,
    package::cabinet::{self, NewFile},
    sandbox::{Account, Fault, Options, Sandbox},
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::run_folder;

/// A run of the program, ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program prints UTF-8");
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Its stdout as one JSON document.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }

    /// Fails with all that was printed when the code is another one.
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

/// A folder below the run's own; it stays.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// This test's own.
    pub(crate) fn of_this_test(kind: &str) -> Self {
        Self(run_folder::folder_of_this_test(kind).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) folder: Folder,
    /// The account's.
    secret: String,
    /// Of the runs so far; what each printed is kept, and searched for secrets.
    runs: AtomicU32,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    /// A fast sandbox and the configuration for it.
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = Folder::of_this_test("it");
        // Characters that a form has to encode, so that every form of it can be told apart.
        let secret = format!("{}~+/=&%", clock::uuid_v4().simple());
        run_folder::register_secret(secret.as_bytes()).unwrap();
        for name in ["builds", "signed"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let secret_file = folder.path().join("secret");
        std::fs::write(&secret_file, &secret).unwrap();
        run_folder::by_design(&secret_file).unwrap();
        let mut account =
            Account::new("contoso", "11111111-2222-4333-8444-555555555555", "66666666-7777-4888-8999-aaaaaaaaaaaa")
                .with_secret(&secret);
        account.secret_reference = Some(format!("file:{}", secret_file.display()));
        let options =
            Options { step_duration: Duration::from_millis(20), accounts: vec![account], ..Options::default() };
        let sandbox = runtime.block_on(Sandbox::start(options)).unwrap();
        let world = Self { sandbox, folder, secret, runs: AtomicU32::new(0), _runtime: runtime };
        std::fs::write(world.path("waits.toml"), config::SANDBOX).unwrap();
        let roots = |name: &str| format!("[{}]", Value::from(world.path(name).display().to_string()));
        let own = format!(
            "{}\n[home]\ndata_dir = \"home\"\n[sources]\nroots = {}\n[sinks]\nroots = {}\n",
            world.sandbox.overlay(),
            roots("builds"),
            roots("signed"),
        );
        std::fs::write(world.path("own.toml"), own).unwrap();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, with no configuration but the given one, and nothing of the person who runs the test.
    pub(crate) fn bare(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("longshore"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LONGSHORE") || name.contains("PROXY")) {
            command.env_remove(name);
        }
        command.current_dir(self.folder.path());
        for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(name, self.folder.path());
        }
        command.timeout(Duration::from_secs(120));
        command
    }

    /// Runs it on the sandbox.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "")
    }

    /// The same, with this on its stdin.
    pub(crate) fn run_with(&self, arguments: &[&str], stdin: &str) -> Ran {
        let mut command = self.command(arguments);
        command.write_stdin(stdin);
        self.ran(command)
    }

    /// The program on the sandbox, to be told more before it runs.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare();
        command.args(["--config", "waits.toml", "--config", "own.toml"]);
        if self.path("more.toml").exists() {
            command.args(["--config", "more.toml"]);
        }
        command.args(arguments);
        command
    }

    /// Puts the account's own secret back where the configuration looks for it.
    pub(crate) fn mend_secret(&self) {
        std::fs::write(self.path("secret"), &self.secret).unwrap();
    }

    /// Adds a table to the configuration.
    pub(crate) fn set(&self, table: &str) {
        let mut file = std::fs::File::options().append(true).open(self.path("own.toml")).unwrap();
        writeln!(file, "\n{table}").unwrap();
    }

    /// The end of a run; what it printed is kept for the search, and is searched for the account's secret at once.
    pub(crate) fn ran(&self, mut command: Command) -> Ran {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let ran = Ran::of(command.output().unwrap());
        for (name, text) in [("out", &ran.out), ("err", &ran.err)] {
            std::fs::write(self.path(&format!("{number:03}.{name}")), text).unwrap();
            assert!(!text.contains(&self.secret), "std{name} holds the account's secret: {text}");
        }
        ran
    }

    /// Runs it as it is, without a configuration.
    pub(crate) fn run_bare(&self, arguments: &[&str]) -> Ran {
        let mut command = self.bare();
        command.args(arguments);
        self.ran(command)
    }

    /// A real cabinet below the sources' root.
    pub(crate) fn cabinet(&self, name: &str) -> PathBuf {
        let path = self.path("builds").join(name);
        write_cabinet(&path);
        path
    }

    /// A job that can be handed in.
    pub(crate) fn job(&self, id: &str) -> Value {
        let cabinet = self.cabinet(&format!("{id}.cab"));
        json!({
            "id": id,
            "kind": "submission",
            "account": "contoso",
            "spec": {
                "package": { "source": url::Url::from_file_path(cabinet).unwrap() },
                "product": { "create": {
                    "productName": format!("Product of {id}"),
                    "testHarness": "attestation",
                    "deviceType": "internalExternal",
                    "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
                } },
                "submission": { "create": { "name": id, "type": "initial" } },
                "download": { "to": url::Url::from_directory_path(self.path("signed")).unwrap() },
            },
        })
    }

    /// Hands a job in on stdin.
    pub(crate) fn submit(&self, job: &Value, flags: &[&str]) -> Ran {
        let arguments: Vec<&str> = ["submit", "-"].iter().chain(flags).copied().collect();
        self.run_with(&arguments, &job.to_string())
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.sandbox.fault(fault).unwrap();
    }

    /// Nothing was stored here, nothing was called there.
    pub(crate) fn assert_untouched(&self, case: &str) {
        let jobs = self.run(&["job", "list"]).ended(0).json();
        assert_eq!(jobs["jobs"], json!([]), "{case}: something was stored");
        assert_eq!(self.sandbox.journal(), json!([]), "{case}: something was called");
        let left: Vec<_> = std::fs::read_dir(self.path("signed")).unwrap().collect();
        assert!(left.is_empty(), "{case}: something was written: {left:?}");
    }
}

impl Drop for World {
    /// What this test's sandbox handed out and its homes made, for the search at the end of the run.
    fn drop(&mut self) {
        let handed_out = self.sandbox.handed_out();
        let registered = handed_out
            .iter()
            .try_for_each(|signature| run_folder::register_secret(signature.expose_secret().as_bytes()))
            .and_then(|()| run_folder::register_home(&self.path("home")));
        if !std::thread::panicking() {
            registered.unwrap();
        }
    }
}
/// An INF file that passes preflight.
pub(crate) const INF: &[u8] = b"[Version]\r\nSignature=\"$Windows NT$\"\r\nClass=Net\r\nProvider=%C%\r\n\
    DriverVer=11/21/2026,1.0.0.0\r\n[Manufacturer]\r\n%C%=C,NTamd64\r\n[Strings]\r\nC=\"Contoso\"\r\n";

/// A cabinet that passes preflight.
pub(crate) fn write_cabinet(path: &Path) {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let binary = [b"MZ".as_slice(), name.as_bytes()].concat();
    let files = vec![
        NewFile { path: "nic/nic.inf".into(), content: Box::new(INF) },
        NewFile { path: "nic/nic.sys".into(), content: Box::new(std::io::Cursor::new(binary)) },
    ];
    cabinet::write(files, path).unwrap();
}

/// A worker of its own process, killed at the end of its test at the latest.
pub(crate) struct Running {
    child: std::process::Child,
    address: String,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStderr>>,
}

impl World {
    /// Starts a worker and waits until it says where its probes are answered.
    pub(crate) fn worker(&self) -> Running {
        self.worker_of(&[])
    }

    /// The same for these kinds alone; all of them when none is named.
    pub(crate) fn worker_of(&self, kinds: &[&str]) -> Running {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("longshore"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LONGSHORE") || name.contains("PROXY")) {
            command.env_remove(name);
        }
        for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(name, self.folder.path());
        }
        command.current_dir(self.folder.path()).args(["--config", "waits.toml", "--config", "own.toml"]);
        if self.path("more.toml").exists() {
            command.args(["--config", "more.toml"]);
        }
        command.args(["worker", "--listen", "127.0.0.1:0"]);
        if !kinds.is_empty() {
            command.args(["--kinds", &kinds.join(",")]);
        }
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        let told =
            lines.find_map(|line| line.unwrap().split_once("health http://").map(|(_, at)| at.trim().to_owned()));
        Running { child, address: told.expect("the worker says where it listens"), lines }
    }

    /// Waits until the workers have completed a job; works nothing itself, as `job watch` would.
    pub(crate) fn completes(&self, id: &str) {
        until("the job is completed", || self.run(&["job", "show", id]).ended(0).json()["state"] == "completed");
    }

    /// Has the service heard of this operation?
    pub(crate) fn was_called(&self, operation: &str) -> bool {
        self.sandbox.journal().as_array().unwrap().iter().any(|line| line["operation"] == operation)
    }
}

/// Waits for what must come.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = longshore::clock::monotonic();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it did not come within a minute: {what}");
        std::thread::yield_now();
    }
}

impl Running {
    /// Status line and body of a probe; empty when nobody answers any more.
    pub(crate) fn probe(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut answer = String::new();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let Ok(mut stream) = std::net::TcpStream::connect(&self.address) else { return answer };
        let asked = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
        asked.map_or_else(|_| String::new(), |_| answer)
    }

    /// Does this probe answer with this status?
    pub(crate) fn says(&self, path: &str, status: u16) -> bool {
        self.probe(path).starts_with(&format!("HTTP/1.1 {status} "))
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let told = std::process::Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
    }

    /// Waits for its end: exit code, and what it said since its start.
    pub(crate) fn ended(mut self) -> (i32, String) {
        let said: Vec<String> = self.lines.by_ref().map_while(Result::ok).collect();
        (self.child.wait().unwrap().code().unwrap_or(-1), said.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
