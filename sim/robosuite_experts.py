"""Scripted experts for the robosuite tasks, on privileged state: `build_expert` for the episode just reset."""

from __future__ import annotations

from typing import Any

import numpy as np

from robot_value.components import unknown

from . import expert_can, expert_door, expert_lift, expert_square, expert_stack
from .expert_common import ScriptedExpert
from .expert_quality import Quality, draw

__all__ = ["PLANS", "Quality", "build_expert"]

PLANS = {
    "Lift": expert_lift.plan,
    "PickPlaceCan": expert_can.plan,
    "Stack": expert_stack.plan,
    "NutAssemblySquare": expert_square.plan,
    "Door": expert_door.plan,
}
_STREAM = 0x45585054  # keeps the expert's randomness apart from the placement drawn with the same seed


def build_expert(task: str, env: Any, quality: Quality, seed: int) -> ScriptedExpert:
    """A driver for `env`, a robosuite environment just reset, by the environment's name (e.g. "Lift")."""
    if task not in PLANS:
        raise ValueError(unknown("scripted expert", task, list(PLANS)))
    rng = np.random.default_rng([seed, _STREAM])
    return ScriptedExpert(env, PLANS[task], draw(quality, task, rng), rng)
