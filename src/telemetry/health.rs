//! Is the worker alive, and does it take work? What its parts say, and for how long they have said nothing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{clock, domain::step::Kind};

/// A lane that made no turn for so long stands still: the runtime is blocked, or the lane is gone.
const STANDSTILL: Duration = Duration::from_secs(60);

/// A home that said nothing for so long does not answer.
const SILENCE: Duration = Duration::from_secs(15);

/// What the home said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HomeSays {
    /// It answers.
    Well,
    /// It gives no answer, or an error, for the moment.
    Trouble(String),
    /// Its thread has ended: this process cannot work any more.
    Ended(String),
}

/// The state of one worker, for its probes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    is_taking: bool,
    lanes: [Lane; Kind::ALL.len()],
    home: HomeSays,
    home_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Lane {
    turned: Instant,
    is_well: bool,
    is_over: bool,
}

impl Default for Health {
    fn default() -> Self {
        let now = clock::monotonic();
        let lanes = [Lane { turned: now, is_well: true, is_over: false }; Kind::ALL.len()];
        let state = State { is_taking: false, lanes, home: HomeSays::Well, home_at: now };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl Health {
    /// Says whether work is taken; off until it is said, and again while the worker drains.
    pub fn set_taking(&self, is_taking: bool) {
        self.state().is_taking = is_taking;
    }

    /// A lane turned; not well when the home gave it an error, none when the home was not asked.
    pub fn turned(&self, lane: Kind, is_well: Option<bool>) {
        self.turned_at(clock::monotonic(), lane, is_well);
    }

    fn turned_at(&self, now: Instant, lane: Kind, is_well: Option<bool>) {
        self.change(lane, |state| *state = Lane { turned: now, is_well: is_well.unwrap_or(state.is_well), ..*state });
    }

    /// A lane is done, in an orderly stop: it turns no more, and nobody waits for it.
    pub fn lane_ended(&self, lane: Kind) {
        self.change(lane, |state| state.is_over = true);
    }

    fn change(&self, lane: Kind, change: impl Fn(&mut Lane)) {
        let mut state = self.state();
        Kind::ALL.iter().zip(&mut state.lanes).filter(|(kind, _)| **kind == lane).for_each(|(_, state)| change(state));
    }

    /// The home answered a probe, or did not.
    pub fn home(&self, says: HomeSays) {
        let mut state = self.state();
        state.home = says;
        state.home_at = clock::monotonic();
    }

    /// Is the process worth keeping?
    ///
    /// # Errors
    /// Why not, in words.
    pub fn live(&self) -> Result<(), String> {
        self.live_at(clock::monotonic())
    }

    fn live_at(&self, now: Instant) -> Result<(), String> {
        let state = self.state();
        if let HomeSays::Ended(why) = &state.home {
            return Err(why.clone());
        }
        for (kind, lane) in Kind::ALL.iter().zip(&state.lanes).filter(|(_, lane)| !lane.is_over) {
            let still = now.saturating_duration_since(lane.turned);
            if still > STANDSTILL {
                return Err(format!("the lane {kind} has stood still for {} s", still.as_secs()));
            }
        }
        Ok(())
    }

    /// Is work taken, and can it be?
    ///
    /// # Errors
    /// Why not, in words.
    pub fn ready(&self) -> Result<(), String> {
        self.ready_at(clock::monotonic())
    }

    fn ready_at(&self, now: Instant) -> Result<(), String> {
        self.live_at(now)?;
        let state = self.state();
        if !state.is_taking {
            return Err("no work is taken: starting, or finishing what is under way".to_owned());
        }
        if let HomeSays::Trouble(why) = &state.home {
            return Err(why.clone());
        }
        let silent = now.saturating_duration_since(state.home_at);
        if silent > SILENCE {
            return Err(format!("the home has said nothing for {} s", silent.as_secs()));
        }
        let troubled = Kind::ALL.iter().zip(&state.lanes).find(|(_, lane)| !lane.is_well);
        troubled.map_or(Ok(()), |(kind, _)| Err(format!("nothing can be received on the lane {kind}")))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_stands_still_for_a_minute_ends_the_life() {
        let (health, now) = (Health::default(), clock::monotonic());
        let later = now + STANDSTILL + Duration::from_secs(1);
        assert_eq!(health.live_at(now), Ok(()));
        assert!(health.live_at(later).unwrap_err().contains("submission has stood still"));
        for kind in Kind::ALL {
            health.turned_at(later, kind, Some(true));
        }
        assert_eq!(health.live_at(later), Ok(()));
    }

    #[test]
    fn a_home_that_ended_is_the_end_and_one_in_trouble_only_takes_no_work() {
        let health = Health::default();
        health.set_taking(true);
        assert_eq!((health.live(), health.ready()), (Ok(()), Ok(())));
        health.home(HomeSays::Trouble("busy".to_owned()));
        assert_eq!((health.live(), health.ready()), (Ok(()), Err("busy".to_owned())));
        health.home(HomeSays::Well);
        assert_eq!(health.ready(), Ok(()));
        assert!(health.ready_at(clock::monotonic() + SILENCE + Duration::from_secs(1)).is_err());
        health.turned(Kind::Upload, Some(false));
        assert!(health.ready().unwrap_err().contains("upload"));
        health.turned(Kind::Upload, None);
        assert!(health.ready().is_err(), "the home was not asked again");
        health.turned(Kind::Upload, Some(true));
        health.home(HomeSays::Ended("gone".to_owned()));
        assert_eq!((health.live(), health.ready()), (Err("gone".to_owned()), Err("gone".to_owned())));
    }

    #[test]
    fn a_lane_that_is_done_is_not_waited_for_while_another_finishes() {
        let (health, now) = (Health::default(), clock::monotonic());
        let later = now + STANDSTILL + Duration::from_secs(1);
        health.turned_at(later, Kind::Upload, None);
        health.lane_ended(Kind::Submission);
        assert!(health.live_at(later).unwrap_err().contains("status-poll"));
        health.lane_ended(Kind::StatusPoll);
        assert_eq!(health.live_at(later), Ok(()));
    }

    #[test]
    fn a_worker_that_drains_is_alive_and_not_ready() {
        let health = Health::default();
        health.set_taking(true);
        health.set_taking(false);
        assert_eq!(health.live(), Ok(()));
        assert!(health.ready().is_err());
    }
}
