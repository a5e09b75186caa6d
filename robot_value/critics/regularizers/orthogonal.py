"""Orthogonal-gradient update (ODICE, Mao et al. 2024, arXiv 2402.00348): learn from the next state without a fight.

A Bellman residual has a gradient through V(s) (forward) and one through V(s') (backward). TD drops the second; adding
it plainly undoes part of the first. Its component at right angles to the first costs nothing and separates s from s'.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


# g = g_f + eta g_b',   g_b' = g_b - (g_f . g_b / |g_f|^2) g_f
def orthogonal(forward: Tensor, backward: Tensor, parameters: Sequence[Tensor], eta: float = 1.0) -> Tensor:
    """A loss with the value of `forward` and the gradient g in the parameters."""
    return forward + eta * sideways(forward, backward, parameters)


def sideways(forward: Tensor, backward: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """A loss of value 0 with the gradient g_b'; nothing where no gradients are taken (validation)."""
    if not torch.is_grad_enabled():
        return torch.zeros_like(forward)
    along, across = (
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for loss in (forward, backward)
    )
    product = sum((f * b).sum() for f, b in zip(along, across, strict=True))
    share = product / sum(f.square().sum() for f in along).clamp_min(1e-12)
    push = sum(((b - share * f) * p).sum() for f, b, p in zip(along, across, parameters, strict=True))
    return push - push.detach()
