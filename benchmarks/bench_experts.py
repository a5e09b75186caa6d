"""Success of the scripted experts per robosuite task, with Wilson intervals and the steps a success takes.

An episode counts as a success when the task's own signal comes within its control steps (Lift 80, Door and Stack 200,
PickPlaceCan 250, NutAssemblySquare 300). Waypoints and gains were tuned on seeds 0-39; the default seeds were not.

    python benchmarks/bench_experts.py --seeds 50
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

TASKS = "Lift,PickPlaceCan,Stack,NutAssemblySquare,Door"
GATES = {
    "Lift": 0.95,
    "PickPlaceCan": 0.95,
    "Stack": 0.95,
    "NutAssemblySquare": 0.7,
    "Door": 0.9,
}  # of the clean expert
FRESH = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=TASKS, help="comma-separated robosuite tasks")
    parser.add_argument("--seeds", type=int, default=50, help="episodes per task")
    parser.add_argument("--start", type=int, default=FRESH, help="first seed")
    parser.add_argument("--preset", default="clean", help="quality preset; only clean has gates")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/experts.json"), help="result file")
    options = parser.parse_args()
    rows = [measure(task, options.start, options.seeds, options.preset) for task in options.tasks.split(",")]
    result: dict = {"preset": options.preset, "rows": rows}
    if options.preset == "clean":
        result |= {"gates": GATES, "passed": all(row["success"] >= GATES[row["task"]] for row in rows)}
        print(
            "PASS" if result["passed"] else "FAIL", "(gates:", ", ".join(f"{k} {v:.0%}" for k, v in GATES.items()) + ")"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {options.out}")


def measure(task: str, start: int, count: int, preset: str) -> dict:
    from robot_value.sim.robosuite_robot import Config, Quality
    from robot_value.statistics import wilson

    simulator = Config(task=task, quality=Quality(preset=preset)).simulator()
    seeds = range(start, start + count)
    steps = {seed: steps_to_success(simulator, seed) for seed in tqdm(seeds, desc=task, unit="episode")}
    simulator.close()
    taken = [n for n in steps.values() if n is not None]
    interval = wilson(len(taken), count)
    row = {
        "task": task,
        "seeds": [seeds.start, seeds.stop - 1],
        "episodes": count,
        "successes": len(taken),
        "success": interval.mean,
        "success_low": interval.low,
        "success_high": interval.high,
        "steps_median": float(np.median(taken)) if taken else None,
        "steps_range": [min(taken), max(taken)] if taken else None,
        "failed_seeds": [seed for seed, n in steps.items() if n is None],
    }
    print(
        f"{task}: {len(taken)}/{count} = {interval.mean:.0%} [{interval.low:.0%}, {interval.high:.0%}], "
        f"median {row['steps_median']} steps {row['steps_range']}, seeds {seeds.start}-{seeds.stop - 1}"
    )
    return row


def steps_to_success(simulator, seed: int) -> int | None:
    """Control steps until the task's success signal; None where it did not come in time."""
    simulator.reset(simulator.tasks[0], seed)
    expert = simulator.expert(seed)
    for step in range(simulator.max_steps):
        if simulator.step(expert.action()).success:
            return step + 1
    return None


if __name__ == "__main__":
    main()
