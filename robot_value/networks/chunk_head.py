"""The networks that denoise a chunk: (noisy chunk, time, condition) -> chunk-shaped output.

Both heads split off `condition(features)`, the part that depends only on the observation: it is computed once per
decision and shared by all candidates and all sampler steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = ("mlp", "transformer")
FREQUENCIES = math.pi * 2.0 ** torch.linspace(0, 6, 8)  # 1 to 64 half turns
TIME_FEATURES = 2 * len(FREQUENCIES)


def chunk_head(
    head: str, features: int, horizon: int, action_dim: int, width: int, depth: int, heads: int
) -> nn.Module:
    if head == "mlp":
        return ChunkMLP(features, horizon, action_dim, width, depth)
    if head == "transformer":
        return ChunkTransformer(features, horizon, action_dim, width, depth, heads)
    raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {head!r}")


def time_features(t: Tensor) -> Tensor:
    """t [rows] in [0, 1] -> [rows, TIME_FEATURES]: sines and cosines (Vaswani et al. 2017)."""
    angles = t[:, None] * FREQUENCIES.to(t.device)
    return torch.cat([angles.sin(), angles.cos()], -1)


class ChunkMLP(nn.Module):
    """`depth` hidden layers of `width`. The first layer is a sum, W_x chunk + W_t time + W_c features, kept apart."""

    def __init__(self, features: int, horizon: int, action_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.shape = (horizon, action_dim)
        self.condition = nn.Linear(features, width)
        self.time = nn.Linear(TIME_FEATURES, width, bias=False)
        self.input = nn.Linear(horizon * action_dim, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.output = nn.Linear(width, horizon * action_dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x [rows, H, A], t [rows] or [1], condition [rows, width] -> [rows, H, A]."""
        y = self.input(x.flatten(1)) + (condition + self.time(time_features(t)))
        for layer in self.hidden:
            y = layer(F.gelu(y))
        return self.output(F.gelu(y)).unflatten(1, self.shape)


class ChunkTransformer(nn.Module):
    """A small diffusion transformer (DiT, Peebles & Xie 2023) whose H tokens are the chunk's steps."""

    def __init__(self, features: int, horizon: int, action_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.condition = nn.Linear(features, width)
        self.time = nn.Linear(TIME_FEATURES, width)
        self.input = nn.Linear(action_dim, width)
        self.position = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, action_dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x [rows, H, A], t [rows] or [1], condition [rows, width] -> [rows, H, A]."""
        c = F.silu(condition + self.time(time_features(t)))
        y = self.input(x) + self.position
        for block in self.blocks:
            y = block(y, c)
        return self.output(self.norm(y))


class DiTBlock(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the condition; gates start at zero (adaLN-zero)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, y: Tensor, c: Tensor) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(c).unsqueeze(1).chunk(6, -1)
        y = y + gate1 * self._attend(self.norm1(y) * (1 + scale1) + shift1)
        z = F.gelu(self.up(self.norm2(y) * (1 + scale2) + shift2))
        return y + gate2 * self.down(z)

    def _attend(self, y: Tensor) -> Tensor:
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [rows, heads, H, d]
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
