"""What `--robot.type=ros2_guard` is told. LeRobot finds the class `Ros2GuardArm` beside it by name."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.robots.config import RobotConfig

from robot_value.wire import HUMAN, POLICY


@RobotConfig.register_subclass("ros2_guard")
@dataclass(kw_only=True)
class Ros2GuardArmConfig(RobotConfig):
    topics: str  # file that says what the robot's topics mean, the guard's own (docs/topics.md)
    namespace: str = "/robot_value"  # where the guard listens and speaks
    guard: str = "guard"  # the guard's node name
    source: str = POLICY  # who moves the arm: policy (topic plan), or human (topic takeover) for teleoperation
    hold: float = 0.3  # s that the guard may keep the arm at an action when no newer one comes
    patience: float = 5.0  # s to find the guard, and to wait for fresh messages of every topic

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source not in (POLICY, HUMAN):
            raise ValueError(f"source: expected {POLICY} or {HUMAN}, got {self.source!r}")
        if self.hold <= 0 or self.patience <= 0:
            raise ValueError(f"hold and patience: expected more than 0 s, got {self.hold} and {self.patience}")
