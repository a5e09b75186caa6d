"""`robot-value train`: a chunk policy, a chunk critic, or both from an episode store; `train online` keeps learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import flags
from ..accelerated import joined, launched
from ..fit import Job, Windowing, fit
from ..learners import Joint, Optimization
from ..ranks import among
from ..training import TrainConfig
from . import _train_online


@dataclass(frozen=True)
class Train:
    """Train a model, or a critic together with its policy. Interrupt it and run it again: bit for bit on a CPU."""

    data: str = "outputs/episodes"  # the episode store
    policy: Any = None  # train a policy of this type
    critic: Any = None  # train a critic of this type; with a policy too, the run holds policy/ and critic/
    windowing: Windowing = Windowing()  # which windows of which episodes
    training: TrainConfig = TrainConfig()  # how long, where to, how often to look
    optimization: Optimization = Optimization()  # of a policy; a critic's is in its own flags
    joint: Joint = Joint()  # of a critic and a policy together
    base: str = ""  # checkpoint of a trained policy: what a critic's backup or eyes ask, what a policy stands on
    trained_critic: str = ""  # checkpoint of the critic that a policy's loss asks, where none is trained with it


CHOICES = {"policy": flags.Choice("policies", None), "critic": flags.Choice("critics", None)}


def run(argv: Sequence[str]) -> int:
    if argv[:1] == ["online"]:
        if launched() > 1:
            raise ValueError(
                f"train online: expected one process, got {launched()} from a launcher; it starts its own actors, with "
                "--schedule.actors"
            )
        return _train_online.run(argv[1:])
    parsed = flags.parse(Train, argv, CHOICES, "robot-value train")
    config = parsed.values
    models = [config.critic] * bool(parsed.names["critic"]) + [config.policy] * bool(parsed.names["policy"])
    if not models:
        raise flags.FlagError("expected --policy.type, --critic.type or both, got neither")
    job = Job(
        data=config.data,
        config=models[0],
        training=config.training,
        windowing=config.windowing,
        optimization=config.optimization,
        base=config.base,
        policy=models[1] if len(models) == 2 else None,
        joint=config.joint,
        trained_critic=config.trained_critic,
    )
    with joined(job.training.device) as ranks, among(ranks):
        folder = fit(job)
    if ranks.index == 0:
        print(folder)
    return 0
