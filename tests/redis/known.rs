//! What a process of the fleet takes for granted until the memory says otherwise.

use longshore::{
    engine::ports::{Memory as _, Swapped},
    fleet::Fleet,
    rabbitmq::{self, Rabbit},
    redis::Store,
};

use crate::{
    harness::{ME, claimed, key, redis, store, ticket},
    servers::{self, Redis},
};

fn home(redis: &Redis) -> Fleet {
    Fleet::new(Rabbit::new(rabbitmq::Options::default()), store(redis))
}

/// How often scripts were run so far.
fn scripts(redis: &Redis) -> u64 {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.trim().strip_prefix(&format!("cmdstat_{name}:calls=")))?;
        line.split(',').next()?.parse::<u64>().ok()
    };
    calls("evalsha").unwrap_or_default()
}

#[tokio::test]
async fn a_new_job_is_claimed_and_ended_with_one_script_each() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis();
    let home = home(&redis);
    assert_eq!(home.guess_new(), None, "nobody has told it of the memory's life");
    home.load(&key("another")).await.unwrap();
    let before = scripts(&redis);
    let (new, job) = (ticket("new"), key("new"));
    let guess = home.guess_new().unwrap();
    let record = claimed(&guess, &new).unwrap();
    assert_eq!(home.swap(&job, guess.birth.epoch, guess.version, &record).await.unwrap(), Swapped::Done);
    let held = home.guess(&job).unwrap();
    assert_eq!((held.record.as_ref(), held.holder_lives), (Some(&record), true));
    assert_eq!(home.swap(&job, held.birth.epoch, held.version, &record).await.unwrap(), Swapped::Done);
    // The first run of a script may bring its text.
    assert!(scripts(&redis) - before <= 3);
    let present = home.load(&job).await.unwrap();
    assert_eq!(home.guess(&job).unwrap().version, present.version);
}

#[tokio::test]
async fn who_guessed_wrong_is_refused_and_told_what_is_there() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis();
    let (home, other): (Fleet, Store) = (home(&redis), store(&redis));
    home.load(&key("another")).await.unwrap();
    let (known, job) = (ticket("known"), key("known"));

    // A job that another process has met is none of the new ones.
    let theirs = other.load(&job).await.unwrap();
    let record = claimed(&theirs, &known).unwrap();
    other.swap(&job, theirs.birth.epoch, theirs.version, &record).await.unwrap();
    let guess = home.guess_new().unwrap();
    let Swapped::Refused(present) = home.swap(&job, guess.birth.epoch, guess.version, &record).await.unwrap() else {
        panic!("a record was overwritten");
    };
    assert_eq!(present.record.as_ref().and_then(|record| record.holder).map(|holder| holder.claimant), Some(ME));
    assert_eq!(home.guess(&job), None, "the refused swap left nothing to guess from");

    // What this process wrote and another one changed.
    home.swap(&job, present.birth.epoch, present.version, &record).await.unwrap();
    let (held, now) = (home.guess(&job).unwrap(), other.load(&job).await.unwrap());
    other.swap(&job, now.birth.epoch, now.version, &record).await.unwrap();
    let refused = home.swap(&job, held.birth.epoch, held.version, &record).await.unwrap();
    assert!(matches!(refused, Swapped::Refused(_)));

    // A memory that has forgotten everything.
    let present = home.load(&job).await.unwrap();
    home.swap(&job, present.birth.epoch, present.version, &record).await.unwrap();
    let (held, new) = (home.guess(&job).unwrap(), home.guess_new().unwrap());
    redis.flush();
    for guess in [held, new] {
        let refused = home.swap(&job, guess.birth.epoch, guess.version, &record).await.unwrap();
        assert!(matches!(refused, Swapped::Refused(present) if !present.birth.is_clean && present.record.is_none()));
    }
    // The new life is known, and what was held in the old one is no guess any more.
    assert_eq!(home.guess(&job), None);
    assert!(!home.guess_new().unwrap().birth.is_clean);
}
