//! `longshore topology`: what must be at the fleet's broker, made, checked and shown.

pub(super) mod check;
mod declare;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    context::Context,
    exit::Exit,
    output::{Column, Form, Paint, Problem, Table},
    stop::{Outcome, Stop},
};
use crate::{
    app::fleet,
    config::Loaded,
    domain::step::Kind,
    engine::ports::Unavailable,
    rabbitmq::{
        self, Names, Rabbit, Visit,
        definitions::{arguments, definitions, policies, purpose},
        topology::{Depth, Found, Object, objects},
    },
};

/// Makes, checks and shows what must be at the fleet's broker.
///
/// Example: longshore topology check
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes exchanges, queues and bindings; what is there already stays as it is
    ///
    /// Needs a user that may configure, write and read them. Exit 4 when it may not, 6 when something is there with other arguments.
    ///
    /// Example: longshore topology declare
    Declare,
    /// Looks whether everything is there, and sends canaries through it; needs no right to configure
    ///
    /// Exit 5 when something is missing, 6 when a canary does not come back, 4 when this user may try nothing.
    ///
    /// Example: longshore topology check
    Check,
    /// Prints what would be declared, with arguments and purpose; asks nobody
    ///
    /// Example: longshore topology show
    Show,
    Definitions(Definitions),
    Born(Born),
}

/// Prints the file for `rabbitmqctl import_definitions`, policies included, for a broker that belongs to somebody else.
///
/// Example: longshore topology definitions > definitions.json
#[derive(Debug, Args)]
struct Definitions {
    /// The virtual host; that of home.broker when left out
    #[arg(long, value_name = "NAME")]
    vhost: Option<String>,
    /// Members of each queue in a cluster, kept by a policy that RabbitMQ 3.10 refuses
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u8).range(1..=7))]
    group_size: Option<u8>,
}

/// Notes by hand that the memory begins with nothing under way, as `topology declare` does on a new broker.
///
/// Right only while all lanes and delays are empty. Without it every job looks at the service before its first write for an hour.
///
/// Example: longshore topology born --clean
#[derive(Debug, Args)]
struct Born {
    /// Yes, nothing is under way
    #[arg(long)]
    clean: bool,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let loaded = context.load_quietly()?;
    match arguments.verb {
        Verb::Declare => declare::run(context, &loaded).await,
        Verb::Check => check::run(context, &loaded).await,
        Verb::Show => show(context, &loaded),
        Verb::Definitions(wish) => run_definitions(context, &loaded, wish),
        Verb::Born(wish) => born(context, &loaded, &wish).await,
    }
}

/// What the configuration asks for.
struct Wanted {
    names: Names,
    kinds: BTreeSet<Kind>,
    objects: Vec<Object>,
}

impl Wanted {
    fn of(loaded: &Loaded) -> Self {
        let names = Names::new(loaded.settings.topology.prefix.as_str());
        let kinds = fleet::kinds(&loaded.settings);
        let objects = objects(&names, &kinds);
        Self { names, kinds, objects }
    }
}

/// What it is called, and `exchange`, `queue` or `binding`, which is called as its queue.
fn named(object: &Object) -> (String, &'static str) {
    match object {
        Object::Exchange { name, .. } => (name.clone(), "exchange"),
        Object::Queue { name, .. } => (name.clone(), "queue"),
        Object::Binding { queue, .. } => (queue.clone(), "binding"),
    }
}

/// The same for programs.
fn row(object: &Object) -> Value {
    match object {
        Object::Exchange { name, .. } => json!({ "object": "exchange", "name": name }),
        Object::Queue { name, .. } => json!({ "object": "queue", "name": name }),
        Object::Binding { exchange, queue, key } => {
            json!({ "object": "binding", "exchange": exchange, "queue": queue, "key": key })
        }
    }
}

fn with(mut row: Value, members: Value) -> Value {
    if let (Some(row), Value::Object(members)) = (row.as_object_mut(), members) {
        row.extend(members);
    }
    row
}

fn show(context: &mut Context, loaded: &Loaded) -> Outcome {
    let Wanted { names, objects, .. } = Wanted::of(loaded);
    let own = |object: &Object| match object {
        Object::Exchange { arguments, .. } | Object::Queue { arguments, .. } => arguments.clone(),
        Object::Binding { .. } => rabbitmq::topology::Arguments::new(),
    };
    let rows = objects.iter().map(|object| {
        let kind = match object {
            Object::Exchange { kind, .. } => Some(*kind),
            Object::Queue { .. } | Object::Binding { .. } => None,
        };
        let more = json!({ "arguments": arguments(&own(object)), "purpose": purpose(&names, object) });
        let more = kind.map_or_else(|| more.clone(), |kind| with(more.clone(), json!({ "type": kind })));
        with(row(object), more)
    });
    match context.form() {
        Form::Json => context.out.document(&json!({ "objects": rows.collect::<Vec<_>>() }))?,
        Form::Ndjson => {
            for row in rows {
                context.out.line(&row)?;
            }
        }
        Form::Table => {
            let columns = [
                Column::whole("NAME"),
                Column::whole("OBJECT"),
                Column::new("PURPOSE").leaves(1),
                Column::new("ARGUMENTS").leaves(2),
            ];
            let mut table = Table::new(&columns, "nothing");
            for object in &objects {
                let (name, what) = named(object);
                let told: Vec<String> = own(object).iter().map(|(name, value)| format!("{name}={value}")).collect();
                table.painted_row([
                    (name, None),
                    (what.to_owned(), Some(Paint::Dim)),
                    (purpose(&names, object), None),
                    (told.join(" "), Some(Paint::Dim)),
                ]);
            }
            let text = table.render(&context.style);
            context.out.text(&text)?;
        }
    }
    Ok(Exit::Done)
}

fn run_definitions(context: &mut Context, loaded: &Loaded, wish: Definitions) -> Outcome {
    let Wanted { names, kinds, objects } = Wanted::of(loaded);
    let vhost = match wish.vhost {
        Some(vhost) => vhost,
        None if loaded.settings.is_fleet() => {
            fleet::office(loaded)?.0.vhost().filter(|vhost| !vhost.is_empty()).unwrap_or_else(|| "/".to_owned())
        }
        None => "/".to_owned(),
    };
    let policies = policies(&names, &kinds, &vhost, wish.group_size);
    let file = definitions(&objects, &policies, &vhost);
    // It is somebody else's file: nothing of ours is added to it.
    let text = serde_json::to_string_pretty(&file).map_err(|error| Stop::internal(error.to_string()))?;
    context.out.text(&(text + "\n"))?;
    for policy in &policies {
        let text = |name: &str| policy.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let definition = policy.get("definition").map(ToString::to_string).unwrap_or_default();
        context.remark(&format!("policy {} for {}: {definition}", text("name"), text("pattern")));
    }
    context
        .remark("import with: rabbitmqctl import_definitions definitions.json; then: longshore topology born --clean");
    Ok(Exit::Done)
}

async fn born(context: &mut Context, loaded: &Loaded, wish: &Born) -> Outcome {
    if !wish.clean {
        let problem = Problem::new("nothing was noted: this must be asked for with --clean")
            .what("the birth mark of a memory says whether jobs may have been under way before it began; while that is not known to be clean, each job looks at the service before its first write, for an hour")
            .rule("clean is right only while every lane and every delay is empty and nobody hands in again what was begun before; what the memory knows of earlier jobs counts no more from then on")
            .next("make sure of that, then: longshore topology born --clean");
        return Err(Stop::input(problem));
    }
    let (broker, memory) = fleet::office(loaded)?;
    let visit = visit(&broker).await?;
    let Wanted { names, objects, .. } = Wanted::of(loaded);
    let holders: Vec<Object> = objects.into_iter().filter(|object| holds_tickets(&names, object)).collect();
    let looked = visit.check(&holders).await;
    visit.leave().await;
    let looked = looked.map_err(|error| unreachable(&broker, &error))?;
    let (mut full, mut missing, mut unseen) = (Vec::new(), Vec::new(), 0_usize);
    for looked in &looked {
        match (&looked.found, looked.depth) {
            (Found::Missing, _) => missing.push(format!("{} is missing", looked.object.name())),
            (_, Some(Depth { messages: 0, consumers: 0 })) => {}
            (_, Some(Depth { messages: 0, consumers })) => {
                full.push(format!("{} is consumed by {consumers}: stop the workers first", looked.object.name()));
            }
            (_, Some(Depth { messages, .. })) => full.push(format!("{} holds {messages}", looked.object.name())),
            (Found::Well | Found::Differs(_) | Found::Forbidden, None) => unseen += 1,
        }
    }
    if !missing.is_empty() {
        let problem = missing.into_iter().fold(Problem::new("the topology is not there yet"), Problem::what);
        return Err(Stop::new(Exit::NotFound, problem.next("have it declared, then: longshore topology born --clean")));
    }
    if !full.is_empty() {
        let problem =
            full.into_iter().fold(Problem::new("tickets are under way: this memory is not clean"), Problem::what);
        let rule = "a job that may have called before anybody remembers looks before it writes";
        let next = "do nothing: for an hour jobs look before their first write, and nothing is lost";
        return Err(Stop::new(Exit::WrongState, problem.rule(rule).next(next)));
    }
    if unseen > 0 {
        context.remark(&format!("this user may not look into {unseen} queues: that they are empty is your word"));
    }
    memory.born_clean(false).await.map_err(|down| no_memory(memory.address(), &down))?;
    match context.form() {
        Form::Table => {
            let mark = context.style.mark(super::output::Mark::Done);
            let text = format!("the memory at {} begins now, with nothing under way", memory.address());
            let line = format!("{mark} {}\n", context.style.text(&text));
            context.out.text(&line)?;
        }
        Form::Json | Form::Ndjson => context.out.document(&json!({ "born": "clean", "memory": memory.address() }))?,
    }
    Ok(Exit::Done)
}

/// Lanes and delays: where a ticket or a job under way can lie.
pub(super) fn holds_tickets(names: &Names, object: &Object) -> bool {
    match object {
        Object::Queue { name, .. } => *name != names.set_aside() && *name != names.unrouted(),
        Object::Exchange { .. } | Object::Binding { .. } => false,
    }
}

async fn visit(broker: &Rabbit) -> Result<Visit, Stop> {
    broker.visit().await.map_err(|down| unreachable(broker, &down))
}

fn unreachable(broker: &Rabbit, down: &Unavailable) -> Stop {
    let problem = Problem::new(format!("the broker at {} cannot be asked", broker.address()))
        .what(down.why.clone())
        .next("check that it runs, and home.broker: address, user, password, virtual host")
        .next("longshore config show");
    Stop::new(Exit::Unavailable, problem)
}

fn no_memory(address: &str, down: &Unavailable) -> Stop {
    let problem = Problem::new(format!("the memory at {address} cannot be asked"))
        .what(down.why.clone())
        .next("check that Redis runs, and home.store: address, user, password")
        .next("then, while all lanes are empty: longshore topology born --clean");
    Stop::new(Exit::Unavailable, problem)
}
