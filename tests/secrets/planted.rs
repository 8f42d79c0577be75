//! The search bites: a secret that is planted in any form, at any alignment and cut to 16 bytes is found, 15 are not.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    run_folder::{BY_DESIGN, REGISTER},
    search::{self, Needles, WINDOW},
};

const SECRET: &[u8] = b"kT9~x+Q/4v=Zr 8?wPq&Lm3#Yb7\"Hn$Jc5";

fn forms(bytes: &[u8]) -> BTreeSet<&'static str> {
    Needles::of([&SECRET.to_vec()]).find(bytes)
}

/// These bytes, with those that `is_encoded` picks as `%XX`.
fn written(window: &[u8], is_encoded: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut text = String::new();
    for byte in window {
        if is_encoded(*byte) {
            write!(text, "%{byte:02X}").unwrap();
        } else {
            text.push(char::from(*byte));
        }
    }
    text.into_bytes()
}

/// Every 16 bytes in a row of the secret, written by `write` between other bytes.
fn all_windows(form: &'static str, write: impl Fn(&[u8]) -> Vec<u8>) {
    for window in SECRET.windows(WINDOW) {
        let found = forms(&write(window));
        assert!(found.contains(form), "{form}: {window:?} is not found in {:?}", write(window));
    }
}

#[test]
fn sixteen_bytes_are_found_plain_and_fifteen_are_not() {
    all_windows("plain", |window| [b"SQLite format 3\0", window, &[0xff; 9]].concat());
    for window in SECRET.windows(WINDOW - 1) {
        assert_eq!(forms(&[b"..", window, b".."].concat()), BTreeSet::new());
    }
}

#[test]
fn sixteen_bytes_are_found_percent_encoded_whoever_chose_what_to_encode() {
    let all = |window: &[u8]| written(window, |_| true);
    let small = |window: &[u8]| all(window).to_ascii_lowercase();
    let form = |window: &[u8]| written(window, |byte| !byte.is_ascii_alphanumeric());
    all_windows("percent", all);
    all_windows("percent", small);
    // A window without any character to encode is plain.
    for window in SECRET.windows(WINDOW) {
        assert!(!forms(&[b"secret=", form(window).as_slice(), b"&x=1"].concat()).is_empty());
    }
}

#[test]
fn sixteen_bytes_are_found_in_base64_at_every_alignment() {
    for (before, behind) in [("", ""), ("u", "v"), ("user:", ":tail"), ("ab", "cde"), ("xyz", "0")] {
        all_windows("base64", |window| {
            let whole = [before.as_bytes(), window, behind.as_bytes()].concat();
            format!("Authorization: Basic {}\r\n", STANDARD.encode(whole)).into_bytes()
        });
        all_windows("base64", |window| {
            let whole = [before.as_bytes(), window, behind.as_bytes()].concat();
            base64::engine::general_purpose::URL_SAFE.encode(whole).into_bytes()
        });
    }
    let twice = STANDARD.encode([b"id:", SECRET].concat()).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    assert!(!forms(twice.as_bytes()).is_empty(), "base64 in a form's body");
}

#[test]
fn a_folder_is_searched_but_for_what_holds_a_secret_by_design() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let key = root.join("home/key");
    for (path, bytes) in [
        (root.join(REGISTER).join("1.secret"), SECRET.to_vec()),
        (root.join(REGISTER).join(BY_DESIGN), format!("{}\n", key.display()).into_bytes()),
        (key, SECRET.to_vec()),
        (root.join("home/home.sqlite"), [&[0; 5000], &SECRET[7..7 + WINDOW], &[0; 5000]].concat()),
        (root.join("logs/worker.log"), b"nothing to see".to_vec()),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let report = search::run(root).unwrap();
    assert_eq!((report.secrets, report.files, report.left_out), (1, 2, 2));
    assert_eq!(report.found, BTreeSet::from([(root.join("home/home.sqlite"), "plain")]));
}
