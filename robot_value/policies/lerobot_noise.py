"""All randomness of a LeRobot model from the candidate's own noise: candidate 0 is the same whatever N and B are.

Such a model may want more numbers than a chunk has: padded dims, steps that lie in the past, noise in every denoising
step. They are keyed by the bytes of the noise that the candidate was given, and LeRobot's global generator is not used.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def keys(noise: Tensor) -> list[int]:
    """B * n whole numbers of 63 bits, one per candidate of noise [B, n, H, A]."""
    rows = noise.detach().cpu().float().flatten(0, 1).numpy()
    return [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:8], "little") >> 1 for row in rows]


def generators(noise: Tensor) -> list[torch.Generator]:
    """B * n fresh generators on the CPU, one per candidate of noise [B, n, H, A]."""
    return [torch.Generator().manual_seed(key) for key in keys(noise)]


def around(noise: Tensor, steps: int, dims: int, start: int = 0) -> Tensor:
    """Standard normal [B, n, steps, dims] with noise [B, n, H, A] from step `start` and dim 0 on."""
    batch, n, horizon, action_dim = noise.shape
    if (horizon, action_dim) == (steps, dims):
        return noise
    drawn = [
        np.random.Generator(np.random.Philox(key)).standard_normal((steps, dims), np.float32) for key in keys(noise)
    ]
    whole = torch.from_numpy(np.stack(drawn)).to(noise).view(batch, n, steps, dims)
    whole[:, :, start : start + horizon, :action_dim] = noise
    return whole
