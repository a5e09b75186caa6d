"""RO2O's two terms (Wen et al. 2024, arXiv 2309.16973; both from RORL, Yang et al. 2022, arXiv 2206.02829).

Smoothness: a small error of the observation must not change the value, least of all upwards.
Uncertainty: off the data, where the ensemble disagrees, values are pulled down by that disagreement.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...networks.seeding import uniform
from ..ensemble import spread


def perturbed(features: Tensor, epsilon: float, n: int, generator: torch.Generator | None) -> Tensor:
    """features [B, F] -> n * B rows, copy by copy, each number moved uniformly within +- epsilon."""
    share = uniform((n, *features.shape), features.device, generator, dim=1)
    return (features + epsilon * (2 * share - 1)).flatten(0, 1)


# d = Q(s~, a) - Q(s, a);   L = max over n copies s~ of (1 - tau) d^2 where d > 0, tau d^2 where d < 0
def smoothness(q_data: Tensor, q_perturbed: Tensor, tau: float = 0.2) -> Tensor:
    """q_data [E, B], q_perturbed [E, n * B] of `perturbed` features and the same chunks -> [E, B]."""
    difference = q_perturbed.unflatten(1, (-1, q_data.shape[1])) - q_data[:, None]
    slope = torch.where(difference > 0, 1 - tau, tau)
    return (slope * difference.square()).amax(1)


# L = (Q_i(s~, a~) - y)^2,   y = sg(Q_i(s~, a~) - alpha std_i Q_i(s~, a~))
def uncertainty(q_other: Tensor, alpha: float) -> Tensor:
    """q_other [E, ...] at states and chunks off the data -> [E, ...]; nothing happens where all members agree."""
    target = (q_other - alpha * spread(q_other)).detach()
    return (q_other - target).square()
