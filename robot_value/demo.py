"""The main job: mixed-quality episodes -> flow policy and chunked critic -> what steering gains on unseen seeds.

Every stage resumes: collected seeds, trained steps and finished models are not done again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .arms import MAIN, SHUFFLED, SUCCESS_ONLY
from .collect import collect
from .fit import Job, Windowing, fit
from .playing import Models, Site
from .report import Extras
from .scenarios import Scenario
from .study import Plan, study
from .training import TrainConfig
from .workers import process_pool, run_all

POLICY, CRITICS = "policy", (MAIN, SHUFFLED, SUCCESS_ONLY)
SEEDS = 10_000  # environment seeds of training seed s: from SEEDS * (s + 1), far from validation and test seeds


@dataclass(frozen=True)
class Setup:
    """How large the demonstration is. The defaults are what its published figures were made with."""

    training_seeds: int = 3  # each with its own data, policy and critics
    workers: int = 2  # processes, for simulation and for training (one model and one thread each)
    batch_size: int = 50  # robots simulated at once
    scale: float = 1.0  # multiplies episodes and training steps; below 1 for a quick look, the figures then mean less


def run(scenario: Scenario, setup: Setup, plan: Plan, out: Path) -> Path:
    """Collect, train, choose, test; returns the page."""
    started = time.monotonic()
    seeds = range(setup.training_seeds)
    for seed in seeds:
        _collect(scenario, setup, seed, out)
    jobs = {(seed, name): job for seed in seeds for name, job in _jobs(scenario, setup, seed, out).items()}
    trained = train_all(jobs, setup.workers)
    print(f"collected and trained after {time.monotonic() - started:.0f} s")
    models = [
        Models(s, trained[s, POLICY], {name: trained[s, name] for name in (MAIN, SHUFFLED, SUCCESS_ONLY)})
        for s in seeds
    ]
    test = scenario.robot_config(scenario.test)
    camera = scenario.robot_config({**scenario.test, **scenario.camera}).simulator() if plan.videos else None
    extras = Extras(
        title=f"robot_value demo: {scenario.title}", data=scenario.made, commands=commands(scenario, setup, out)
    )
    site = Site(test, setup.batch_size, setup.workers)
    try:
        return study(site, models, plan, out, _task(scenario.robot.name, test), extras, camera, started)
    finally:
        if camera is not None:
            camera.close()


def train_all(jobs: Mapping[Any, Job], workers: int) -> dict[Any, Path]:
    """Every job's checkpoint by key. `workers` processes train one model each at a time."""
    with process_pool(workers) as pool:
        return run_all(pool, {key: (fit, (job,)) for key, job in jobs.items()}, "models trained")


def commands(scenario: Scenario, setup: Setup, out: Path) -> list[str]:
    """The same steps for training seed 0, one command at a time."""
    data, horizon = _data(out, 0), f"--windowing.horizon={scenario.horizon}"
    policy_steps, critic_steps = (_steps(n, setup) for n in (scenario.policy_steps, scenario.critic_steps))
    collecting = " ".join(scenario.robot.flags("robot"))
    return [
        f"robot-value collect {collecting} --episodes={_episodes(scenario, setup)} --seed={SEEDS} --out={data}",
        f"robot-value train --data={data} {' '.join(scenario.policy.flags('policy'))} "
        f"{horizon} --training.steps={policy_steps} --training.folder={out}/seed_0/{POLICY}",
        f"robot-value train --data={data} {' '.join(scenario.critic.flags('critic'))} "
        f"{horizon} --training.steps={critic_steps} --training.folder={out}/seed_0/{MAIN}",
    ]


def _collect(scenario: Scenario, setup: Setup, seed: int, out: Path) -> None:
    episodes, first = _episodes(scenario, setup), SEEDS * (seed + 1)
    done = collect(scenario.robot_config(), _data(out, seed), episodes, first, setup.workers, setup.batch_size)
    if done.interrupted:
        raise KeyboardInterrupt
    if done.recorded:
        print(f"{_data(out, seed)}: {done.recorded} episodes, {done.success_rate:.0%} successful")


def _jobs(scenario: Scenario, setup: Setup, seed: int, out: Path) -> dict[str, Job]:
    """The policy, its critic, and two that should not help: one with shuffled rewards, one without failures."""
    steps = dict.fromkeys(CRITICS, scenario.critic_steps) | {POLICY: scenario.policy_steps}
    plain = Windowing(horizon=scenario.horizon)
    windows = {
        MAIN: plain,
        SHUFFLED: replace(plain, reward_shuffle_seed=seed),
        SUCCESS_ONLY: replace(plain, success_only=True),
        POLICY: plain,
    }
    return {
        name: Job(
            data=str(_data(out, seed)),
            config=scenario.model_config(POLICY if name == POLICY else "critic", seed),
            training=TrainConfig(
                folder=str(out / f"seed_{seed}" / name),
                steps=_steps(steps[name], setup),
                seed=seed,
                threads=1,
                progress=False,
                device="cpu",
                matmul="default",  # the same products on every machine of a kind; one thread gains little here
            ),
            windowing=windowing,
        )
        for name, windowing in windows.items()
    }


def _data(out: Path, seed: int) -> Path:
    return out / f"seed_{seed}" / "episodes"


def _episodes(scenario: Scenario, setup: Setup) -> int:
    return max(10, round(scenario.episodes * setup.scale))


def _steps(steps: int, setup: Setup) -> int:
    return max(20, round(steps * setup.scale))


def _task(robot: str, config: Any) -> str:
    """ "robosuite/Lift": the robot component and, where it has several, its task."""
    return f"{robot}/{config.task}" if hasattr(config, "task") else robot
