//! `doctor` in a fleet: each fault of a real server is told with what to do, and by its exit code.

use longshore::domain::time::Moment;
use serde_json::Value;

use crate::{
    fleet::Fleet,
    servers::{self, Redis, free_port},
    world::{Ran, until},
};

/// What it says of one subject: whether it is good, and the words.
fn of(ran: &Ran, what: &str) -> Vec<(Value, String)> {
    let findings = ran.json()["findings"].as_array().unwrap().clone();
    let of_it = findings.into_iter().filter(|finding| finding["what"] == what);
    of_it
        .map(|finding| (finding["good"].clone(), format!("{}; {}", finding["message"], finding["next_step"])))
        .collect()
}

/// Is there a finding of this kind with these words?
fn says(ran: &Ran, what: &str, good: impl Into<Value>, words: &str) {
    let (good, found) = (good.into(), of(ran, what));
    assert!(found.iter().any(|(is, text)| *is == good && text.contains(words)), "no {words:?} ({good}): {found:#?}");
}

const OPEN: Value = Value::Null;

#[test]
fn a_fleet_that_is_well_is_told_so_and_nothing_is_left_behind() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("well", &[]);
    fleet.world.run(&["topology", "born", "--clean"]).ended(0);
    let before = fleet.redis().keys();
    let ran = fleet.world.run(&["doctor"]).ended(0);
    says(&ran, "broker", true, "RabbitMQ ");
    says(&ran, "rights", true, "guest may do what a worker does");
    says(&ran, "rights", true, "what an operator does");
    says(&ran, "rights", true, "may follow events");
    says(&ran, "rights", OPEN, "more than a worker needs");
    says(&ran, "canaries", true, "3 of 3 came back");
    says(&ran, "memory", true, "Redis ");
    says(&ran, "memory", true, "noeviction");
    says(&ran, "memory", true, "when nothing was under way");
    says(&ran, "memory", OPEN, "keeps nothing over a restart");
    says(&ran, "clock", true, "from the memory's");
    says(&ran, "sign-in", true, "contoso: token for");
    says(&ran, "roles", true, "may read products");
    assert_eq!(of(&ran, "home"), vec![], "there is no file here");
    // What it asked for is gone, or ends by itself; and nothing is where it asked whether it may write.
    let after = fleet.redis().keys();
    assert!(before.iter().all(|key| after.contains(key)), "{before:?} {after:?}");
    assert_eq!(fleet.redis().endless_keys(), ["well:born"]);
    let (_, queues) = fleet.broker.control(&["list_queues", "name", "messages"]);
    let full: Vec<&str> = queues.lines().filter(|line| line.starts_with("well.") && !line.ends_with("\t0")).collect();
    assert_eq!(full, Vec::<&str>::new());

    // With append-only files nothing is open about it; on a screen every line has its mark.
    fleet.redis().cli(&["CONFIG", "SET", "appendonly", "yes"]);
    let screen = fleet.world.run(&["--output", "table", "doctor"]).ended(0).out;
    assert!(screen.contains("appendonly yes") && !screen.contains('✘'), "{screen}");
    let log = fleet.redis().cli(&["ACL", "LOG"]);
    assert_eq!(log, "", "it asks for nothing that it may not have");
}

#[test]
fn a_memory_that_is_set_up_wrong_is_told_with_the_command_that_mends_it() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("wrong", &[]);
    fleet.redis().cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let ran = fleet.world.run(&["doctor"]).ended(6);
    says(&ran, "memory", false, "CONFIG SET maxmemory-policy noeviction");
    fleet.redis().cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    fleet.world.run(&["doctor"]).ended(0);
    fleet.redis().cli(&["CONFIG", "SET", "maxmemory", "1200000"]);
    let ran = fleet.world.run(&["doctor"]).ended(6);
    says(&ran, "memory", false, "raise its maxmemory");
    fleet.redis().cli(&["CONFIG", "SET", "maxmemory", "0"]);

    // Not born clean: asked about while all lanes are empty, and looked at without writing it.
    fleet.forget();
    let ran = fleet.world.run(&["doctor"]).ended(0);
    says(&ran, "memory", OPEN, "longshore topology born --clean");
    assert_eq!(fleet.redis().cli(&["EXISTS", "wrong:born"]), "0", "a look begins no life of the memory");
    fleet.redis().cli(&["HSET", "wrong:born", "id", "another", "at", "1", "clean", "1"]);
    let ran = fleet.world.run(&["doctor"]).ended(0);
    says(&ran, "memory", OPEN, "was started anew, or failed over");
    fleet.world.run(&["topology", "born", "--clean"]).ended(0);
    says(&fleet.world.run(&["doctor"]).ended(0), "memory", true, "when nothing was under way");
    // With something on a lane it is nobody's to say that it is clean.
    fleet.forget();
    fleet.world.submit(&fleet.world.job("nic-1"), &[]).ended(0);
    let ran = fleet.world.run(&["doctor"]).ended(0);
    says(&ran, "memory", OPEN, "nothing is lost, and it ends by itself");
    says(&ran, "lanes", OPEN, "no consumer");
}

#[test]
fn a_memory_that_is_gone_mute_or_no_memory_for_us_is_told_by_its_code() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("gone", &[]);
    let at = |url: &str| std::fs::write(fleet.world.path("redis-url"), url).unwrap();
    fleet.world.set("[redis]\nconnect_timeout = \"1s\"\nresponse_timeout = \"1s\"");
    at(&format!("redis://127.0.0.1:{}", free_port()));
    let ran = fleet.world.run(&["doctor"]).ended(13);
    says(&ran, "memory", false, "check that Redis runs, and home.store");
    says(&ran, "roles", OPEN, "the memory that shares the rate does not answer");
    says(&ran, "canaries", OPEN, "none was sent");
    says(&ran, "sign-in", true, "token for");
    // Clients that need no record go on without it.
    fleet.world.run(&["auth", "test"]).ended(0);

    at(&fleet.redis().url());
    fleet.redis().freeze();
    says(&fleet.world.run(&["doctor"]).ended(13), "memory", false, "check that Redis runs");
    fleet.redis().thaw();

    let bus = free_port().to_string();
    let cluster = Redis::with(&fleet.world.path("cluster"), &[("cluster-enabled", "yes"), ("cluster-port", &bus)]);
    at(&cluster.url());
    says(&fleet.world.run(&["doctor"]).ended(6), "memory", false, "name a single server in home.store");

    let port = fleet.redis().port.to_string();
    let replica = Redis::with(&fleet.world.path("replica"), &[("replicaof", &format!("127.0.0.1 {port}"))]);
    at(&replica.url());
    says(&fleet.world.run(&["doctor"]).ended(13), "memory", false, "replica, not the primary");
}

#[test]
fn a_right_that_the_memorys_user_lacks_is_named() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("acl", &[]);
    let rights = include_str!("../../docs/fleet/redis.md");
    let documented = rights.split("user longshore on >PASSWORD ").nth(1).unwrap().split("```").next().unwrap();
    let grant = |without: &str| {
        let words = documented.split_whitespace().filter(|word| *word != without).collect::<Vec<_>>();
        let own = words.iter().map(|word| word.replace("~longshore:", "~acl:")).collect::<Vec<_>>();
        let mut command = vec!["ACL", "SETUSER", "worker", "reset", "on", ">a-password"];
        command.extend(own.iter().map(String::as_str));
        assert_eq!(fleet.redis().cli(&command), "OK");
    };
    let at = |password: &str| {
        let url = format!("redis://worker:{password}@127.0.0.1:{}", fleet.redis().port);
        std::fs::write(fleet.world.path("redis-url"), url).unwrap();
    };
    at("a-password");
    grant("");
    let ran = fleet.world.run(&["doctor"]).ended(0);
    says(&ran, "memory", OPEN, "may not CONFIG GET");
    assert!(of(&ran, "memory").iter().all(|(good, _)| *good != false), "the documented rights are enough");
    let needed = documented.split_whitespace().filter_map(|word| word.strip_prefix('+'));
    for command in needed {
        grant(&format!("+{command}"));
        let ran = fleet.world.run(&["doctor"]).ended(4);
        says(&ran, "memory", false, "docs/fleet/redis.md");
        says(&ran, "memory", false, command);
    }
    at("another-password");
    let ran = fleet.world.run(&["doctor"]).ended(4);
    says(&ran, "memory", false, "mend user and password in home.store");
    assert!(!ran.out.contains("another-password") && !ran.err.contains("another-password"));
}

#[test]
fn behind_sentinel_an_old_primary_must_stop_and_the_sentinels_may_ask_for_a_password() {
    const NAME: &str = "memory";
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("sentinel", &[]);
    let sentinel = Redis::sentinel(&fleet.world.path("sentinel"), NAME, fleet.redis().port);
    fleet.world.set(&format!("[redis]\nsentinel_master = \"{NAME}\"\nsentinels = [\"127.0.0.1:{}\"]", sentinel.port));
    let ran = fleet.world.run(&["doctor"]).ended(6);
    says(&ran, "memory", false, "CONFIG SET min-replicas-to-write 1");
    // A replica follows, and may lag longer than Sentinel waits.
    let primary = format!("127.0.0.1 {}", fleet.redis().port);
    let replica = Redis::with(&fleet.world.path("replica"), &[("replicaof", &primary)]);
    until("the replica follows", || fleet.redis().cli(&["INFO", "replication"]).contains("state=online"));
    fleet.redis().cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    sentinel.cli(&["SENTINEL", "SET", NAME, "down-after-milliseconds", "10000"]);
    let ran = fleet.world.run(&["doctor"]).ended(6);
    says(&ran, "memory", false, "takes writes for 10 s, and after 10 s there may be a new one");
    fleet.redis().cli(&["CONFIG", "SET", "min-replicas-max-lag", "9"]);
    let ran = fleet.world.run(&["doctor"]).ended(0);
    says(&ran, "memory", true, "follows within 9 s");

    // Sentinels with users of their own: what is missing is told by the settings' names.
    let user = ["ACL", "SETUSER", "asker", "reset", "on", ">sentinel-password", "allchannels", "+@all"];
    assert_eq!(sentinel.cli(&user), "OK");
    assert_eq!(sentinel.cli(&["ACL", "SETUSER", "default", "off"]), "OK");
    let ran = fleet.world.run(&["doctor"]).json();
    assert!(ran.to_string().contains("redis.sentinel_user and redis.sentinel_password"), "{ran:#}");
    std::fs::write(fleet.world.path("sentinel-password"), "sentinel-password").unwrap();
    let more = std::fs::read_to_string(fleet.world.path("more.toml")).unwrap();
    let more = format!("{more}\n[redis]\nsentinel_user = \"asker\"\nsentinel_password = \"file:sentinel-password\"\n");
    std::fs::write(fleet.world.path("more.toml"), more).unwrap();
    says(&fleet.world.run(&["doctor"]).ended(0), "memory", true, "follows within 9 s");
    std::fs::write(fleet.world.path("sentinel-password"), "wrong-password").unwrap();
    let ran = fleet.world.run(&["doctor"]);
    assert!(ran.code != 0 && ran.out.contains("redis.sentinel_password"), "{}", ran.out);
    assert!(!ran.out.contains("wrong-password") && !ran.err.contains("wrong-password"));
    std::fs::remove_file(fleet.world.path("sentinel-password")).unwrap();
    let ran = fleet.world.run(&["doctor"]).ended(2);
    let words = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("redis.sentinel_password: file:"), "{}", ran.err);
    drop(replica);
}

#[test]
fn what_a_user_of_the_broker_may_do_is_told_without_doing_it() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("may", &[]);
    let as_user = |url: &str| {
        std::fs::write(fleet.world.path("broker-url"), url).unwrap();
        fleet.world.run(&["doctor"])
    };
    let worker = fleet.broker.user("may-work", ["^$", r"^may\.(out|delay|dead|events)\.v1$", r"^may\.w\."]);
    let ran = as_user(&worker).ended(0);
    says(&ran, "rights", true, "may-work may do what a worker does");
    says(&ran, "rights", OPEN, "may-work is no operator: may not write may.jobs.v1");
    says(&ran, "rights", OPEN, "configure on ^amq");
    says(&ran, "canaries", true, "3 of 3 came back");
    assert!(!ran.out.contains("more than a worker needs"), "{}", ran.out);

    let operator =
        fleet.broker.user("may-operate", ["^$", r"^may\.(jobs|out|dead)\.v1$", r"^may\.(dlq|unrouted)\.v1$"]);
    let ran = as_user(&operator).ended(0);
    says(&ran, "rights", true, "may-operate may do what an operator does");
    says(&ran, "rights", OPEN, "may-operate is no worker: may not write may.delay.v1 and 1 more, may not read may.w.");

    // Nearly a worker is none: what is missing, and the command that grants it.
    let nearly = fleet.broker.user("may-nearly", ["^$", r"^may\.(out|delay|dead)\.v1$", r"^may\.w\."]);
    let ran = as_user(&nearly).ended(4);
    says(&ran, "rights", false, "may not write may.events.v1");
    says(
        &ran,
        "rights",
        false,
        r"set_permissions -p / may-nearly '^$' '^may\\.(out|delay|dead|events)\\.v1$' '^may\\.w\\.'",
    );
    let producer = fleet.broker.user("may-produce", ["^$", r"^may\.jobs\.v1$", "^$"]);
    says(&as_user(&producer).ended(4), "canaries", OPEN, "may write neither waits nor tickets");

    let ran = as_user(&fleet.broker.url_of("may-work", "wrong-password")).ended(4);
    says(&ran, "broker", false, "mend user and password in home.broker");
    assert!(!ran.out.contains("wrong-password"), "{}", ran.out);
    fleet.world.set("[rabbitmq]\nconnect_timeout = \"1s\"");
    let ran = as_user("amqp://guest:guest@127.0.0.1:1/%2f").ended(13);
    says(&ran, "broker", false, "check that RabbitMQ runs");
    says(&ran, "roles", true, "may read products");
}

#[test]
fn lanes_that_are_missing_are_named_and_an_older_copy_begins_a_new_life() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("lanes", &[]);
    let queue = "lanes.w.upload.return.v1";
    let (is_done, said) = fleet.broker.control(&["delete_queue", queue]);
    assert!(is_done, "{said}");
    let ran = fleet.world.run(&["doctor"]).ended(5);
    says(&ran, "objects", false, queue);
    says(&ran, "canaries", OPEN, "something is missing");
    fleet.world.run(&["topology", "declare"]).ended(0);
    fleet.world.run(&["topology", "born", "--clean"]).ended(0);
    {
        let worker = fleet.world.worker();
        until("the worker is ready", || worker.says("/readyz", 200));
        let is_taken = || fleet.broker.control(&["list_consumers", "queue_name"]).1.contains(queue);
        until("the worker takes what comes", is_taken);
        let ran = fleet.world.run(&["doctor", "--restored"]).ended(6);
        assert!(ran.err.contains("workers are running in this fleet"), "{}", ran.err);
    }
    let birth = || fleet.redis().cli(&["HGET", "lanes:born", "clean"]);
    assert_eq!(birth(), "1");
    let began = longshore::clock::moment();
    until("the broker knows that the worker is gone", || fleet.world.run(&["doctor", "--restored"]).code == 0);
    assert_eq!(birth(), "0");
    let at: i64 = fleet.redis().cli(&["HGET", "lanes:born", "at"]).parse().unwrap();
    assert!(Moment::from_millis(at) >= began, "the new life begins now");
}
