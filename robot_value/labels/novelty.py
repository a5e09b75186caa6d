"""How new a row is (random network distillation, Burda et al. 2018, arXiv 1810.12894).

b(x) = mean_k (f_k(x) - g_k(x))^2 / std,   g random and frozen, f fitted to g where data are, std of their errors
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from .small_network import FitConfig, SmallNetwork

FEATURES = 32  # outputs of g; the error's noise falls with their root


class Novelty:
    def __init__(self, rows: np.ndarray, config: FitConfig) -> None:
        """rows float32[n, D] that are known."""
        self.predictor = SmallNetwork(rows, 1, FEATURES, config)
        self.target = SmallNetwork(rows, 1, FEATURES, replace(config, seed=config.seed + 1), layer_norm=False)
        _bend(self.target.net)
        x = torch.from_numpy(rows)
        with torch.no_grad():
            y = self.target(x)[0]
        self.predictor.fit(lambda i: (self.predictor(x[i])[0] - y[i]).square().mean(), len(rows), config, "novelty")
        self.scale = max(float(self.error(rows).std()), 1e-12)

    def error(self, rows: np.ndarray) -> np.ndarray:
        """rows float32[n, D] -> float32[n]."""
        return np.square(self.predictor.predict(rows) - self.target.predict(rows))[0].mean(-1)

    def bonus(self, rows: np.ndarray) -> np.ndarray:
        """rows float32[n, D] -> float32[n], in standard deviations of the known rows' errors."""
        return self.error(rows) / self.scale


@torch.no_grad()
def _bend(net: nn.Module) -> None:
    """He et al.'s variance: a g that is almost linear is learned everywhere at once, and nothing is new."""
    for weight in net.weights:
        weight.mul_(math.sqrt(6))
