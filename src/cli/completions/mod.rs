//! `longshore completions`: what a shell offers behind the Tab key.
//!
//! The scripts know the commands by themselves. For job ids and account names those of bash, zsh and fish ask the hidden
//! `longshore __complete` first ([`asked`]), so that what is offered is what is there.

mod asked;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

pub(super) use self::asked::{Asked, run as run_asked};
use super::{arguments, context::Context, exit::Exit, stop::Outcome};

/// The call of the static function at the end of zsh's script, and its two names there.
const ZSH_TAIL: &str = "if [ \"$funcstack[1]\" = \"_longshore\" ]; then\n    _longshore \"$@\"\nelse\n    compdef _longshore longshore\nfi\n";

/// Prints the completions for a shell; those of bash, zsh and fish know job ids and account names, too.
///
/// Example: longshore completions bash > ~/.local/share/bash-completion/completions/longshore
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Outcome {
    context.out.text(&script(arguments.shell))?;
    Ok(Exit::Done)
}

/// The script for a shell.
fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(), "longshore", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + include_str!("asking.bash"),
        Shell::Fish => script + include_str!("asking.fish"),
        Shell::Zsh => script.trim_end_matches(ZSH_TAIL).to_owned() + include_str!("asking.zsh"),
        // A shell of tomorrow has its commands completed.
        Shell::Elvish | Shell::PowerShell | _ => script,
    }
}

/// The command line without what is hidden: the generator would offer it.
fn shown() -> clap::Command {
    let whole = arguments::Arguments::command();
    let commands: Vec<_> = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    clap::Command::new("longshore")
        .version(env!("CARGO_PKG_VERSION"))
        .args(whole.get_arguments().cloned())
        .subcommands(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_of_three_shells_ask_for_what_is_there() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            assert!(script.contains("__complete"), "{shell} does not ask");
            assert!(
                !script.contains("crash-points") && script.contains("dead-letter"),
                "{shell} offers what is hidden"
            );
        }
        // The static function is called by ours alone, or it would answer first.
        assert!(!script(Shell::Zsh).contains(ZSH_TAIL));
        assert!(!script(Shell::PowerShell).contains("__complete"));
    }
}
