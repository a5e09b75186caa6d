"""A decision as lines: a fan of candidates per action dim, and where the tool would go; numbers only, no viewer."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..actions import LOCAL_FRAMES
from ..deploy.forward_kinematics import Kinematics, load
from ..types import ActionPart, Spec
from .shown import Shown

WORST, BEST, UNSCORED, CHOSEN = (70, 90, 200), (60, 200, 90), (140, 140, 140), (255, 150, 0)  # RGB
METRES = re.compile(r"(?:([\d.]+) )?m(?:\+.*)?")  # "m", "m+rad", "0.05 m+0.5 rad"
HEIGHT = 0.5  # of a fan, in chunk lengths
JPEG = 90  # quality of pictures, percent


@dataclass(frozen=True)
class Arm:
    """A model of the arm, for the tool's path where actions are joint positions."""

    model: str = ""  # MJCF or URDF file; empty: joint-space chunks have no path in 3D
    tool: str = ""  # a site or body of MJCF, a link of URDF, whose path is drawn
    joints: tuple[str, ...] = ()  # the model's joints, in the order of the action's joint dims

    def kinematics(self, spec: Spec) -> Kinematics | None:
        if not self.model:
            return None
        if len(self.joints) != len(joint_dims(spec)):
            raise ValueError(
                f"arm.joints: expected {len(joint_dims(spec))} names, one per joint dim of the action, "
                f"got {len(self.joints)}: {list(self.joints)}"
            )
        return load(self.model, self.tool, self.joints)


def colours(value: np.ndarray) -> np.ndarray:
    """uint8[N, 3]: scores float[N] from worst to best; grey where not scored."""
    scored = np.isfinite(value)
    low, high = (value[scored].min(), value[scored].max()) if scored.any() else (0.0, 0.0)
    share = np.where(scored, value - low, 0.0) / ((high - low) or 1.0)
    mixed = (1 - share)[:, None] * np.array(WORST) + share[:, None] * np.array(BEST)
    return np.where(scored[:, None], mixed, UNSCORED).astype(np.uint8)


def strokes(shown: Shown) -> tuple[np.ndarray, np.ndarray]:
    """Chunks float32[n, H, A] and colours uint8[n, 3]: candidates by their scores, the chosen chunk last, on top.

    Refused candidates (NaN) are left out.
    """
    kept = np.isfinite(shown.candidates).all((1, 2))
    chunks = np.concatenate([shown.candidates[kept], shown.chunk[None]])
    return chunks, np.concatenate([colours(shown.value)[kept], np.array([CHOSEN], np.uint8)])


class Fans:
    """Curves in a box H wide: x is the chunk's step, y the action from the highest (0) to the lowest seen so far."""

    def __init__(self, spec: Spec) -> None:
        self.low, self.high = np.full((2, spec.action_dim), [[np.inf], [-np.inf]])  # float64[A], seen so far

    def __call__(self, chunks: np.ndarray) -> np.ndarray:
        """float32[A, N, H, 2] of chunks float32[N, H, A]."""
        n, horizon, dims = chunks.shape
        flat = chunks.reshape(-1, dims)
        self.low = np.fmin(self.low, np.fmin.reduce(flat, initial=np.inf))
        self.high = np.fmax(self.high, np.fmax.reduce(flat, initial=-np.inf))
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        y = HEIGHT * horizon * (self.high - chunks) / span  # a picture's y points down
        x = np.broadcast_to(np.arange(horizon), (dims, n, horizon))
        return np.stack([x, y.transpose(2, 0, 1)], -1).astype(np.float32)


def paths(spec: Spec, chunks: np.ndarray, kinematics: Kinematics | None = None) -> dict[str, np.ndarray]:
    """Part -> float32[N, ., 3], m: where chunks float32[N, H, A] lead the tool, if it follows exactly.

    Absolute targets lie in the part's frame; relative ones begin at 0, where the tool is now. Rotations bend no path in
    the base's frame; in a tool's own frame they would, and such parts are left out.
    """
    found = {part.name: _path(part, chunks) for part in spec.parts if _is_drawn(part)}
    if kinematics is not None:
        dims = joint_dims(spec)
        where = kinematics(chunks[..., dims].reshape(-1, len(dims)).astype(np.float64))
        found["joints"] = where.reshape(*chunks.shape[:2], 3).astype(np.float32)
    return found


def joint_dims(spec: Spec) -> list[int]:
    parts = [part for part in spec.parts if part.kind == "joint" and part.reference == "absolute"]
    return [d for part in parts for d in range(part.start, part.stop)]


def _is_drawn(part: ActionPart) -> bool:
    three = part.kind == "pose" or (part.kind == "position" and part.stop - part.start == 3)
    return three and METRES.fullmatch(part.unit) is not None and part.frame not in LOCAL_FRAMES


def _path(part: ActionPart, chunks: np.ndarray) -> np.ndarray:
    scale = float(METRES.fullmatch(part.unit)[1] or 1.0)
    where = scale * chunks[..., part.start : part.start + 3].astype(np.float64)
    if part.reference == "absolute":
        return where.astype(np.float32)
    if part.reference != "chunk_start":
        where = where.cumsum(1)
    return np.concatenate([np.zeros_like(where[:, :1]), where], 1).astype(np.float32)
