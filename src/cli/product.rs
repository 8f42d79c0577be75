//! `longshore product`: the products of an account, and which job made them.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    arguments::{OfAccount, OfProduct},
    context::{Context, Reached},
    exit::Exit,
    intake,
    output::{Column, Form, Paint, Table},
    stop::{Outcome, Stop},
    text::Put as _,
};
use crate::{
    app::desk,
    domain::{
        ids::{JobKey, ProductId},
        service::{Product, Request, Response},
        step::Step,
    },
    embedded::{JobView, State},
};

/// Lists and shows the products of an account.
///
/// Example: longshore product list --mine
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

/// Lists products, page by page within the account's rate.
///
/// Example: longshore product list --orphans
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    account: OfAccount,
    /// Only products that a job of this home made or adopted, with the job
    #[arg(long)]
    mine: bool,
    /// Only those whose job ended before a commit; the API cannot delete them
    #[arg(long)]
    orphans: bool,
}

/// Shows one product.
///
/// Example: longshore product show 14300000000000001
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    of: OfProduct,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let home = context.reach()?;
    match arguments.verb {
        Verb::List(list) => run_list(context, &home, list).await,
        Verb::Show(show) => {
            let account = show.of.account.of(&home.parts().loaded)?;
            let mut desk = home.desk(account.clone())?;
            let read = desk.call(&Request::GetProduct(show.of.product)).await;
            let read = read.map_err(|error| Stop::of_read(error, desk.correlation()))?;
            let Response::Product(product) = read.response else {
                return Err(desk::unexpected("getProduct").into());
            };
            let views = home.views();
            let maker = views.makers(&account, &[product.id]).await?.remove(&product.id.get());
            let name = match &maker {
                Some(job) => Some(intake::name_of(views, job).await?),
                None => None,
            };
            print_one(context, &product, maker.as_ref(), name)
        }
    }
}

async fn run_list(context: &mut Context, home: &Reached, list: List) -> Outcome {
    let account = list.account.of(&home.parts().loaded)?;
    let views = home.views();
    let mut desk = home.desk(account.clone())?;
    let mut rows = Vec::new();
    let products = desk.products().await.map_err(|error| Stop::of_read(error, desk.correlation()))?;
    let ids: Vec<ProductId> = products.iter().map(|product| product.id).collect();
    let mut makers = views.makers(&account, &ids).await?;
    for product in products {
        let maker = makers.remove(&product.id.get());
        let view = match &maker {
            Some(job) => views.job(job).await?,
            None => None,
        };
        let is_orphan = view.as_ref().is_some_and(is_orphan);
        if (list.mine && maker.is_none()) || (list.orphans && !is_orphan) {
            continue;
        }
        rows.push((product, maker, view.map(|view| view.state()), is_orphan));
    }
    match context.form() {
        Form::Json => {
            let products: Vec<Value> =
                rows.iter().map(|(p, job, state, orphan)| row(p, job.as_ref(), *state, *orphan)).collect();
            context.out.document(&json!({ "products": products }))?;
        }
        Form::Ndjson => {
            for (product, job, state, orphan) in &rows {
                context.out.line(&row(product, job.as_ref(), *state, *orphan))?;
            }
        }
        Form::Table => {
            let columns = [
                Column::whole("ID"),
                Column::new("NAME"),
                Column::new("CREATED").leaves(2),
                Column::new("COMMITTED").leaves(3),
                Column::whole("JOB").leaves(1),
                Column::new("STATE").leaves(4),
            ];
            let empty = if list.orphans { "no orphans: every job's product came to a commit" } else { "no products" };
            let mut table = Table::new(&columns, empty);
            for (product, job, state, is_orphan) in rows {
                let name = match &job {
                    Some(job) => intake::name_of(views, job).await?,
                    None => String::new(),
                };
                let committed = product.is_committed.map_or("", |is| if is { "yes" } else { "no" });
                table.painted_row([
                    (product.id.to_string(), None),
                    (product.name, None),
                    (product.created.map(|at| context.times.full(at)).unwrap_or_default(), Some(Paint::Dim)),
                    (committed.to_owned(), None),
                    (name, None),
                    (state.map(|s| s.to_string()).unwrap_or_default(), is_orphan.then_some(Paint::Warning)),
                ]);
            }
            let text = table.render(&context.style);
            context.out.text(&text)?;
        }
    }
    Ok(Exit::Done)
}

/// Its job is over and never committed.
fn is_orphan(view: &JobView) -> bool {
    // Of an end whose ticket is forgotten nobody knows.
    let is_open = view.ticket.as_ref().is_some_and(|ticket| !ticket.progress.done.contains(&Step::Commit));
    view.state().is_end() && view.state() != State::Completed && is_open
}

fn row(product: &Product, job: Option<&JobKey>, state: Option<State>, is_orphan: bool) -> Value {
    json!({
        "schema": 1,
        "id": product.id.to_string(),
        "shared_id": product.shared_id.map(|id| id.to_string()),
        "name": product.name,
        "is_committed": product.is_committed,
        "created": product.created,
        "job": job.map(|job| &job.id),
        "job_state": state,
        "is_orphan": is_orphan,
        "fields": product.fields,
    })
}

fn print_one(context: &mut Context, product: &Product, job: Option<&JobKey>, name: Option<String>) -> Outcome {
    if context.form() != Form::Table {
        context.out.document(&row(product, job, None, false))?;
        return Ok(Exit::Done);
    }
    let style = context.style;
    let mut out = format!("{} {}\n", style.paint(Paint::Strong, &product.id.to_string()), style.text(&product.name));
    let mut line = |label: &str, text: String| out.put(format_args!("  {label:<22} {}\n", style.text(&text)));
    if let Some(at) = product.created {
        line("created", context.times.full(at));
    }
    if let Some(name) = name {
        line("job", name);
    }
    for (name, value) in &product.fields {
        line(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    context.out.text(&out)?;
    Ok(Exit::Done)
}
