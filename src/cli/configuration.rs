//! `longshore config`: what is in force, and whether it is right.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    context::Context,
    exit::Exit,
    finding,
    output::{Form, Mark, Problem},
    stop::{Outcome, Stop},
    text::Put as _,
    worker,
};
use crate::app;

/// Shows and checks the configuration.
///
/// Example: longshore config show
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Prints every value in force and where it came from. Secrets are references, so none is shown
    ///
    /// Example: longshore config show
    Show,
    /// Reports every mistake at once, each with its place, and every secret that cannot be fetched
    ///
    /// Example: longshore config check
    Check,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Outcome {
    let loaded = context.load_quietly()?;
    match arguments.verb {
        Verb::Show => {
            let shown = loaded.show();
            match context.form() {
                Form::Table => {
                    context.out.text(&shown.to_toml())?;
                }
                Form::Json | Form::Ndjson => context.out.document(&shown.to_json())?,
            }
        }
        Verb::Check => {
            let wrong: Vec<String> = loaded
                .settings
                .accounts
                .iter()
                .filter_map(|(name, account)| app::identity::identity(&loaded.settings, name, account).err())
                .map(|error| error.to_string())
                .collect();
            if !wrong.is_empty() {
                let problem = wrong.into_iter().fold(Problem::new("a credential cannot be used"), Problem::what);
                return Err(Stop::input(problem.next("set the variable or write the file that is named")));
            }
            let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
            if context.form() == Form::Table {
                let files = if files.is_empty() { "no file: the defaults".to_owned() } else { files.join(", ") };
                let accounts = finding::counted(loaded.settings.accounts.len(), "account");
                let mut text = format!("{files} · {accounts} · no mistakes");
                if let Some(origin) = worker::shortened(&loaded) {
                    text.put(format_args!(" · waits are shortened by {origin}: for the sandbox only"));
                }
                let line = format!("{} {}\n", context.style.mark(Mark::Done), context.style.text(&text));
                context.out.text(&line)?;
            } else {
                let accounts: Vec<_> = loaded.settings.accounts.keys().collect();
                context.out.document(&json!({ "valid": true, "files": files, "accounts": accounts }))?;
            }
        }
    }
    Ok(Exit::Done)
}
