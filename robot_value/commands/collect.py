"""`robot-value collect`: a simulated robot's scripted expert plays episodes into a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import flags
from ..collect import collect


@dataclass(frozen=True)
class Collect:
    """Record episodes of mixed quality. Interrupt it and run it again: it goes on with the missing seeds."""

    robot: Any = None  # the simulated robot and its expert's quality
    out: str = "outputs/episodes"  # the episode store to create or to complete
    episodes: int = 300  # how many, one per seed
    seed: int = 0  # first environment seed; the others follow it
    workers: int = 2  # simulator processes; 0 simulates in this process
    batch_size: int = 8  # episodes played at once


def run(argv: Sequence[str]) -> int:
    config = flags.parse(Collect, argv, {"robot": flags.Choice("robots", "robosuite")}, "robot-value collect").values
    done = collect(config.robot, config.out, config.episodes, config.seed, config.workers, config.batch_size)
    print(
        f"{config.out}: {done.present} episodes were there, {done.recorded} recorded ({done.steps} steps, "
        f"{done.successes} successes, {done.unstable} unstable)" + ("; interrupted" if done.interrupted else "")
    )
    return 130 if done.interrupted else 0
