"""The rest of the previous chunk as a candidate: going on as planned, which no fresh sample quite does.

Coherence in the sense of Bidirectional Decoding (Liu et al. 2024, arXiv 2408.17355), offered rather than weighed. The
other candidates are samples. Refused (NaN) where the last decision said nothing about the steps to come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..proposal import Request
from ._slots import beside_samples, open_slots, with_committed


@dataclass(frozen=True)
class Config:
    def build(self) -> Tail:
        return Tail()


class Tail:
    uses_critic, anytime = False, False

    def __call__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        chunks, lengths = tail(request)
        m = len(slots := open_slots(request)[:1])
        return beside_samples(request, slots, chunks[:, :m], lengths[:, :m])


def tail(request: Request) -> tuple[torch.Tensor, torch.Tensor]:
    """float32[B, 1, H, A] and int64[B, 1]: known steps, the last one repeated; NaN where no new step is known."""
    spec, committed = request.policy.spec, torch.from_numpy(request.observation.committed).to(request.device)
    previous = request.previous
    if previous is None:
        previous = torch.full((request.batch, spec.horizon, spec.action_dim), torch.nan, device=request.device)
    plan = with_committed(request, previous[:, None])[:, 0]
    known = plan.isfinite().all(2).int().cumprod(1).sum(1)  # int64[B], up to the first gap
    step = torch.arange(spec.horizon, device=plan.device).minimum((known - 1).clamp_min(0)[:, None])  # [B, H]
    chunk = plan.gather(1, step[:, :, None].expand_as(plan))
    chunk = torch.where((known > committed)[:, None, None], chunk, torch.nan)
    return chunk[:, None], known.clamp_min(1)[:, None]
