"""Success against control steps while algorithms learn online, all from the same cloned flow: Lift, Can, cube-single.

python benchmarks/bench_online.py                                    # Lift, every algorithm, 3 training seeds
python benchmarks/bench_online.py --arms bc qc_fql --seeds 0         # a part of it; what is done is not done again
python benchmarks/bench_online.py --budget-minutes 60                # no new cell is begun after an hour

The protocol is `online_protocol.py`. A cell keeps both cores busy (actor and learner), so cells come one after another.
Interrupt it at any time and run it again: a cell goes on after its last whole round. Writes outputs/bench/online.json
and a picture per task beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from online_cells import Cell, run_cell
from online_plot import draw
from online_protocol import ALGORITHMS, TASKS, Protocol
from online_summary import summarize

from robot_value.components import unknown
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic


def main() -> int:
    arguments, started = parse(), time.monotonic()
    algorithms = chosen("algorithm", arguments.arms, {algorithm.name: algorithm for algorithm in ALGORITHMS})
    tasks = [arguments.task_for(task) for task in chosen("task", arguments.tasks, TASKS)]
    cells = [
        Cell(task, algorithm, seed, arguments.protocol, Path(arguments.out))
        for task in tasks
        for seed in arguments.seeds  # one seed of everything first: the picture fills evenly
        for algorithm in algorithms
    ]
    for cell in cells:
        if time.monotonic() - started < 60 * arguments.budget_minutes:
            print(line(run_cell(cell, arguments.workers, arguments.retry)), flush=True)
    results = [found for cell in cells if (found := cell.read())]
    names = [algorithm.name for algorithm in algorithms]
    report = {
        "format_version": 1,
        **provenance(started),
        "protocol": asdict(arguments.protocol),
        "algorithms": [asdict(each) | {"flags": each.online_flags} for each in algorithms],
        "training_seeds": arguments.seeds,
        "tasks": {
            task.scenario: {**asdict(task), "made": task.made.made}
            | summarize([r for r in results if r["task"] == task.scenario], names, arguments.protocol.budget)
            for task in tasks
        },
        "unfinished": len(cells) - len(results),
        "cells": results,
    }
    write_atomic(Path(arguments.json), json.dumps(plain(report), indent=1) + "\n")
    for name, task in report["tasks"].items():
        draw(task, Path(arguments.json).with_name(f"{Path(arguments.json).stem}_{name}.png"))
    print(f"{arguments.json}: {len(results)} of {len(cells)} cells")
    return 0


def chosen(what: str, names: list[str], known: dict[str, Any]) -> list[Any]:
    for name in names:
        if name not in known:
            raise SystemExit(unknown(what, name, list(known)))
    return [known[name] for name in names] or list(known.values())


def line(result: dict[str, Any]) -> str:
    where = f"{result['task']:<5} {result['algorithm']:<12} seed {result['seed']}"
    if result["status"] == "failed":
        return f"{where}  {result['error']}"
    rates = [sum(each["success"]) / len(each["success"]) for each in result["evaluations"]]
    curve = " ".join(f"{rate:.2f}" for rate in rates)
    start = sum(result["start"]) / len(result["start"])
    return f"{where}  {start:.2f} -> {curve}  ({result['wall_seconds']:.0f} s)"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    protocol = Protocol()
    parser.add_argument("--tasks", nargs="*", default=["lift"], help="of lift, can, cube; without a name all")
    parser.add_argument("--arms", nargs="*", default=[], help="algorithms; default all of ALGORITHMS")
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=[0, 1, 2], help="training seeds, data and flow included"
    )
    parser.add_argument("--ratio", type=float, default=protocol.ratio, help="gradient steps per control step")
    parser.add_argument("--offline-steps", type=int, default=protocol.offline_steps, help="before the robot works")
    parser.add_argument("--test", type=int, default=protocol.evaluate_episodes, help="episodes per evaluation")
    parser.add_argument("--rates", nargs="*", type=int, default=[], help="steps per decision to play policies at, too")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no cell after this long")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes while offline data are collected")
    parser.add_argument("--out", default="outputs/online_bench", help="folder for data, models and cells")
    parser.add_argument("--json", default="outputs/bench/online.json", help="where the result goes")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, no meaning")
    arguments = parser.parse_args()
    sizes = {"ratio": arguments.ratio, "offline_steps": arguments.offline_steps, "evaluate_episodes": arguments.test}
    sizes["rates"] = tuple(arguments.rates)
    arguments.protocol, arguments.task_for = replace(protocol, **sizes), lambda task: task
    return quick(arguments) if arguments.quick else arguments


def quick(arguments: argparse.Namespace) -> argparse.Namespace:
    tiny = {"offline_steps": 2, "batch_size": 16, "hidden": (8,), "ratio": 0.1, "per_round": 2, "batch": 2}
    tiny |= {"evaluate_episodes": 2, "evaluate_every": 2, "budget": 100}
    arguments.protocol = replace(arguments.protocol, **tiny)
    arguments.task_for = lambda task: replace(task, episodes=4, scale=0.01, max_steps=12)
    arguments.seeds, arguments.arms = arguments.seeds[:1], arguments.arms or ["bc", "qc_fql"]
    arguments.out, arguments.json = f"{arguments.out}_quick", "outputs/bench/online_quick.json"
    return arguments


if __name__ == "__main__":
    sys.exit(main())
