"""Rotations as the numbers actions carry: axis-angle, quaternion and 6D, over arrays with any leading shape.

axis_angle: unit axis times angle, rad, [3]; written with an angle in [0, pi].
quaternion: [x, y, z, w], [4]; read at any positive length and either sign, written at length 1 with w >= 0.
6d: the first two columns of the matrix, [R00 R10 R20 R01 R11 R21] (Zhou et al. 2019, eq. 15); read by Gram-Schmidt.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

SIZES = {"axis_angle": 3, "quaternion": 4, "6d": 6}

_SMALLEST = 1e-6  # lengths below this carry no direction


def decode(values: np.ndarray, kind: str) -> np.ndarray:
    """Unit quaternions float64[..., 4] (xyzw) of rotations written as `kind`."""
    flat = values.reshape(-1, SIZES[kind])
    if kind == "axis_angle":
        quaternion = Rotation.from_rotvec(flat).as_quat()
    elif kind == "quaternion":
        _refuse_short(np.linalg.norm(flat, axis=-1), kind)
        quaternion = Rotation.from_quat(flat).as_quat()
    else:
        quaternion = Rotation.from_matrix(_gram_schmidt(flat)).as_quat()
    return quaternion.reshape(*values.shape[:-1], 4)


def encode(quaternion: np.ndarray, kind: str) -> np.ndarray:
    """Rotations float64[..., 4] written as `kind`."""
    rotation = Rotation.from_quat(quaternion.reshape(-1, 4))
    if kind == "axis_angle":
        flat = rotation.as_rotvec()
    elif kind == "quaternion":
        flat = rotation.as_quat(canonical=True)
    else:
        flat = rotation.as_matrix()[:, :, :2].transpose(0, 2, 1)
    return flat.reshape(*quaternion.shape[:-1], SIZES[kind])


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Matrix product first @ second of quaternions [..., 4], broadcast."""
    first, second = np.broadcast_arrays(first, second)
    product = Rotation.from_quat(first.reshape(-1, 4)) * Rotation.from_quat(second.reshape(-1, 4))
    return product.as_quat().reshape(first.shape)


def inverse(quaternion: np.ndarray) -> np.ndarray:
    return quaternion * np.array([-1.0, -1.0, -1.0, 1.0])


def rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] turned by quaternions [..., 4], broadcast."""
    shape = np.broadcast_shapes(quaternion.shape[:-1], vector.shape[:-1])
    turns = np.broadcast_to(quaternion, (*shape, 4)).reshape(-1, 4)
    return Rotation.from_quat(turns).apply(np.broadcast_to(vector, (*shape, 3)).reshape(-1, 3)).reshape(*shape, 3)


def _gram_schmidt(flat: np.ndarray) -> np.ndarray:
    """Rotation matrices [n, 3, 3] from pairs of column vectors [n, 6]."""
    a, b = flat[:, :3], flat[:, 3:]
    length = np.linalg.norm(a, axis=-1, keepdims=True)
    _refuse_short(length, "6d")
    x = a / length
    b = b - (x * b).sum(-1, keepdims=True) * x
    length = np.linalg.norm(b, axis=-1, keepdims=True)
    _refuse_short(length, "6d")
    y = b / length
    return np.stack([x, y, np.cross(x, y)], -1)


def _refuse_short(length: np.ndarray, kind: str) -> None:
    if length.size and length.min() < _SMALLEST:
        raise ValueError(
            f"rotation written as {kind}: expected non-zero, independent vectors, got length {length.min():.1e}"
        )
