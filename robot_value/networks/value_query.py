"""A learned token that asks what was observed: attention pooling instead of one long vector (Hume)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import Spec
from .observation import EncoderConfig


# q = query, k_i = v_i = token_i + e_i: code = query + attention(q, k, v), then an MLP, both with LayerNorm before
class ValueQuery(nn.Module):
    """What `read` makes tokens [rows, P, width] of -> code [rows, width]; a token that is not there says nothing."""

    def __init__(self, read: nn.Module, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width: expected a multiple of heads ({heads}), got {width}")
        self.read, self.heads = read, heads
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.kv, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask bool[rows, P]: which tokens are there; None: all."""
        tokens = self.norm1(self.read(seen))
        k, v = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [rows, heads, P, d]
        asked = self.query.view(1, self.heads, 1, -1).expand(len(tokens), -1, -1, -1)
        there = None if mask is None else mask[:, None, None]
        code = self.query + self.out(F.scaled_dot_product_attention(asked, k, v, there).flatten(1))
        return code + self.down(F.gelu(self.up(self.norm2(code))))


class Parts(nn.ModuleList):
    """Features [rows, F] that lie side by side -> one token each, [rows, parts, width], by a map of its own."""

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__(nn.Linear(size, width) for size in sizes)
        self.sizes = list(sizes)

    def forward(self, features: Tensor) -> Tensor:
        pieces = features.split(self.sizes, -1)
        return torch.stack([read(piece) for read, piece in zip(self, pieces, strict=True)], 1)


def over_parts(sizes: Sequence[int], width: int, heads: int) -> ValueQuery:
    return ValueQuery(Parts(sizes, width), width, heads)


def over_tokens(size: int, width: int, heads: int) -> ValueQuery:
    """Of a vision-language model: float32[rows, P, size], one map for all."""
    return ValueQuery(nn.Linear(size, width), width, heads)


def observed_parts(spec: Spec, config: EncoderConfig, features: int) -> list[int]:
    """Widths of what the encoder puts side by side: frames of state, of each camera, the text, the goal.

    Features of another make (a policy's) are one part.
    """
    frame = [spec.state_dim] * bool(spec.state_dim)
    parts = [size for size in frame for _ in range(spec.n_obs_steps)]
    parts += [config.image_features] * len(spec.cameras) * spec.n_obs_steps
    parts += [config.text_features] * spec.language
    parts += (frame + [config.image_features] * len(spec.cameras)) * config.goal
    return parts if sum(parts) == features else [features]
