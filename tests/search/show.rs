//! States for people, one line each.

use crate::world::{Phase, World};

/// A job's handlers, tickets, memory and what has come of it.
pub(crate) fn show(world: &World) -> String {
    let mut parts = Vec::new();
    for (n, slot) in world.slots.iter().enumerate().filter(|(_, slot)| slot.phase != Phase::Idle) {
        let flags: String = [
            (slot.is_cut, " cut"),
            (slot.is_pending, " loaded"),
            (slot.is_stale, " stale"),
            (slot.holds[0], " holds"),
            (slot.holds[1], " holds-old"),
            (slot.is_on_old, " on-old"),
            (slot.ticket.is_suspect, " marked"),
        ]
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, name)| *name)
        .collect();
        parts.push(format!("h{n}:{:?}({}{flags})", slot.phase, slot.ticket.place));
    }
    for ticket in world.queue.iter().flatten() {
        let mark = if ticket.is_suspect { "*" } else { "" };
        let lane = if ticket.is_intake { "i" } else { "" };
        parts.push(format!("[{}{mark}{lane}]", ticket.place));
    }
    for (name, memory) in ["memory", "old"].iter().zip(&world.memories) {
        if let Some(record) = &memory.record {
            let flags: String = [
                (!record.is_of_this_epoch, " other-epoch"),
                (record.is_suspect, " suspect"),
                (record.is_begun, " begun"),
                (record.is_absent, " absent"),
                (record.result.is_some(), " result"),
                (record.is_wished, " wish"),
                (record.end != 0, " end"),
            ]
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, name)| *name)
            .collect();
            parts.push(format!("{name}={}/{:?}{flags}", record.place, record.held));
        }
        if memory.is_in_grace {
            parts.push("grace".to_owned());
        }
    }
    parts.push(format!("effects={:?} announced={:?} aside={:?}", world.effects, world.announced, world.aside));
    parts.join(" ")
}
