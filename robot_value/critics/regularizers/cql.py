"""Conservatism: values of chunks that nobody recorded are pushed down, the recorded chunk's value is pushed up.

CQL: Kumar et al. 2020, arXiv 2006.04779. Cal-QL: Nakamoto et al. 2023, arXiv 2303.05479. CSVE: Chen et al. 2023,
arXiv 2302.06884. All return one number per row; the caller weighs rows and multiplies by its alpha.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


# L = T log 1/(n+1) sum_{a~ in {a} + others} exp(Q(s, a~) / T) - Q(s, a);   dL/dQ = softmax(Q / T) - [a~ = a]
# with a density mu of the others: T log 1/n sum exp(Q(s, a~) / T - log mu(a~)) - Q(s, a), without a itself
def cql(q_data: Tensor, q_other: Tensor, temperature: float = 1.0, log_density: Tensor | None = None) -> Tensor:
    """q_data [E, B], q_other [E, B, n], log_density [B, n] or None -> [E, B]; without a density never negative."""
    if log_density is None:
        logits = torch.cat([q_data[..., None], q_other], -1) / temperature
    else:
        logits = q_other / temperature - log_density
    return temperature * (logits.logsumexp(-1) - math.log(logits.shape[-1])) - q_data


# Q(s, a~) <- max(Q(s, a~), G(s)): below what was really achieved from s, pushing down stops (the gradient is zero)
def calibrated(q_policy: Tensor, mc_return: Tensor) -> Tensor:
    """q_policy [E, B, n] of the policy's chunks (random ones have no floor), mc_return G [B] -> [E, B, n]."""
    return torch.maximum(q_policy, mc_return[:, None])


# L = V(s~) - V(s): states beside the data are worth less than the data's, on average
def csve(v_data: Tensor, v_other: Tensor) -> Tensor:
    """v_data [..., B] of recorded observations, v_other [..., B] of perturbed ones -> [..., B]."""
    return v_other - v_data
