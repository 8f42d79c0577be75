//! `submit --retry-failed` in a fleet: what ended other than completed runs again, everything else is what it was.

use longshore::sandbox::{Fault, FaultKind};

use crate::{fleet::Fleet, servers, world::until};

#[test]
fn a_job_that_failed_runs_again_one_generation_later_and_a_completed_one_does_not() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("again", &[]);
    let world = &fleet.world;
    let worker = world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    // Never seen: it is handed in as every job.
    world.fault(Fault::next("createInitialSubmission", FaultKind::RoleMissing));
    let job = world.job("nic-1");
    let failed = world.submit(&job, &["--retry-failed", "--wait"]).json();
    assert_eq!(failed["state"], "failed", "{failed:#}");
    // Handed in again without it, its end is told again, and nothing runs.
    let told = world.submit(&job, &["--wait"]).json();
    assert_eq!((&told["state"], &told["generation"]), (&"failed".into(), &failed["generation"]), "{told:#}");
    let again = world.submit(&job, &["--retry-failed", "--wait"]).ended(0).json();
    assert_eq!((&again["state"], &again["product_id"]), (&"completed".into(), &failed["product_id"]), "{again:#}");
    let shown = world.run(&["job", "show", "nic-1"]).ended(0).json();
    assert_eq!((&shown["state"], &shown["generation"]), (&"completed".into(), &2.into()), "{shown:#}");
    // There is nothing left to run again.
    world.submit(&job, &["--retry-failed"]).ended(0);
    assert_eq!(world.run(&["job", "show", "nic-1"]).ended(0).json()["generation"], 2);
    // Another content is no repeat.
    let mut other = job.clone();
    other["spec"]["submission"]["create"]["name"] = "another".into();
    assert_eq!(world.submit(&other, &["--retry-failed", "--wait"]).ended(2).json()["error"]["code"], "other-content");
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 1);
}
