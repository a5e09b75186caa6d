"""How sure the critic is that its selection beats the plain policy, in standard deviations of its own opinions.

    c = (Q(selected chunk) - Q(candidate 0)) / std_i Q(candidate i)

Dimensionless, so that one threshold serves a whole episode; 0 where the critic has no preference among candidates.
"""

from __future__ import annotations

import numpy as np
import torch

from ..types import Scores, Selection, Situation
from .selection import from_observation, scored


def confidence(chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation) -> np.ndarray:
    """float64[B]; NaN where the selection or candidate 0 has no finite value. A new chunk is valued by the critic."""
    usable = scored(scores, situation)
    value = torch.where(usable, scores.value, torch.nan).double()
    gain = value.gather(1, selection.index.clamp_min(0)[:, None])[:, 0] - value[:, 0]
    if (new := selection.index < 0).any():
        gain = torch.where(new, _gain_of_new(chunks, selection, situation), gain)
    scale = deviation(scores.value, usable)
    return torch.where(scale > 0, gain / scale, 0.0 * gain).cpu().numpy()  # 0 * NaN stays NaN


def deviation(value: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """float64[B]: standard deviation of the usable values [B, N]; 0 where they differ by no more than rounding."""
    value, count = torch.where(usable, value, 0.0).double(), usable.sum(1).clamp_min(1)
    mean = value.sum(1) / count
    variance = torch.where(usable, value - mean[:, None], 0.0).square().sum(1) / count
    rounding = 1e-6 * value.abs().amax(1)  # a float32 critic's noise is not a preference
    return torch.where(variance.sqrt() > rounding, variance.sqrt(), 0.0)


def _gain_of_new(chunks: torch.Tensor, selection: Selection, situation: Situation) -> torch.Tensor:
    """float64[B]: both chunks in one call, so that they differ by themselves alone."""
    if situation.critic is None:
        raise ValueError("confidence: expected a critic that values a new chunk, got none; give the arm a critic")
    pair = from_observation(torch.stack([chunks[:, 0], selection.chunk], 1), situation)  # [B, 2, H, A]
    whole = torch.full(pair.shape[:2], pair.shape[2], dtype=torch.int64, device=pair.device)
    value = situation.critic.score(situation.context, pair.nan_to_num(0.0), whole).value.double()
    value = value.masked_fill(~pair.isfinite().all(3).all(2), torch.nan)
    return value[:, 1] - value[:, 0]
