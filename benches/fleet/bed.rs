//! Private servers for one part, and the processes that work on them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions},
    types::{AMQPValue, FieldTable},
};
use longshore::{
    clock, config,
    domain::step::Kind,
    rabbitmq::{Names, topology},
    redis::{self, Address, Store, Tls},
    sandbox::{Account, Options, Sandbox},
};
use serde::Serialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{
    process,
    servers::{RabbitMq, Redis},
};

/// What every name begins with.
pub(crate) const PREFIX: &str = "longshore";
/// Messages on their way to a confirmation at once, when a queue is filled.
const WINDOW: usize = 1_000;
/// How long a process may take to say something.
const PATIENCE: Duration = Duration::from_secs(60);

/// RabbitMQ, Redis, and a connection that looks at them.
pub(crate) struct Bed {
    // ORDER: dropped in this order; what works on the servers is a child that dies with its own handle.
    pub(crate) channel: Channel,
    pub(crate) looker: Connection,
    pub(crate) redis: Redis,
    pub(crate) broker: RabbitMq,
    folder: TempDir,
}

impl Bed {
    pub(crate) async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let broker = RabbitMq::start(&folder.path().join("rabbitmq"));
        let redis = Redis::start(&folder.path().join("redis"));
        let looker = connect(&broker.url()).await?;
        for (object, found) in
            topology::declare(&looker, &topology::objects(&Names::new(PREFIX), &BTreeSet::from(Kind::ALL))).await?
        {
            ensure!(found == topology::Found::Well, "{} cannot be declared", object.name());
        }
        let channel = looker.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let bed = Self { channel, looker, redis, broker, folder };
        ensure!(bed.store()?.born_clean(true).await?, "the memory has a birth mark already");
        Ok(bed)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn store(&self) -> Result<Store> {
        let address = Address { url: self.redis.url().into(), sentinel: None, tls: Tls::default() };
        Ok(Store::new(&address, redis::Options::default())?)
    }

    /// Process ids of broker and memory.
    pub(crate) fn pids(&self) -> Result<[u32; 2]> {
        let pid = |name: &str| -> Result<u32> { Ok(fs::read_to_string(self.path(name))?.trim().parse()?) };
        Ok([pid("rabbitmq/pid")?, pid("redis/pid")?])
    }

    /// Processor seconds of broker and memory so far.
    pub(crate) fn servers_cpu(&self) -> Result<[f64; 2]> {
        let [broker, memory] = self.pids()?;
        Ok([process::cpu(broker)?, process::cpu(memory)?])
    }

    /// Declares a queue of the bench's own: a quorum queue, or a classic one.
    pub(crate) async fn queue(&self, name: &str, is_quorum: bool) -> Result<()> {
        let mut arguments = FieldTable::default();
        if is_quorum {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await?;
        Ok(())
    }

    pub(crate) async fn bind(&self, exchange: &str, queue: &str, key: &str) -> Result<()> {
        let options = QueueBindOptions::default();
        self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default()).await?;
        Ok(())
    }

    pub(crate) async fn purge(&self, queue: &str) -> Result<()> {
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        Ok(())
    }

    /// Messages of a queue that nobody was given.
    pub(crate) async fn depth(&self, queue: &str) -> Result<u64> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let told = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        Ok(u64::from(told.message_count()))
    }

    /// Waits until somebody consumes a queue.
    pub(crate) async fn consumed(&self, queue: &str) -> Result<()> {
        let consumers = async {
            loop {
                let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let told = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
                if told.consumer_count() > 0 {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, consumers).await.with_context(|| format!("nobody consumes {queue}: {}", self.log()))?
    }

    /// Publishes all of them, persistent and confirmed.
    pub(crate) async fn fill(
        &self,
        (exchange, key): (&str, &str),
        messages: impl IntoIterator<Item = (BasicProperties, Vec<u8>)>,
    ) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        for (properties, body) in messages {
            let options = BasicPublishOptions::default();
            let properties = properties.with_delivery_mode(2);
            let sent = self.channel.basic_publish(exchange.into(), key.into(), options, &body, properties).await?;
            under_way.push(sent);
            if under_way.len() >= WINDOW
                && let Some(confirmed) = under_way.next().await
            {
                ensure!(confirmed?.is_ack(), "a message was refused");
            }
        }
        while let Some(confirmed) = under_way.next().await {
            ensure!(confirmed?.is_ack(), "a message was refused");
        }
        Ok(())
    }

    /// The configuration of the real program against this sandbox.
    pub(crate) fn configuration(&self, sandbox: &Sandbox, more: &str) -> Result<Vec<PathBuf>> {
        let root = self.folder.path();
        let texts = [("broker-url", self.broker.url()), ("redis-url", self.redis.url())];
        for (name, text) in texts {
            fs::write(root.join(name), text)?;
        }
        let key = root.join("seal-key");
        if !key.exists() {
            longshore::seal::Keyring::generate_file(&key)?;
        }
        let own = format!(
            "{}\n[home]\nbroker = \"file:broker-url\"\nstore = \"file:redis-url\"\n[security]\nkeys = [\"file:seal-key\"]\n\
             [sources]\nroots = []\n[sinks]\nroots = []\n",
            sandbox.overlay()
        );
        let mut files = Vec::new();
        for (name, text) in [("sandbox.toml", config::SANDBOX), ("own.toml", own.as_str()), ("more.toml", more)] {
            fs::write(root.join(name), text)?;
            files.push(root.join(name));
        }
        Ok(files)
    }

    /// A worker of the real program.
    pub(crate) fn worker(&self, configuration: &[PathBuf], arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LONGSHORE")) {
            command.env_remove(name);
        }
        for file in configuration {
            command.arg("--config").arg(file);
        }
        let log = fs::File::options().create(true).append(true).open(self.path("workers.log"))?;
        command.arg("worker").args(arguments).current_dir(self.folder.path());
        command.env("HOME", self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.kill_on_drop(true).spawn().context("a worker cannot be started")
    }

    /// How often a worker lost its connection to the broker: figures of a run in which one did are of another kind.
    pub(crate) fn reconnects(&self) -> usize {
        let text = fs::read_to_string(self.path("workers.log")).unwrap_or_default();
        text.lines().filter(|line| line.contains("connecting again")).count()
    }

    /// What the workers of the real program have logged: told when a part fails.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.path("workers.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

/// A connection of the bench's own.
pub(crate) async fn connect(url: &str) -> Result<Connection> {
    Ok(Connection::connect(url, ConnectionProperties::default()).await?)
}

/// The directory of the account at this place.
pub(crate) fn tenant_id(number: usize) -> String {
    format!("11111111-2222-4333-8444-{number:012x}")
}

/// The application of the account at this place.
pub(crate) fn client_id(number: usize) -> String {
    format!("22222222-2222-4333-8444-{number:012x}")
}

/// A token of the account of this name at this place.
pub(crate) async fn token(bed: &Bed, sandbox: &Sandbox, (name, number): (&str, usize)) -> Result<String> {
    let secret = fs::read_to_string(bed.path(&format!("{name}.secret")))?;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &client_id(number)),
        ("client_secret", &secret),
        ("resource", "https://manage.devcenter.microsoft.com"),
    ];
    let url = format!("{}/{}/oauth2/token", sandbox.url(), tenant_id(number));
    let answer =
        reqwest::Client::builder().no_proxy().build()?.post(url).form(&form).send().await?.error_for_status()?;
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
    Ok(answer.get("access_token").and_then(serde_json::Value::as_str).context("no token")?.to_owned())
}

/// A sandbox with these accounts, each a tenant and a client of its own.
pub(crate) async fn sandbox(folder: &Path, names: &[&str]) -> Result<Sandbox> {
    sandbox_with(folder, names, Options::default()).await
}

/// The same, told more.
pub(crate) async fn sandbox_with(folder: &Path, names: &[&str], options: Options) -> Result<Sandbox> {
    let account = |(number, name): (usize, &&str)| {
        let secret = clock::uuid_v4().to_string();
        let mut account = Account::new(name, &tenant_id(number), &client_id(number)).with_secret(&secret);
        account.secret_reference = Some(format!("file:{}", folder.join(format!("{name}.secret")).display()));
        (account, secret)
    };
    let mut accounts = Vec::new();
    for told in names.iter().enumerate() {
        let (account, secret) = account(told);
        fs::write(folder.join(format!("{}.secret", account.alias)), secret)?;
        accounts.push(account);
    }
    Ok(Sandbox::start(Options { accounts, ..options }).await?)
}

/// A process in a role: told by lines on its stdin, tells by lines on its stdout; ends when its stdin does.
pub(crate) struct Role {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Role {
    /// Starts this very program in a role.
    pub(crate) fn start(role: &str, told: &impl Serialize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["role", role, &serde_json::to_string(told)?]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Self { child, stdin, lines })
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Its next line.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.context("the process says nothing")??;
        line.context("the process has ended")
    }

    /// Waits for this line.
    pub(crate) async fn heard(&mut self, wanted: &str) -> Result<()> {
        let line = self.line().await?;
        if line == wanted { Ok(()) } else { bail!("{line:?} was said in place of {wanted:?}") }
    }

    /// Tells it a line.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the process was told to end")?;
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(stdin.flush().await?)
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
