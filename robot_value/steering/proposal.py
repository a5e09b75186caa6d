"""N candidate chunks per robot: what a proposer works with, and its answer made safe to score.

A policy speaks from the observation's step on. A robot that delays decisions executes `committed` pending actions
first, so candidates begin with those (the policy may inpaint them; they happen whatever it says), the critic scores
them from the observation on, and `from_start` then cuts them off: a decision begins where it can take effect.
Candidate 0 is the plain policy's chunk, whoever proposes the others and whatever guide leads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import randomness
from ..protocols import ChunkPolicy, Context, Critic, Guide, Proposer
from ..types import Observation, Spec, Steering


@dataclass(frozen=True)
class Proposal:
    chunks: torch.Tensor  # float32[B, N, H, A], spec units; NaN where a candidate was refused
    lengths: torch.Tensor  # int64[B, N], steps of a chunk that mean something
    finite: torch.Tensor  # bool[B, N]

    @property
    def filled(self) -> torch.Tensor:
        """Chunks with zeros for refused candidates, so that they cannot spread inside a critic's batch."""
        return self.chunks.nan_to_num(0.0)

    def from_start(self, committed: np.ndarray) -> Proposal:
        """The chunks without their first `committed` int64[B] steps; the end repeats, and `lengths` shrink."""
        if not committed.any():
            return self
        skip = torch.from_numpy(committed).to(self.chunks.device)
        horizon, action_dim = self.chunks.shape[2:]
        step = (torch.arange(horizon, device=skip.device) + skip[:, None]).clamp_max(horizon - 1)  # [B, H]
        index = step[:, None, :, None].expand(-1, self.chunks.shape[1], -1, action_dim)
        return replace(self, chunks=self.chunks.gather(2, index), lengths=self.lengths - skip[:, None])


@dataclass(frozen=True)
class Request:
    """One decision of B robots, as proposers and guides see it."""

    policy: ChunkPolicy
    context: Context  # the policy's, encoded once
    observation: Observation
    n: int  # N, candidates wanted
    seed: int  # key of the candidates' noise
    device: torch.device  # where the policy wants its noise
    execute: int  # k, leading steps that will be executed
    critic: Critic | None = None
    critic_context: Any = None
    previous: torch.Tensor | None = None  # float32[B, H, A], the last decision's plan from the observation on, or NaN
    past: torch.Tensor | None = None  # float32[B, H, A], what it told for the H steps before the observation, or NaN
    guide: Guide | None = None
    first: int = 0  # index of the first candidate wanted: with a deadline they are asked for in blocks
    exact: bool = False  # candidate 0 is sampled alone, unguided, as the plain policy would: equal to the bit

    @property
    def batch(self) -> int:
        return self.observation.batch_size

    def noise(self, n: int | None = None, stream: str = "noise") -> torch.Tensor:
        """Standard normal float32[B, n, H, A], candidates `first` and following; n is N unless given."""
        n, spec = self.n if n is None else n, self.policy.spec
        shape = (self.first + n, spec.horizon, spec.action_dim)
        drawn = randomness.normal(self.seed, self.observation.episode, self.observation.step, shape, stream)
        return torch.from_numpy(drawn[:, self.first :]).to(self.device)

    def generators(self, stream: str) -> list[np.random.Generator]:
        """B keyed generators, one per robot."""
        return randomness.generators(self.seed, self.observation.episode, self.observation.step, stream)

    def sample(self, noise: torch.Tensor, guided: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """The policy's chunks float32[B, n, H, A] and lengths int64[B, n], beginning with the committed actions."""
        if not self.exact or self.first:
            return self._sample(noise, guided)
        if noise.shape[1] == 1:
            return self._sample(noise, guided=False)
        plain, all_of_them = self._sample(noise[:, :1], guided=False), self._sample(noise, guided)
        return tuple(torch.cat([first, rest[:, 1:]], 1) for first, rest in zip(plain, all_of_them, strict=True))

    def rows(self, rows: np.ndarray) -> Request:
        """The chosen robots only, bool[B]."""
        mask = torch.from_numpy(rows).to(self.device)
        return replace(
            self,
            context=self.context.select(mask),
            observation=self.observation.rows(rows),
            critic_context=None if self.critic_context is None else self.critic_context.select(mask),
            previous=None if self.previous is None else self.previous[mask],
            past=None if self.past is None else self.past[mask],
        )

    def _sample(self, noise: torch.Tensor, guided: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """One call of the policy per distinct count of committed steps: one in all on a synchronous robot."""
        counts = np.unique(self.observation.committed)
        if len(counts) == 1:
            return self._continue(noise, int(counts[0]), guided)
        chunks = torch.empty_like(noise)
        lengths = torch.empty(noise.shape[:2], dtype=torch.int64, device=noise.device)
        for count in counts:
            rows = self.observation.committed == count
            mask = torch.from_numpy(rows).to(noise.device)
            chunks[mask], lengths[mask] = self.rows(rows)._continue(noise[mask], int(count), guided)
        return chunks, lengths

    def _continue(self, noise: torch.Tensor, committed: int, guided: bool) -> tuple[torch.Tensor, torch.Tensor]:
        n, horizon = noise.shape[1], self.policy.spec.horizon
        given = {"guide": spare_first(self.guide, self)} if guided and self.guide is not None else {}
        if committed == 0:
            return self.policy.sample(self.context, n, noise, **given)
        if committed >= horizon:
            raise ValueError(
                f"committed: expected fewer steps than a chunk has ({horizon}), got {committed}; "
                "the robot decides too late for this policy: shorten the delay or train a longer horizon"
            )
        prefix = torch.from_numpy(self.observation.pending[:, :committed]).to(noise.device)
        chunks, lengths = self.policy.sample(self.context, n, noise, prefix=prefix, **given)
        future = chunks[:, :, committed:]
        return torch.cat([prefix[:, None].expand(-1, n, -1, -1), future], 2), lengths


def propose(proposer: Proposer, request: Request) -> Proposal:
    """Candidates inside the spec's limits. One bad number refuses its whole candidate, as clipping would keep a NaN."""
    spec = request.policy.spec
    chunks, lengths = proposer(request)
    expected = (request.batch, request.n, spec.horizon, spec.action_dim)
    if tuple(chunks.shape) != expected:
        raise ValueError(f"proposer: expected chunks [B, N, H, A] = {list(expected)}, got {list(chunks.shape)}")
    finite = chunks.isfinite().all(3).all(2)
    chunks = torch.where(finite[:, :, None, None], clip(chunks, spec), torch.nan)
    return Proposal(chunks, lengths, finite)


# What each part of a Steering says of candidate 0.
UNTOUCHED = {"gradient": 0.0, "displacement": 0.0, "churn": 0.0, "keep": True, "resample": 0}


def spare_first(guide: Guide, request: Request) -> Callable[[torch.Tensor, float], Steering]:
    """The guide for this decision, with its hands off candidate 0: not moved, not pruned, not replaced."""
    steer = guide.begin(request)
    if request.first:
        return steer

    def spared(x_hat: torch.Tensor, t: float) -> Steering:
        given = steer(x_hat, t)
        return replace(given, **{name: _first(getattr(given, name), to) for name, to in UNTOUCHED.items()})

    return spared


def _first(part: torch.Tensor | None, value: float) -> torch.Tensor | None:
    if part is None:
        return None
    part = part.clone()
    part[:, 0] = value
    return part


def clip(chunks: torch.Tensor, spec: Spec) -> torch.Tensor:
    low, high = (torch.from_numpy(limit).to(chunks.device) for limit in (spec.low, spec.high))
    return chunks.clamp(low, high)
