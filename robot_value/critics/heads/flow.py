"""The return as the end of a flow (floq, Agrawalla et al. 2025, arXiv 2509.06863): a velocity over the value itself.

    L = (v(x, z_t, t) - (y - z_0))^2,  z_t = (1 - t) z_0 + t y,  z_0 ~ U[l, u],  t ~ U[0, 1]
    z <- z + v(x, z, t) / steps  from t = 0 to 1;       Q = mean over starts z_0 at fixed mid-points of [l, u]

In one dimension the flow is the quantile function: its ends are the return's quantiles, a constant target's are all
that constant (Value Flows, Dong et al. 2025, trains it for this). z enters as probabilities of bins, t as cosines.
Inside, returns are mapped from [low, high] to [0, 1]; targets outside are clipped to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...flow import euler, velocity_target
from ...networks.seeding import uniform
from ..distribution import Distribution, gaussian_bins, midpoints
from .iqn import cosines
from .protocol import Net


class Flow:
    outputs = 1

    def __init__(
        self,
        low: float,
        high: float,
        steps: int,  # Euler steps of the readout
        draws: int,  # starts per value, and (z_0, t) per row and update
        bins: int,  # of the embedding of z
        spread: float,  # standard deviation of that embedding, as a share of [low, high]
        coverage: float,  # width of [l, u], as a share of [low, high], around its middle
        cosines: int,  # of the embedding of t
    ) -> None:
        if not 0 < coverage <= 1:
            raise ValueError(f"head.coverage: expected more than 0, up to 1, got {coverage}")
        self.low, self.high, self.steps, self.draws = low, high, steps, draws
        self.bins, self.spread, self.coverage, self.cosines = bins, spread, coverage, cosines
        self.extra = bins + cosines

    def mean(self, net: Net, x: Tensor) -> Tensor:
        return self.distribution(net, x).mean

    def distribution(self, net: Net, x: Tensor, generator: torch.Generator | None = None) -> Distribution:
        rows = x.repeat_interleave(self.draws, 0)  # [rows * draws, inputs]
        starts = self._start(midpoints(self.draws, x.device)).repeat(len(x))
        ends = euler(lambda z, t: self._velocity(net, rows, z, torch.full_like(starts, t)), starts, self.steps)
        return Distribution.samples(self._returns(ends.unflatten(-1, (len(x), self.draws))))

    def regress(
        self, net: Net, x: Tensor, target: Distribution, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        rows, shape = x.repeat_interleave(self.draws, 0), (len(x), self.draws)
        y = self._draw(target, generator)  # [rows, draws]
        start = self._start(uniform(shape, x.device, generator))
        t = uniform(shape, x.device, generator)
        t[:, 0] = 0  # where every readout begins, and z_0 + v is the mean whatever y was drawn
        z = (1 - t) * start + t * y
        v = self._velocity(net, rows, z.flatten(), t.flatten()).unflatten(-1, shape)  # [E, rows, draws]
        loss = (v - velocity_target(start, y)).square().mean(-1)
        return self._returns(start[:, 0] + v[..., 0]), loss

    def _velocity(self, net: Net, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """x [rows, inputs], z [rows] or one per member [E, rows], t [rows] -> [E, rows]."""
        edges = torch.linspace(0, 1, self.bins + 1, device=x.device)
        place = gaussian_bins(z.clamp(0, 1), edges, self.spread) * self.bins  # each around 1
        rest = torch.cat([x, cosines(t, self.cosines)], -1)
        return net(torch.cat([rest.expand(*place.shape[:-1], -1), place], -1)).squeeze(-1)

    def _draw(self, target: Distribution, generator: torch.Generator | None) -> Tensor:
        """One atom per row and draw, as often as its weight says -> [rows, draws] in [0, 1]."""
        if target.atoms.shape[-1] == 1:
            atoms = target.atoms.expand(-1, self.draws)
        else:
            u = uniform((len(target.atoms), self.draws), target.atoms.device, generator)
            index = torch.searchsorted(target.weights.cumsum(-1), u).clamp_max(target.atoms.shape[-1] - 1)
            atoms = target.atoms.gather(-1, index)
        return ((atoms - self.low) / (self.high - self.low)).clamp(0, 1)

    def _start(self, u: Tensor) -> Tensor:
        return 0.5 + self.coverage * (u - 0.5)

    def _returns(self, unit: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * unit
