//! What people do with jobs, and what becomes of messages that nobody settles.

use std::{collections::BTreeSet, time::Duration};

use longshore::{
    domain::{
        claim::{Outcome, Policy, begin},
        event::{Class, End, EndName, Name, Reason},
        ids::AccountName,
        settlement::{Entry, Next},
        step::{Kind, Step},
        ticket::{SignInRefused, Ticket},
        time::Moment,
    },
    embedded::{Accepted, Cancelled, DeadLetters, Options, Replayed, State, Worker},
    engine::ports::{Listing, Listings, Memory, Origin, Queue, Quota, Settled, Swapped},
};

use super::OneFile;
use crate::harness::{
    Harness, assert_quiet, key, names, next_try, polled, progressed, receive, settlement, take, ticket, within,
};

async fn end(home: &Worker, number: u64, name: EndName) {
    let held = take(home, home.id(), number, Kind::Submission).await;
    let reason = Reason {
        class: Class::NeedsPerson,
        message: "two products may be ours".to_owned(),
        next: "name one".to_owned(),
        step: Some(Step::CreateProduct),
        cause: None,
        candidates: Vec::new(),
    };
    let end = End {
        name,
        at: Moment::from_millis(1),
        reason: (name != EndName::Completed).then_some(reason),
        ticket: Box::new(held.ticket.clone()),
    };
    let done = settlement(&held.ticket, Some(held.me), Entry::End { end: Box::new(end), result: None }, Next::Nothing);
    home.settle(held.delivery, Some(&held.ticket.key()), done).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_is_the_same_job_and_other_content_is_refused() {
    let harness = OneFile::fresh().await;
    let home = &harness.home;
    assert_eq!(home.accept(ticket("a")).await.unwrap(), Accepted::New);
    let Accepted::Same(view) = home.accept(ticket("a")).await.unwrap() else { panic!() };
    assert_eq!(view.state(), State::Accepted);
    let mut other = ticket("a");
    other.hash = longshore::domain::ids::Sha256::of(b"other");
    assert_eq!(home.accept(other).await.unwrap(), Accepted::OtherContent { known: ticket("a").hash });
    assert_eq!(home.size().await.unwrap().messages, 1);
    assert_eq!(names(&harness, &key("a")).await, [Name::Accepted]);
    let worker = home.worker().unwrap();
    end(&worker, 1, EndName::Completed).await;
    let Accepted::Same(view) = home.accept(ticket("a")).await.unwrap() else { panic!() };
    assert_eq!((view.state(), view.end.unwrap().name), (State::Completed, EndName::Completed));
}

#[tokio::test(flavor = "multi_thread")]
async fn interactive_jobs_go_before_bulk_ones_and_each_in_order_of_due() {
    let harness = OneFile::fresh().await;
    let mut bulk = ticket("bulk");
    bulk.job.bulk = true;
    harness.home.accept(bulk).await.unwrap();
    for (id, due) in [("late", 3_000), ("early", 1_000), ("middle", 2_000)] {
        let mut ticket = ticket(id);
        ticket.due = Some(Moment::from_millis(due));
        harness.home.accept(ticket).await.unwrap();
    }
    let worker = harness.home.worker().unwrap();
    let mut order = Vec::new();
    let mut held = Vec::new();
    for _ in 0..4 {
        let (received, ticket) = receive(&worker, Kind::Submission).await;
        order.push(ticket.job.id.to_string());
        held.push(received);
    }
    assert_eq!(order, ["early", "middle", "late", "bulk"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_its_own_jobs_takes_no_others() {
    let harness = OneFile::fresh().await;
    for id in ["theirs", "mine", "theirs-too"] {
        harness.home.accept(ticket(id)).await.unwrap();
    }
    let worker = harness.home.worker_of(&BTreeSet::from([key("mine"), key("not-there-yet")])).unwrap();
    let (_held, mine) = receive(&worker, Kind::Submission).await;
    assert_eq!(mine.key(), key("mine"));
    assert_quiet(&worker, Kind::Submission).await;
    harness.home.accept(ticket("not-there-yet")).await.unwrap();
    let (_also, mine) = receive(&worker, Kind::Submission).await;
    assert_eq!(mine.key(), key("not-there-yet"));
}

fn knows(names: &[&str]) -> impl FnOnce(&mut Options) {
    let names: BTreeSet<AccountName> = names.iter().map(|name| AccountName::parse(name).unwrap()).collect();
    |options| options.accounts = Some(names)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_given_to_a_worker_that_knows_its_account_while_there_is_one() {
    let harness = OneFile::with(knows(&["contoso"]));
    let other_home = harness.beside(knows(&["fabrikam"]));
    let other = other_home.worker().unwrap();
    let worker = harness.home.worker().unwrap();
    harness.home.accept(ticket("a")).await.unwrap();
    assert_quiet(&other, Kind::Submission).await;
    drop(other);
    let other = other_home.worker_of(&BTreeSet::from([key("a")])).unwrap();
    assert_quiet(&other, Kind::Submission).await;
    let (held, mine) = receive(&worker, Kind::Submission).await;
    assert_eq!(mine.key(), key("a"));
    drop(held);
    drop(other);
    // One that works its own jobs only takes no others, so it keeps nobody from them.
    let other = other_home.worker().unwrap();
    drop(worker);
    let _own = harness.home.worker_of(&BTreeSet::new()).unwrap();
    let (held, theirs) = receive(&other, Kind::Submission).await;
    assert_eq!(theirs.key(), key("a"), "nobody else is left who could say that the account is unknown");
    drop(held);
    // So does one that is gone.
    let knowing = harness.home.worker().unwrap();
    let (held, _) = receive(&knowing, Kind::Submission).await;
    drop(held);
    drop(knowing);
    let (_held, theirs) = receive(&other, Kind::Submission).await;
    assert_eq!(theirs.key(), key("a"));
    // What is no job's is for whoever comes.
    let _knowing = harness.home.worker().unwrap();
    harness.home.put(Kind::Submission, Origin::Producer, "{".to_owned()).await.unwrap();
    assert_eq!(within(other.receive(Kind::Submission)).await.unwrap().body, "{");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_to_the_next_when_its_reader_let_go_of_its_job_without_a_word() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let worker = harness.home.worker().unwrap();
    let held = take(&worker, worker.id(), 1, Kind::Submission).await;
    let now = worker.load(&key("a")).await.unwrap().now;
    let first = Listing::Ours { next: None };
    assert_eq!(worker.join_listing(&key("a").account, now, &key("a")).await.unwrap(), first);
    assert_eq!(worker.join_listing(&key("b").account, now, &key("b")).await.unwrap(), Listing::Read);
    // A panic: its delivery is dropped, and comes again.
    drop(held.delivery);
    within(async { while worker.join_listing(&key("b").account, now, &key("b")).await.unwrap() == Listing::Read {} })
        .await;
    assert!(worker.add_page(&key("b").account, &key("b"), &[], None).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_out_again_and_again_ends_as_poison() {
    let harness = OneFile::with(|options| options.delivery_limit = 3);
    harness.home.accept(ticket("a")).await.unwrap();
    harness.home.put(Kind::Submission, Origin::Producer, "{".to_owned()).await.unwrap();
    let worker = harness.home.worker().unwrap();
    for _ in 0..6 {
        drop(within(worker.receive(Kind::Submission)).await.unwrap());
    }
    assert_quiet(&worker, Kind::Submission).await;
    assert_eq!(names(&harness, &key("a")).await, [Name::Accepted, Name::DeadLettered]);
    let view = harness.home.job(&key("a")).await.unwrap().unwrap();
    assert_eq!(view.state(), State::DeadLettered);
    assert_eq!(view.end.unwrap().reason.unwrap().class, Class::Poison);
    let letters = harness.home.dead_letters(DeadLetters::default()).await.unwrap();
    assert!(letters.len() == 2 && letters.iter().all(|letter| letter.class == Class::Poison));
    assert_eq!(harness.home.size().await.unwrap().messages, 0);
    // The message that was no ticket comes back as it was.
    let stray = letters.iter().find(|letter| letter.body.as_deref() == Some("{")).unwrap();
    assert_eq!(harness.home.replay_letter(stray.id, |_| {}).await.unwrap(), Replayed::Message);
    let again = within(worker.receive(Kind::Submission)).await.unwrap();
    assert_eq!((again.body.as_str(), again.origin, again.is_redelivered), ("{", Origin::Producer, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_that_nobody_saw_does_not_mark_the_message() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let worker = harness.home.worker().unwrap();
    for polls in [1, 2, 3].repeat(10) {
        if let Some(received) = within(polled(polls, worker.receive(Kind::Submission))).await {
            assert!(!received.unwrap().is_redelivered);
            return;
        }
    }
    assert!(!within(worker.receive(Kind::Submission)).await.unwrap().is_redelivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_given_to_another_settles_nothing_at_all() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let first = harness.home.worker().unwrap();
    let second = harness.home.worker().unwrap();
    let held = take(&first, first.id(), 1, Kind::Submission).await;
    // Somebody removes the lock file under a worker that lives: everybody takes it for dead.
    std::fs::remove_file(first.lock_file()).unwrap();
    let (received, _) = receive(&second, Kind::Submission).await;
    assert!(received.is_redelivered);
    let mut done = settlement(
        &held.ticket,
        Some(held.me),
        Entry::Outcome(Outcome::Unclear),
        Next::Ticket(Box::new(next_try(&held.ticket))),
    );
    done.events = vec![progressed(&held.ticket, 0)];
    assert_eq!(first.settle(held.delivery, Some(&key("a")), done).await.unwrap(), Settled::Lost);
    assert_eq!(first.load(&key("a")).await.unwrap().record, Some(held.record));
    assert_eq!(names(&harness, &key("a")).await, [Name::Accepted]);
    assert_eq!(harness.home.size().await.unwrap().messages, 1);
    let refused = within(first.receive(Kind::Submission)).await.unwrap_err();
    assert!(refused.why.contains(".lock") && refused.why.contains("start the worker again"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_wakes_a_parked_job() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let worker = harness.home.worker().unwrap();
    let held = take(&worker, worker.id(), 1, Kind::Submission).await;
    let parked = held.ticket.clone().parked(harness.home.now().await.unwrap().after(Duration::from_hours(1)));
    let done = settlement(&held.ticket, Some(held.me), Entry::LetGo, Next::Ticket(Box::new(parked)));
    worker.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    assert_eq!(harness.home.job(&key("a")).await.unwrap().unwrap().state(), State::Waiting);
    assert_quiet(&worker, Kind::Submission).await;
    let wished = harness.home.wish_cancel(&key("a")).await.unwrap();
    assert_eq!(wished, Cancelled::Requested { looks_at: None });
    assert_eq!(harness.home.job(&key("a")).await.unwrap().unwrap().state(), State::Cancelling);
    let held = take(&worker, worker.id(), 2, Kind::Submission).await;
    assert!(held.record.wish.is_some());
    assert_eq!(harness.home.wish_cancel(&key("nobody")).await.unwrap(), Cancelled::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_during_a_call_wakes_what_the_call_parks_once() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let worker = harness.home.worker().unwrap();
    let held = take(&worker, worker.id(), 1, Kind::Submission).await;
    let wished = harness.home.wish_cancel(&key("a")).await.unwrap();
    assert_eq!(wished, Cancelled::Requested { looks_at: None });
    // A 429: not executed, and a long pause.
    let pause = harness.home.now().await.unwrap().after(Duration::from_hours(1));
    let next = Next::Ticket(Box::new(next_try(&held.ticket).parked(pause)));
    let done = settlement(&held.ticket, Some(held.me), Entry::Outcome(Outcome::NotExecuted), next);
    worker.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    harness.advance(Duration::from_millis(1)).await;
    let held = take(&worker, worker.id(), 2, Kind::Submission).await;
    assert!(held.record.wish.is_some());
    // Whoever parks it knowing of the wish has a reason, and is not woken over and over.
    let next = Next::Ticket(Box::new(held.ticket.clone().parked(pause)));
    let done = settlement(&held.ticket, Some(held.me), Entry::LetGo, next);
    worker.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    assert_eq!(harness.home.job(&key("a")).await.unwrap().unwrap().summary.next_due, Some(pause));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_during_a_call_whose_answer_is_lost_leaves_it_its_look() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let worker = harness.home.worker().unwrap();
    let held = take(&worker, worker.id(), 1, Kind::Submission).await;
    let loaded = worker.load(&key("a")).await.unwrap();
    let begun = begin(&loaded, held.me, &Policy::default()).unwrap();
    assert_eq!(worker.swap(&key("a"), loaded.birth.epoch, loaded.version, &begun).await.unwrap(), Swapped::Done);
    harness.home.wish_cancel(&key("a")).await.unwrap();
    let look = loaded.now.after(Duration::from_mins(1));
    let next = Next::Ticket(Box::new(next_try(&held.ticket).parked(look)));
    let done = settlement(&held.ticket, Some(held.me), Entry::Outcome(Outcome::Unclear), next);
    worker.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    assert_eq!(harness.home.job(&key("a")).await.unwrap().unwrap().summary.next_due, Some(look));
}

/// Parks the job's ticket for an hour, as it is left.
async fn park(harness: &OneFile, worker: &Worker, number: u64, mark: impl FnOnce(&mut Ticket)) -> Moment {
    let held = take(worker, worker.id(), number, Kind::Submission).await;
    let due = harness.home.now().await.unwrap().after(Duration::from_hours(1));
    let mut parked = held.ticket.clone().parked(due);
    mark(&mut parked);
    let done = settlement(&held.ticket, Some(held.me), Entry::LetGo, Next::Ticket(Box::new(parked)));
    worker.settle(held.delivery, Some(&held.ticket.key()), done).await.unwrap();
    due
}

fn waits_for_sign_in(ticket: &mut Ticket) {
    let at = Moment::from_millis(1);
    ticket.sign_in = Some(SignInRefused { at, message: "AADSTS7000222".to_owned(), next: "a new secret".to_owned() });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_sign_in_alone_is_woken_by_who_has_mended_it() {
    let harness = OneFile::fresh().await;
    let (home, a) = (&harness.home, key("a"));
    home.accept(ticket("a")).await.unwrap();
    let worker = home.worker().unwrap();
    let due = async || home.job(&a).await.unwrap().unwrap().summary.next_due.unwrap();
    let parked = park(&harness, &worker, 1, |_| {}).await;
    assert!(!home.wake_signed_in(&a).await.unwrap(), "it waits for something else");
    assert_eq!(due().await, parked);
    harness.advance(Duration::from_hours(1)).await;
    let parked = park(&harness, &worker, 2, waits_for_sign_in).await;
    let pause = worker.throttled(&a.account, Duration::from_secs(20)).await.unwrap();
    assert!(!home.wake_signed_in(&a).await.unwrap(), "the service asked for a pause");
    assert_eq!(due().await, parked);
    harness.advance(pause.since(home.now().await.unwrap())).await;
    assert!(home.wake_signed_in(&a).await.unwrap());
    assert!(due().await <= home.now().await.unwrap());
    assert!(!home.wake_signed_in(&a).await.unwrap(), "it is due already");
    // In doubt it keeps the time of its look.
    let held = take(&worker, worker.id(), 3, Kind::Submission).await;
    let loaded = worker.load(&a).await.unwrap();
    let begun = begin(&loaded, held.me, &Policy::default()).unwrap();
    assert_eq!(worker.swap(&a, loaded.birth.epoch, loaded.version, &begun).await.unwrap(), Swapped::Done);
    let mut next = next_try(&held.ticket).parked(loaded.now.after(Duration::from_hours(1)));
    waits_for_sign_in(&mut next);
    let done = settlement(&held.ticket, Some(held.me), Entry::Outcome(Outcome::Unclear), Next::Ticket(Box::new(next)));
    worker.settle(held.delivery, Some(&a), done).await.unwrap();
    assert!(!home.wake_signed_in(&a).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_leaves_a_job_in_doubt_its_next_look() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let worker = harness.home.worker().unwrap();
    let held = take(&worker, worker.id(), 1, Kind::Submission).await;
    let loaded = worker.load(&key("a")).await.unwrap();
    let begun = begin(&loaded, held.me, &Policy::default()).unwrap();
    assert_eq!(worker.swap(&key("a"), loaded.birth.epoch, loaded.version, &begun).await.unwrap(), Swapped::Done);
    let look = loaded.now.after(Duration::from_mins(1));
    let next = next_try(&held.ticket).parked(look);
    let done = settlement(&held.ticket, Some(held.me), Entry::Outcome(Outcome::Unclear), Next::Ticket(Box::new(next)));
    worker.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    let view = harness.home.job(&key("a")).await.unwrap().unwrap();
    assert_eq!((view.doubt_since, view.summary.next_due), (begun.begun_at, Some(look)));
    let wished = harness.home.wish_cancel(&key("a")).await.unwrap();
    assert_eq!(wished, Cancelled::Requested { looks_at: Some(look) });
    assert_quiet(&worker, Kind::Submission).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_before_the_first_claim_is_found_by_it() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    assert_eq!(harness.home.wish_cancel(&key("a")).await.unwrap(), Cancelled::Requested { looks_at: None });
    assert_eq!(harness.home.job(&key("a")).await.unwrap().unwrap().state(), State::Cancelling);
    let worker = harness.home.worker().unwrap();
    let held = take(&worker, worker.id(), 1, Kind::Submission).await;
    assert!(held.record.wish.is_some() && held.record.lost == 0 && !held.record.needs_look());
    assert_eq!(worker.load(&key("a")).await.unwrap().record, Some(held.record));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_one_generation_later_and_happens_once() {
    let harness = OneFile::fresh().await;
    let home = &harness.home;
    home.accept(ticket("a")).await.unwrap();
    let worker = home.worker().unwrap();
    assert_eq!(home.replay(&key("a"), |_| {}).await.unwrap(), Replayed::NotEnded(State::Accepted));
    end(&worker, 1, EndName::DeadLettered).await;
    assert_eq!(harness.set_aside().await, [Some(key("a"))]);
    assert_eq!(home.wish_cancel(&key("a")).await.unwrap(), Cancelled::Ended(State::DeadLettered));
    let adopt = |ticket: &mut Ticket| {
        ticket.progress.adopt.insert(Step::CreateProduct, 7);
    };
    let Replayed::Ticket(again) = home.replay(&key("a"), adopt).await.unwrap() else { panic!() };
    assert_eq!((again.place.generation, again.progress.adopt[&Step::CreateProduct]), (2, 7));
    assert!(harness.set_aside().await.is_empty());
    assert_eq!(home.replay(&key("a"), adopt).await.unwrap(), Replayed::NotEnded(State::Waiting));
    // A wish for the new generation does not touch the old one's end, and is found by the new one's first claim.
    assert_eq!(home.wish_cancel(&key("a")).await.unwrap(), Cancelled::Requested { looks_at: None });
    let held = take(&worker, worker.id(), 2, Kind::Submission).await;
    assert_eq!((held.ticket, held.record.place.generation), (*again, 2));
    assert!(held.record.wish.is_some() && held.record.end.is_none());
    drop(held.delivery);
    end(&worker, 3, EndName::Completed).await;
    assert_eq!(home.replay(&key("a"), |_| {}).await.unwrap(), Replayed::Completed);
    assert_eq!(home.replay(&key("nobody"), |_| {}).await.unwrap(), Replayed::Unknown);
    assert_eq!(names(&harness, &key("a")).await, [Name::Accepted, Name::DeadLettered, Name::Accepted, Name::Completed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_discarded_for_good() {
    let harness = OneFile::fresh().await;
    harness.home.accept(ticket("a")).await.unwrap();
    let worker = harness.home.worker().unwrap();
    end(&worker, 1, EndName::Failed).await;
    let letters = harness.home.dead_letters(DeadLetters::default()).await.unwrap();
    let letter = &letters[0];
    assert_eq!((letter.class, letter.fingerprint.as_str()), (Class::NeedsPerson, "needs-person/create-product"));
    assert_eq!(harness.home.dead_letter(letter.id).await.unwrap().as_ref(), Some(letter));
    let counts = harness.home.dead_letter_counts().await.unwrap();
    assert_eq!(counts, [("needs-person/create-product".to_owned(), 1)]);
    assert!(harness.home.discard(letter.id).await.unwrap());
    assert!(!harness.home.discard(letter.id).await.unwrap());
    assert_eq!(harness.home.job(&key("a")).await.unwrap().unwrap().state(), State::Failed);
}
