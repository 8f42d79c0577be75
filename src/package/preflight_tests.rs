use std::sync::LazyLock;

use proptest::prelude::*;

use super::{
    super::{cabinet::tests::cab_of, hlkx::tests::zip_of},
    *,
};

const INF: &[u8] = b"[Version]\r\nSignature=\"$Windows NT$\"\r\n[Manufacturer]\r\n%C%=C,NTamd64\r\n";
const ARM: &[u8] = b"[Version]\r\n[Manufacturer]\r\n%C%=C,NTarm64\r\n";
const X64: &str = "WINDOWS_v100_X64_CO_FULL";

fn check_bytes(name: &str, bytes: &[u8], harness: &str, codes: &[&str]) -> Result<Report, Refusal> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let codes: Vec<String> = codes.iter().map(|code| (*code).to_owned()).collect();
    check(&path, harness, &codes)
}

/// Rule and file of every finding.
fn findings(name: &str, bytes: &[u8], harness: &str, codes: &[&str]) -> Vec<(&'static str, Option<String>)> {
    let refusal = check_bytes(name, bytes, harness, codes).unwrap_err();
    assert!(
        refusal.findings.iter().all(|f| !f.problem.is_empty() && !f.remedy.is_empty() && f.source == "hardware-api 9")
    );
    refusal.findings.into_iter().map(|finding| (finding.rule, finding.file)).collect()
}

fn at(rule: &'static str, file: &str) -> (&'static str, Option<String>) {
    (rule, Some(file.to_owned()))
}

#[test]
fn a_good_cabinet_passes_and_is_described() {
    let cab = cab_of(&[("nic/nic.inf", INF), ("nic/amd64/nic.sys", b"MZ"), ("wifi/wifi.inf", INF)]);
    let report = check_bytes("nic.cab", &cab, "Attestation", &[X64]).unwrap();
    assert_eq!((report.kind, report.files, report.bytes), (PackageKind::Cabinet, 3, cab.len() as u64));
    assert_eq!(report.inf_files, ["nic/nic.inf", "wifi/wifi.inf"]);
    assert_eq!(report.warnings.len(), 1, "it is not signed: {:?}", report.warnings);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let long_folder = "f".repeat(40);
    let long_path = format!("nic/{}/{}.sys", "a".repeat(39), "b".repeat(120));
    let cab = cab_of(&[
        ("readme.txt", b"x"),
        ("nic/nic.inf", INF),
        ("tools/tool.exe", b"x"),
        (&format!("{long_folder}/x.inf"), INF),
        ("we&ird/x.inf", INF),
        (&long_path, b"x"),
        ("../evil.sys", b"x"),
    ]);
    let codes = [X64, "WINDOWS_v100_SERVER_X64_GE_FULL", "WINDOWS_7_X64", "WINDOWS_v100_ARM64_GE_FULL"];
    let found = findings("nic.cab", &cab, "attestation", &codes);
    for wanted in [
        ("os-code-server", None),
        ("os-code-version", None),
        ("os-code-architecture", None),
        at("cab-root-file", "readme.txt"),
        at("cab-folder-inf", "tools"),
        at("cab-folder-name", &long_folder),
        at("cab-folder-name", "we&ird"),
        at("cab-path-length", &long_path),
        at("cab-path", "../evil.sys"),
    ] {
        assert!(found.contains(&wanted), "{wanted:?} is not in {found:?}");
    }
    let text = check_bytes("nic.cab", &cab, "attestation", &codes).unwrap_err().to_string();
    assert!(text.contains("readme.txt: it lies in the root of the cabinet [cab-root-file]"), "{text}");
}

#[test]
fn a_cabinet_needs_an_inf_and_the_same_processors_in_every_folder() {
    assert_eq!(findings("x.cab", &cab_of(&[("a/a.sys", b"x")]), "attestation", &[]), [("cab-inf", None)]);
    let mixed = cab_of(&[("a/a.inf", INF), ("b/b.inf", ARM)]);
    let found = findings("x.cab", &mixed, "attestation", &[X64]);
    assert_eq!(found, [at("cab-folder-architectures", "a"), at("cab-folder-architectures", "b")]);
    let binary = cab_of(&[("a/a.inf", &[0, 1, 2, 3])]);
    assert_eq!(findings("x.cab", &binary, "attestation", &[]), [at("inf-readable", "a/a.inf")]);
    // An INF that does not tell is not held against anybody.
    let silent = cab_of(&[("a/a.inf", b"[Version]\n"), ("b/b.inf", INF)]);
    assert!(check_bytes("x.cab", &silent, "attestation", &[X64, "WINDOWS_v100_ARM64_CO_FULL"]).is_ok());
}

#[test]
fn kind_and_name_fit_the_harness() {
    let (cab, zip) = (cab_of(&[("a/a.inf", INF)]), zip_of(&[("hck/x.xml", b"<x/>")]));
    assert!(check_bytes("x.hlkx", &zip, "hlk", &["WINDOWS_v100_SERVER_X64_GE_FULL"]).is_ok());
    assert!(check_bytes("x.hckx", &zip, "hck", &[]).is_ok());
    assert!(check_bytes("spooled", &zip, "hlk", &[]).is_ok());
    for (name, bytes, harness, rule) in [
        ("x.hckx", &zip, "hlk", "package-extension"),
        ("x.hlkx", &zip, "hck", "package-extension"),
        ("x.hlkx", &cab, "attestation", "package-extension"),
        ("x.cab", &zip, "attestation", "package-kind"),
        ("x.hlkx", &cab, "hlk", "package-kind"),
        ("x.cab", &b"MZ executable".to_vec(), "attestation", "package-kind"),
        ("x.cab", &Vec::new(), "attestation", "package-size"),
        ("x.hlkx", &zip_of(&[]), "hlk", "zip-empty"),
        ("x.cab", &cab[..cab.len() - 1].to_vec(), "attestation", "cab-readable"),
        ("x.hlkx", &zip[..zip.len() - 1].to_vec(), "hlk", "zip-readable"),
    ] {
        assert_eq!(findings(name, bytes, harness, &[]), [(rule, None)], "{name} for {harness}");
    }
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("missing.cab")] {
        assert_eq!(check(&path, "attestation", &[]).unwrap_err().findings[0].rule, "package-readable");
    }
    let large = dir.path().join("large.cab");
    fs::File::create(&large).unwrap().set_len(MAX_PACKAGE + 1).unwrap();
    assert_eq!(check(&large, "attestation", &[]).unwrap_err().findings[0].rule, "package-size");
}

#[test]
fn a_read_that_fails_is_no_finding_wherever_it_fails() {
    let noise: Vec<u8> = (0..60_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let files: [(&str, &[u8]); 2] = [("a/a.inf", INF), ("a/a.sys", &noise)];
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, harness) in [("x.cab", cab_of(&files), "attestation"), ("x.hlkx", zip_of(&files), "hlk")] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let mut beats = 0;
        loop {
            match check_paced(&path, harness, &[], &Pace::left_after(beats)) {
                Ok(found) => break assert!(found.is_ok() && beats > 2, "after {beats} reads: {found:?}"),
                Err(failure) => assert!(matches!(failure, Failure::Transient(_)), "{failure:?}"),
            }
            beats += 1;
        }
    }
}

#[test]
fn a_thousand_files_in_the_root_are_not_told_one_by_one() {
    let names: Vec<String> = (0..1000).map(|number| format!("{number}.sys")).collect();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    files.push(("a/a.inf", INF));
    assert_eq!(findings("x.cab", &cab_of(&files), "attestation", &[]).len(), MAX_PER_RULE + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn any_package_is_survived(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), zip: bool) {
        static GOOD: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
            let files: [(&str, &[u8]); 2] = [("nic/nic.inf", INF), ("nic/nic.sys", &[9; 400])];
            [cab_of(&files), zip_of(&files)]
        });
        let mut bytes = GOOD[usize::from(zip)].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _survived = check_bytes("x", &bytes, "notset", &[X64]);
    }
}
