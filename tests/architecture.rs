//! The shape of the crate, checked by reading it: arrows point inward, the core stays pure, a run can be replayed.
//!
//! A rule for a folder that does not exist yet holds by itself. The tests at the end show that every rule bites.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What some folders may not name, and why.
struct Rule {
    /// Folders or files below `src/`; a file is meant when it ends in `.rs`.
    within: &'static [&'static str],
    /// Folders or files below `src/` to which the rule does not apply.
    except: &'static [&'static str],
    /// Words that may not stand there: paths or macros, found at the borders of identifiers.
    forbidden: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        within: &["domain/"],
        except: &[],
        forbidden: &["tokio", "redis", "lapin", "reqwest", "rusqlite", "axum", "rand::", "::now()", "env", "select!"],
        why: "domain/ is pure: time, chance and the results of calls come in as arguments",
    },
    Rule {
        within: &["domain/"],
        except: &[],
        forbidden: &[
            "crate::clock",
            "crate::config",
            "crate::engine",
            "crate::embedded",
            "crate::identity",
            "crate::partner_center",
            "crate::transfer",
            "crate::package",
            "crate::telemetry",
            "crate::cli",
            "crate::app",
        ],
        why: "domain/ knows nobody",
    },
    Rule {
        within: &["domain/", "engine/"],
        except: &[],
        forbidden: &["HashMap", "HashSet"],
        why: "the order of iteration would differ from run to run: BTreeMap, BTreeSet or Vec",
    },
    Rule {
        within: &["engine/"],
        except: &[],
        forbidden: &[
            "tokio::spawn",
            "task::spawn",
            "spawn_blocking",
            "rusqlite",
            "reqwest",
            "axum",
            "Instant::now",
            "rand::",
            "crate::clock",
            "crate::embedded",
            "crate::identity",
            "crate::partner_center",
            "crate::transfer",
            "crate::sandbox",
            "crate::cli",
            "crate::app",
        ],
        why: "the engine sees only ports; its tasks live in a JoinSet that it owns, time and chance come through a port",
    },
    Rule { within: &[""], except: &["embedded/"], forbidden: &["rusqlite"], why: "only embedded/ names rusqlite" },
    Rule {
        within: &[""],
        except: &["partner_center/", "identity/", "transfer/", "http/", "http.rs"],
        forbidden: &["reqwest"],
        why: "only the adapters that call the service name reqwest",
    },
    Rule {
        within: &["partner_center/", "identity/", "transfer/", "engine/", "domain/"],
        except: &[],
        forbidden: &["crate::sandbox"],
        why: "client and sandbox share no wire types: a mistake in one must not hide in the other",
    },
    Rule {
        within: &[""],
        except: &["clock.rs"],
        forbidden: &["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now", "rand::rng", "rand::random"],
        why: "clock.rs holds the only callers of now() and of the random generator",
    },
    Rule {
        within: &[""],
        except: &[],
        forbidden: &["tokio::spawn"],
        why: "every task is tracked: use the owner's JoinSet or TaskTracker",
    },
];

/// The only modules of this crate that the sandbox may know.
const KNOWN_TO_SANDBOX: &[&str] = &["clock", "sandbox"];

#[test]
fn the_crate_keeps_to_its_rules() {
    let found = check_all(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_repository_names_no_path_of_somebodys_machine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for file in files(root) {
        if let Ok(text) = fs::read_to_string(&file) {
            let name = relative(root, &file);
            found.extend(machine_paths(&text).into_iter().map(|(line, path)| format!("{name}:{line}: {path}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn check_all(root: &Path) -> Vec<String> {
    let source = root.join("src");
    let mut found = Vec::new();
    for file in files(&source).into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs")) {
        let name = relative(&source, &file);
        match fs::read_to_string(&file) {
            Ok(text) => found.extend(check(&name, &text)),
            Err(error) => found.push(format!("src/{name} cannot be read: {error}")),
        }
    }
    found
}

/// Every breach of a rule in the file `name` (below `src/`, with `/`), as `src/name:line: word: why`.
fn check(name: &str, text: &str) -> Vec<String> {
    if name.ends_with("/tests.rs") || name.contains("/tests/") {
        return Vec::new();
    }
    let code = without_tests(&without_comments_and_texts(text));
    let mut found = Vec::new();
    let mut breach = |at: usize, word: &str, why: &str| {
        let line = code.get(..at).unwrap_or("").matches('\n').count() + 1;
        found.push(format!("src/{name}:{line}: {word}: {why}"));
    };
    for rule in RULES.iter().filter(|rule| applies(rule, name)) {
        for word in rule.forbidden {
            for at in occurrences(&code, word) {
                breach(at, word, rule.why);
            }
        }
    }
    if name.starts_with("engine/") {
        for at in occurrences(&code, "select!") {
            let body = code.get(at + "select!".len()..).unwrap_or("").trim_start().trim_start_matches(['{', '(', '[']);
            if !body.trim_start().starts_with("biased;") {
                breach(at, "select!", "without `biased;` the order of branches is drawn anew in every run");
            }
        }
    }
    if name.starts_with("sandbox/") {
        for (at, module) in crate_modules(&code, name) {
            if !KNOWN_TO_SANDBOX.contains(&module.as_str()) {
                breach(
                    at,
                    &format!("crate::{module}"),
                    "the sandbox knows crate::clock and nothing else of this crate",
                );
            }
        }
    }
    found
}

fn applies(rule: &Rule, name: &str) -> bool {
    let named = |places: &[&str]| {
        places
            .iter()
            .any(|place| name == *place || name.starts_with(place) && (place.is_empty() || place.ends_with('/')))
    };
    named(rule.within) && !named(rule.except)
}

/// Where `word` stands at the borders of identifiers.
fn occurrences(code: &str, word: &str) -> Vec<usize> {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let begins_with_identifier = part(word.chars().next());
    let ends_with_identifier = part(word.chars().next_back());
    code.match_indices(word)
        .filter(|(at, _)| !(begins_with_identifier && part(code[..*at].chars().next_back())))
        .filter(|(at, _)| !(ends_with_identifier && part(code[at + word.len()..].chars().next())))
        .map(|(at, _)| at)
        .collect()
}

/// The modules at the root of this crate that the code names, through `crate::`, `crate::{…}`, the crate's own name or
/// too many `super::`.
fn crate_modules(code: &str, name: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "longshore::"] {
        for at in occurrences(code, root) {
            let rest = &code[at + root.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                found.extend(group_heads(group).into_iter().map(|module| (at, module)));
            } else {
                found.push((at, identifier(rest)));
            }
        }
    }
    let depth = name.trim_end_matches(".rs").trim_end_matches("/mod").matches('/').count();
    let mut from = 0;
    while let Some(at) = code[from..].find("super::").map(|at| at + from) {
        let mut rest = &code[at..];
        let mut levels = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            rest = next;
            levels += 1;
        }
        if levels > depth {
            found.push((at, identifier(rest)));
        }
        from = at + levels * "super::".len();
    }
    found
}

/// The first name of every branch of `a::b, c::{d, e}}`, up to the brace that closes the group.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0_usize;
    let mut at_head = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && (c.is_alphanumeric() || c == '_') => {
                heads.push(identifier(&group[at..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The code with every `#[cfg(test)] mod … { … }` blanked: tests may use what the code may not.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, marked) = rest.split_at(at);
        out.push_str(before);
        let length = test_module(marked).unwrap_or("#[cfg(test)]".len());
        blank(&mut out, &marked[..length]);
        rest = &marked[length..];
    }
    out.push_str(rest);
    out
}

/// The length of a test module with its body; `None` when something else follows the mark.
fn test_module(marked: &str) -> Option<usize> {
    let open = marked.find(['{', ';']).filter(|at| marked[*at..].starts_with('{'))?;
    if !marked[..open].split_whitespace().any(|word| word == "mod") {
        return None;
    }
    let mut depth = 0_usize;
    for (at, c) in marked.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    Some(marked.len())
}

fn blank(out: &mut String, text: &str) {
    out.extend(text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
}

/// The code with every comment and the inside of every text blanked; line ends stay, so lines can be counted.
fn without_comments_and_texts(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_text(rest, &out) {
            length
        } else if c == '"' {
            quoted(rest)
        } else if let Some(length) = character(rest) {
            length
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        blank(&mut out, &rest[..length]);
        rest = &rest[length..];
    }
    out
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn raw_text(rest: &str, before: &str) -> Option<usize> {
    if before.chars().next_back().is_some_and(|c| c.is_alphanumeric() && c != 'b' && c != 'c' || c == '_') {
        return None;
    }
    let hashes = rest.strip_prefix('r')?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    let body = hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    Some(body.find(&end).map_or(rest.len(), |at| 1 + count + 1 + at + end.len()))
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    if body.starts_with('\\') {
        return body.char_indices().skip(2).find(|(_, c)| *c == '\'').map(|(at, _)| at + 2);
    }
    let c = body.chars().next()?;
    body[c.len_utf8()..].starts_with('\'').then(|| c.len_utf8() + 2)
}

/// Paths that exist on one machine only, with their lines.
fn machine_paths(text: &str) -> Vec<(usize, String)> {
    // put together here, so that this file does not find itself
    let marks =
        [["/", "root", "/"], ["/", "work", "/"], ["/", "home", "/"], ["/", "Users", "/"], ["C:\\", "Users", "\\"]];
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for mark in marks.iter().map(|parts| parts.concat()) {
            for (at, _) in line.match_indices(&mark) {
                // part of a longer path or of an address is no machine path
                let before = line[..at].chars().next_back();
                if before.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '>' | '~' | '*')))
                {
                    found.push((number + 1, line[at..].chars().take(60).collect()));
                }
            }
        }
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir()
            && !matches!(name.to_str(), Some("target" | ".git" | "node_modules" | "demo-out" | ".longshore"))
        {
            found.extend(files(&path));
        } else if kind.is_file() && name != ".git" {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(root: &Path, file: &Path) -> String {
    let parts: Vec<_> =
        file.strip_prefix(root).unwrap_or(file).components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

mod the_checker_bites {
    use super::*;

    #[track_caller]
    fn refused(name: &str, code: &str, word: &str) {
        let found = check(name, code);
        assert!(found.iter().any(|breach| breach.contains(word)), "{name}: {code:?} was let through: {found:?}");
    }

    #[track_caller]
    fn accepted(name: &str, code: &str) {
        assert_eq!(check(name, code), Vec::<String>::new(), "{name}: {code:?}");
    }

    #[test]
    fn on_everything_impure_in_the_domain() {
        for code in [
            "use tokio::time;",
            "use redis as memory;",
            "fn f() { lapin::x() }",
            "use reqwest::Client;",
            "let c = rusqlite::Connection::open(p);",
            "let x: f64 = rand::random();",
            "let t = Moment::now();",
            "let v = std::env::var(\"X\");",
            "use std::{env, fmt};",
            "use std::collections::HashMap;",
            "use std::collections::{BTreeMap, HashSet};",
            "select! { biased; x = y => {} }",
            "use crate::clock;",
            "use crate::partner_center::Client;",
        ] {
            assert!(!check("domain/plan/mod.rs", code).is_empty(), "{code:?} was let through");
        }
        refused("domain/ids.rs", "\n\nuse tokio::time;", "src/domain/ids.rs:3: tokio");
    }

    #[test]
    fn but_not_on_comments_texts_tests_or_longer_names() {
        accepted("domain/a.rs", "/// As `tokio::select!` does. std::env\n/* rand::x /* nested */ HashMap */ fn f() {}");
        accepted(
            "domain/a.rs",
            "const A: &str = \"tokio \\\" redis\"; const B: &str = r#\"lapin \" x\"#; const C: char = '\"';",
        );
        accepted("domain/a.rs", "fn f<'a>(x: &'a str) -> &'a str { x } // HashMap");
        accepted("domain/a.rs", "struct Environment; let redistributed = operand::x(); let my_tokio = 1;");
        accepted("domain/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::collections::HashMap; }");
        accepted("domain/a.rs", "#[cfg(test)]\npub(super) mod tests { fn f() { use tokio::x; } }");
        refused("domain/a.rs", "#[cfg(test)]\nmod tests { fn f() { \"}\" } }\nuse tokio::x;", "domain/a.rs:3: tokio");
        refused("domain/a.rs", "#[cfg(test)]\nmod tests;\nuse tokio::x;", "tokio");
        refused("domain/a.rs", "#[cfg(test)]\nfn f() {}\nuse tokio::x;", "tokio");
        refused("domain/a.rs", "const C: char = '\"'; use tokio::x; const D: char = '\"';", "tokio");
        refused("domain/a.rs", "let s = \"x\"; use tokio::x;", "tokio");
    }

    #[test]
    fn on_an_adapter_named_in_the_wrong_folder() {
        refused("cli/job.rs", "use rusqlite::Connection;", "rusqlite");
        accepted("embedded/file.rs", "use rusqlite::Connection;");
        refused("app.rs", "let c = reqwest::Client::new();", "reqwest");
        refused("sandbox/mod.rs", "use reqwest::Client;", "reqwest");
        accepted("partner_center/http.rs", "use reqwest::Client;");
        refused("embeddedly.rs", "use rusqlite::Connection;", "rusqlite");
    }

    #[test]
    fn on_client_and_sandbox_that_know_each_other() {
        refused("partner_center/wire.rs", "use crate::sandbox::Product;", "crate::sandbox");
        for code in [
            "use crate::domain::ids::ProductId;",
            "use crate::{clock, partner_center::wire};",
            "use crate::{sandbox::{a, b}, transfer};",
            "use longshore::identity::Token;",
            "use super::domain;",
        ] {
            assert!(!check("sandbox/mod.rs", code).is_empty(), "{code:?} was let through");
        }
        refused("sandbox/blob.rs", "use super::super::domain;", "domain");
        accepted(
            "sandbox/blob.rs",
            "use crate::{clock, sandbox::{domain, transfer}}; use super::store; use crate::clock::now;",
        );
        accepted("sandbox/hardware/products.rs", "use super::super::store;");
    }

    #[test]
    fn on_an_engine_that_could_not_be_replayed() {
        refused("engine/worker.rs", "tokio::select! { a = b => {} }", "biased");
        refused("engine/worker.rs", "select! {\n  // biased;\n  a = b => {} }", "biased");
        accepted("engine/worker.rs", "tokio::select! {\n  biased;\n  a = b => {} }");
        refused("engine/worker.rs", "tokio::spawn(f())", "tokio::spawn");
        refused("engine/worker.rs", "let m: HashMap<u8, u8>;", "HashMap");
        refused("engine/worker.rs", "let now = Instant::now();", "Instant::now");
        refused("cli/mod.rs", "let now = jiff::Timestamp::now();", "Timestamp::now");
        accepted("clock.rs", "jiff::Timestamp::now()");
    }

    #[test]
    fn on_a_path_of_somebodys_machine() {
        let home = ["/", "home", "/ada/longshore"].concat();
        assert_eq!(machine_paths(&format!("a\nsee {home} there")), [(2, format!("{home} there"))]);
        assert_eq!(machine_paths(&["\"/", "work", "/main\""].concat()).len(), 1);
        assert!(machine_paths(&["https://example.com/", "home", "/x and ./", "work", "/y"].concat()).is_empty());
    }

    #[test]
    fn on_files_on_disk_and_not_on_folders_that_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_all(folder.path()).is_empty());
        fs::create_dir_all(folder.path().join("src/engine")).unwrap();
        fs::write(folder.path().join("src/engine/worker.rs"), "fn f() { tokio::spawn(x) }").unwrap();
        let found = check_all(folder.path());
        assert!(found.iter().any(|breach| breach.starts_with("src/engine/worker.rs:1: tokio::spawn")), "{found:?}");
    }
}
