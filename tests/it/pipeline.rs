//! A pipeline that tries itself against the sandbox: one command writes the configuration, the others use it.

use std::process::{Child, Stdio};

use crate::world::{World, until};

/// A sandbox of its own process, killed at the end of its test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_configuration_that_the_sandbox_writes_names_a_home_of_its_own() {
    let world = World::new();
    let bare = world.bare();
    let mut command = std::process::Command::new(bare.get_program());
    command.args(["sandbox", "--write", "sandbox.toml", "--data-dir", "kept"]).current_dir(world.folder.path());
    command.env_clear().env("HOME", world.folder.path()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let _serving = Serving(command.spawn().unwrap());
    let kept = world.path("kept");
    let text = || std::fs::read_to_string(world.path("sandbox.toml")).unwrap_or_default();
    until("the configuration is written", || text().trim_end().ends_with('"') && text().contains("data_dir"));
    // Nothing but this file is needed, and what is done with it lies below the sandbox's own folder.
    let ran = world.run_bare(&["--config", "sandbox.toml", "doctor"]).ended(0);
    let told = ran.json()["findings"].to_string();
    let home = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
        path.file_name().unwrap().to_string_lossy().starts_with("home-") && path.join("longshore.db").is_file()
    });
    let home = home.unwrap_or_else(|| panic!("no home below {}: {told}", kept.display()));
    assert!(told.contains(&home.join("longshore.db").display().to_string()), "{told}");
    crate::run_folder::register_home(&home).unwrap();
    assert!(!world.path("home").exists() && !world.path(".local").exists(), "the user's own home was opened");
    for secret in std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        crate::run_folder::by_design(&secret).unwrap();
    }
}
