"""PickPlaceCan: carry the can low over the bin's wall (the arm does not reach high there) and set it down."""

import numpy as np

from .expert_carry import Delivery, deliver
from .expert_common import Memory, Target
from .expert_grasp import PICK_PHASES, pick
from .expert_quality import Faults
from .expert_scene import Scene, down

BIN = np.array([0.1975, 0.4025, 0.80])  # m, world: middle of the can's quarter of the right bin
BIN_HALF = np.array([0.0975, 0.1225])  # m
SPOT = np.array([0.15, 0.36, 0.89])  # m: where the can is let go, as near to the robot as its quarter safely allows
CRUISE = 1.0  # m: the bin's wall ends at 0.9, the can is 6 cm to its bottom


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    can, axis = scene.body("Can_main"), scene.body_rotation("Can_main")[:, 2]
    if memory.phase in PICK_PHASES:
        return pick(scene, memory, faults, can, _grasp_yaw(axis), clearance=0.10)
    arrived = bool(np.all(np.abs(can[:2] - BIN[:2]) < BIN_HALF) and can[2] < BIN[2] + 0.1)
    return deliver(scene, memory, faults, can, Delivery(SPOT, CRUISE, 0.03, arrived), down(memory.notes["yaw"]))


def _grasp_yaw(axis: np.ndarray) -> float:
    """Any heading does for a standing can; a fallen one is taken across its side."""
    if abs(axis[2]) > 0.7:
        return 0.0
    return float((np.arctan2(axis[1], axis[0]) + np.pi / 2) % np.pi - np.pi / 2)
