//! Real servers for tests: private, on free loopback ports, gone when the test process is.
//!
//! A server lives below a small shell that waits for the end of its standard input: when this process dies, by whatever
//! means, the shell stops the server by its process id.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
};

/// Where Debian has the broker's own programs; those on the PATH switch user and folder.
const RABBIT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What is printed when a server ends by itself.
const ENDED: &str = "the server has ended";

/// Stops its server when it is dropped.
#[derive(Debug)]
struct Running {
    shell: Child,
}

impl Running {
    /// Starts `script` and returns once it has printed a line with `ready`.
    fn start(script: &str, ready: &str) -> Self {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            match lines.next() {
                Some(Ok(line)) if line.contains(ready) => break,
                Some(Ok(line)) if line != ENDED => said.push(line),
                Some(_) | None => panic!("the server did not start: {}", said.join("\n")),
            }
        }
        // What it says from now on must not fill the pipe.
        std::thread::spawn(move || for _ in lines.map_while(Result::ok) {});
        Self { shell }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        drop(self.shell.wait());
    }
}

/// Sends a signal to the server of this folder.
fn signal(folder: &Path, name: &str) {
    let pid = fs::read_to_string(folder.join("pid")).unwrap();
    assert!(Command::new("kill").args([name, pid.trim()]).status().unwrap().success());
}

/// A private Redis.
#[derive(Debug)]
pub struct Redis {
    running: Option<Running>,
    folder: PathBuf,
    mode: &'static str,
    pub port: u16,
}

impl Redis {
    /// Is there one on this machine?
    pub fn is_installed() -> bool {
        Path::new("/usr/bin/redis-server").exists()
    }

    pub fn start(folder: &Path) -> Self {
        Self::with(folder, &[])
    }

    /// One with more settings, as `redis.conf` writes them. It saves nothing unless told.
    pub fn with(folder: &Path, settings: &[(&str, &str)]) -> Self {
        Self::set_up(folder, settings, "", "Ready to accept connections")
    }

    /// A Sentinel that watches the primary at this port, and asks one other of its kind for its opinion.
    pub fn sentinel(folder: &Path, name: &str, primary: u16) -> Self {
        let watched = format!("monitor {name} 127.0.0.1 {primary} 2");
        let settings = [
            watched,
            format!("down-after-milliseconds {name} 1000"),
            format!("failover-timeout {name} 3000"),
            format!("parallel-syncs {name} 1"),
        ];
        let settings: Vec<_> = settings.iter().map(|setting| ("sentinel", setting.as_str())).collect();
        Self::set_up(folder, &settings, "--sentinel", "+monitor")
    }

    fn set_up(folder: &Path, settings: &[(&str, &str)], mode: &'static str, ready: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let port = free_port();
        let mut conf = format!("port {port}\nbind 127.0.0.1\ndir {}\n", folder.display());
        if mode.is_empty() {
            conf.push_str("save \"\"\n");
        }
        for (name, value) in settings {
            conf.extend([name, " ", value, "\n"]);
        }
        fs::write(folder.join("redis.conf"), conf).unwrap();
        let mut this = Self { running: None, folder: folder.to_owned(), mode, port };
        this.run(ready);
        this
    }

    fn run(&mut self, ready: &str) {
        // The process id is forgotten with the process: nobody else's may be signalled.
        let script = format!(
            "cd '{folder}'
             {{ redis-server redis.conf {mode} & echo $! > pid; wait $!; rm pid; echo '{ENDED}'; }} &
             cat > /dev/null; if [ -f pid ]; then kill -CONT $(cat pid); kill $(cat pid); fi; wait",
            folder = self.folder.display(),
            mode = self.mode,
        );
        self.running = Some(Running::start(&script, ready));
    }

    /// Starts it on the same port, after [`Self::stop`] or [`Self::kill`].
    pub fn start_again(&mut self) {
        self.run("Ready to accept connections");
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        self.running = None;
    }

    fn signal(&self, name: &str) {
        signal(&self.folder, name);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.running = None;
    }

    /// Neither answers nor closes anything, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What its own command line says.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let said = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments).output().unwrap();
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }

    /// `FLUSHALL`: everything is forgotten, and no id changes.
    pub fn flush(&self) {
        assert_eq!(self.cli(&["FLUSHALL"]), "OK");
    }

    /// All its keys.
    pub fn keys(&self) -> Vec<String> {
        self.cli(&["KEYS", "*"]).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// The keys that would stay for ever.
    pub fn endless_keys(&self) -> Vec<String> {
        let script = "local found = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
                      if redis.call('PTTL', key) < 0 then table.insert(found, key) end end return found";
        self.cli(&["EVAL", script, "0"]).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

/// A private RabbitMQ.
#[derive(Debug)]
pub struct RabbitMq {
    running: Option<Running>,
    pub port: u16,
    dist: u16,
    epmd: u16,
    folder: PathBuf,
}

impl RabbitMq {
    /// Is there one on this machine?
    pub fn is_installed() -> bool {
        Path::new(RABBIT).exists()
    }

    pub fn start(folder: &Path) -> Self {
        for part in ["mnesia", "log", "home"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let (port, dist, epmd) = (free_port(), free_port(), free_port());
        fs::write(folder.join("enabled_plugins"), "[].\n").unwrap();
        fs::write(
            folder.join("rabbitmq.conf"),
            format!(
                "listeners.tcp.1 = 127.0.0.1:{port}\nvm_memory_high_watermark.absolute = 1GB\n\
                 disk_free_limit.absolute = 50MB\nlog.console = false\n"
            ),
        )
        .unwrap();
        let mut this = Self { running: None, port, dist, epmd, folder: folder.to_owned() };
        this.start_again();
        this
    }

    /// Starts it in its folder, on its ports, after [`Self::stop`] or [`Self::kill`].
    pub fn start_again(&mut self) {
        let Self { port, dist, epmd, folder, .. } = self;
        let script = format!(
            "cd '{folder}'; export HOME=$PWD/home ERL_EPMD_PORT={epmd} ERL_EPMD_ADDRESS=127.0.0.1
             export RABBITMQ_NODENAME=longshore{port}@localhost RABBITMQ_NODE_PORT={port} RABBITMQ_DIST_PORT={dist}
             export RABBITMQ_MNESIA_BASE=$PWD/mnesia RABBITMQ_LOG_BASE=$PWD/log
             export RABBITMQ_CONFIG_FILE=$PWD/rabbitmq.conf RABBITMQ_ENABLED_PLUGINS_FILE=$PWD/enabled_plugins
             export RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_PID_FILE=$PWD/pid
             export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {{127,0,0,1}}'
             umask 077; if [ ! -f home/.erlang.cookie ]; then
               head -c 32 /dev/urandom | base64 | tr -d '+/=\\n' > home/.erlang.cookie; chmod 400 home/.erlang.cookie; fi
             epmd -port {epmd} -address 127.0.0.1 < /dev/null > log/epmd 2>&1 & epmd=$!
             {RABBIT} < /dev/null > log/stdout & server=$!
             {CONTROL} -q -n $RABBITMQ_NODENAME wait --timeout 90 pid > /dev/null && echo ready
             cat > /dev/null; if [ -f pid ]; then kill -CONT $(cat pid); kill $(cat pid); fi; wait $server; rm -f pid; kill $epmd",
            folder = folder.display(),
        );
        self.running = Some(Running::start(&script, "ready"));
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// `kill -9`. A quorum queue declared less than about a second before does not survive it.
    pub fn kill(&mut self) {
        signal(&self.folder, "-KILL");
        // The process id is forgotten with the process: nobody else's may be signalled.
        fs::remove_file(self.folder.join("pid")).unwrap();
        self.running = None;
    }

    /// Neither answers nor closes anything, until [`Self::thaw`].
    pub fn freeze(&self) {
        signal(&self.folder, "-STOP");
    }

    pub fn thaw(&self) {
        signal(&self.folder, "-CONT");
    }

    /// Raises the memory alarm, which blocks whoever publishes, or ends it.
    pub fn alarm(&self, is_on: bool) {
        let mark = if is_on { "1MB" } else { "1GB" };
        let (is_done, said) = self.control(&["set_vm_memory_high_watermark", "absolute", mark]);
        assert!(is_done, "{said}");
    }

    /// Closes every connection, as an operator would.
    pub fn close_all(&self) {
        let (is_done, said) = self.control(&["close_all_connections", "closed by a test"]);
        assert!(is_done, "{said}");
    }

    pub fn url(&self) -> String {
        self.url_of("guest", "guest")
    }

    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.port)
    }

    /// `rabbitmqctl` with these arguments: what it said, and whether it did it. It takes a second or two.
    pub fn control(&self, arguments: &[&str]) -> (bool, String) {
        let ran = Command::new(CONTROL)
            .args(["-q", "-n", &format!("longshore{}@localhost", self.port)])
            .args(arguments)
            .env("HOME", self.folder.join("home"))
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .output()
            .unwrap();
        let said = [ran.stdout, ran.stderr].concat();
        (ran.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// A user with rights on names that match, in the order configure, write, read; its URL.
    pub fn user(&self, name: &str, rights: [&str; 3]) -> String {
        for arguments in
            [&["add_user", name, "a-password"][..], &["set_permissions", name, rights[0], rights[1], rights[2]]]
        {
            let (is_done, said) = self.control(arguments);
            assert!(is_done, "{arguments:?}: {said}");
        }
        self.url_of(name, "a-password")
    }

    /// One for all tests of this process.
    pub fn shared(folder: &Path) -> Arc<Self> {
        static SHARED: OnceLock<Arc<RabbitMq>> = OnceLock::new();
        Arc::clone(SHARED.get_or_init(|| Arc::new(Self::start(folder))))
    }
}

/// Are the servers here? When they must be (`REQUIRE_SERVICES=1`), their absence fails the test.
pub fn are_installed() -> bool {
    are_there(&[("redis-server", Redis::is_installed()), ("rabbitmq-server", RabbitMq::is_installed())])
}

/// As [`are_installed`], for tests that need no broker.
pub fn is_redis_installed() -> bool {
    are_there(&[("redis-server", Redis::is_installed())])
}

fn are_there(servers: &[(&str, bool)]) -> bool {
    let missing: Vec<&str> = servers.iter().filter_map(|(name, is_there)| (!is_there).then_some(*name)).collect();
    if missing.is_empty() {
        return true;
    }
    let advice = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    assert!(std::env::var_os("REQUIRE_SERVICES").is_none(), "missing servers: {advice}");
    eprintln!("skipped, servers are missing: {advice}");
    false
}
