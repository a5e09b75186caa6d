"""The value of every prefix of a chunk in one call: Q_j = Q(s, a_1 ... a_j), j = 1 ... k, never looking at a_{j+1}.

`mlp` reads each prefix with later actions blanked and its length told: k times a QNetwork's cost for all prefixes,
the same for the whole chunk alone. `transformer` is causal over [state, a_1 ... a_k], one token per step (CO-RFT's
critic expert, VGAS's Q-Chunk-Former).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.ensemble import EnsembleMLP
from .distribution import Distribution
from .heads import Head, Scalar

KINDS = ("mlp", "transformer")


class PrefixNetwork(nn.Module):
    """A QNetwork, (features [rows, F], chunk [rows, k, A], normalized) -> [E, rows], that also knows every prefix."""

    def __init__(
        self,
        kind: str,
        features: int,
        scope: int,
        action_dim: int,
        members: int,
        hidden: Sequence[int],  # mlp: widths; transformer: one block per entry, all of the first width
        layer_norm: bool = True,  # mlp only
        heads: int = 4,  # of the transformer's attention
        head: Head | None = None,  # None: one number, squared error
    ) -> None:
        super().__init__()
        self.head = head or Scalar()
        if self.head.extra:
            raise ValueError(f"head: expected one without inputs of its own, got {type(self.head).__name__}")
        if kind not in KINDS:
            raise ValueError(f"network: expected one of {', '.join(KINDS)}, got {kind!r}")
        self.features, self.scope = features, scope
        sizes = features, scope, action_dim
        if kind == "mlp":
            self.net = PrefixMLP(*sizes, members, hidden, self.head.outputs, layer_norm)
        else:
            self.net = PrefixTransformer(*sizes, members, hidden[0], len(hidden), heads, self.head.outputs)

    def forward(self, features: Tensor, chunk: Tensor) -> Tensor:
        return self.head.mean(self._whole, _join(features, chunk))

    def prefixes(self, features: Tensor, chunk: Tensor) -> Tensor:
        """[E, rows, k]; [..., j - 1] is the value of the first j steps."""
        return self.head.mean(self._every, _join(features, chunk)).unflatten(1, (-1, self.scope))

    def distribution(self, features: Tensor, chunk: Tensor, generator: torch.Generator | None = None) -> Distribution:
        """atoms [E, rows, K] of the whole chunk."""
        return self.head.distribution(self._whole, _join(features, chunk), generator)

    def regress(
        self, features: Tensor, chunk: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(mean [E, rows], loss [E, rows]) of the whole chunk against atoms [rows, K]."""
        return self.head.regress(self._whole, _join(features, chunk), target.detach(), generator)

    def regress_prefixes(
        self, features: Tensor, chunk: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(mean [E, rows, k], loss [E, rows, k]) against atoms [rows, k, K], a target per prefix."""
        flat = Distribution(target.atoms.flatten(0, 1), target.weights.flatten(0, 1)).detach()
        mean, loss = self.head.regress(self._every, _join(features, chunk), flat, generator)
        return mean.unflatten(1, (-1, self.scope)), loss.unflatten(1, (-1, self.scope))

    def _whole(self, x: Tensor) -> Tensor:
        """x [rows, F + k A] -> [E, rows, outputs]."""
        return self.net(*self._split(x), prefixes=1).squeeze(2)

    def _every(self, x: Tensor) -> Tensor:
        """x [rows, F + k A] -> [E, rows * k, outputs]: to the head a prefix is a row."""
        return self.net(*self._split(x), prefixes=self.scope).flatten(1, 2)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.features], x[:, self.features :].unflatten(1, (self.scope, -1))


class PrefixMLP(nn.Module):
    """Input of prefix j: features, a_1 ... a_j and zeros, one-hot j."""

    def __init__(
        self,
        features: int,
        scope: int,
        action_dim: int,
        members: int,
        hidden: Sequence[int],
        outputs: int,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        self.mlp = EnsembleMLP(members, features + scope * action_dim + scope, hidden, outputs, layer_norm)

    def forward(self, features: Tensor, chunk: Tensor, prefixes: int) -> Tensor:
        """features [rows, F], chunk [rows, k, A] -> [E, rows, p, outputs] of the `prefixes` p longest prefixes."""
        rows, k, _ = chunk.shape
        later = torch.ones(k, k, dtype=torch.bool, device=chunk.device).triu(1)[-prefixes:, :, None]  # [p, step, 1]
        known = chunk[:, None].expand(-1, prefixes, -1, -1).masked_fill(later, 0.0)  # filled: 0 * NaN would be NaN
        length = torch.eye(k, device=chunk.device)[-prefixes:].expand(rows, -1, -1)
        x = torch.cat([features[:, None].expand(-1, prefixes, -1), known.flatten(2), length], -1)
        return self.mlp(x.flatten(0, 1)).unflatten(1, (rows, prefixes))


class PrefixTransformer(nn.Module):
    """E independent causal transformers over a state token and k action tokens."""

    def __init__(
        self,
        features: int,
        scope: int,
        action_dim: int,
        members: int,
        width: int,
        depth: int,
        heads: int,
        outputs: int,
    ) -> None:
        super().__init__()
        sizes = features, scope, action_dim, width, depth, heads, outputs
        self.members = nn.ModuleList(_CausalTransformer(*sizes) for _ in range(members))

    def forward(self, features: Tensor, chunk: Tensor, prefixes: int) -> Tensor:
        """features [rows, F], chunk [rows, k, A] -> [E, rows, p, outputs] of the `prefixes` p longest prefixes."""
        return torch.stack([member(features, chunk, prefixes) for member in self.members])


class _CausalTransformer(nn.Module):
    def __init__(
        self, features: int, scope: int, action_dim: int, width: int, depth: int, heads: int, outputs: int
    ) -> None:
        super().__init__()
        self.state, self.action = nn.Linear(features, width), nn.Linear(action_dim, width)
        self.position = nn.Parameter(torch.randn(scope + 1, width) * 0.02)
        self.blocks = nn.ModuleList(_CausalBlock(width, heads) for _ in range(depth))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, features: Tensor, chunk: Tensor, prefixes: int) -> Tensor:
        y = torch.cat([self.state(features)[:, None], self.action(chunk)], 1) + self.position
        for block in self.blocks:
            y = block(y)
        return self.output(self.norm(y[:, -prefixes:]))  # token j has seen the state and a_1 ... a_j


class _CausalBlock(nn.Module):
    """Pre-norm attention and MLP (Vaswani et al. 2017; Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, y: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(y)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = y + self.out(causal_attention(q, k, v).transpose(1, 2).flatten(2))
        return y + self.down(F.gelu(self.up(self.norm2(y))))


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[rows, heads, tokens, d]. Written out, because torch's fused one has no second derivative (gradient penalty)."""
    tokens = q.shape[-2]
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
    return scores.softmax(-1) @ v


def _join(features: Tensor, chunk: Tensor) -> Tensor:
    return torch.cat([features, chunk.flatten(1)], -1)
