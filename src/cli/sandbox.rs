//! `longshore sandbox`: Microsoft's services, simulated on loopback, for pipelines to try themselves against.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    context::Context,
    exit::Exit,
    output::Problem,
    signals::Signals,
    stop::{Outcome, Stop},
};
use crate::{
    config,
    domain::time::parse_duration,
    sandbox::{Options, Sandbox},
};

/// Serves the token endpoint, the hardware API and blob storage on loopback, and prints a configuration for it.
///
/// The configuration goes to stdout, or to the file of --write: give it to every other command with --config.
/// Faults, clock, journal and verdict are below /_sim/.
///
/// Example: longshore sandbox --write sandbox.toml
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where to listen; loopback only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the configuration to this file, not to stdout
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    write: Option<PathBuf>,
    /// How much faster than life the service works on a submission; a step takes a minute at 1
    #[arg(long, value_name = "TIMES", default_value_t = 60.0)]
    speed: f64,
    /// How long lists lag behind, at most what the waits allow for
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    list_lag: Duration,
    /// Answer 429 above so many calls a minute
    #[arg(long, value_name = "NUMBER")]
    calls_per_minute: Option<u32>,
    /// Keep packages and the account's secret in this folder, not in a temporary one
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    data_dir: Option<PathBuf>,
    /// Seed of ids and chance
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let signals = Signals::listen();
    let options = Options {
        listen: arguments.listen,
        speed: arguments.speed,
        list_lag: arguments.list_lag.mul_f64(arguments.speed.clamp(0.0, 1e6)),
        calls_per_minute: arguments.calls_per_minute,
        data_dir: arguments.data_dir,
        seed: arguments.seed,
        ..Options::default()
    };
    let sandbox = Sandbox::start(options).await.map_err(|error| {
        let mut problem = Problem::new("the sandbox cannot be started").what(error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            problem = problem.what(source.to_string());
        }
        Stop::input(problem.next("longshore sandbox --help"))
    })?;
    let overlay = overlay(&sandbox);
    match &arguments.write {
        Some(file) => {
            std::fs::write(file, overlay)
                .map_err(|error| Stop::local(format!("{} cannot be written: {error}", file.display())))?;
            context.remark(&format!("configuration  {}", file.display()));
        }
        None => context.out.text(&overlay)?,
    }
    context.remark(&format!(
        "longshore sandbox · {} · control below {}/_sim/ · Ctrl-C ends it",
        sandbox.address(),
        sandbox.url()
    ));
    signals.stop.cancelled().await;
    sandbox.stop().await;
    Ok(Exit::Done)
}

/// Shortened waits, endpoints and the account, as one file.
pub(super) fn overlay(sandbox: &Sandbox) -> String {
    format!(
        "{}\n\n# Where this sandbox is, and who may speak to it.\n\n{}",
        config::SANDBOX.trim_end(),
        sandbox.overlay()
    )
}
