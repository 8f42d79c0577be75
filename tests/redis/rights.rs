//! The rights that a worker's user needs at the server, and no others.

use longshore::{domain::view::JobFilter, engine::ports::Memory as _, redis::Store};

use crate::{
    harness::{at, key, options, redis, store},
    servers,
    walk::Walk,
};

/// The user of the docs (`docs/fleet/redis.md`), word for word; a test holds the two together.
pub(crate) const RIGHTS: &str = "resetchannels ~longshore:* -@all +info +time +evalsha +script|load +get +mget +set \
                                 +del +exists +pexpire +hget +hgetall +hmget +hset +zadd +zcard +zrem +zremrangebyscore \
                                 +zrevrangebyscore";

const PASSWORD: &str = "worker-password-of-a-test";

#[tokio::test]
async fn a_worker_needs_these_rights_and_each_of_them() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis();
    let grant = |rights: &str| {
        let mut words = vec!["ACL", "SETUSER", "longshore", "reset", "on"];
        let password = format!(">{PASSWORD}");
        words.push(&password);
        words.extend(rights.split_whitespace());
        assert_eq!(redis.cli(&words), "OK");
    };
    // A new connection each time: rights are also asked for while it is made.
    let user = || {
        let url = format!("redis://longshore:{PASSWORD}@127.0.0.1:{}", redis.port);
        Store::new(&at(url), options()).unwrap()
    };
    let everything = async || {
        redis.flush();
        redis.cli(&["SCRIPT", "FLUSH"]);
        let store = user();
        store.born_clean(true).await?;
        store.server().await?;
        Walk::default().all(&store).await?;
        store.jobs(&JobFilter::default()).await?;
        store.job(&key("walk")).await?;
        store.named(&key("walk").id).await?;
        store.await_canary("walk").await?;
        store.note_canary("walk", "lane").await?;
        store.canaries_back(&[("walk", "lane")]).await?;
        store.birth().await.map(|_| ())
    };
    grant(RIGHTS);
    everything().await.unwrap();
    for right in RIGHTS.split_whitespace().filter(|word| word.starts_with('+')) {
        let rest: Vec<_> = RIGHTS.split_whitespace().filter(|word| *word != right).collect();
        grant(&rest.join(" "));
        let down = everything().await.unwrap_err().to_string();
        assert!(down.contains("lacks a right"), "without {right}: {down}");
        assert!(!down.contains(PASSWORD));
    }
    grant(RIGHTS);
    everything().await.unwrap();
    // Nothing of others, and nothing that hurts others.
    for command in [["GET", "other"].as_slice(), &["FLUSHALL"], &["CONFIG", "GET", "*"], &["KEYS", "*"]] {
        let words = [&["--user", "longshore", "--pass", PASSWORD, "--no-auth-warning"], command].concat();
        assert!(redis.cli(&words).contains("NOPERM"), "{command:?}");
    }
}

#[test]
fn the_docs_name_the_same_rights() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let docs = words(include_str!("../../docs/fleet/redis.md"));
    assert!(docs.contains(&format!("user longshore on >PASSWORD {} ```", words(RIGHTS))), "{RIGHTS}");
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis();
    assert_eq!(redis.cli(&["ACL", "SETUSER", "longshore", "on", ">right-password", "+@all", "~*"]), "OK");
    store(&redis).load(&key("walk")).await.unwrap();
    let url = format!("redis://longshore:wrong-password@127.0.0.1:{}", redis.port);
    let down = Store::new(&at(url), options()).unwrap().load(&key("walk")).await.unwrap_err().to_string();
    assert!(down.contains("is refused") && !down.contains("wrong-password"), "{down}");
}
