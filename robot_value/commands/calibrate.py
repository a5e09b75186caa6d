"""`robot-value calibrate`: how confident must the critic be before it may act? Writes the file of gate `calibrated`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import flags
from ..arms import MAIN
from ..calibrate import calibrate, failure_alarm, plot, table
from ..playing import Models, Site
from ..workers import process_pool
from ._arm import PARTS, asked_arm

CHOICES = {
    "robot": flags.Choice("robots", "robosuite"),
    **{kind: choice for kind, choice in PARTS.items() if kind != "gate"},  # the gate is what comes out
}


@dataclass(frozen=True)
class Calibrate:
    """Play the plain policy and every threshold on validation seeds; the critic may act where it proved to help."""

    robot: Any = None  # the simulated robot
    policy: str = ""  # checkpoint of the policy (its folder, or the run's)
    critic: str = ""  # checkpoint of the critic
    selector: Any = None  # how the critic's scores become one chunk; softmax_average unless chosen
    proposer: Any = None  # where candidates come from; samples of the policy unless chosen
    guide: Any = None  # what steps into the sampler
    n: int = 16  # N, candidates per decision
    episodes: int = 200  # validation episodes per threshold; 400 find a gain of 8 points almost always
    seed: int = 1000  # the first of the validation seeds; never test on them
    noise_seed: int = 0  # key of the candidates' noise
    quantiles: tuple[float, ...] = (0.5,)  # of the confidence in shadow, tried as thresholds beside "always"
    alpha: float = 0.05  # chance of letting a critic act that costs more than the margin
    margin: float = 0.05  # of success, that the critic may cost at worst; 0: its gain must be proven
    alarm: str | None = None  # also fit a failure alarm on this score: value, spread or disagreement
    alarm_alpha: float = 0.1  # share of the plain policy's successes that may ever hear it
    out: str = "gate.json"  # the gate's file; its plot and *_alarm.json lie beside it
    workers: int = 2  # simulator processes
    batch_size: int = 50  # robots simulated at once


def run(argv: Sequence[str]) -> int:
    parsed = flags.parse(Calibrate, argv, CHOICES, "robot-value calibrate")
    config = parsed.values
    for name in ("policy", "critic"):
        if not getattr(config, name):
            raise flags.FlagError(f"--{name}: expected the folder of a checkpoint, got nothing")
    models = Models(0, Path(config.policy), {MAIN: Path(config.critic)})
    seeds = range(config.seed, config.seed + config.episodes)
    site = Site(config.robot, config.batch_size, config.workers)
    out, arm = Path(config.out), asked_arm(parsed, "steered")
    with process_pool(max(1, config.workers)) as processes:
        play = (processes, site, models, arm, seeds, config.noise_seed)
        found = calibrate(*play, config.quantiles, config.alpha, config.margin)
        print(table(found))
        print(f"{found.save(out)}\n{plot(found, out.with_suffix('.png'))}")
        if config.alarm is not None:
            alarm = failure_alarm(*play, config.alarm, config.alarm_alpha)
            print(alarm.save(out.with_name(f"{out.stem}_alarm.json")))
    return 0
