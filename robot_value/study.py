"""A study: choose a recipe on validation seeds, fix it, test every arm on other seeds, measure headroom, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import headroom as oracle
from .arms import MAIN, asked_for, best, by_selector, candidates, test_arms
from .evaluate import Arm, Comparison, executed_steps
from .playing import Models, Site, Trained, load, measure_all, play_all
from .provenance import provenance
from .recipe import Recipe, choose, refuse_overlap
from .replay.timelines import write_timelines
from .report import Extras, read_curves, write_report
from .results import to_results
from .steering.steerer import Steerer
from .types import Observation
from .video import pairs
from .workers import team

WARM_UP = 3  # decisions that are not timed


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
    timelines: int = 20  # first test seeds whose decisions get a page, of base and of the recipe; 0: no such page
    seed: int = 0  # key of the candidates' noise
    selectors: tuple[str, ...] = ()  # arms to test beside the recipe and its controls; "all" is every one in arms.py

    def __post_init__(self) -> None:
        refuse_overlap(self.validation, self.test)
        asked_for(self.selectors, 1, 1.0, ())  # a wrong name fails now, not after an hour

    @property
    def validation(self) -> range:
        return range(self.validation_seed, self.validation_seed + self.validation_episodes)

    @property
    def test(self) -> range:
        return range(self.test_seed, self.test_seed + self.test_episodes)


def study(
    site: Site,
    models: Sequence[Models],
    plan: Plan,
    folder: Path,
    task: str,
    extras: Extras,
    camera: Any = None,  # a simulator with a camera, for videos
    started: float | None = None,  # time.monotonic() when the command began
    more: Sequence[Arm] = (),  # arms to test beside all others
    display: Any = None,  # Config of a displays component: shows the test of the first of `more`, else of the recipe
) -> Path:
    """Run the whole study; returns the page. results.json lies beside it."""
    started = time.monotonic() if started is None else started
    if display is not None:
        display.check()
    trained = [load(each) for each in models]
    for each in trained:
        execute = executed_steps(None, each.policy, each.critics)
        for arm in more:
            arm.steerer(each.policy, each.critics, execute, plan.seed)  # a wrong arm fails before any has run
    with team(site.backend, max(1, site.workers)) as processes:
        recipe, arms, validation = _choose(processes, site, models, plan, list(models[0].critics))
        arms += more
        keep = plan.test[: max(plan.videos, plan.timelines)]
        shown = None if display is None else ((more[0] if more else recipe.arm).name, display)
        test, kept = play_all(processes, site, models, arms, plan.test, plan.seed, keep, "test arms", shown)
        rows = _headroom(processes, site, models[0], recipe, plan)
    speed = _latencies(site, trained[0], [arm for arm in arms if arm.name in ("base", recipe.arm.name)], plan)
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
    filmed = {seed: episode for seed, episode in kept["base"].items() if seed in plan.test[: plan.videos]}
    clips = () if camera is None else pairs(camera, filmed, kept[recipe.arm.name], ("plain policy", "steered"))
    address = "episodes/report.html" if plan.timelines else ""
    extras = replace(extras, videos=clips, curves=_curves(models[0]), timelines=address)
    page = write_report(folder, results, extras)
    if plan.timelines:
        played = {name: kept[name] for name in ("base", recipe.arm.name)}
        write_timelines(folder / "episodes", played, extras.title, test.gamma)
    return page


def _latencies(site: Site, trained: Trained, arms: Sequence[Arm], plan: Plan) -> dict[str, dict[str, float]]:
    """Arm -> median ms per stage of one robot's decision: a batch of one, whatever the study's batch was."""
    robot = replace(site, batch_size=1).build(0, trained.policy.spec.n_obs_steps)
    try:
        observation = robot.reset([""], [plan.test_seed])
    finally:
        robot.close()
    return {
        arm.name: latency(arm.steerer(trained.policy, trained.critics, None, plan.seed), observation) for arm in arms
    }


def latency(steerer: Steerer, observation: Observation, decisions: int = 30) -> dict[str, float]:
    """Median ms per stage."""
    seconds = [steerer(observation).seconds for _ in range(decisions + WARM_UP)][WARM_UP:]
    return {stage: float(np.median([each[stage] for each in seconds]) * 1e3) for stage in seconds[0]}


def _choose(
    processes: Executor, site: Site, models: Sequence[Models], plan: Plan, critics: Sequence[str]
) -> tuple[Recipe, list[Arm], Comparison]:
    """The recipe that won on validation seeds, and with it the arms of the test."""
    arms = [Arm("base"), *candidates(plan.candidates, plan.temperatures)]
    validation, _ = play_all(processes, site, models, arms, plan.validation, plan.seed, what="validation arms")
    recipe = choose(validation, [arm.name for arm in arms if arm.name != "base"])
    print(f"recipe: {recipe.arm.name}, {recipe.validation_success:.0%} on validation seeds; fixed before the test")
    average = best(validation, "softmax_average")
    tested = test_arms(best(validation, "argmax"), average, recipe.arm, critics)
    more = asked_for(plan.selectors, recipe.arm.n, average.options["temperature"], critics)
    tested += [arm for arm in more if arm.name not in {each.name for each in tested}]
    return replace(recipe, arm=by_selector(recipe.arm)), tested, validation


def _headroom(processes: Executor, site: Site, models: Models, recipe: Recipe, plan: Plan) -> dict[str, dict[str, Any]]:
    """Of the first training seed, on its first test seeds."""
    if not plan.headroom_episodes:
        return {}
    config = oracle.Config(
        n_episodes=plan.headroom_episodes,
        points=plan.headroom_points,
        rollouts=plan.headroom_rollouts,
        budget=plan.headroom_seconds,
    )
    return measure_all(processes, site, models, recipe.arm, plan.test, plan.seed, config)


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
        run = path if (path / "curves.json").is_file() else path.parent
        if (run / "curves.json").is_file():
            found[name] = run
    return read_curves(found)


def _names(models: Sequence[Any]) -> str:
    """Component and checkpoint hash of every training seed: "flow 1f2e3d4c5b6a, flow 0a1b2c3d4e5f"."""
    return ", ".join(model.version for model in models)
