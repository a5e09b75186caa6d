"""Chunks as points whose Euclidean distance is the root mean square difference per number, in action ranges:

    d(a, b)^2 = mean over executed steps and degrees of freedom of ((a - b) / range)^2

0 is equal, 1 is a whole range apart in everything; it is what the gate `disagreement` measures. A rotation has three
degrees of freedom and differs by the chord 2 sin(angle / 2), the Frobenius distance of two matrices over sqrt(2)
(Huynh 2009), so that a quaternion's sign does not count. Rotations whose unit is not rad are compared as numbers.
Shape letters: D decisions, N candidates, H chunk steps, A action dims, k executed steps, F coordinates of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from .. import rotations
from ..types import ActionPart, Spec

SAME = 1e-6  # ranges; two chunks closer than this are one
BLOCK = 2048  # decisions in memory at once


@dataclass(frozen=True)
class Axis:
    """What is compared by itself: a number of the action, or a whole rotation."""

    name: str
    unit: str
    dims: slice
    range: float  # high - low, in `unit`
    rotation: str = "none"

    @property
    def freedom(self) -> int:
        return 1 if self.rotation == "none" else 3

    def coordinates(self, actions: np.ndarray) -> np.ndarray:
        """float64[..., 1 or 9] of actions [..., A]; their distance is in `unit`, for rotations the chord."""
        values = actions[..., self.dims].astype(np.float64)
        return values if self.rotation == "none" else _matrices(values, self.rotation) / np.sqrt(2)

    def difference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """float64[...] between coordinates, in `unit`; for rotations the angle."""
        distance = np.linalg.norm(a - b, axis=-1)
        return distance if self.rotation == "none" else 2 * np.arcsin(np.minimum(distance / 2, 1))


def axes(spec: Spec) -> tuple[Axis, ...]:
    """Names as in `data inspect`: the part's where it is one number, else part[i]."""
    return tuple(axis for part in spec.parts for axis in _axes(part))


def points(chunks: np.ndarray, spec: Spec, execute: int, length: np.ndarray) -> np.ndarray:
    """float64[D, N, F] of chunks [D, N, H, A]; only the first min(k, length int64[D]) steps count. NaN stays NaN."""
    found, leading = axes(spec), chunks[:, :, :execute]
    flat = np.concatenate([axis.coordinates(leading) / axis.range for axis in found], -1)  # [D, N, k, .]
    steps = np.clip(length, 1, flat.shape[2])
    counts = np.arange(flat.shape[2]) < steps[:, None]  # bool[D, k]
    weight = counts / np.sqrt(steps * sum(axis.freedom for axis in found))[:, None]
    return (flat * weight[:, None, :, None]).reshape(*flat.shape[:2], -1)


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[D, P, Q], distances of points a [D, P, F] and b [D, Q, F]."""
    origin = a[:, :1]  # nearby, so that squares of large numbers do not cancel
    a, b = a - origin, b - origin
    squares = (a**2).sum(2)[:, :, None] + (b**2).sum(2)[:, None] - 2 * a @ b.transpose(0, 2, 1)
    return np.sqrt(np.maximum(squares, 0))


def blocks(decisions: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, decisions, BLOCK))


def _axes(part: ActionPart) -> Iterator[Axis]:
    ranges = np.subtract(part.high, part.low)
    turning = rotations.SIZES[part.rotation] if _is_rotation(part) else 0
    plain = part.stop - part.start - turning
    for i in range(plain):
        name = part.name if part.stop - part.start == 1 else f"{part.name}[{i}]"
        yield Axis(name, part.unit, slice(part.start + i, part.start + i + 1), float(ranges[i]))
    if turning:
        angle = float(ranges[plain:].mean()) if part.rotation == "axis_angle" else np.pi  # other limits are no angles
        name = f"{part.name} rotation" if plain else part.name
        yield Axis(name, "rad", slice(part.start + plain, part.stop), angle, part.rotation)


def _is_rotation(part: ActionPart) -> bool:
    """Written out in full and, for angles, in rad: a single yaw or a scaled delta is a number like others."""
    size = rotations.SIZES.get(part.rotation, 0)
    full = part.stop - part.start == size + (3 if part.kind == "pose" else 0)
    return size > 0 and full and (part.rotation != "axis_angle" or part.unit.split("+")[-1] == "rad")


def _matrices(values: np.ndarray, kind: str) -> np.ndarray:
    """float64[..., 9]; NaN where a number is not finite."""
    known = np.isfinite(values).all(-1)
    found = np.full((*values.shape[:-1], 9), np.nan)
    if known.any():
        found[known] = Rotation.from_quat(rotations.decode(values[known], kind)).as_matrix().reshape(-1, 9)
    return found
