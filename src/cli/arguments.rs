//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{
    auth, completions, configuration, context, crash_points, dead_letter, demo, doctor,
    exit::Exit,
    intake, job, output,
    output::{ColorChoice, OutputFormat},
    preflight, product, sandbox, schema, sign,
    stop::Stop,
    submission, submit, topology, worker,
};
use crate::{
    app::{Fleet, views::Views},
    config::Loaded,
    domain::ids::{AccountName, JobId, JobKey, ProductId},
    embedded::JobFilter,
};

/// Carries driver submissions through Microsoft Partner Center, each job to its end exactly once in effect.
///
/// Example: longshore demo
#[derive(Debug, Parser)]
#[command(name = "longshore", version, propagate_version = true, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct Global {
    /// A configuration file; may be repeated, later ones win
    #[arg(long, short = 'c', value_name = "FILE", global = true, value_hint = clap::ValueHint::FilePath)]
    pub(super) config: Vec<PathBuf>,
    /// Tables, one JSON document, or one JSON object a line
    #[arg(long, value_enum, value_name = "FORM", default_value = "auto", global = true)]
    pub(super) output: OutputFormat,
    /// Colour on a terminal, always, or never
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", global = true)]
    pub(super) color: ColorChoice,
    /// Show times in UTC
    #[arg(long, global = true)]
    pub(super) utc: bool,
}

/// Whose account a command works with.
#[derive(Debug, Clone, Args)]
pub(super) struct OfAccount {
    /// The account; may be left out when there is only one
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

impl OfAccount {
    /// The account that was named, else the only one.
    pub(super) fn of(&self, loaded: &Loaded) -> Result<AccountName, Stop> {
        context::account(loaded, self.account.as_deref())
    }
}

/// Only what belongs to one account, which may no longer be configured.
#[derive(Debug, Clone, Args)]
pub(super) struct OnlyAccount {
    /// Only of this account
    #[arg(long, value_name = "NAME", value_parser = AccountName::parse)]
    pub(super) account: Option<AccountName>,
}

impl OnlyAccount {
    /// An empty list of an account that nobody knows is a mistake, not an answer.
    pub(super) async fn known(&self, loaded: &Loaded, views: impl Into<Views<'_>>) -> Result<(), Stop> {
        let Some(account) = &self.account else { return Ok(()) };
        let any = JobFilter { account: Some(account.clone()), limit: 1, ..JobFilter::default() };
        if loaded.settings.accounts.contains_key(account) || !views.into().jobs(any).await?.is_empty() {
            return Ok(());
        }
        let mut problem = context::unknown_account(loaded, account.as_str());
        problem.summary.push_str(", and no job of this home names it");
        Err(Stop::new(Exit::NotFound, problem))
    }
}

/// A job of this home.
#[derive(Debug, Args)]
pub(super) struct OfJob {
    /// The job: ID, or ACCOUNT/ID
    job: String,
}

impl OfJob {
    /// The job that was named.
    pub(super) async fn find(&self, views: impl Into<Views<'_>>) -> Result<JobKey, Stop> {
        intake::find(views, &self.job).await
    }
}

impl OfJob {
    /// The job that was named, known or not: with its account, or of the only account.
    pub(super) async fn full(&self, fleet: &Fleet) -> Result<JobKey, Stop> {
        match (self.find(fleet).await, JobId::parse(&self.job)) {
            (Err(_), Ok(id)) => Ok(JobKey { account: context::account(&fleet.loaded, None)?, id }),
            (found, _) => found,
        }
    }
}

/// A product, in an account.
#[derive(Debug, Args)]
pub(super) struct OfProduct {
    /// The product's id
    pub(super) product: ProductId,
    #[command(flatten)]
    pub(super) account: OfAccount,
}

/// The nouns and verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Demo(demo::Arguments),
    Worker(worker::Arguments),
    Submit(submit::Arguments),
    Sign(sign::Arguments),
    Preflight(preflight::Arguments),
    Job(job::Arguments),
    DeadLetter(dead_letter::Arguments),
    Product(product::Arguments),
    Submission(submission::Arguments),
    Auth(auth::Arguments),
    Doctor(doctor::Arguments),
    Topology(topology::Arguments),
    Sandbox(sandbox::Arguments),
    Schema(schema::Arguments),
    Config(configuration::Arguments),
    Completions(completions::Arguments),
    #[command(hide = true, name = "__complete")]
    Complete(completions::Asked),
    #[command(hide = true)]
    CrashPoints(crash_points::Arguments),
}

impl Global {
    /// The form of results on this stdout.
    pub(super) fn form(&self, is_terminal: bool) -> output::Form {
        self.output.decide(is_terminal)
    }
}
