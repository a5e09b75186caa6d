"""`robot-value train`: a chunk policy or a chunk critic from an episode store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import flags
from ..fit import Job, Windowing, fit
from ..learners import Optimization
from ..training import TrainConfig


@dataclass(frozen=True)
class Train:
    """Train one model. Interrupt it and run it again: it goes on, bit for bit on a CPU."""

    data: str = "outputs/episodes"  # the episode store
    policy: Any = None  # train a policy of this type
    critic: Any = None  # or a critic of this type
    windowing: Windowing = Windowing()  # which windows of which episodes
    training: TrainConfig = TrainConfig()  # how long, where to, how often to look
    optimization: Optimization = Optimization()  # of a policy; a critic's is in its own flags
    base: str = ""  # checkpoint of the policy to be steered, for critics whose backup asks it (qc)


CHOICES = {"policy": flags.Choice("policies", None), "critic": flags.Choice("critics", None)}


def run(argv: Sequence[str]) -> int:
    parsed = flags.parse(Train, argv, CHOICES, "robot-value train")
    config, chosen = parsed.values, [name for name in CHOICES if parsed.names[name]]
    if len(chosen) != 1:
        raise flags.FlagError(
            f"expected one of --policy.type and --critic.type, got {' and '.join(chosen) or 'neither'}"
        )
    model = getattr(config, chosen[0])
    folder = fit(Job(config.data, model, config.training, config.windowing, config.optimization, config.base))
    print(f"{folder}")
    return 0
