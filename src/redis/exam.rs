//! How the server is set up, looked at without changing anything: what a person is told before it costs a night.

use std::{collections::BTreeMap, time::Duration};

use redis::{Cmd, cmd};

use super::{Server, Store, foreign, link::field};
use crate::{clock, domain::time::Moment, engine::ports::Unavailable};

/// How a server is set up, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exam {
    /// What it says of itself.
    pub server: Server,
    /// Does it keep what is written in a file that it appends to? None: it does not say.
    pub appends: Option<bool>,
    /// When it saves by itself, in its own words, empty for never. None: our user may not ask.
    pub saves: Option<String>,
    /// Its last try to save failed.
    pub save_failed: bool,
    /// Bytes that it uses, and may use at most; 0 for no limit.
    pub memory: (u64, u64),
    /// Its clock, when it answered.
    pub now: Moment,
    /// Ours at that moment.
    pub ours: Moment,
    /// The life of this memory.
    pub mark: Mark,
    /// So long a replica may lag, before the server takes no writes. None: our user may not ask.
    pub max_lag: Option<Duration>,
    /// Commands that we need and our user may not give.
    pub forbidden: Vec<&'static str>,
}

/// The birth mark, as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// There is none: the first who works writes one.
    Missing,
    /// Nothing was under way when this memory began.
    Clean(Moment),
    /// Jobs may have been under way when this memory began.
    Unclean(Moment),
    /// It is of another life: the server was started anew, or failed over, and nobody has worked since.
    Other,
}

/// A command that changes nothing as it is given here, but for the first two, whose key ends by itself.
fn trials(key: &str) -> Vec<(&'static str, Cmd)> {
    let with = |name: &str, rest: &[&str]| {
        let mut command = cmd(name);
        command.arg(key).arg(rest);
        command
    };
    // The key holds a text: what needs another kind of value is refused for that, once the right is there.
    vec![
        ("set", with("SET", &["1", "PX", "10000"])),
        ("hset", with("HSET", &["a", "1"])),
        ("zadd", with("ZADD", &["1", "a"])),
        ("get", with("GET", &[])),
        ("mget", with("MGET", &[])),
        ("exists", with("EXISTS", &[])),
        ("pexpire", with("PEXPIRE", &["10000"])),
        ("hget", with("HGET", &["a"])),
        ("hmget", with("HMGET", &["a"])),
        ("hgetall", with("HGETALL", &[])),
        ("zcard", with("ZCARD", &[])),
        ("zrem", with("ZREM", &["a"])),
        ("zremrangebyscore", with("ZREMRANGEBYSCORE", &["0", "0"])),
        ("zrevrangebyscore", with("ZREVRANGEBYSCORE", &["0", "0"])),
        ("del", with("DEL", &[])),
    ]
}

impl Store {
    /// Looks at the server.
    ///
    /// # Errors
    /// [`Unavailable`]: it does not answer, or cannot be the memory, and why.
    pub async fn exam(&self) -> Result<Exam, Unavailable> {
        let link = &self.inner.link;
        let server = link.server().await?;
        let mut info = cmd("INFO");
        info.arg("persistence").arg("memory").arg("replication");
        let info: String = link.query(&info).await?;
        let number = |name| field(&info, name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let failed = |name| field(&info, name).is_some_and(|status| status != "ok");
        let (now, ours) = self.time().await?;
        let max_lag = self.setting("min-replicas-max-lag").await?;
        Ok(Exam {
            appends: field(&info, "aof_enabled").map(|is| is == "1"),
            saves: self.setting("save").await?,
            save_failed: failed("rdb_last_bgsave_status") || failed("aof_last_write_status"),
            memory: (number("used_memory"), number("maxmemory")),
            now,
            ours,
            mark: self.mark().await?,
            max_lag: max_lag.and_then(|text| text.parse().ok()).map(Duration::from_secs),
            forbidden: self.forbidden().await?,
            server,
        })
    }

    /// The server's clock, and ours half-way between question and answer.
    async fn time(&self) -> Result<(Moment, Moment), Unavailable> {
        let (asked, begun) = (clock::moment(), clock::monotonic());
        let (seconds, micros): (i64, i64) = self.inner.link.query(&cmd("TIME")).await?;
        let now = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
        Ok((Moment::from_millis(now), asked.after(begun.elapsed() / 2)))
    }

    /// A setting of the server; none when our user may not ask.
    async fn setting(&self, name: &str) -> Result<Option<String>, Unavailable> {
        let mut get = cmd("CONFIG");
        get.arg("GET").arg(name);
        let told: Option<BTreeMap<String, String>> = self.inner.link.try_query(&get).await?;
        Ok(told.and_then(|mut told| told.remove(name)))
    }

    /// The birth mark, read and left as it is.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn mark(&self) -> Result<Mark, Unavailable> {
        let mut info = cmd("INFO");
        info.arg("replication");
        let info: String = self.inner.link.query(&info).await?;
        let mut get = cmd("HMGET");
        get.arg(self.born()).arg("id").arg("at").arg("clean");
        let mark: Vec<Option<String>> = self.inner.link.query(&get).await?;
        let [Some(id), Some(at), Some(is_clean)] = mark.as_slice() else { return Ok(Mark::Missing) };
        if field(&info, "master_replid").as_ref() != Some(id) {
            return Ok(Mark::Other);
        }
        let at = at.parse().map(Moment::from_millis).map_err(|_| foreign("the birth mark"))?;
        Ok(if is_clean == "1" { Mark::Clean(at) } else { Mark::Unclean(at) })
    }

    /// A new life of this memory begins: whoever asks it next finds none of the old one, and writes a mark that is not clean.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn restored(&self) -> Result<(), Unavailable> {
        let mut forget = cmd("DEL");
        forget.arg(self.born());
        let _: u64 = self.inner.link.query(&forget).await?;
        self.birth().await.map(|_| ())
    }

    /// The commands that we need and our user may not give, each asked for on a key of its own.
    async fn forbidden(&self) -> Result<Vec<&'static str>, Unavailable> {
        let link = &self.inner.link;
        let id = format!("doctor:{:032x}", u128::from_be_bytes(clock::random_bytes()));
        let key = self.key("canary", &id);
        let mut forbidden = Vec::new();
        for (name, trial) in trials(&key) {
            // Without the text there they would make something that stays.
            let is_safe = !forbidden.contains(&"set") || !matches!(name, "hset" | "zadd");
            if is_safe && link.forbids(&trial).await? {
                forbidden.push(name);
            }
        }
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg("return 1");
        let mut run = cmd("EVALSHA");
        run.arg("0000000000000000000000000000000000000000").arg(0);
        for (name, trial) in [("script|load", load), ("evalsha", run)] {
            if link.forbids(&trial).await? {
                forbidden.push(name);
            }
        }
        Ok(forbidden)
    }

    /// After how long without a sign of life Sentinel takes the primary for gone; none without Sentinel.
    ///
    /// # Errors
    /// [`Unavailable`]: no Sentinel answers, and why.
    pub async fn down_after(&self) -> Result<Option<Duration>, Unavailable> {
        let Some(told) = self.inner.link.ask_sentinel().await? else { return Ok(None) };
        let millis = told.get("down-after-milliseconds").and_then(|value| value.parse().ok());
        millis.map(|millis| Some(Duration::from_millis(millis))).ok_or_else(|| foreign("what Sentinel says"))
    }
}
