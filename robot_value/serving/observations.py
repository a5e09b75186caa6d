"""Observations as bytes, and back: checked against the Spec before anything is computed from them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..types import Observation, Spec
from ..wire import WireError, pack

OBSERVED = {"state": "float32", "time": "float64", "step": "int64", "episode": "int64", "pending": "float32"}
OBSERVED |= {"committed": "int64"}  # name -> dtype


def pack_observation(observation: Observation, about: Mapping[str, Any], more: Mapping[str, np.ndarray]) -> bytes:
    """With JSON values and arrays of the sender's own; a goal travels as a second observation."""
    arrays, tasks = _flat(observation, ""), {"task": observation.task}
    if observation.goal is not None:
        arrays |= _flat(observation.goal, "goal.")
        tasks["goal.task"] = observation.goal.task
    return pack({**about, **tasks}, {**arrays, **more})


def read_observation(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], spec: Spec) -> Observation:
    """Of what `pack_observation` wrote, checked against the Spec. Raises WireError."""
    any_history = spec.choose(n_obs_steps=0)  # of a goal the last frame counts
    goal = _observation(about, arrays, any_history, "goal.", None) if "goal.task" in about else None
    return _observation(about, arrays, spec, "", goal)


def _flat(observation: Observation, prefix: str) -> dict[str, np.ndarray]:
    arrays = {prefix + name: getattr(observation, name) for name in OBSERVED}
    return arrays | {f"{prefix}image.{name}": image for name, image in observation.images.items()}


def _observation(
    about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], spec: Spec, prefix: str, goal: Observation | None
) -> Observation:
    task = about.get(f"{prefix}task")
    if not isinstance(task, list) or not task or not all(isinstance(text, str) for text in task):
        raise WireError(f"{prefix}task: expected one text per robot, got {task!r}")
    found = {name: arrays.get(prefix + name) for name in OBSERVED}
    shapes = dict.fromkeys(("time", "step", "episode", "committed"), (len(task),))
    shapes |= {"state": (len(task), None, spec.state_dim), "pending": (len(task), None, spec.action_dim)}
    for name, dtype in OBSERVED.items():
        if found[name] is None or found[name].dtype != dtype or not _fits(found[name].shape, shapes[name]):
            got = None if found[name] is None else f"{found[name].dtype}{list(found[name].shape)}"
            raise WireError(f"{prefix}{name}: expected {dtype}{list(shapes[name])}, got {got}")
    images = {camera.name: arrays.get(f"{prefix}image.{camera.name}") for camera in spec.cameras}
    observation = Observation(
        images={name: image for name, image in images.items() if image is not None},
        task=tuple(task),
        goal=goal,
        **found,
    )
    if not observation.state.shape[1] or not np.isfinite(observation.state).all():
        raise WireError(f"{prefix}state: expected one frame or more of finite numbers")
    ahead = observation.pending.shape[1]
    if not ((observation.committed >= 0) & (observation.committed <= ahead)).all() or (observation.step < 0).any():
        raise WireError(f"{prefix}committed and step: expected 0 to {ahead} and at least 0, got others")
    if not np.isfinite(observation.pending).all():
        raise WireError(f"{prefix}pending: expected finite numbers")
    try:
        observation.check(spec)
    except ValueError as error:
        raise WireError(f"{prefix}{error}") from error
    return observation


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """None: any number."""
    return len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))
