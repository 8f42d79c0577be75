//! The end of a step.

use longshore::{
    domain::{
        claim::{Claimant, Finished, Outcome},
        event::{Class, End, EndName, Name, Reason},
        settlement::{Entry, Next, SetAside},
        step::{Kind, Step},
        ticket::{StepResult, Ticket},
        time::Moment,
    },
    engine::ports::{Memory, Queue, Settled},
};

use crate::harness::{
    Harness, arrival, assert_quiet, key, names, next_try, progressed, receive, settlement, take, ticket, try_claim,
};

fn end(ticket: &Ticket, name: EndName) -> End {
    let reason = (name != EndName::Completed).then(|| Reason {
        class: Class::Rejected,
        message: "the service said no".to_owned(),
        next: "read its message".to_owned(),
        step: ticket.step(),
        cause: None,
        candidates: Vec::new(),
    });
    End { name, at: Moment::from_millis(7), reason, ticket: Box::new(ticket.clone()) }
}

pub(crate) async fn a_step_that_is_done_leaves_record_event_and_next_ticket<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let held = take(&home, worker, 1, Kind::Submission).await;
    let result = StepResult::Preflight { package: None, warnings: vec!["odd".to_owned()] };
    let next = held.ticket.clone().at_step(Step::Poll);
    let mut done = settlement(
        &held.ticket,
        Some(held.me),
        Entry::Outcome(Outcome::Finished(Finished::Done(result.clone()))),
        Next::Ticket(Box::new(next.clone())),
    );
    done.events = vec![progressed(&held.ticket, 0), progressed(&held.ticket, 1)];
    assert_eq!(home.settle(held.delivery, Some(&key("a")), done).await.unwrap(), Settled::Done);
    let record = home.load(&key("a")).await.unwrap().record.unwrap();
    assert_eq!(record.result, Some(Finished::Done(result)));
    assert_eq!(names(&harness, &key("a")).await, [Name::Progressed; 2]);
    assert_quiet(&home, Kind::Submission).await;
    let held = take(&home, worker, 2, Kind::StatusPoll).await;
    assert_eq!(held.ticket, next);
    assert!(held.record.result.is_none() && !held.is_redelivered);
}

pub(crate) async fn an_end_is_announced_once_and_set_aside_unless_it_is_completed<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    for (number, name) in [EndName::Completed, EndName::Failed, EndName::Cancelled].into_iter().enumerate() {
        let id = name.to_string();
        harness.put(&ticket(&id)).await;
        let held = take(&home, worker, number as u64, Kind::Submission).await;
        let mut done = settlement(
            &held.ticket,
            Some(held.me),
            Entry::End { end: Box::new(end(&held.ticket, name)), result: None },
            Next::Nothing,
        );
        done.events = vec![progressed(&held.ticket, 0)];
        assert_eq!(home.settle(held.delivery, Some(&key(&id)), done).await.unwrap(), Settled::Done);
        assert_eq!(names(&harness, &key(&id)).await, [Name::Progressed, name.event()]);
        let record = home.load(&key(&id)).await.unwrap().record.unwrap();
        assert_eq!(record.end.unwrap().name, name);
    }
    let mut set_aside = harness.set_aside().await;
    set_aside.sort();
    assert_eq!(set_aside, [Some(key("cancelled")), Some(key("failed"))]);
    assert_quiet(&home, Kind::Submission).await;
}

pub(crate) async fn an_end_that_is_announced_again_is_the_same_event<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let held = take(&home, worker, 1, Kind::Submission).await;
    harness.put(&held.ticket).await;
    let failed = end(&held.ticket, EndName::Failed);
    let done = settlement(
        &held.ticket,
        Some(held.me),
        Entry::End { end: Box::new(failed.clone()), result: None },
        Next::Nothing,
    );
    home.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    let (copy, ticket) = receive(&home, Kind::Submission).await;
    let again = Entry::EndAgain { end: Box::new(failed), set_aside: true };
    let done = settlement(&ticket, None, again, Next::Nothing);
    assert_eq!(home.settle(copy.delivery, Some(&key("a")), done).await.unwrap(), Settled::Done);
    assert_eq!(names(&harness, &key("a")).await, [Name::Failed]);
    assert!(harness.set_aside().await.contains(&Some(key("a"))));
    assert_quiet(&home, Kind::Submission).await;
}

pub(crate) async fn a_lost_holder_announces_nothing_and_its_ticket_goes_back_marked<H: Harness>() {
    let harness = H::fresh().await;
    let (first, first_id) = harness.worker().await;
    let (second, second_id) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let held = take(&first, first_id, 1, Kind::Submission).await;
    harness.rest(&first).await;
    harness.put(&next_try(&held.ticket)).await;
    let later = take(&second, second_id, 1, Kind::Submission).await;
    let mut done = settlement(
        &held.ticket,
        Some(held.me),
        Entry::Outcome(Outcome::Unclear),
        Next::Ticket(Box::new(held.ticket.clone().at_step(Step::Poll))),
    );
    done.events = vec![progressed(&held.ticket, 0)];
    assert_eq!(first.settle(held.delivery, Some(&key("a")), done).await.unwrap(), Settled::Lost);
    assert!(names(&harness, &key("a")).await.is_empty());
    assert_eq!(first.load(&key("a")).await.unwrap().record, Some(later.record));
    assert_quiet(&first, Kind::StatusPoll).await;
    let (back, own) = receive(&second, Kind::Submission).await;
    assert!(own.suspect && own.place == held.ticket.place);
    let late = Claimant { worker: second_id, number: 2 };
    let decided = try_claim(&second, &own, late, arrival(&back, &own)).await;
    assert_eq!(decided, crate::harness::Decided::Stale);
}

pub(crate) async fn letting_go_frees_the_same_place_at_once<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    let (other, other_id) = harness.worker().await;
    harness.put(&ticket("a")).await;
    for (entry, lost, panics) in [(Entry::LetGo, 0, 0), (Entry::Panicked, 1, 1), (Entry::LetGo, 0, 0)] {
        let held = take(&home, worker, 1, Kind::Submission).await;
        let done = settlement(&held.ticket, Some(held.me), entry, Next::Ticket(Box::new(held.ticket.clone())));
        assert_eq!(home.settle(held.delivery, Some(&key("a")), done).await.unwrap(), Settled::Done);
        let record = home.load(&key("a")).await.unwrap().record.unwrap();
        assert_eq!((record.holder, record.lost, record.panics), (None, lost, panics));
    }
    harness.rest(&home).await;
    let held = take(&other, other_id, 1, Kind::Submission).await;
    assert_eq!(held.record.lost, 0);
}

pub(crate) async fn a_message_that_never_was_a_job_is_set_aside<H: Harness>() {
    let harness = H::fresh().await;
    let (home, _) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let (received, _) = receive(&home, Kind::Submission).await;
    let letter = SetAside {
        job: None,
        class: Class::Undecodable,
        fingerprint: "undecodable/none".to_owned(),
        message: "(document): expected value at line 1 column 1".to_owned(),
        trace: None,
        body: received.body.clone(),
    };
    let mut done = settlement(&ticket("a"), None, Entry::Nothing, Next::SetAside(Box::new(letter)));
    done.received = None;
    assert_eq!(home.settle(received.delivery, None, done).await.unwrap(), Settled::Done);
    assert_eq!(harness.set_aside().await, [None]);
    assert_quiet(&home, Kind::Submission).await;
}
