"""What N candidates cost: milliseconds per decision of one robot, as ratios to best-of-1 measured in the same run.

A flow transformer of 50M parameters with two cameras and a chunk critic, and a small policy on state, all with random
weights (steering_latency_models.py). The whole Steerer is timed: encode once, sample N chunks in 10 Euler steps, score,
select. What runs packed is measured, never assumed: best-of-1 is held against the fastest way to run the policy alone.
Arms take turns in short blocks; a goal is reached where the interval's upper end is, on an otherwise idle machine.

    robot-value bench steering_latency                            # about 5 minutes, both cores
    robot-value bench steering_latency --smoke --out=latency.json # seconds: tiny networks, does it run
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench_act
import steering_latency_models as models
from blocks import Arm, interleave, median_ms, ratio
from steering_latency_checks import counted, fidelity, regret
from steering_latency_table import table

from robot_value.networks.packed import DTYPES, Packed, choose
from robot_value.policies.flow import FlowPolicy
from robot_value.provenance import provenance
from robot_value.steering.guides import halving
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer
from robot_value.types import Observation

CANDIDATES = (1, 8, 16, 32)
STATE_CANDIDATES = (1, 32, 128)
GOALS = (  # slow arm, against, at most
    ("best of 8", "best of 1", 2.4),
    ("best of 32", "best of 1", 7.0),
    ("best of 32, halving", "best of 1", 4.2),
    ("best of 32, one step", "best of 1", 1.0),
    ("state, best of 32", "state, best of 1", 3.0),
)
ALONE_GOAL = 1.05  # best-of-1 against the fastest way to run the policy alone
DECISIONS = 16  # for halving's regret

Arms = dict[str, Arm]


def main() -> None:
    options, started = parse(), time.monotonic()
    torch.set_num_threads(options.threads)
    size = models.SMOKE if options.smoke else models.LARGE
    policy, critic, observation = models.build(size)
    steerers = make_steerers(policy, critic, options.precision)
    arms = {name: Arm(partial(steerer, observation)) for name, steerer in steerers.items()}
    arms |= alone_arms(policy, observation)
    interleave(arms, 0 if options.smoke else options.seconds, 0 if options.smoke else 0.4)
    state = state_arms()
    interleave(state, 0 if options.smoke else 10, 0 if options.smoke else 0.2)
    decisions = 2 if options.smoke else DECISIONS
    result = provenance(started) | {
        "threads": options.threads,
        "parameters": {"policy": models.parameters(policy), "critic": models.parameters(critic)},
        "size": asdict(size),
        "weights": "random",
        "precision": chosen(policy, options.precision),
        "latency": {name: median_ms(arm) for name, arm in (arms | state).items()},
        "goals": verdicts(arms | state),
        "per_decision": {name: asdict(counted(policy, partial(s, observation))) for name, s in steerers.items()},
        "fidelity": fidelity(plain_twin(steerers["best of 8"]), steerers["best of 8"], observation, decisions),
        "halving_regret": regret(steerers, observation, decisions),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(table(result)), f"written to {options.out}", sep="\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny networks, fewest blocks: figures mean nothing")
    parser.add_argument("--seconds", type=float, default=200, help="time spent on the large policy, s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--precision", choices=("off", "auto", *DTYPES), default="auto", help="of the steered policy")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/steering_latency.json"), help="result")
    return parser.parse_args()


# What is timed ------------------------------------------------------------------------------------------------------


def make_steerers(policy: FlowPolicy, critic: Any, precision: str) -> dict[str, Steerer]:
    one_step = copy.copy(policy)  # the same networks
    one_step.sample_steps = 1
    make = partial(Steerer, critic=critic, selector=argmax.Config().build(), precision=precision)
    return {f"best of {n}": make(policy, n=n) for n in CANDIDATES} | {
        "best of 32, halving": make(policy, n=32, guide=halving.Config().build()),
        "best of 32, candidate 0 exact": make(policy, n=32, exact=True),
        "best of 32, one step": make(one_step, n=32),
    }


def plain_twin(steerer: Steerer) -> Steerer:
    return Steerer(steerer.policy, steerer.critic, steerer.selector, n=steerer.n)


def alone_arms(policy: FlowPolicy, observation: Observation) -> Arms:
    noise = torch.randn(1, 1, policy.spec.horizon, policy.spec.action_dim)

    @torch.no_grad()
    def act(packed: Packed) -> torch.Tensor:
        with packed:
            return policy.sample(policy.encode(observation), 1, noise)[0]

    return {f"policy alone, {name}": Arm(partial(act, Packed(policy, name))) for name in ("off", *DTYPES)}


def state_arms() -> Arms:
    policy, critic, observation = bench_act.build(*next(iter(bench_act.SIZES.values())))
    choice = argmax.Config().build()
    steerers = {n: Steerer(policy, critic, choice, n=n, precision="auto") for n in STATE_CANDIDATES}
    return {f"state, best of {n}": Arm(partial(steerer, observation)) for n, steerer in steerers.items()}


def chosen(policy: FlowPolicy, asked: str) -> dict[str, str]:
    """What `asked` came to on this machine: the head's arithmetic and the image encoders'."""
    parts = {"head": policy.head, "cameras": next(iter(policy.encoder.cameras.values()))}
    return {name: choose(p, p.forward, asked) if asked != "off" else "off" for name, p in parts.items()}


# What is said of it -------------------------------------------------------------------------------------------------


def verdicts(arms: Arms) -> list[dict[str, Any]]:
    alone = [name for name in arms if name.startswith("policy alone")]
    fastest = min(alone, key=lambda name: float(np.median(arms[name].seconds)))
    return [verdict(arms, *goal) for goal in (*GOALS, ("best of 1", fastest, ALONE_GOAL))]


def verdict(arms: Arms, slow: str, against: str, goal: float) -> dict[str, Any]:
    """`passed` is None where the machine was too busy to tell."""
    middle, low, high = ratio(arms[slow], arms[against])
    passed = high <= goal if arms[slow].trusted and arms[against].trusted else None
    figures = {"ratio": middle, "ratio_low": low, "ratio_high": high}
    return {"arm": slow, "against": against, "goal": goal, **figures, "passed": passed}


if __name__ == "__main__":
    main()
