//! `longshore worker`: works the home's jobs until it is told to stop.

use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    context::{Context, unknown_account},
    exit::Exit,
    output::{Problem, duration},
    signals::Signals,
    stop::{Outcome, Stop},
};
use crate::{
    app::{App, Ended},
    config::{Loaded, Origin},
    domain::ids::AccountName,
    embedded::{self, Embedded},
    telemetry::{Health, HomeSays, Metrics, Server},
};

/// How often what has ended long ago is removed.
const TIDY: Duration = Duration::from_secs(3_600);

/// How often the home is asked for a sign of life.
const PROBE: Duration = Duration::from_secs(1);

/// Works jobs until Ctrl-C or SIGTERM; a second signal ends it at once.
///
/// The exit code is 0 after either: what a stopped worker had under way goes on with the next one.
///
/// Example: longshore worker
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Address of /livez, /readyz and /metrics, in place of [worker] listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let loaded = context.load()?;
    if loaded.settings.accounts.is_empty() {
        return Err(Stop::input(unknown_account(&loaded, "")));
    }
    let app = App::open(loaded)?;
    check_credentials(&app)?;
    let signals = Signals::listen();
    let listen = arguments.listen.unwrap_or(app.loaded.settings.worker.listen);
    let server = Server::bind(listen, app.health.clone(), app.metrics.clone()).await.map_err(|error| {
        let problem = Problem::new(format!("{listen} cannot be listened on")).what(error.to_string());
        Stop::new(Exit::LocalIo, problem.next("choose another address with --listen, port 0 for any free one"))
    })?;
    let crew = app.worker()?;
    announce(context, &app, &server);
    let no_more = CancellationToken::new();
    let mut tasks = JoinSet::new();
    {
        let no_more = no_more.clone();
        tasks.spawn(async move {
            if let Err(error) = server.run(no_more).await {
                tracing::error!(%error, "health and metrics are no longer served");
            }
        });
        tasks.spawn(tidy(app.home.clone()));
        tasks.spawn(probe(crew.home.clone(), app.health.clone(), app.metrics.clone()));
    }
    app.health.set_taking(true);
    let drained = {
        let stopping = async {
            signals.stop.cancelled().await;
            app.health.set_taking(false);
            tracing::info!(within = %duration(app.loaded.settings.worker.drain), "finishing what is under way");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = crew.run(&signals.stop, &signals.now) => ended,
            () = stopping => Ended::CutShort,
        }
    };
    no_more.cancel();
    tasks.shutdown().await;
    match drained {
        Ended::Drained => context.remark("stopped; nothing is under way here"),
        Ended::CutShort => {
            context.remark("stopped at once; what was under way goes on with the next worker, nothing is lost");
        }
    }
    Ok(Exit::Done)
}

/// Every credential that cannot be used, all at once.
pub(super) fn check_credentials(app: &App) -> Result<(), Stop> {
    let accounts = app.loaded.settings.accounts.keys();
    let wrong: Vec<String> =
        accounts.filter_map(|name| app.service.check_credential(name).err()).map(|error| error.to_string()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let problem = wrong.into_iter().fold(Problem::new("a credential cannot be used"), Problem::what);
    Err(Stop::input(problem.next("set the variable or write the file that is named, then: longshore auth test")))
}

fn announce(context: &Context, app: &App, server: &Server) {
    let accounts: Vec<&str> = app.loaded.settings.accounts.keys().map(AccountName::as_str).collect();
    context.remark(&format!(
        "longshore worker · process {} · accounts {} · home {} · health http://{}",
        std::process::id(),
        accounts.join(", "),
        app.home.file().display(),
        server.address(),
    ));
    if let Some(origin) = shortened(&app.loaded) {
        context.remark(&format!("waits are shortened by {origin}: for the sandbox, never for the real service"));
    }
}

/// Where shortened waits come from, if they do.
pub(super) fn shortened(loaded: &Loaded) -> Option<String> {
    let least = loaded.settings.waits.looks.product.first()?;
    match loaded.origin("waits.looks.product") {
        Some(Origin::File { path, .. }) if *least < Duration::from_secs(60) => Some(path.display().to_string()),
        Some(Origin::Variable(name)) if *least < Duration::from_secs(60) => Some(name.clone()),
        Some(Origin::File { .. } | Origin::Variable(_) | Origin::Default { .. }) | None => None,
    }
}

/// Asks the home for a sign of life and looks at the queue, every second.
async fn probe(home: embedded::Worker, health: Health, metrics: Metrics) {
    loop {
        health.home(match home.pulse().await {
            Ok(backlog) => {
                metrics.queue(backlog.oldest, backlog.waiting, backlog.parked, backlog.held);
                HomeSays::Well
            }
            Err(error @ embedded::Error::Stopped { .. }) => HomeSays::Ended(error.to_string()),
            Err(error) => HomeSays::Trouble(error.to_string()),
        });
        tokio::time::sleep(PROBE).await;
    }
}

/// Removes what has ended long ago, in small batches, now and every hour.
async fn tidy(home: Embedded) {
    loop {
        match home.tidy().await {
            Ok(tidied) if tidied.has_more => {
                tokio::task::yield_now().await;
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what has ended long ago could not be removed"),
        }
        tokio::time::sleep(TIDY).await;
    }
}
