//! `longshore submission`: the submissions of a product.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    arguments::OfProduct,
    context::Context,
    exit::Exit,
    output::{Column, Form, Paint, Table},
    stop::{Outcome, Stop},
    text::Put as _,
};
use crate::{
    app::desk,
    domain::{
        ids::SubmissionId,
        service::{Request, Response, Submission},
    },
};

/// Lists and shows the submissions of a product.
///
/// Example: longshore submission list 14300000000000001
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(List),
    Show(Show),
}

/// Lists the submissions of a product.
///
/// Example: longshore submission list 14300000000000001
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    of: OfProduct,
}

/// Shows one submission and where its workflow stands.
///
/// Example: longshore submission show 14300000000000001 1152921504606846977
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    of: OfProduct,
    /// The submission's id
    submission: SubmissionId,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let home = context.reach()?;
    match arguments.verb {
        Verb::List(list) => {
            let mut desk = home.desk(list.of.account.of(&home.parts().loaded)?)?;
            let submissions = desk.submissions(list.of.product).await;
            let submissions = submissions.map_err(|error| Stop::of_read(error, desk.correlation()))?;
            print_all(context, &submissions)
        }
        Verb::Show(show) => {
            let mut desk = home.desk(show.of.account.of(&home.parts().loaded)?)?;
            let request = Request::GetSubmission { product: show.of.product, submission: show.submission };
            let read = desk.call(&request).await;
            let read = read.map_err(|error| Stop::of_read(error, desk.correlation()))?;
            let Response::Submission(submission) = read.response else {
                return Err(desk::unexpected(request.operation()).into());
            };
            print_one(context, &submission)
        }
    }
}

fn row(submission: &Submission) -> Value {
    let workflow = submission.workflow.as_ref();
    let kinds: Vec<&str> = submission.downloads.iter().flatten().map(|item| item.kind.as_str()).collect();
    json!({
        "schema": 1,
        "id": submission.id.to_string(),
        "product_id": submission.product.to_string(),
        "name": submission.name,
        "type": submission.kind,
        "is_committed": submission.is_committed(),
        "workflow_step": workflow.and_then(|workflow| workflow.step.as_ref()),
        "workflow_state": workflow.and_then(|workflow| workflow.state.as_ref()),
        "messages": workflow.map(|workflow| &workflow.messages),
        // The URLs themselves are signed, and never shown.
        "downloads": kinds,
        "created": submission.created,
    })
}

fn print_all(context: &mut Context, submissions: &[Submission]) -> Outcome {
    match context.form() {
        Form::Json => {
            let rows: Vec<Value> = submissions.iter().map(row).collect();
            context.out.document(&json!({ "submissions": rows }))?;
        }
        Form::Ndjson => {
            for submission in submissions {
                context.out.line(&row(submission))?;
            }
        }
        Form::Table => {
            let columns = [
                Column::whole("ID"),
                Column::new("TYPE").leaves(2),
                Column::new("NAME").leaves(3),
                Column::new("COMMITTED").leaves(1),
                Column::new("STEP"),
                Column::new("STATE"),
            ];
            let mut table = Table::new(&columns, "no submissions of this product");
            for submission in submissions {
                let workflow = submission.workflow.as_ref();
                let committed = submission.is_committed().map_or("", |is| if is { "yes" } else { "no" });
                table.row([
                    submission.id.to_string(),
                    submission.kind.clone(),
                    submission.name.clone(),
                    committed.to_owned(),
                    workflow.and_then(|workflow| workflow.step.clone()).unwrap_or_default(),
                    workflow.and_then(|workflow| workflow.state.clone()).unwrap_or_default(),
                ]);
            }
            let text = table.render(&context.style);
            context.out.text(&text)?;
        }
    }
    Ok(Exit::Done)
}

fn print_one(context: &mut Context, submission: &Submission) -> Outcome {
    let value = row(submission);
    if context.form() != Form::Table {
        context.out.document(&value)?;
        return Ok(Exit::Done);
    }
    let style = context.style;
    let mut out = format!("{}\n", style.paint(Paint::Strong, &submission.id.to_string()));
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| *name != "schema" && *name != "id")
    {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Array(items) if items.is_empty() => continue,
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
        };
        out.put(format_args!("  {name:<16} {}\n", style.text(&text)));
    }
    context.out.text(&out)?;
    Ok(Exit::Done)
}
