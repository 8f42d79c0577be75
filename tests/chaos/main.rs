//! The fleet under fire: real worker processes on a real broker and memory, a fault of a server or worker paired with a fault of
//! the service, and the verdict at the end of each round.
//!
//! `cargo test` runs a slice: one run in which every named crash point kills a worker once, and a few rounds. `make chaos
//! MINUTES=n [SEED=m]` goes on for as long as asked; see docs/fleet/chaos.md.

// A release build has no crash points, and only Unix has its signals.
#![cfg(all(unix, debug_assertions))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

#[path = "../arena/mod.rs"]
#[allow(dead_code, reason = "shared with other targets")]
mod arena;
mod faults;
mod points;
mod round;
#[path = "../secrets/run_folder.rs"]
mod run_folder;
#[path = "../servers/mod.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stderr, missing_docs, reason = "shared with other targets")]
mod servers;

use std::{io::Write as _, time::Duration};

use longshore::clock;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use self::{
    arena::Broker,
    faults::{Fault, Service},
};

/// One run at a time: the machine is small.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Of this run: as told, else by the day.
fn seed() -> u64 {
    let day = clock::now().as_second() / 86_400;
    variable("CHAOS_SEED").map_or(day.unsigned_abs(), |text| text.parse().unwrap())
}

/// A line that is seen also where the runner keeps the output of tests that pass.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// A number without order, the same for the same two (splitmix64).
fn mixed(seed: u64, n: u64) -> u64 {
    let mut z = (seed ^ n.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Every fault with every fault of the service, in an order of the seed's.
fn pairs(seed: u64, pass: u64) -> Vec<(Fault, Service)> {
    let mut all: Vec<(Fault, Service)> =
        Fault::ALL.into_iter().flat_map(|fault| Service::ALL.map(|service| (fault, service))).collect();
    all.shuffle(&mut StdRng::seed_from_u64(mixed(seed, pass)));
    all
}

/// A broker of this run's own.
fn broker(name: &str) -> Broker {
    Broker::start(&run_folder::folder(&format!("chaos/{name}")).unwrap())
}

fn played(round: anyhow::Result<Broker>) -> Broker {
    round.unwrap_or_else(|error| panic!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_few_pairs_of_faults_lose_nothing_and_double_nothing() {
    if !servers::are_installed() {
        return;
    }
    let _turn = TURN.lock().await;
    let seed = seed();
    let slice = [
        (Fault::BrokerKilled, Service::LostAnswers),
        (Fault::CutMidConfirm, Service::Errors),
        (Fault::MemoryFlushed, Service::LateLists),
    ];
    let mut broker = broker("slice-broker");
    for (number, pair) in slice.into_iter().enumerate() {
        let number = u64::try_from(number).unwrap();
        broker = played(round::run(broker, number + 1, mixed(seed, number), pair).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "goes on for as long as asked: make chaos MINUTES=n"]
async fn chaos_goes_on_for_as_long_as_asked() {
    assert!(servers::are_installed(), "RabbitMQ and Redis are needed: make services");
    let _turn = TURN.lock().await;
    let minutes: u64 = variable("CHAOS_MINUTES").map_or(1, |text| text.parse().unwrap());
    let (seed, begun) = (seed(), clock::monotonic());
    let only = variable("CHAOS_PAIR").map(|text| {
        let (fault, service) = text.split_once('/').unwrap_or_else(|| panic!("a pair is FAULT/SERVICE"));
        (Fault::parse(fault).unwrap(), Service::parse(service).unwrap())
    });
    say(&format!("chaos: {minutes} min, seed {seed}, {} pairs a pass", Fault::ALL.len() * Service::ALL.len()));
    let mut broker = broker("broker");
    let mut number = 0;
    for pass in 0.. {
        for pair in only.map_or_else(|| pairs(seed, pass), |pair| vec![pair]) {
            // A pair that was asked for is played with the seed that was given, as its line printed it.
            let own = if only.is_some() { seed.wrapping_add(number) } else { mixed(seed, number) };
            number += 1;
            broker = played(round::run(broker, number, own, pair).await);
            // Whatever did not fail is of no use any more; an hour of it fills a disk.
            std::fs::remove_dir_all(run_folder::root().join(round::folder(number))).unwrap();
            if begun.elapsed() >= Duration::from_mins(minutes) {
                say(&format!("chaos: {number} rounds in {:.0?}, none failed", begun.elapsed()));
                return;
            }
        }
    }
}

#[test]
fn a_pass_holds_every_pair_once_in_an_order_that_the_seed_repeats() {
    let sorted = |mut pairs: Vec<(Fault, Service)>| {
        pairs.sort();
        pairs
    };
    let all = Fault::ALL.len() * Service::ALL.len();
    assert_eq!(pairs(7, 0), pairs(7, 0));
    assert_ne!(pairs(7, 0), pairs(8, 0));
    let mut one = sorted(pairs(7, 1));
    assert_eq!(one, sorted(pairs(8, 0)));
    one.dedup();
    assert_eq!(one.len(), all);
}
