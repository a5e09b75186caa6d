"""`robot-value evaluate`: your policy and your critic against base, controls and the oracle, on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import flags
from ..arms import MAIN, SHUFFLED, SUCCESS_ONLY
from ..evaluate import Arm
from ..playing import Models, Site
from ..recipe import refuse_overlap
from ..report import Extras
from ..steering.abstention import Calibration
from ..study import Plan, study
from ._arm import DISPLAY, PARTS, asked_arm


@dataclass(frozen=True)
class Evaluate:
    """Choose a recipe on validation seeds, fix it, test every arm on other seeds; report.html and results.json."""

    robot: Any = None  # the simulated robot
    policy: str = ""  # checkpoint of the policy (its folder, or the run's)
    critic: str = ""  # checkpoint of the critic
    shuffled_critic: str | None = None  # checkpoint of a critic trained with --windowing.reward_shuffle_seed: a control
    success_only_critic: str | None = None  # checkpoint of a critic trained with --windowing.success_only: a control
    # named score -> checkpoint of the critic that gives it: '{risk: RUN/fisor, count: RUN/pseudo_count}'
    also: dict[str, str] = field(default_factory=dict)
    selectors: tuple[str, ...] = ()  # further arms: "all", or names of selectors, guide_*, proposer_*, gate_*
    selector: Any = None  # of an arm of your own, "yours"; softmax_average unless chosen
    proposer: Any = None  # where its candidates come from; samples of the policy unless chosen
    guide: Any = None  # what steps into its sampler
    gate: Any = None  # whether its selection is used; --gate.type=calibrated --gate.path=gate.json
    display: Any = None  # shows the decisions of "yours", or else of the chosen recipe, while they are tested
    n: int = 16  # its N, candidates per decision
    out: str = "outputs/evaluate"  # folder of the page and of results.json
    workers: int = 2  # processes that play side by side, a core each
    backend: str = "local"  # local | ray: processes of this machine, or Ray actors
    actors: int = 0  # how many of them there are, if not as many as `workers`
    batch_size: int = 50  # robots simulated at once
    plan: Plan = Plan(videos=0)  # what is compared, on which seeds


def run(argv: Sequence[str]) -> int:
    parsed = flags.parse(
        Evaluate, argv, {"robot": flags.Choice("robots", "robosuite"), **PARTS, **DISPLAY}, "robot-value evaluate"
    )
    config, task = parsed.values, getattr(parsed.values.robot, "task", "")
    for name in ("policy", "critic"):
        if not getattr(config, name):
            raise flags.FlagError(f"--{name}: expected the folder of a checkpoint, got nothing")
    critics = {MAIN: config.critic, SHUFFLED: config.shuffled_critic, SUCCESS_ONLY: config.success_only_critic}
    critics |= config.also
    critics = {name: Path(path).absolute() for name, path in critics.items() if path}  # as other machines see them
    models = Models(0, Path(config.policy).absolute(), critics)
    extras = Extras(title=f"robot_value: {task or parsed.names['robot']}")
    site = Site(config.robot, config.batch_size, config.actors or config.workers, config.backend)
    plan = replace(config.plan, videos=0)
    plan = replace(plan, selectors=config.selectors or plan.selectors)
    yours = [asked_arm(parsed, "yours")] if any(parsed.names[kind] for kind in PARTS) else []
    for arm in yours:
        refuse_calibration_seeds(arm, plan)
    asked = {"more": yours, "display": config.display}
    page = study(site, [models], plan, Path(config.out), f"{parsed.names['robot']}/{task}", extras, **asked)
    print(f"{page}\n{page.with_name('results.json')}")
    return 0


def refuse_calibration_seeds(arm: Arm, plan: Plan) -> None:
    """A gate must not be judged on the seeds it was calibrated on."""
    if arm.gate == "calibrated" and arm.gate_options.get("path"):
        refuse_overlap(Calibration.load(Path(arm.gate_options["path"])).seeds, plan.test)
