"""`robot-value train online`: from offline weights, the robot works and critic, policy or both keep learning."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import flags
from ..curves import NonFinite
from ..evaluate import Arm
from ..learners import Joint, Optimization
from ..online.books import Progress, overhead
from ..online.follow import Follow
from ..online.guard_rails import GuardRails
from ..online.learning import OnlineJob, Schedule, train_online
from ..online.streaming import Streaming
from ..online.supervised import Config as Supervisor
from ._arm import DISPLAY, PARTS, asked_arm


@dataclass(frozen=True)
class TrainOnline:
    """Play rounds of episodes while learning from the rounds before. Interrupt it and run it again: bit for bit."""

    robot: Any = None  # the simulated robot
    policy: str = ""  # checkpoint of the policy to start from
    critic: str = ""  # checkpoint of the critic to start from; empty: the plain policy acts
    data: str = ""  # store of offline episodes that are learned from too; empty: none
    demonstrations: str = ""  # store that people append to while the robot works; it joins the offline half
    labels: str = ""  # name of the offline data's labels
    selector: Any = None  # how the critic's scores become one chunk; softmax_average unless chosen
    proposer: Any = None  # where candidates come from; samples of the policy unless chosen
    guide: Any = None  # what steps into the sampler
    gate: Any = None  # whether the selection is used at all
    n: int = 16  # N, candidates per decision, where there is a critic
    schedule: Schedule = Schedule()  # how much is played, how much is learned, where to
    optimization: Optimization = Optimization()  # of a policy that learns
    joint: Joint = Joint()  # of a critic and a policy that learn together
    streaming: Streaming = Streaming()  # learning without replay, where --schedule.streaming=true
    batch_size: int = 10  # robots simulated at once
    rails: GuardRails = GuardRails()  # when learning is held up
    supervised: bool = False  # a scripted expert plays the human and takes over
    supervisor: Supervisor = Supervisor()  # when it does, and for how long
    display: Any = None  # shows the first actor's decisions while they are made
    follow: Follow = Follow()  # an arm that works by itself, in the place of the simulated robot


CHOICES = {"robot": flags.Choice("robots", "robosuite"), **PARTS, **DISPLAY}


def run(argv: Sequence[str]) -> int:
    parsed = flags.parse(TrainOnline, argv, CHOICES, "robot-value train online")
    config = parsed.values
    if not config.policy:
        raise flags.FlagError("--policy: expected the folder of a checkpoint, got nothing")
    job = OnlineJob(
        robot=config.robot,
        policy=config.policy,
        critic=config.critic,
        data=config.data,
        arm=asked_arm(parsed, "online") if config.critic else Arm("online"),
        schedule=config.schedule,
        optimization=config.optimization,
        joint=config.joint,
        demonstrations=config.demonstrations,
        labels=config.labels,
        streaming=config.streaming,
        batch_size=config.batch_size,
        rails=config.rails,
        supervisor=config.supervisor if config.supervised else None,
        display=config.display,
        follow=config.follow,
    )
    try:
        root = train_online(job)
    except NonFinite as error:
        print(f"learning was given up: {error}", file=sys.stderr)
        return 1
    _say(root)
    return 0


def _say(root: Path) -> None:
    progress = Progress.load(root)
    solved = sum(sum(each.success) for each in progress.rounds)
    print(f"{solved} of {sum(len(each.success) for each in progress.rounds)} episodes succeeded while it learned")
    print(overhead(progress))
    print(root / "report.html")
