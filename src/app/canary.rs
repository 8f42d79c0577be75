//! Proves the ways of the fleet's topology: a canary is announced in the memory and flies, whoever receives it notes there
//! over which lane it came, and its sender looks. What was not announced, or came another way, proves nothing.
//!
//! A canary that does not come back is called lost only when nothing lies before it in its lane and the memory answered all
//! the while; everything else is told as what cannot be known.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    domain::step::Kind,
    engine::ports::Unavailable,
    rabbitmq::{
        Names, Rabbit, Visit,
        canary::{self, Came, StandIn, Way},
        topology::{Depth, Found},
    },
    redis::Store,
};

/// How long a canary may take: a second in the delays, and whatever broker and receivers need.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks for them.
const GLANCE: Duration = Duration::from_millis(200);
/// The first pause before a worker tries again what was not proven; each is twice the one before.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often the receiver of a canary tries to note it.
const NOTES: u32 = 5;

/// What became of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It came back.
    Back,
    /// It did not: what is probably wrong.
    Lost(String),
    /// The user may not publish where this way begins.
    Forbidden,
    /// Nobody can tell, and why.
    Unknown(String),
}

/// A canary that flew, or could not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// The kind of its lane.
    pub kind: Kind,
    /// Its way.
    pub way: Way,
    /// What became of it.
    pub outcome: Outcome,
}

/// Who takes canaries from the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receivers {
    /// Workers: this process is one.
    Workers,
    /// Workers; we ourselves where a lane is empty and has no consumer.
    WorkersOrUs,
}

impl Flight {
    fn new((kind, way): (Kind, Way), outcome: Outcome) -> Self {
        Self { kind, way, outcome }
    }
}

/// Sends a canary on each of these ways, and waits for them.
///
/// # Errors
/// [`Unavailable`]: the broker cannot be asked.
pub async fn prove(
    broker: &Rabbit,
    memory: &Store,
    ways: &[(Kind, Way)],
    receivers: Receivers,
) -> Result<Vec<Flight>, Unavailable> {
    // A canary that nobody can note proves nothing.
    if let Err(down) = memory.await_canary(&canary::new_id()).await {
        return Ok(ways.iter().map(|way| Flight::new(*way, Outcome::Unknown(down.to_string()))).collect());
    }
    let visit = broker.visit().await?;
    let mut proof = Proof { names: broker.names(), memory, visit: &visit, stand_ins: BTreeMap::new() };
    let proven = proof.of(ways, receivers).await;
    for stand_in in proof.stand_ins.into_values() {
        stand_in.leave().await;
    }
    visit.leave().await;
    proven
}

struct Proof<'a> {
    names: &'a Names,
    memory: &'a Store,
    visit: &'a Visit,
    /// By the lane that each looks into.
    stand_ins: BTreeMap<String, StandIn>,
}

/// A canary, and what became of it once that is known.
struct Flying {
    id: String,
    lane: String,
    way: (Kind, Way),
    outcome: Option<Outcome>,
}

impl Proof<'_> {
    async fn of(&mut self, ways: &[(Kind, Way)], receivers: Receivers) -> Result<Vec<Flight>, Unavailable> {
        let mut flying = Vec::new();
        for way in ways {
            let lane = way.1.lane(self.names, way.0);
            flying.push(Flying { id: canary::new_id(), lane, way: *way, outcome: None });
        }
        if receivers == Receivers::WorkersOrUs {
            self.man(&mut flying).await?;
        }
        self.leave_full_waits(&mut flying).await?;
        for canary in flying.iter_mut().filter(|canary| canary.outcome.is_none()) {
            if let Err(down) = self.memory.await_canary(&canary.id).await {
                canary.outcome = Some(Outcome::Unknown(down.to_string()));
                continue;
            }
            canary.outcome = match self.visit.release(canary.way, &canary.id).await? {
                Found::Well => None,
                Found::Forbidden => Some(Outcome::Forbidden),
                Found::Missing => {
                    Some(Outcome::Lost(format!("exchange {} is missing", canary.way.1.exchange(self.names))))
                }
                Found::Differs(why) => Some(Outcome::Unknown(why)),
            };
        }
        let mut trouble = None;
        // The end of the time is an answer: what has not come by then is looked at one by one.
        drop(tokio::time::timeout(PATIENCE, self.watch(&mut flying, &mut trouble)).await);
        let mut flights = Vec::new();
        for canary in flying {
            let outcome = match canary.outcome {
                Some(outcome) => outcome,
                None => self.missed(&canary, trouble.as_deref()).await?,
            };
            flights.push(Flight::new(canary.way, outcome));
        }
        Ok(flights)
    }

    /// A longer wait is proven only where nothing lies before the canary: it would wait for that.
    async fn leave_full_waits(&self, flying: &mut [Flying]) -> Result<(), Unavailable> {
        for canary in flying.iter_mut().filter(|canary| canary.outcome.is_none()) {
            if !matches!(canary.way.1, Way::LongWait(_)) {
                continue;
            }
            let Some(queue) = canary.way.1.waits_in(self.names) else { continue };
            canary.outcome = match self.visit.depth(&queue).await? {
                Ok(Depth { messages: 0, .. }) | Err(Found::Well | Found::Differs(_) | Found::Forbidden) => None,
                Ok(Depth { messages, .. }) => Some(Outcome::Unknown(format!("{messages} wait before it in {queue}"))),
                Err(Found::Missing) => Some(Outcome::Lost(format!("queue {queue} is missing"))),
            };
        }
        Ok(())
    }

    /// Stands in where a lane has no consumer, and says of which lanes nothing can be known.
    async fn man(&mut self, flying: &mut [Flying]) -> Result<(), Unavailable> {
        for canary in flying {
            if self.stand_ins.contains_key(&canary.lane) {
                continue;
            }
            canary.outcome = match self.visit.depth(&canary.lane).await? {
                Ok(Depth { messages: 0, consumers: 0 }) => {
                    let stand_in = self.visit.stand_in(canary.lane.clone()).await?;
                    self.stand_ins.insert(canary.lane.clone(), stand_in);
                    None
                }
                Ok(Depth { messages, consumers: 0 }) => {
                    Some(Outcome::Unknown(format!("{messages} messages wait in {} and nobody takes them", canary.lane)))
                }
                Ok(_) | Err(Found::Well | Found::Differs(_) | Found::Forbidden) => None,
                Err(Found::Missing) => Some(Outcome::Lost(format!("queue {} is missing", canary.lane))),
            };
        }
        Ok(())
    }

    /// Waits until all have come.
    async fn watch(&mut self, flying: &mut [Flying], trouble: &mut Option<String>) {
        loop {
            self.relieve(flying, trouble).await;
            let mut awaited: Vec<_> = flying.iter_mut().filter(|canary| canary.outcome.is_none()).collect();
            if awaited.is_empty() {
                return;
            }
            let ids: Vec<_> = awaited.iter().map(|canary| (canary.id.as_str(), canary.lane.as_str())).collect();
            match self.memory.canaries_back(&ids).await {
                Ok(back) => {
                    for (canary, _) in awaited.iter_mut().zip(back).filter(|(_, is_back)| *is_back) {
                        canary.outcome = Some(Outcome::Back);
                    }
                }
                Err(down) => *trouble = Some(down.to_string()),
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Takes what came where we stand in, and notes it as every receiver does.
    async fn relieve(&mut self, flying: &mut [Flying], trouble: &mut Option<String>) {
        let mut refused = Vec::new();
        for (lane, stand_in) in &mut self.stand_ins {
            match stand_in.take().await {
                Ok(ids) => {
                    for id in ids {
                        if let Err(down) = self.memory.note_canary(&id, lane).await {
                            *trouble = Some(down.to_string());
                        }
                    }
                }
                Err(error) => refused.push((lane.clone(), error.to_string())),
            }
        }
        for (lane, error) in refused {
            self.stand_ins.remove(&lane);
            for canary in flying.iter_mut().filter(|canary| canary.lane == lane && canary.outcome.is_none()) {
                canary.outcome =
                    Some(Outcome::Unknown(format!("nobody takes from {lane}, and this user cannot: {error}")));
            }
        }
    }

    /// What can be said of one that was not seen.
    async fn missed(&self, canary: &Flying, trouble: Option<&str>) -> Result<Outcome, Unavailable> {
        if let Some(trouble) = trouble {
            return Ok(Outcome::Unknown(trouble.to_owned()));
        }
        Ok(match self.visit.depth(&canary.lane).await? {
            Ok(Depth { messages: 0, .. }) => Outcome::Lost(canary.way.1.lost(self.names, canary.way.0)),
            Ok(Depth { messages, .. }) => {
                Outcome::Unknown(format!("{messages} messages lie before it in {}", canary.lane))
            }
            Err(Found::Missing) => Outcome::Lost(format!("queue {} is missing", canary.lane)),
            Err(Found::Well | Found::Differs(_) | Found::Forbidden) => {
                Outcome::Unknown(format!("this user may not look into {}", canary.lane))
            }
        })
    }
}

/// Notes every canary that comes to this process. It never ends.
pub async fn note_all(broker: &Rabbit, memory: &Store) {
    loop {
        let Came { id, lane } = broker.canary().await;
        for attempt in 1..=NOTES {
            match memory.note_canary(&id, &lane).await {
                Ok(()) => break,
                Err(down) if attempt == NOTES => tracing::debug!(%down, "a canary came and could not be noted"),
                Err(_) => tokio::time::sleep(GLANCE.saturating_mul(attempt)).await,
            }
        }
    }
}

/// Proves the ways to the return lanes of these kinds, and tries again until all are proven: `tell` is given what is wrong,
/// and nothing when all is well again. What cannot be known changes nothing.
pub async fn prove_until_well(broker: &Rabbit, memory: &Store, kinds: &BTreeSet<Kind>, tell: impl Fn(Option<String>)) {
    let ways: Vec<(Kind, Way)> = kinds.iter().flat_map(|kind| Way::OF_WORKERS.map(|way| (*kind, way))).collect();
    let mut pause = PAUSE;
    loop {
        broker.ready().await;
        match prove(broker, memory, &ways, Receivers::Workers).await {
            Ok(flights) => match verdict(broker.names(), &flights) {
                Verdict::Proven => {
                    tell(None);
                    tracing::info!("the ways to every return lane are proven");
                    return;
                }
                Verdict::Broken(why) => tell(Some(why)),
                Verdict::Unknown => {}
            },
            Err(down) => tracing::warn!(%down, "the ways to the return lanes cannot be proven now"),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

enum Verdict {
    Proven,
    Broken(String),
    Unknown,
}

/// Says loudly what is wrong.
fn verdict(names: &Names, flights: &[Flight]) -> Verdict {
    let (mut broken, mut is_unknown) = (Vec::new(), false);
    for Flight { kind, way, outcome } in flights {
        let lane = way.lane(names, *kind);
        let why = match outcome {
            Outcome::Back => continue,
            Outcome::Unknown(why) => {
                tracing::warn!(lane, way = way.name(), why, "whether tickets reach the lane cannot be told now");
                is_unknown = true;
                continue;
            }
            Outcome::Lost(why) => why.clone(),
            Outcome::Forbidden => format!("{lane}: this user may not write to {}", way.exchange(names)),
        };
        tracing::error!(lane, way = way.name(), why, "tickets do not reach the lane; see longshore topology check");
        broken.push(why);
    }
    match (broken.is_empty(), is_unknown) {
        (false, _) => Verdict::Broken(broken.join("; ")),
        (true, true) => Verdict::Unknown,
        (true, false) => Verdict::Proven,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(outcomes: [Outcome; 2]) -> Verdict {
        let flights: Vec<Flight> =
            Way::OF_WORKERS.into_iter().zip(outcomes).map(|(way, out)| Flight::new((Kind::Upload, way), out)).collect();
        verdict(&Names::new("test"), &flights)
    }

    #[test]
    fn a_lost_canary_is_trouble_and_one_of_which_nobody_knows_is_none() {
        let unknown = || Outcome::Unknown("7 messages lie before it".to_owned());
        assert!(matches!(verdict_of([Outcome::Back, Outcome::Back]), Verdict::Proven));
        assert!(matches!(verdict_of([Outcome::Back, unknown()]), Verdict::Unknown));
        let lost = verdict_of([unknown(), Outcome::Lost("test.w.upload.return.v1: gone".to_owned())]);
        assert!(matches!(lost, Verdict::Broken(why) if why == "test.w.upload.return.v1: gone"));
        let forbidden = verdict_of([Outcome::Back, Outcome::Forbidden]);
        assert!(matches!(forbidden, Verdict::Broken(why) if why.contains("may not write to test.delay.v1")));
    }
}
