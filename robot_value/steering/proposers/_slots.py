"""What proposers share: which candidates of a request are theirs, the samples beside them, and the best of a pool.

Candidate 0 is the plain policy's chunk. A request that begins later (`first` > 0, a part of a mixture) has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..proposal import Request


def open_slots(request: Request) -> range:
    """Places in this request that are not the plain policy's."""
    return range(int(request.first == 0), request.n)


def beside_samples(request: Request, slots: Sequence[int], chunks: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """chunks [B, m, H, A] and lengths [B, m] in m `slots`, samples of the policy in all others of the N."""
    rest = [i for i in range(request.n) if i not in slots]
    if not rest:
        return chunks, lengths
    sampled, sampled_lengths = request.sample(request.noise()[:, rest])
    order = torch.tensor([*rest, *slots], device=sampled.device).argsort()
    return torch.cat([sampled, chunks], 1)[:, order], torch.cat([sampled_lengths, lengths], 1)[:, order]


def with_committed(request: Request, chunks: Tensor) -> Tensor:
    """chunks [B, m, H, A] whose first steps are what each robot will do anyway."""
    committed, pending = request.observation.committed, request.observation.pending
    width = min(int(committed.max()), chunks.shape[2])
    if width == 0:
        return chunks
    ahead = torch.from_numpy(pending[:, :width]).to(chunks)[:, None].expand(-1, chunks.shape[1], -1, -1)
    fixed = torch.arange(width) < torch.from_numpy(committed)[:, None]  # bool[B, width]
    begun = torch.where(fixed.to(chunks.device)[:, None, :, None], ahead, chunks[:, :, :width])
    return torch.cat([begun, chunks[:, :, width:]], 2)


def best(value: Tensor, n: int) -> Tensor:
    """int64[B, n]: places of the n largest values [B, M]; what is not finite comes last, ties in order."""
    comparable = torch.where(value.isfinite(), value, -torch.inf)
    return comparable.sort(dim=1, descending=True, stable=True).indices[:, :n]


def take(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B, M, ...], index int64[B, n] -> [B, n, ...]."""
    return rows[torch.arange(len(rows), device=rows.device)[:, None], index]


def judge_noise(request: Request, noise: Tensor, time: Tensor | None = None) -> Tensor:
    """What the critic expects of noise [B, M, H, A], of seeds or at flow times [B, M]: float32[B, M]."""
    if not hasattr(request.critic, "score_noise"):
        got = type(request.critic).__name__
        raise ValueError(
            f"this proposer judges noise: expected a critic of noise, got {got} without score_noise; train "
            "noise_critic, faster or hume, or choose proposer samples"
        )
    return request.critic.score_noise(request.critic_context, noise, time).value
