"""Control steps per second of our robosuite robots against plain robosuite's `env.step`, same cores, same physics.

Plain and ours take turns in short blocks on one environment in one process, from the same states with the same actions,
so whatever else the machine does hits both. Before timing, one control step of each from the same state is compared
bit by bit. The gate is the lower end of the ratio's interval: at least 1.8.

    python benchmarks/bench_simulation.py --seconds 30
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

GATE = 1.8
BLOCK = 20  # control steps per timed block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="time spent on each task, s")
    parser.add_argument("--tasks", default="Lift,PickPlaceCan", help="comma-separated robosuite tasks")
    parser.add_argument("--workers", type=int, default=2, help="processes of a fleet timed beside it; 0: none")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/simulation.json"), help="result file")
    options = parser.parse_args()
    rows = [compare(task, options.seconds) for task in options.tasks.split(",")]
    if options.workers:
        rows += [fleet_overhead(task, options.workers, options.seconds / 3) for task in options.tasks.split(",")[:1]]
    passed = all(row["ratio_low"] >= GATE and row["bit_identical"] for row in rows if "ratio" in row)
    result = {"gate": GATE, "passed": passed, "cores": os.cpu_count(), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'PASS' if passed else 'FAIL'} (gate: ratio >= {GATE}); written to {options.out}")


def compare(task: str, seconds: float) -> dict:
    """Alternating blocks of plain and fast control steps from the same states."""
    simulator, start = begin(task)
    rng = np.random.default_rng(0)
    identical = all(same_step(simulator, start, action) for action in rng.uniform(-1, 1, (20, 7)))
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    arms = {"plain": simulator.env.step, "ours": simulator.step}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times["ours"]) < 10:
        actions = rng.uniform(-1, 1, (BLOCK, 7))
        for name in list(arms) if len(times["ours"]) % 2 else list(arms)[::-1]:
            simulator.load_state(start)
            times[name].append(timed(arms[name], actions))
    plain, ours = (np.array(times[name]) / BLOCK for name in ("plain", "ours"))
    low, high = interval(plain, ours)
    row = {
        "task": task,
        "blocks": len(ours),
        "steps_per_block": BLOCK,
        "plain_steps_per_s": 1 / float(np.median(plain)),
        "ours_steps_per_s": 1 / float(np.median(ours)),
        "ratio": float(np.median(plain) / np.median(ours)),
        "ratio_low": low,
        "ratio_high": high,
        "bit_identical": identical,
    }
    print(
        f"{task}: plain {row['plain_steps_per_s']:.0f}, ours {row['ours_steps_per_s']:.0f} control steps/s, "
        f"ratio {row['ratio']:.2f} [{low:.2f}, {high:.2f}] (n={len(ours)} blocks), "
        f"physics {'bit-identical' if identical else 'DIFFERENT'}"
    )
    return row


def fleet_overhead(task: str, workers: int, seconds: float, batch: int = 16, steps: int = 8) -> dict:
    """What a fleet in processes reaches, and what an `execute` costs beyond the simulation itself."""
    from robot_value.sim.robosuite_robot import Config

    rates = {}
    for count in (0, workers):
        with Config(task=task, max_steps=10**9).build(batch, count) as fleet:
            fleet.reset([""] * batch, range(batch))
            rates[count] = fleet_rate(fleet, steps, seconds / 2)
            if count:
                empty = round_trip(fleet)
    row = {
        "task": task,
        "workers": workers,
        "batch": batch,
        "steps_per_decision": steps,
        "in_process_steps_per_s": rates[0],
        "fleet_steps_per_s": rates[workers],
        "round_trip_ms": 1e3 * empty,
    }
    print(
        f"{task}: a fleet of {batch} in one process {rates[0]:.0f}, on {workers} workers {rates[workers]:.0f} steps/s; "
        f"a round trip to all workers {row['round_trip_ms']:.2f} ms"
    )
    return row


def fleet_rate(fleet, steps: int, seconds: float) -> float:
    """Control steps per second over all rows."""
    rng, count, start = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() < start + seconds or not count:
        chunk = rng.uniform(-1, 1, (fleet.batch_size, steps, fleet.spec.action_dim)).astype(np.float32)
        count += int(fleet.execute(decision(fleet, chunk)).executed_valid.sum())
    return count / (time.perf_counter() - start)


def round_trip(fleet, repeats: int = 200) -> float:
    """Median s of one exchange of messages without any simulation."""
    calls = dict.fromkeys(range(fleet.batch_size), ("hello",))
    return float(np.median([timed(lambda _: fleet._call(calls), [None]) for _ in range(repeats)]))


def decision(fleet, chunk: np.ndarray):
    from robot_value.types import Decision

    batch, none = fleet.batch_size, np.zeros((fleet.batch_size, 0), np.float32)
    return Decision(
        chunk=chunk,
        execute=np.full(batch, chunk.shape[1]),
        start_step=fleet._ledger.step.copy(),
        reason=("bench",) * batch,
        index=np.zeros(batch, np.int64),
        candidates=chunk[:, None][:, :0],
        value=none,
        spread=none,
    )


def begin(task: str):
    """A simulator after a few random steps, both paths warm, and its state."""
    from robot_value.sim.robosuite_robot import Config

    simulator = Config(task=task).simulator()
    simulator.reset(simulator.tasks[0], 0)
    for action in np.random.default_rng(1).uniform(-1, 1, (10, 7)):
        simulator.step(action)
    state = simulator.save_state()
    simulator.env.step(np.zeros(7))
    return simulator, state


def same_step(simulator, state, action: np.ndarray) -> bool:
    """Whether plain robosuite and ours reach the same integration state, warm start included, to the last bit."""
    reached = []
    for step in (simulator.env.step, simulator.step):
        simulator.load_state(state)
        step(action)
        reached.append(simulator.save_state()["env"]["physics"])
    return bool(np.array_equal(*reached))


def timed(step: Callable, actions) -> float:
    start = time.perf_counter()
    for action in actions:
        step(action)
    return time.perf_counter() - start


def interval(plain: np.ndarray, ours: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % of the bootstrapped ratio of medians; blocks are drawn in pairs, as they were run."""
    index = np.random.default_rng(0).integers(len(plain), size=(draws, len(plain)))
    ratios = np.median(plain[index], 1) / np.median(ours[index], 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
