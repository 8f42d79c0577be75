//! `longshore auth`: does sign-in work?

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    context::{Context, account, unknown_account},
    exit::Exit,
    output::{Form, Mark, duration},
    stop::{Outcome, Stop},
    text::Put as _,
};
use crate::{app::Parts, clock, domain::ids::AccountName, engine::ports::SignIn};

/// Tests the sign-in of accounts.
///
/// Example: longshore auth test
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Test(Test),
}

/// Signs in with each account, or with those that are named; exit 3 when one is refused.
///
/// Example: longshore auth test
#[derive(Debug, Args)]
struct Test {
    /// Accounts; all of them when none is named
    accounts: Vec<String>,
}

/// One account's sign-in.
pub(super) struct Tested {
    pub(super) account: AccountName,
    pub(super) exit: Exit,
    pub(super) text: String,
    pub(super) next: Option<String>,
    seconds: Option<u64>,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let home = context.reach()?;
    let parts = home.parts();
    let Verb::Test(wish) = arguments.verb;
    let names = if wish.accounts.is_empty() {
        parts.loaded.settings.accounts.keys().cloned().collect()
    } else {
        wish.accounts.iter().map(|name| account(&parts.loaded, Some(name))).collect::<Result<Vec<_>, _>>()?
    };
    if names.is_empty() {
        return Err(Stop::input(unknown_account(&parts.loaded, "")));
    }
    let mut worst = Exit::Done;
    let mut rows = Vec::new();
    for name in names {
        let tested = test(parts, &name).await;
        if tested.exit != Exit::Done {
            worst = if worst == Exit::SignIn { worst } else { tested.exit };
        }
        match context.form() {
            Form::Table => {
                let style = context.style;
                let mark = style.mark(if tested.exit == Exit::Done { Mark::Done } else { Mark::Failed });
                let mut out = format!("{mark} {}\n", style.text(&format!("{}: {}", tested.account, tested.text)));
                if let Some(next) = &tested.next {
                    out.put(format_args!("  next: {}\n", style.text(next)));
                }
                context.out.text(&out)?;
            }
            Form::Json => rows.push(row(&tested)),
            Form::Ndjson => context.out.line(&row(&tested))?,
        }
    }
    if context.form() == Form::Json {
        context.out.document(&json!({ "accounts": rows }))?;
    }
    Ok(worst)
}

fn row(tested: &Tested) -> Value {
    json!({
        "schema": 1,
        "account": tested.account,
        "good": tested.exit == Exit::Done,
        "token_seconds": tested.seconds,
        "message": tested.text,
        "next_step": tested.next,
    })
}

/// Signs in, or says why not.
pub(super) async fn test(parts: &Parts, name: &AccountName) -> Tested {
    let account = name.clone();
    match parts.service.test(name).await {
        Ok((token, _)) => {
            let left = token.expires_at.since(clock::moment());
            let text = format!("token for {}", duration(left));
            Tested { account, exit: Exit::Done, text, next: None, seconds: Some(left.as_secs()) }
        }
        Err(SignIn::Refused { message, next, .. }) => {
            Tested { account, exit: Exit::SignIn, text: message, next: Some(next), seconds: None }
        }
        Err(SignIn::Throttled { message, again }) => {
            let next = Some(format!("try again in {}", duration(again)));
            Tested { account, exit: Exit::RateLimited, text: message, next, seconds: None }
        }
        Err(SignIn::Later { message, again }) => {
            let next = format!("try again in {}; longshore doctor looks at network and proxy", duration(again));
            Tested { account, exit: Exit::Unavailable, text: message, next: Some(next), seconds: None }
        }
    }
}
