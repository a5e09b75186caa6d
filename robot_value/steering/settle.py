"""The last word on a selection: whatever went wrong in a row ends at its first finite candidate, and says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..types import Selection, Spec
from .proposal import Proposal, clip


@dataclass(frozen=True)
class Settled:
    index: torch.Tensor  # int64[B]; -1 where the chunk is a new one
    chunk: torch.Tensor  # float32[B, H, A], spec units, inside the limits
    reason: tuple[str, ...]


def settle(
    proposal: Proposal,
    usable: torch.Tensor,  # bool[B, N], what the selector was allowed to pick or average
    selection: Selection,
    gate: tuple[np.ndarray, str],  # bool[B], whether the selection is used, and the reason where it is not
    acted: str,  # the reason where the selection is used; "base" where candidate 0 is what was asked for
    spec: Spec,
) -> Settled:
    use, why_not = gate
    blind = ~usable.any(1)
    picked = usable.gather(1, selection.index.clamp_min(0)[:, None])[:, 0]
    sound = torch.where(selection.index >= 0, picked, selection.chunk.isfinite().all(2).all(1))
    accepted = torch.from_numpy(use).to(sound.device) & sound & ~blind
    fallback = proposal.finite.int().argmax(1)  # candidate 0 unless it is not finite
    index = torch.where(accepted, selection.index, fallback)
    candidate = proposal.filled[torch.arange(len(index), device=index.device), index.clamp_min(0)]
    chunk = torch.where((index < 0)[:, None, None], clip(selection.chunk, spec), candidate)
    fine = np.where((index > 0).cpu().numpy(), "policy_fallback", "base") if acted == "base" else acted
    problems = [blind.cpu().numpy(), ~use, ~sound.cpu().numpy()]
    reason = np.select(problems, ["critic_fallback", why_not, "selector_fallback"], fine)
    return Settled(index, chunk, tuple(reason.tolist()))


def steps(proposal: Proposal, index: torch.Tensor, execute: int) -> torch.Tensor:
    """int64[B]: at most k, and no further than the chunk (or the shortest one in an average) means something."""
    shortest = proposal.lengths.masked_fill(~proposal.finite, proposal.chunks.shape[2]).amin(1)
    chosen = proposal.lengths.gather(1, index.clamp_min(0)[:, None])[:, 0]
    return torch.where(index < 0, shortest, chosen).clamp(1, execute)
