"""What selectors share: which candidates may be used, weights over them, and how a candidate or an average is picked.

A NaN wins every argmax and poisons every softmax, so that candidates are masked before anything is compared. Ties go
to the lowest index. In a row without a usable candidate the result means nothing; the Steerer falls back there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad

from ..types import Scores, Selection, Situation
from .rotations import align_signs, to_rotations


def scored(scores: Scores, situation: Situation) -> torch.Tensor:
    """bool[B, N]: finite candidates that the critic really judged."""
    return situation.finite & scores.scored & scores.value.isfinite() & scores.spread.isfinite()


def from_observation(chunks: torch.Tensor, situation: Situation) -> torch.Tensor:
    """chunks [B, N, H, A] as the critic's context wants them: first what a delayed robot will do before they begin."""
    if situation.committed is None:
        return chunks
    horizon = chunks.shape[2]
    step = torch.arange(horizon, device=chunks.device) - situation.committed[:, None]  # int64[B, H] into the chunk
    ahead = pad(situation.pending, (0, 0, 0, horizon - situation.pending.shape[1]))[:, None]  # [B, 1, H, A]
    index = step.clamp_min(0)[:, None, :, None].expand_as(chunks)
    return torch.where((step < 0)[:, None, :, None], ahead, chunks.gather(2, index))


def uniform(usable: torch.Tensor) -> torch.Tensor:
    """float64[B, N]: equal weights on the usable candidates."""
    return usable.double() / usable.sum(1, keepdim=True).clamp_min(1)


def named(scores: Scores, name: str) -> torch.Tensor:
    """float32[B, N]: what another critic says. Raises ValueError where none was asked."""
    if name not in scores.named:
        raise ValueError(
            f"named score {name!r}: expected a critic that gives it, got {sorted(scores.named) or 'none'}; "
            f"put one beside the main critic (an arm's `also`, or steering.panel.Panel(critic, {{{name!r}: other}}))"
        )
    return scores.named[name]


def zscore(value: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """float64[B, N]: value in standard deviations from the usable candidates' mean; 0 where all are equal."""
    weight, value = uniform(usable), torch.where(usable, value, 0.0).double()
    centred = torch.where(usable, value - (weight * value).sum(1, keepdim=True), 0.0)
    deviation = (weight * centred.square()).sum(1, keepdim=True).sqrt()
    rounding = 1e-6 * value.abs().amax(1, keepdim=True)  # a float32 critic's noise is not a preference
    return torch.where(deviation > rounding, centred / deviation, 0.0)


def softmax(value: torch.Tensor, usable: torch.Tensor, temperature: float) -> torch.Tensor:
    """float64[B, N]: softmax(z / T), z the value's z-score over usable candidates; equal values get equal weights."""
    logits = (zscore(value, usable) / temperature).masked_fill(~usable, -torch.inf)
    return torch.where(usable.any(1, keepdim=True), logits.softmax(1), 0.0)


def draw(weights: torch.Tensor, generators: Sequence[np.random.Generator]) -> torch.Tensor:
    """int64[B]: one candidate per row, by the inverse of the cumulative weights, with that row's own generator."""
    cumulative = weights.cumsum(1)
    threshold = torch.tensor([[g.random()] for g in generators], dtype=torch.float64, device=weights.device)
    return (cumulative > threshold * cumulative[:, -1:]).int().argmax(1)


def pick(chunks: torch.Tensor, index: torch.Tensor, weights: torch.Tensor | None = None) -> Selection:
    """The candidate at `index` int64[B]; weights say how likely each one was, all on `index` unless given."""
    if weights is None:
        weights = torch.nn.functional.one_hot(index, chunks.shape[1])
    rows = torch.arange(len(chunks), device=chunks.device)
    return Selection(index, chunks[rows, index], weights.to(chunks.dtype))


def best(chunks: torch.Tensor, score: torch.Tensor, usable: torch.Tensor) -> Selection:
    """The usable candidate of the highest score [B, N]; a row without one gets a NaN chunk, which nobody executes."""
    selection, some = pick(chunks, score.masked_fill(~usable, -torch.inf).argmax(1)), usable.any(1)
    chunk = torch.where(some[:, None, None], selection.chunk, torch.nan)
    return Selection(torch.where(some, selection.index, -1), chunk, selection.weights)


def average(chunks: torch.Tensor, weights: torch.Tensor, situation: Situation) -> Selection:
    """The weighted mean chunk (index -1), with rotations brought back to rotations; grippers average like the rest."""
    usable = weights > 0
    chunks = torch.where(usable[:, :, None, None], chunks, 0.0)  # 0 * NaN is NaN
    chunks = align_signs(chunks, usable.int().argmax(1), situation.spec)
    chunk = torch.einsum("bn,bnha->bha", weights.to(chunks.dtype), chunks)
    index = torch.full((len(chunks),), -1, dtype=torch.int64, device=chunks.device)
    return Selection(index, to_rotations(chunk, situation.spec), weights.to(chunks.dtype))


def check_temperature(temperature: float) -> float:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: expected a finite number above 0, got {temperature}; argmax is the limit at 0")
    return temperature
