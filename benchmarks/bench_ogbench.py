"""Our critics on OGBench's cube-single (or cube-double, scene): play data, five tasks, one table with its failures.

python benchmarks/bench_ogbench.py                                   # cube-single, ten algorithms
python benchmarks/bench_ogbench.py --arms bc iql_chunk --tasks 1 2   # a part of it; what is done is not done again
python benchmarks/bench_ogbench.py --budget-minutes 20               # no new cell is begun after 20 minutes

The protocol is `ogbench_protocol.py`. Interrupt it at any time and run it again. Writes outputs/bench/ogbench.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # worker processes get it from here

from ogbench_cells import Bench, Cell, make_play, make_policy, make_task, run_cell
from ogbench_protocol import ALGORITHMS, MORE, PLAY, PUBLISHED, PUBLISHED_ORDER, TASKS, Algorithm, Data, Protocol
from ogbench_summary import summarize

from robot_value.components import unknown
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic
from robot_value.workers import process_pool, run_all


def main() -> int:
    arguments = parse()
    started = time.monotonic()
    deadline = time.time() + 60 * arguments.budget_minutes
    bench, algorithms = Bench(arguments.data, arguments.protocol, Path(arguments.out)), chosen(arguments.arms)
    data = make_play(bench, arguments.workers)
    with process_pool(arguments.workers) as pool:
        calls: dict[Any, Any] = {("policy", seed): (make_policy, (bench, seed)) for seed in arguments.seeds}
        calls |= {number: (make_task, (bench, number)) for number in arguments.tasks}
        made = run_all(pool, calls, "policies and rewards")
        cells = [
            Cell(bench, algorithm, number, seed)
            for seed in arguments.seeds
            for number in arguments.tasks
            for algorithm in algorithms
        ]
        run_all(pool, {i: (run_cell, (cell, deadline, arguments.retry)) for i, cell in enumerate(cells)}, "cells")
    results = [found for cell in cells if (found := cell.read())]
    summary = summarize(results, [algorithm.name for algorithm in algorithms], arguments.tasks)
    report = {
        "format_version": 1,
        **provenance(started),
        "family": bench.data.family,
        "tasks": arguments.tasks,
        "training_seeds": arguments.seeds,
        "data": asdict(bench.data) | data | {"per_task": [asdict(made[number]) for number in arguments.tasks]},
        "protocol": asdict(bench.protocol),
        "algorithms": [asdict(algorithm) for algorithm in algorithms],
        **summary,
        "published": PUBLISHED.get(bench.data.family, {}),
        "published_order": [[name, success, ours] for name, (success, ours) in PUBLISHED_ORDER.items()],
        "unfinished": len(cells) - len(results),
        "cells": results,
    }
    write_atomic(Path(arguments.json), json.dumps(plain(report), indent=1) + "\n")
    for row in summary["rows"]:
        print(line(row, arguments.tasks))
    print(f"{arguments.json}: {len(results)} of {len(cells)} cells")
    return 0


def chosen(names: list[str]) -> list[Algorithm]:
    known = {algorithm.name: algorithm for algorithm in (*ALGORITHMS, *MORE)}
    for name in names:
        if name not in known:
            raise SystemExit(unknown("algorithm", name, list(known)))
    return [known[name] for name in names] if names else list(ALGORITHMS)


def line(row: dict[str, Any], tasks: list[int]) -> str:
    rates = [row["tasks"].get(str(task)) for task in tasks]
    each = " ".join(" -- " if rate is None else f"{rate['success']:.2f}" for rate in rates)
    mean = f"mean {row['mean']['success']:.2f}" if row["mean"] else ""
    return (
        f"{row['name']:<14} {each} {mean} {len(row['failed']) or 'none'} failed, {row['wall_seconds']:.0f} s per cell"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data, protocol = Data(), Protocol()
    parser.add_argument("--family", default=data.family, help="cube-single, cube-double, scene, ...")
    parser.add_argument("--play", default=data.play, choices=PLAY, help="where play moves things; uniform is OGBench's")
    parser.add_argument("--episodes", type=int, default=data.episodes, help="play episodes of 1000 steps")
    parser.add_argument("--reward", default=protocol.reward, choices=("objects", "step"), help="step is the sparse one")
    parser.add_argument("--policy-steps", type=int, default=protocol.policy_steps, help="of the policy that is steered")
    parser.add_argument("--critic-steps", type=int, default=protocol.critic_steps, help="of every critic")
    parser.add_argument("--test", type=int, default=protocol.test_episodes, help="test episodes per cell")
    parser.add_argument("--arms", nargs="*", default=[], help="algorithms; default those in ALGORITHMS")
    parser.add_argument("--tasks", nargs="*", type=int, default=list(TASKS), help="numbers of the family's tasks")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="training seeds")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no cell after this long")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", default="outputs/ogbench", help="folder for data, models and cells")
    parser.add_argument("--json", default="outputs/bench/ogbench.json", help="where the result goes")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, no meaning")
    arguments = parser.parse_args()
    arguments.data = replace(data, family=arguments.family, play=arguments.play, episodes=arguments.episodes)
    arguments.protocol = replace(
        protocol,
        reward=arguments.reward,
        policy_steps=arguments.policy_steps,
        critic_steps=arguments.critic_steps,
        test_episodes=arguments.test,
    )
    return quick(arguments) if arguments.quick else arguments


def quick(arguments: argparse.Namespace) -> argparse.Namespace:
    tiny = {"policy_steps": 20, "critic_steps": 20, "validation_episodes": 1, "test_episodes": 2, "max_steps": 20}
    arguments.data = replace(arguments.data, episodes=2, steps=150)
    arguments.protocol = replace(arguments.protocol, **tiny, hidden=(16,), candidates=(2,), batch_size=32)
    arguments.tasks, arguments.arms = arguments.tasks[:1], arguments.arms or ["bc", "iql_chunk", "n_step"]
    arguments.out, arguments.json = f"{arguments.out}_quick", "outputs/bench/ogbench_quick.json"
    return arguments


if __name__ == "__main__":
    sys.exit(main())
