"""What `robot-value demo` can show: a robot, how its data are made, and how long to train. Plain values throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import draccus

from . import components


@dataclass(frozen=True)
class Part:
    """A component by name and the Config values that differ from its defaults."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def config(self, kind: str) -> Any:
        return draccus.decode(components.load(kind, self.name).Config, dict(self.values))

    def flags(self, field_name: str) -> list[str]:
        """The same as command line flags."""
        return [f"--{field_name}.type={self.name}", *_flags(f"--{field_name}", self.values)]


@dataclass(frozen=True)
class Scenario:
    title: str
    robot: Part
    made: str  # how the data were made, for the page: what a reader must know to judge the figures
    episodes: int  # per training seed
    horizon: int  # H, control steps in a chunk; all of them are executed
    policy: Part
    policy_steps: int
    critic: Part
    critic_steps: int
    candidates: tuple[int, ...] = (4, 16)  # N that validation chooses among
    temperatures: tuple[float, ...] = (0.5,)  # of softmax_average, that validation chooses among
    test: Mapping[str, Any] = field(default_factory=dict)  # robot values that differ when policies are tested
    camera: Mapping[str, Any] = field(default_factory=dict)  # robot values that differ when videos are made

    def robot_config(self, values: Mapping[str, Any] | None = None) -> Any:
        return replace(self.robot, values={**self.robot.values, **(values or {})}).config("robots")

    def model_config(self, which: str, seed: int) -> Any:
        """Config of the "policy" or the "critic", its initial weights keyed by the training seed."""
        kind, part = ("policies", self.policy) if which == "policy" else ("critics", self.critic)
        return replace(part, values={**part.values, "seed": seed}).config(kind)


VIDEO = {"cameras": ["agentview"], "camera_size": 200}

LIFT_FAULTS = {"preset": "biased_majority", "p_offset": 0.6, "p_premature": 0.1}

LIFT = Scenario(
    title="robosuite Lift, biased-majority demonstrations",
    robot=Part("robosuite", {"task": "Lift", "quality": LIFT_FAULTS, "max_steps": 64}),
    made=(
        "A scripted expert with privileged state plays Lift with designed faults: in 60 % of the episodes it "
        "grasps 3.5 cm off to the same side, in 10 % it closes the gripper too early, always with a random servo "
        "gain and correlated noise; failures go on to the limit of 64 steps. The majority shares one mistake, so "
        "averaging candidates without a critic averages the mistake in. The mix was chosen because a critic "
        "matters there: with faults in all directions (preset symmetric) the plain average of the candidates wins "
        "without any critic."
    ),
    episodes=300,
    horizon=8,
    policy=Part("flow"),
    policy_steps=6000,
    critic=Part("iql", {"members": 2, "target": "v"}),
    critic_steps=1500,
    camera=VIDEO,
)

CAN = Scenario(
    title="robosuite PickPlaceCan, biased-majority demonstrations",
    robot=Part("robosuite", {"task": "PickPlaceCan", "quality": {"preset": "biased_majority"}, "max_steps": 220}),
    made=(
        "A scripted expert with privileged state plays PickPlaceCan with designed faults: in 55 % of the episodes "
        "it grasps 3.5 cm off to the same side, in 20 % it closes the gripper too early, in 30 % it lets go on the "
        "way; failures go on to the time limit."
    ),
    episodes=220,
    horizon=10,
    policy=Part("flow"),
    policy_steps=8000,
    critic=Part("iql", {"members": 2, "target": "v"}),
    critic_steps=4500,
    camera=VIDEO,
)

CUBE = Scenario(
    title="OGBench cube-single, play between five slots",
    robot=Part("ogbench", {"task": "cube-single-task1", "mode": "play"}),
    made=(
        "OGBench's own planning oracle moves the cube between the five start and goal slots of the single-cube "
        "tasks, with action noise; the singletask reward is that of the next state, and an episode ends when the "
        "task's goal is reached."
    ),
    episodes=500,
    horizon=5,
    policy=Part("flow"),
    policy_steps=8000,
    critic=Part("iql", {"members": 2, "target": "v", "expectile": 0.9, "gamma": 0.99}),
    critic_steps=8000,
    temperatures=(0.3, 0.5),
    test={"mode": "task"},
    camera={"image_size": 200},
)

SCENARIOS = {"lift": LIFT, "can": CAN, "cube": CUBE}


def scenario(name: str) -> Scenario:
    if name not in SCENARIOS:
        raise components.UnknownComponent(components.unknown("scenario", name, list(SCENARIOS)))
    return SCENARIOS[name]


def _flags(prefix: str, values: Mapping[str, Any]) -> list[str]:
    flat = []
    for name, value in values.items():
        flat += _flags(f"{prefix}.{name}", value) if isinstance(value, Mapping) else [f"{prefix}.{name}={value}"]
    return flat
