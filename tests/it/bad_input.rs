//! Everything wrong in what the user gives: a clear error with the member's path, exit 2, nothing half-written.

use serde_json::{Value, json};

use crate::world::World;

struct Case {
    name: &'static str,
    edit: fn(&World, &mut Value),
    /// What must stand in the error.
    told: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "an unknown account",
        edit: |_, job| job["account"] = json!("contosso"),
        told: &["account", "contosso", "configured: contoso (own.toml)", "did you mean \"contoso\"?"],
    },
    Case {
        name: "an unknown kind",
        edit: |_, job| job["kind"] = json!("submision"),
        told: &["kind", "submision", "did you mean \"submission\"?"],
    },
    Case {
        name: "an unknown member",
        edit: |_, job| job["spec"]["package"]["souce"] = json!("x"),
        told: &["spec.package", "souce", "did you mean \"source\"?", "jobs are read strictly"],
    },
    Case { name: "a wrong type", edit: |_, job| job["spec"]["commit"] = json!("yes"), told: &["spec.commit"] },
    Case {
        name: "an empty name",
        edit: |_, job| job["spec"]["product"]["create"]["productName"] = json!(""),
        told: &["spec.product.create.productName"],
    },
    Case {
        name: "an empty submission name",
        edit: |_, job| job["spec"]["submission"]["create"]["name"] = json!(" "),
        told: &["spec.submission.create.name", "empty"],
    },
    Case {
        name: "shipping labels",
        edit: |_, job| job["spec"]["shipping_labels"] = json!([]),
        told: &["spec.shipping_labels", "not available"],
    },
    Case { name: "an id that is none", edit: |_, job| job["id"] = json!("a b"), told: &["id"] },
    Case {
        name: "a package that is missing",
        edit: |world, job| {
            let path = world.path("builds").join("missing.cab");
            job["spec"]["package"]["source"] = json!(url::Url::from_file_path(path).unwrap());
        },
        told: &["the package cannot be read", "missing.cab"],
    },
    Case {
        name: "something that is no package",
        edit: |world, job| {
            let path = world.path("builds").join("text.cab");
            std::fs::write(&path, "not a cabinet").unwrap();
            job["spec"]["package"]["source"] = json!(url::Url::from_file_path(path).unwrap());
        },
        told: &["text.cab", "neither a cabinet nor a zip"],
    },
    Case {
        name: "a package of another hash",
        edit: |_, job| job["spec"]["package"]["sha256"] = json!("00".repeat(32)),
        told: &["SHA-256"],
    },
    Case {
        name: "a source outside the roots",
        edit: |world, job| {
            let path = world.path("elsewhere.cab");
            crate::world::write_cabinet(&path);
            job["spec"]["package"]["source"] = json!(url::Url::from_file_path(path).unwrap());
        },
        told: &["outside the sources' roots"],
    },
    Case {
        name: "a source on a host that is not allowed",
        edit: |_, job| job["spec"]["package"]["source"] = json!("https://example.com/nic.cab?sig=geheimnis"),
        told: &["example.com", "hosts"],
    },
    Case {
        name: "a sink outside the roots",
        edit: |world, job| {
            job["spec"]["download"]["to"] = json!(url::Url::from_directory_path(world.path("out")).unwrap());
        },
        told: &["outside the sinks' roots"],
    },
    Case {
        name: "a file where the downloads' folder should be",
        edit: |world, job| {
            let path = world.path("builds").join("nic-1.cab");
            job["spec"]["download"]["to"] = json!(url::Url::from_directory_path(path).unwrap());
        },
        told: &["the downloads cannot be written there", "nic-1.cab", "it is no folder"],
    },
    Case {
        name: "an OS code that attestation does not take",
        edit: |_, job| {
            job["spec"]["product"]["create"]["requestedSignatures"] = json!(["WINDOWS_v100_SERVER_X64_GE_FULL"]);
        },
        told: &["os-code-server", "hardware-api 9"],
    },
];

#[test]
fn every_mistake_in_a_job_is_told_with_its_place_and_nothing_is_half_written() {
    let world = World::new();
    for case in CASES {
        let mut job = world.job("nic-1");
        (case.edit)(&world, &mut job);
        for flags in [&[][..], &["--dry-run"]] {
            let ran = world.submit(&job, flags).ended(2);
            let flat = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
            for word in case.told {
                assert!(flat.contains(word), "{}: no {word:?} in {}", case.name, ran.err);
            }
            assert!(ran.err.starts_with("error: ") && ran.err.contains("\n  next "), "{}: {}", case.name, ran.err);
            let is_misspelt = case.name == "an unknown member";
            assert_eq!(flat.contains("jobs are read strictly"), is_misspelt, "{}: {}", case.name, ran.err);
            assert!(!ran.err.contains("geheimnis") && !ran.out.contains("geheimnis"), "{}", ran.err);
            let result = ran.json();
            assert_eq!(result["state"], "refused", "{}", case.name);
            assert!(!result["error"]["message"].as_str().unwrap().is_empty(), "{}", case.name);
        }
    }
    world.assert_untouched("bad jobs");
}

#[test]
fn text_that_is_no_job_is_refused_however_it_is_made() {
    let world = World::new();
    let deep = format!("{{\"spec\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!("{{\"id\":\"a\",\"labels\":{{\"x\":\"{}\"}}}}", "x".repeat(2 << 20));
    for (name, text, told) in [
        ("nested 10,000 deep", deep.as_str(), "recursion limit"),
        ("over the limit", large.as_str(), "max_size"),
        ("not JSON", "hello", "stdin"),
        ("an array", "[]", "stdin"),
        ("two documents", "{} {}", "stdin"),
        ("a repeated member", "{\"id\":\"a\",\"id\":\"b\"}", "id"),
        ("nothing", "", "no job"),
    ] {
        let ran = world.run_with(&["submit", "-"], text).ended(2);
        assert!(ran.err.contains(told), "{name}: {}", ran.err);
        assert!(ran.err.lines().all(|line| line.chars().count() < 200), "{name}: {}", ran.err);
    }
    let ran = world.run(&["submit", "builds"]).ended(2);
    assert!(ran.err.contains("it is a folder") && !ran.err.contains("smaller parts"), "{}", ran.err);
    let ran = world.run(&["submit", "no-such-file.json"]).ended(2);
    assert!(ran.err.contains("no-such-file.json") && ran.err.contains("no such file"), "{}", ran.err);
    world.assert_untouched("no jobs");
}

#[test]
fn three_mistakes_of_a_configuration_are_told_at_once_each_with_its_place() {
    let world = World::new();
    let text = "[worker]\nlaese = \"1s\"\n[accounts.contoso]\ntenant_id = \"x\"\n\
                client_id = \"66666666-7777-4888-8999-aaaaaaaaaaaa\"\ncredential = { secret = \"hunter2\" }\n";
    std::fs::write(world.path("wrong.toml"), text).unwrap();
    let ran = world.run_bare(&["--config", "wrong.toml", "config", "check"]).ended(2);
    let flat = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
    for told in
        ["3 mistakes", "wrong.toml:2:", "did you mean", "wrong.toml:4:", "accounts.contoso.tenant_id", "wrong.toml:6:"]
    {
        assert!(flat.contains(told), "no {told:?} in {}", ran.err);
    }
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
}

#[test]
fn a_secret_that_cannot_be_fetched_is_named_with_its_setting_before_anything_is_stored() {
    let world = World::new();
    let job = world.job("nic-1");
    std::fs::remove_file(world.path("secret")).unwrap();
    let ran = world.submit(&job, &["--wait"]).ended(2);
    assert!(ran.err.contains("accounts.contoso.credential.secret"), "{}", ran.err);
    assert_eq!(ran.json()["state"], "refused");
    world.run(&["config", "check"]).ended(2);
    world.run(&["worker"]).ended(2);
    world.assert_untouched("no secret");
}

#[test]
fn what_can_be_sent_passes_a_dry_run_and_nothing_is_stored() {
    let world = World::new();
    let ran = world.submit(&world.job("nic-1"), &["--dry-run"]).ended(0);
    let result = ran.json();
    assert_eq!((&result["state"], &result["job"]), (&json!("valid"), &json!("nic-1")));
    assert_eq!(result["package"]["inf_files"], 1);
    world.assert_untouched("dry run");
}

#[test]
fn of_several_jobs_the_good_ones_are_accepted_and_the_code_says_that_some_failed() {
    let world = World::new();
    let lines = format!("{}\n{{\"id\":\"bad\"}}\n{}\n", world.job("a"), world.job("b"));
    let ran = world.run_with(&["submit", "-"], &lines).ended(1);
    let states: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].clone()).collect();
    assert_eq!(states, ["accepted", "refused", "accepted"]);
    assert!(ran.err.contains("stdin, line 2"), "{}", ran.err);
    assert!(ran.err.contains("longshore worker"), "it says how to start a worker: {}", ran.err);
}
