//! What `doctor` says of a fleet: its broker, what a user may do there, its lanes, and its memory.

use crate::{
    app::{
        Fleet,
        canary::{self, Receivers},
        fleet,
    },
    cli::{
        context::Context,
        exit::Exit,
        finding::{Finding, counted},
        fleet::memory,
        output::{Problem, in_words},
        stop::{Outcome, Stop},
        topology::{check, holds_tickets},
    },
    domain::{
        ids::{AccountName, JobId, Topic},
        step::Kind,
    },
    engine::ports::Unavailable,
    rabbitmq::{
        FollowError, Names, Rabbit, Visit,
        canary::Way,
        topology::{Depth, Found, Looked, Object, objects},
    },
};

const BROKER: &str = "broker";
const RIGHTS: &str = "rights";

/// What was found at both servers.
pub(in crate::cli) struct Servers {
    pub(in crate::cli) findings: Vec<Finding>,
    /// While the memory is silent this process has only its share of the accounts' rates.
    pub(in crate::cli) is_memory_there: bool,
}

/// Looks at broker and memory.
pub(in crate::cli) async fn look(context: &Context, fleet: &Fleet) -> Servers {
    let memory = memory::look(fleet).await;
    let (mut findings, is_empty) = broker(fleet, memory.exam.is_some()).await;
    findings.extend(memory.findings);
    let is_memory_there = memory.exam.is_some();
    if let Some(exam) = memory.exam {
        let grace = fleet.loaded.settings.memory.grace;
        let birth = memory::birth(&exam, grace, is_empty, &context.times);
        // Beside what else is said of the memory.
        let at = findings.iter().rposition(|finding| finding.what == birth.what).map_or(findings.len(), |at| at + 1);
        findings.insert(at, birth);
    }
    Servers { findings, is_memory_there }
}

/// The broker's findings, and whether lanes and delays are empty, where that can be seen.
async fn broker(fleet: &Fleet, is_memory_there: bool) -> (Vec<Finding>, Option<bool>) {
    let broker = fleet.broker();
    let visit = match broker.visit().await {
        Ok(visit) => visit,
        Err(down) => return (vec![unreachable(broker, &down)], None),
    };
    let names = broker.names();
    let kinds = fleet::kinds(&fleet.loaded.settings);
    let mut findings = vec![version(&broker.address(), broker.version().await.as_deref())];
    let wanted = objects(names, &kinds);
    let (looked, is_empty) = match visit.check(&wanted).await {
        Ok(looked) => {
            let is_empty = is_empty(names, &looked);
            (looked, is_empty)
        }
        Err(down) => {
            findings.push(stopped(BROKER, &down));
            return (findings, None);
        }
    };
    if looked.iter().any(|one| one.found == Found::Missing) {
        findings.extend(check::objects(&looked).into_iter().filter(is_no_hint));
        findings.push(Finding::open("canaries", "none was sent: something is missing"));
        return (findings, is_empty);
    }
    let may = match Rights::of(&visit, names, &looked).await {
        Ok(may) => may,
        Err(down) => {
            findings.push(stopped(RIGHTS, &down));
            return (findings, is_empty);
        }
    };
    let account = fleet.loaded.settings.accounts.keys().next();
    let watcher = watcher(broker, account).await;
    findings.extend(may.findings(broker, watcher));
    findings.extend(check::objects(&looked).into_iter().filter(is_no_hint));
    findings.extend(check::lanes(names, &looked));
    let ways = may.ways(names);
    if ways.is_empty() {
        let text = "none was sent: this user may write neither waits nor tickets";
        findings.push(Finding::open("canaries", text));
    } else if is_memory_there {
        let ways: Vec<(Kind, Way)> = kinds.iter().flat_map(|kind| ways.iter().map(|way| (*kind, *way))).collect();
        match canary::prove(broker, fleet.memory(), &ways, Receivers::WorkersOrUs).await {
            Ok(flights) => findings.extend(check::canaries(names, &flights).into_iter().map(unjudged)),
            Err(down) => findings.push(stopped("canaries", &down)),
        }
    } else {
        findings.push(Finding::open("canaries", "none was sent: whether it came back is noted in the memory"));
    }
    visit.leave().await;
    (findings, is_empty)
}

/// `topology check` says where arguments are compared; here that is no news.
fn is_no_hint(finding: &Finding) -> bool {
    finding.is_known || finding.next.is_none()
}

/// What nobody can tell of a canary has its cause elsewhere, and is told there.
fn unjudged(finding: Finding) -> Finding {
    if finding.exit == Exit::Unavailable { Finding::open(finding.what, finding.text) } else { finding }
}

fn unreachable(broker: &Rabbit, down: &Unavailable) -> Finding {
    let why = in_words(&down.why);
    let text = format!("{} cannot be reached: {why}", broker.address());
    // The names of codes are the protocol's own.
    if why.contains("ACCESS_REFUSED") || why.contains("ACCESS-REFUSED") {
        let next =
            "mend user and password in home.broker, or grant the user its virtual host (rabbitmqctl set_permissions)";
        return Finding::bad(BROKER, Exit::NotAllowed, text, next);
    }
    let next = "check that RabbitMQ runs, and home.broker: address, virtual host, TLS; then: longshore doctor";
    Finding::bad(BROKER, Exit::Unavailable, text, next)
}

fn stopped(label: &'static str, down: &Unavailable) -> Finding {
    let text = format!("cannot be told: {}", in_words(&down.why));
    let next = "look for a memory or disk alarm: rabbitmq-diagnostics alarms; then: longshore doctor";
    Finding::bad(label, Exit::Unavailable, text, next)
}

/// Below 3.10 a quorum queue dead-letters at most once: what waits would be lost at a crash.
fn version(address: &str, version: Option<&str>) -> Finding {
    let Some(version) = version else {
        return Finding::good(BROKER, format!("{address}, which version cannot be seen before TLS"));
    };
    let text = format!("{address}, RabbitMQ {version}");
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < (3, 10) => {
            let text = format!("{text}: it loses what waits when it crashes");
            Finding::bad(BROKER, Exit::WrongState, text, "update it to 3.10 or later")
        }
        _ => Finding::good(BROKER, text),
    }
}

/// Are lanes and delays empty? None when one of them cannot be seen.
fn is_empty(names: &Names, looked: &[Looked]) -> Option<bool> {
    let mut all_seen = true;
    for one in looked.iter().filter(|one| holds_tickets(names, &one.object)) {
        match one.depth {
            Some(Depth { messages: 0, .. }) => {}
            Some(_) => return Some(false),
            None => all_seen = false,
        }
    }
    all_seen.then_some(true)
}

/// What this user may do, by the names of what is there.
struct Rights {
    names: Names,
    /// Exchanges that are there and may not be written to.
    unwritten: Vec<String>,
    /// Queues that are there and may not be read.
    unread: Vec<String>,
    may_configure: bool,
}

/// Somebody who uses the broker, and needs rights of their own.
struct Role {
    name: &'static str,
    write: Vec<String>,
    read: Vec<String>,
    /// As `rabbitmqctl set_permissions` is given them: configure, write, read.
    grant: [String; 3],
}

impl Rights {
    /// Asks for each right that somebody needs, of what is there.
    async fn of(visit: &Visit, names: &Names, looked: &[Looked]) -> Result<Self, Unavailable> {
        let (mut unwritten, mut unread) = (Vec::new(), Vec::new());
        let mut may_configure = false;
        for one in looked.iter().filter(|one| one.found != Found::Missing) {
            match &one.object {
                Object::Exchange { name, .. } if *name == names.unrouted() => {}
                Object::Exchange { name, .. } => {
                    if visit.may_write(name).await? == Found::Forbidden {
                        unwritten.push(name.clone());
                    }
                    if *name == names.events() {
                        may_configure = visit.may_configure(name).await? == Found::Well;
                    }
                }
                // Nobody consumes what waits.
                Object::Queue { name, .. } if name.starts_with(&names.delay()) => {}
                Object::Queue { name, .. } => {
                    if visit.may_read(name).await? == Found::Forbidden {
                        unread.push(name.clone());
                    }
                }
                Object::Binding { .. } => {}
            }
        }
        Ok(Self { names: names.clone(), unwritten, unread, may_configure })
    }

    fn roles(&self) -> [Role; 2] {
        let (names, prefix) = (&self.names, self.names.prefix());
        let lanes = |name: &&String| **name != names.set_aside() && **name != names.unrouted();
        let worker = Role {
            name: "worker",
            write: vec![names.out(), names.delay(), names.dead(), names.events()],
            read: self.unread.iter().filter(lanes).cloned().collect(),
            grant: ["^$".to_owned(), format!(r"^{prefix}\.(out|delay|dead|events)\.v1$"), format!(r"^{prefix}\.w\.")],
        };
        let operator = Role {
            name: "operator",
            write: vec![names.jobs(), names.out(), names.dead()],
            read: vec![names.set_aside(), names.unrouted()],
            grant: [
                "^$".to_owned(),
                format!(r"^{prefix}\.(jobs|out|dead)\.v1$"),
                format!(r"^{prefix}\.(dlq|unrouted)\.v1$"),
            ],
        };
        [worker, operator]
    }

    /// What a role lacks, in words; empty when it lacks nothing.
    fn lacks(&self, role: &Role) -> String {
        let of = |verb: &str, missing: Vec<&String>| {
            let (first, rest) = missing.split_first()?;
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            Some(format!("may not {verb} {first}{more}"))
        };
        let lacks = [
            of("write", role.write.iter().filter(|name| self.unwritten.contains(name)).collect()),
            of("read", role.read.iter().filter(|name| self.unread.contains(name)).collect()),
        ];
        lacks.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// The rights of each role. A user who can be none of them is useless; else it is fine that it is not all of them.
    fn findings(&self, broker: &Rabbit, watcher: Result<(), String>) -> Vec<Finding> {
        let roles = self.roles().map(|role| {
            let lacks = self.lacks(&role);
            (role, lacks)
        });
        let is_any = roles.iter().any(|(_, lacks)| lacks.is_empty());
        let user = broker.user().unwrap_or_else(|| "USER".to_owned());
        let vhost = broker.vhost().filter(|vhost| !vhost.is_empty()).unwrap_or_else(|| "/".to_owned());
        let mut findings = Vec::new();
        for (role, lacks) in roles {
            let name = role.name;
            if lacks.is_empty() {
                findings.push(Finding::good(RIGHTS, format!("{user} may do what {} does", with_article(name))));
                continue;
            }
            let text = format!("{user} is no {name}: {lacks}");
            let [configure, write, read] = &role.grant;
            let next = format!("rabbitmqctl set_permissions -p {vhost} {user} '{configure}' '{write}' '{read}'");
            if is_any {
                findings.push(Finding::open(RIGHTS, text));
            } else if name == "worker" {
                findings.push(Finding::bad(RIGHTS, Exit::NotAllowed, text, next));
            } else {
                findings.push(Finding::open(RIGHTS, text).and_next(next));
            }
        }
        findings.push(match watcher {
            Ok(()) => Finding::good(RIGHTS, format!("{user} may follow events (submit --wait, job watch)")),
            Err(lacks) => {
                Finding::open(RIGHTS, format!("{user} cannot follow events (submit --wait, job watch): {lacks}"))
            }
        });
        if self.may_configure {
            let text = format!("{user} may configure: right for who declares, more than a worker needs");
            findings.push(Finding::open(RIGHTS, text));
        }
        findings
    }

    /// The ways that this user can send canaries on: through a delay, which goes through `out` as well, or `out` alone.
    fn ways(&self, names: &Names) -> Vec<Way> {
        let may_write = |exchange: String| !self.unwritten.contains(&exchange);
        if may_write(names.delay()) {
            vec![Way::Wait]
        } else if may_write(names.out()) {
            vec![Way::HandOver]
        } else {
            Vec::new()
        }
    }
}

fn with_article(name: &str) -> String {
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {name}")
}

/// Whether events of an account can be followed; why not.
async fn watcher(broker: &Rabbit, account: Option<&AccountName>) -> Result<(), String> {
    let (Some(account), Ok(nobody)) = (account, JobId::parse("longshore-doctor")) else {
        return Err("no account is configured".to_owned());
    };
    match broker.follow(&[(account.clone(), Some(Topic::of_job(&nobody)))]).await {
        Ok(follow) => {
            follow.close().await;
            Ok(())
        }
        Err(FollowError::Forbidden(right)) => Err(format!("it lacks {right}")),
        Err(FollowError::Down(down)) => Err(in_words(&down.why)),
    }
}

/// An older copy of the broker's messages was put back: a new life of the memory begins.
pub(in crate::cli) async fn restored(context: &Context, fleet: &Fleet) -> Outcome {
    let broker = fleet.broker();
    let wanted = objects(broker.names(), &fleet::kinds(&fleet.loaded.settings));
    let visit = broker.visit().await?;
    let looked = visit.check(&wanted).await;
    visit.leave().await;
    let consumed: Vec<String> = looked?
        .into_iter()
        .filter(|one| one.depth.is_some_and(|depth| depth.consumers > 0) && check::is_lane(broker.names(), &one.object))
        .map(|one| one.object.name())
        .collect();
    if let Some(first) = consumed.first() {
        let problem = Problem::new("workers are running in this fleet")
            .what(format!("{first} is consumed, of {}", counted(consumed.len(), "lane")))
            .next("stop them, then: longshore doctor --restored");
        return Err(Stop::new(Exit::WrongState, problem));
    }
    fleet.memory().restored().await?;
    context.remark("a new life of the memory begins: every job under way looks before it writes");
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_loses_what_waits_is_told_by_its_version() {
        for (told, exit) in [
            (Some("3.9.29"), Exit::WrongState),
            (Some("3.10.8"), Exit::Done),
            (Some("4.0.5"), Exit::Done),
            (Some("5"), Exit::Done),
            (None, Exit::Done),
        ] {
            assert_eq!(version("host", told).exit, exit, "{told:?}");
        }
    }

    fn rights(unwritten: &[&str], unread: &[&str]) -> Rights {
        let all = |names: &[&str]| names.iter().map(|name| format!("x.{name}.v1")).collect();
        Rights { names: Names::new("x"), unwritten: all(unwritten), unread: all(unread), may_configure: false }
    }

    fn told(rights: &Rights) -> Vec<(Exit, bool)> {
        let broker = Rabbit::new(crate::rabbitmq::Options::default());
        rights.findings(&broker, Ok(())).iter().map(|finding| (finding.exit, finding.is_known)).collect()
    }

    #[test]
    fn a_user_need_not_be_everything_but_must_be_something() {
        let (well, open, bad) = ((Exit::Done, true), (Exit::Done, false), (Exit::NotAllowed, true));
        assert_eq!(told(&rights(&[], &[])), [well, well, well]);
        assert_eq!(told(&rights(&["jobs"], &["dlq"])), [well, open, well], "a worker");
        assert_eq!(told(&rights(&["delay"], &["w.upload"])), [open, well, well], "an operator");
        assert_eq!(told(&rights(&["events", "jobs"], &[])), [bad, open, well], "neither");
    }

    #[test]
    fn canaries_fly_where_the_user_may_write() {
        let names = Names::new("x");
        assert_eq!(rights(&[], &[]).ways(&names), [Way::Wait]);
        assert_eq!(rights(&["delay"], &[]).ways(&names), [Way::HandOver]);
        assert_eq!(rights(&["delay", "out"], &[]).ways(&names), []);
    }
}
