//! Every setting of the list reaches the code: it is read somewhere outside this folder.
//!
//! The configuration's structs are known in few files; there, a key is read as `section.key` with the section's own name
//! (`quota.ahead`, `waits.parks.listing`). That text is looked for, in code that ships: not in comments, not in tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Settings that are read through a method of this folder, and how that is called.
const BY_METHOD: [(&str, &str); 2] = [("home.data_dir", "loaded.data_dir()"), ("topology.kinds", "topology.kinds()")];

/// All Rust files below this folder but those of the configuration.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("src/config") {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file that knows the configuration: without comments and tests, a chain of fields on one line.
fn shipped(text: &str) -> Option<String> {
    if !text.contains("config::") && !text.contains("loaded.settings") {
        return None;
    }
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut shipped = String::new();
    for line in code.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        if !line.starts_with('.') {
            shipped.push('\n');
        }
        shipped.push_str(line);
    }
    Some(shipped)
}

/// Is `section.key` there, as whole words?
fn names(code: &str, wanted: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(wanted).any(|(at, _)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + wanted.len()..].chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(|c| is_word(c) || c == '(')
    })
}

/// The keys that none of these sources reads.
fn unread<'a>(keys: impl IntoIterator<Item = &'a str>, sources: &[String]) -> BTreeSet<&'a str> {
    let is_unread = |key: &&str| {
        let mut parts = key.rsplit('.');
        let leaf = parts.next().unwrap_or_default();
        let section = match parts.next() {
            Some("*") => "account",
            Some(section) => section,
            None => "settings",
        };
        let wanted = format!("{section}.{leaf}");
        let by_method = BY_METHOD.iter().find(|(name, _)| name == key).map(|(_, call)| *call);
        !sources.iter().any(|code| names(code, &wanted) || by_method.is_some_and(|call| code.contains(call)))
    };
    keys.into_iter().filter(is_unread).collect()
}

#[test]
fn every_setting_is_read_by_code_outside_the_configuration() {
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let sources: Vec<String> = found.iter().filter_map(|path| shipped(&fs::read_to_string(path).unwrap())).collect();
    assert!(sources.len() > 5, "few files know the configuration, but not as few as {}", sources.len());
    let settings = super::described();
    let keys: Vec<&str> = settings.iter().map(|setting| setting.key.as_str()).collect();
    assert!(keys.len() > 80, "{keys:?}");
    assert_eq!(unread(keys.iter().copied(), &sources), BTreeSet::new(), "promised in default.toml, but read by nobody");
    // and it bites: a key that nobody reads is told
    let planted = unread(keys.iter().copied().chain(["quota.planted", "waits.parks.planted"]), &sources);
    assert_eq!(planted, BTreeSet::from(["quota.planted", "waits.parks.planted"]));
}

#[test]
fn only_shipped_code_that_knows_the_configuration_counts_as_reading() {
    let is_read = |text: &str| unread(["quota.ahead"], &Vec::from_iter(shipped(text))).is_empty();
    assert!(is_read("use config::Settings;\nlet x = settings.quota.ahead;"));
    assert!(is_read("use config::Settings;\nlet x = settings\n    .quota\n    .ahead;"));
    for text in [
        "let x = settings.quota.ahead;",
        "use config::Settings;\n// settings.quota.ahead",
        "use config::Settings;\nlet x = settings.quota.ahead_of;",
        "use config::Settings;\nlet x = other_quota.ahead;",
        "use config::Settings;\nlet x = quota.ahead();",
        "use config::Settings;\n#[cfg(test)]\nmod tests { fn x() { settings.quota.ahead } }",
    ] {
        assert!(!is_read(text), "{text}");
    }
    assert!(unread(["accounts.*.client_id"], &["account.client_id".to_owned()]).is_empty());
    assert!(unread(["home.data_dir"], &["loaded.data_dir()".to_owned()]).is_empty());
}
