"""`robot-value demo`: the main job in one command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import flags
from ..demo import Setup
from ..demo import run as run_demo
from ..scenarios import scenario
from ..study import Plan


@dataclass(frozen=True)
class Demo:
    """Collect mixed-quality episodes, train a policy and critics, choose a recipe, test it on unseen seeds.

    Writes report.html and results.json. Interrupt it and run it again: collected episodes and trained steps stay.
    """

    scenario: str = "lift"  # lift | can | cube (OGBench)
    out: str = "outputs/demo"  # folder of everything the demonstration makes
    setup: Setup = Setup()  # how large
    # what is compared; N and temperatures are the scenario's own unless they are given here
    plan: Plan = Plan(validation_episodes=40, headroom_seconds=45)


def run(argv: Sequence[str]) -> int:
    config = flags.parse(Demo, argv, prog="robot-value demo").values
    chosen = scenario(config.scenario)
    defaults = Demo().plan
    plan = replace(
        config.plan,
        candidates=_own(config.plan.candidates, defaults.candidates, chosen.candidates),
        temperatures=_own(config.plan.temperatures, defaults.temperatures, chosen.temperatures),
    )
    page = run_demo(chosen, config.setup, plan, Path(config.out))
    print(f"{page}\n{page.with_name('results.json')}")
    return 0


def _own(asked: tuple, default: tuple, scenario: tuple) -> tuple:
    """The scenario's value unless the command line said otherwise."""
    return scenario if asked == default else asked
