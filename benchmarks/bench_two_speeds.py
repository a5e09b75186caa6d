"""How evenly a robot gets its actions while a large policy thinks: one speed, thinking ahead, and two speeds.

System 2 is the 50M flow transformer with two cameras of steering_latency_models.py, best of N by its critic; System 1
an MLP flow on state that finishes the chosen chunk at every control step. Weights are random: rates do not depend on
them. A clock asks for one action per control period; the longest pause is what the robot feels. All on one machine.
A chunk must last longer than a thought (H / hz > thinking): where it does not, what was thought ahead is out of date
when it is finished, and one speed is better.

    one speed   decide, play k steps, decide: the robot stands still while it thinks
    ahead       ThinkAhead and splice: the chunk in force goes on
    two speeds  ThinkAhead and fast: System 1 reacts at every step

    robot-value bench two_speeds                          # about 1.5 minutes
    robot-value bench two_speeds --smoke --out=rates.json # seconds: tiny networks, does it run
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import steering_latency_models as models

from robot_value.policies import flow
from robot_value.protocols import ChunkFollower
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic
from robot_value.steering.followers import fast, splice
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer
from robot_value.steering.two_speeds import ThinkAhead
from robot_value.types import Decision, Observation

SMALL_HORIZON = 8  # steps of System 1's chunks


@dataclass(frozen=True)
class Pace:
    """What the robot felt."""

    asked_hz: float  # control rate
    reached_hz: float
    pause_ms_p50: float  # between two actions
    pause_ms_p99: float
    pause_ms_max: float
    action_ms_p50: float  # the follower alone
    action_ms_p99: float


def main() -> None:
    options, started = parse(), time.monotonic()
    torch.set_num_threads(options.threads)
    policy, critic, observation = models.build(models.SMOKE if options.smoke else models.LARGE)
    small, seconds = system_1(policy), 0.2 if options.smoke else options.seconds
    steerer = Steerer(policy, critic, argmax.Config().build(), n=options.n, execute=critic.scope)
    rows = {"one speed": asdict(drive(steerer, splice.Config().build(), observation, options.hz, seconds))}
    for name, follower in (("ahead", splice.Config().build()), ("two speeds", fast.Fast(small))):
        thinker = ThinkAhead(steerer)
        pace = drive(thinker, follower, observation, options.hz, seconds)
        thinker.close()
        rows[name] = asdict(pace) | {"system 2": asdict(thinker.rates)}
        steerer.reset()
    result = provenance(started) | {
        "threads": options.threads,
        "weights": "random",
        "parameters": {"system 1": models.parameters(small), "system 2": models.parameters(policy, critic)},
        "candidates": options.n,
        "horizon": policy.spec.horizon,
        "execute": steerer.execute,
        "modes": rows,
    }
    write_atomic(options.out, json.dumps(plain(result), indent=2, allow_nan=False) + "\n")
    print("\n".join(map(line, rows, rows.values())), f"written to {options.out}", sep="\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny networks, a blink: figures mean nothing")
    parser.add_argument("--seconds", type=float, default=25, help="time spent on each mode, s")
    parser.add_argument("--hz", type=float, default=10, help="control rate asked for; H = 16 steps last 1.6 s")
    parser.add_argument("--n", type=int, default=8, help="candidates of System 2")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch per system")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/two_speeds.json"), help="result file")
    return parser.parse_args()


def system_1(large: flow.FlowPolicy) -> flow.FlowPolicy:
    """An MLP flow that sees the state only, in two steps from flow time 0.5."""
    spec = replace(large.spec, cameras=(), horizon=SMALL_HORIZON)
    return flow.Config(sample_steps=2).build(spec, large.statistics).eval()


def drive(
    decide: Callable[[Observation], Decision],
    follower: ChunkFollower,
    observation: Observation,
    hz: float,
    seconds: float,
) -> Pace:
    """Ask for an action every 1 / hz s, or as soon as there is one; the first decision comes before the clock runs."""
    decision, acted, acting, step = decide(observation), [], [], 0
    left, end = int(decision.execute[0]), time.perf_counter() + seconds
    due = time.perf_counter()
    while time.perf_counter() < end or step < 2:
        seen = replace(observation, step=np.array([step]))
        if left == 0:
            decision = decide(seen)
            left = int(decision.execute[0])
        began = time.perf_counter()
        follower.action(seen, decision, seen.step - decision.start_step)
        acted.append(time.perf_counter())
        acting.append(acted[-1] - began)
        step, left, due = step + 1, left - 1, max(due + 1 / hz, acted[-1])
        time.sleep(max(due - time.perf_counter(), 0))
    pause, acting = 1e3 * np.diff(acted), 1e3 * np.array(acting)
    return Pace(
        hz,
        len(pause) / (acted[-1] - acted[0]),
        *np.quantile(pause, [0.5, 0.99, 1]).tolist(),
        *np.quantile(acting, [0.5, 0.99]).tolist(),
    )


def line(name: str, row: dict) -> str:
    text = f"{name}: {row['reached_hz']:.1f} of {row['asked_hz']:.0f} Hz, longest pause {row['pause_ms_max']:.0f} ms"
    if "system 2" not in row:
        return text
    r = row["system 2"]
    return text + (
        f", System 2 {r['per_second']:.2f} decisions/s, {r['waits']} waits, decisions {r['age_p50']:.0f} steps old "
        f"(p95 {r['age_p95']:.0f}), action {row['action_ms_p50']:.2f} ms"
    )


if __name__ == "__main__":
    main()
