#!/usr/bin/env python3
"""Leaves out one rule at a time and shows which test finds it.

Each bend is a piece of source that is replaced in a copy of the tree; then a test runs, and has to fail. A bend that does
not apply, or that no test finds, fails the run. By hand: `make bends`, or `tests/bends/run.py NAME...`.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
COPY = ROOT / "target" / "bends"

CLAIM = "src/domain/claim.rs"
SETTLE = "src/engine/settle.rs"
SIM = ["cargo", "test", "--test", "sim", "every_job"]

# A worker that stood still mostly meets its own clock or its own renewal first: one seed in twelve thousand gets through.
RARE = ["env", "FIRST=11500", "SEEDS=500", *SIM]

BENDS = {
    "begin asks for no holder": (
        RARE, CLAIM,
        "    let known = held(loaded, claimant)?;\n    if known.needs_look()",
        "    let _ = claimant;\n    let known = loaded.known().ok_or(Denied::NotHolder)?;\n    if known.needs_look()",
    ),
    "record asks for no holder": (
        SIM, CLAIM,
        "..held(loaded, claimant)?.clone() };\n    match outcome",
        "..{ let _ = claimant; loaded.known().ok_or(Denied::NotHolder)? }.clone() };\n    match outcome",
    ),
    "no look after an unclear answer": (
        SIM, CLAIM,
        "(self.suspect_since.is_some() || self.begun_at.is_some())",
        "self.suspect_since.is_some()",
    ),
    "no grace after a birth": (
        SIM, CLAIM,
        "let in_grace = !birth.is_clean && loaded.now < birth.at.after(policy.memory_grace);",
        "let in_grace = false && policy.memory_grace.is_zero();",
    ),
    "acknowledged before the next ticket": (
        SIM, SETTLE,
        "    let proof = handed_on(broker, &delivery, &writes, announced).await?;\n"
        "    broker.acknowledge(delivery, proof).await?;\n",
        "    let _ = announced;\n"
        "    broker.acknowledge(delivery, Proof(())).await?;\n"
        "    if let Next::Ticket(ticket) = &writes.next {\n        broker.publish(ticket).await?;\n    }\n"
        "    if let Some(end) = &writes.set_aside {\n        broker.set_aside(end).await?;\n    }\n"
        "    let _ = handed_on::<B>;\n",
    ),
    "a record of another epoch is believed": (
        SIM, CLAIM,
        "self.record.as_ref().filter(|record| record.epoch == self.birth.epoch)",
        "self.record.as_ref()",
    ),
    "a stale ticket is taken": (
        SIM, CLAIM,
        "    if arrival.place < known.place {\n        return Claim::Stale;\n    }\n",
        "",
    ),
    "the first look proves absence": (
        SIM, "src/engine/look.rs",
        "(Sight::NotThere { .. } | Sight::Open(_), None) if !look.is_last => {",
        "(Sight::Open(_), None) if !look.is_last => {",
    ),
    "an end is not announced again": (
        SIM, SETTLE,
        "        writes.events.push(end.event());\n        writes.set_aside = (*set_aside",
        "        writes.set_aside = (*set_aside",
    ),
    "a later try forgets what was begun": (
        ["cargo", "test", "--lib", "plan::"], CLAIM,
        "    if is_same_step {\n        return known.clone();\n    }\n",
        "",
    ),
    "an old permit is not looked at again": (
        SIM, "src/engine/call.rs",
        "            if now.saturating_sub(asked) <= FRESH {",
        "            if now.saturating_sub(asked) <= FRESH || GATE_ASKS > 0 {",
    ),
    "a worker forgets its own pauses": (
        SIM, "src/engine/call.rs",
        "            self.gates.close(account, self.ports.clock().boot_time().saturating_add(told));\n",
        "",
    ),
    "an unclaimed poll ends its job": (
        SIM, "src/engine/worker.rs",
        "    let Next::Ticket(ticket) = settlement.next else { return None };\n",
        "    if let Entry::End { end, .. } = &settlement.entry {\n"
        "        let (events, next, entry) = (vec![end.event()], Next::Nothing, Entry::Nothing);\n"
        "        return Some(Settlement { received: settlement.received, claimant: None, entry, events, next });\n    }\n"
        "    let Next::Ticket(ticket) = settlement.next else { return None };\n",
    ),
    "a lost claim gives its ticket back to nobody": (
        SIM, "src/engine/conclude.rs",
        "        self.settlement(Entry::LetGoIfHeld, Vec::new(), Some(ticket))\n    }\n\n    /// The memory does not answer",
        "        let _ = ticket;\n        self.settlement(Entry::LetGoIfHeld, Vec::new(), None)\n    }\n\n    /// The memory does not answer",
    ),
}


def bend(name):
    command, file, old, new = BENDS[name]
    for part in ("src", "tests", "config", "benches"):
        # What an earlier tree had and this one has not must not stay.
        shutil.rmtree(COPY / part, ignore_errors=True)
        shutil.copytree(ROOT / part, COPY / part)
    for part in ("Cargo.toml", "Cargo.lock", "clippy.toml"):
        shutil.copy2(ROOT / part, COPY / part)
    target = COPY / file
    text = target.read_text()
    if text.count(old) != 1:
        return False, f"does not apply: {text.count(old)} places in {file}"
    target.write_text(text.replace(old, new))
    env = dict(os.environ, CARGO_TARGET_DIR=str(COPY / "target"), RUST_BACKTRACE="0", STOP_AT="1")
    done = subprocess.run(command, cwd=COPY, env=env, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return False, "found by nothing"
    if "error: could not compile" in output or "error[" in output or "failed to parse manifest" in output:
        return False, "does not compile:\n" + "\n".join(output.splitlines()[-30:])
    seeds = re.findall(r"^seed (\d+) failed.*\n +(.*)$", output, re.M)
    if seeds:
        return True, f"seed {seeds[0][0]}: {seeds[0][1]}"
    failed = re.findall(r"^test (\S+) \.\.\. FAILED", output, re.M)
    return bool(failed), f"test {', '.join(failed)}" if failed else "failed without a failed test"


def main():
    names = sys.argv[1:] or list(BENDS)
    COPY.mkdir(parents=True, exist_ok=True)
    found = 0
    for name in names:
        is_found, how = bend(name)
        found += is_found
        print(f"{'found' if is_found else 'MISSED'}  {name:50} {how}", flush=True)
    print(f"{found} of {len(names)} bends found")
    return 0 if found == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
