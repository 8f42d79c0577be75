//! The hidden `longshore __complete LINE`: job ids and account names that fit where the cursor stands, one a line.
//!
//! It makes and changes nothing (a newer build's Tab key must not migrate the file), calls nobody, and is silent when something is wrong: a shell asks at every Tab.

use std::ffi::OsStr;

use clap::{Args, CommandFactory as _};

use super::super::{arguments, context::Context, exit::Exit, stop::Outcome};
use crate::{
    app::settings,
    config::{self, Loaded},
    domain::ids::{JobId, JobKey},
    embedded::{self, Named},
};

/// More than anybody reads.
const MOST: u32 = 200;

/// What a shell asks.
///
/// Example: longshore __complete "longshore job show "
#[derive(Debug, Args)]
#[command(name = "__complete")]
pub(in super::super) struct Asked {
    /// The line up to the cursor, the program's name first
    line: String,
}

/// What may stand where the cursor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Accounts,
    Jobs,
    DeadLetters,
}

pub(in super::super) fn run(context: &mut Context, asked: &Asked) -> Outcome {
    let words: Vec<&str> = asked.line.split_whitespace().collect();
    let current =
        if asked.line.ends_with(char::is_whitespace) { "" } else { words.last().copied().unwrap_or_default() };
    let before = words.get(1..words.len() - usize::from(!current.is_empty())).unwrap_or_default();
    let (wanted, files) = place(before, current);
    let mut files: Vec<_> = files.into_iter().map(Into::into).collect();
    files.splice(0..0, context.global.config.iter().cloned());
    if let (Some(wanted), Ok(loaded)) = (wanted, config::load(&files)) {
        let found = found(&loaded, wanted, current);
        let lines: String =
            found.into_iter().filter(|name| name.starts_with(current)).map(|name| name + "\n").collect();
        context.out.text(&lines)?;
    }
    Ok(Exit::Done)
}

/// What may stand behind these words, and the configuration files that they name.
fn place(before: &[&str], current: &str) -> (Option<Wanted>, Vec<String>) {
    let mut command = arguments::Arguments::command();
    command.build();
    let mut command = &command;
    let mut files = Vec::new();
    let mut positionals = 0;
    let mut pending: Option<String> = None;
    for word in before {
        if let Some(option) = pending.take() {
            if option == "config" {
                files.push((*word).to_owned());
            }
        } else if word.starts_with('-') {
            pending = awaits_value(command, word);
            if let Some(file) = word.strip_prefix("--config=") {
                files.push(file.to_owned());
            }
        } else if let Some(inner) = command.find_subcommand(OsStr::new(word)) {
            (command, positionals) = (inner, 0);
        } else {
            positionals += 1;
        }
    }
    let wanted = match pending.as_deref() {
        Some("account") => Some(Wanted::Accounts),
        Some(_) => None,
        None if current.starts_with('-') => None,
        None => positional(command, positionals).and_then(|id| match id {
            "accounts" => Some(Wanted::Accounts),
            "job" => Some(Wanted::Jobs),
            "letter" | "letters" => Some(Wanted::DeadLetters),
            _ => None,
        }),
    };
    (wanted, files)
}

/// The name of what stands behind so many others; the last may stand again and again.
fn positional(command: &clap::Command, others: usize) -> Option<&str> {
    let at = command.get_positionals().nth(others);
    let is_many = |last: &&clap::Arg| matches!(last.get_action(), clap::ArgAction::Append);
    at.or_else(|| command.get_positionals().last().filter(is_many)).map(|found| found.get_id().as_str())
}

/// The option that this word names, when its value comes next.
fn awaits_value(command: &clap::Command, word: &str) -> Option<String> {
    let (long, short) = (word.strip_prefix("--"), word.strip_prefix('-').and_then(|rest| rest.chars().next()));
    let is_named = |option: &&clap::Arg| match long {
        Some(long) => option.get_long() == Some(long),
        None => word.chars().count() == 2 && option.get_short().is_some() && option.get_short() == short,
    };
    let option = command.get_opts().find(is_named)?;
    option.get_action().takes_values().then(|| option.get_id().to_string())
}

fn found(loaded: &Loaded, wanted: Wanted, current: &str) -> Vec<String> {
    let wanted = match wanted {
        Wanted::Accounts => return loaded.settings.accounts.keys().map(ToString::to_string).collect(),
        Wanted::Jobs => Named::Jobs,
        Wanted::DeadLetters => Named::DeadLetters,
    };
    let keys = embedded::glance(&settings::home(loaded).data_dir, wanted, current, MOST);
    // An id that two accounts have is no name of one job.
    let is_shared = |id: &JobId| keys.iter().filter(|key| key.id == *id).count() > 1;
    let is_whole = |key: &JobKey| current.contains('/') || is_shared(&key.id);
    keys.iter().map(|key| if is_whole(key) { key.to_string() } else { key.id.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_fits_where_the_cursor_stands() {
        for (before, current, wanted) in [
            ("job show", "", Some(Wanted::Jobs)),
            ("job show", "nic", Some(Wanted::Jobs)),
            ("--utc job retry --wait", "", Some(Wanted::Jobs)),
            ("job --output json cancel", "", Some(Wanted::Jobs)),
            ("job show nic-1", "", None),
            ("job show", "--", None),
            ("job", "", None),
            ("job list --account", "", Some(Wanted::Accounts)),
            ("job list --account", "con", Some(Wanted::Accounts)),
            ("job list --account contoso", "", None),
            ("product show --account", "", Some(Wanted::Accounts)),
            ("product show", "", None),
            ("dead-letter replay", "", Some(Wanted::DeadLetters)),
            ("dead-letter replay --adopt", "", None),
            ("dead-letter discard nic-1", "", Some(Wanted::DeadLetters)),
            ("auth test", "", Some(Wanted::Accounts)),
            ("auth test contoso", "", Some(Wanted::Accounts)),
            ("submit", "nic", None),
            ("-c a.toml --config=b.toml job watch", "", Some(Wanted::Jobs)),
            ("nonsense --more", "x", None),
            ("", "", None),
        ] {
            let words: Vec<&str> = before.split_whitespace().collect();
            assert_eq!(place(&words, current).0, wanted, "{before:?} before {current:?}");
        }
        assert_eq!(place(&["-c", "a.toml", "--config=b.toml", "job", "watch"], "").1, ["a.toml", "b.toml"]);
    }
}
