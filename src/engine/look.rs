//! How a doubt is resolved: the service is read, and what is found is adopted, called absent, or shown to a person.

use super::{
    claimed::{Claimed, Stop, Waiting},
    ports::{Listing, Listings, Ports, Turn, Turns},
    steps::{Did, unexpected},
    tally::{Happened, Sighted},
};
use crate::domain::{
    adopt::{Found, ProductEvidence, ProductQuestion, SubmissionQuestion},
    claim::Finished,
    event::Candidate,
    failure::{Cause, Failure, Kind},
    ids::ProductId,
    plan::Look,
    service::{Product, Request, Submission, SubmissionKind},
    step::{QuotaClass, Step},
    ticket::StepResult,
    time::Moment,
};

/// What a look showed.
enum Sight {
    /// The write stands: this finishes the step.
    There(StepResult),
    /// Nothing of ours is there; certain only when everything was read.
    NotThere { is_complete: bool },
    /// Only a person can tell.
    Open(Vec<Candidate>),
    /// Another's thing stands where ours would have to.
    Blocked(String),
}

/// How the handler goes on after a look.
pub(super) enum Looked {
    /// Absence is proved: record it, then the call.
    Absent,
    /// The turn ends.
    Did(Did),
}

impl<P: Ports> Claimed<'_, P> {
    /// Looks whether the step's write has happened.
    pub(super) async fn look(&self, look: Look) -> Result<Looked, Stop> {
        let sight = match self.step() {
            Step::CreateProduct => self.look_for_product(look).await?,
            Step::CreateSubmission => self.look_for_submission().await?,
            Step::Commit => self.look_at_commit().await?,
            Step::Preflight | Step::Upload | Step::Poll | Step::Download => return Ok(Looked::Absent),
        };
        let looked = self.judge(sight, look);
        self.ports.note(Happened::Looked(match &looked {
            Looked::Absent => Sighted::Absent,
            Looked::Did(Did::Finished(Finished::Done(_))) => Sighted::Found,
            Looked::Did(_) => Sighted::Undecided,
        }));
        Ok(looked)
    }

    fn judge(&self, sight: Sight, look: Look) -> Looked {
        match (sight, look.then) {
            (Sight::There(result), _) => Looked::Did(Did::done(result)),
            (Sight::Blocked(message), None) => Looked::Did(Did::refused(Cause::new(Kind::Changed, message))),
            (Sight::NotThere { .. } | Sight::Open(_) | Sight::Blocked(_), Some(ending)) => {
                Looked::Did(Did::End(ending))
            }
            (Sight::NotThere { .. } | Sight::Open(_), None) if !look.is_last => {
                Looked::Did(Did::LookAgain { at: look.next })
            }
            (Sight::NotThere { is_complete }, None) if is_complete || self.was_told_to_create_again() => Looked::Absent,
            (Sight::NotThere { .. }, None) => Looked::Did(Did::Person {
                message: format!(
                    "{} was sent and its answer is unknown, and the list could not be read to its end",
                    self.step()
                ),
                candidates: Vec::new(),
            }),
            (Sight::Open(candidates), None) => Looked::Did(Did::Person {
                message: format!("{} was sent and its answer is unknown; nothing proves what is ours", self.step()),
                candidates,
            }),
        }
    }

    /// A person said that nothing there is ours: then a list that cannot be read counts as read.
    fn was_told_to_create_again(&self) -> bool {
        self.ticket().progress.not_ours.contains_key(&self.step())
    }

    async fn look_for_product(&self, look: Look) -> Result<Sight, Stop> {
        let members = self.product_members()?;
        let turn = self.name_turn(&members);
        let begun_at = match self.ports.home().take_turn(&turn, &self.key).await? {
            Turn::Ours { begun_at } => {
                self.note_stamp(&turn, begun_at);
                begun_at
            }
            Turn::Held => {
                let until = self.now().after(self.settings.parks.name_turn);
                return Err(Stop::Wait { until, why: Waiting::Turn });
            }
        };
        let is_complete = self.whole_listing(look.not_before).await?;
        let name = members.get("productName").and_then(serde_json::Value::as_str).unwrap_or_default();
        let question = ProductQuestion {
            job: &self.key,
            members: &members,
            accepted_at: Some(self.ticket().accepted_at).filter(|_| !self.ticket().progress.is_acceptance_in_doubt),
            begun_at,
            is_memory_lost: self.record.suspect_since.is_some() || begun_at.is_none(),
            is_last_look: look.is_last,
            tolerance: self.settings.clock_tolerance.0,
            progress: &self.ticket().progress,
        };
        let mut evidence = Vec::new();
        for product in self.ports.home().listed(&self.key.account, name).await? {
            evidence.push(self.evidence(&question, product).await?);
        }
        match question.decide(&evidence) {
            Found::Ours(id) => {
                self.ports.home().own(&self.key.account, id, &self.key).await?;
                self.spend_turn(turn);
                let shared_id = evidence.iter().find(|e| e.product.id == id).and_then(|e| e.product.shared_id);
                Ok(Sight::There(StepResult::CreateProduct { id, shared_id, adopted: true }))
            }
            Found::Nothing => Ok(Sight::NotThere { is_complete }),
            Found::Open(candidates) => Ok(Sight::Open(candidates)),
        }
    }

    /// What speaks for and against one product: its owner, and what the list left out.
    async fn evidence(&self, question: &ProductQuestion<'_>, product: Product) -> Result<ProductEvidence, Stop> {
        let owner = self.ports.home().owner(&self.key.account, product.id).await?;
        let mut evidence = ProductEvidence { product, owner, submissions: None };
        if evidence.owner.is_none() && evidence.product.created.is_none() {
            let request = Request::GetProduct(evidence.product.id);
            let answer = self.read(QuotaClass::Look, &request).await?;
            evidence.product = answer.response.into_product().ok_or_else(|| unexpected("getProduct"))?;
        }
        if question.needs_submissions(&evidence) {
            evidence.submissions = Some(self.all_submissions(evidence.product.id).await?);
        }
        Ok(evidence)
    }

    /// A listing of the account's products that was started at `not_before` or later: read once for all who wait.
    ///
    /// Says whether it was read to its end.
    async fn whole_listing(&self, not_before: Moment) -> Result<bool, Stop> {
        let home = self.ports.home();
        let account = &self.key.account;
        let mut next = match home.join_listing(account, not_before, &self.key).await? {
            Listing::Whole { is_complete } => return Ok(is_complete),
            Listing::Read => {
                let until = self.now().after(self.settings.parks.listing);
                return Err(Stop::Wait { until, why: Waiting::Listing });
            }
            Listing::Ours { next } => next,
        };
        loop {
            if self.is_out_of_time() {
                home.leave_listing(account, &self.key).await?;
                return Err(self.next_turn());
            }
            let page = match self.read(QuotaClass::Look, &Request::ListProducts { next: next.clone() }).await {
                Ok(answer) => answer,
                Err(Stop::Failed(failure @ (Failure::Transient(_) | Failure::Permanent(_)))) => {
                    tracing::warn!(%failure, "a page of the product list could not be read");
                    home.page_failed(account, &self.key).await?;
                    let until = self.now().after(self.settings.parks.listing);
                    return Err(Stop::Wait { until, why: Waiting::Listing });
                }
                Err(stop) => {
                    home.leave_listing(account, &self.key).await?;
                    return Err(stop);
                }
            };
            let page = page.response.into_products().ok_or_else(|| unexpected("listProducts"))?;
            next = page.next;
            if !home.add_page(account, &self.key, &page.items, next.as_ref()).await? {
                let until = self.now().after(self.settings.parks.listing);
                return Err(Stop::Wait { until, why: Waiting::Listing });
            }
            if next.is_none() {
                return Ok(true);
            }
        }
    }

    async fn look_for_submission(&self) -> Result<Sight, Stop> {
        let wanted = self.new_submission()?;
        let all = self.all_submissions(self.product_id()?).await?;
        let progress = &self.ticket().progress;
        let question = SubmissionQuestion { job: &self.key, name: &wanted.name, kind: wanted.kind, progress };
        let is_initial = |s: &&Submission| s.kind.eq_ignore_ascii_case("initial");
        Ok(match question.decide(&all) {
            Found::Ours(id) => {
                self.spend_product_turn()?;
                Sight::There(StepResult::CreateSubmission { id, adopted: true })
            }
            // A person said that the one initial submission is not ours: no other can be made.
            Found::Nothing if wanted.kind == SubmissionKind::Initial && all.iter().any(|s| is_initial(&s)) => {
                Sight::Blocked(
                    "the product has an initial submission that is not this job's, and can have only one".to_owned(),
                )
            }
            Found::Nothing => Sight::NotThere { is_complete: true },
            Found::Open(candidates) => Sight::Open(candidates),
        })
    }

    /// All submissions of a product; pages that cannot be read fail the look.
    async fn all_submissions(&self, product: ProductId) -> Result<Vec<Submission>, Stop> {
        let (mut all, mut next) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let request = Request::ListSubmissions { product, next };
            let answer = self.read(QuotaClass::Look, &request).await?;
            let page = answer.response.into_submissions().ok_or_else(|| unexpected("listSubmissions"))?;
            all.extend(page.items);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        Ok(all)
    }

    async fn look_at_commit(&self) -> Result<Sight, Stop> {
        let submission = self.get_submission(QuotaClass::Look).await?;
        Ok(if submission.is_committed() == Some(true) {
            self.spend_product_turn()?;
            Sight::There(StepResult::Commit { adopted: true })
        } else {
            Sight::NotThere { is_complete: true }
        })
    }

    /// The write that was in doubt is found: its turn is over. `begin` stamped it with the record's own instant, which an
    /// earlier claim wrote.
    fn spend_product_turn(&self) -> Result<(), Stop> {
        let turn = self.product_turn()?;
        if self.stamp(&turn).is_none() {
            self.note_stamp(&turn, self.record.begun_at);
        }
        self.spend_turn(turn);
        Ok(())
    }
}

/// More pages of one product's submissions than any product has; a list that runs in a circle ends here.
const MAX_PAGES: usize = 200;
