"""How fast a value may change: with the chunk (gradient penalty) and with any input (spectral norms of the weights).

Gradient penalty: Gulrajani et al. 2017, arXiv 1704.00028, one-sided. Spectral norm: Yoshida & Miyato 2017, arXiv
1705.10941.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .chunks import Q


# L = [|dQ/da| - limit]_+^2
def gradient_penalty(q: Q, features: Tensor, chunk: Tensor, limit: float) -> Tensor:
    """features [B, F], chunk [B, k, A], limit in value per standard deviation of the actions -> [E, B]."""
    with torch.enable_grad():  # also while validating
        chunk = chunk.detach().requires_grad_()
        members = q(features.detach(), chunk).sum(1)  # [E]
        slopes = [torch.autograd.grad(member, chunk, create_graph=True)[0].flatten(1) for member in members]
    length = torch.stack(slopes).square().sum(-1).clamp_min(1e-12).sqrt()
    return (length - limit).clamp_min(0).square()


# sigma(W) = max_v |W v| / |v|, by v <- W' W v
def spectral_norm(weight: Tensor, iterations: int = 8) -> Tensor:
    """weight [..., out, in] -> [...], differentiable; always from the same start, so that runs repeat."""
    with torch.no_grad():
        v = torch.linspace(1, 2, weight.shape[-1]).to(weight).expand(*weight.shape[:-2], -1)[..., None]
        for _ in range(iterations):
            v = F.normalize(weight.mT @ (weight @ v), dim=-2)
        u = F.normalize(weight @ v, dim=-2)
    return (u.mT @ weight @ v)[..., 0, 0]


# L = sum_layers sigma(W_l)^2, mean over stacked members
def spectral_penalty(network: nn.Module) -> Tensor:
    """Over the weights [out, in] or [E, out, in] that are trained; biases and gains have no norm of this kind."""
    weights = [p for name, p in network.named_parameters() if "weight" in name and p.ndim in (2, 3) and p.requires_grad]
    return sum(spectral_norm(weight).square().mean() for weight in weights)
