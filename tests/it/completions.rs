//! What the Tab key offers: bash itself runs the generated script.

use std::process::Command;

use crate::world::World;

/// What bash offers for this line, the cursor at its end.
fn offered(world: &World, line: &str) -> Vec<String> {
    const ASK: &str = r#"
        source ./completions.bash
        COMP_LINE="$1" COMP_POINT=${#1}
        # Words as readline divides them: at blanks and colons.
        read -ra COMP_WORDS <<< "${1//:/ : }"
        [[ "$1" == *' ' ]] && COMP_WORDS+=("")
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        last="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"
        eval "$(complete -p longshore | sed 's/.*-F \([^ ]*\).*/asks=\1/')"
        $asks longshore "$last" "$previous"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let program = assert_cmd::cargo::cargo_bin!("longshore");
    let path = std::env::join_paths(
        program.parent().into_iter().map(Into::into).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", ASK, "bash", line]).current_dir(world.folder.path()).env("PATH", path.unwrap());
    bash.env("HOME", world.folder.path());
    for name in ["LONGSHORE_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        bash.env_remove(name);
    }
    let output = bash.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_jobs_accounts_and_dead_letters_that_are_there_and_everything_else_as_ever() {
    let world = World::new();
    let script = world.run_bare(&["completions", "bash"]).ended(0).out;
    std::fs::write(world.path("completions.bash"), script).unwrap();
    let configured = "longshore -c waits.toml -c own.toml";
    // Nothing is made by looking.
    let offered_before = offered(&world, &format!("{configured} job show "));
    assert!(offered_before.iter().all(|word| word.starts_with('-')), "{offered_before:?}");
    assert!(!world.path("home").exists(), "the Tab key made a home");

    for id in ["nic-1", "nic:2", "audio-1"] {
        let mut job = world.job("nic");
        job["id"] = id.into();
        world.submit(&job, &[]).ended(0);
    }
    world.run(&["job", "cancel", "audio-1"]).ended(0);
    let mut all = offered(&world, &format!("{configured} job show "));
    all.sort();
    assert_eq!(all, ["audio-1", "nic-1", "nic:2"]);
    assert_eq!(offered(&world, &format!("{configured} job watch aud")), ["audio-1"]);
    assert_eq!(offered(&world, &format!("{configured} job show nic:")), ["2"], "bash has the part before the colon");
    assert_eq!(offered(&world, &format!("{configured} dead-letter show ")), ["audio-1"]);
    assert_eq!(offered(&world, &format!("{configured} product list --account ")), ["contoso"]);
    assert_eq!(offered(&world, "longshore dead-l"), ["dead-letter"]);
    assert!(offered(&world, "longshore job show --").contains(&"--output".to_owned()));
    assert!(!offered(&world, "longshore ").iter().any(|word| word.contains("__")), "what is hidden is not offered");
}
