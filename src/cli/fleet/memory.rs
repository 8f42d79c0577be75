//! What `doctor` says of a fleet's Redis.

use std::time::Duration;

use crate::{
    app::Fleet,
    cli::{
        exit::Exit,
        finding::Finding,
        output::{Times, duration, in_words, size},
    },
    domain::time::Moment,
    engine::ports::Unavailable,
    redis::{Exam, Mark},
};

const LABEL: &str = "memory";

/// How far clocks may differ before it is told.
pub(in crate::cli) const CLOCKS: Duration = Duration::from_secs(60);

/// A primary that was cut off must stop taking writes so long before another one takes over.
const AHEAD: Duration = Duration::from_secs(1);

/// The documented line, for whoever grants the rights.
const GRANT: &str = "grant the user the rights of docs/fleet/redis.md, \"The worker's user\"";

/// What was found, and what else it tells.
pub(in crate::cli) struct Looked {
    pub(in crate::cli) findings: Vec<Finding>,
    /// The server's setup, when it answers.
    pub(in crate::cli) exam: Option<Exam>,
}

/// Looks at the memory.
pub(in crate::cli) async fn look(fleet: &Fleet) -> Looked {
    let memory = fleet.memory();
    let exam = match memory.exam().await {
        Ok(exam) => exam,
        Err(down) => return Looked { findings: vec![unreachable(memory.address(), &down)], exam: None },
    };
    let mut findings = vec![Finding::good(LABEL, format!("{}, Redis {}", memory.address(), exam.server.version))];
    findings.extend(server(&exam));
    match memory.down_after().await {
        Ok(Some(down_after)) => findings.push(behind_sentinel(&exam, down_after)),
        Ok(None) => {}
        Err(down) => findings.push(Finding::bad(
            LABEL,
            Exit::Unavailable,
            in_words(&down.why),
            "check redis.sentinels, and the user and password there; then: longshore doctor",
        )),
    }
    findings.push(clock(&exam));
    Looked { findings, exam: Some(exam) }
}

fn unreachable(address: &str, down: &Unavailable) -> Finding {
    let why = in_words(&down.why);
    let text = format!("{address} cannot be used: {why}");
    if why.contains("Redis Cluster") {
        let next = "name a single server in home.store, or Sentinels in redis.sentinels";
        return Finding::bad(LABEL, Exit::WrongState, text, next);
    }
    if why.contains("lacks a right") {
        return Finding::bad(LABEL, Exit::NotAllowed, text, GRANT);
    }
    if why.contains("is refused") {
        return Finding::bad(LABEL, Exit::NotAllowed, text, "mend user and password in home.store");
    }
    let next = "check that Redis runs, and home.store: address, user, password, TLS; then: longshore doctor";
    Finding::bad(LABEL, Exit::Unavailable, text, next)
}

/// Everything about the server itself.
fn server(exam: &Exam) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match exam.server.eviction.as_deref() {
        Some("noeviction") => Finding::good(LABEL, "keeps what it holds when it is full (maxmemory-policy noeviction)"),
        Some(policy) => Finding::bad(
            LABEL,
            Exit::WrongState,
            format!("forgets at will when it is full (maxmemory-policy {policy}): no worker starts on it"),
            "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        ),
        None => Finding::open(LABEL, "what it does when it is full cannot be seen (maxmemory-policy)"),
    });
    let (used, most) = exam.memory;
    if most > 0 && used.saturating_mul(10) >= most.saturating_mul(9) {
        let text = format!("{} of {} are used: full, it takes no writes, and jobs wait", size(used), size(most));
        findings.push(Finding::bad(LABEL, Exit::WrongState, text, "raise its maxmemory"));
    }
    findings.push(persistence(exam));
    if !exam.forbidden.is_empty() {
        let text = format!("the user may not give: {}", exam.forbidden.join(", "));
        findings.push(Finding::bad(LABEL, Exit::NotAllowed, text, GRANT));
    }
    findings
}

fn persistence(exam: &Exam) -> Finding {
    if exam.save_failed {
        let text = "could not save to its disk the last time: it takes no writes while that lasts";
        return Finding::bad(LABEL, Exit::WrongState, text, "look at its log, and at room and owner of its folder");
    }
    let after = "after a restart it is empty: nothing is lost or made twice, but every job under way looks first";
    match (exam.appends, exam.saves.as_deref()) {
        (Some(true), _) => Finding::good(LABEL, "keeps what is written over a restart (appendonly yes)"),
        (_, Some("")) => {
            Finding::open(LABEL, format!("keeps nothing over a restart (appendonly no, save \"\"); {after}"))
                .and_next("set appendonly yes, where that matters")
        }
        (_, Some(saves)) => {
            let text =
                format!("keeps what it last saved over a restart (save {saves:?}); what is younger is forgotten");
            Finding::open(LABEL, text).and_next("set appendonly yes, where that matters")
        }
        (_, None) => {
            let text = "appends to no file; whether it saves by itself cannot be seen, this user may not CONFIG GET";
            Finding::open(LABEL, text).and_next("redis-cli CONFIG GET save, as somebody who may")
        }
    }
}

/// Behind Sentinel an old primary must stop taking writes before there is a new one.
fn behind_sentinel(exam: &Exam, down_after: Duration) -> Finding {
    let most = down_after.saturating_sub(AHEAD);
    let next = format!(
        "on every server: CONFIG SET min-replicas-to-write 1, CONFIG SET min-replicas-max-lag {} or less; Sentinel's \
         down-after-milliseconds is {}",
        most.as_secs().max(1),
        down_after.as_millis(),
    );
    if !exam.server.needs_replicas {
        let text =
            "behind Sentinel, an old primary would go on taking writes beside the new one: what it takes is lost";
        return Finding::bad(LABEL, Exit::WrongState, text, next);
    }
    match exam.max_lag {
        Some(lag) if lag > most => {
            let text = format!(
                "behind Sentinel, an old primary takes writes for {} s, and after {} there may be a new one",
                lag.as_secs(),
                duration(down_after)
            );
            Finding::bad(LABEL, Exit::WrongState, text, next)
        }
        Some(lag) => {
            let text = format!("takes writes only while a replica follows within {} s", lag.as_secs());
            Finding::good(LABEL, text)
        }
        None => {
            let text = format!(
                "takes writes only while a replica follows; how closely cannot be seen, this user may not CONFIG GET: \
                 it must be within {} s",
                most.as_secs()
            );
            Finding::open(LABEL, text).and_next("redis-cli CONFIG GET min-replicas-max-lag, as somebody who may")
        }
    }
}

fn apart(one: Moment, other: Moment) -> Duration {
    Duration::from_millis(one.as_millis().abs_diff(other.as_millis()))
}

fn clock(exam: &Exam) -> Finding {
    let apart = apart(exam.now, exam.ours);
    let text = format!("{:.1} s from the memory's", apart.as_secs_f64());
    if apart <= CLOCKS {
        Finding::good("clock", text)
    } else {
        let next = "set the clocks of this machine and of the memory's (NTP): leases and waits are told by them";
        Finding::bad("clock", Exit::Unavailable, text, next)
    }
}

/// The birth mark: `is_empty` says whether lanes and delays are; none when that could not be seen.
pub(in crate::cli) fn birth(exam: &Exam, grace: Duration, is_empty: Option<bool>, times: &Times) -> Finding {
    let since = |at: Moment| times.full(at.timestamp());
    let looks =
        format!("jobs that arrive within {} of that look at the service before their first write", duration(grace));
    let unclean = |text: String| match is_empty {
        Some(true) => Finding::open(LABEL, format!("{text}; all lanes are empty"))
            .and_next("if nothing was under way before: longshore topology born --clean"),
        Some(false) => Finding::open(LABEL, text).and_next("do nothing: nothing is lost, and it ends by itself"),
        None => Finding::open(LABEL, text)
            .and_next("if all lanes are empty, and nothing was under way before: longshore topology born --clean"),
    };
    match exam.mark {
        Mark::Clean(at) => Finding::good(LABEL, format!("remembers since {}, when nothing was under way", since(at))),
        Mark::Unclean(at) if exam.now >= at.after(grace) => {
            Finding::good(LABEL, format!("remembers since {}; that is long enough ago", since(at)))
        }
        Mark::Unclean(at) => {
            unclean(format!("remembers since {}, when jobs may have been under way: {looks}", since(at)))
        }
        Mark::Other => unclean(format!("was started anew, or failed over, and nobody has worked since: {looks}")),
        Mark::Missing => match is_empty {
            Some(true) => Finding::open(LABEL, "has not begun yet; all lanes are empty")
                .and_next("if nothing was under way before: longshore topology born --clean"),
            Some(false) | None => unclean(format!("has not begun yet, or was emptied: {looks}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::Server;

    fn exam() -> Exam {
        let server = Server {
            version: "7.0.15".to_owned(),
            eviction: Some("noeviction".to_owned()),
            replicas: 1,
            needs_replicas: true,
        };
        let now = Moment::from_millis(10_000_000);
        Exam {
            server,
            appends: Some(true),
            saves: Some(String::new()),
            save_failed: false,
            memory: (1, 0),
            now,
            ours: now,
            mark: Mark::Clean(now),
            max_lag: Some(Duration::from_secs(3)),
            forbidden: Vec::new(),
        }
    }

    fn exits(findings: &[Finding]) -> Vec<(Exit, bool)> {
        findings.iter().map(|finding| (finding.exit, finding.is_known)).collect()
    }

    #[test]
    fn a_server_that_is_set_up_well_has_nothing_to_be_done() {
        assert!(exits(&server(&exam())).iter().all(|found| *found == (Exit::Done, true)));
        let full = Exam { memory: (95, 100), ..exam() };
        assert!(exits(&server(&full)).contains(&(Exit::WrongState, true)));
        assert!(!exits(&server(&Exam { memory: (80, 100), ..exam() })).contains(&(Exit::WrongState, true)));
    }

    #[test]
    fn what_is_kept_over_a_restart_is_told_as_far_as_it_can_be_seen() {
        let told = |appends, saves: Option<&str>| {
            persistence(&Exam { appends: Some(appends), saves: saves.map(str::to_owned), ..exam() })
        };
        assert_eq!(told(true, None).next, None);
        for (saves, word) in [(Some(""), "keeps nothing"), (Some("3600 1"), "last saved"), (None, "cannot be seen")] {
            let finding = told(false, saves);
            assert!(!finding.is_known && finding.text.contains(word) && finding.next.is_some(), "{}", finding.text);
        }
        assert_eq!(persistence(&Exam { save_failed: true, ..exam() }).exit, Exit::WrongState);
    }

    #[test]
    fn an_old_primary_must_stop_a_second_before_there_is_a_new_one() {
        let told = |max_lag, down_after| {
            let exam = Exam { max_lag: Some(Duration::from_secs(max_lag)), ..exam() };
            behind_sentinel(&exam, Duration::from_secs(down_after)).exit
        };
        assert_eq!((told(3, 4), told(4, 4), told(10, 5)), (Exit::Done, Exit::WrongState, Exit::WrongState));
        let mut without = exam();
        without.server.needs_replicas = false;
        assert_eq!(behind_sentinel(&without, Duration::from_secs(30)).exit, Exit::WrongState);
    }

    #[test]
    fn a_memory_of_which_nobody_says_that_it_began_clean_is_asked_about_while_all_lanes_are_empty() {
        let (grace, times) = (Duration::from_secs(3_600), Times::new(true));
        let told = |mark, is_empty| birth(&Exam { mark, ..exam() }, grace, is_empty, &times);
        let now = exam().now;
        let names_it = |finding: &Finding| finding.next.as_ref().is_some_and(|next| next.contains("born --clean"));
        for mark in [Mark::Unclean(now), Mark::Other, Mark::Missing] {
            assert!(names_it(&told(mark, Some(true))) && names_it(&told(mark, None)), "{mark:?}");
            assert!(!names_it(&told(mark, Some(false))), "{mark:?}");
        }
        assert!(told(Mark::Clean(now), Some(true)).next.is_none());
        let old = Mark::Unclean(Moment::from_millis(now.as_millis() - 3_600_000));
        assert!(told(old, Some(true)).is_known);
    }
}
