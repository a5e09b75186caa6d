"""A point robot with a Config, tiny models for it, and an actor in the test's own process."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import numpy as np
from fakes import PointMass, point_spec

from robot_value import checkpoint, components
from robot_value.normalize import Statistics


@dataclass(frozen=True)
class PointConfig:
    max_steps: int = 12
    unstable: tuple[int, ...] = ()

    def build(self, batch_size: int, workers: int = 0, n_obs_steps: int = 1, driver: str = "policy") -> PointMass:
        return PointMass(batch_size, 0, self.max_steps, n_obs_steps, driver == "expert", self.unstable)


class Here(Executor):
    """Does at once what it is given, in this process."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def submit(self, function: Any, *arguments: Any) -> Future:
        self.calls.append(arguments)
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


def save_models(folder: Path) -> tuple[str, str]:
    """A small flow policy and a small critic for the point robot, untrained."""
    spec = point_spec(horizon=4, n_obs_steps=1)
    standard = {key: _standard(2) for key in ("state", "action")} | {"return": _standard(1)}
    for kind, name, values in (("policies", "flow", {"width": 16, "depth": 1}), ("critics", "sarsa", {"members": 2})):
        config = components.load(kind, name).Config(**values)
        tensors = config.build(spec, standard).state_dict()
        words = {"kind": kind, "name": name, "config": draccus.encode(config), "spec": spec, "statistics": standard}
        checkpoint.save(folder / kind, **words, tensors=tensors, extra={"tasks": [""]}, step=0)
    return str(folder / "policies"), str(folder / "critics")


def _standard(size: int) -> Statistics:
    one = np.ones(size, np.float32)
    return Statistics(mean=0 * one, std=one, low=-one, high=one, count=9)
