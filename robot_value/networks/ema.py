"""Averages of weights: the exponential moving average a policy is deployed with, and the critics' Polyak targets.

average <- average + rate * (weights - average)
"""

from __future__ import annotations

import copy

import torch
from torch import nn


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that is never trained by gradients."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def lerp_(average: nn.Module, module: nn.Module, rate: float) -> None:
    """One step of the average, all parameters in one call; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), rate)
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)


class EMA:
    """The average of a module's weights over roughly the last 1 / (1 - decay) steps."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay: expected 0 <= decay < 1, got {decay}")
        self.module, self.decay = frozen_copy(module).eval(), decay

    def update(self, module: nn.Module, step: int) -> None:
        """`step` counts from 0. Early steps average less, or the random initial weights would linger."""
        decay = min(self.decay, (1 + step) / (10 + step))
        lerp_(self.module, module, 1 - decay)
