"""Stack: put the small cube A on top of cube B."""

import numpy as np

from .expert_carry import Delivery, deliver
from .expert_common import PICK_PHASES, Faults, Memory, Scene, Target, down, pick, yaw_of

ON_TOP = 0.02 + 0.025  # m, half heights of A and B


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    cube, base = scene.body("cubeA_main"), scene.body("cubeB_main")
    if memory.phase in PICK_PHASES:
        return pick(scene, memory, faults, cube, yaw_of(scene.body_rotation("cubeA_main"), np.pi / 2))
    spot = base + [0, 0, ON_TOP + 0.002]
    arrived = bool(np.linalg.norm(cube[:2] - base[:2]) < 0.03 and cube[2] > base[2] + 0.03)
    delivery = Delivery(spot, cruise=spot[2] + 0.05, tolerance=0.006)
    return deliver(scene, memory, faults, cube, delivery, down(memory.notes["yaw"]), arrived)
