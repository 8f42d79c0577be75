//! `longshore topology declare`: makes what is missing, and says of each object what became of it.

use serde_json::{Value, json};

use super::{Wanted, named, no_memory, row, unreachable, visit, with};
use crate::{
    app::fleet,
    cli::{
        context::Context,
        exit::Exit,
        output::{Column, Form, Mark, Paint, Problem, Table},
        stop::{Outcome, Stop},
    },
    config::Loaded,
    rabbitmq::topology::{Found, Object, Provisioned},
    redis::Store,
};

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    Made,
    There,
    /// A binding: whether it was there before is not told.
    Bound,
    /// It is there, or was made: this user may declare, and not look.
    Declared,
    Differs,
    Missing,
    Forbidden,
}

impl Became {
    fn of(provisioned: &Provisioned) -> Self {
        let is_binding = matches!(provisioned.object, Object::Binding { .. });
        match (&provisioned.found, provisioned.was_there) {
            (Found::Well, _) if is_binding => Self::Bound,
            (Found::Well, Some(true)) => Self::There,
            (Found::Well, Some(false)) => Self::Made,
            (Found::Well, None) => Self::Declared,
            (Found::Differs(_), _) => Self::Differs,
            (Found::Missing, _) => Self::Missing,
            (Found::Forbidden, _) => Self::Forbidden,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::There => "there",
            Self::Bound => "bound",
            Self::Declared => "declared",
            Self::Differs => "differs",
            Self::Missing => "missing",
            Self::Forbidden => "forbidden",
        }
    }

    const fn paint(self) -> Paint {
        match self {
            Self::Made => Paint::Good,
            Self::There | Self::Bound | Self::Declared => Paint::Dim,
            Self::Differs | Self::Missing | Self::Forbidden => Paint::Bad,
        }
    }
}

/// What was done about the birth mark.
enum Birth {
    Clean,
    Known,
    Left(&'static str),
    Unreachable(Stop),
}

impl Birth {
    const fn word(&self) -> &'static str {
        match self {
            Self::Clean => "born-clean",
            Self::Known => "known",
            Self::Left(_) => "left",
            Self::Unreachable(_) => "unreachable",
        }
    }

    fn text(&self) -> &'static str {
        match self {
            Self::Clean => "the memory begins now, with nothing under way",
            Self::Known => "the memory has its birth mark already",
            Self::Left(why) => why,
            Self::Unreachable(_) => "the memory cannot be asked: whether it began clean is not noted",
        }
    }
}

pub(super) async fn run(context: &mut Context, loaded: &Loaded) -> Outcome {
    let (broker, memory) = fleet::office(loaded)?;
    let wanted = Wanted::of(loaded);
    let visit = visit(&broker).await?;
    let provisioned = visit.provision(&wanted.objects).await;
    visit.leave().await;
    let provisioned = provisioned.map_err(|down| unreachable(&broker, &down))?;
    let birth = birth(&memory, &provisioned).await;
    tell(context, &provisioned, &birth)?;
    if let Some(problem) = problem(wanted.names.prefix(), &provisioned) {
        return Err(problem);
    }
    match birth {
        Birth::Unreachable(stop) => Err(stop),
        Birth::Clean | Birth::Known | Birth::Left(_) => Ok(Exit::Done),
    }
}

/// The memory begins clean when nothing of the topology existed before: then no ticket can have been under way.
async fn birth(memory: &Store, provisioned: &[Provisioned]) -> Birth {
    let all = || provisioned.iter().filter(|one| !matches!(one.object, Object::Binding { .. }));
    if provisioned.iter().any(|one| one.found != Found::Well) {
        return Birth::Left("the memory is left as it is: not everything is there");
    }
    if !all().all(|one| one.was_there == Some(false)) {
        return Birth::Left("the memory is left as it is: a part of this was there before");
    }
    match memory.born_clean(true).await {
        Ok(true) => Birth::Clean,
        Ok(false) => Birth::Known,
        Err(down) => Birth::Unreachable(no_memory(memory.address(), &down)),
    }
}

fn tell(context: &mut Context, provisioned: &[Provisioned], birth: &Birth) -> Result<(), Stop> {
    let words = |one: &Provisioned| match &one.found {
        Found::Differs(words) => Some(words.clone()),
        Found::Well | Found::Missing | Found::Forbidden => None,
    };
    let rows = provisioned.iter().map(|one| {
        let more = json!({ "state": Became::of(one).word(), "was_there": one.was_there, "message": words(one) });
        with(row(&one.object), more)
    });
    let count = |became: Became| provisioned.iter().filter(|one| Became::of(one) == became).count();
    match context.form() {
        Form::Json => {
            let rows: Vec<Value> = rows.collect();
            let memory = json!({ "state": birth.word(), "message": birth.text() });
            context.out.document(&json!({ "objects": rows, "made": count(Became::Made), "memory": memory }))?;
        }
        Form::Ndjson => {
            for row in rows {
                context.out.line(&row)?;
            }
            context.out.line(&json!({ "object": "memory", "state": birth.word(), "message": birth.text() }))?;
        }
        Form::Table => {
            let columns = [Column::whole("NAME"), Column::whole("OBJECT"), Column::whole("STATE")];
            let mut table = Table::new(&columns, "nothing to declare");
            for one in provisioned {
                let ((name, what), became) = (named(&one.object), Became::of(one));
                table.painted_row([
                    (name, None),
                    (what.to_owned(), Some(Paint::Dim)),
                    (became.word().to_owned(), Some(became.paint())),
                ]);
            }
            let all = [
                Became::Made,
                Became::There,
                Became::Bound,
                Became::Declared,
                Became::Differs,
                Became::Missing,
                Became::Forbidden,
            ];
            let sum: Vec<String> = all
                .into_iter()
                .filter(|became| count(*became) > 0)
                .map(|became| format!("{} {}", count(became), became.word()))
                .collect();
            let is_well = provisioned.iter().all(|one| one.found == Found::Well);
            let mark = context.style.mark(if is_well { Mark::Done } else { Mark::Failed });
            let sum = context.style.text(&format!("{} · {}", sum.join(", "), birth.text())).into_owned();
            let text = format!("{}{mark} {sum}\n", table.render(&context.style));
            context.out.text(&text)?;
        }
    }
    Ok(())
}

/// What is wrong, the worst first: what differs stays wrong whoever declares it.
fn problem(prefix: &str, provisioned: &[Provisioned]) -> Option<Stop> {
    let named_as = |wanted: Became| {
        provisioned.iter().filter(move |one| Became::of(one) == wanted).map(|one| match &one.found {
            Found::Differs(words) => format!("{}: {words}", one.object.name()),
            Found::Well | Found::Missing | Found::Forbidden => one.object.name(),
        })
    };
    let differing: Vec<String> = named_as(Became::Differs).collect();
    let forbidden: Vec<String> = named_as(Became::Forbidden).collect();
    let missing: Vec<String> = named_as(Became::Missing).collect();
    if !differing.is_empty() {
        let problem = Problem::new("something is at the broker already, with other arguments");
        let problem = differing.into_iter().fold(problem, Problem::what);
        let problem = problem
            .rule("arguments cannot be changed after a declare: a change is a new version beside the old one, which then runs empty; nothing of it was touched")
            .next("when it is empty and nobody uses it: delete it at the broker, then: longshore topology declare")
            .next("else choose another [topology] prefix, declare that beside it, and stop this one when it has run empty");
        return Some(Stop::new(Exit::WrongState, problem));
    }
    if !forbidden.is_empty() {
        let user = "this broker user may not declare";
        let seen = forbidden.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let rest = forbidden.len().saturating_sub(3);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        let problem = Problem::new(user)
            .what(format!("{seen}{more}"))
            .rule(format!("declaring needs the rights to configure, write and read ^{prefix}\\. – a worker's user needs none to configure"))
            .next("declare with such a user: home.broker may name another one for this command alone")
            .next("or hand the broker's owner what this prints: longshore topology definitions > definitions.json");
        return Some(Stop::new(Exit::NotAllowed, problem));
    }
    if !missing.is_empty() {
        let problem = missing.into_iter().fold(Problem::new("a binding has nothing to bind"), Problem::what);
        return Some(Stop::new(Exit::NotFound, problem.next("longshore topology declare, once more")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rabbitmq::topology::Arguments;

    fn provisioned(name: &str, was_there: Option<bool>, found: Found) -> Provisioned {
        let object = Object::Queue { name: name.to_owned(), arguments: Arguments::new() };
        Provisioned { object, was_there, found }
    }

    #[test]
    fn what_differs_is_told_before_what_is_forbidden() {
        let forbidden = || provisioned("a", None, Found::Forbidden);
        let differs = || provisioned("b", Some(true), Found::Differs("inequivalent arg".to_owned()));
        let stop = problem("x", &[forbidden(), differs()]).unwrap();
        assert_eq!(stop.exit, Exit::WrongState);
        assert!(stop.problem.unwrap().what[0].contains("queue b: inequivalent arg"));
        assert_eq!(problem("x", &[forbidden()]).unwrap().exit, Exit::NotAllowed);
        assert!(problem("x", &[provisioned("a", Some(true), Found::Well)]).is_none());
    }

    #[test]
    fn a_user_who_may_not_look_makes_nothing_known() {
        assert_eq!(Became::of(&provisioned("a", None, Found::Well)), Became::Declared);
        assert_eq!(Became::of(&provisioned("a", Some(false), Found::Well)), Became::Made);
        assert_eq!(Became::of(&provisioned("a", Some(true), Found::Well)), Became::There);
    }
}
