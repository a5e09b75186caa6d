"""Averages of rotations: quaternions on one half sphere and of unit norm, 6D rotations with orthonormal columns.

q and -q are one rotation, so that a sign is chosen before averaging (Markley et al. 2007). A 6D rotation is the first
two columns of its matrix, made orthonormal by Gram-Schmidt (Zhou et al. 2019). Axis-angle vectors average plainly,
which is right for small angles. In a "pose" part the rotation is the last 4 (quaternion) or 6 (6D) dims.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from ..types import Spec

SIZES = {"quaternion": 4, "6d": 6}


def rotation_dims(spec: Spec | None, rotation: str) -> list[slice]:
    """Where the action vector holds rotations of that kind."""
    parts = spec.parts if spec else ()
    return [slice(part.stop - SIZES[rotation], part.stop) for part in parts if part.rotation == rotation]


def align_signs(chunks: torch.Tensor, reference: torch.Tensor, spec: Spec | None) -> torch.Tensor:
    """Quaternions of chunks [B, N, H, A] flipped to the half sphere of candidate `reference` int64[B]."""
    for dims in rotation_dims(spec, "quaternion"):
        q = chunks[..., dims]
        rows = torch.arange(len(q), device=q.device)
        opposite = (q * q[rows, reference, None]).sum(-1, keepdim=True) < 0
        chunks = torch.cat([chunks[..., : dims.start], torch.where(opposite, -q, q), chunks[..., dims.stop :]], -1)
    return chunks


def to_rotations(chunk: torch.Tensor, spec: Spec | None) -> torch.Tensor:
    """Every quaternion and 6D rotation of chunk [..., A] made a rotation again."""
    for rotation, repair in (("quaternion", _unit), ("6d", _gram_schmidt)):
        for dims in rotation_dims(spec, rotation):
            chunk = torch.cat([chunk[..., : dims.start], repair(chunk[..., dims]), chunk[..., dims.stop :]], -1)
    return chunk


def _unit(q: torch.Tensor) -> torch.Tensor:
    return normalize(q, dim=-1)


def _gram_schmidt(columns: torch.Tensor) -> torch.Tensor:
    first = normalize(columns[..., :3], dim=-1)
    second = columns[..., 3:] - (first * columns[..., 3:]).sum(-1, keepdim=True) * first
    return torch.cat([first, normalize(second, dim=-1)], -1)
