"""Are planted bugs found by the replay page's warnings alone, and is a clean log left in peace?

Thresholds were chosen on Lift (development) with other environment seeds; Stack and cube-single are held out. Every
cell plants one bug by seed, replays the log with a critic and with one of shuffled rewards, and reads the warnings.

    python benchmarks/bench_planted_bugs.py            # 12 minutes on 2 quiet cores; data and models are kept
    python benchmarks/bench_planted_bugs.py --quick
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from planted_bugs import BUGS, MemoryLog, counts, frozen_camera, plant
from steering_study_protocol import TASKS, Task

from robot_value import components
from robot_value.collect import collect
from robot_value.episodes import EpisodeStore
from robot_value.episodes.findings import Finding
from robot_value.fit import Job, Windowing, fit
from robot_value.replay.logged_robot import LoggedRobot
from robot_value.replay.scribe import replay
from robot_value.replay.survey import survey
from robot_value.replay.warnings import warnings, warnings_of_data
from robot_value.scenarios import Part
from robot_value.statistics import wilson
from robot_value.steering.steerer import Steerer
from robot_value.training import TrainConfig, load_model, load_policy
from robot_value.workers import process_pool, run_all

FIRST_SEED = 900_000  # of the environments; development saw 10,000 to 10,299 of Lift
CAMERA = {"cameras": ["agentview"], "camera_size": 64}
LOW_DIM = ("lift", "stack", "cube-single-task2")
WITH_CAMERA = ("lift", "stack")


@dataclass(frozen=True)
class Size:
    episodes: int = 200  # per low-dimensional log
    camera_episodes: int = 60
    seeds: int = 5  # of planting, per bug and log
    critic_steps: int = 1500
    policy_steps: int = 200  # its candidates are not what is asked about


@dataclass(frozen=True)
class Cell:
    """One log with one bug, or none, judged."""

    log: str
    bug: str
    seed: int
    found: int  # episodes
    false: int
    missed: int
    warned: bool  # whether the warning came at all
    others: tuple[str, ...]  # warnings of anything else, critics apart
    critics: tuple[str, ...]  # that were warned about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small: says that it runs, not how well it finds")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--data", type=Path, default=Path("outputs/planted"), help="logs and models, kept")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/planted_bugs.json"), help="result file")
    options = parser.parse_args()
    size = Size(40, 20, 1, 100, 20) if options.quick else Size()
    folder = options.data / ("quick" if options.quick else "full")
    cells = run(size, folder, options.workers)
    result = {"size": asdict(size), "rows": summary(cells), "cells": [asdict(cell) for cell in cells]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result["rows"]), f"written to {options.out}", sep="\n")


def run(size: Size, folder: Path, workers: int) -> list[Cell]:
    tasks = {task.name: task for task in TASKS}
    for name in LOW_DIM:
        make(tasks[name], {}, folder / name, size.episodes, workers)
    for name in WITH_CAMERA:
        make(tasks[name], CAMERA, folder / f"{name}_camera", size.camera_episodes, workers)
    with process_pool(workers) as pool:
        models = {
            (n, m): (train, (tasks[n], folder / n, m, size)) for n in LOW_DIM for m in ("policy", "main", "shuffled")
        }
        run_all(pool, models, "models")
        seeds = [(bug, seed) for bug in BUGS for seed in range(size.seeds)]
        calls = {(n, *c): (low_dim, (n, tasks[n].horizon, folder / n, *c)) for n in LOW_DIM for c in [("", 0), *seeds]}
        pictures = [("", 0), *(("camera frozen", seed) for seed in range(size.seeds))]
        calls |= {(n, *c): (camera, (folder / f"{n}_camera", *c)) for n in WITH_CAMERA for c in pictures}
        return list(run_all(pool, calls, "cells").values())


def make(task: Task, values: dict, path: Path, episodes: int, workers: int) -> None:
    if collect(
        task.robot_config(values), path / "episodes", episodes, FIRST_SEED, workers, min(20, episodes)
    ).interrupted:
        raise KeyboardInterrupt


def train(task: Task, path: Path, which: str, size: Size) -> Path:
    policy = which == "policy"
    config = Part("flow").config("policies") if policy else Part("iql", task.critic).config("critics")
    steps = size.policy_steps if policy else size.critic_steps
    training = TrainConfig(
        folder=str(path / which),
        steps=steps,
        threads=1,
        device="cpu",
        matmul="default",
        progress=False,
        tensorboard=False,
    )
    windowing = Windowing(horizon=task.horizon, reward_shuffle_seed=0 if which == "shuffled" else None)
    return fit(Job(str(path / "episodes"), config, training, windowing))


def low_dim(name: str, horizon: int, path: Path, bug: str, seed: int) -> Cell:
    """The log as it is given to `robot-value replay`; the critics were trained on the clean one."""
    log, planted, what = spoiled(path, bug, seed)
    selector = components.load("selectors", "softmax_average").Config(temperature=0.5).build()
    critics = {which: load_model(last(path / which)) for which in ("main", "shuffled")}
    steerer = Steerer(load_policy(last(path / "policy")), critic=critics["main"], selector=selector, n=1)
    robot = LoggedRobot(log, batch_size=50)
    replayed = replay(robot, steerer, {"shuffled": critics["shuffled"]}, progress=False)
    robot.close()
    return cell(path.name, bug, seed, warnings(replayed, log), planted, what)


def camera(path: Path, bug: str, seed: int) -> Cell:
    log, planted, what = spoiled(path, bug, seed)
    return cell(path.name, bug, seed, warnings_of_data(log.spec, survey(log)), planted, what)


def spoiled(path: Path, bug: str, seed: int) -> tuple[MemoryLog, set[str], str]:
    store = EpisodeStore.open(path / "episodes")
    log = MemoryLog(store.spec, {name: store.read(name, decisions=False) for name in store.names()})
    if not bug:
        return log, set(), ""
    rng = np.random.default_rng([seed, len(bug)])
    made = (BUGS | {"camera frozen": frozen_camera})[bug](log, rng)
    log, planted = plant(log, made, rng)
    return log, planted, made.what


def cell(log: str, bug: str, seed: int, found: list[Finding], planted: set[str], what: str) -> Cell:
    of_critics = [finding for finding in found if finding.what.startswith("critic ")]
    rest = [finding for finding in found if finding not in of_critics]
    right = [finding for finding in rest if bug and what in finding.what]
    named = [name for finding in right for name in finding.episodes]
    if bug.endswith("everywhere"):  # a warning without episodes is about all of them
        named = sorted(planted) if any(not finding.episodes for finding in right) else named
    return Cell(
        log, bug, seed, *counts(named, planted), bool(right),
        others=tuple(finding.what for finding in rest if finding not in right),
        critics=tuple(finding.what.split()[1] for finding in of_critics),
    )  # fmt: skip


def summary(cells: list[Cell]) -> list[dict]:
    """Per log and bug: precision and recall over episodes with Wilson intervals; per clean log the false warnings."""
    rows = []
    for log, bug in dict.fromkeys((c.log, c.bug) for c in cells):
        mine = [c for c in cells if (c.log, c.bug) == (log, bug)]
        found, false, missed = (sum(getattr(c, key) for c in mine) for key in ("found", "false", "missed"))
        rows.append({
            "log": log, "bug": bug or "none", "held_out": not log.startswith("lift"), "logs": len(mine),
            "precision": rate(found, found + false), "recall": rate(found, found + missed),
            "other_warnings_per_log": sum(len(c.others) for c in mine) / len(mine),
            "critics_warned": {w: sum(w in c.critics for c in mine) for w in ("main", "shuffled")},
        })  # fmt: skip
    return rows


def rate(successes: int, n: int) -> list[float] | None:
    """Estimate and 95 % interval; None where there was nothing to count."""
    interval = wilson(successes, n) if n else None
    return interval and [interval.mean, interval.low, interval.high]


def table(rows: list[dict]) -> str:
    def shown(value: list[float] | None) -> str:
        return "-".rjust(18) if value is None else f"{value[0]:6.2f} [{value[1]:.2f}, {value[2]:.2f}]"

    head = f"{'log':<20} {'bug':<18} {'precision':>18} {'recall':>20} {'others':>7}  main, shuffled warned"
    lines = [
        f"{r['log']:<20} {r['bug']:<18} {shown(r['precision'])} {shown(r['recall'])} {r['other_warnings_per_log']:7.2f}"
        f"  {r['critics_warned']['main']}, {r['critics_warned']['shuffled']} of {r['logs']}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def last(folder: Path) -> Path:
    return max(folder.glob("step_*"), key=lambda path: int(path.name.split("_")[1]))


if __name__ == "__main__":
    main()
