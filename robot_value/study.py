"""A study: choose a recipe on validation seeds, fix it, test every arm on other seeds, measure headroom, report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import headroom as oracle
from .arms import MAIN, best, by_selector, candidates, test_arms
from .evaluate import Arm, Comparison, compare, pool
from .protocols import Robot
from .provenance import provenance
from .recipe import Recipe, choose, refuse_overlap
from .report import Extras, read_curves, write_report
from .results import to_results
from .training import load_model
from .video import Keeper, pairs

WARM_UP = 3  # decisions that are not timed


@dataclass(frozen=True)
class Models:
    """What one training seed brings to a study."""

    training_seed: int
    policy: Path
    critics: Mapping[str, Path]  # "main", and the controls "shuffled" and "success_only" where they were trained


@dataclass(frozen=True)
class Plan:
    """What is compared, on which seeds, how long."""

    candidates: tuple[int, ...] = (4, 16)  # N that validation chooses among
    temperatures: tuple[float, ...] = (0.5,)  # of softmax_average, that validation chooses among
    validation_episodes: int = 50  # seeds that the recipe is chosen on
    validation_seed: int = 1000  # the first of them
    test_episodes: int = 200  # seeds that every arm is judged on
    test_seed: int = 2000  # the first of them
    headroom_episodes: int = 10  # test seeds at whose decisions every candidate is tried; 0 leaves headroom out
    headroom_points: tuple[int, ...] = (0, 2)  # decisions of an episode at which every candidate is tried
    headroom_rollouts: int = 4  # continuations per candidate
    headroom_seconds: float | None = None  # s; headroom stops after the last whole episode that fits
    videos: int = 3  # pairs of episodes on the page: the first test seeds, whatever they show
    seed: int = 0  # key of the candidates' noise

    def __post_init__(self) -> None:
        refuse_overlap(self.validation, self.test)

    @property
    def validation(self) -> range:
        return range(self.validation_seed, self.validation_seed + self.validation_episodes)

    @property
    def test(self) -> range:
        return range(self.test_seed, self.test_seed + self.test_episodes)


@dataclass(frozen=True)
class Trained:
    """Models of one training seed, loaded."""

    training_seed: int
    policy: Any
    critics: Mapping[str, Any]


def study(
    robot: Robot,
    models: Sequence[Models],
    plan: Plan,
    folder: Path,
    task: str,
    extras: Extras,
    camera: Any = None,  # a simulator with a camera, for videos
    started: float | None = None,  # time.monotonic() when the command began
) -> Path:
    """Run the whole study; returns the page. results.json lies beside it."""
    started = time.monotonic() if started is None else started
    trained = [load(each) for each in models]
    validation = _validate(robot, trained, plan)
    recipe = choose(validation, [name for name in validation.arms if name != "base"])
    argmax, average = best(validation, "argmax"), best(validation, "softmax_average")
    print(f"recipe: {recipe.arm.name}, {recipe.validation_success:.0%} on validation seeds; fixed before the test")
    arms = test_arms(argmax, average, recipe.arm, list(trained[0].critics))
    recipe = replace(recipe, arm=by_selector(recipe.arm))
    keepers = {name: Keeper(tuple(plan.test[: plan.videos])) for name in ("base", recipe.arm.name)}
    test = _test(robot, trained, arms, plan, keepers)
    rows = _headroom(robot, trained[0], recipe, plan)
    speed = {arm.name: latency(robot, trained[0], arm, plan.seed) for arm in arms if arm.name in keepers}
    results = to_results(
        test,
        recipe,
        task=task,
        policy=_names([each.policy for each in trained]),
        critic=_names([each.critics[MAIN] for each in trained]),
        provenance=provenance(started),
        differences=_differences(test, recipe),
        validation=validation,
        headroom=rows.get("steered"),
        headroom_rows=list(rows.values()),
        latency_ms=speed[recipe.arm.name],
    ) | {"latency_by_arm": speed}
    clips = pairs(camera, *keepers.values(), labels=("plain policy", "steered")) if camera is not None else ()
    return write_report(folder, results, replace(extras, videos=clips, curves=_curves(models[0])))


def load(models: Models) -> Trained:
    critics = {name: load_model(path) for name, path in models.critics.items()}
    return Trained(models.training_seed, load_model(models.policy), critics)


def latency(robot: Robot, trained: Trained, arm: Arm, seed: int, decisions: int = 30) -> dict[str, float]:
    """Median ms per stage of one robot's decision: batch of one, whatever the study's batch was."""
    steerer = arm.steerer(trained.policy, trained.critics, None, seed)
    observation = robot.reset([""] * robot.batch_size, list(range(robot.batch_size))).rows([0])
    seconds = [steerer(observation).seconds for _ in range(decisions + WARM_UP)][WARM_UP:]
    return {stage: float(np.median([each[stage] for each in seconds]) * 1e3) for stage in seconds[0]}


def _validate(robot: Robot, trained: Sequence[Trained], plan: Plan) -> Comparison:
    arms = [Arm("base"), *candidates(plan.candidates, plan.temperatures)]
    return pool([_compare(robot, each, arms, plan.validation, plan.seed) for each in trained])


def _test(
    robot: Robot, trained: Sequence[Trained], arms: Sequence[Arm], plan: Plan, keepers: Mapping[str, Keeper]
) -> Comparison:
    """Every training seed on the same environment seeds; the first one's episodes are kept for videos."""
    first = _compare(robot, trained[0], arms, plan.test, plan.seed, keepers)
    return pool([first, *(_compare(robot, each, arms, plan.test, plan.seed) for each in trained[1:])])


def _compare(
    robot: Robot,
    trained: Trained,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    seed: int,
    keepers: Mapping[str, Keeper] | None = None,
) -> Comparison:
    return compare(
        robot,
        trained.policy,
        trained.critics,
        arms,
        seeds,
        seed=seed,
        training_seed=trained.training_seed,
        gamma=getattr(trained.critics[MAIN], "gamma", 0.99),
        watchers=lambda arm: (keepers[arm.name],) if keepers and arm.name in keepers else (),
    )


def _headroom(robot: Any, trained: Trained, recipe: Recipe, plan: Plan) -> dict[str, dict[str, Any]]:
    if not plan.headroom_episodes:
        return {}
    config = oracle.Config(
        n_episodes=plan.headroom_episodes,
        points=plan.headroom_points,
        rollouts=plan.headroom_rollouts,
        budget=plan.headroom_seconds,
    )
    return oracle.headroom(
        robot, trained.policy, trained.critics, recipe.arm, list(plan.test), seed=plan.seed, config=config
    )


def _differences(test: Comparison, recipe: Recipe) -> list[tuple[str, str]]:
    """Every arm against the plain policy; the critic's selectors against the critic-free controls as well."""
    against_base = [(name, "base") for name in test.arms if name != "base"]
    critics = dict.fromkeys((recipe.arm.name, "argmax", "softmax_average"))
    controls = [name for name in ("random", "medoid", "mean", "shuffled_critic") if name in test.arms]
    return against_base + [(name, control) for name in critics for control in controls]


def _curves(models: Models) -> dict[str, Any]:
    """Learning curves of the first training seed, where they lie in the checkpoint's folder or the run's."""
    found = {}
    for name, path in (("policy", models.policy), ("critic", models.critics[MAIN])):
        found |= {name: folder for folder in (path, path.parent) if (folder / "curves.json").is_file()}
    return read_curves(found)


def _names(models: Sequence[Any]) -> str:
    """Component and checkpoint hash of every training seed: "flow 1f2e3d4c5b6a, flow 0a1b2c3d4e5f"."""
    return ", ".join(model.version for model in models)
