//! Where a committed submission stands: computed from the virtual clock whenever somebody looks (hardware-api.md 7.1).

use std::time::Duration;

use super::options::Options;
use super::state::{Commit, Hold, Inspection, Script, Submission};

/// The steps in order; people look at a package only when that is scripted.
const STEPS: [&str; 8] = [
    "packageInfoValidation",
    "preparation",
    "scanning",
    "validation",
    "catalogCreation",
    "manualReview",
    "signing",
    "finalizeIngestion",
];

/// Whether there is a step of this name.
pub(super) fn is_step(name: &str) -> bool {
    STEPS.contains(&name)
}

/// The state of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepState {
    NotStarted,
    Started,
    Failed,
    Completed,
}

impl StepState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NotStarted => "notStarted",
            Self::Started => "started",
            Self::Failed => "failed",
            Self::Completed => "completed",
        }
    }
}

/// What a reader sees of a submission at one virtual time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) commit_status: &'static str,
    /// Step and its state, once there is a workflow.
    pub(super) step: Option<(&'static str, StepState)>,
    pub(super) messages: Vec<String>,
    pub(super) is_signed: bool,
    pub(super) has_metadata: bool,
}

impl View {
    /// That of a submission whose slot is open.
    pub(super) fn open() -> Self {
        Self { commit_status: "commitPending", step: None, messages: Vec::new(), is_signed: false, has_metadata: false }
    }

    /// The number of the current step, counted from 1.
    pub(super) fn step_number(&self) -> usize {
        let name = self.step.map(|(name, _)| name);
        STEPS.iter().position(|step| Some(*step) == name).map_or(0, |position| position + 1)
    }

    pub(super) fn is_failed(&self) -> bool {
        self.commit_status == "commitFailed" || self.step.is_some_and(|(_, state)| state == StepState::Failed)
    }

    pub(super) fn is_pending(&self) -> bool {
        self.commit_status == "commitPending"
    }
}

/// Where the submission stands at `at` on the virtual clock.
pub(super) fn view(options: &Options, submission: &Submission, at: Duration) -> View {
    match &submission.commit {
        Some(commit) => at.checked_sub(commit.at).map_or_else(View::open, |elapsed| running(options, commit, elapsed)),
        None => View::open(),
    }
}

fn running(options: &Options, commit: &Commit, elapsed: Duration) -> View {
    let mut view = View { commit_status: "commitComplete", ..View::open() };
    let length = options.step_duration;
    if options.commit_received_first && elapsed < length / 3 {
        view.commit_status = "commitReceived";
        return view;
    }
    let mut start = Duration::ZERO;
    for step in STEPS {
        let Some(length) = length_of(step, length, &commit.script) else { continue };
        let within = elapsed.saturating_sub(start);
        let state = match length {
            Length::Open => held(within, options.step_duration),
            Length::Of(length) => third(within, length),
        };
        let failure = failure(step, commit);
        let state = match (state, &failure) {
            (StepState::Completed, Some(_)) => StepState::Failed,
            // What is still being looked at cannot be over.
            (StepState::Completed, None) if matches!(commit.inspection, Inspection::Pending) => StepState::Started,
            (state, _) => state,
        };
        view.step = Some((step, state));
        if let (StepState::Failed, Some(failure)) = (state, failure) {
            view.messages = failure;
            if matches!(commit.inspection, Inspection::Bad { .. }) {
                view.commit_status = "commitFailed";
            }
            return view;
        }
        match length {
            Length::Of(length) if step == "finalizeIngestion" && state == StepState::Completed => {
                view.is_signed = true;
                let signed_at = start.saturating_add(length / 3 * 2);
                view.has_metadata = elapsed >= signed_at.saturating_add(options.metadata_delay);
                return view;
            }
            Length::Of(length) if within >= length && state == StepState::Completed => start += length,
            Length::Of(_) | Length::Open => return view,
        }
    }
    view
}

enum Length {
    Of(Duration),
    /// Until somebody releases it.
    Open,
}

/// How long the step takes; none: it is left out.
fn length_of(step: &str, usual: Duration, script: &Script) -> Option<Length> {
    if script.stuck.as_deref() == Some(step) {
        return Some(Length::Open);
    }
    if step != "manualReview" {
        return Some(Length::Of(usual));
    }
    match script.review? {
        Hold::For(length) => Some(Length::Of(length)),
        Hold::UntilReleased => Some(Length::Open),
    }
}

/// Why the step fails, if it does.
fn failure(step: &str, commit: &Commit) -> Option<Vec<String>> {
    if step == "packageInfoValidation"
        && let Inspection::Bad { messages, .. } = &commit.inspection
    {
        return Some(messages.clone());
    }
    commit.script.fails.as_ref().filter(|(at, _)| at == step).map(|(_, message)| vec![message.clone()])
}

/// A step is not started, then started, then completed, for a third of its time each.
fn third(within: Duration, length: Duration) -> StepState {
    if within >= length / 3 * 2 {
        StepState::Completed
    } else if within >= length / 3 {
        StepState::Started
    } else {
        StepState::NotStarted
    }
}

fn held(within: Duration, usual: Duration) -> StepState {
    if within >= usual / 3 { StepState::Started } else { StepState::NotStarted }
}

/// Lets a held submission go on, as if the held step ended now.
pub(super) fn release(options: &Options, commit: &mut Commit, now: Duration) {
    let mut start = Duration::ZERO;
    for step in STEPS {
        match length_of(step, options.step_duration, &commit.script) {
            Some(Length::Of(length)) => start += length,
            Some(Length::Open) => {
                if commit.script.stuck.as_deref() == Some(step) {
                    commit.script.stuck = None;
                }
                if step == "manualReview" {
                    commit.script.review = None;
                } else {
                    start += options.step_duration;
                }
                commit.at = now.saturating_sub(start);
                return;
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Results;
    use super::*;
    use uuid::Uuid;

    fn options() -> Options {
        Options { step_duration: Duration::from_secs(3), metadata_delay: Duration::from_secs(10), ..Options::default() }
    }

    fn good() -> Inspection {
        let id = Uuid::nil();
        Inspection::Good(Results { sha256: String::new(), signed: id, metadata: id, shell: None, is_extension: false })
    }

    fn commit(inspection: Inspection, script: Script) -> Commit {
        Commit { at: Duration::ZERO, correlation_id: None, inspection, script, had_blob: true }
    }

    fn at(commit: &Commit, seconds: u64) -> View {
        let at = Duration::from_secs(seconds);
        running(&options(), commit, at.saturating_sub(commit.at))
    }

    #[test]
    fn every_step_but_review_is_passed_through_in_order_and_then_it_is_signed() {
        let commit = commit(good(), Script::default());
        let mut seen: Vec<(&str, StepState)> = (0..21).filter_map(|second| at(&commit, second).step).collect();
        seen.dedup();
        let expected: Vec<(&str, StepState)> = STEPS
            .iter()
            .filter(|step| **step != "manualReview")
            .flat_map(|step| [StepState::NotStarted, StepState::Started, StepState::Completed].map(|s| (*step, s)))
            .collect();
        assert_eq!(seen, expected);
        assert!(!at(&commit, 19).is_signed);
        assert!(at(&commit, 20).is_signed && !at(&commit, 29).has_metadata);
        assert!(at(&commit, 30).has_metadata);
    }

    #[test]
    fn a_package_that_is_still_looked_at_stays_in_the_first_step() {
        let commit = commit(Inspection::Pending, Script::default());
        assert_eq!(at(&commit, 1000).step, Some(("packageInfoValidation", StepState::Started)));
    }

    #[test]
    fn a_bad_package_fails_in_the_first_step_with_its_messages() {
        let bad = Inspection::Bad { messages: vec!["no INF".to_owned()], report: Uuid::nil(), sha256: None };
        let view = at(&commit(bad, Script::default()), 1000);
        assert_eq!(view.step, Some(("packageInfoValidation", StepState::Failed)));
        assert_eq!((view.commit_status, view.messages.len()), ("commitFailed", 1));
        assert!(view.is_failed() && !view.is_signed);
    }

    #[test]
    fn a_stuck_step_goes_on_when_it_is_released() {
        let script = Script { stuck: Some("scanning".to_owned()), ..Script::default() };
        let mut commit = commit(good(), script);
        assert_eq!(at(&commit, 5000).step, Some(("scanning", StepState::Started)));
        release(&options(), &mut commit, Duration::from_secs(5000));
        assert_eq!(at(&commit, 5000).step, Some(("validation", StepState::NotStarted)));
        assert!(at(&commit, 5012).is_signed);
    }

    #[test]
    fn a_review_takes_its_time_only_when_scripted() {
        let script = Script { review: Some(Hold::UntilReleased), ..Script::default() };
        let mut commit = commit(good(), script);
        assert_eq!(at(&commit, 5000).step, Some(("manualReview", StepState::Started)));
        release(&options(), &mut commit, Duration::from_secs(5000));
        assert_eq!(at(&commit, 5000).step, Some(("signing", StepState::NotStarted)));
    }
}
