"""Anytime N: candidates are proposed and scored in growing blocks, and what is scored when the time is up competes.

A block that is not expected to fit, going by the one before it, is not begun; the first is always finished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..types import Scores
from .proposal import Proposal, Request

FIRST = 2  # candidates of the first block: the plain one and something to compare it with


@dataclass(frozen=True)
class Candidates:
    proposal: Proposal
    scores: Scores
    cut: bool  # whether the deadline came before the last candidate


Block = Callable[[Request], tuple[Proposal, Scores]]


def by_deadline(block: Block, request: Request, clock: Callable[[], float], deadline: float) -> Candidates:
    """Blocks of 2, 2, 4, 8, ... candidates until N or `deadline`, s by `clock`; the rest is NaN and not scored."""
    parts: list[tuple[Proposal, Scores]] = []
    done, size, begun = 0, min(FIRST, request.n), clock()
    while True:
        parts.append(block(replace(request, first=done, n=size)))
        done, before, now = done + size, size, clock()
        size = min(done, request.n - done)
        if not size or now + (now - begun) * size / before > deadline:
            break
        begun = now
    proposal, scores = _join(parts)
    return Candidates(_padded(proposal, request.n), _padded_scores(scores, request.n), cut=done < request.n)


def _join(parts: list[tuple[Proposal, Scores]]) -> tuple[Proposal, Scores]:
    proposals, scores = zip(*parts, strict=True)
    named = {name: torch.cat([s.named[name] for s in scores], 1) for name in scores[0].named}
    chunks, lengths, finite = (
        torch.cat([getattr(p, f) for p in proposals], 1) for f in ("chunks", "lengths", "finite")
    )
    value, spread, scored = (torch.cat([getattr(s, f) for s in scores], 1) for f in ("value", "spread", "scored"))
    return Proposal(chunks, lengths, finite), Scores(value, spread, scored, named)


def _padded(proposal: Proposal, n: int) -> Proposal:
    chunks, lengths, finite = proposal.chunks, proposal.lengths, proposal.finite
    return Proposal(_fill(chunks, n, torch.nan), _fill(lengths, n, chunks.shape[2]), _fill(finite, n, False))


def _padded_scores(scores: Scores, n: int) -> Scores:
    named = {name: _fill(value, n, torch.nan) for name, value in scores.named.items()}
    value, spread = (_fill(each, n, torch.nan) for each in (scores.value, scores.spread))
    return Scores(value, spread, _fill(scores.scored, n, False), named)


def _fill(part: torch.Tensor, n: int, value: float) -> torch.Tensor:
    """part [B, m, ...] -> [B, n, ...]."""
    missing = part.new_full((len(part), n - part.shape[1], *part.shape[2:]), value)
    return torch.cat([part, missing], 1)
