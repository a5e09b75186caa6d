"""A learned token that asks the parts of an observation: attention pooling instead of one long vector (Hume)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.observation import EncoderConfig
from ..types import Spec


# q = query, k_i = v_i = W_i part_i + e_i: code = query + attention(q, k, v), then an MLP, both with LayerNorm before
class ValueQuery(nn.Module):
    """features [rows, F] = parts side by side -> code [rows, width]."""

    def __init__(self, parts: Sequence[int], width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width: expected a multiple of heads ({heads}), got {width}")
        self.parts, self.heads = list(parts), heads
        self.read = nn.ModuleList(nn.Linear(size, width) for size in parts)
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.kv, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        pieces = zip(self.read, features.split(self.parts, -1), strict=True)
        tokens = self.norm1(torch.stack([read(piece) for read, piece in pieces], 1))  # [rows, parts, width]
        k, v = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [rows, heads, parts, d]
        asked = self.query.view(1, self.heads, 1, -1).expand(len(features), -1, -1, -1)
        code = self.query + self.out(F.scaled_dot_product_attention(asked, k, v).flatten(1))
        return code + self.down(F.gelu(self.up(self.norm2(code))))


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
