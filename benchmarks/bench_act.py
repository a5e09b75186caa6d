"""Milliseconds from an observation to a decision on one robot: encode, sample N chunks, score them, select the best.

The whole Steerer is timed, with random weights (speed does not depend on them). Two sizes: the demo's (policy and
K = 4 critic of 3 x 256) and the literature's (4 x 512, K = 2). Gate: best-of-32 at most 4 times best-of-1.

    python benchmarks/bench_act.py            # about 1.5 minutes
    python benchmarks/bench_act.py --quick    # about 20 seconds
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blocks import Arm, interleave, median_ms, ratio

from robot_value.critics import iql
from robot_value.critics.chunk_critic import ChunkCritic
from robot_value.normalize import fit_statistics
from robot_value.policies import flow
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer
from robot_value.types import ActionPart, Observation, Spec

GATE = 4.0
CANDIDATES = (1, 8, 32, 128)
SIZES = {
    "demo 3x256, K=4": (flow.Config(), iql.Config(), 8),
    "large 4x512, K=2": (flow.Config(width=512, depth=4), iql.Config(members=2, hidden=(512,) * 4), 5),
}
STATE, ACTION = 28, 7  # dims; robosuite Lift has about these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer blocks")
    parser.add_argument("--seconds", type=float, default=None, help="time spent on each size, s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/act.json"), help="result file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds = options.seconds or (10 if options.quick else 40)
    sizes = [measure(name, seconds) for name in SIZES]
    verdicts = [size["passed"] for size in sizes]
    passed = False if False in verdicts else None if None in verdicts else True
    result = {"gate": GATE, "passed": passed, "threads": options.threads, "sizes": sizes}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    verdict = {True: "PASS", False: "FAIL", None: "NO VERDICT (machine busy)"}[passed]
    print(f"{verdict}: best-of-32 / best-of-1 <= {GATE}; written to {options.out}")


def measure(name: str, seconds: float) -> dict:
    policy, critic, observation = build(*SIZES[name])
    arms = {"base": Arm(lambda s=Steerer(policy): s(observation))}  # n = 1 and no critic
    for n in CANDIDATES:
        steerer = Steerer(policy, critic, argmax.Config().build(), n=n)
        arms[str(n)] = Arm(lambda s=steerer: s(observation))
    interleave(arms, seconds)
    middle, low, high = ratio(arms["32"], arms["1"])
    trusted = arms["32"].trusted and arms["1"].trusted
    for n, arm in arms.items():
        print(f"{name}: N={n} {median_ms(arm)['ms']:.2f} ms")
    print(f"{name}: best-of-32 / best-of-1 = {middle:.2f} [{low:.2f}, {high:.2f}]")
    return {
        "size": name,
        "latency": {n: median_ms(arm) for n, arm in arms.items()},
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
        "ratio_to_base": ratio(arms["32"], arms["base"])[0],
        "passed": high <= GATE if trusted else None,
    }


def build(policy: flow.Config, critic: iql.Config, horizon: int) -> tuple[flow.FlowPolicy, ChunkCritic, Observation]:
    arm = ActionPart("arm", 0, ACTION, "other", "1", (-1.0,) * ACTION, (1.0,) * ACTION)
    names = tuple(f"s{i}" for i in range(STATE))
    spec = Spec((arm,), names, ("1",) * STATE, dt=0.05, horizon=horizon, n_obs_steps=1)
    rng = np.random.default_rng(0)
    statistics = fit_statistics(
        {
            "state": rng.standard_normal((1000, STATE)).astype(np.float32),
            "action": rng.uniform(-1, 1, (1000, ACTION)).astype(np.float32),
        }
    )
    observation = Observation(
        state=rng.standard_normal((1, 1, STATE)).astype(np.float32),
        images={},
        task=("",),
        time=np.zeros(1),
        step=np.zeros(1, np.int64),
        episode=np.zeros(1, np.int64),
        pending=np.zeros((1, 0, ACTION), np.float32),
        committed=np.zeros(1, np.int64),
    )
    return policy.build(spec, statistics).eval(), critic.build(spec, statistics).eval(), observation


if __name__ == "__main__":
    main()
