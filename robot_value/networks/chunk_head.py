"""The networks that denoise a chunk: (noisy chunk, time, condition) -> chunk-shaped output.

Both heads split off `condition(features)`, the part that depends only on the observation: it is computed once per
decision and shared by all candidates and all sampler steps. A condition may serve several rows: what follows from it
and the time alone (a transformer's modulation) is computed per condition, not per candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = ("mlp", "transformer")
FREQUENCIES = math.pi * 2.0 ** torch.linspace(0, 6, 8)  # 1 to 64 half turns
TIME_FEATURES = 2 * len(FREQUENCIES)

Layer = Callable[[Tensor], Tensor]
Block = Callable[[Tensor, Tensor], Tensor]  # (y [C, n, H, width], c [C, width]) -> y


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
        """x [rows, H, A], t [C] or [1], condition [C, width], each for rows / C consecutive rows -> [rows, H, A]."""
        c = condition + self.time(time_features(t))
        y = (self.input(x.flatten(1)).unflatten(0, (len(c), -1)) + c[:, None]).flatten(0, 1)
        for layer in self.hidden:
            y = layer(F.gelu(y))
        return self.output(F.gelu(y)).unflatten(1, self.shape)


class ChunkTransformer(nn.Module):
    """A small diffusion transformer (DiT, Peebles & Xie 2023) whose H tokens are the chunk's steps."""

    def __init__(self, features: int, horizon: int, action_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.shape = (horizon, action_dim)
        self.condition = nn.Linear(features, width)
        self.time = nn.Linear(TIME_FEATURES, width)
        self.input = nn.Linear(action_dim, width)
        self.position = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, action_dim)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x [rows, H, A], t [C] or [1], condition [C, width], each for rows / C consecutive rows -> [rows, H, A]."""
        return self.through(self.blocks, x, t, condition)

    def through(self, blocks: Iterable[Block], x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """As `forward`, through these blocks (packed ones, see packing.py)."""
        c = F.silu(condition + self.time(time_features(t)))
        y = (self.input(x) + self.position).unflatten(0, (len(c), -1))  # [C, rows / C, H, width]
        for block in blocks:
            y = block(y, c)
        return self.output(self.norm(y)).flatten(0, 1)


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
        """y [C, n, H, width], c [C, width], shared by n chunks."""
        return self.through(y, c, self.qkv, self.out, lambda z: F.gelu(self.up(z)), self.down)

    # y <- y + gate1 attention(scale1 norm(y) + shift1);  y <- y + gate2 mlp(scale2 norm(y) + shift2)
    def through(self, y: Tensor, c: Tensor, qkv: Layer, out: Layer, up: Layer, down: Layer) -> Tensor:
        """As `forward`, through these layers; `up` ends with the GELU."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(c)[:, None, None].chunk(6, -1)
        y = y + gate1 * out(self._attend(qkv(self.norm1(y) * (1 + scale1) + shift1)))
        return y + gate2 * down(up(self.norm2(y) * (1 + scale2) + shift2))

    def _attend(self, qkv: Tensor) -> Tensor:
        """[C, n, H, 3 width] -> [C, n, H, width]; a chunk's steps see one another."""
        q, k, v = qkv.flatten(0, 1).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [C n, heads, H, d]
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).view(*qkv.shape[:3], -1)
