"""The rollouts behind `bench_steering`: one cell is a task, a policy and a training seed, played in one process.

A cell has parts (`PARTS`), each written when it is done: an interrupted run goes
on, and a part that a time budget left out is missing in the page instead of being invented.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from steering_study_models import Made
from steering_study_protocol import CRITICS, Protocol, key

from robot_value import headroom as oracle
from robot_value.arms import every
from robot_value.calibrate import listen
from robot_value.evaluate import Arm, ArmResult, compare, executed_steps
from robot_value.results import plain, write_atomic
from robot_value.steering.abstention import choose, thresholds
from robot_value.study import latency
from robot_value.training import load_model, load_policy


@dataclass(frozen=True, eq=False)  # by identity, so that what it has loaded can be kept
class Cell:
    made: Made
    policy: str

    @property
    def folder(self) -> Path:
        return self.made.root / f"{self.policy}-{key(self.made.protocol, self.made.task.test)}"

    def read(self, part: str) -> dict[str, Any] | None:
        path = self.folder / f"{part}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def run_part(cell: Cell, part: str, deadline: float = float("inf")) -> bool:
    """False where the time was up (`deadline`, time.time()) before it began."""
    if cell.read(part) is None:
        if time.time() > deadline:
            return False
        started = time.monotonic()
        found = PARTS[part](cell)
        cell.folder.mkdir(parents=True, exist_ok=True)
        found = {**found, "seconds": time.monotonic() - started}
        write_atomic(cell.folder / f"{part}.json", json.dumps(plain(found), indent=1) + "\n")
    return True


def recipe(cell: Cell, name: str = "recipe", critic: str = "main", n: int | None = None) -> Arm:
    """The one recommended default, the same for every task."""
    p = cell.made.protocol
    return Arm(name, p.selector, {"temperature": p.temperature}, n or p.n, critic=critic, exact=True)


def gates(cell: Cell) -> dict[str, Any]:
    """Per critic: in shadow, then at every threshold, on validation seeds; the rule of steering/abstention.py."""
    p, seeds = cell.made.protocol, cell.made.protocol.validation
    policy, critics = models(cell)
    tried = {}
    for critic in CRITICS:
        arm = recipe(cell, critic=critic)
        steerer = arm.steerer(policy, critics, executed_steps(None, policy, critics), p.noise_seed)
        shadow = listen(robot(cell), steerer, seeds[: p.shadow_episodes])
        found = thresholds(shadow.confidences, p.quantiles)
        tried[critic] = {t: replace(gated(arm, t), name=f"{critic} {t}") for t in found}
    played = play(cell, [Arm("base"), *(arm for arms in tried.values() for arm in arms.values())], seeds)
    kept = ~np.any([result.unstable[0] for result in played.values()], 0)
    success = {name: result.success[0, kept] for name, result in played.items()}
    return {"critics": {critic: _chosen(p, arms, success) for critic, arms in tried.items()}}


def _chosen(p: Protocol, arms: Mapping[float, Arm], success: Mapping[str, np.ndarray]) -> dict[str, Any]:
    choice = choose(success["base"], {t: success[arm.name] for t, arm in arms.items()}, p.alpha, p.margin)
    return {
        "threshold": str(choice.threshold),  # "inf" is never, "-inf" always
        "base": float(success["base"].mean()),
        "trials": [{**asdict(t), "threshold": str(t.threshold), "gain": t.gain} for t in choice.trials],
    }


def gated(arm: Arm, threshold: float) -> Arm:
    return replace(arm, gate="calibrated", gate_options={"threshold": threshold})


def test(cell: Cell) -> dict[str, Any]:
    """base; with every critic the recipe behind its calibrated gate, and without it where the gate ever acts."""
    chosen = cell.read("gates")["critics"]
    limits = {critic: float(chosen[critic]["threshold"]) for critic in CRITICS}
    arms = [Arm("base"), *(recipe(cell, f"recipe_{c}", c) for c in CRITICS if limits[c] < float("inf"))]
    arms += [gated(recipe(cell, f"gated_{critic}", critic), limits[critic]) for critic in CRITICS]
    played = play(cell, arms, cell.made.protocol.test)
    return {"arms": rows(played), "never_is_base": verified(cell, arms, played["base"])}


def ungated(cell: Cell) -> dict[str, Any]:
    """The recipe with every critic that its gate never lets act: what the gate spared, or withheld."""
    chosen = cell.read("gates")["critics"]
    never = [critic for critic in CRITICS if float(chosen[critic]["threshold"]) == float("inf")]
    arms = [recipe(cell, f"recipe_{critic}", critic) for critic in never]
    return {"arms": rows(play(cell, arms, cell.made.protocol.test)) if arms else {}}


def verified(cell: Cell, arms: Sequence[Arm], base: ArmResult) -> bool:
    """Gates that never act, really played on a few seeds, give the plain policy's episodes."""
    p = cell.made.protocol
    never = [arm for arm in arms if plainly(arm).n != arm.n]
    seeds = p.test[: p.verify_episodes]
    found = [play(cell, [replace(arm, name="never")], seeds, as_they_are=True)["never"] for arm in never]
    first = slice(len(seeds))
    same = [(f.steps == base.steps[:, first]).all() and (f.reward == base.reward[:, first]).all() for f in found]
    return bool(all(same))


def table(cell: Cell) -> dict[str, Any]:
    """Every selector, guide, proposer and gate, each with its defaults, N and temperature as the recipe's."""
    p = cell.made.protocol
    arms = [replace(arm, exact=arm.n > 1) for arm in every(p.n, p.temperature, ("main", "shuffled"))]
    return {"arms": rows(play(cell, arms, p.table))}


def counts(cell: Cell) -> dict[str, Any]:
    """Success by N: the recipe, and argmax."""
    p = cell.made.protocol
    ways = [recipe(cell, "recipe"), Arm("argmax", "argmax", critic="main")]
    arms = [replace(way, name=f"{way.name}_{n}", n=n, exact=False) for way in ways for n in p.counts]
    return {"arms": rows(play(cell, arms, p.validation[: p.count_episodes]))}


def headroom(cell: Cell) -> dict[str, Any]:
    """What the best of the same N would have gained at single decisions, and how much of it the recipe found."""
    p = cell.made.protocol
    policy, critics = models(cell)
    config = oracle.Config(
        p.headroom_episodes, p.headroom_points, p.headroom_rollouts, p.headroom_seconds, progress=False
    )
    arm = recipe(cell)
    found = oracle.measure(robot(cell), policy, critics, arm, p.test, seed=p.noise_seed, config=config)
    return {"trials": {name: [asdict(t) for t in tried] for name, tried in found.tried.items()}} | {
        "alone": [own.astype(int).tolist() for own in found.alone],
        "seeds": list(found.seeds),
    }


def latencies(cell: Cell) -> dict[str, Any]:
    """Median ms per stage of one robot's decision, per arm."""
    p = cell.made.protocol
    policy, critics = models(cell)
    execute = executed_steps(None, policy, critics)
    observation = robot(cell).reset([""] * p.batch, [p.test_seed] * p.batch).rows([0])
    arms = [Arm("base"), recipe(cell), *every(p.n, p.temperature, ("main", "shuffled"))]
    steerers = {arm.name: replace(arm, exact=False).steerer(policy, critics, execute, p.noise_seed) for arm in arms}
    return {"ms": {name: latency(steerer, observation) for name, steerer in steerers.items()}}


PARTS: Mapping[str, Callable[[Cell], dict[str, Any]]] = {
    "gates": gates,
    "test": test,
    "table": table,
    "counts": counts,
    "headroom": headroom,
    "ungated": ungated,
    "latency": latencies,
}


def play(cell: Cell, arms: Sequence[Arm], seeds: Sequence[int], as_they_are: bool = False) -> dict[str, ArmResult]:
    """Arms that are the same computation are played once, unless they are wanted as they are."""
    policy, critics = models(cell)
    plain_arms = arms if as_they_are else map(plainly, arms)
    same = {arm.name: json.dumps(asdict(replace(arm, name="")), sort_keys=True) for arm in plain_arms}
    once = {same[arm.name]: arm for arm in reversed(arms)}  # the first of its kind stands for it
    p, task = cell.made.protocol, cell.made.task
    found = compare(
        *(robot(cell), policy, critics, list(once.values()), seeds),
        seed=p.noise_seed,
        training_seed=cell.made.seed,
        gamma=task.critic.get("gamma", 0.98),
        progress=False,
    )
    return {arm.name: replace(found.result(once[same[arm.name]].name), arm=arm) for arm in arms}


def plainly(arm: Arm) -> Arm:
    """A gate that always acts is no gate; behind one that never acts an exact arm is the plain policy."""
    limit = arm.gate_options.get("threshold") if arm.gate == "calibrated" else None
    if limit == float("-inf"):
        return replace(arm, gate="always", gate_options={})
    return Arm(arm.name) if limit == float("inf") and arm.exact else arm


def rows(results: Mapping[str, ArmResult]) -> dict[str, Any]:
    return {
        name: {
            "success": result.success[0].astype(int).tolist(),
            "unstable": result.unstable[0].astype(int).tolist(),
            "mean_steps": float(result.steps.mean()),
            "abstained": result.abstained if plainly(result.arm).n == result.arm.n else 1.0,
            "arm": asdict(result.arm),
        }
        for name, result in results.items()
    }


@lru_cache(maxsize=1)
def models(cell: Cell) -> tuple[Any, dict[str, Any]]:
    made = cell.made
    return load_policy(made.model(cell.policy)), {name: load_model(made.model(name)) for name in CRITICS}


@lru_cache(maxsize=1)
def robot(cell: Cell) -> Any:
    policy, _ = models(cell)
    config = cell.made.task.robot_config(cell.made.task.test)
    return config.build(batch_size=cell.made.protocol.batch, workers=0, n_obs_steps=policy.spec.n_obs_steps)
