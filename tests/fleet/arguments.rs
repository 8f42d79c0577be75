//! `topology check` with the management API: arguments, bindings and policies; and the waits beyond the shortest.

use std::sync::OnceLock;

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;

use crate::{
    place::Place,
    servers::{self, free_port},
};

/// Is there a finding of this kind with these words?
fn says(document: &Value, what: &str, good: impl Into<Value>, words: &str) {
    let good = good.into();
    let found = |finding: &&Value| finding["what"] == what && finding["good"] == good;
    let all = document["findings"].as_array().unwrap();
    assert!(all.iter().filter(found).any(|finding| finding.to_string().contains(words)), "no {words:?}: {all:#?}");
}

/// The management API of the broker of this process, switched on, for this user.
fn management_of(place: &Place, user: &str, password: &str) -> String {
    static PORT: OnceLock<u16> = OnceLock::new();
    let port = PORT.get_or_init(|| {
        let port = free_port();
        let switch = format!(
            "{{ok, F}} = application:get_env(rabbit, enabled_plugins_file), \
             ok = file:write_file(F, \"[rabbitmq_management].\"), \
             application:set_env(rabbitmq_management, listener, [{{port, {port}}}, {{ip, \"127.0.0.1\"}}], \
             [{{persistent, true}}]), rabbit_plugins:ensure(F)."
        );
        let (is_done, said) = place.broker.control(&["eval", &switch]);
        assert!(is_done, "{said}");
        port
    });
    format!("http://{user}:{password}@127.0.0.1:{port}")
}

/// A place whose broker's management API is named in the configuration.
fn managed(user: &str, password: &str) -> Place {
    let place = Place::new();
    std::fs::write(place.folder().join("management"), management_of(&place, user, password)).unwrap();
    let own = std::fs::read_to_string(place.folder().join("own.toml")).unwrap();
    let own = own.replace("[topology]\n", "[topology]\nmanagement_url = \"file:management\"\n");
    std::fs::write(place.folder().join("own.toml"), own).unwrap();
    place
}

#[test]
fn arguments_bindings_and_policies_are_compared_through_the_management_api() {
    if !servers::are_installed() {
        return;
    }
    let place = managed("guest", "guest");
    // One queue is there with arguments of somebody else.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let other = place.name("w.upload.return");
    runtime.block_on(async {
        let (_connection, channel) = place.channel().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(7));
        channel.queue_declare(other.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    });
    place.run(&["topology", "declare"]).ended(6);
    let checked = place.run(&["topology", "check"]).ended(6).json();
    says(&checked, "arguments", false, "x-delivery-limit is 7, not 100");
    says(&checked, "arguments", false, "x-dead-letter-strategy is not set, not at-least-once");
    says(&checked, "policies", true, "none of them harms");
    let (is_done, said) = place.broker.control(&["delete_queue", &other]);
    assert!(is_done, "{said}");
    place.run(&["topology", "declare"]).ended(0);
    let checked = place.run(&["topology", "check"]).ended(0).json();
    says(&checked, "arguments", true, "56 objects and bindings are as they should be");

    // Somebody's broad policy: what is looked at twenty times is gone.
    let (pattern, name) = (format!(r"^{}\.", place.prefix), format!("{}-broad", place.prefix));
    let definition = r#"{"delivery-limit":20}"#;
    let (is_done, said) = place.broker.control(&["set_policy", "--apply-to", "queues", &name, &pattern, definition]);
    assert!(is_done, "{said}");
    let lossy = format!("policy {name} sets delivery-limit 20: what is looked at more often is dropped");
    let mut checked = Value::Null;
    for _ in 0..100 {
        checked = place.run(&["topology", "check"]).json();
        if checked["findings"].to_string().contains(&lossy) {
            break;
        }
    }
    for queue in ["dlq", "w.dead", "unrouted"] {
        says(&checked, "policies", false, &format!("queue {}: {lossy}", place.name(queue)));
    }
    let screen = place.run(&["--output", "table", "topology", "check"]).ended(6).out;
    assert!(screen.contains("rabbitmqctl list_policies"), "{screen}");
    place.broker.control(&["clear_policy", &name]);

    // A binding of an intake lane that nobody sees from within.
    runtime.block_on(async {
        let (_connection, channel) = place.channel().await;
        let (queue, exchange) = (place.name("dlq"), place.name("dead"));
        let (queue, exchange) = (queue.as_str().into(), exchange.as_str().into());
        channel.queue_unbind(queue, exchange, "set-aside".into(), FieldTable::default()).await.unwrap();
    });
    let checked = place.run(&["topology", "check"]).ended(6).json();
    says(&checked, "arguments", false, "with \\\"set-aside\\\": it is missing");
}

#[test]
fn a_management_api_that_refuses_or_is_not_there_is_told_as_such() {
    if !servers::are_installed() {
        return;
    }
    let place = managed("guest", "wrong-password");
    place.run(&["topology", "declare"]).ended(0);
    let ran = place.run(&["topology", "check"]).ended(4);
    says(&ran.json(), "arguments", false, "set_user_tags USER monitoring");
    assert!(!ran.out.contains("wrong-password") && !ran.err.contains("wrong-password"));
    std::fs::write(place.folder().join("management"), "http://guest:guest@127.0.0.1:1").unwrap();
    says(&place.run(&["topology", "check"]).ended(13).json(), "arguments", false, "management plugin");
    std::fs::write(place.folder().join("management"), "http://guest:guest@broker.example.com").unwrap();
    let ran = place.run(&["topology", "check"]).ended(2);
    says(&ran.json(), "arguments", false, "topology.management_url");
    std::fs::remove_file(place.folder().join("management")).unwrap();
    says(&place.run(&["topology", "check"]).ended(2).json(), "arguments", false, "no such file");
}

#[test]
fn every_class_of_waits_is_proven_where_nothing_waits_and_told_where_something_does() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    place.run(&["topology", "declare"]).ended(0);
    let checked = place.run(&["topology", "check"]).ended(0).json();
    let back = |queue: String| {
        let canaries = checked["canaries"].as_array().unwrap();
        canaries.iter().any(|canary| canary["waits_in"] == queue.as_str() && canary["state"] == "back")
    };
    for level in 0..=12 {
        let queue = format!("{}.delay.v1.l{level:02}", place.prefix);
        assert!(back(queue.clone()), "{queue} is not proven: {checked:#}");
    }
    // One that lost its binding is found, and one in which something waits is left alone.
    let queue = |level| format!("{}.delay.v1.l{level:02}", place.prefix);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (_connection, channel) = place.channel().await;
        channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.unwrap();
        let (name, exchange) = (queue(9), place.name("delay"));
        let (name, exchange) = (name.as_str().into(), exchange.as_str().into());
        channel.queue_unbind(name, exchange, "l09.#".into(), FieldTable::default()).await.unwrap();
        let (exchange, properties) = (place.name("delay"), BasicProperties::default().with_delivery_mode(2));
        let (exchange, options) = (exchange.as_str().into(), BasicPublishOptions::default());
        let sent = channel.basic_publish(exchange, "l11.upload".into(), options, b"{}", properties);
        assert!(sent.await.unwrap().await.unwrap().is_ack());
    });
    let checked = place.run(&["topology", "check"]).ended(6).json();
    says(&checked, "canaries", false, &queue(9));
    says(&checked, "canaries", Value::Null, &format!("1 wait before it in {}", queue(11)));
}
