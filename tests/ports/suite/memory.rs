//! Records, their swap, and who is alive.

use longshore::{
    domain::{
        claim::{Claimant, Epoch, Outcome, begin, record},
        event::{End, EndName},
        settlement::{Entry, Next},
        step::Kind,
        time::Moment,
    },
    engine::ports::{Memory, Queue, Swapped},
};

use crate::harness::{
    Decided, Harness, arrival, drop_ticket, key, next_try, place, receive, settlement, take, ticket, try_claim, within,
};

pub(crate) async fn an_unknown_job_is_unknown_to_all_and_a_known_one_known_to_all<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    let (other, _) = harness.worker().await;
    let unknown = home.load(&key("a")).await.unwrap();
    assert!(unknown.record.is_none() && unknown.version == 0 && !unknown.holder_lives);
    assert!(unknown.birth.is_clean);
    harness.put(&ticket("a")).await;
    let held = take(&home, worker, 1, Kind::Submission).await;
    for home in [&home, &other] {
        let known = home.load(&key("a")).await.unwrap();
        assert_eq!(known.record.as_ref(), Some(&held.record));
        assert!(known.version > 0 && known.holder_lives && known.now >= unknown.now);
        assert_eq!(known.birth, unknown.birth);
    }
}

pub(crate) async fn a_swap_of_another_epoch_or_version_is_refused_and_brings_what_is_there<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let held = take(&home, worker, 1, Kind::Submission).await;
    let loaded = home.load(&key("a")).await.unwrap();
    let begun = begin(&loaded, held.me, &longshore::domain::claim::Policy::default()).unwrap();
    let Epoch(epoch) = loaded.birth.epoch;
    for (epoch, version) in [
        (Epoch(epoch), loaded.version + 1),
        (Epoch(epoch), loaded.version - 1),
        (Epoch(epoch), 0),
        (Epoch(epoch ^ 1), loaded.version),
    ] {
        let Swapped::Refused(brought) = home.swap(&key("a"), epoch, version, &begun).await.unwrap() else {
            panic!("{epoch:?} {version}")
        };
        assert_eq!(brought.record.as_ref(), Some(&held.record));
        assert_eq!((brought.version, brought.birth, brought.holder_lives), (loaded.version, loaded.birth, true));
    }
    assert_eq!(home.swap(&key("a"), loaded.birth.epoch, loaded.version, &begun).await.unwrap(), Swapped::Done);
    let after = home.load(&key("a")).await.unwrap();
    assert_eq!(after.record, Some(begun));
    assert!(after.version > loaded.version);
}

pub(crate) async fn of_many_claims_at_once_one_wins<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    harness.put(&ticket("a")).await;
    harness.put(&ticket("a")).await;
    let (one, two) = tokio::join!(receive(&home, Kind::Submission), async { receive(&home, Kind::Submission).await });
    let ((one, ticket), (two, _)) = (one, two);
    let claim = |number| Claimant { worker, number };
    let claims = (1..=8).map(|number| try_claim(&home, &ticket, claim(number), arrival(&one, &ticket)));
    let decided = futures_util::future::join_all(claims).await;
    let taken = decided.iter().filter(|decided| matches!(decided, Decided::Taken(_))).count();
    let busy = decided.iter().filter(|decided| **decided == Decided::Busy).count();
    assert_eq!((taken, busy), (1, 7), "{decided:?}");
    drop((one, two));
}

pub(crate) async fn a_place_is_busy_while_its_holder_lives_and_free_when_it_is_dead<H: Harness>() {
    let harness = H::fresh().await;
    let (first, first_id) = harness.worker().await;
    let (second, second_id) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let held = take(&first, first_id, 1, Kind::Submission).await;
    harness.rest(&first).await;
    harness.put(&held.ticket).await;
    let (copy, ticket) = receive(&second, Kind::Submission).await;
    let me = Claimant { worker: second_id, number: 1 };
    let claim = || try_claim(&second, &ticket, me, arrival(&copy, &ticket));
    assert_eq!(claim().await, Decided::Busy);
    harness.kill(first).await;
    // Homes that count by leases need them to run out.
    harness.advance(longshore::domain::claim::Policy::default().lease).await;
    let taken = within(async {
        loop {
            if let Decided::Taken(record) = claim().await {
                return record;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((taken.lost, taken.holder.unwrap().claimant), (1, me));
}

pub(crate) async fn a_settled_or_dropped_delivery_ends_its_claim<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    let (other, other_id) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let mut held = take(&home, worker, 1, Kind::Submission).await;
    let first = &home;
    // Whoever gets it next, the same worker or another: the claim is dead, and the new one counts it as lost.
    for (number, home, worker) in [(2, &home, worker), (3, &home, worker), (4, &other, other_id)] {
        harness.rest(if number == 4 { first } else { &other }).await;
        drop(held.delivery);
        // Homes that count by leases need them to run out.
        harness.advance(longshore::domain::claim::Policy::default().lease).await;
        held = take(home, worker, number, Kind::Submission).await;
        assert_eq!(u64::from(held.record.lost), number - 1);
    }
    let done = settlement(&held.ticket, None, Entry::Nothing, Next::Ticket(Box::new(held.ticket.clone())));
    other.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    harness.advance(longshore::domain::claim::Policy::default().lease).await;
    assert_eq!(take(&other, other_id, 5, Kind::Submission).await.record.lost, 4);
}

pub(crate) async fn a_ticket_behind_its_record_is_stale_and_one_of_an_ended_job_is_told_its_end<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let held = take(&home, worker, 1, Kind::Submission).await;
    harness.put(&held.ticket).await;
    let next = next_try(&held.ticket);
    let done =
        settlement(&held.ticket, Some(held.me), Entry::Outcome(Outcome::Nothing), Next::Ticket(Box::new(next.clone())));
    home.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    // The copy and the next ticket, in whatever order.
    let (one, first) = receive(&home, Kind::Submission).await;
    let (two, second) = receive(&home, Kind::Submission).await;
    let ((old, old_ticket), (new, new_ticket)) =
        if first.place < second.place { ((one, first), (two, second)) } else { ((two, second), (one, first)) };
    assert_eq!((old_ticket.place, new_ticket.place), (place(0, 0), place(0, 1)));
    let me = Claimant { worker, number: 2 };
    let record = try_claim(&home, &new_ticket, me, arrival(&new, &new_ticket)).await.taken();
    assert_eq!(record.place, place(0, 1));
    let late = Claimant { worker, number: 3 };
    assert_eq!(try_claim(&home, &old_ticket, late, arrival(&old, &old_ticket)).await, Decided::Stale);
    let end = End { name: EndName::Completed, at: Moment::from_millis(5), reason: None, ticket: Box::new(next) };
    let done = settlement(&new_ticket, Some(me), Entry::End { end: Box::new(end), result: None }, Next::Nothing);
    home.settle(new.delivery, Some(&key("a")), done).await.unwrap();
    assert_eq!(try_claim(&home, &old_ticket, late, arrival(&old, &old_ticket)).await, Decided::Ended);
    drop_ticket(&home, old.delivery, &old_ticket).await;
    let mut stranger = arrival_of_a_stranger(&old_ticket);
    assert_eq!(try_claim(&home, &old_ticket, late, stranger).await, Decided::OtherContent);
    stranger.is_intake = false;
    assert_eq!(try_claim(&home, &old_ticket, late, stranger).await, Decided::Ended);
}

fn arrival_of_a_stranger(ticket: &longshore::domain::ticket::Ticket) -> longshore::domain::claim::Arrival {
    longshore::domain::claim::Arrival {
        place: ticket.place,
        hash: longshore::domain::ids::Sha256::of(b"something else"),
        is_intake: true,
        is_suspect: false,
    }
}

pub(crate) async fn a_memory_that_was_lost_knows_nobody<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let held = take(&home, worker, 1, Kind::Submission).await;
    let before = home.load(&key("a")).await.unwrap();
    harness.lose_memory().await;
    let after = home.load(&key("a")).await.unwrap();
    assert!(after.known().is_none() && !after.birth.is_clean && after.birth.epoch != before.birth.epoch);
    assert!(record(&after, held.me, Outcome::Unclear).is_err());
    let swapped = home.swap(&key("a"), before.birth.epoch, before.version, &held.record).await.unwrap();
    assert!(matches!(swapped, Swapped::Refused(_)));
    // Its settlement is that of a lost holder; the ticket comes again and must look before it writes.
    let done = settlement(&held.ticket, Some(held.me), Entry::Outcome(Outcome::Nothing), Next::Nothing);
    home.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    let again = take(&home, worker, 2, Kind::Submission).await;
    assert!(again.ticket.suspect && again.record.needs_look());
}
