//! A part of the servers for one test alone, by names of its own, and the program run on it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use longshore::clock;
use serde_json::Value;

use crate::{
    run_folder,
    servers::{RabbitMq, Redis},
};

/// How long something may take that must come.
const PATIENCE: Duration = Duration::from_secs(90);

/// A run of the program, ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Fails with all that was printed when the code is another one.
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Its stdout as one JSON document.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }
}

/// One test's own part of the broker, and its own memory.
pub(crate) struct Place {
    pub(crate) broker: Arc<RabbitMq>,
    pub(crate) redis: Redis,
    pub(crate) prefix: String,
    folder: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = run_folder::folder_of_this_test("fleet").unwrap();
        let broker = RabbitMq::shared(&run_folder::root().join(format!("rabbitmq-{}", std::process::id())));
        let redis = Redis::start(&folder.join("redis"));
        let prefix = format!("fleet{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let secret = folder.join("secret");
        std::fs::write(&secret, "not looked at by anybody").unwrap();
        let own = format!(
            "[home]\nbroker = \"env:TEST_BROKER\"\nstore = \"env:TEST_STORE\"\ndata_dir = \"home\"\n\
             [topology]\nprefix = {prefix:?}\n[worker]\nlisten = \"127.0.0.1:0\"\n\
             [security]\nkeys = [\"file:key\"]\n[sources]\nroots = []\n[sinks]\nroots = []\n\
             [accounts.contoso]\ntenant_id = \"11111111-2222-4333-8444-555555555555\"\n\
             client_id = \"66666666-7777-4888-8999-aaaaaaaaaaaa\"\ncredential = {{ secret = \"file:secret\" }}\n"
        );
        std::fs::write(folder.join("own.toml"), own).unwrap();
        // 32 bytes in Base64.
        std::fs::write(folder.join("key"), format!("{}=\n", "A".repeat(43))).unwrap();
        Self { broker, redis, prefix, folder }
    }

    /// A name below this test's prefix.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}.{rest}.v1", self.prefix)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LONGSHORE") || name.contains("PROXY")) {
            command.env_remove(name);
        }
        for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(name, &self.folder);
        }
        command.env("TEST_BROKER", url).env("TEST_STORE", self.redis.url()).env("NO_COLOR", "1").env("LC_ALL", "C");
        command.current_dir(&self.folder).args(["--config", "own.toml"]).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs it with admin rights.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_as(&self.broker.url(), arguments)
    }

    /// Runs it as the user of this URL.
    pub(crate) fn run_as(&self, url: &str, arguments: &[&str]) -> Ran {
        let output = self.command(url, arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("the program prints UTF-8");
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Starts a worker as the user of this URL.
    pub(crate) fn worker_as(&self, url: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(url, &["worker"]);
        let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let read = BufReader::new(child.stderr.take().unwrap());
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || read.lines().map_while(Result::ok).try_for_each(|read| line.send(read)));
        let mut running = Running { child, address: String::new(), lines };
        let told = running.says("health http://");
        told.split_once("health http://").unwrap().1.trim().clone_into(&mut running.address);
        running
    }

    /// A user for workers of this test, with no right to configure; its URL.
    pub(crate) fn user_of_workers(&self) -> String {
        let (write, read) =
            (format!(r"^{}\.(out|delay|dead|events)\.v1$", self.prefix), format!(r"^{}\.w\.", self.prefix));
        self.broker.user(&format!("worker-{}", self.prefix), ["^$", &write, &read])
    }

    /// A field of the birth mark.
    pub(crate) fn birth(&self, field: &str) -> String {
        self.redis.cli(&["HGET", &format!("{}:born", self.prefix), field])
    }

    /// A channel to the broker, with admin rights.
    pub(crate) async fn channel(&self) -> (lapin::Connection, lapin::Channel) {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&self.broker.url(), properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }
}

/// A worker of its own process, killed at the end of its test.
pub(crate) struct Running {
    child: Child,
    address: String,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Reads what it says until a line holds this text; that line.
    pub(crate) fn says(&mut self, text: &str) -> String {
        let begun = clock::monotonic();
        let mut said = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
            if line.contains(text) {
                return line;
            }
            said.push(line);
        }
        panic!("it did not say {text:?}: {}", said.join("\n"));
    }

    /// Waits until `/readyz` answers so: status, and a text in its body.
    pub(crate) fn is_ready_with(&self, status: u16, text: &str) {
        let begun = clock::monotonic();
        loop {
            let answer = self.ready();
            if answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not {status} with {text:?} in time: {answer}");
            std::thread::yield_now();
        }
    }

    fn ready(&self) -> String {
        let mut answer = String::new();
        let Ok(mut stream) = TcpStream::connect(&self.address) else { return answer };
        let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        asked.and_then(|()| stream.read_to_string(&mut answer)).map_or_else(|_| String::new(), |_| answer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed any more.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
