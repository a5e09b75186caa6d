"""N candidate chunks per robot: keyed noise through the policy, after the actions a slow robot has committed to.

A policy speaks from the observation's step on. A robot that delays decisions executes `committed` pending actions
first, so candidates begin with those (the policy may inpaint them; they happen whatever it says), the critic scores
them from the observation on, and `from_start` then cuts them off: a decision begins where it can take effect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from .. import randomness
from ..protocols import ChunkPolicy, Context
from ..types import Observation, Spec


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


def propose(
    policy: ChunkPolicy, context: Context, observation: Observation, n: int, seed: int, device: torch.device
) -> Proposal:
    """Candidates inside the spec's limits. One bad number refuses its whole candidate, as clipping would keep a NaN."""
    spec = policy.spec
    shape = (n, spec.horizon, spec.action_dim)
    noise = torch.from_numpy(randomness.normal(seed, observation.episode, observation.step, shape)).to(device)
    chunks, lengths = _sample(policy, context, observation, noise)
    finite = chunks.isfinite().all(3).all(2)
    chunks = torch.where(finite[:, :, None, None], clip(chunks, spec), torch.nan)
    return Proposal(chunks, lengths, finite)


def clip(chunks: torch.Tensor, spec: Spec) -> torch.Tensor:
    low, high = (torch.from_numpy(limit).to(chunks.device) for limit in (spec.low, spec.high))
    return chunks.clamp(low, high)


def _sample(
    policy: ChunkPolicy, context: Context, observation: Observation, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One call of the policy per distinct count of committed steps: one in all on a synchronous robot."""
    counts = np.unique(observation.committed)
    if len(counts) == 1:
        return _continue(policy, context, observation, noise, int(counts[0]))
    chunks = torch.empty_like(noise)
    lengths = torch.empty(noise.shape[:2], dtype=torch.int64, device=noise.device)
    for count in counts:
        rows = observation.committed == count
        mask = torch.from_numpy(rows).to(noise.device)
        part = _continue(policy, context.select(mask), observation.rows(rows), noise[mask], int(count))
        chunks[mask], lengths[mask] = part
    return chunks, lengths


def _continue(
    policy: ChunkPolicy, context: Context, observation: Observation, noise: torch.Tensor, committed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    n = noise.shape[1]
    if committed == 0:
        return policy.sample(context, n, noise)
    horizon = policy.spec.horizon
    if committed >= horizon:
        raise ValueError(
            f"committed: expected fewer steps than a chunk has ({horizon}), got {committed}; "
            "the robot decides too late for this policy: shorten the delay or train a longer horizon"
        )
    prefix = torch.from_numpy(observation.pending[:, :committed]).to(noise.device)
    chunks, lengths = policy.sample(context, n, noise, prefix=prefix)
    future = chunks[:, :, committed:]
    return torch.cat([prefix[:, None].expand(-1, n, -1, -1), future], 2), lengths
