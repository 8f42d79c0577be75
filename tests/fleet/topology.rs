//! `longshore topology` and the canaries, each with its own names at one real broker and with a real Redis of its own.

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use crate::{place::Place, servers};

/// How many objects came to this state.
fn count(document: &Value, state: &str) -> usize {
    document["objects"].as_array().unwrap().iter().filter(|object| object["state"] == state).count()
}

fn states(document: &Value) -> Vec<&str> {
    document["objects"].as_array().unwrap().iter().map(|object| object["state"].as_str().unwrap()).collect()
}

/// All findings in one text.
fn findings(document: &Value) -> String {
    document["findings"].to_string()
}

#[test]
fn declaring_twice_makes_everything_once_and_a_new_broker_begins_a_clean_memory() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    let first = place.run(&["topology", "declare"]).ended(0).json();
    // 6 exchanges; 13 delays, 9 lanes, dead letters twice, unrouted; all queues bound.
    assert_eq!((count(&first, "made"), count(&first, "bound"), states(&first).len()), (31, 25, 56), "{first}");
    assert_eq!((&first["memory"]["state"], place.birth("clean").as_str()), (&json!("born-clean"), "1"));

    let second = place.run(&["topology", "declare"]).ended(0).json();
    assert_eq!((count(&second, "there"), count(&second, "made"), count(&second, "bound")), (31, 0, 25), "{second}");
    assert_eq!(second["memory"]["state"], "left");

    // The memory was lost, and the topology was not: jobs may be under way.
    place.redis.flush();
    let third = place.run(&["topology", "declare"]).ended(0).json();
    assert_eq!((&third["memory"]["state"], place.birth("clean").as_str()), (&json!("left"), ""));

    let screen = place.run(&["--output", "table", "topology", "declare"]).ended(0).out;
    assert!(screen.contains("31 there, 25 bound") && screen.contains(&place.name("w.upload.return")), "{screen}");
}

#[test]
fn a_memory_is_not_born_clean_when_one_object_was_there_before_or_when_it_has_its_mark() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (_connection, channel) = place.channel().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000));
        let name = place.name("unrouted");
        channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    });
    let declared = place.run(&["topology", "declare"]).ended(0).json();
    assert_eq!((count(&declared, "made"), count(&declared, "there")), (30, 1), "{declared}");
    assert_eq!((&declared["memory"]["state"], place.birth("clean").as_str()), (&json!("left"), ""));

    // A mark that is there stays: another's memory may be behind it.
    let place = Place::new();
    place.redis.cli(&["HSET", &format!("{}:born", place.prefix), "id", "x", "at", "7", "clean", "0"]);
    let declared = place.run(&["topology", "declare"]).ended(0).json();
    assert_eq!((&declared["memory"]["state"], place.birth("clean").as_str()), (&json!("known"), "0"));
}

#[test]
fn a_user_who_may_not_configure_is_told_so_and_is_all_that_a_worker_needs() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    let worker = place.user_of_workers();
    let ran = place.run_as(&worker, &["topology", "declare"]).ended(4);
    assert_eq!(count(&ran.json(), "forbidden"), 56, "{}", ran.out);
    let err = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(err.contains("may not declare") && err.contains("longshore topology definitions"), "{err}");
    assert!(!ran.err.contains("a-password") && !ran.out.contains("a-password"));
    assert_eq!(place.birth("clean"), "", "nothing was made, and a memory was born clean");

    place.run(&["topology", "declare"]).ended(0);
    let mut running = place.worker_as(&worker, &[]);
    running.says("the ways to every return lane are proven");
    running.is_ready_with(200, "");

    // Its canaries and those of others come back through it; jobs are not its to write.
    let checked = place.run_as(&worker, &["topology", "check"]).ended(0).json();
    assert!(findings(&checked).contains("18 of 24 came back"), "{checked}");
    assert!(findings(&checked).contains(&format!("{} was not tried", place.name("jobs"))), "{checked}");
    let checked = place.run(&["topology", "check"]).ended(0).json();
    assert!(findings(&checked).contains("24 of 24 came back"), "{checked}");
}

#[test]
fn a_queue_with_other_arguments_is_told_with_the_brokers_words_and_stays_as_it_is() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    let name = place.name("w.upload.return");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut arguments = FieldTable::default();
    for (argument, value) in [
        ("x-queue-type", "quorum"),
        ("x-dead-letter-exchange", &place.name("dead")),
        ("x-dead-letter-routing-key", "broker"),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ] {
        arguments.insert(argument.into(), AMQPValue::LongString(value.into()));
    }
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(7));
    runtime.block_on(async {
        let (_connection, channel) = place.channel().await;
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(name.as_str().into(), options, arguments.clone()).await.unwrap();
    });
    let ran = place.run(&["topology", "declare"]).ended(6);
    let declared = ran.json();
    assert_eq!((count(&declared, "differs"), count(&declared, "made")), (1, 30), "{declared}");
    for text in [name.as_str(), "x-delivery-limit", "another [topology] prefix", "cannot be changed"] {
        let one_line = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(one_line.contains(text), "no {text:?} in {}", ran.err);
    }
    assert_eq!(place.birth("clean"), "");
    // Still there as it was: its own arguments are accepted.
    runtime.block_on(async {
        let (_connection, channel) = place.channel().await;
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(name.as_str().into(), options, arguments).await.unwrap();
    });
}

#[test]
fn a_check_names_what_is_missing_and_sends_no_canary_into_it() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    let nothing = place.run(&["topology", "check"]).ended(5).json();
    assert_eq!(count(&nothing, "missing"), 31, "{nothing}");
    place.run(&["topology", "declare"]).ended(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name = place.name("w.status-poll.bulk");
    runtime.block_on(async {
        let (_connection, channel) = place.channel().await;
        channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    });
    let checked = place.run(&["topology", "check"]).ended(5).json();
    assert_eq!((count(&checked, "missing"), checked["canaries"].as_array().unwrap().len()), (1, 0), "{checked}");
    let told = findings(&checked);
    assert!(
        told.contains(&format!("queue {name} is missing")) && told.contains("longshore topology declare"),
        "{told}"
    );
    let screen = place.run(&["--output", "table", "topology", "check"]).ended(5).out;
    assert!(screen.contains("x queue") && screen.contains("next: longshore topology declare"), "{screen}");
}

#[test]
fn canaries_come_back_before_the_first_worker_is_there_and_leave_nothing_behind() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    place.run(&["topology", "declare"]).ended(0);
    for _ in 0..2 {
        let checked = place.run(&["topology", "check"]).ended(0).json();
        assert!(findings(&checked).contains("24 of 24 came back"), "{checked}");
        assert_eq!(checked["canaries"].as_array().unwrap().len(), 24);
        let held: u64 = checked["objects"].as_array().unwrap().iter().filter_map(|one| one["messages"].as_u64()).sum();
        assert_eq!(held, 0, "{checked}");
    }
}

#[test]
fn a_canary_that_does_not_come_back_names_its_lane_and_its_way() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    place.run(&["topology", "declare"]).ended(0);
    let lane = place.name("w.upload.return");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let unbind = |queue: String, exchange: String, key: &'static str| {
        runtime.block_on(async {
            let (_connection, channel) = place.channel().await;
            let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
            channel.queue_unbind(queue, exchange, key.into(), FieldTable::default()).await.unwrap();
        });
    };
    unbind(lane.clone(), place.name("out"), "#.upload");
    let mut running = place.worker_as(&place.user_of_workers(), &[]);
    // Both wait for their canaries at the same time.
    let checked = std::thread::scope(|scope| {
        let checking = scope.spawn(|| place.run(&["topology", "check"]).ended(6).json());
        let said = running.says("tickets do not reach the lane");
        assert!(said.contains("ERROR") && said.contains(&lane), "{said}");
        running.is_ready_with(503, &lane);
        checking.join().unwrap()
    });
    let lost = |checked: &Value| -> Vec<String> {
        let flights = checked["canaries"].as_array().unwrap().iter();
        let lost = flights.filter(|flight| flight["state"] == "lost");
        lost.map(|flight| format!("{} {}", flight["way"], flight["lane"]).replace('"', "")).collect()
    };
    assert_eq!(lost(&checked), [format!("hand-over {lane}"), format!("wait {lane}")], "{checked}");
    assert!(findings(&checked).contains(&format!("{lane}: what is published to")), "{checked}");

    // Mended, the worker becomes ready by itself.
    place.run(&["topology", "declare"]).ended(0);
    running.says("the ways to every return lane are proven");
    running.is_ready_with(200, "");

    // Only the delays are broken now.
    unbind(format!("{}.l00", place.name("delay")), place.name("delay"), "l00.#");
    let checked = place.run(&["topology", "check"]).ended(6).json();
    let waits = ["w.status-poll.return", "w.submission.return", "w.upload.return"].map(|lane| place.name(lane));
    let mut found = lost(&checked);
    found.sort();
    assert_eq!(found, waits.map(|lane| format!("wait {lane}")), "{checked}");
    assert!(findings(&checked).contains("had no route"), "what got lost is told: {checked}");
}

#[test]
fn a_lane_with_messages_and_no_consumer_is_told_and_its_messages_stay() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    place.run(&["topology", "declare"]).ended(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let publish = |body: &'static str| {
        runtime.block_on(async {
            let (_connection, channel) = place.channel().await;
            channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.unwrap();
            let (exchange, key) = (place.name("jobs"), "upload");
            let properties = BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let sent =
                channel.basic_publish(exchange.as_str().into(), key.into(), options, body.as_bytes(), properties);
            sent.await.unwrap().await.unwrap();
        });
    };
    publish("{}");
    let lane = place.name("w.upload");
    for _ in 0..2 {
        let checked = place.run(&["topology", "check"]).ended(0).json();
        assert!(findings(&checked).contains(&format!("{lane}: 1 message and no consumer")), "{checked}");
        assert!(findings(&checked).contains("23 of 24 came back"), "{checked}");
        assert!(findings(&checked).contains("cannot be told: 1 messages wait in"), "{checked}");
    }
}

#[test]
fn a_memory_is_born_clean_by_hand_only_when_asked_for_and_nothing_is_under_way() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    let refused = place.run(&["topology", "born"]).ended(2).err;
    assert!(refused.contains("--clean") && refused.contains("every lane and every delay is empty"), "{refused}");
    place.run(&["topology", "born", "--clean"]).ended(5);
    place.run(&["topology", "declare"]).ended(0);
    place.redis.flush();
    place.run(&["topology", "born", "--clean"]).ended(0);
    assert_eq!(place.birth("clean"), "1");

    place.redis.flush();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (_connection, channel) = place.channel().await;
        channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.unwrap();
        let (exchange, options) = (place.name("delay"), BasicPublishOptions::default());
        let key = "l12.upload".into();
        let sent = channel.basic_publish(exchange.as_str().into(), key, options, b"{}", BasicProperties::default());
        sent.await.unwrap().await.unwrap();
    });
    let refused = place.run(&["topology", "born", "--clean"]).ended(6).err;
    assert!(refused.contains("l12 holds 1"), "{refused}");
    assert_eq!(place.birth("clean"), "");
}

#[test]
fn the_definitions_can_be_imported_and_are_what_declare_would_make() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    let ran = place.run(&["topology", "definitions"]).ended(0);
    let file = place.folder().join("definitions.json");
    std::fs::write(&file, &ran.out).unwrap();
    let (is_done, said) = place.broker.control(&["import_definitions", file.to_str().unwrap()]);
    assert!(is_done, "{said}");
    let declared = place.run(&["topology", "declare"]).ended(0).json();
    assert_eq!((count(&declared, "there"), count(&declared, "bound")), (31, 25), "{declared}");
    let policy = |name: &str| {
        let (is_done, said) = place.broker.control(&["list_queues", "name", "policy", "--formatter", "json"]);
        assert!(is_done, "{said}");
        let queues: Vec<Value> = serde_json::from_str(&said).unwrap();
        let queue = queues.into_iter().find(|queue| queue["name"] == place.name(name).as_str()).unwrap();
        queue["policy"].as_str().unwrap_or_default().to_owned()
    };
    let intake = format!("{}-intake", place.prefix);
    let found = ["w.upload", "w.status-poll.bulk", "w.upload.return", "w.dead", "dlq"].map(policy);
    assert_eq!(found, [intake.as_str(), &intake, "", "", ""]);

    // Members of a queue by a policy: only when asked for, since 3.10 refuses the whole file then.
    assert!(!ran.out.contains("target-group-size"), "{}", ran.out);
    let grouped = place.run(&["topology", "definitions", "--group-size", "3"]).ended(0).json();
    assert!(grouped["policies"].as_array().unwrap().iter().all(|one| one["definition"]["target-group-size"] == 3));
}

#[test]
fn an_intake_lane_at_its_length_refuses_and_tells_its_producer() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    place.run(&["topology", "declare"]).ended(0);
    let grouped = place.run(&["topology", "definitions"]).ended(0).json();
    let pattern = grouped["policies"][0]["pattern"].as_str().unwrap();
    let policy = format!("{}-short", place.prefix);
    let (is_done, said) = place.broker.control(&["set_policy", &policy, pattern, r#"{"max-length":2}"#]);
    assert!(is_done, "{said}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (_connection, channel) = place.channel().await;
        channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.unwrap();
        let mut refused = 0;
        for _ in 0..50 {
            let (exchange, options) = (place.name("jobs"), BasicPublishOptions::default());
            let properties = BasicProperties::default().with_delivery_mode(2);
            let sent = channel.basic_publish(exchange.as_str().into(), "upload".into(), options, b"{}", properties);
            refused += u32::from(sent.await.unwrap().await.unwrap().is_nack());
        }
        assert!(refused > 0, "50 jobs went into a lane of two");
    });
}

#[test]
fn a_broker_or_a_memory_that_does_not_answer_is_told_with_its_address_and_without_its_password() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    // Its port is taken and speaks another protocol; nobody listens on port 1.
    let ran = place.run_as("amqp://guest:hunter2hunter2@127.0.0.1:1/%2f", &["topology", "check"]).ended(13);
    assert!(ran.err.contains("127.0.0.1:1") && ran.err.contains("home.broker"), "{}", ran.err);
    let refused = place.run_as(&place.broker.url_of("guest", "hunter2hunter2"), &["topology", "declare"]).ended(13);
    assert!(!format!("{}{}{}", ran.err, refused.err, refused.out).contains("hunter2"), "{} {}", ran.err, refused.err);
    place.run(&["topology", "declare"]).ended(0);
    place.redis.cli(&["SHUTDOWN", "NOSAVE"]);
    let checked = place.run(&["topology", "check"]).ended(13).json();
    let told = findings(&checked);
    assert!(told.contains("cannot be told: memory is not available") && !told.contains("os error"), "{checked}");
}
