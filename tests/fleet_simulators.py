"""Tiny Simulators for the fleet's tests, in a module of their own: worker processes import them."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import numpy as np

from robot_value.sim.simulator import Frame
from robot_value.types import ActionPart, Camera, Spec

SPEC = Spec(
    parts=(ActionPart("arm", 0, 2, "other", "1", (-1, -1), (1, 1)),),
    state_names=("x", "y", "steps"),
    state_units=("1", "1", "1"),
    dt=0.1,
    cameras=(Camera("top", 2, 3),),
)


@dataclass(frozen=True)
class Config:
    max_steps: int = 20
    goal: float = 0.65  # the episode succeeds, and ends, above this |x|
    linger: bool = False  # success does not end the episode
    unstable_at: int = -1  # control step that warns
    raise_at: int = -1  # control step that raises
    die_at: int = -1  # control step that kills the process
    hang_at: int = -1  # control step that never returns
    broken: str = ""  # raise this when built

    def simulator(self) -> Walk:
        if self.broken:
            raise RuntimeError(self.broken)
        return Walk(self)

    def build(self, batch_size=1, workers=0, n_obs_steps=1, driver="policy"):
        from robot_value.sim.fleet import Fleet

        return Fleet(self, batch_size, workers, n_obs_steps, driver)


class Walk:
    """A chaotic map pushed by actions: any mixed-up row, step or generator shows in every later digit."""

    spec = SPEC
    tasks = ("walk", "run")

    def __init__(self, config: Config) -> None:
        self.config, self.max_steps = config, config.max_steps
        self.provenance = {"pid": os.getpid(), "torch": "torch" in sys.modules}
        self.switches = self.drawn = 0
        self._driver = None

    def reset(self, task: str, seed: int) -> Frame:
        if task not in self.tasks:
            raise ValueError(f"no task called {task!r}")
        self._rng = np.random.default_rng([seed, self.tasks.index(task)])
        self._x, self._step = self._rng.uniform(-0.5, 0.5, 2), 0
        return self._frame()

    def step(self, action: np.ndarray, pictures: bool = True) -> Frame:
        config = self.config
        self._step += 1
        if self._step == config.raise_at:
            raise ArithmeticError("the walk fell over")
        if self._step == config.die_at:
            os.kill(os.getpid(), 9)
        if self._step == config.hang_at:
            time.sleep(1000)
        push = 0.2 * np.asarray(action, float) + 0.01 * self._rng.standard_normal(2)
        self._x = np.clip(1 - 1.9 * self._x**2 + push, -2, 2) * 0.6
        success = bool(abs(self._x[0]) > config.goal)
        unstable = self._step == config.unstable_at
        return self._frame(float(success), success and not config.linger, success, unstable, pictures)

    def save_state(self):
        driver = self._driver.save() if self._driver else None
        return {"x": self._x.copy(), "step": self._step, "rng": self._rng.bit_generator.state, "driver": driver}

    def load_state(self, state) -> Frame:
        self.switches += 1
        self._x, self._step = state["x"].copy(), state["step"]
        self._rng.bit_generator.state = state["rng"]
        if state["driver"] is not None:
            self._driver.load(state["driver"])
        return self._frame()

    def expert(self, seed: int):
        self._driver = Driver(seed)
        return self._driver

    def close(self) -> None:
        pass

    def _frame(self, reward=0.0, terminated=False, success=False, unstable=False, pictures=True) -> Frame:
        state = np.array([*self._x, self._step], np.float32)
        images = {"top": np.full((2, 3, 3), self._step, np.uint8)} if pictures else {}
        self.drawn += pictures
        return Frame(state, images, reward, terminated, success, unstable, 0.1 * self._step)


class Driver:
    """An expert with a generator of its own, which asks for more than the limits allow."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 7])
        self.latents = {"gain": float(self._rng.uniform(0.5, 3))}

    def action(self) -> np.ndarray:
        return (self.latents["gain"] * self._rng.uniform(-1, 1, 2)).astype(np.float32)

    def save(self):
        return {"rng": self._rng.bit_generator.state, "latents": dict(self.latents)}

    def load(self, state) -> None:
        self._rng.bit_generator.state, self.latents = state["rng"], dict(state["latents"])
