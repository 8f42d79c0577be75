//! `longshore worker`: works the home's jobs until it is told to stop.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

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
    app::{App, Crew, Ended, Fleet, Parts},
    config::{Loaded, Origin},
    domain::{ids::AccountName, step::Kind},
    embedded::{self, Embedded},
    engine::ports,
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
    /// Works these kinds of jobs and no others; all of [topology] kinds when left out
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let loaded = context.load()?;
    if loaded.settings.accounts.is_empty() {
        return Err(Stop::input(unknown_account(&loaded, "")));
    }
    if loaded.settings.is_fleet() {
        in_the_fleet(context, loaded, arguments).await
    } else {
        alone(context, loaded, arguments).await
    }
}

/// A worker on the embedded home.
async fn alone(context: &mut Context, loaded: Loaded, arguments: Arguments) -> Outcome {
    let app = App::open(loaded)?;
    check_credentials(&app)?;
    let signals = Signals::listen();
    let server = listen(&app, &arguments).await?;
    let kinds = if arguments.kinds.is_empty() { Kind::ALL.into() } else { arguments.kinds.into_iter().collect() };
    let crew = app.worker(&kinds)?;
    announce(context, &app, &server, &app.home.file().display().to_string());
    let mut tasks = JoinSet::new();
    tasks.spawn(tidy(app.home.clone()));
    tasks.spawn(probe(Arc::clone(&crew.home), app.health.clone(), app.metrics.clone()));
    let ended = work(&app, &crew, &signals, server).await;
    tasks.shutdown().await;
    Ok(stopped(context, ended))
}

/// A worker of the fleet: the broker may come later, and go and come again.
async fn in_the_fleet(context: &mut Context, loaded: Loaded, arguments: Arguments) -> Outcome {
    let kinds: BTreeSet<Kind> = arguments.kinds.iter().copied().collect();
    let fleet = Arc::new(Fleet::new(loaded, &kinds)?);
    check_credentials(&fleet)?;
    let signals = Signals::listen();
    let server = listen(&fleet, &arguments).await?;
    if let Ok(Some(problem)) = fleet.check_memory().await {
        return Err(Stop::input(Problem::new("this memory cannot be used").what(problem).next("longshore doctor")));
    }
    let crew = fleet.worker();
    announce(context, &fleet, &server, &fleet.place());
    let hang_up = CancellationToken::new();
    let (mut tasks, mut connection) = (JoinSet::new(), JoinSet::new());
    let (supervised, ends) = (Arc::clone(&fleet), hang_up.clone());
    connection.spawn(async move { supervised.supervise(&ends).await });
    tasks.spawn(probe_fleet(Arc::clone(&fleet)));
    let proving = Arc::clone(&fleet);
    tasks.spawn(async move { proving.canaries().await });
    let ended = work(&fleet, &crew, &signals, server).await;
    tasks.shutdown().await;
    // The last acknowledgements are on their way: the connection closes in good order.
    hang_up.cancel();
    connection.join_all().await;
    Ok(stopped(context, ended))
}

async fn listen(parts: &Parts, arguments: &Arguments) -> Result<Server, Stop> {
    let listen = arguments.listen.unwrap_or(parts.loaded.settings.worker.listen);
    Server::bind(listen, parts.health.clone(), parts.metrics.clone()).await.map_err(|error| {
        let problem = Problem::new(format!("{listen} cannot be listened on")).what(error.to_string());
        Stop::new(Exit::LocalIo, problem.next("choose another address with --listen, port 0 for any free one"))
    })
}

/// Works until the first signal, then finishes what is under way, or leaves it at the second.
async fn work<H: ports::Home>(parts: &Parts, crew: &Crew<H>, signals: &Signals, server: Server) -> Ended {
    let no_more = CancellationToken::new();
    let mut serving = JoinSet::new();
    {
        let no_more = no_more.clone();
        serving.spawn(async move {
            if let Err(error) = server.run(no_more).await {
                tracing::error!(%error, "health and metrics are no longer served");
            }
        });
    }
    parts.health.set_taking(true);
    let ended = {
        let stopping = async {
            signals.stop.cancelled().await;
            parts.health.set_taking(false);
            tracing::info!(within = %duration(parts.loaded.settings.worker.drain), "finishing what is under way");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = crew.run(&signals.stop, &signals.now) => ended,
            () = stopping => Ended::CutShort,
        }
    };
    no_more.cancel();
    serving.shutdown().await;
    ended
}

fn stopped(context: &Context, ended: Ended) -> Exit {
    context.remark(match ended {
        Ended::Drained => "stopped; nothing is under way here",
        Ended::CutShort => "stopped at once; what was under way goes on with the next worker, nothing is lost",
    });
    Exit::Done
}

/// Every credential that cannot be used, all at once.
pub(super) fn check_credentials(app: &Parts) -> Result<(), Stop> {
    let accounts = app.loaded.settings.accounts.keys();
    let wrong: Vec<String> =
        accounts.filter_map(|name| app.service.check_credential(name).err()).map(|error| error.to_string()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let problem = wrong.into_iter().fold(Problem::new("a credential cannot be used"), Problem::what);
    Err(Stop::input(problem.next("set the variable or write the file that is named, then: longshore auth test")))
}

fn announce(context: &Context, app: &Parts, server: &Server, home: &str) {
    let accounts: Vec<&str> = app.loaded.settings.accounts.keys().map(AccountName::as_str).collect();
    context.remark(&format!(
        "longshore worker · process {} · accounts {} · home {} · health http://{}",
        std::process::id(),
        accounts.join(", "),
        home,
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
async fn probe(home: Arc<embedded::Worker>, health: Health, metrics: Metrics) {
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

/// Asks broker and memory for a sign of life, every second.
async fn probe_fleet(fleet: Arc<Fleet>) {
    loop {
        fleet.health.home(match fleet.pulse().await {
            Ok(()) => HomeSays::Well,
            Err(down) => HomeSays::Trouble(down.to_string()),
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
