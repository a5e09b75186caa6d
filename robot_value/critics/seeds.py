"""Noise seeds: what a policy turns into chunks, judged before it does. Parts of the critics that see noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..networks.packed import packed
from ..networks.policy_features import context_of
from ..networks.seeding import normal
from ..sampling import TensorObservation

if TYPE_CHECKING:
    from .chunk_critic import ChunkCritic


def draw(critic: ChunkCritic, rows: int, n: int, generator: torch.Generator | None) -> Tensor:
    """[rows, n, H, A]: the whole horizon, because every number of a seed may move every number of its chunk."""
    return normal((rows, n, critic.spec.horizon, critic.spec.action_dim), critic.device, generator)


@torch.no_grad()
def denoise(critic: ChunkCritic, observation: TensorObservation, seeds: Tensor) -> Tensor:
    """seeds [B, n, H, A] -> chunks [B, n, scope, A], normalized, NaN where the policy gave no finite one.

    Of a policy that stands on a flow (policies/noise.py) the flow: its input is the noise this critic judges.
    """
    flow = getattr(critic.policy, "base", critic.policy)
    context = context_of(flow, observation)
    with packed(flow, critic.precision):
        chunks = flow.sample(context, seeds.shape[1], seeds)[0]
    return critic.actions.normalize(chunks[:, :, : critic.scope])


# L = mean_n (Q_z(s, z_n) - sg Q(s, flow(s, z_n)))^2, over the seeds whose chunk is finite
def distillation_loss(judged: Tensor, values: Tensor) -> Tensor:
    """judged [E, B, n] by the noise critic, values [B, n] of the denoised chunks -> [E, B]."""
    usable = values.isfinite()
    error = torch.where(usable, judged - values.nan_to_num().detach(), 0)
    return error.square().sum(-1) / usable.sum(-1).clamp_min(1)


def no_time(time: Tensor | None) -> None:
    if time is not None:
        raise ValueError("score_noise: expected seeds (no time), got noise that was partly denoised; hume judges that")
