"""NutAssemblySquare: take the nut by its handle, turn its hole onto the square peg's sides, push it down."""

import numpy as np

from .expert_carry import Delivery, deliver
from .expert_common import PICK_PHASES, Faults, Memory, Scene, Target, down, pick, upright, yaw_of

PEG_TOP = 0.95  # m, world
ON_TABLE = 0.83  # m, world height of the nut's origin when it is down
QUARTER = np.pi / 2


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    nut, turned = scene.body("SquareNut_main"), scene.body_rotation("SquareNut_main")
    if memory.phase in PICK_PHASES:
        return pick(scene, memory, faults, scene.site("SquareNut_handle_site"), _grasp_yaw(turned))
    peg = scene.body("peg1")
    final = memory.notes.setdefault("final", _final_heading(yaw_of(turned), memory.notes["yaw"]))
    rotation = down(memory.notes["yaw"])
    if memory.phase != "carry":  # turning the nut while it lies on the table twists it out of the fingers
        rotation = upright(final) @ turned.T @ scene.rotation
    arrived = bool(np.all(np.abs(nut[:2] - peg[:2]) < 0.03) and nut[2] < 0.87)
    delivery = Delivery(np.array([*peg[:2], ON_TABLE]), cruise=PEG_TOP + 0.03, tolerance=0.003)
    return deliver(scene, memory, faults, nut, delivery, rotation, arrived)


def _grasp_yaw(turned: np.ndarray) -> float:
    """Across the handle (half-turn symmetric), in [-75, 105) degrees: the wrist twists up beyond."""
    low = np.radians(-75)
    return float((yaw_of(turned) - low) % np.pi + low)


def _final_heading(heading: float, yaw: float) -> float:
    """The nearest way to turn the hole onto the peg, but never with the handle (and arm) out beyond the peg."""
    options = [heading + final - yaw for final in (-QUARTER, 0.0, QUARTER)]  # the gripper ends at -90, 0 or 90 degrees
    reachable = [option for option in options if np.cos(option) < 0.7]
    return float(min(reachable, key=lambda option: abs(option - heading)))
