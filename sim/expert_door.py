"""Door: take the handle from above, turn it down until the bolt is free, then pull the door open by it.

Turning and pulling follow the two hinges' arcs: the target is where the handle will be a little further on.
"""

from __future__ import annotations

import numpy as np

from .expert_common import Memory, Target
from .expert_grasp import PICK_PHASES, pick
from .expert_quality import Faults
from .expert_scene import Scene, about, down, upright, yaw_of

BOLT_FREE = 1.15  # rad of the handle at which the bolt has left the frame
OPEN = 0.3  # rad of the hinge, robosuite's success
TURN_AHEAD, PULL_AHEAD = 0.45, 0.15  # rad
HINGE = np.array([0.255, 0.0, 0.0])  # m, from the door's origin, in its frame
TILT = np.radians(30)  # upright, the wide hand meets the door's panel
LOST = 0.05  # m from the handle that counts as let go
GAIN = 2.0
STRIDE = 0.025  # m per component: GAIN makes it a full action, which clipping does not bend off the arc
AWAY = np.array([0.0, 0.08, 0.12])  # m from the handle
BACK_STEPS = 25


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    handle, yaw = scene.site("Door_handle"), yaw_of(scene.body_rotation("Door_door"), np.pi)
    lost = np.linalg.norm(scene.grip - handle) > LOST and scene.joint("Door_hinge") < OPEN
    if memory.phase in ("carry", "pull") and lost and faults.retry:
        memory.restart("back")
    if memory.phase == "back":
        return _back_off(scene, memory, handle, down(yaw, TILT))
    if memory.phase in PICK_PHASES:
        return pick(scene, memory, faults, handle, yaw, TILT, clearance=0.09, gain=GAIN)
    if memory.phase == "carry" and scene.joint("Door_latch_joint") > BOLT_FREE:
        memory.enter("pull")
    step = _ahead(scene, memory, handle) - scene.grip
    step *= min(1.0, STRIDE / np.abs(step).max())
    return Target(scene.grip + step, down(yaw, TILT), close=True, gain=GAIN)


def _ahead(scene: Scene, memory: Memory, handle: np.ndarray) -> np.ndarray:
    """float64[3], m: where the handle is after a little more turning, or pulling."""
    door = scene.body_rotation("Door_door")
    if memory.phase == "pull":
        hinge = scene.body("Door_door") + door @ HINGE
        return hinge + upright(PULL_AHEAD) @ (handle - hinge)
    latch = scene.body("Door_latch")
    return latch + about(door[:, 1], TURN_AHEAD) @ (handle - latch)


def _back_off(scene: Scene, memory: Memory, handle: np.ndarray, rotation: np.ndarray) -> Target:
    """Away from the door and up, so that the next approach does not come from below."""
    away = handle + AWAY
    if np.linalg.norm(scene.grip - away) < 0.03 or memory.ticks > BACK_STEPS:
        memory.enter("reach")
    return Target(away, rotation, close=False, gain=GAIN)
