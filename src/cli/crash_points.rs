//! `longshore crash-points`: where a debug build can be made to die. Hidden; the crash matrix is generated from it.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::{
    context::Context,
    exit::Exit,
    output::{Form, Problem},
    stop::{Outcome, Stop},
};
use crate::engine::crash;

/// Lists the points at which a debug build can be made to die, for the crash matrix.
///
/// Example: LONGSHORE_CRASH_AT=create-product.after-begin:1 longshore worker
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn run(context: &mut Context, Arguments {}: Arguments) -> Outcome {
    let points = crash::points();
    if points.is_empty() {
        let problem = Problem::new("this build has no crash points").what("they are compiled into debug builds only");
        return Err(Stop::new(Exit::WrongState, problem.next("build without --release, then run this again")));
    }
    let names = points.iter().map(|(step, edge)| (crash::name(*step, *edge), step.name(), edge.name()));
    let listed: Vec<BTreeMap<&str, String>> = names
        .map(|(name, step, edge)| [("name", name), ("step", step.to_owned()), ("edge", edge.to_owned())].into())
        .collect();
    let fleet: Vec<&str> = crash::arrows().into_iter().map(crash::Arrow::name).collect();
    match context.out.form {
        Form::Table => {
            let names = listed.iter().filter_map(|point| point.get("name")).map(String::as_str);
            let lines: String = names.chain(fleet).flat_map(|name| [name, "\n"]).collect();
            context.out.text(&lines)?;
        }
        Form::Json => {
            let document: Value = json!({ "variable": crash::VARIABLE, "points": listed, "fleet": fleet });
            context.out.document(&document)?;
        }
        Form::Ndjson => {
            for point in &listed {
                context.out.line(point)?;
            }
        }
    }
    Ok(Exit::Done)
}
