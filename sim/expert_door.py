"""Door: take the handle from above, turn it down until the bolt is free, then pull the door open by it.

Turning and pulling follow the two hinges' arcs: the target is where the handle will be a little further on.
"""

from __future__ import annotations

import numpy as np

from .expert_common import PICK_PHASES, Faults, Memory, Scene, Target, down, pick, upright, yaw_of

BOLT_FREE = 1.15  # rad of the handle at which the bolt has left the frame
TURN_AHEAD = 0.45  # rad
PULL_AHEAD = 0.15  # rad
LOST = 0.05  # m from the handle that counts as let go
TILT = np.radians(30)  # upright, the wide hand meets the door's panel
GAIN = 2.0
STRIDE = 0.025  # m per component: GAIN turns it into a full action, whose direction clipping does not bend


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    handle, yaw = scene.site("Door_handle"), yaw_of(scene.body_rotation("Door_door"), np.pi)
    if memory.phase == "back":
        return _back_off(scene, memory, handle, yaw)
    if memory.phase in PICK_PHASES:
        return pick(scene, memory, faults, handle, yaw, TILT, clearance=0.09, gain=GAIN)
    if np.linalg.norm(scene.grip - handle) > LOST and faults.retry and scene.joint("Door_hinge") < 0.3:
        memory.restart()
        memory.enter("back")
    angle = scene.joint("Door_latch_joint")
    if memory.phase == "carry" and angle > BOLT_FREE:
        memory.enter("pull")
    ahead = scene.body("Door_latch") + _about(scene.body_rotation("Door_door")[:, 1], TURN_AHEAD) @ (handle - scene.body("Door_latch"))
    if memory.phase == "pull":
        hinge = scene.body("Door_door") + scene.body_rotation("Door_door") @ [0.255, 0, 0]
        ahead = hinge + upright(PULL_AHEAD) @ (handle - hinge)
    step = ahead - scene.grip
    step *= min(1.0, STRIDE / np.abs(step).max())
    return Target(scene.grip + step, down(yaw, TILT), close=True, gain=GAIN)


def _back_off(scene: Scene, memory: Memory, handle: np.ndarray, yaw: float) -> Target:
    """Away from the door and up, so that the next approach does not come from below."""
    above = handle + [0, 0.08, 0.12]
    if np.linalg.norm(scene.grip - above) < 0.03 or memory.ticks > 25:
        memory.enter("reach")
    return Target(above, down(yaw, TILT), close=False, gain=GAIN)


def _about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
