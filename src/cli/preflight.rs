//! `longshore preflight`: checks packages on this machine, sends nothing, needs no account.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{
    context::Context,
    exit::Exit,
    intake,
    output::{Form, Mark, Problem, size},
    stop::{Outcome, Stop},
    text::Put as _,
};
use crate::{
    app::settings,
    package::preflight,
    transfer::pace::{Pace, limited},
};

/// Checks driver packages as the service would, before anything is sent; for every pull request.
///
/// Exit 2 and the broken rules when a package would be refused.
///
/// Example: longshore preflight build/nic.cab --os WINDOWS_v100_X64_GE_FULL
#[expect(clippy::doc_markdown, reason = "the text is printed as it stands; a code in backticks could not be pasted")]
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Cabinets, .hlkx or .hckx files
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// Test harness of the product: attestation, hlk or hck; from the file's name when it is left out
    #[arg(long, value_name = "HARNESS")]
    harness: Option<String>,
    /// An operating-system code that is asked for; may be repeated
    #[arg(long = "os", value_name = "CODE")]
    os: Vec<String>,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    if let Some(harness) = &arguments.harness
        && !["attestation", "hlk", "hck"].contains(&harness.to_ascii_lowercase().as_str())
    {
        let problem =
            Problem::new(format!("{harness:?} is no test harness")).what("there are attestation, hlk and hck");
        return Err(Stop::input(problem.next("name one of them, or leave --harness out")));
    }
    // A package on a share that hangs ends the check, not this process's life: it reads as the engine does.
    let patience = settings::transfer(&context.load_quietly()?.settings).file_timeout;
    let mut codes = Vec::new();
    for file in &arguments.files {
        let harness = arguments.harness.clone().unwrap_or_else(|| harness_of(file).to_owned());
        let (path, os) = (file.clone(), arguments.os.clone());
        let checking = move |pace: &Pace| preflight::check_paced(&path, &harness, &os, pace);
        let checked = limited(patience, file, checking).await?;
        codes.push(if checked.is_ok() { Exit::Done } else { Exit::Input });
        print(context, file, &checked)?;
    }
    // What is wrong with packages is wrong input, however many there are.
    Ok(if codes.iter().all(|code| *code == Exit::Done) { Exit::Done } else { Exit::Input })
}

/// The test harness that takes a file of this name.
pub(super) fn harness_of(file: &Path) -> &'static str {
    let is = |wanted: &str| file.extension().is_some_and(|end| end.eq_ignore_ascii_case(wanted));
    if is("hlkx") {
        "hlk"
    } else if is("hckx") {
        "hck"
    } else {
        "attestation"
    }
}

fn print(
    context: &mut Context,
    file: &Path,
    checked: &Result<preflight::Report, preflight::Refusal>,
) -> Result<(), Stop> {
    let shown = file.display().to_string();
    if let Err(refusal) = checked {
        let name = file.file_name().map_or_else(|| shown.clone(), |name| name.to_string_lossy().into_owned());
        eprint!("{}", intake::preflight_problem(&name, refusal).render(&context.aside));
    }
    if context.form() != Form::Table {
        return Ok(context.out.line(&document(&shown, checked))?);
    }
    if let Ok(report) = checked {
        let style = context.style;
        let text = format!("{shown} · {} files, {} INF, {}", report.files, report.inf_files.len(), size(report.bytes));
        let mut out = format!("{} {}\n", style.mark(Mark::Done), style.text(&text));
        for warning in &report.warnings {
            out.put(format_args!("  note  {}\n", style.text(warning)));
        }
        context.out.text(&out)?;
    }
    Ok(())
}

fn document(file: &str, checked: &Result<preflight::Report, preflight::Refusal>) -> Value {
    match checked {
        Ok(report) => json!({ "schema": 1, "file": file, "valid": true, "package": report, "findings": [] }),
        Err(refusal) => json!({ "schema": 1, "file": file, "valid": false, "findings": refusal.findings }),
    }
}
