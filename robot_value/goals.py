"""Goals for recorded windows, made afterwards: hindsight relabelling (Andrychowicz et al. 2017) as DQC and OGBench do.

A window starts at frame t; its goal is a recorded frame g. The goal is d = g - t steps ahead where g is the same
episode's frame t or a later one, and out of reach otherwise: only the frame itself counts, not one that looks like it.

    success  a reward of 1 at the goal, so gamma with the step that leads there:   V(s, g) = gamma^d
    cost     a reward of -1 per step until the goal:                  V(s, g) = -(1 - gamma^d) / (1 - gamma)

The step that leads to the goal terminates the window (at d = 0 the first one does, at its full reward). The recorded
rewards and terminations mean nothing towards another goal: an episode that ended before the goal ran out of time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .normalize import Statistics

REWARDS = ("success", "cost")
FUTURES = ("uniform", "geometric")
NEVER = 1 << 40  # steps to a goal that is not ahead in the window's episode


@dataclass(frozen=True)
class GoalConfig:
    """Which frames become goals, for a model whose encoder sees one (`encoder.goal`); the shares sum to 1."""

    current: float = 0.2  # share of goals that are the window's own frame; DQC
    future: float = 0.5  # share that are a later frame of the same episode; DQC
    random: float = 0.3  # share that are any frame of any episode; DQC
    sampling: str = "uniform"  # uniform (DQC) | geometric (P(d > j) = gamma^j; HIQL): how far ahead a future goal is
    reward: str = "success"  # success (1 at the goal; DQC) | cost (-1 per step until the goal; HIQL, OGBench)

    def __post_init__(self) -> None:
        shares = (self.current, self.future, self.random)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"goals: expected shares current, future and random that sum to 1, got {shares}")
        for name, allowed in (("sampling", FUTURES), ("reward", REWARDS)):
            if getattr(self, name) not in allowed:
                expected = " or ".join(allowed)
                raise ValueError(f"goals.{name}: expected {expected}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Labels:
    """What n windows of L steps are worth towards their goals."""

    rewards: Tensor  # float32[n, L], 0 past the episode's end
    terminated: Tensor  # bool[n, L]
    mc_return: Tensor  # float32[n], to the goal or to the episode's end
    success: Tensor  # float32[n], 1 where the goal is ahead in the episode


def choose_goals(
    config: GoalConfig,
    gamma: float,
    chance: Tensor,  # float64[n, 2], uniform in [0, 1): which kind of goal, and which of that kind
    now: Tensor,  # int64[n], frame at which the window starts
    last: Tensor,  # int64[n], last frame of its episode, later than `now`
    frames: Tensor,  # int64[F], every frame a random goal may be
) -> Tensor:
    """int64[n], the goal's frame."""
    kind, which = chance.unbind(1)
    ahead = 1 + (_geometric(which, gamma) if config.sampling == "geometric" else which * (last - now)).long()
    future = torch.minimum(now + ahead, last)
    anywhere = frames[(which * len(frames)).long()]
    goal = torch.where(kind < config.current + config.future, future, anywhere)
    return torch.where(kind < config.current, now, goal)


def _geometric(chance: Tensor, gamma: float) -> Tensor:
    if not 0 < gamma < 1:
        raise ValueError(f"goals.sampling=geometric: expected 0 < gamma < 1, got {gamma}; use uniform")
    return torch.log1p(-chance) / math.log(gamma)


def label(
    config: GoalConfig,
    gamma: float,
    length: int,  # L
    distance: Tensor,  # int64[n], d; NEVER where the goal is not ahead
    left: Tensor,  # int64[n], steps to the episode's end, at least 1
) -> Labels:
    step = torch.arange(length, device=distance.device)
    terminated = step == (distance - 1).clamp_min(0)[:, None]
    ahead = distance < NEVER
    if config.reward == "success":
        rewards = terminated * torch.where(distance == 0, 1.0, gamma)[:, None]
        mc_return = torch.where(ahead, gamma ** distance.double(), 0.0)
    else:
        paid = torch.minimum(distance, left)  # steps that cost
        rewards = -(step < paid[:, None]).float()
        mc_return = -(paid.double() if gamma == 1 else (1 - gamma ** paid.double()) / (1 - gamma))
    return Labels(rewards.float(), terminated, mc_return.float(), ahead.float())


def goal_return_statistics(config: GoalConfig, gamma: float, longest: int) -> Statistics:
    """The range of returns towards goals, for heads with a fixed support; mean and std as if uniform over it.

    longest: steps of the longest episode, which bounds a cost that is not discounted.
    """
    low, high = (0.0, 1.0) if config.reward == "success" else (-1 / (1 - gamma) if gamma < 1 else -float(longest), 0.0)
    middle, deviation = (low + high) / 2, (high - low) / 12**0.5
    return Statistics(*(np.array([value]) for value in (middle, deviation, low, high)), count=1)
