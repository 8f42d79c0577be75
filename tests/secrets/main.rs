//! Where secrets must not be: the search over everything that a run of the tests wrote, and the proof that it bites.

#![expect(clippy::unwrap_used, reason = "a test fails by them")]

mod planted;
mod run_folder;
mod search;
mod submission;

/// The search over the run's folder: `make test` asks for it after all other tests.
#[test]
fn no_file_of_this_run_holds_a_registered_secret() {
    if std::env::var_os("LONGSHORE_SEARCH_SECRETS").is_none() {
        println!("not searched: `make test` asks for it, after all other tests");
        return;
    }
    let report = search::run(&run_folder::root()).unwrap();
    println!(
        "\nsecrets: {} secrets × {} files searched ({} MiB), {} left out by design, found {}",
        report.secrets,
        report.files,
        report.bytes >> 20,
        report.left_out,
        report.found.len(),
    );
    assert!(report.secrets > 0 && report.files > 0, "nothing was registered or written, so nothing was searched");
    assert!(report.found.is_empty(), "{:#?}", report.found);
}
