"""Samples from scaled noise: a generative policy at temperature T takes noise T z instead of z.

    T_i = low + frac(i / golden ratio) (high - low)

The golden ratio spreads temperatures evenly over any number of candidates, and candidate i has its own whatever N is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..proposal import Request

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Config:
    low: float = 1.0  # smallest scale of the noise's standard deviation; 1 is the policy's own
    high: float = 1.5  # largest; own choice, more leaves the noise that the policy was trained on

    def build(self) -> Temperature:
        if not 0 <= self.low <= self.high < math.inf:
            raise ValueError(f"temperature: expected 0 <= low <= high, got low={self.low}, high={self.high}")
        return Temperature(self)


class Temperature:
    uses_critic, anytime = False, True

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = self.config.low, self.config.high
        number = torch.arange(request.first, request.first + request.n, dtype=torch.float64)
        scale = low + (number * GOLDEN % 1) * (high - low)
        scale[number == 0] = 1.0  # the plain policy
        noise = request.noise()
        return request.sample(noise * scale.to(noise)[:, None, None])
