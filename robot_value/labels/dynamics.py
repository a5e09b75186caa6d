"""What an action leads to, with doubt: an ensemble of Gaussian networks (PETS, Chua et al. 2018, arXiv 1805.12114).

s' = s + N(mu_m(s, a), sigma_m(s, a)^2), by likelihood    sigma: what is random, spread over m: what is unknown
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..normalize import Normalizer
from .small_network import FitConfig, SmallNetwork

LOG_SIGMA = (-5.0, 2.0)  # in standard deviations of the data's own changes; keeps the likelihood bounded


class Dynamics:
    def __init__(self, states: np.ndarray, actions: np.ndarray, after: np.ndarray, members: int, config: FitConfig):
        """states and after float32[n, S], actions float32[n, A]."""
        rows, change = np.concatenate([states, actions], 1), after - states
        self.change = Normalizer.fit(change)
        self.network = SmallNetwork(rows, members, 2 * states.shape[1], config)
        x, y = torch.from_numpy(rows), torch.from_numpy(self.change.normalize(change))

        def loss(i: Tensor) -> Tensor:
            mean, log_sigma = _gaussian(self.network(x[i]))
            return ((y[i] - mean).square() / 2 * (-2 * log_sigma).exp() + log_sigma).mean()

        self.network.fit(loss, len(rows), config, "dynamics")

    def sample(self, states: np.ndarray, actions: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """float32[draws * members, n, S], what may follow; draws of a row do not depend on later rows."""
        predicted = torch.from_numpy(self.network.predict(np.concatenate([states, actions], 1)))
        mean, log_sigma = (part.numpy() for part in _gaussian(predicted))
        noise = np.random.default_rng(seed).standard_normal((len(states), draws, len(mean), mean.shape[2]), np.float32)
        drawn = mean + np.exp(log_sigma) * np.moveaxis(noise, 0, 2)  # [draws, members, n, S]
        change = self.change.unnormalize(drawn.reshape(-1, *mean.shape[1:]))
        return states + change


def _gaussian(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """outputs [E, n, 2 S] -> mean and log sigma [E, n, S]."""
    mean, log_sigma = outputs.chunk(2, -1)
    low, high = LOG_SIGMA
    return mean, low + (high - low) * torch.sigmoid(log_sigma)  # a clamp would stop learning at its ends
