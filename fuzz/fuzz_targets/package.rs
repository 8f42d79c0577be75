//! Preflight and verification of cabinets and archives.
#![no_main]

use std::{fs, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use longshore::package::{preflight, verify};

static FILE: LazyLock<tempfile::TempPath> =
    LazyLock::new(|| tempfile::NamedTempFile::new().expect("a temporary file").into_temp_path());

fuzz_target!(|bytes: &[u8]| {
    // libFuzzer takes every panic for a crash; those of the libraries that read packages are caught, and are damage.
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| drop(std::panic::take_hook()));
    fs::write(&*FILE, bytes).expect("the temporary file takes bytes");
    let codes = ["WINDOWS_v100_X64_GE_FULL".to_owned()];
    for harness in ["attestation", "hlk"] {
        let _checked = preflight::check(&FILE, harness, &codes);
    }
    let _verified = verify::verify(&FILE, Some(&FILE));
});
