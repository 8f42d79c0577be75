//! `longshore completions`: what a shell offers behind the Tab key.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{arguments, context::Context, exit::Exit, stop::Outcome};

/// Prints the completions for a shell.
///
/// Example: longshore completions bash > ~/.local/share/bash-completion/completions/longshore
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut arguments::Arguments::command(), "longshore", &mut script);
    context.out.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
