"""Weighted averages of what several chunks say, with rotations brought to one writing first and back to rotations."""

from __future__ import annotations

import numpy as np
import torch

from ...types import Spec
from ..rotations import align_signs, to_rotations


# a = sum_m w_m a_m, quaternions on the half sphere of `reference`, axis-angle vectors on the turn nearest to its own
def mix(chunks: np.ndarray, weights: np.ndarray, reference: np.ndarray, spec: Spec) -> np.ndarray:
    """float32[B, H, A] of chunks [B, M, H, A] and weights [B, M, H, A] (sum 1 over M); reference int64[B] into M."""
    chunks = np.where(weights != 0, chunks, 0)  # 0 * NaN is NaN
    chunks = align_signs(torch.from_numpy(chunks), torch.from_numpy(reference), spec).numpy()
    chunks = _align_turns(chunks, reference, spec)
    mixed = to_rotations(torch.from_numpy((weights * chunks).sum(1)), spec).numpy()
    return np.clip(mixed, spec.low, spec.high).astype(np.float32)  # rounding may leave the limits


# v and v - 2 pi v / |v| are one rotation: near a half turn, the usual pose of a gripper that points down, both occur
def _align_turns(chunks: np.ndarray, reference: np.ndarray, spec: Spec) -> np.ndarray:
    for part in spec.parts:
        if part.rotation == "axis_angle":
            v = chunks[..., part.stop - 3 : part.stop]
            to = v[np.arange(len(v)), reference][:, None]
            angle = np.linalg.norm(v, axis=-1, keepdims=True)
            other = v - 2 * np.pi * v / np.maximum(angle, 1e-9)
            nearer = np.linalg.norm(other - to, axis=-1) < np.linalg.norm(v - to, axis=-1)
            chunks = chunks.copy()
            chunks[..., part.stop - 3 : part.stop] = np.where(nearer[..., None] & (angle > 1e-9), other, v)
    return chunks
