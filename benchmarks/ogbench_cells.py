"""The work behind `bench_ogbench`: data, policies, and one cell (algorithm, task, training seed) at a time.

Every piece lies in a folder named by what it was made of, so an interrupted run goes on and nothing stale is reused.
Functions here are what worker processes run.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from ogbench_protocol import Algorithm, Data, Protocol, key

from robot_value.collect import collect
from robot_value.evaluate import Arm, Comparison, compare
from robot_value.fit import Job, Windowing, fit
from robot_value.recipe import choose
from robot_value.results import plain, write_atomic
from robot_value.scenarios import Part
from robot_value.sim.ogbench_relabel import Relabelled, relabel
from robot_value.training import TrainConfig, load_model

BATCH = 25  # robots that one process simulates at once


@dataclass(frozen=True)
class Bench:
    """One family, one protocol, one output folder."""

    data: Data
    protocol: Protocol
    out: Path

    @property
    def root(self) -> Path:
        return self.out / f"{self.data.family}-{self.data.play}-{key(self.data)}"

    @property
    def play(self) -> Path:
        return self.root / "play"

    def task(self, number: int) -> str:
        return f"{self.data.family}-task{number}"

    def episodes(self, number: int) -> Path:
        """Store of the task's own episodes."""
        return self.root / f"task{number}-{self.protocol.reward}"

    def policy(self, seed: int) -> Path:
        p = self.protocol
        return self.root / f"policy-{seed}-{key(p.horizon, p.policy_steps, p.batch_size)}"


@dataclass(frozen=True)
class Cell:
    bench: Bench
    algorithm: Algorithm
    number: int  # of the task, 1 to 5
    seed: int  # of training

    @cached_property
    def folder(self) -> Path:
        name = f"{self.algorithm.name}-{key(self.bench.protocol, self.algorithm)}"
        return self.bench.root / f"seed{self.seed}" / f"task{self.number}" / name

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def read(self) -> dict[str, Any] | None:
        return json.loads(self.result.read_text(encoding="utf-8")) if self.result.exists() else None


def make_play(bench: Bench, workers: int) -> dict[str, Any]:
    """Collect what is missing of the play data."""
    data, started = bench.data, time.monotonic()
    done = collect(data.robot(), bench.play, data.episodes, data.first_seed, workers, batch_size=min(10, data.episodes))
    if done.interrupted:
        raise KeyboardInterrupt
    return {"episodes": data.episodes, "steps": data.episodes * data.steps, "seconds": time.monotonic() - started}


def make_task(bench: Bench, number: int) -> Relabelled:
    return relabel(bench.play, bench.task(number), bench.episodes(number), bench.protocol.reward, progress=False)


def make_policy(bench: Bench, seed: int) -> Path:
    """The plain policy of one training seed; it knows no task."""
    config, steps = Part("flow", {"seed": seed}).config("policies"), bench.protocol.policy_steps
    return fit(_job(bench, bench.play, config, bench.policy(seed), seed, steps))


def run_cell(cell: Cell, deadline: float = float("inf"), retry: bool = False) -> bool:
    """Train, choose N, test, write the result; False where the time was up (`deadline`, time.time()) before it began.

    What goes wrong is the cell's result as well: a failed algorithm stays in the table.
    """
    found = cell.read()
    if found and not (retry and found["status"] == "failed"):
        return True
    if time.time() > deadline:
        return False
    started, busy = time.monotonic(), time.process_time()
    try:
        result = {"status": "done", **_measure(cell)}
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, {last.name}"
        result = {"status": "failed", "error": f"{type(error).__name__}: {error}", "where": where}
    about = {"algorithm": cell.algorithm.name, "task": cell.number, "seed": cell.seed}
    spent = {"wall_seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - busy}
    result = {**about, **result, "config": asdict(cell.algorithm), **spent}
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(cell.result, json.dumps(plain(result), indent=1) + "\n")
    return True


def _measure(cell: Cell) -> dict[str, Any]:
    marks = [time.monotonic()]
    policy, critics = _models(cell)
    marks.append(time.monotonic())
    arm, validation = _choose(cell, policy, critics)
    marks.append(time.monotonic())
    found = _play(cell, policy, critics, [arm], cell.bench.protocol.test).result(arm.name)
    marks.append(time.monotonic())
    seconds = dict(
        zip(("training", "validation", "test"), (end - begin for begin, end in pairwise(marks)), strict=True)
    )
    return {
        "candidates": arm.n,
        "validation": validation,
        "success": found.success[0].astype(int).tolist(),
        "unstable": found.unstable[0].astype(int).tolist(),
        "mean_steps": float(found.steps.mean()),
        "abstained": found.abstained,
        "seconds": seconds,
    }


def _models(cell: Cell) -> tuple[Any, dict[str, Any]]:
    """The policy that proposes, and the critic by name: none for a control."""
    bench, algorithm, base = cell.bench, cell.algorithm, cell.bench.policy(cell.seed)
    if algorithm.critic is None:
        return load_model(base), {}
    config = algorithm.critic_config(bench.protocol, cell.seed)
    steps, run = algorithm.steps or bench.protocol.critic_steps, cell.folder / "models"
    job = _job(bench, bench.episodes(cell.number), config, run, cell.seed, steps)
    trained = fit(replace(job, base=str(base), policy=algorithm.policy_config(cell.seed)))
    if algorithm.policy is None:
        return load_model(base), {"main": load_model(trained)}
    return load_model(run / "policy"), {"main": load_model(run / "critic")}


def _choose(cell: Cell, policy: Any, critics: Mapping[str, Any]) -> tuple[Arm, dict[str, float]]:
    """The N with most successes on validation seeds, the smaller one in a tie; one candidate needs no choice."""
    algorithm, protocol = cell.algorithm, cell.bench.protocol
    if algorithm.selector == "first":
        return Arm(algorithm.name), {}
    critic = "main" if critics else None
    arms = [Arm(str(n), algorithm.selector, n=n, critic=critic) for n in protocol.candidates]
    found = _play(cell, policy, critics, arms, protocol.validation)
    recipe = choose(found, [arm.name for arm in arms])
    recipe.check(protocol.test)
    return recipe.arm, {arm.name: float(found.success(arm.name).mean()) for arm in arms}


def _play(cell: Cell, policy: Any, critics: Mapping[str, Any], arms: Sequence[Arm], seeds: Sequence[int]) -> Comparison:
    protocol = cell.bench.protocol
    values = {"task": cell.bench.task(cell.number), "reward": protocol.reward, "max_steps": protocol.max_steps}
    robot = Part("ogbench", values).config("robots").build(min(BATCH, len(seeds)), 0, policy.spec.n_obs_steps)
    execute = None if critics else cell.algorithm.execute or policy.spec.horizon
    with robot:
        return compare(
            *(robot, policy, critics, arms, seeds),
            execute=execute,
            seed=protocol.noise_seed,
            training_seed=cell.seed,
            gamma=protocol.gamma,
            progress=False,
        )


def _job(bench: Bench, data: Path, config: Any, folder: Path, seed: int, steps: int) -> Job:
    protocol = bench.protocol
    training = TrainConfig(
        folder=str(folder),
        steps=steps,
        batch_size=protocol.batch_size,
        seed=seed,
        threads=1,
        device="cpu",
        matmul="default",  # the same products on every machine of a kind
        validation_fraction=0.0,  # all data are trained on, as published
        progress=False,
        tensorboard=False,
    )
    return Job(str(data), config, training, Windowing(horizon=protocol.horizon))
