"""PickPlaceCan: carry the can low over the bin's wall (the arm does not reach high there) and set it down."""

import numpy as np

from .expert_carry import Delivery, deliver
from .expert_common import PICK_PHASES, Faults, Memory, Scene, Target, down, pick

BIN = np.array([0.1975, 0.4025, 0.80])  # m, world: middle of the can's quarter of the right bin
SPOT = np.array([0.15, 0.36, 0.89])  # m: where the can is let go, as near to the robot as the quarter safely allows
BIN_HALF = np.array([0.0975, 0.1225])  # m


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    can, axis = scene.body("Can_main"), scene.body_rotation("Can_main")[:, 2]
    if memory.phase in PICK_PHASES:
        return pick(scene, memory, faults, can, _yaw(axis), clearance=0.10)
    arrived = bool(np.all(np.abs(can[:2] - BIN[:2]) < BIN_HALF) and can[2] < BIN[2] + 0.1)
    delivery = Delivery(SPOT, cruise=1.0, tolerance=0.03)
    return deliver(scene, memory, faults, can, delivery, down(memory.notes["yaw"]), arrived)


def _yaw(axis: np.ndarray) -> float:
    """Any heading does for a standing can; across a fallen one the fingers close over its side."""
    if abs(axis[2]) > 0.7:
        return 0.0
    return float((np.arctan2(axis[1], axis[0]) + np.pi / 2) % np.pi - np.pi / 2)
