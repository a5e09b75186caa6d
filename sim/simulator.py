"""The seam inside sim/: one compiled MuJoCo model in one process, driven a control step at a time.

A fleet worker holds one Simulator and plays many rows on it by `save_state`/`load_state`, so B rows cost one model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from robot_value.types import Spec


@dataclass(frozen=True)
class Frame:
    """What one robot sees and got after a reset, a control step or a restore."""

    state: np.ndarray  # float32[S], spec units
    images: dict[str, np.ndarray] = field(default_factory=dict)  # camera name -> uint8[h, w, 3]
    reward: float = 0.0  # of the step that led here
    terminated: bool = False
    success: bool = False  # the task's own signal in this frame
    unstable: bool = False  # MuJoCo warned, or its clock went backwards
    time: float = 0.0  # s, simulated


class Expert(Protocol):
    """A scripted driver on privileged state, for one episode. Its state is part of the Simulator's saved state."""

    latents: dict[str, Any]  # JSON values: what was drawn for this episode (honest labels of the data)

    def action(self) -> np.ndarray:
        """float32[A] for the coming control step, spec units."""
        ...


class Simulator(Protocol):
    spec: Spec  # horizon and n_obs_steps not chosen (0)
    tasks: tuple[str, ...]  # task texts that `reset` understands; the first is the default
    max_steps: int  # control steps until an episode is truncated

    def reset(self, task: str, seed: int) -> Frame:
        """The same (task, seed) gives the same episode start, bit for bit, in any process and order."""
        ...

    def step(self, action: np.ndarray, pictures: bool = True) -> Frame:
        """Without `pictures` the frame's images are empty; everything else is the same to the bit."""
        ...

    def save_state(self) -> Mapping[str, Any]:
        """Picklable plain values and arrays (they cross a process pipe of our own, never a file)."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> Frame:
        """Also puts the saved expert state into the driver that `expert` returned last. `state` stays as it is."""
        ...

    def expert(self, seed: int) -> Expert:
        """A fresh driver for the episode that was just reset; quality comes from the simulator's config."""
        ...

    def close(self) -> None: ...
