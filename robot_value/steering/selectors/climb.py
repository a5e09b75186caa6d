"""The best candidates climb the critic's gradient and the highest arrival is taken (PA-RL, arXiv 2412.06685).

    x <- project(x + step (1 - i / steps) g / rms(g)),   g = d value / d x,   i = 0 ... steps - 1

x are the steps that will be executed, in units of the action range. The division by rms makes a step equally long
whatever the critic's unit (PA-RL: plain g times 3e-4); the shrinking steps settle. Every candidate keeps its best
iterate, so that a climb cannot lose value in the critic's eyes. It can in the world's: that is what a gate is for.
Numbers that the critic cannot judge stay: dims that never moved in its data (steering/moved.py), and steps past its
scope, which on a robot that delays decisions begins with what is executed before the chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import normalize, one_hot

from ...types import Scores, Selection, Situation, Spec
from ..moved import ever_moved
from ..proposal import clip
from ..rotations import to_rotations
from ..selection import check_temperature, draw, from_observation, scored, softmax


@dataclass(frozen=True)
class Config:
    top: int = 10  # candidates that climb, best by value (PA-RL)
    steps: int = 10  # gradient steps, each a forward and a backward pass of the critic (PA-RL)
    step: float = 0.01  # length of the first step, rms over the numbers moved, in action ranges (high - low); ours
    temperature: float = 0.0  # 0: the highest arrival; else T of softmax over the arrivals' z-scored values

    def build(self) -> Climb:
        if self.top < 1 or self.steps < 1 or not 0 < self.step < float("inf"):
            raise ValueError(
                f"climb: expected top >= 1, steps >= 1 and a finite step > 0, got {self.top}, {self.steps}, "
                f"{self.step}; argmax chooses without climbing"
            )
        temperature = self.temperature and check_temperature(self.temperature)
        return Climb(self.top, self.steps, self.step, temperature)


@dataclass(frozen=True)
class Climb:
    top: int
    steps: int
    step: float
    temperature: float
    uses_critic: ClassVar[bool] = True

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection:
        usable = scored(scores, situation)
        order = scores.value.masked_fill(~usable, -torch.inf).argsort(dim=1, descending=True, stable=True)
        top = order[:, : self.top].sort(1).values  # int64[B, K], by index again: ties go to the lowest
        rows = torch.arange(len(chunks), device=chunks.device)
        start = chunks[rows[:, None], top].nan_to_num(0.0, 0.0, 0.0)
        value, arrived = self._climb(start, situation)
        weights = self._weights(value, usable[rows[:, None], top] & value.isfinite())
        winner = draw(weights, situation.generators) if self.temperature else weights.argmax(1)
        chunk = arrived[rows, winner]
        moved = (chunk != start[rows, winner]).flatten(1).any(1)
        index = torch.where(moved, -1, top[rows, winner])
        everyone = torch.zeros_like(scores.value).scatter(1, top, weights.to(scores.value.dtype))
        return Selection(index, chunk, everyone)

    def _weights(self, value: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
        """float64[B, K]"""
        if self.temperature:
            return softmax(value, usable, self.temperature)
        return one_hot(value.masked_fill(~usable, -torch.inf).argmax(1), value.shape[1]).double()

    def _climb(self, start: torch.Tensor, situation: Situation) -> tuple[torch.Tensor, torch.Tensor]:
        """Values [B, K] and chunks [B, K, H, A] of the best iterates, the start included."""
        spec = situation.critic.spec
        able = torch.from_numpy(ever_moved(spec, situation.critic)).to(start.device)  # bool[A]
        chunk, (value, gradient) = start, _judge(start, situation)
        best_value, best = value, start
        for i in range(self.steps):
            length = self.step * (1 - i / self.steps)
            chunk = _step(chunk, gradient * able, length, spec)
            value, gradient = _judge(chunk, situation)
            better = value > best_value
            best_value = torch.where(better, value, best_value)
            best = torch.where(better[:, :, None, None], chunk, best)
        return best_value, best


def _step(chunk: torch.Tensor, gradient: torch.Tensor, length: float, spec: Spec) -> torch.Tensor:
    """The leading steps k of chunk [B, K, H, A] moved along gradient [B, K, k, A], back inside the limits."""
    span = torch.as_tensor(spec.high - spec.low, device=chunk.device)  # float32[A]
    uphill = (gradient * span).nan_to_num(0.0, 0.0, 0.0).flatten(2)  # per action range
    numbers = (uphill != 0).sum(2, keepdim=True)  # those that move
    move = normalize(uphill, dim=2) * numbers.sqrt() * length
    k = gradient.shape[2]
    moved = chunk[:, :, :k] + move.unflatten(2, gradient.shape[2:]) * span
    return torch.cat([to_rotations(clip(moved, spec), spec), chunk[:, :, k:]], 2)


def _judge(chunk: torch.Tensor, situation: Situation) -> tuple[torch.Tensor, torch.Tensor]:
    """Value [B, K] of chunk [B, K, H, A] and its gradient [B, K, k, A] by the steps that will be executed."""
    critic, (*shape, horizon, _) = situation.critic, chunk.shape
    with torch.enable_grad():
        leading = chunk[:, :, : situation.execute].detach().requires_grad_()
        whole = from_observation(torch.cat([leading, chunk[:, :, leading.shape[2] :]], 2), situation)
        value = critic.score(situation.context, whole, torch.full(shape, horizon, device=chunk.device)).value
        found = torch.autograd.grad(value.sum(), leading, allow_unused=True) if value.requires_grad else (None,)
    if found[0] is None:
        raise ValueError(
            f"climb: expected a critic whose value has a gradient by the chunk, got none from {type(critic).__name__}; "
            "use a differentiable critic, or a selector that only compares (argmax, softmax)"
        )
    return value.detach(), found[0]
