"""The seam between a value network and what its outputs mean. A head has no weights; it asks the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..distribution import Distribution

# x [rows, inputs + head.extra], or each member's own [E, rows, inputs + head.extra] -> [E, rows, head.outputs]
Net = Callable[[Tensor], Tensor]


class Head(Protocol):
    extra: int  # inputs the network gets beside what it judges, e.g. a quantile level or a flow time
    outputs: int  # numbers the network puts out per value

    def mean(self, net: Net, x: Tensor) -> Tensor:
        """x [rows, inputs] -> the expected return [E, rows], deterministic and differentiable."""
        ...

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        """x [rows, inputs] -> atoms [E, rows, K]: what a backup shifts and discounts."""
        ...

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """(mean [E, rows], loss [E, rows]) of x [rows, inputs] against atoms [rows, K], one call of the network."""
        ...
