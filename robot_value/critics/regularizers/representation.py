"""Keeping the last hidden layer phi(s, a) of a value network from collapsing to few directions.

DR3: Kumar et al. 2022, arXiv 2112.04716. Singular values: Kumar et al. 2021, arXiv 2010.14498.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...networks.ensemble import EnsembleMLP


def representation(q: nn.Module, features: Tensor, chunk: Tensor) -> Tensor:
    """phi [E, rows, width] of a QNetwork: its output with the last layer's weights replaced by the identity."""
    net = getattr(q, "net", None)
    if not isinstance(net, EnsembleMLP) or q.head.extra:
        raise ValueError(
            "representation: expected a network with .net an EnsembleMLP and a head without inputs of its own, got "
            f"{type(q).__name__}; take the spectral or gradient penalty instead"
        )
    last, width = len(net.weights) - 1, net.weights[-1].shape[-1]
    identity = torch.eye(width, device=chunk.device).expand(net.members, width, width)
    zero = torch.zeros(net.members, width, device=chunk.device)
    x = torch.cat([features, chunk.flatten(1)], -1)
    return functional_call(net, {f"weights.{last}": identity, f"biases.{last}": zero}, (x,))


# L = phi(s, a) . phi(s', a'): TD makes the two alike by itself, which costs directions
def co_adaptation(phi: Tensor, following: Tensor) -> Tensor:
    """phi and following [E, B, width] -> [E, B]."""
    return (phi * following).sum(-1)


# L = (sigma_max^2 - sigma_min^2) / B of the batch's features, B x width
def singular_values(phi: Tensor) -> Tensor:
    """phi [E, B, width] -> [E]."""
    squares = torch.linalg.svdvals(phi).square() / phi.shape[-2]
    return squares[..., 0] - squares[..., -1]


# erank = exp(- sum p log p), p = sigma / sum sigma  (Roy & Vetterli 2007): how many directions are in use
def effective_rank(phi: Tensor) -> Tensor:
    """phi [..., B, width] -> [...]; 1 where all rows are parallel, width where all directions are used alike."""
    sigma = torch.linalg.svdvals(phi)
    share = sigma / sigma.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1).exp()
