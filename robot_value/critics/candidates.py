"""N chunks per row from a policy, and their values: the expensive half of a best-of-N backup, without gradients.

`precision` off | auto | float32 | bfloat16 says whether the networks run packed, see networks/packed.py. Weights are
packed once per call, that is once per update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..networks.packed import packed
from ..networks.policy_features import context_of
from ..networks.seeding import normal
from ..sampling import TensorObservation

if TYPE_CHECKING:
    from ..protocols import ChunkPolicy


@torch.no_grad()
def propose(
    policy: ChunkPolicy | Any,
    observation: TensorObservation,
    n: int,
    generator: torch.Generator | None,
    precision: str = "off",
) -> Tensor:
    """float32[B, n, H, A] in spec units, NaN where the policy gave no finite chunk."""
    context = context_of(policy, observation)
    shape = (len(observation.state), n, policy.spec.horizon, policy.spec.action_dim)
    noise = normal(shape, observation.state.device, generator)
    with packed(policy, precision):
        return policy.sample(context, n, noise)[0]


@torch.no_grad()
def values(
    q: nn.Module | Callable[[Tensor, Tensor], Tensor],  # (features [rows, F], chunk [rows, k, A]) -> [E, rows]
    features: Tensor,
    chunks: Tensor,
    tile: int = 2048,
    precision: str = "off",
) -> Tensor:
    """features [B, F], chunks [B, n, k, A] normalized -> [E, B, n]."""
    n = chunks.shape[1]
    rows, conditions = chunks.flatten(0, 1), features.repeat_interleave(n, 0)
    with packed(q, precision):
        pieces = [q(conditions[i : i + tile], rows[i : i + tile]) for i in range(0, len(rows), tile)]
    return torch.cat(pieces, 1).unflatten(1, (-1, n))


def best_of_n(select: Tensor, chunks: Tensor) -> tuple[Tensor, Tensor]:
    """select [B, n] -> (index [B] of the largest finite one, chosen [B, k, A])."""
    index = torch.where(select.isfinite(), select, -torch.inf).argmax(1)
    return index, chunks[torch.arange(len(index), device=index.device), index]
