//! What stands between a handler and the service: permit, token, begin; and what every answer teaches the quota.

use std::time::Duration;

use super::{
    claimed::{Begun, Claimed, Stop, Waiting},
    crash::{self, Edge},
    lesson,
    ports::{CallIds, Clock, Permit, Ports, Quota, Service, SignIn, Token, Turn, TurnKey, Turns},
};
use crate::domain::{
    claim::Outcome,
    failure::{Cause, Failure, Kind, Pause},
    quota::Admission,
    service::{Answer, Request},
    step::QuotaClass,
    time::Moment,
};

/// How old the quota's word may be when a request leaves: another process's 429 is heeded after so long at the latest.
const FRESH: Duration = Duration::from_millis(500);

/// How often the quota is asked again when each of its answers comes too late.
const GATE_ASKS: u32 = 3;

/// A permit, and when it was asked for by the clock that counts suspended time.
#[must_use]
struct Granted {
    asked: Duration,
}

impl<P: Ports> Claimed<'_, P> {
    /// A call that is safe to repeat. A refused token is renewed once.
    pub(super) async fn read(&self, class: QuotaClass, request: &Request) -> Result<Answer, Stop> {
        // The token first: it may take a while, and a permit is for now.
        let token = self.token().await?;
        let permit = self.permit_now(class).await?;
        match self.send(request, permit, &token).await {
            Err(Failure::Unauthorized(_)) => {
                let token = self.renewed(&token).await?;
                let permit = self.permit_now(class).await?;
                self.send(request, permit, &token).await.map_err(refused_again)
            }
            answer => answer,
        }
        .map_err(Stop::Failed)
    }

    /// A write that cannot be repeated: turn, permit, token, begin, call. The turn goes back unless the call began.
    ///
    /// `turns` are taken in order; the first one is stamped by `begin`.
    pub(super) async fn write(&self, turns: &[TurnKey], request: &Request) -> Result<Answer, Stop> {
        self.take_turns(turns).await?;
        let answer = match self.write_in_turn(turns, request).await {
            Err(Stop::Failed(Failure::Unauthorized(_))) => {
                // After a 401: not executed, recorded so; then permit, begin and call again, the place unchanged.
                self.record(&Outcome::NotExecuted).await?;
                self.write_in_turn(turns, request).await
            }
            answer => answer,
        };
        if let Err(stop) = &answer
            && stop.is_not_executed()
        {
            self.give_turns_back(turns).await;
        }
        answer
    }

    async fn write_in_turn(&self, turns: &[TurnKey], request: &Request) -> Result<Answer, Stop> {
        let token = self.token().await?;
        let granted = self.permit(QuotaClass::Write).await?;
        crash::point(self.step(), Edge::BeforeBegin);
        let begun = self.begin(turns.first()).await?;
        crash::point(self.step(), Edge::AfterBegin);
        self.send_begun(request, granted, &token, begun).await
    }

    async fn send_begun(
        &self,
        request: &Request,
        granted: Granted,
        token: &Token,
        begun: Begun,
    ) -> Result<Answer, Stop> {
        let permit = match self.pass_gate(granted).await {
            Ok(permit) => permit,
            Err(stop) => {
                // Nothing was sent: the write's mark must not stay.
                self.record(&Outcome::NotExecuted).await?;
                return Err(stop);
            }
        };
        if self.is_too_late(begun) || !self.may_call() {
            let why = "the worker was stopped too long between begin and call; nothing was sent";
            return Err(Stop::Failed(Failure::Transient(Cause::new(Kind::NotSent, why))));
        }
        match self.send(request, permit, token).await {
            Err(Failure::Unauthorized(cause)) => {
                // The renewal comes first: when it fails the job waits, and its write's mark must not stay.
                match self.renewed(token).await {
                    Ok(_) => Err(Stop::Failed(Failure::Unauthorized(cause))),
                    Err(stop) => {
                        self.record(&Outcome::NotExecuted).await?;
                        Err(stop)
                    }
                }
            }
            answer => answer.map_err(Stop::Failed),
        }
    }

    /// One request, and what its answer teaches the quota.
    async fn send(&self, request: &Request, permit: Permit, token: &Token) -> Result<Answer, Failure> {
        let ids = CallIds { correlation: self.key.correlation_id(), request: self.request_id() };
        let account = &self.key.account;
        let call = self.ports.service().call(account, request, ids, permit, token);
        let answer = self.sent(call).await;
        let pause = self.settings.retry.throttle_pause;
        if let Err(Failure::Throttled(told)) = &answer {
            let told = told.retry_after.unwrap_or(pause);
            // ORDER: this process first. What it is about to send must not wait for the quota to hear of the pause.
            self.gates.close(account, self.ports.clock().boot_time().saturating_add(told));
        }
        match lesson::teach(self.ports.home(), account, &answer, pause).await {
            Ok(lesson) => self.note_gate(lesson.closed_until),
            Err(down) => tracing::warn!(%down, "the quota could not be told of an answer"),
        }
        answer
    }

    /// A request, or a transfer of several, between its crash points.
    #[cfg(debug_assertions)]
    pub(super) async fn sent<T>(&self, call: impl Future<Output = T>) -> T {
        let answer = if crash::is_armed(self.step(), Edge::RequestSent) {
            // The sandbox holds its answer back in this cell of the matrix: the request is with it when we die.
            tokio::select! {
                biased;
                answer = call => answer,
                () = self.ports.clock().sleep(crash::HELD_BACK) => crash::die(self.step(), Edge::RequestSent),
            }
        } else {
            call.await
        };
        crash::point(self.step(), Edge::AnswerRead);
        answer
    }

    #[cfg(not(debug_assertions))]
    pub(super) async fn sent<T>(&self, call: impl Future<Output = T>) -> T {
        call.await
    }

    /// Asks for a permit, and waits for it when it is for a moment ahead.
    async fn permit(&self, class: QuotaClass) -> Result<Granted, Stop> {
        if !self.may_call() {
            return Err(Stop::NotHolder);
        }
        let clock = self.ports.clock();
        let mut refusals = self.ticket().refusals;
        loop {
            self.meet_own_pause()?;
            let asked = clock.boot_time();
            match self.ports.home().permit(&self.key.account, class, refusals, clock.chance()).await? {
                Admission::Granted { at } => {
                    clock.sleep(at.since(self.now())).await;
                    self.note_permit();
                    return Ok(Granted { asked });
                }
                // A look of several reads that parked at every refusal would begin anew each time, and never end: what
                // has begun to read waits here, for as long as its handler may.
                Admission::Refused { until, by_gate: false } if self.has_had_permit() && self.has_time_until(until) => {
                    refusals = refusals.saturating_add(1);
                    clock.sleep(until.since(self.now())).await;
                }
                Admission::Refused { until, by_gate } => {
                    return Err(Stop::Wait { until, why: if by_gate { Waiting::Gate } else { Waiting::Permit } });
                }
            }
        }
    }

    /// A permit for a call that leaves at once.
    async fn permit_now(&self, class: QuotaClass) -> Result<Permit, Stop> {
        let granted = self.permit(class).await?;
        self.pass_gate(granted).await
    }

    /// Right before the request leaves: was the account told to pause since its permit was given?
    ///
    /// This process's own pauses cost nothing to ask for; the quota is asked again, for no further permit, only when its
    /// word is older than [`FRESH`].
    async fn pass_gate(&self, granted: Granted) -> Result<Permit, Stop> {
        let clock = self.ports.clock();
        let mut asked = granted.asked;
        for _ in 0..GATE_ASKS {
            self.meet_own_pause()?;
            let now = clock.boot_time();
            if now.saturating_sub(asked) <= FRESH {
                return Ok(Permit::granted());
            }
            asked = now;
            let until = self.ports.home().paused_until(&self.key.account).await?;
            if until > self.now() {
                return Err(Stop::Wait { until, why: Waiting::Gate });
            }
        }
        // Every answer came too late to be worth anything: this worker is being stopped again and again.
        Err(self.next_turn())
    }

    /// A pause that this process was told itself.
    fn meet_own_pause(&self) -> Result<(), Stop> {
        match self.gates.rest(&self.key.account, self.ports.clock().boot_time()) {
            Some(rest) => Err(Stop::Wait { until: self.now().after(rest), why: Waiting::Gate }),
            None => Ok(()),
        }
    }

    async fn token(&self) -> Result<Token, Stop> {
        self.ports.service().sign_in(&self.key.account).await.map_err(|error| no_token(error, self.now()))
    }

    async fn renewed(&self, refused: &Token) -> Result<Token, Stop> {
        self.ports.service().renew(&self.key.account, refused).await.map_err(|error| no_token(error, self.now()))
    }

    /// Takes the turns in order; when one is another's, gives back those that were taken.
    pub(super) async fn take_turns(&self, turns: &[TurnKey]) -> Result<(), Stop> {
        for (n, turn) in turns.iter().enumerate() {
            match self.ports.home().take_turn(turn, &self.key).await? {
                Turn::Ours { begun_at } => self.note_stamp(turn, begun_at),
                Turn::Held => {
                    self.give_turns_back(turns.get(..n).unwrap_or_default()).await;
                    let park = match turn {
                        TurnKey::Name(..) => self.settings.parks.name_turn,
                        TurnKey::Product(..) => self.settings.parks.product_turn,
                    };
                    return Err(Stop::Wait { until: self.now().after(park), why: Waiting::Turn });
                }
            }
        }
        Ok(())
    }

    /// Gives turns back; one that cannot be given back now runs out by itself.
    pub(super) async fn give_turns_back(&self, turns: &[TurnKey]) {
        for turn in turns {
            if let Err(down) = self.ports.home().end_turn(turn, &self.key, self.stamp(turn)).await {
                tracing::warn!(%down, "a turn could not be given back");
            }
        }
    }
}

impl Stop {
    /// Is it certain that the write was not executed?
    pub(super) fn is_not_executed(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.is_not_executed(),
            Self::Wait { .. } => true,
            // Whoever holds the claim now decides; a memory that does not answer may have kept the mark.
            Self::NotHolder | Self::Down(_) | Self::Panicked => false,
        }
    }
}

/// The wait of a job that has no token. A refusal is as old as its adapter says: one that is only remembered must not
/// look like the answer to whoever has just asked for another try.
fn no_token(error: SignIn, now: Moment) -> Stop {
    let (message, next, again, refused_at) = match error {
        SignIn::Refused { message, next, ago, again } => (message, next, again, Some(now.before(ago))),
        SignIn::Throttled { message, again } | SignIn::Later { message, again } => {
            (message, String::new(), again, None)
        }
    };
    Stop::Wait { until: now.after(again), why: Waiting::SignIn { message, next, refused_at } }
}

/// A token that was renewed a moment ago was refused, too: sign-in is what is wrong. The read waits like behind a gate.
fn refused_again(failure: Failure) -> Failure {
    match failure {
        Failure::Unauthorized(cause) => Failure::Throttled(Pause { retry_after: Some(Duration::from_secs(32)), cause }),
        other @ (Failure::Transient(_) | Failure::Throttled(_) | Failure::Indeterminate(_) | Failure::Permanent(_)) => {
            other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_is_remembered_keeps_its_time_and_waits_for_the_rest() {
        let (now, seconds) = (Moment::from_millis(1_000_000), Duration::from_secs);
        let refused = |ago, again| SignIn::Refused { message: "no".to_owned(), next: "mend".to_owned(), ago, again };
        for (ago, again, at, until) in [(0, 60, 1_000_000, 1_060_000), (30, 30, 970_000, 1_030_000)] {
            let Stop::Wait { until: due, why: Waiting::SignIn { refused_at, .. } } =
                no_token(refused(seconds(ago), seconds(again)), now)
            else {
                panic!("it does not wait for sign-in");
            };
            assert_eq!((due, refused_at), (Moment::from_millis(until), Some(Moment::from_millis(at))));
        }
        let later = no_token(SignIn::Later { message: "503".to_owned(), again: seconds(5) }, now);
        assert!(matches!(later, Stop::Wait { why: Waiting::SignIn { refused_at: None, .. }, .. }));
    }
}
