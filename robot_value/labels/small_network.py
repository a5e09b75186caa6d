"""Small networks of vectors, fitted on the CPU in a few hundred seeded steps: same data and seed, same network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..networks.ensemble import EnsembleMLP
from ..networks.seeding import seeded_weights
from ..normalize import Normalizer

CLIP = 10.0  # standard deviations; a dim that never moved while fitting must not blow up where it does
ROWS = 8192  # rows predicted at once


@dataclass(frozen=True)
class FitConfig:
    """How a labeler's network is fitted."""

    hidden: tuple[int, ...] = (128, 128)  # widths of the hidden layers
    steps: int = 1000  # Adam steps
    batch: int = 256  # rows per step, drawn uniformly with replacement
    lr: float = 1e-3  # Adam learning rate, falls to 0 (cosine)
    seed: int = 0  # of weights and batches


class SmallNetwork:
    """rows [n, D] -> [E, n, outputs]; E members, inputs standardised by the rows it was made for."""

    def __init__(self, rows: np.ndarray, members: int, outputs: int, config: FitConfig, layer_norm: bool = True):
        self.inputs = Normalizer.fit(rows)
        with seeded_weights(config.seed):
            self.net = EnsembleMLP(members, rows.shape[1], config.hidden, outputs, layer_norm)

    def __call__(self, rows: Tensor) -> Tensor:
        return self.net(self.inputs.normalize(rows).clamp(-CLIP, CLIP))

    @torch.no_grad()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """rows float32[n, D] -> float32[E, n, outputs]."""
        pieces = torch.tensor(rows, dtype=torch.float32).split(ROWS)
        return torch.cat([self(piece) for piece in pieces], 1).numpy()

    def fit(self, loss: Callable[[Tensor], Tensor], rows: int, config: FitConfig, what: str) -> None:
        """Descend `loss(index int64[batch])` over the numbers 0..rows."""
        optimizer = torch.optim.Adam(self.net.parameters(), config.lr, fused=True)  # a third faster on small networks
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(config.steps, 1))
        generator = torch.Generator().manual_seed(config.seed)
        for _ in tqdm(range(config.steps), what, unit="step", disable=None):  # None: only where a person looks
            optimizer.zero_grad()
            loss(torch.randint(rows, (config.batch,), generator=generator)).backward()
            optimizer.step()
            schedule.step()


class Regression:
    """y(x) by least squares, standardised inside: the reward of (s, a), or the value of s."""

    def __init__(self, rows: np.ndarray, targets: np.ndarray, config: FitConfig, what: str) -> None:
        """rows float32[n, D], targets float32[n]."""
        self.outputs = Normalizer.fit(targets[:, None])
        self.network = SmallNetwork(rows, 1, 1, config)
        x, y = torch.from_numpy(rows), torch.from_numpy(self.outputs.normalize(targets[:, None]))
        self.network.fit(lambda i: (self.network(x[i])[0] - y[i]).square().mean(), len(rows), config, what)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """rows float32[n, D] -> float32[n]."""
        return self.outputs.unnormalize(self.network.predict(rows)[0])[:, 0]
