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
    app::settings,
    config,
    domain::time::parse_duration,
    sandbox::{Options, Sandbox},
};

/// Serves the token endpoint, the hardware API and blob storage on loopback, and prints a configuration for it.
///
/// The configuration goes to stdout, or to the file of --write: give it to every other command with --config. It names a
/// home of its own, which goes with the sandbox unless --data-dir says where it stays.
/// Faults, clock, journal and verdict are below /_sim/.
///
/// Example: longshore sandbox --write sandbox.toml
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where to listen; loopback only [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Write the configuration to this file, not to stdout
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    write: Option<PathBuf>,
    /// How much faster than life the service works on a submission; a step takes a minute at 1 [default: 60]
    #[arg(long, value_name = "TIMES")]
    speed: Option<f64>,
    /// How long lists lag behind, at most what the waits allow for [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    list_lag: Option<Duration>,
    /// Answer 429 above so many calls a minute
    #[arg(long, value_name = "NUMBER")]
    calls_per_minute: Option<u32>,
    /// Keep packages, the account's secret and the home in this folder, not in a temporary one
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    data_dir: Option<PathBuf>,
    /// Seed of ids and chance [default: 0]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

impl Arguments {
    /// What the configuration's [sandbox] says, and over it what the command line says.
    fn over(&self, told: Options) -> Options {
        let speed = self.speed.unwrap_or(told.speed);
        Options {
            listen: self.listen.unwrap_or(told.listen),
            speed,
            // The sandbox counts the lag in its own, faster time.
            list_lag: self.list_lag.unwrap_or(told.list_lag).mul_f64(speed.clamp(0.0, 1e6)),
            calls_per_minute: self.calls_per_minute.or(told.calls_per_minute),
            data_dir: self.data_dir.clone().or(told.data_dir),
            seed: self.seed.unwrap_or(told.seed),
            ..told
        }
    }
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let signals = Signals::listen();
    let told = settings::sandbox(&context.load_quietly()?.settings).map_err(|error| {
        let problem = Problem::new("the sandbox's settings are wrong").what(format!("[sandbox]: {error}"));
        Stop::input(problem.next("mend the [sandbox] table: longshore config show"))
    })?;
    let sandbox = Sandbox::start(arguments.over(told)).await.map_err(|error| {
        let mut problem = Problem::new("the sandbox cannot be started").what(error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            problem = problem.what(source.to_string());
        }
        Stop::input(problem.next("longshore sandbox --help"))
    })?;
    let overlay = overlay(&sandbox) + &home(&sandbox);
    match &arguments.write {
        Some(file) => {
            // Whoever waits for the file reads it whole.
            let part = file.with_extension("part");
            std::fs::write(&part, overlay)
                .and_then(|()| std::fs::rename(&part, file))
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
    if let Some(file) = &arguments.write {
        context.remark(&format!("next           longshore --config {} doctor", file.display()));
    }
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

/// A home of its own: its jobs are not to lie among those of the real service, where a worker without this configuration
/// would set them aside, and the next sandbox gives the same ids to other things.
fn home(sandbox: &Sandbox) -> String {
    let folder = std::path::absolute(sandbox.folder()).unwrap_or_else(|_| sandbox.folder().to_owned());
    let folder = folder.join(format!("home-{}", sandbox.address().port()));
    let quoted = serde_json::Value::from(folder.display().to_string());
    format!("\n# Jobs of this sandbox, apart from those of the real service.\n\n[home]\ndata_dir = {quoted}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_over_the_overlays_table_and_the_lag_is_in_our_time() {
        let told =
            settings::sandbox(&config::load_in(&config::Surroundings::default(), &[]).unwrap().settings).unwrap();
        let nothing = Arguments {
            listen: None,
            write: None,
            speed: None,
            list_lag: None,
            calls_per_minute: None,
            data_dir: None,
            seed: None,
        };
        let options = nothing.over(told.clone());
        assert_eq!((options.speed, options.list_lag), (60.0, Duration::from_mins(1)));
        let slower = Arguments { speed: Some(2.0), list_lag: Some(Duration::from_millis(500)), ..nothing };
        let options = slower.over(told);
        assert_eq!((options.speed, options.list_lag), (2.0, Duration::from_secs(1)));
    }
}
