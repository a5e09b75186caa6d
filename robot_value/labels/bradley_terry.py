"""A reward per frame that explains which of two segments was preferred (Bradley-Terry; Christiano et al. 2017).

P(second > first) = sigmoid(sum_i r(second_i) - sum_i r(first_i))       L = -mean log P(what was preferred)
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from ..normalize import Normalizer
from .small_network import FitConfig, SmallNetwork


class BradleyTerry:
    """The mean of `members` networks, standardised over all frames of the segments: mean 0, standard deviation 1."""

    def __init__(
        self,
        segments: np.ndarray,  # float32[P, k, D], k frames each
        pairs: np.ndarray,  # int64[n, 2], (first, second)
        preferred: np.ndarray,  # int64[n], -1 the first, 1 the second
        members: int,
        config: FitConfig,
    ) -> None:
        frames = segments.reshape(-1, segments.shape[-1])
        self.network = SmallNetwork(frames, members, 1, config)
        x, asked, sign = torch.from_numpy(segments), torch.from_numpy(pairs), torch.from_numpy(preferred).float()

        def loss(i: torch.Tensor) -> torch.Tensor:
            both = x[asked[i]]  # [batch, 2, k, D]
            first, second = self.network(both.flatten(0, 2)).unflatten(1, both.shape[:3]).sum((-2, -1)).unbind(-1)
            return F.softplus(-sign[i] * (second - first)).mean()

        self.network.fit(loss, len(pairs), config, "preferences")
        self.scale = Normalizer.fit(self._mean(frames)[:, None])

    def reward(self, frames: np.ndarray) -> np.ndarray:
        """frames float32[n, D] -> float32[n]."""
        return self.scale.normalize(self._mean(frames)[:, None])[:, 0]

    def agreement(self, segments: np.ndarray, pairs: np.ndarray, preferred: np.ndarray) -> float:
        """Share of the preferences that the sums of rewards repeat."""
        sums = self.reward(segments.reshape(-1, segments.shape[-1])).reshape(segments.shape[:2]).sum(1)
        return float((np.sign(sums[pairs[:, 1]] - sums[pairs[:, 0]]) == preferred).mean())

    def _mean(self, frames: np.ndarray) -> np.ndarray:
        return self.network.predict(frames).mean(0)[:, 0]
