"""NutAssemblySquare: take the nut by its handle, turn its hole onto the square peg's sides, push it down."""

import numpy as np

from .expert_carry import Delivery, deliver
from .expert_common import Memory, Target
from .expert_grasp import PICK_PHASES, pick
from .expert_quality import Faults
from .expert_scene import Scene, down, upright, yaw_of

HANDLE = np.array([0.063, 0.0, 0.0])  # m from the nut's origin: far enough out that the fingers miss its corners
PEG_TOP = 0.95  # m, world
ON_TABLE = 0.83  # m, world height of the nut's origin when it is down
QUARTER = np.pi / 2
LEAST_YAW = np.radians(-75)  # beyond [-75, 105) degrees the wrist twists up


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    nut, turned = scene.body("SquareNut_main"), scene.body_rotation("SquareNut_main")
    heading = yaw_of(turned)
    if memory.phase in PICK_PHASES:
        across_handle = (heading - LEAST_YAW) % np.pi + LEAST_YAW
        return pick(scene, memory, faults, nut + turned @ HANDLE, across_handle)
    peg, yaw = scene.body("peg1"), memory.notes["yaw"]
    final = memory.notes.setdefault("final", _final_heading(heading, yaw))
    rotation = down(yaw)
    if memory.phase != "carry":  # turning the nut while it lies on the table twists it out of the fingers
        rotation = upright(final) @ turned.T @ scene.rotation
    arrived = bool(np.all(np.abs(nut[:2] - peg[:2]) < 0.03) and nut[2] < ON_TABLE + 0.04)
    delivery = Delivery(np.array([*peg[:2], ON_TABLE]), cruise=PEG_TOP + 0.03, tolerance=0.003, arrived=arrived)
    return deliver(scene, memory, faults, nut, delivery, rotation)


def _final_heading(heading: float, yaw: float) -> float:
    """The nearest heading that fits the peg, but never with the handle (and the arm) out beyond it."""
    options = [heading + gripper - yaw for gripper in (-QUARTER, 0.0, QUARTER)]
    reachable = [option for option in options if np.cos(option) < 0.7]
    return float(min(reachable, key=lambda option: abs(option - heading)))
