"""The policies of `bench_ope`, their rolled-out truth and what logs say about them: a cell per policy, one process.

Quality varies by training length, by what was cloned, and by steering: with a good critic, a shuffled one, against it,
and with none. The logs are the scripted expert's, on seeds that no policy and no critic was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from steering_study_models import Made, jobs
from steering_study_protocol import key

from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm, compare, executed_steps
from robot_value.fit import Job
from robot_value.ope import estimate, fqe
from robot_value.ope.chunks import Target
from robot_value.replay.replayed import Replayed
from robot_value.results import plain, write_atomic
from robot_value.training import load_model, load_policy

CLONES = (300, 1000, 2500)  # gradient steps of policies beside the study's weak (6000) and tuned ones


@dataclass(frozen=True)
class Protocol:
    logs: int = 3  # disjoint ones
    log_episodes: int = 200  # in each
    log_seed: int = 300_000  # first environment seed of the logs
    truth_episodes: int = 120
    truth_seed: int = 20_000
    limit: int = 64  # control steps, the task's time limit
    every: int = 4  # control steps between the decisions that are valued
    n: int = 8  # N of steered policies
    noise_seed: int = 0
    batch: int = 40  # robots that one process simulates at once
    fqe: fqe.Config = fqe.Config(members=8, steps=1000)


def policies(n: int) -> dict[str, tuple[str, Arm]]:
    """Name -> the model and how it decides."""
    average = Arm("average", "softmax_average", {"temperature": 0.5}, n, critic="main")
    ways = {
        "average": average,
        "shuffled": replace(average, critic="shuffled"),
        "argmin": Arm("argmin", "argmin", n=n, critic="main"),
        "mean": Arm("mean", "mean", n=n),
    }
    found = {model: (model, Arm("base")) for model in (*(f"clone_{steps}" for steps in CLONES), "weak", "tuned")}
    found |= {f"{model} {way}": (model, arm) for model in ("weak", "tuned") for way, arm in ways.items()}
    return found | {"weak argmax": ("weak", Arm("argmax", "argmax", n=n, critic="main"))}


def training_jobs(made: Made) -> dict[str, Job]:
    study = jobs(made)
    found = {name: study[name] for name in ("weak", "tuned", "main", "shuffled")}
    for steps in CLONES:
        training = replace(
            *(study["weak"].training,),
            folder=str(made.model(f"clone_{steps}")),
            steps=max(20, round(steps * made.protocol.scale)),
        )
        found[f"clone_{steps}"] = replace(study["weak"], training=training)
    return found


@dataclass(frozen=True)
class Cell:
    made: Made
    protocol: Protocol
    log: Path  # the store of all logs' episodes
    out: Path
    name: str  # of the policy

    @property
    def path(self) -> Path:
        return (
            self.out / f"{self.name.replace(' ', '_')}-{key(self.protocol, self.made.task, str(self.made.root))}.json"
        )


def run(cell: Cell) -> dict[str, Any]:
    """What was found, now or earlier."""
    if not cell.path.exists():
        policy, critics, arm = _models(cell)
        found = {"name": cell.name, "truth": truth(cell, policy, critics, arm)}
        found |= {"estimates": estimates(cell, policy, critics, arm)}
        write_atomic(cell.path, json.dumps(plain(found), indent=1) + "\n")
    return json.loads(cell.path.read_text(encoding="utf-8"))


def truth(cell: Cell, policy: Any, critics: Mapping[str, Any], arm: Arm) -> dict[str, Any]:
    """Successes where the simulator stayed stable."""
    p = cell.protocol
    robot = cell.made.task.robot_config(cell.made.task.test).build(
        batch_size=p.batch, workers=0, n_obs_steps=policy.spec.n_obs_steps
    )
    seeds = range(p.truth_seed, p.truth_seed + p.truth_episodes)
    try:
        played = compare(robot, policy, critics, [arm], seeds, seed=p.noise_seed, progress=False)
    finally:
        robot.close()
    success = played.success(arm.name)
    return {"successes": int(success.sum()), "n": int(success.size)}


def estimates(cell: Cell, policy: Any, critics: Mapping[str, Any], arm: Arm) -> list[dict[str, Any]]:
    """One per log."""
    p = cell.protocol
    steerer = arm.steerer(policy, critics, executed_steps(None, policy, critics), p.noise_seed)
    with EpisodeStore.open(cell.log) as store:
        names = store.names()[: p.logs * p.log_episodes]
        replayed = estimate.watch(store, steerer, p.every, names, p.batch)
    split = np.array_split(np.arange(len(names)), p.logs)
    target = Target(limit=p.limit)
    return [
        estimate.evaluate(only(replayed, log), target, replace(p.fqe, seed=i)).to_json()
        | {"log_success": float(np.nanmean(replayed.success[log]))}
        for i, log in enumerate(split)
    ]


def only(replayed: Replayed, episodes: Sequence[int] | np.ndarray) -> Replayed:
    """The replay of these episodes, without critics' opinions."""
    rows = np.concatenate([np.arange(len(replayed))[replayed.rows(e)] for e in episodes])
    columns = ("step", "logged", "length", "candidates", "chosen", "index", "reason")
    return replace(
        replayed,
        episodes=tuple(replayed.episodes[e] for e in episodes),
        episode=np.searchsorted(episodes, replayed.episode[rows]),
        opinions={},
        columns={name: column[rows] for name, column in replayed.columns.items()},
        **{name: getattr(replayed, name)[rows] for name in columns},
    )


def _models(cell: Cell) -> tuple[Any, dict[str, Any], Arm]:
    model, arm = policies(cell.protocol.n)[cell.name]
    critics = {} if arm.critic is None else {arm.critic: load_model(cell.made.model(arm.critic))}
    return load_policy(cell.made.model(model)), critics, arm


def described(n: int) -> dict[str, Any]:
    return {name: {"model": model, **asdict(arm)} for name, (model, arm) in policies(n).items()}
