"""A small ResNet for camera images: GroupNorm (batches may be one), then spatial softmax or average pooling.

Spatial softmax (Levine et al. 2016): each channel's expected image position, (x, y) = sum softmax(a) * (x, y).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POOLINGS = ("spatial_softmax", "average")


class ImageEncoder(nn.Module):
    """One camera: uint8[rows, h, w, 3] -> float32[rows, outputs]."""

    def __init__(
        self, outputs: int, channels: tuple[int, ...] = (32, 64, 128), pooling: str = "spatial_softmax"
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"image pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.pooling = pooling
        self.stem = nn.Conv2d(3, channels[0], 5, stride=2, padding=2)
        widths = [channels[0], *channels]
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in itertools.pairwise(widths)))
        pooled = channels[-1] * (2 if pooling == "spatial_softmax" else 1)
        self.output = nn.Linear(pooled, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.through(self.blocks, images)

    def through(self, blocks: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """As `forward`, through these blocks (packed ones, see packing.py)."""
        x = images.movedim(-1, 1).to(self.stem.weight.dtype) / 127.5 - 1  # channels-last in memory, as the images came
        x = blocks(self.stem(x))
        x = spatial_softmax(x) if self.pooling == "spatial_softmax" else x.mean((-2, -1))
        return self.output(x)


class Block(nn.Module):
    """Pre-activation residual block that halves height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(inputs), _norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.gelu(self.norm1(x)))
        y = self.conv2(F.gelu(self.norm2(y)))
        return self.skip(x) + y


def spatial_softmax(x: Tensor) -> Tensor:
    """[rows, c, h, w] -> expected (x, y) in [-1, 1] per channel, [rows, 2c]."""
    height, width = x.shape[-2:]
    weight = x.flatten(2).softmax(-1).unflatten(2, (height, width))
    grid_x = torch.linspace(-1, 1, width, device=x.device)
    grid_y = torch.linspace(-1, 1, height, device=x.device)
    return torch.cat([(weight.sum(2) * grid_x).sum(-1), (weight.sum(3) * grid_y).sum(-1)], -1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)
