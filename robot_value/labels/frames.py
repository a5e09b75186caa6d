"""Frames of an episode, and rewards from a number per frame.

potential  r_t = gamma phi(s_{t+1}) - phi(s_t)     keeps every optimal policy (Ng et al. 1999); at gamma 1 it telescopes
reached    r_t = phi(s_{t+1})                      what the action led to

Where nobody saw what the last action led to, the last frame stands for it: at gamma 1 that potential step is 0.
"""

from __future__ import annotations

import numpy as np

from ..types import Episode


def camera_frames(episode: Episode, camera: str = "") -> np.ndarray:
    """uint8[F, h, w, 3] of a camera; "" is the Spec's first."""
    names = [each.name for each in episode.spec.cameras]
    name = camera or next(iter(names), "")
    if name not in episode.images:
        got = f"cameras {', '.join(names)}" if names else "a store without cameras"
        raise ValueError(f"camera: expected {camera!r} or any camera, got {got}; this labeler looks at images")
    return episode.images[name]


def evenly(frames: int, n: int) -> np.ndarray:
    """int64[min(n, frames)], the first and the last frame and others evenly between them."""
    return np.unique(np.linspace(0, frames - 1, min(n, frames)).round().astype(np.int64))


def reached(values: np.ndarray, steps: int) -> np.ndarray:
    """values [F] per frame -> float32[T] per step."""
    return values[np.minimum(np.arange(1, steps + 1), len(values) - 1)].astype(np.float32)


def potential(values: np.ndarray, steps: int, gamma: float) -> np.ndarray:
    """values [F] per frame -> float32[T] per step."""
    values = np.asarray(values, np.float64)  # differences of neighbours lose digits
    after = values[np.minimum(np.arange(1, steps + 1), len(values) - 1)]
    return (gamma * after - values[:steps]).astype(np.float32)
