use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use secrecy::ExposeSecret;

use super::*;

/// A folder with these files, and the surroundings of a process in it.
struct Place {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, &'static str)>,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { folder, variables: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    fn load(&self, chosen: &[&str]) -> Result<Loaded, Mistakes> {
        let variables = self.variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let surroundings = Surroundings { variables, folder: self.folder.path().to_owned() };
        load_in(&surroundings, &chosen.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    #[track_caller]
    fn mistakes(&self, chosen: &[&str]) -> Vec<String> {
        self.load(chosen).unwrap_err().list.iter().map(ToString::to_string).collect()
    }
}

const ACCOUNT: &str = r#"
[accounts.contoso]
tenant_id = "11111111-2222-4333-8444-555555555555"
client_id = "66666666-7777-4888-8999-aaaaaaaaaaaa"
credential = { secret = "env:CONTOSO_SECRET" }
"#;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn every_file_of_the_configuration_folder_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut loaded = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        load_in(&Surroundings::default(), std::slice::from_ref(&path))
            .unwrap_or_else(|error| panic!("{path:?}: {error}"));
        loaded += 1;
    }
    assert!(loaded >= 2, "{folder:?} holds {loaded} files");
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let settings = defaults();
    assert_eq!(settings.waits.looks.product, [secs(60), secs(300), secs(600)]);
    assert_eq!(settings.waits.looks.submission, [secs(0), secs(60)]);
    assert_eq!(settings.waits.looks.commit, [secs(0), secs(30)]);
    assert_eq!(settings.limits.hardware, Rate { calls_per_minute: 20 });
    assert_eq!(settings.settling_time(), secs(310));
    assert_eq!(settings.worker.call_within(), secs(10));
    assert_eq!(settings.memory.retention, secs(30 * 86_400));
    assert_eq!(settings.transfer.max_package, Size(u64::from(u32::MAX)));
    assert!(settings.markers.submissions && !settings.markers.products);
}

#[test]
fn the_sandbox_overlay_shortens_the_waits_of_the_design_and_nothing_else() {
    let place = Place::new(&[("sandbox.toml", SANDBOX)]);
    let loaded = place.load(&["sandbox.toml"]).unwrap();
    let changed: Vec<String> = loaded
        .show()
        .values
        .iter()
        .filter(|value| matches!(value.origin, Some(Origin::File { .. })))
        .map(|value| format!("{} = {}", value.key, value.written()))
        .collect();
    insta::assert_snapshot!(changed.join("\n"));
}

/// Every `key = value` line of the defaults with the comment above it, those that are commented out as well.
fn documented() -> Vec<(String, String)> {
    let mut documented = Vec::new();
    let (mut section, mut comment) = (String::new(), String::new());
    for line in DEFAULT.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let header = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let key = bare.split_once(" = ").map(|(key, _)| key);
        let is_key = |key: &&str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if let Some(header) = header {
            header.clone_into(&mut section);
            comment.clear();
        } else if let Some(key) = key.filter(is_key) {
            documented.push((format!("{section}.{key}"), std::mem::take(&mut comment).to_lowercase()));
        } else if line.is_empty() {
            comment.clear();
        } else {
            comment.push_str(bare);
            comment.push(' ');
        }
    }
    documented
}

#[test]
fn the_list_of_settings_names_every_setting_its_range_and_no_other() {
    let is_general = |key: &str| !key.starts_with("accounts.");
    let documented: BTreeMap<String, String> = documented().into_iter().filter(|(key, _)| is_general(key)).collect();
    let known: Vec<Described> = described().into_iter().filter(|setting| is_general(&setting.key)).collect();
    let keys: BTreeSet<&String> = known.iter().map(|setting| &setting.key).collect();
    let named: BTreeSet<&String> = documented.keys().collect();
    assert_eq!(keys.difference(&named).collect::<Vec<_>>(), Vec::<&&String>::new(), "not documented");
    assert_eq!(named.difference(&keys).collect::<Vec<_>>(), Vec::<&&String>::new(), "documented, but not there");
    for setting in known {
        let comment = &documented[&setting.key];
        assert!(
            comment.len() > 10 || setting.key.starts_with("endpoints."),
            "{} has no reason: {comment}",
            setting.key
        );
        if let Some(range) = setting.range.map(|range| range.to_lowercase()) {
            let is_named = ['.', ','].iter().any(|end| comment.contains(&format!("range {range}{end}")));
            assert!(is_named, "{}: {range} is not in: {comment}", setting.key);
        }
    }
}

#[test]
fn later_files_win_and_the_environment_wins_over_all() {
    let place = Place::new(&[
        ("a.toml", "[worker]\nlease = \"30s\"\nconcurrency = 2\n"),
        ("b.toml", "[worker]\nlease = \"40s\"\n"),
    ])
    .with("LONGSHORE__WORKER__CONCURRENCY", "5")
    .with("LONGSHORE__QUOTA__POLL_SHARE", "0.25")
    .with("LONGSHORE__MARKERS__PRODUCTS", "true")
    .with("LONGSHORE__WAITS__LOOKS__COMMIT", "1s, 2s")
    .with("LONGSHORE_OTHER", "not ours");
    let loaded = place.load(&["a.toml", "b.toml"]).unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.worker.lease, secs(40));
    assert_eq!(settings.worker.concurrency, 5);
    assert_eq!(settings.waits.looks.commit, [secs(1), secs(2)]);
    assert!(settings.markers.products);
    assert_eq!(loaded.origin("worker.lease").unwrap().to_string(), "b.toml:2:1");
    assert_eq!(loaded.origin("worker.concurrency").unwrap().to_string(), "LONGSHORE__WORKER__CONCURRENCY");
    assert!(loaded.origin("worker.drain").unwrap().to_string().starts_with("default.toml:"));
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_place() {
    let text = r#"
[accounts.contoso]
tenant_id = "contoso.com"
client_id = "66666666-7777-4888-8999-aaaaaaaaaaaa"
credential = { secret = "hunter2hunter2" }
  tokn_version = "v2"

[worker]
laese = "3s"
lease = "1s"
concurrency = "many"
drain = 30

[endpoints]
hardware = "http://example.com/v2.0"

[wroker]
x = 1
"#;
    let place = Place::new(&[("longshore.toml", text)])
        .with("LONGSHORE__HTTP__CONNECT_TIMEOUT", "soon")
        .with("LONGSHORE__HTTP__CONECT_TIMEOUT", "1s");
    let mistakes = place.mistakes(&[]);
    insta::assert_snapshot!(mistakes.join("\n"));
    let whole = format!("{:?} {}", place.load(&[]).unwrap_err(), place.load(&[]).unwrap_err());
    assert!(!whole.contains("hunter2"), "{whole}");
}

#[test]
fn one_mistake_does_not_hide_those_that_show_only_in_the_whole() {
    let second = ACCOUNT.replace("contoso]", "fabrikam]");
    let broken = ACCOUNT.replace("contoso]", "northwind]").replace("1111-2222", "1111-x");
    let text = format!("{ACCOUNT}{second}{broken}[worker]\nlease = \"1ms\"\ndrain = \"2s\"\n");
    let mistakes = Place::new(&[("longshore.toml", &text)]).mistakes(&[]);
    for part in
        ["northwind.tenant_id: not a GUID", "worker.lease: 1ms is out", "worker.drain: 2s is less", "same tenant_id"]
    {
        assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{part}: {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 4, "{mistakes:#?}");
}

#[test]
fn what_is_no_toml_is_told_with_line_and_column_beside_the_other_mistakes() {
    let place = Place::new(&[("a.toml", "[worker]\nlease = = 3\n"), ("b.toml", "[worker]\nfoo = 1\n")]);
    let mistakes = place.mistakes(&["a.toml", "b.toml", "c.toml"]);
    assert!(mistakes.iter().any(|mistake| mistake.starts_with("a.toml:2:9 not TOML: ")), "{mistakes:#?}");
    assert!(mistakes.contains(&"b.toml:2:1 worker.foo: no such setting".to_owned()), "{mistakes:#?}");
    assert!(mistakes.contains(&"c.toml cannot be read: no such file".to_owned()), "{mistakes:#?}");
}

#[test]
fn an_account_holds_one_credential_and_a_later_layer_replaces_it_whole() {
    let certificate = "[accounts.contoso]\ncredential = { certificate = \"file:c.pem\", key = \"file:k.pem\" }\n";
    let place = Place::new(&[("a.toml", ACCOUNT), ("keys/b.toml", certificate)]);
    let loaded = place.load(&["a.toml", "keys/b.toml"]).unwrap();
    let account = loaded.settings.accounts.values().next().unwrap();
    let file = |name: &str| SecretReference::File(place.folder.path().join("keys").join(name));
    assert_eq!(account.credential, Credential::Certificate { certificate: file("c.pem"), key: Some(file("k.pem")) });

    for (credential, problem) in [
        ("{ secret = \"env:A\", password = \"env:B\" }", "credential: must hold exactly one of"),
        ("{ }", "credential: must hold exactly one of"),
        ("{ secrt = \"env:A\" }", "did you mean \"secret\"?"),
        ("{ secret = \"env:A\", key = \"env:B\" }", "belongs to a certificate, not to a secret"),
        ("{ password = \"env:A\" }", "credential.username: missing"),
        ("{ managed_identity = \"x\" }", "not a GUID"),
        ("\"hunter2\"", "must be a table that says which kind"),
    ] {
        let text = ACCOUNT.replace("{ secret = \"env:CONTOSO_SECRET\" }", credential);
        let mistakes = Place::new(&[("longshore.toml", &text)]).mistakes(&[]);
        assert!(mistakes.len() == 1 && mistakes[0].contains(problem), "{credential}: {mistakes:#?}");
        assert!(!mistakes[0].contains("hunter2"));
    }
    for (credential, expected) in [
        ("{ managed_identity = \"system\" }", Credential::ManagedIdentity { client_id: None }),
        (
            "{ password = \"env:A\", username = \"u@contoso.com\" }",
            Credential::Password {
                username: "u@contoso.com".into(),
                password: SecretReference::Environment("A".into()),
            },
        ),
    ] {
        let text = ACCOUNT.replace("{ secret = \"env:CONTOSO_SECRET\" }", credential);
        let loaded = Place::new(&[("longshore.toml", &text)]).load(&[]).unwrap();
        assert_eq!(loaded.settings.accounts.values().next().unwrap().credential, expected);
    }
}

#[test]
fn an_account_may_be_set_by_the_environment_alone() {
    let place = Place::new(&[])
        .with("LONGSHORE__ACCOUNTS__CONTOSO_EU__TENANT_ID", "11111111-2222-4333-8444-555555555555")
        .with("LONGSHORE__ACCOUNTS__CONTOSO_EU__CLIENT_ID", "66666666-7777-4888-8999-aaaaaaaaaaaa")
        .with("LONGSHORE__ACCOUNTS__CONTOSO_EU__CREDENTIAL__SECRET", "env:CONTOSO_SECRET")
        .with("LONGSHORE__ACCOUNTS__CONTOSO_EU__LIMITS__HARDWARE__CALLS_PER_MINUTE", "40");
    let settings = place.load(&[]).unwrap().settings;
    let account = &settings.accounts[&"contoso-eu".parse().unwrap()];
    assert_eq!(account.hardware_rate(&settings.limits), Rate { calls_per_minute: 40 });
    let Credential::Secret(secret) = &account.credential else { panic!("{:?}", account.credential) };
    let found = secret.resolve_with("k", |name| (name == "CONTOSO_SECRET").then(|| "s".to_owned())).unwrap();
    assert_eq!(found.expose_secret(), "s");
}

#[test]
fn settings_that_do_not_fit_each_other_are_refused() {
    let second = ACCOUNT.replace("contoso]", "fabrikam]");
    for (text, problem) in [
        (
            format!("{ACCOUNT}{second}"),
            "accounts.fabrikam.client_id: the same tenant_id and client_id as accounts.contoso",
        ),
        ("[home]\nbroker = \"env:AMQP_URL\"".into(), "home.broker and home.store must both be"),
        ("[home]\nbroker = \"amqp://u:p4ss@host\"".into(), "a URL holds a password"),
        ("[waits.polls]\nfirst = \"2m\"".into(), "waits.polls.first: 2m is more than waits.polls.second, 32s"),
        ("[worker]\ndrain = \"10s\"".into(), "worker.drain: 10s is less than 5m"),
        ("[waits.turns]\nname = \"60s\"".into(), "waits.turns.name: 1m is less than 15m"),
        (
            "[transfer]\nsource_timeout = \"35m\"".into(),
            "memory.grace: 1h is no longer than a delivery may last, 1h: 2 × worker",
        ),
        ("[transfer]\nfile_timeout = \"2m\"".into(), "2 × worker.handler_deadline + transfer.source_timeout + 15 ×"),
        ("[worker]\nhandler_deadline = \"8m\"".into(), "memory.grace: 1h is no longer"),
        ("[memory]\ngrace = \"55m\"".into(), "memory.grace: 55m is no longer than a delivery may last, 55m"),
        ("[waits.looks]\nproduct = []".into(), "empty: at least one is needed"),
        ("[waits.looks]\nproduct = [\"2s\", \"1s\"]".into(), "each must be later"),
        ("[sources]\nhosts = [\"https://x.com/\"]".into(), "sources.hosts[0]: not a host"),
        ("[limits.hardware]\ncalls_per_minute = 0".into(), "0 is out of range, 1 to 60000"),
        ("[accounts.Contoso]".into(), "accounts.Contoso: no name"),
        ("[telemetry]\nlog = \"info,=,\"".into(), "telemetry.log: not a filter"),
        ("[telemetry]\nformat = \"jsn\"".into(), "did you mean \"json\"?"),
        ("[endpoints]\nauthority = \"https://u:p4ss@h/\"".into(), "holds a user or a password"),
        ("[endpoints]\nauthority = \"https://h/?sig=p4ss\"".into(), "holds a query"),
        ("[memory]\nretention_batch = 99999999999999999999".into(), "memory.retention_batch: the number is too large"),
        ("worker = 3".into(), "worker: must be a table, a whole number is not"),
        ("\"home[9999999999]\" = 1".into(), "no such setting"),
    ] {
        let mistakes = Place::new(&[("longshore.toml", &text)]).mistakes(&[]);
        assert!(mistakes.iter().any(|mistake| mistake.contains(problem)), "{text}: {mistakes:#?}");
        assert!(!mistakes.concat().contains("p4ss"), "{mistakes:#?}");
    }
}

#[test]
fn plain_http_is_for_loopback_alone() {
    for (url, is_accepted) in [
        ("http://127.0.0.1:8080/x", true),
        ("http://127.9.9.9", true),
        ("http://[::1]:1", true),
        ("http://localhost:8080", false),
        ("http://127.0.0.1.example.com", false),
        ("http://10.0.0.1", false),
        ("ftp://127.0.0.1", false),
        ("https://example.com/a/", true),
    ] {
        let text = format!("[endpoints]\nhardware = \"{url}\"");
        let loaded = Place::new(&[("longshore.toml", &text)]).load(&[]);
        assert_eq!(loaded.is_ok(), is_accepted, "{url}");
        if let Ok(loaded) = loaded {
            assert!(!loaded.settings.endpoints.hardware.as_str().ends_with('/'));
        }
    }
}

#[test]
fn paths_are_relative_to_the_file_that_names_them() {
    let place = Place::new(&[("etc/longshore.toml", "[home]\ndata_dir = \"data\"\n[sources]\nroots = [\"in\"]\n")]);
    let loaded = place.load(&["etc/longshore.toml"]).unwrap();
    assert_eq!(loaded.data_dir(), place.folder.path().join("etc/data"));
    assert_eq!(loaded.settings.sources.roots, Some(vec![place.folder.path().join("etc/in")]));
    let place = Place::new(&[]).with("LONGSHORE__HOME__DATA_DIR", "here");
    assert_eq!(place.load(&[]).unwrap().data_dir(), place.folder.path().join("here"));
    let place = Place::new(&[]);
    assert!(place.load(&[]).unwrap().data_dir().ends_with(".longshore"));
}

#[test]
fn hosts_are_met_in_full_or_below_a_name() {
    let text = "[sources]\nhosts = [\"*.blob.core.windows.net\", \"Builds.Example.com\"]";
    let hosts = Place::new(&[("longshore.toml", text)]).load(&[]).unwrap().settings.sources.hosts;
    let meets = |host: &str| hosts.iter().any(|pattern| pattern.meets(host));
    assert!(meets("a.blob.core.windows.net") && meets("A.B.blob.core.windows.net.") && meets("builds.example.com"));
    assert!(!meets("blob.core.windows.net") && !meets("xblob.core.windows.net") && !meets("x.builds.example.com"));
    assert!(!meets(".blob.core.windows.net"));
}

#[test]
fn what_is_shown_reads_back_as_the_same_settings_and_holds_no_secret() {
    let place = Place::new(&[("longshore.toml", ACCOUNT), ("sandbox.toml", SANDBOX)]);
    let loaded = place.load(&["longshore.toml", "sandbox.toml"]).unwrap();
    let shown = loaded.show();
    let text = shown.to_toml();
    assert!(text.contains("secret = \"env:CONTOSO_SECRET\"  # longshore.toml:5:16"), "{text}");
    assert!(text.contains("lease = \"12s\"  # sandbox.toml:"), "{text}");
    let again = Place::new(&[("shown.toml", &text)]).load(&["shown.toml"]).unwrap();
    assert_eq!(again.settings, loaded.settings);
    let json = shown.to_json();
    assert_eq!(json["settings"]["worker"]["lease"], "12s");
    assert!(json["origins"]["worker.lease"].as_str().unwrap().starts_with("sandbox.toml:"));
}
