"""E independent perceptrons behind one call, their parameters stacked: [rows, inputs] -> [E, rows, outputs].

The parameters are stored stacked on every device; how they are multiplied depends on it. On a GPU one baddbmm per
layer saves launches; on a CPU at widths of 256-512 a loop over members is as fast or faster.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EnsembleMLP(nn.Module):
    def __init__(
        self, members: int, inputs: int, hidden: Sequence[int], outputs: int = 1, layer_norm: bool = True
    ) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"an ensemble needs at least 1 member, got {members}")
        self.members, self.layer_norm = members, layer_norm
        sizes = [inputs, *hidden, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)  # what nn.Linear draws from, member by member
            self.weights.append(torch.empty(members, fan_out, fan_in).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, fan_out).uniform_(-bound, bound))
        for width in hidden if layer_norm else ():
            self.gains.append(torch.ones(members, width))
            self.shifts.append(torch.zeros(members, width))

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, inputs], or each member's own [E, rows, inputs] -> [E, rows, outputs]."""
        return self.batched(x) if x.is_cuda else self.looped(x)

    def looped(self, x: Tensor) -> Tensor:
        # unbind, not indexing: its backward stacks E gradients once instead of adding E mostly-zero stacks
        per_member = [zip(*(p.unbind(0) for p in group), strict=True) for group in self._groups()]
        members = zip(each_own(x, self.members), zip(*per_member, strict=True), strict=True)
        return torch.stack([_member(own, *layers) for own, layers in members])

    def batched(self, x: Tensor) -> Tensor:
        x = x if x.dim() == 3 else x.expand(self.members, *x.shape)
        groups = self._groups()
        for weights, biases, *norm in groups[:-1]:
            x = torch.baddbmm(biases.unsqueeze(1), x, weights.transpose(1, 2))
            if norm:
                x = F.layer_norm(x, x.shape[-1:]) * norm[0].unsqueeze(1) + norm[1].unsqueeze(1)
            x = F.gelu(x)
        weights, biases = groups[-1]
        return torch.baddbmm(biases.unsqueeze(1), x, weights.transpose(1, 2))

    def _groups(self) -> list[tuple[Tensor, ...]]:
        """Per layer: (weights, biases[, gains, shifts]), each stacked [E, ...]."""
        linear = list(zip(self.weights, self.biases, strict=True))
        if not self.layer_norm:
            return linear
        norm = [*zip(self.gains, self.shifts, strict=True), ()]
        return [(*pair, *extra) for pair, extra in zip(linear, norm, strict=True)]


def each_own(x: Tensor, members: int) -> Sequence[Tensor]:
    """What each member sees of x: its own share of [E, rows, inputs], or all the same [rows, inputs]."""
    return x.unbind(0) if x.dim() == 3 else [x] * members


def _member(x: Tensor, *layers: tuple[Tensor, ...]) -> Tensor:
    for weight, bias, *norm in layers[:-1]:
        x = F.linear(x, weight, bias)
        if norm:
            x = F.layer_norm(x, x.shape[-1:], *norm)
        x = F.gelu(x)
    return F.linear(x, *layers[-1])
