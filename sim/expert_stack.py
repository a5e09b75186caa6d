"""Stack: put the small cube A on top of cube B."""

import numpy as np

from .expert_carry import Delivery, deliver
from .expert_common import Memory, Target
from .expert_grasp import PICK_PHASES, pick
from .expert_quality import Faults
from .expert_scene import Scene, down, yaw_of

ON_TOP = np.array([0.0, 0.0, 0.047])  # m between the two origins: half heights of 2 and 2.5 cm, and a little air


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    cube, base = scene.body("cubeA_main"), scene.body("cubeB_main")
    if memory.phase in PICK_PHASES:
        return pick(scene, memory, faults, cube, yaw_of(scene.body_rotation("cubeA_main"), np.pi / 2))
    spot = base + ON_TOP
    arrived = bool(np.linalg.norm(cube[:2] - base[:2]) < 0.03 and cube[2] > base[2] + 0.03)
    delivery = Delivery(spot, cruise=spot[2] + 0.05, tolerance=0.006, arrived=arrived)
    return deliver(scene, memory, faults, cube, delivery, down(memory.notes["yaw"]))
