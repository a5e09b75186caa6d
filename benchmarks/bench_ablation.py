"""Two defaults, each switched off once: the EMA of weights (state policy) and random-shift augmentation (image policy).

Clean Lift demonstrations, plain policies without a critic, the same environment seeds and candidate noise for both arms
of a pair. Writes outputs/bench/ablation.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from robot_value.collect import collect
from robot_value.demo import train_all
from robot_value.evaluate import Arm, compare
from robot_value.fit import Job, Windowing
from robot_value.learners import Optimization
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic
from robot_value.scenarios import Part
from robot_value.statistics import mcnemar, paired_difference, wilson
from robot_value.training import TrainConfig, load_model

STATE = {"task": "Lift", "quality": {"preset": "mixed"}}
IMAGES = {**STATE, "state": False, "cameras": ["agentview", "robot0_eye_in_hand"], "camera_size": 64}
DATA_SEED, TEST_SEED = 50_000, 60_000


def main() -> None:
    arguments = parse()
    started, out = time.monotonic(), Path(arguments.out)
    rows = {
        "ema": pair(out, "state", STATE, arguments.steps, 256, arguments, {"ema": 0.0}, {}),
        "random_shift": pair(
            out, "images", IMAGES, arguments.image_steps, 64, arguments, {}, {"encoder": {"shift": 0}}
        ),
    }
    report = plain({"format_version": 1, **provenance(started), "rows": rows})
    write_atomic(Path("outputs/bench/ablation.json"), json.dumps(report, indent=2) + "\n")
    for name, row in rows.items():
        low, high = row["difference"]["ci95"]
        print(
            f"{name}: on {row['on']['success']:.0%}, off {row['off']['success']:.0%} of {row['on']['n']} episodes; "
            f"difference {row['difference']['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"
        )


def pair(
    out: Path,
    name: str,
    robot: dict[str, Any],
    steps: int,
    batch: int,
    arguments: argparse.Namespace,
    optimization: dict[str, Any],
    policy: dict[str, Any],
) -> dict[str, Any]:
    """Success with the default and without it, paired on test seeds."""
    config = Part("robosuite", robot).config("robots")
    data = out / name / "episodes"
    collect(config, data, arguments.episodes, DATA_SEED, workers=2, batch_size=16)
    jobs = {}
    for arm, changed, values in (("on", {}, {}), ("off", optimization, policy)):
        train = TrainConfig(
            folder=str(out / name / arm), steps=steps, batch_size=batch, threads=1, device="cpu", progress=False
        )
        flow = Part("flow", values).config("policies")
        jobs[name, arm] = Job(str(data), flow, train, Windowing(horizon=8), Optimization(**changed))
    trained = train_all(jobs, workers=2)
    seeds, success = range(TEST_SEED, TEST_SEED + arguments.test), {}
    fleet = config.build(batch_size=min(50, arguments.test), workers=2)
    try:
        for (_, arm), folder in trained.items():
            found = compare(fleet, load_model(folder), {}, [Arm("base")], seeds)
            success[arm] = found.success("base")
    finally:
        fleet.close()
    rates = {arm: wilson(int(hits.sum()), hits.size) for arm, hits in success.items()}
    gap = paired_difference(success["on"], success["off"])
    return {
        **{arm: {"success": rate.mean, "n": int(success[arm].size), "ci95": rate.ci95} for arm, rate in rates.items()},
        "difference": {"mean": gap.mean, "ci95": gap.ci95, "p_mcnemar": mcnemar(success["on"], success["off"])},
        "robot": robot,
        "steps": steps,
        "episodes": arguments.episodes,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="demonstrations")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of the state policies")
    parser.add_argument("--image-steps", type=int, default=1500, help="training steps of the image policies")
    parser.add_argument("--test", type=int, default=100, help="test episodes per arm")
    parser.add_argument("--out", default="outputs/ablation", help="folder for episodes and checkpoints")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, no meaning")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.episodes, arguments.steps, arguments.image_steps, arguments.test = 10, 20, 10, 4
        arguments.out += "_quick"
    return arguments


if __name__ == "__main__":
    main()
