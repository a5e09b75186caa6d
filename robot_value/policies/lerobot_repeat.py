"""Any other chunk policy of LeRobot's: the whole observation again for every candidate. Untested with real weights.

Such a policy draws from the global generator; here each candidate is a call of its own under a seed of its own, so
that candidate 0 is the same whatever N is, and the generator is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..flow import Guide
from .lerobot_noise import keys

HISTORY = False
BLANK_CAMERAS = False
PRIVATE: dict[str, tuple[str, ...]] = {"predict_action_chunk": ("batch",)}


@dataclass(frozen=True)
class Raw:
    """A preprocessed batch as it is."""

    batch: dict[str, Any]  # tensors and lists, all with B rows

    def repeat(self, n: int) -> Raw:
        return self._each(
            lambda value: value.repeat_interleave(n, 0), lambda rows: [row for row in rows for _ in range(n)]
        )

    def select(self, mask: Tensor) -> Raw:
        kept = torch.nonzero(mask).flatten().tolist()
        return self._each(lambda value: value[mask], lambda rows: [rows[i] for i in kept])

    def _each(self, tensor: Callable[[Tensor], Tensor], rows: Callable[[list], list]) -> Raw:
        changed = {k: tensor(v) if isinstance(v, Tensor) else rows(v) for k, v in self.batch.items()}
        return Raw(changed)


def horizon(config: Any) -> int:
    """Steps of the chunk from the observation on."""
    return sum(index >= 0 for index in config.action_delta_indices or ())


def encode(policy: Any, batch: dict[str, Any]) -> Raw:
    return Raw({key: value for key, value in batch.items() if isinstance(value, Tensor | list)})


def sample(policy: Any, context: Raw, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """Chunks [B, n, H, A] in model units; a prefix is laid over them, not inpainted."""
    if guide is not None:
        raise ValueError(f"guide: expected none with LeRobot's {policy.name}, whose sampler is closed")
    (batch, n, horizon, action_dim), chunks = noise.shape, []
    devices = [noise.device] if noise.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for row, key in enumerate(keys(noise)):
            torch.manual_seed(key)
            alone = context.select(torch.arange(batch, device=noise.device) == row // n)
            policy.reset()  # its queues would remember the candidate before
            chunks.append(policy.predict_action_chunk(alone.batch)[0, :horizon, :action_dim])
    if chunks[0].shape[0] != horizon:
        raise ValueError(f"{policy.name}: expected chunks of {horizon} steps, got {chunks[0].shape[0]}")
    return torch.stack(chunks).to(noise).view(noise.shape)
