//! The command line: one file per noun, and what they share.

pub mod exit;
pub mod output;

mod arguments;
mod auth;
mod completions;
mod configuration;
mod context;
mod crash_points;
mod dead_letter;
mod demo;
mod doctor;
mod ending;
mod finding;
mod fleet;
mod intake;
mod job;
mod job_show;
mod misread;
mod preflight;
mod product;
mod result;
mod sandbox;
mod schema;
mod sign;
mod signals;
mod stop;
mod submission;
mod submit;
mod text;
mod told;
mod topology;
mod try_write;
mod watch;
mod worker;

use clap::Parser as _;

use self::{
    arguments::{Arguments, Command},
    context::Context,
    exit::Exit,
    stop::{Outcome, Stop},
};

/// Reads the arguments of this process, does what they say, and tells how it ended.
#[must_use]
pub fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Input } else { Exit::Done };
            // A closed pipe behind `--help | head` is nobody's mistake.
            drop(error.print());
            return exit;
        }
    };
    let context = Context::new(arguments.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return context.tell(Stop::local(format!("the runtime cannot be started: {error}"))),
    };
    let mut context = context;
    let ended = runtime.block_on(run(&mut context, arguments.command));
    // A handler that was cut short must not keep the process: blocking work ends with it.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit,
        Err(stop) => context.tell(stop),
    }
}

async fn run(context: &mut Context, command: Command) -> Outcome {
    match command {
        Command::Demo(arguments) => demo::run(context, arguments).await,
        Command::Worker(arguments) => worker::run(context, arguments).await,
        Command::Submit(arguments) => submit::run(context, arguments).await,
        Command::Sign(arguments) => sign::run(context, arguments).await,
        Command::Preflight(arguments) => preflight::run(context, arguments).await,
        Command::Job(arguments) => job::run(context, arguments).await,
        Command::DeadLetter(arguments) => dead_letter::run(context, arguments).await,
        Command::Product(arguments) => product::run(context, arguments).await,
        Command::Submission(arguments) => submission::run(context, arguments).await,
        Command::Auth(arguments) => auth::run(context, arguments).await,
        Command::Doctor(arguments) => doctor::run(context, arguments).await,
        Command::Topology(arguments) => topology::run(context, arguments).await,
        Command::Sandbox(arguments) => sandbox::run(context, arguments).await,
        Command::Schema(arguments) => schema::run(context, &arguments),
        Command::Config(arguments) => configuration::run(context, &arguments),
        Command::Completions(arguments) => completions::run(context, &arguments),
        Command::Complete(asked) => completions::run_asked(context, &asked),
        Command::CrashPoints(arguments) => crash_points::run(context, arguments),
    }
}
