"""What learning beside a working robot costs: the learner's speed meanwhile, bookkeeping, and whether both cores work.

    python benchmarks/bench_online_overhead.py                       # Lift, 20 rounds of 10 episodes, 20 minutes
    python benchmarks/bench_online_overhead.py --arm qc_fql --rounds 30
    python benchmarks/bench_online_overhead.py --quick               # a smoke test: tiny sizes, no meaning

An ordinary `train online` from `bench_online`'s data and weights, without evaluations. After every round the same
learner makes as many updates from the same data alone, the actor idle, so that the ratio is paired round by round. The
speed of a learner that trains offline is that of the learner alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blocks import busy
from online_cells import Cell, make_data, make_flow, make_offline, online_job
from online_protocol import ALGORITHMS, TASKS, Protocol

from robot_value.components import unknown
from robot_value.curves import Curves
from robot_value.networks.matmul import matmul
from robot_value.online.backends import Actors, actors
from robot_value.online.board import Board
from robot_value.online.job import OnlineJob
from robot_value.online.learning import Online
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic
from robot_value.training import torch_threads

SPEED, BOOKS, CORES = 0.9, 0.1, 1.5  # goals: of the learner alone, share of the wall time at most, cores at least


@dataclass(frozen=True)
class Measured:
    """One round."""

    updates: int
    beside: float  # s that they took while the robot worked
    alone: float  # s that as many took afterwards
    overlapped: float  # s of `beside` in which the robot worked indeed
    wall: float  # s of the round, without `alone`
    books: float  # s of it that neither acted nor learned
    cores: float  # of the whole machine, busy during the round


def main(arguments: Sequence[str] | None = None) -> int:
    options, began = parse(arguments), time.monotonic()
    job = online_job(options.cell, *offline(options.cell))
    shutil.rmtree(job.schedule.folder, ignore_errors=True)  # of an earlier measurement
    with torch_threads(1), matmul("default"), actors("local", 1) as crew:
        rounds = play(job, crew, options.rounds)
    found = figures(rounds, options.quick)
    report = {"format_version": 1, **provenance(began), "algorithm": options.cell.algorithm.name, **found}
    write_atomic(options.out, json.dumps(plain(report), indent=1) + "\n")
    print(said(found), f"-> {options.out}")
    return 0 if found["passed"] in (True, None) else 1


def offline(cell: Cell) -> tuple[Path, Path, Path | None]:
    data, flow = make_data(cell, 2), make_flow(cell)
    return data, *make_offline(cell, flow)


def play(job: OnlineJob, crew: Actors, rounds: int) -> list[Measured]:
    """Rounds in which something was learned; the first has nothing to learn from."""
    online, found = Online(job), []
    root = online.root
    with Curves(root, online.config, online.run.step) as curves, Board(root, 0, enabled=False) as board:
        for _ in range(rounds + 1):
            online.lap()
            before, used = online.run.step, busy()
            booked = online.round(crew, curves, board)
            seconds, used = booked.seconds, busy() - used
            if updates := booked.update - before:
                alone = timed(lambda: online.rails.update(online.sampler.sample(), online.run.generator), updates)
                overlap, wall = min(seconds.acting, seconds.learning), seconds.wall
                each = Measured(updates, seconds.learning, alone, overlap, wall, seconds.bookkeeping, used / wall)
                found.append(each)
                print(f"{updates} updates: {1e3 * each.beside / updates:.1f} ms, alone {1e3 * alone / updates:.1f} ms")
    return found


def timed(call: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - began


def figures(rounds: Sequence[Measured], quick: bool) -> dict[str, Any]:
    speed = np.array([each.alone / each.beside for each in rounds])
    draws = np.random.default_rng(0).choice(speed, (2000, len(speed)))
    low, high = np.quantile(np.median(draws, 1), [0.025, 0.975])
    total = {name: sum(getattr(each, name) for each in rounds) for name in ("updates", "beside", "alone", "overlapped")}
    books = sum(each.books for each in rounds) / sum(each.wall for each in rounds)
    cores = float(np.median([each.cores for each in rounds]))
    goals = np.median(speed) >= SPEED and books <= BOOKS and cores >= CORES
    return {
        "speed": {"of_alone": float(np.median(speed)), "ci95": [float(low), float(high)], "goal": SPEED},
        "bookkeeping": {"share": books, "goal": BOOKS},
        "cores": {"busy": cores, "goal": CORES},
        "updates_per_second": {
            "beside": total["updates"] / total["beside"],
            "alone": total["updates"] / total["alone"],
        },
        "overlapped": total["overlapped"] / total["beside"],  # share of the learning while the robot worked
        "rounds": len(rounds),
        "passed": None if quick else bool(goals),
    }


def said(found: dict[str, Any]) -> str:
    speed, (low, high) = found["speed"]["of_alone"], found["speed"]["ci95"]
    verdict = {True: "PASS", False: "FAIL", None: "quick, no verdict"}[found["passed"]]
    books, cores = found["bookkeeping"]["share"], found["cores"]["busy"]
    return (
        f"{verdict}: the learner at {speed:.2f} [{low:.2f}, {high:.2f}] of its speed alone, the robot working in "
        f"{found['overlapped']:.0%} of that time; bookkeeping {books:.1%}, {cores:.2f} cores busy; "
        f"{found['rounds']} rounds"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", default="iql_average", help="algorithm of bench_online")
    parser.add_argument("--rounds", type=int, default=20, help="of 10 episodes, in which is learned")
    parser.add_argument("--seed", type=int, default=0, help="training seed, data and flow included")
    parser.add_argument("--ratio", type=float, default=Protocol().ratio, help="gradient steps per control step")
    parser.add_argument("--work", default="outputs/online_bench", help="folder for data and models, bench_online's")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/online_overhead.json"), help="result file")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny sizes, no meaning")
    options = parser.parse_args(arguments)
    known = {algorithm.name: algorithm for algorithm in ALGORITHMS}
    if options.arm not in known:
        raise SystemExit(unknown("algorithm", options.arm, list(known)))
    task, protocol = TASKS["lift"], replace(Protocol(), evaluate_every=0, ratio=options.ratio)
    if options.quick:
        tiny = {"offline_steps": 2, "batch_size": 16, "hidden": (8,), "per_round": 2, "batch": 2}
        task, protocol = replace(task, episodes=8, scale=0.01, max_steps=12), replace(protocol, **tiny)
        options.rounds, options.work = 2, f"{options.work}_quick"
    options.rounds = min(options.rounds, task.episodes // protocol.per_round - 1)
    options.cell = Cell(task, known[options.arm], options.seed, protocol, Path(options.work))
    return options


if __name__ == "__main__":
    sys.exit(main())
