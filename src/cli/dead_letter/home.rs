//! The home that was reached, its drawer of dead letters open; and how letters are named on the command line.

use super::{MOST, Queue, Several};
use crate::{
    app::drawer::Drawer,
    cli::{context::Reached, exit::Exit, intake, output::Problem, stop::Stop},
    domain::{
        dead_letter::{DeadLetter, DeadLetters},
        ids::{JobId, JobKey},
    },
    rabbitmq::Shelf,
};

/// The home that was reached, its drawer open.
pub(super) struct Home<'a> {
    pub(super) reached: &'a Reached,
    pub(super) drawer: Drawer<'a>,
}

impl<'a> Home<'a> {
    pub(super) async fn open(reached: &'a Reached, from: Queue) -> Result<Self, Stop> {
        let drawer = match (reached, from) {
            (Reached::Embedded(app), Queue::Dead) => Drawer::File(&app.home),
            (Reached::Embedded(_), Queue::Unrouted) => {
                let problem = Problem::new("this home has no messages without a route: it has no broker");
                return Err(Stop::input(problem.next("longshore dead-letter list")));
            }
            (Reached::Fleet(fleet), Queue::Dead) => Drawer::of_fleet(fleet, Shelf::SetAside).await?,
            (Reached::Fleet(fleet), Queue::Unrouted) => Drawer::of_fleet(fleet, Shelf::Unrouted).await?,
        };
        Ok(Self { reached, drawer })
    }

    /// What names it on the command line.
    pub(super) async fn name(&self, letter: &DeadLetter) -> Result<String, Stop> {
        match (&letter.job, self.reached) {
            (Some(job), Reached::Embedded(app)) => intake::name_of(&**app, job).await,
            (Some(job), Reached::Fleet(_)) => Ok(job.to_string()),
            (None, _) => Ok(format!("#{}", letter.id)),
        }
    }

    /// By job, or by number: a job's id may be all digits, so the job comes first, and `#12` is a number for sure.
    pub(super) async fn find(&self, named: &str) -> Result<DeadLetter, Stop> {
        let number = named.strip_prefix('#').unwrap_or(named).parse::<u64>().ok();
        for job in self.jobs(named).await {
            let filter = DeadLetters { job: Some(job), limit: 1, ..DeadLetters::default() };
            if let Some(letter) = self.drawer.list(filter).await?.pop() {
                return Ok(letter);
            }
        }
        if let Some(number) = number
            && let Some(letter) = self.drawer.numbered(number).await?
        {
            return Ok(letter);
        }
        let problem = Problem::new(format!("{named} has no dead letter"));
        Err(Stop::new(Exit::NotFound, problem.next("longshore dead-letter list")))
    }

    /// The jobs that may be meant.
    async fn jobs(&self, named: &str) -> Vec<JobKey> {
        if named.contains('/') {
            return JobKey::parse(named).into_iter().collect();
        }
        let Ok(id) = JobId::parse(named) else { return Vec::new() };
        match self.reached {
            Reached::Embedded(app) => intake::find(&**app, named).await.into_iter().collect(),
            Reached::Fleet(fleet) => {
                let accounts = fleet.loaded.settings.accounts.keys();
                accounts.map(|account| JobKey { account: account.clone(), id: id.clone() }).collect()
            }
        }
    }

    pub(super) async fn several(&self, several: &Several) -> Result<Vec<DeadLetter>, Stop> {
        let Some(class) = several.class else {
            let mut letters = Vec::new();
            for named in &several.letters {
                letters.push(self.find(named).await?);
            }
            return Ok(letters);
        };
        let filter = DeadLetters { class: Some(class), limit: MOST, ..DeadLetters::default() };
        let letters = self.drawer.list(filter).await?;
        if letters.is_empty() {
            let problem = Problem::new(format!("there is no dead letter of class {class}"));
            return Err(Stop::new(Exit::NotFound, problem.next("longshore dead-letter list --counts")));
        }
        Ok(letters)
    }
}
