"""`robot-value evaluate`: your policy and your critic against base, controls and the oracle, on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import flags
from ..arms import MAIN, SHUFFLED, SUCCESS_ONLY
from ..playing import Models, Site
from ..report import Extras
from ..study import Plan, study


@dataclass(frozen=True)
class Evaluate:
    """Choose a recipe on validation seeds, fix it, test every arm on other seeds; report.html and results.json."""

    robot: Any = None  # the simulated robot
    policy: str = ""  # checkpoint of the policy (its folder, or the run's)
    critic: str = ""  # checkpoint of the critic
    shuffled_critic: str | None = None  # checkpoint of a critic trained with --windowing.reward_shuffle_seed: a control
    success_only_critic: str | None = None  # checkpoint of a critic trained with --windowing.success_only: a control
    selectors: tuple[str, ...] = ()  # further arms: "all", or names of selectors, guide_*, proposer_*, gate_*
    out: str = "outputs/evaluate"  # folder of the page and of results.json
    workers: int = 2  # simulator processes; 0 simulates in this process
    batch_size: int = 50  # robots simulated at once
    plan: Plan = Plan(videos=0)  # what is compared, on which seeds


def run(argv: Sequence[str]) -> int:
    parsed = flags.parse(Evaluate, argv, {"robot": flags.Choice("robots", "robosuite")}, "robot-value evaluate")
    config, task = parsed.values, getattr(parsed.values.robot, "task", "")
    for name in ("policy", "critic"):
        if not getattr(config, name):
            raise flags.FlagError(f"--{name}: expected the folder of a checkpoint, got nothing")
    critics = {MAIN: config.critic, SHUFFLED: config.shuffled_critic, SUCCESS_ONLY: config.success_only_critic}
    models = Models(0, Path(config.policy), {name: Path(path) for name, path in critics.items() if path})
    extras = Extras(title=f"robot_value: {task or parsed.names['robot']}")
    site, plan = Site(config.robot, config.batch_size, config.workers), replace(config.plan, videos=0)
    plan = replace(plan, selectors=config.selectors or plan.selectors)
    page = study(site, [models], plan, Path(config.out), f"{parsed.names['robot']}/{task}", extras)
    print(f"{page}\n{page.with_name('results.json')}")
    return 0
