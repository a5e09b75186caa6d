"""The worker's half of a fleet: several robots played on one Simulator, switching by save_state and load_state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_value.types import Spec

from .simulator import Expert, Frame, Simulator

DRIVERS = ("policy", "expert", "shared")


@dataclass(frozen=True)
class Hello:
    """What a worker says about its simulator."""

    spec: Spec
    tasks: tuple[str, ...]
    max_steps: int
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Played:
    """j control steps of one robot; fewer than asked for where the episode ended."""

    actions: np.ndarray  # float32[j, A], executed: within the limits
    commanded: np.ndarray  # float32[j, A]
    states: np.ndarray  # float32[j, S], after each step
    images: dict[str, np.ndarray]  # camera name -> uint8[., h, w, 3], of the steps that were pictured
    rewards: np.ndarray  # float32[j]
    times: np.ndarray  # float64[j], s
    terminated: bool
    success: bool  # in any of the steps
    unstable: bool


class Rows:
    """Plays the rows it is asked for. `load_state` also restores the expert that `expert` returned last."""

    def __init__(self, simulator: Simulator, driver: str) -> None:
        self._simulator, self._driver = simulator, driver
        self._low, self._high = simulator.spec.low, simulator.spec.high
        self._live: int | None = None  # the row the simulator holds now
        self._resting: dict[int, Mapping[str, Any]] = {}  # the other rows' states
        self._started: dict[int, tuple[str, int]] = {}  # row -> (task, seed)
        self._begun = False
        self._expert: Expert | None = None

    def hello(self) -> Hello:
        simulator = self._simulator
        return Hello(simulator.spec, tuple(simulator.tasks), simulator.max_steps, getattr(simulator, "provenance", {}))

    def reset(self, row: int, task: str, seed: int) -> tuple[Frame, dict[str, Any]]:
        """The first frame and the expert's latents (empty for the policy driver)."""
        self._rest()
        self._resting.pop(row, None)
        frame = self._begin(task, seed)
        self._started[row], self._live = (task, seed), row
        return frame, dict(self._expert.latents) if self._expert else {}

    def play(self, row: int, steps: int, actions: np.ndarray | None, pictures: int | None = None) -> Played:
        """`actions` float32[steps, A], or None where the expert drives. `pictures`: of the last steps; None: of all.

        An episode that ends earlier has fewer.
        """
        self._wake(row)
        commanded, frames = [], []
        for step in range(steps):
            commanded.append(self._expert.action() if actions is None else actions[step])
            pictured = pictures is None or step >= steps - pictures
            frames.append(self._simulator.step(np.clip(commanded[-1], self._low, self._high), pictured))
            if frames[-1].terminated or frames[-1].unstable:
                break
        return self._played(np.array(commanded, np.float32).reshape(-1, len(self._low)), frames)

    def take_over(self, row: int) -> None:
        """The expert begins anew from where the row is, with what was drawn for its episode."""
        self._wake(row)
        self._expert = self._simulator.expert(self._started[row][1])

    def save(self, row: int) -> dict[str, Any]:
        state = self._simulator.save_state() if row == self._live else self._resting[row]
        return {"simulator": state, "started": self._started[row]}

    def load(self, row: int, state: Mapping[str, Any]) -> None:
        """Takes effect when the row is played next."""
        if row == self._live:
            self._live = None
        self._resting[row], self._started[row] = state["simulator"], state["started"]

    def close(self) -> None:
        self._simulator.close()

    def _begin(self, task: str, seed: int) -> Frame:
        frame, self._begun = self._simulator.reset(task, seed), True
        if self._driver != "policy":
            self._expert = self._simulator.expert(seed)
        return frame

    def _rest(self) -> None:
        if self._live is not None:
            self._resting[self._live] = self._simulator.save_state()
            self._live = None

    def _wake(self, row: int) -> None:
        if row == self._live:
            return
        self._rest()
        if not self._begun:  # a fresh process: load_state needs an episode, and its expert, to restore into
            self._begin(*self._started[row])
        self._simulator.load_state(self._resting.pop(row))
        self._live = row

    def _played(self, commanded: np.ndarray, frames: list[Frame]) -> Played:
        last, pictured = frames[-1], [frame.images for frame in frames if frame.images]
        return Played(
            actions=np.clip(commanded, self._low, self._high),
            commanded=commanded,
            states=np.array([frame.state for frame in frames], np.float32),
            images={name: np.stack([images[name] for images in pictured]) for name in (pictured or [{}])[0]},
            rewards=np.array([frame.reward for frame in frames], np.float32),
            times=np.array([frame.time for frame in frames], np.float64),
            terminated=last.terminated and not last.unstable,
            success=any(frame.success and not frame.unstable for frame in frames),
            unstable=last.unstable,
        )
