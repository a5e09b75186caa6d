"""What no clock says about steering: networks asked per decision, what packing changes, what halving gives away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from robot_value.policies.flow import FlowPolicy
from robot_value.steering.steerer import Steerer
from robot_value.types import Observation


@dataclass
class Counts:
    """What one decision asked of the networks."""

    encodes: int = 0  # observations through the policy's encoder
    rows: int = 0  # chunks through its head, over all steps


def counted(policy: FlowPolicy, decide: Callable[[], Any]) -> Counts:
    counts = Counts()

    def encoding(_module: nn.Module, _inputs: tuple) -> None:
        counts.encodes += 1

    def denoising(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        counts.rows += len(inputs[0])

    hooks = [
        policy.encoder.register_forward_pre_hook(encoding),
        policy.head.register_forward_pre_hook(denoising),
    ]
    try:
        decide()
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def fidelity(plain: Steerer, packed: Steerer, observation: Observation, decisions: int) -> dict[str, float]:
    """What packing changes: the largest difference in a candidate, and how often the choice stays the same."""
    differences, same = [], []
    for seen in at_steps(observation, decisions):
        slow, quick = plain(seen), packed(seen)
        differences.append(np.abs(slow.candidates - quick.candidates).max())
        same.append(slow.index[0] == quick.index[0])
    return {"max_dx": float(max(differences)), "same_choice": float(np.mean(same))}


def at_steps(observation: Observation, steps: int) -> list[Observation]:
    """The observation at several control steps: other noise each time."""
    return [replace(observation, step=np.full(1, step)) for step in range(steps)]


# regret = (max_i Q_i - Q_chosen) / std_i Q_i over the 32 finished candidates
def regret(steerers: dict[str, Steerer], observation: Observation, decisions: int) -> dict[str, Any]:
    """Of halving's choices against best-of-32's, from the same noise. It is these random weights', not a robot's."""
    regrets = []
    for seen in at_steps(observation, decisions):
        full, halved = (steerers[name](seen) for name in ("best of 32", "best of 32, halving"))
        values = full.value[0]
        regrets.append((values.max() - values[halved.index[0]]) / values.std())
    same = sum(x == 0 for x in regrets) / decisions
    return {"decisions": decisions, "mean": float(np.mean(regrets)), "max": float(max(regrets)), "same_choice": same}
