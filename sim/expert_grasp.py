"""Grasp a point: phases reach (in front of it), descend, close; then the phase is carry."""

from __future__ import annotations

import numpy as np

from .expert_common import Memory, Target
from .expert_quality import Faults
from .expert_scene import Scene, angle_between, down

PICK_PHASES = ("reach", "descend", "close")
REACH_STEPS = 60  # control steps after which a phase is over whether it arrived or not
DESCEND_STEPS = 25  # near a bin's wall the fingers stop short
CLOSE_STEPS = 7  # until the fingers hold: the gripper's command is ramped
CENTRED = 0.012  # m, sideways
DEEP = 0.006  # m, along the approach


def pick(
    scene: Scene,
    memory: Memory,
    faults: Faults,
    point: np.ndarray,
    yaw: float,
    tilt: float = 0.0,
    clearance: float = 0.06,
    gain: float = 1.0,
) -> Target:
    """The next target towards a grasp at `point` (float64[3], m), which may move until the fingers close.

    `yaw` and `tilt` (rad, see `down`) are kept for the whole attempt; `clearance` (m) is how far in front it begins.
    """
    rotation = down(memory.notes.setdefault("yaw", float(yaw)), tilt)
    if memory.phase == "close":
        if memory.ticks >= CLOSE_STEPS:
            memory.enter("carry", start=scene.grip.tolist())
        return Target(np.array(memory.notes["at"]), rotation, close=True, gain=gain)
    missed, premature = _misses(memory, faults)
    approach = rotation[:, 2]
    goal = point + missed - premature * approach
    above = point + missed - clearance * approach
    error = rotation.T @ (scene.grip - (above if memory.phase == "reach" else goal))
    centred = np.linalg.norm(error[:2]) < CENTRED
    if memory.phase == "reach":
        ready = centred and abs(error[2]) < 0.03 and angle_between(rotation, scene.rotation) < 0.12
        if ready or memory.ticks > REACH_STEPS:
            memory.enter("descend")
        return Target(above, rotation, close=False, gain=gain)
    if (centred and abs(error[2]) < DEEP) or memory.ticks > DESCEND_STEPS:
        memory.enter("close", at=scene.grip.tolist())
    return Target(goal, rotation, close=False, gain=gain)


def slipped(scene: Scene, memory: Memory, item: np.ndarray, limit: float = 0.03) -> bool:
    """Whether the object's origin has left its place between the fingers, where it was when this was first asked."""
    seen = scene.rotation.T @ (item - scene.grip)
    held = memory.notes.setdefault("held", seen.tolist())
    return bool(np.linalg.norm(seen - held) > limit)


def _misses(memory: Memory, faults: Faults) -> tuple[np.ndarray, float]:
    """This attempt's displacement (float64[3], m, world) and how far before the point the fingers close (m)."""
    if memory.attempts:
        return np.zeros(3), 0.0
    return np.array([*faults.grasp_offset_m, 0.0]), faults.premature_close_m
