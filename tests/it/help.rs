//! Help opens with one sentence and an example that works as pasted.

use crate::world::World;

/// Every command, but `help` itself.
const COMMANDS: &[&str] = &[
    "",
    "demo",
    "worker",
    "submit",
    "sign",
    "preflight",
    "job",
    "job list",
    "job show",
    "job watch",
    "job cancel",
    "job retry",
    "dead-letter",
    "dead-letter list",
    "dead-letter show",
    "dead-letter replay",
    "dead-letter discard",
    "product",
    "product list",
    "product show",
    "submission",
    "submission list",
    "submission show",
    "auth",
    "auth test",
    "doctor",
    "topology",
    "topology declare",
    "topology check",
    "topology show",
    "topology definitions",
    "topology born",
    "sandbox",
    "schema",
    "config",
    "config show",
    "config check",
    "completions",
];

#[test]
fn every_help_opens_with_a_sentence_and_an_example_that_is_understood() {
    let world = World::new();
    for command in COMMANDS {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = world.run_bare(&words).ended(0).out;
        let first = help.lines().next().unwrap_or_default();
        assert!(first.starts_with(char::is_uppercase) && first.len() > 15, "{command:?} opens with {first:?}");
        let example = help
            .lines()
            .find_map(|line| line.strip_prefix("Example: longshore "))
            .unwrap_or_else(|| panic!("{command:?} has no example:\n{help}"));
        assert!(example.starts_with(command.split(' ').next().unwrap()), "{command:?}: {example}");
        // These two would run for long; their help shows that they exist.
        if ["demo", "sandbox --write sandbox.toml"].contains(&example) {
            continue;
        }
        let pasted: Vec<String> = words_of(example.split(" > ").next().unwrap());
        let pasted: Vec<&str> = pasted.iter().map(String::as_str).collect();
        let ran = world.run_bare(&pasted);
        assert!(!ran.err.contains("Usage:"), "{command:?}: {example} is not understood:\n{}", ran.err);
    }
}

/// Words as a shell splits them, double quotes included.
fn words_of(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

#[test]
fn usage_errors_are_input_errors_and_help_names_every_command() {
    let world = World::new();
    world.run_bare(&["sbumit"]).ended(2);
    world.run_bare(&["job", "list", "--state", "done"]).ended(2);
    let help = world.run_bare(&["--help"]).ended(0).out;
    for command in COMMANDS.iter().filter(|command| !command.contains(' ') && !command.is_empty()) {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in the help");
    }
    assert!(!help.contains("crash-points"));
}
