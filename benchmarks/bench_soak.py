"""An hour at 50 Hz with a random fault every 30 s: does everything recover, does anything leak?

Between faults the arm follows a script: a stop there is a false stop (one during which the harness itself stalled is
counted apart). Memory is a straight line through resident sizes after the first tenth. `--restarts` kills the guard
instead, again and again, and measures how long until the arm moves after the operator's reset.

    python benchmarks/bench_soak.py --minutes=60
    python benchmarks/bench_soak.py --restarts=100
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import itertools

import faults_common
import faults_table
from faults_case import Disturbed
from faults_rig import ARM, SECOND, Rig

from robot_value import wire
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic

LEAK = 1.0  # MB per hour
# Killing and restarting nodes ends the lives whose memory is measured.
FAULTS = [
    case
    for case in faults_table.GUARD
    if case.rig == "guard"
    and case.id not in ("F7", "F10", "F26", "F27", "F30", "F31", "F36")
    and case.part not in ("domain", "shared memory", "no shared memory")
]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=30.0, help="s from one fault to the next")
    parser.add_argument("--restarts", type=int, default=0, help="kill the guard so many times instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/soak.json"))
    options = parser.parse_args(arguments)
    began, rng = time.monotonic(), np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        try:
            found = restarts(rig, options.restarts) if options.restarts else soak(rig, options, rng)
        finally:
            rig.close()
    write_atomic(options.out, json.dumps(plain({"format_version": 1, **provenance(began), **found}), indent=2) + "\n")
    print(f"{'PASS' if found['passed'] else 'FAIL'}: {json.dumps(plain(found))[:600]}; {options.out}")
    return 0 if found["passed"] else 1


def soak(rig: Rig, options: Any, rng: np.random.Generator) -> dict[str, Any]:
    end = time.monotonic() + 60 * options.minutes
    faults, recovered, failures, clean = Counter(), 0, [], 0.0
    false_stops = disturbed = 0
    sizes: list[tuple[float, dict[str, int]]] = []
    gaps: list[np.ndarray] = []
    with tqdm(total=round(60 * options.minutes), unit="s") as bar:
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                rig.begin()
            except AssertionError as error:
                failures.append(f"no motion: {error}"[:300])
                continue
            since = time.monotonic_ns()
            time.sleep(max(0.0, min(options.every, end - time.monotonic())))
            clean += (time.monotonic_ns() - since) / SECOND
            stops, stalled = falls(rig, since), rig.stalled(since)
            disturbed += stops if stalled else 0
            false_stops += 0 if stalled else stops
            gaps.append(np.diff([c.ns for c in rig.commands if c.ns > since]) * 1e-6)
            sizes.append((time.monotonic(), {p.name: faults_common.rss(p.pid) for p in (rig.guard, rig.arm)}))
            case = FAULTS[int(rng.integers(len(FAULTS)))]
            faults[f"{case.id} {case.part}".strip()] += 1
            try:
                case.trial(rig, rng)
                rig.begin()
                recovered += 1
            except Disturbed:
                recovered += 1
            except AssertionError as error:
                failures.append(f"{case.id} {case.part}: {error}"[:300])
            bar.update(round(time.monotonic() - began))
    dead = [p.name for p in (rig.guard, rig.arm) if p.popen.poll() is not None]
    rig.judge()
    intervals = np.concatenate(gaps)
    slopes = {name: slope(sizes, name) for name in ("guard", "simulated_arm")}
    leaks = any(each is not None and each > LEAK for each in slopes.values())
    return {
        "passed": not (dead or failures or leaks) and false_stops <= max(1.0, options.minutes / 60),
        "minutes": options.minutes,
        "faults": sum(faults.values()),
        "recovered": recovered,
        "by_fault": dict(faults),
        "failures": failures,
        "dead_nodes": dead,
        "clean_seconds": clean,
        "false_stops": false_stops,
        "stops_while_harness_or_machine_stalled": disturbed,
        "interval_over_2_periods": float((intervals > 40.0).mean()),
        "interval_max_ms": float(intervals.max()),
        "mb_per_hour": slopes,
        "descriptors": {p.name: len(os.listdir(f"/proc/{p.pid}/fd")) for p in (rig.guard, rig.arm)},
        "shared_memory_files": len(list(Path("/dev/shm").glob("fastdds_*"))),
    }


def falls(rig: Rig, since: int) -> int:
    """How often the policy lost the arm."""
    sources = [c.source for c in rig.commands if c.ns >= since]
    return sum(a == wire.POLICY and b == wire.STOP for a, b in itertools.pairwise(sources))


def slope(sizes: Sequence[tuple[float, dict[str, int]]], name: str) -> float | None:
    """MB per hour, without the first tenth; None from fewer than 5 points."""
    kept = [(at, each[name]) for at, each in sizes[len(sizes) // 10 :]]
    if len(kept) < 5:
        return None
    at, size = np.array(kept).T
    return float(np.polyfit((at - at[0]) / 3600, size / 1e6, 1)[0])


def restarts(rig: Rig, trials: int) -> dict[str, Any]:
    """Seconds from the operator's reset to motion, and from the kill; how far the first command was from the arm."""
    ready, total, off = [], [], []
    for _ in tqdm(range(trials)):
        rig.begin()
        rig.guard.end(signal.SIGKILL)
        killed = time.monotonic()
        rig.renew_guard()
        rig.graph.wait_state(rig.guard)
        reset = time.monotonic()
        rig.run()
        ready.append(time.monotonic() - reset)
        total.append(time.monotonic() - killed)
        first = rig.commands[0]
        off.append(float(np.abs(first.position[:ARM] - rig.measured_at(first.ns)).max()))
    rig.judge()
    return {
        "passed": max(ready) <= 5.0 and max(off) <= 1e-3,
        "trials": trials,
        "reset_to_motion_s": {"p50": np.median(ready), "p95": np.quantile(ready, 0.95), "max": max(ready)},
        "kill_to_motion_s": {"p50": np.median(total), "p95": np.quantile(total, 0.95), "max": max(total)},
        "first_command_off_rad": max(off),
    }


if __name__ == "__main__":
    raise SystemExit(main())
