"""The LeRobot policy as LeRobot itself runs it, between its own pre- and postprocessor; its weights are verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robot_value.policies import lerobot_contract, lerobot_files


class Base(nn.Module):
    def __init__(self, folder: str | Path, device: str) -> None:
        super().__init__()
        where = lerobot_files.find(Path(folder))
        if where is None:
            raise ValueError(f"--policy.base_path: expected a LeRobot checkpoint, got {folder}; check the path")
        adopted = (where / lerobot_contract.FILE).is_file()
        backbone = lerobot_contract.read(where).backbone if adopted else ""
        config = lerobot_files.settings(where, torch.device(device), backbone)
        opened = lerobot_files.open_checkpoint(where, config, backbone)
        self.model, self._before, self._after = opened.policy, opened.before, opened.after

    def reset(self) -> None:
        self.model.reset()

    def select_action(self, batch: dict[str, Any]) -> Tensor:
        return self._after(self.model.select_action(self._before(batch)))

    def predict_action_chunk(self, batch: dict[str, Any]) -> Tensor:
        chunk: Tensor = self.model.predict_action_chunk(self._before(batch))  # [B, T, A]
        return torch.stack([self._after(action) for action in chunk.unbind(1)], 1)
