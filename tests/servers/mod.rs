//! Real servers for tests: private, on free loopback ports, gone when the test process is.
//!
//! A server lives below a small shell that waits for the end of its standard input: when this process dies, by whatever
//! means, the shell stops the server by its process id. Which servers they are, the environment may say ([`choice`]).

mod choice;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Where Debian has the broker's own programs; those on the PATH switch user and folder.
const RABBIT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

/// A port that is free now.
pub fn free_port() -> u16 {
    free_ports(1).remove(0)
}

/// As many, each another one.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
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
        choice::redis().exists()
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
             {{ {program} redis.conf {mode} & echo $! > pid; wait $!; rm pid; echo '{ENDED}'; }} &
             cat > /dev/null; if [ -f pid ]; then kill -CONT $(cat pid); kill $(cat pid); fi; wait",
            folder = self.folder.display(),
            program = choice::redis().display(),
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

    /// Its name and version, in its own words.
    pub fn version(&self) -> String {
        let said = self.cli(&["INFO", "server"]);
        let field = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        match (field("valkey_version"), field("redis_version")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, Some(version)) => format!("Redis {version}"),
            (None, None) => panic!("it does not tell its version: {said}"),
        }
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

/// A private RabbitMQ: one node, or a cluster.
#[derive(Debug)]
pub struct RabbitMq {
    running: Option<Running>,
    /// Of the first node.
    pub port: u16,
    epmd: u16,
    folder: PathBuf,
    nodes: Vec<Node>,
    next: AtomicUsize,
}

/// One node of it.
#[derive(Debug)]
struct Node {
    port: u16,
    dist: u16,
    folder: PathBuf,
}

impl Node {
    fn name(&self) -> String {
        format!("longshore{}@localhost", self.port)
    }

    /// Its process, while it lives.
    fn pid(&self) -> Option<String> {
        fs::read_to_string(self.folder.join("pid")).ok().map(|pid| pid.trim().to_owned())
    }

    fn set_up(&self, plugins: &str, more: &str) {
        for part in ["mnesia", "log"] {
            fs::create_dir_all(self.folder.join(part)).unwrap();
        }
        fs::write(self.folder.join("enabled_plugins"), format!("[{plugins}].\n")).unwrap();
        let conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nvm_memory_high_watermark.absolute = 1GB\n\
             disk_free_limit.absolute = 50MB\nlog.console = false\n{more}",
            self.port
        );
        fs::write(self.folder.join("rabbitmq.conf"), conf).unwrap();
        // As docs/fleet/topology.md advises, "Settings of the broker".
        let advanced = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n";
        fs::write(self.folder.join("advanced.config"), advanced).unwrap();
    }

    /// Starts it in the background. The process id is forgotten with the process: nobody else's may be signalled.
    fn script(&self, inside: &str) -> String {
        format!(
            "( cd '{folder}'; export RABBITMQ_NODENAME={name} RABBITMQ_NODE_PORT={port} RABBITMQ_DIST_PORT={dist}
               export RABBITMQ_MNESIA_BASE=$PWD/mnesia RABBITMQ_LOG_BASE=$PWD/log RABBITMQ_PID_FILE=$PWD/pid
               export RABBITMQ_CONFIG_FILE=$PWD/rabbitmq.conf RABBITMQ_ADVANCED_CONFIG_FILE=$PWD/advanced.config
               export RABBITMQ_ENABLED_PLUGINS_FILE=$PWD/enabled_plugins
               {inside} {RABBIT} < /dev/null > log/stdout 2>&1; rm -f pid ) & servers=\"$servers $!\"
             ",
            folder = self.folder.display(),
            name = self.name(),
            port = self.port,
            dist = self.dist,
        )
    }

    /// `kill -9`. The process id is forgotten with the process.
    fn kill(&self) {
        signal(&self.folder, "-KILL");
        drop(fs::remove_file(self.folder.join("pid")));
    }
}

impl RabbitMq {
    /// Is there one on this machine?
    pub fn is_installed() -> bool {
        choice::root().is_some() || Path::new(RABBIT).exists()
    }

    pub fn start(folder: &Path) -> Self {
        Self::with(folder, "", &|_| String::new())
    }

    /// One with these plugins, and with more settings for each of its nodes by its number, as `rabbitmq.conf` writes them.
    pub fn with(folder: &Path, plugins: &str, settings: &dyn Fn(usize) -> String) -> Self {
        for part in ["log", "home"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let count = choice::nodes();
        let mut ports = free_ports(2 * count + 1).into_iter();
        let epmd = ports.next().unwrap();
        let dists: Vec<u16> = ports.by_ref().take(count).collect();
        let node = |(number, (port, dist))| {
            let folder = if count == 1 { folder.to_owned() } else { folder.join(format!("node{number}")) };
            Node { port, dist, folder }
        };
        let nodes: Vec<Node> = ports.zip(dists).enumerate().map(node).collect();
        let cluster = if count == 1 { String::new() } else { clustered(&nodes) };
        for (number, node) in nodes.iter().enumerate() {
            node.set_up(plugins, &(cluster.clone() + &settings(number)));
        }
        let port = nodes.first().unwrap().port;
        let mut this = Self { running: None, port, epmd, folder: folder.to_owned(), nodes, next: AtomicUsize::new(0) };
        this.start_again();
        this
    }

    /// Starts it in its folder, on its ports, after [`Self::stop`] or [`Self::kill`].
    pub fn start_again(&mut self) {
        let inside = inside(&self.folder).join(" ");
        let start: String = self.nodes.iter().map(|node| node.script(&inside)).collect();
        let pids: Vec<String> = self.nodes.iter().map(|node| node.folder.join("pid").display().to_string()).collect();
        let wait = |(node, pid): (&Node, &String)| {
            format!("{inside} {CONTROL} -q -n {} wait --timeout 180 '{pid}' > /dev/null", node.name())
        };
        let wait: Vec<String> = self.nodes.iter().zip(&pids).map(wait).collect();
        let script = format!(
            "cd '{folder}'; export HOME=$PWD/home ERL_EPMD_PORT={epmd} ERL_EPMD_ADDRESS=127.0.0.1
             export RABBITMQ_CONF_ENV_FILE=/dev/null
             export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {{127,0,0,1}}'
             umask 077; if [ ! -f home/.erlang.cookie ]; then
               head -c 32 /dev/urandom | base64 | tr -d '+/=\\n' > home/.erlang.cookie; chmod 400 home/.erlang.cookie; fi
             {inside} epmd -port {epmd} -address 127.0.0.1 < /dev/null > log/epmd 2>&1 & epmd=$!
             servers=
             {start}
             {{ {wait}; }} && echo ready || {{ tail -n 20 log/stdout */log/stdout; echo '{ENDED}'; }}
             cat > /dev/null; for pid in {pids}; do [ ! -f $pid ] || {{ kill -CONT $(cat $pid); kill $(cat $pid); }}; done
             wait $servers; kill $epmd",
            folder = self.folder.display(),
            epmd = self.epmd,
            wait = wait.join(" && "),
            pids = pids.join(" "),
        );
        self.running = Some(Running::start(&script, "ready"));
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// `kill -9` of all its nodes. A quorum queue declared less than about a second before does not survive it.
    pub fn kill(&mut self) {
        self.nodes.iter().filter(|node| node.pid().is_some()).for_each(Node::kill);
        self.running = None;
    }

    /// Neither answers nor closes anything, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.nodes.iter().for_each(|node| signal(&node.folder, "-STOP"));
    }

    pub fn thaw(&self) {
        self.nodes.iter().for_each(|node| signal(&node.folder, "-CONT"));
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

    /// Of one node; of a cluster, each time another one's.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        let node = self.nodes.get(self.next.fetch_add(1, Ordering::Relaxed) % self.nodes.len()).unwrap();
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", node.port)
    }

    /// Of all nodes, as `home.broker` takes them.
    pub fn urls_of(&self, user: &str, password: &str) -> String {
        let url = |node: &Node| format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", node.port);
        self.nodes.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// `rabbitmqctl` with these arguments, at a node that lives: what it said, and whether it did it. It takes a second or two.
    pub fn control(&self, arguments: &[&str]) -> (bool, String) {
        self.tool(CONTROL, arguments)
    }

    /// The same with another of the broker's tools, by its path; in another root as well.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let node = self.nodes.iter().find(|node| node.pid().is_some()).unwrap_or_else(|| panic!("no node lives"));
        let inside = inside(&self.folder);
        let (first, words) = inside.split_first().unwrap();
        let ran = Command::new(first)
            .args(words)
            .args([program, "-q", "-n", &node.name()])
            .args(arguments)
            .env("HOME", self.folder.join("home"))
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", node.folder.join("enabled_plugins"))
            .output()
            .unwrap();
        let said = [ran.stdout, ran.stderr].concat();
        (ran.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// What the node itself says to an expression of its own language, without quotes.
    fn told(&self, expression: &str) -> String {
        let (is_done, said) = self.control(&["eval", expression]);
        assert!(is_done, "{expression}: {said}");
        said.trim().trim_matches('"').to_owned()
    }

    /// Its version, in its own words, and how many nodes see each other.
    pub fn version(&self) -> (String, usize) {
        (self.told("rabbit_misc:version()."), self.told("length([node() | nodes()]).").parse().unwrap())
    }

    /// The folders that its living nodes take for the root of all files.
    pub fn roots(&self) -> Vec<PathBuf> {
        let pids = self.nodes.iter().filter_map(Node::pid);
        pids.map(|pid| fs::read_link(format!("/proc/{pid}/root")).unwrap()).collect()
    }

    /// Which node a connection of this user is at, by its place among [`Self::urls_of`]; all of them when there are several.
    pub fn nodes_of(&self, user: &str) -> Vec<usize> {
        let (is_done, said) = self.control(&["list_connections", "user", "pid", "--no-table-headers"]);
        assert!(is_done, "{said}");
        let lines = said.lines().filter_map(|line| line.split_once('\t')).filter(|(of, _)| *of == user);
        let place = |pid: &str| self.nodes.iter().position(|node| pid.contains(&node.name()));
        lines.filter_map(|(_, pid)| place(pid)).collect()
    }

    /// `kill -9` of one node, by its place among [`Self::urls_of`].
    pub fn kill_node(&self, place: usize) {
        self.nodes.get(place).unwrap().kill();
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

/// What nodes are told to find each other.
fn clustered(nodes: &[Node]) -> String {
    let names = nodes.iter().zip(1..);
    let names =
        names.map(|(node, number)| format!("cluster_formation.classic_config.nodes.{number} = {}\n", node.name()));
    format!(
        "cluster_formation.peer_discovery_backend = classic_config\n{}cluster_partition_handling = pause_minority\n",
        names.collect::<String>()
    )
}

/// The words before a program of the broker: none for the installed one. Programs in another root see the folder that this
/// one lies in, where a test has its files.
fn inside(folder: &Path) -> Vec<String> {
    let Some(root) = choice::root() else { return vec!["env".to_owned()] };
    let seen = folder.parent().unwrap().canonicalize().unwrap();
    vec![choice::INSIDE.to_owned(), root.display().to_string(), seen.display().to_string()]
}

/// The chosen root for brokers, if it is another than this machine's.
pub fn chosen_root() -> Option<PathBuf> {
    choice::root()
}

/// How many nodes a broker has.
pub fn chosen_nodes() -> usize {
    choice::nodes()
}

/// Is every broker a cluster of three nodes? Else a test that needs one says so, and skips.
pub fn is_cluster_chosen() -> bool {
    let is_cluster = are_installed() && choice::nodes() == 3;
    if !is_cluster {
        say("skipped, it needs LONGSHORE_TEST_RABBITMQ_NODES=3 (make test-matrix)");
    }
    is_cluster
}

/// Prints a line of a test's own.
pub fn say(line: &str) {
    eprintln!("{line}");
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
