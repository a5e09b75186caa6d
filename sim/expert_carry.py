"""Carry a grasped object to a spot and let go: phases carry (up), move, lower, release, retreat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .expert_common import Faults, Memory, Scene, Target, slipped

RELEASE_STEPS = 5
GAIN = 2.0  # the OSC stalls 2-3 cm short of far targets at 1
RETREAT_STEPS = 12
RETREAT = 0.08  # m


@dataclass(frozen=True)
class Delivery:
    """Where an object goes and how exactly."""

    spot: np.ndarray  # float64[3], m, world: the object's origin where it is let go
    cruise: float  # m, world height of the object's origin on the way
    tolerance: float  # m, horizontal, before it is lowered
    gap: float = 0.004  # m above the spot that counts as arrived
    lower_steps: int = 30  # control steps after which a descent counts as blocked
    move_steps: int = 80


def deliver(scene: Scene, memory: Memory, faults: Faults, item: np.ndarray, delivery: Delivery, rotation: np.ndarray, arrived: bool) -> Target:
    """`item` is the object's origin now (float64[3], m); `arrived` whether it is where it belongs."""
    if memory.phase in ("release", "retreat"):
        return _let_go(memory, faults, rotation, arrived)
    lost = slipped(scene, memory, item)
    if lost and faults.retry:
        memory.restart()
        return Target(scene.grip, rotation, close=False)
    reach = -scene.rotation @ memory.notes["held"] if lost else scene.grip - item  # from the object to the gripper
    here = scene.grip - reach
    distance = np.linalg.norm(delivery.spot[:2] - here[:2])
    if memory.phase == "carry":
        goal = np.array([*(memory.notes["start"] - reach)[:2], delivery.cruise])
        if here[2] > delivery.cruise - 0.015 or memory.ticks > 60:
            memory.enter("move")
    elif memory.phase == "move":
        goal = np.array([*delivery.spot[:2], delivery.cruise])
        if 0 < distance < faults.early_release_m:
            memory.enter("release", at=scene.grip.tolist())
        elif (distance < delivery.tolerance and here[2] > delivery.cruise - 0.02) or memory.ticks > delivery.move_steps:
            memory.enter("lower")
    else:
        goal = delivery.spot
        blocked = memory.ticks > delivery.lower_steps
        if blocked and faults.retry and not arrived:
            memory.enter("move")
        elif blocked or here[2] < delivery.spot[2] + delivery.gap:
            memory.enter("release", at=scene.grip.tolist())
    return Target(goal + reach, rotation, close=memory.phase != "release", gain=GAIN)


def _let_go(memory: Memory, faults: Faults, rotation: np.ndarray, arrived: bool) -> Target:
    at = np.array(memory.notes["at"])
    if memory.phase == "release":
        if memory.ticks >= RELEASE_STEPS:
            memory.enter("retreat")
        return Target(at, rotation, close=False)
    if memory.ticks > RETREAT_STEPS and faults.retry and not arrived:
        memory.restart()
    return Target(at + [0, 0, RETREAT], rotation, close=False)
