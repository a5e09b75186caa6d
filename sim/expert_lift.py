"""Lift: grasp the cube across two of its sides and raise it."""

import numpy as np

from .expert_common import Memory, Target
from .expert_grasp import PICK_PHASES, pick, slipped
from .expert_quality import Faults
from .expert_scene import Scene, down, yaw_of

RAISE = np.array([0.0, 0.0, 0.10])  # m above the grasp; 4 cm is success


def plan(scene: Scene, memory: Memory, faults: Faults) -> Target:
    cube = scene.body("cube_main")
    if memory.phase == "carry" and slipped(scene, memory, cube) and faults.retry:
        memory.restart()
    if memory.phase in PICK_PHASES:
        return pick(scene, memory, faults, cube, yaw_of(scene.body_rotation("cube_main"), np.pi / 2))
    return Target(np.array(memory.notes["start"]) + RAISE, down(memory.notes["yaw"]), close=True)
