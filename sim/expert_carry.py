"""Carry a grasped object to its place and let go: phases carry (up), move, lower, release, retreat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .expert_common import Memory, Target
from .expert_grasp import slipped
from .expert_quality import Faults
from .expert_scene import Scene

GAIN = 2.0
RAISE_STEPS = 60  # control steps after which a phase is over whether it arrived or not
MOVE_STEPS = 80
LOWER_STEPS = 30
RELEASE_STEPS = 5
RETREAT_STEPS = 12
RETREAT = np.array([0.0, 0.0, 0.08])  # m
CRUISE_SLACK = 0.02  # m below the cruising height that will do


@dataclass(frozen=True)
class Delivery:
    """Where an object goes and how exactly."""

    spot: np.ndarray  # float64[3], m, world: the object's origin when it is let go
    cruise: float  # m, world height of the object's origin on the way
    tolerance: float  # m, horizontally, before it is lowered
    arrived: bool  # whether the object is where it belongs now
    gap: float = 0.004  # m above the spot that will do


def deliver(
    scene: Scene, memory: Memory, faults: Faults, item: np.ndarray, delivery: Delivery, rotation: np.ndarray
) -> Target:
    """The next target for a gripper that holds `item`, the object's origin now (float64[3], m)."""
    if memory.phase in ("release", "retreat"):
        return _let_go(memory, faults, rotation, delivery.arrived)
    lost = slipped(scene, memory, item)
    if lost and faults.retry:
        memory.restart()
        return Target(scene.grip, rotation, close=False)
    reach = -scene.rotation @ memory.notes["held"] if lost else scene.grip - item  # from the object to the gripper
    goal = _next_stop(memory, faults, delivery, scene.grip - reach, memory.notes["start"] - reach)
    if memory.phase == "release":
        memory.notes["at"] = scene.grip.tolist()
    return Target(goal + reach, rotation, close=memory.phase != "release", gain=GAIN)


def _next_stop(memory: Memory, faults: Faults, delivery: Delivery, here: np.ndarray, start: np.ndarray) -> np.ndarray:
    """float64[3], m: where the object should be now, given where it is and was; enters the next phase on arrival."""
    distance = np.linalg.norm(delivery.spot[:2] - here[:2])
    high = here[2] > delivery.cruise - CRUISE_SLACK
    if memory.phase == "carry":
        if high or memory.ticks > RAISE_STEPS:
            memory.enter("move")
        return np.array([*start[:2], delivery.cruise])
    if memory.phase == "move":
        if distance < faults.early_release_m and not memory.attempts:
            memory.enter("release")
        elif (distance < delivery.tolerance and high) or memory.ticks > MOVE_STEPS:
            memory.enter("lower")
        return np.array([*delivery.spot[:2], delivery.cruise])
    blocked = memory.ticks > LOWER_STEPS
    if blocked and faults.retry and not delivery.arrived:
        memory.enter("move")
    elif blocked or here[2] < delivery.spot[2] + delivery.gap:
        memory.enter("release")
    return delivery.spot


def _let_go(memory: Memory, faults: Faults, rotation: np.ndarray, arrived: bool) -> Target:
    at = np.array(memory.notes["at"])
    if memory.phase == "release":
        if memory.ticks >= RELEASE_STEPS:
            memory.enter("retreat")
        return Target(at, rotation, close=False)
    if memory.ticks > RETREAT_STEPS and faults.retry and not arrived:
        memory.restart()
    return Target(at + RETREAT, rotation, close=False)
