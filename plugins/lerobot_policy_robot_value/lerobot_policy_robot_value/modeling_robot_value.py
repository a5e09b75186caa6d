"""The policy that LeRobot's commands call: at every decision N chunks of the base, one of them chosen by the critic."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from .base import Base
from .configuration_robot_value import TRAIN, RobotValueConfig
from .decisions import DecisionFile
from .observing import Observer
from .processor_robot_value import save
from .steering import make_steerer


class RobotValuePolicy(PreTrainedPolicy):
    """Without critic and selector it is the base policy to the bit, its own queues, processors and noise."""

    config_class = RobotValueConfig
    name = "robot_value"

    def __init__(self, config: RobotValueConfig, **kwargs: Any) -> None:
        super().__init__(config)
        if not config.base_path:
            raise ValueError("--policy.base_path: expected the folder of a LeRobot checkpoint, got nothing")
        self.base = self.steerer = None
        if not config.steers:
            self.base = Base(config.base_path, config.device)
            return
        self.steerer = make_steerer(config)
        self.policy, self.critic = self.steerer.policy, self.steerer.critic  # nn.Modules of ours: LeRobot moves them
        self.observer = Observer(self.policy.spec)
        self.decisions = DecisionFile(Path(config.decisions_path)) if config.decisions_path else None
        self._coming: deque[Tensor] = deque()  # actions float32[B, A] until the next decision
        self._given = 1  # control steps that the chunk returned last fills

    def reset(self) -> None:
        """An episode begins for every row."""
        if self.base is not None:
            return self.base.reset()
        self.observer.reset()
        self.steerer.reset()
        self._coming.clear()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """float32[B, A] in the robot's units."""
        if self.base is not None:
            return self.base.select_action(batch)
        self.observer.see(batch)
        if not self._coming:
            self._coming.extend(self._decide().transpose(0, 1))
        return self._coming.popleft()

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """float32[B, k, A] in the robot's units: what is to be executed until the next decision, all of it."""
        if self.base is not None:
            return self.base.predict_action_chunk(batch)
        self.observer.see(batch, self._given)
        chunk = self._decide()
        self._given = chunk.shape[1]
        return chunk

    def _decide(self) -> Tensor:
        observation = self.observer.observation()
        with torch.inference_mode(False):  # guides need gradients, which LeRobot's commands rule out
            decision = self.steerer(observation)
        if self.decisions is not None:
            self.decisions.add(observation, decision)
        steps = int(decision.execute.min())  # LeRobot's rows go in step
        return torch.from_numpy(decision.chunk[:, :steps]).to(self.config.device)

    def get_optim_params(self) -> dict:
        raise NotImplementedError(TRAIN)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict | None]:
        raise NotImplementedError(TRAIN)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: RobotValueConfig | None = None, **kwargs: Any
    ) -> RobotValuePolicy:
        """It has no weights: its config says where base and critic lie."""
        config = config or PreTrainedConfig.from_pretrained(pretrained_name_or_path)
        return cls(config).to(config.device).eval()

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        save(self.config, save_directory)
