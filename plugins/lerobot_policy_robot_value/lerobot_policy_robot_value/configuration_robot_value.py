"""What `--policy.type=robot_value` is told; its names are those of `robot-value evaluate` where that has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs import PreTrainedConfig

TRAIN = "robot_value steers and is not trained; train the base by lerobot-train and the critic by robot-value train"


@PreTrainedConfig.register_subclass("robot_value")
@dataclass
class RobotValueConfig(PreTrainedConfig):
    base_path: str = ""  # folder of the LeRobot checkpoint that proposes
    critic_path: str = ""  # folder of the critic that scores; empty and no selector: the base policy as it is
    num_candidates: int = 16  # N, chunks per decision
    selector: str = ""  # which candidate; empty: softmax_average where there is a critic
    selector_options: dict[str, Any] = field(default_factory=dict)  # the selector's settings, '{"temperature": 0.5}'
    gate: str = "always"  # whether the selection is used at all
    gate_options: dict[str, Any] = field(default_factory=dict)  # the gate's settings
    execute: int = 0  # k, control steps until the next decision; 0: the critic's scope, else the base's own number
    seed: int = 0  # key of the candidates' noise
    decisions_path: str = ""  # file to which every decision is appended, a JSON line per robot; empty: none
    push_to_hub: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_candidates < 1 or self.execute < 0:
            raise ValueError(
                f"expected num_candidates >= 1 and execute >= 0, got {self.num_candidates} and {self.execute}"
            )

    @property
    def steers(self) -> bool:
        return bool(self.critic_path or self.selector)

    def validate_features(self) -> None:
        """Which observations are needed is the base's contract, checked when it is loaded."""

    def get_optimizer_preset(self) -> Any:
        raise NotImplementedError(TRAIN)

    def get_scheduler_preset(self) -> Any:
        raise NotImplementedError(TRAIN)

    @property
    def observation_delta_indices(self) -> list | None:
        return None

    @property
    def action_delta_indices(self) -> list | None:
        return None

    @property
    def reward_delta_indices(self) -> list | None:
        return None
