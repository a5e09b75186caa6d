"""Did an episode succeed, and what a whole episode weighs: what several labelers ask."""

from __future__ import annotations

import numpy as np

from ..types import Episode

UNKNOWN = ("refuse", "success", "failure")


def succeeded(name: str, episode: Episode, unknown: str) -> bool:
    """The recorded success; where nobody knows, `unknown` (one of UNKNOWN) decides."""
    if unknown not in UNKNOWN:
        raise ValueError(f"unknown: expected one of {', '.join(UNKNOWN)}, got {unknown!r}")
    if episode.success is not None:
        return bool(episode.success)
    if unknown == "refuse":
        raise ValueError(
            f"episode {name}: expected a known success, got none; label success first and give it as --base, "
            "or say what unknown episodes are: --labeler.unknown=success (demonstrations) or =failure"
        )
    return unknown == "success"


def trajectory_weights(values: np.ndarray, temperature: float) -> np.ndarray:
    """float64[E] in (0, 1]: softmax of values (scaled to [0, 1]) over temperature, times a constant: the best is 1.

    Raises ValueError where all are alike: nothing could be preferred.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    low, high = values.min(), values.max()
    if low == high:
        raise ValueError(
            f"expected episodes of different worth, got {low:g} for all {len(values)}; "
            "label their rewards first (e.g. --labeler.type=terminal_success) and give that as --base"
        )
    return np.exp((values - high) / (temperature * (high - low)))
