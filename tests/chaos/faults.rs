//! What goes wrong: with a worker, the broker, the wire or the memory, and beside it with the service.

use std::time::Duration;

use anyhow::{Result, ensure};
use longshore::sandbox::{self, FaultKind, Params};
use rand::{RngExt as _, rngs::StdRng};
use tokio::task::block_in_place;

use crate::{
    arena::Arena,
    points::{self, Died},
    servers,
};

macro_rules! names {
    ($(#[$doc:meta])* pub(crate) enum $name:ident { $($(#[$of:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name { $($(#[$of])* $variant,)+ }

        impl $name {
            pub(crate) const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            pub(crate) fn parse(text: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.name() == text)
            }
        }
    };
}

names! {
    /// A fault of a worker, a server or the wire.
    pub(crate) enum Fault {
        /// SIGKILL, one after the other.
        WorkerKilled = "worker-killed",
        /// A worker dies at a crash point.
        WorkerAtPoint = "worker-at-point",
        /// SIGSTOP for longer than a lease, then SIGCONT.
        WorkerStopped = "worker-stopped",
        BrokerKilled = "broker-killed",
        BrokerRestarted = "broker-restarted",
        BrokerFrozen = "broker-frozen",
        /// Memory alarm: who publishes is blocked.
        BrokerAlarm = "broker-alarm",
        /// The broker closes all connections.
        BrokerCloses = "broker-closes",
        /// What was published arrives, its confirmation does not, then the connection is cut.
        CutMidConfirm = "cut-mid-confirm",
        /// Neither side hears the other, and neither is told.
        HalfOpen = "half-open",
        /// Nothing is taken from the workers for a while, then it goes on.
        WireStuck = "wire-stuck",
        MemoryFlushed = "memory-flushed",
        MemoryFrozen = "memory-frozen",
        /// Killed, and back empty.
        MemoryKilled = "memory-killed",
        MemoryFull = "memory-full",
        /// It becomes the replica of an address where nobody answers, and is promoted again.
        MemoryReadOnly = "memory-read-only",
        ScriptsFlushed = "scripts-flushed",
        /// Sentinel promotes a replica that lacks the last writes.
        MemoryFailOver = "memory-fail-over",
    }
}

names! {
    /// A fault of the service.
    pub(crate) enum Service {
        /// Executed, and nobody is told.
        LostAnswers = "lost-answers",
        /// 5xx, before and after the operation took place.
        Errors = "5xx",
        /// Lists lag by a second, and some creates lose their answers.
        LateLists = "late-lists",
    }
}

impl Service {
    /// How long its lists lag: as far as the overlay's looks can see.
    pub(crate) const fn list_lag(self) -> Duration {
        match self {
            Self::LateLists => Duration::from_secs(1),
            Self::LostAnswers | Self::Errors => Duration::from_millis(300),
        }
    }

    /// Sets the service to it.
    pub(crate) fn arm(self, arena: &Arena) -> Result<()> {
        let always = |operation: &str, kind, probability| sandbox::Fault {
            count: None,
            probability,
            ..sandbox::Fault::next(operation, kind)
        };
        let executed = Params { executed: Some(true), ..Params::default() };
        match self {
            Self::LostAnswers => {
                arena.strike(always("*", FaultKind::LostAnswer, 0.1))?;
            }
            Self::Errors => {
                arena.strike(always("*", FaultKind::Gateway500, 0.06))?;
                arena.strike(sandbox::Fault { params: executed, ..always("*", FaultKind::Gateway500, 0.06) })?;
            }
            Self::LateLists => {
                arena.strike(always("createProduct", FaultKind::LostAnswer, 0.3))?;
                arena.strike(always("createSubmission", FaultKind::LostAnswer, 0.3))?;
            }
        }
        Ok(())
    }
}

/// For so long the fault itself lasts.
async fn hold(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

impl Fault {
    /// Does one call of a stopped worker count?
    pub(crate) const fn may_double(self) -> usize {
        if matches!(self, Self::WorkerStopped) { 1 } else { 0 }
    }

    pub(crate) const fn needs_sentinel(self) -> bool {
        matches!(self, Self::MemoryFailOver)
    }

    /// Strikes, and puts everything right again.
    pub(crate) async fn strike(self, arena: &mut Arena, chance: &mut StdRng) -> Result<()> {
        match self {
            Self::WorkerKilled => {
                for _ in 0..4 {
                    let place = chance.random_range(0..arena.workers.count());
                    arena.workers.kill(place).await?;
                    arena.workers.replace(place, None)?;
                    hold(chance.random_range(0.5..2.5)).await;
                }
            }
            Self::WorkerAtPoint => at_point(arena, chance).await?,
            Self::WorkerStopped => {
                let place = chance.random_range(0..arena.workers.count());
                let lease = arena.options.lease.as_secs_f64();
                arena.workers.freeze(place)?;
                hold(lease + chance.random_range(2.0..5.0)).await;
                arena.workers.thaw(place)?;
            }
            Self::BrokerKilled => {
                arena.broker.grown().await;
                block_in_place(|| {
                    arena.broker.server.kill();
                    arena.broker.server.start_again();
                });
            }
            Self::BrokerRestarted => block_in_place(|| {
                arena.broker.server.stop();
                arena.broker.server.start_again();
            }),
            Self::BrokerFrozen => {
                arena.broker.server.freeze();
                hold(chance.random_range(5.0..8.0)).await;
                arena.broker.server.thaw();
            }
            Self::BrokerAlarm => {
                block_in_place(|| arena.broker.server.alarm(true));
                hold(chance.random_range(3.0..6.0)).await;
                block_in_place(|| arena.broker.server.alarm(false));
            }
            Self::BrokerCloses => {
                for _ in 0..2 {
                    block_in_place(|| arena.broker.server.close_all());
                }
            }
            Self::CutMidConfirm => {
                for _ in 0..4 {
                    arena.proxy.deafen();
                    hold(chance.random_range(0.05..0.6)).await;
                    ensure!(arena.proxy.cut() > 0, "there was no connection to cut");
                    hold(chance.random_range(1.0..3.0)).await;
                }
            }
            Self::HalfOpen => {
                ensure!(arena.proxy.silence() > 0, "there was no connection to silence");
                hold(9.0).await;
                arena.proxy.cut();
            }
            Self::WireStuck => {
                ensure!(arena.proxy.stick() > 0, "there was no connection to stop");
                hold(chance.random_range(2.0..7.0)).await;
                arena.proxy.unstick();
            }
            Self::MemoryFlushed
            | Self::MemoryFrozen
            | Self::MemoryKilled
            | Self::MemoryFull
            | Self::MemoryReadOnly
            | Self::ScriptsFlushed
            | Self::MemoryFailOver => self.strike_memory(arena, chance).await?,
        }
        Ok(())
    }

    async fn strike_memory(self, arena: &mut Arena, chance: &mut StdRng) -> Result<()> {
        let primary = &mut arena.memory.primary;
        match self {
            Self::MemoryFlushed => {
                for _ in 0..3 {
                    block_in_place(|| primary.flush());
                    hold(chance.random_range(0.5..3.0)).await;
                }
            }
            Self::MemoryFrozen => {
                primary.freeze();
                hold(chance.random_range(2.0..6.0)).await;
                primary.thaw();
            }
            Self::MemoryKilled => {
                block_in_place(|| primary.kill());
                hold(chance.random_range(0.1..3.0)).await;
                block_in_place(|| primary.start_again());
            }
            Self::MemoryFull => {
                let set = |bytes: &str| block_in_place(|| primary.cli(&["CONFIG", "SET", "maxmemory", bytes]));
                ensure!(set("1") == "OK");
                hold(chance.random_range(2.0..6.0)).await;
                ensure!(set("0") == "OK");
            }
            Self::MemoryReadOnly => {
                let nobody = servers::free_port().to_string();
                ensure!(block_in_place(|| primary.cli(&["REPLICAOF", "127.0.0.1", &nobody])) == "OK");
                hold(chance.random_range(2.0..6.0)).await;
                ensure!(block_in_place(|| primary.cli(&["REPLICAOF", "NO", "ONE"])) == "OK");
            }
            Self::ScriptsFlushed => {
                for _ in 0..6 {
                    ensure!(block_in_place(|| primary.cli(&["SCRIPT", "FLUSH"])) == "OK");
                    hold(chance.random_range(0.2..1.0)).await;
                }
            }
            Self::MemoryFailOver => {
                block_in_place(|| arena.memory.part());
                hold(chance.random_range(0.5..2.0)).await;
                block_in_place(|| arena.memory.fail_over());
            }
            Self::WorkerKilled
            | Self::WorkerAtPoint
            | Self::WorkerStopped
            | Self::BrokerKilled
            | Self::BrokerRestarted
            | Self::BrokerFrozen
            | Self::BrokerAlarm
            | Self::BrokerCloses
            | Self::CutMidConfirm
            | Self::HalfOpen
            | Self::WireStuck => {}
        }
        Ok(())
    }
}

/// A worker is killed, the one in its place dies at a point, twice; one that is not reached in time is given up.
async fn at_point(arena: &mut Arena, chance: &mut StdRng) -> Result<()> {
    let all = points::listed().await?;
    for _ in 0..2 {
        let place = chance.random_range(0..arena.workers.count());
        let point = all.get(chance.random_range(0..all.len())).cloned().unwrap_or_default();
        arena.workers.kill(place).await?;
        arena.workers.replace(place, Some(&point))?;
        let wait = tokio::time::timeout(Duration::from_secs(10), points::death(arena, place)).await;
        if let Ok(died) = wait {
            ensure!(died? == Died::AtItsPoint, "the worker that was to die at {point} ended elsewhere");
        } else {
            arena.workers.kill(place).await?;
        }
        arena.workers.replace(place, None)?;
    }
    Ok(())
}
