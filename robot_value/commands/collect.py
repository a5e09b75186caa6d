"""`robot-value collect`: a simulated robot's scripted expert plays episodes into a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import flags
from ..collect import Collected, collect
from ..crowd import collect_by
from ..workers import team


@dataclass(frozen=True)
class Collect:
    """Record episodes of mixed quality. Interrupt it and run it again: it goes on with the missing seeds."""

    robot: Any = None  # the simulated robot and its expert's quality
    out: str = "outputs/episodes"  # the episode store to create or to complete
    episodes: int = 300  # how many, one per seed
    seed: int = 0  # first environment seed; the others follow it
    workers: int = 2  # simulator processes; 0 simulates in this process
    batch_size: int = 8  # episodes played at once: a wave
    backend: str = "local"  # local | ray: where the actors are
    actors: int = 0  # processes that play whole waves side by side, of `workers` none then; 0 is this process alone


def run(argv: Sequence[str]) -> int:
    config = flags.parse(Collect, argv, {"robot": flags.Choice("robots", "robosuite")}, "robot-value collect").values
    done = _collected(config)
    print(
        f"{config.out}: {done.present} episodes were there, {done.recorded} recorded ({done.steps} steps, "
        f"{done.successes} successes, {done.unstable} unstable)" + ("; interrupted" if done.interrupted else "")
    )
    return 130 if done.interrupted else 0


def _collected(config: Collect) -> Collected:
    if not config.actors and config.backend == "local":
        return collect(config.robot, config.out, config.episodes, config.seed, config.workers, config.batch_size)
    with team(config.backend, config.actors or 1) as actors:
        return collect_by(actors, config.robot, config.out, config.episodes, config.seed, config.batch_size)
