"""UMI's `dataset.zarr.zip`: poses and gripper widths of hand-held grippers, JPEG XL images, and no action.

An action is the pose and width that follow (Chi et al. 2024, absolute targets): T rows are T observations and the
T - 1 actions between them; the last row is the final observation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robot_value.convert import ConversionError, Survey
from robot_value.datasets.replay_buffer import ReplayBuffer, holds, limits, open_buffer, readable, told_spec
from robot_value.types import ActionPart, Camera, Episode, Spec

MEASURED = (("eef_pos", 3, "m"), ("eef_rot_axis_angle", 3, "rad"), ("gripper_width", 1, "m"))  # key, dims, unit
POSE, WIDTH = slice(0, 6), slice(6, 7)  # of one robot's seven numbers
DEMO = ("demo_start_pose", "demo_end_pose")  # the same in every row of an episode
ROBOT = re.compile(r"(robot\d+)_eef_pos")
CAMERA = re.compile(r"camera\d+_rgb")
UNSAID = (
    "every episode ends by truncation, success unknown, rewards 0 (`robot-value data label`), all steps by the policy"
)


def recognises(path: Path) -> bool:
    return holds(path, "meta/episode_ends", "data/robot0_eef_pos")


@dataclass(frozen=True)
class Config:
    spec: str = ""  # JSON file with the Spec, where the source does not say what its numbers mean
    hz: float = 60.0  # rate of the rows, 1/s: the camera's, before training takes every n-th; the format does not say

    def build(self, path: Path) -> Source:
        if not self.hz > 0:
            raise ConversionError(f"hz: expected a positive rate, got {self.hz}")
        return Source(open_buffer(path), self)


class Source:
    def __init__(self, buffer: ReplayBuffer, config: Config):
        self._buffer = buffer
        self._robots = _robots(buffer)
        self._measured = _keys(self._robots, [key for key, _, _ in MEASURED])
        self._demo = [key for key in _keys(self._robots, DEMO) if key in buffer.keys]
        self._spans = buffer.spans(least=2)
        images = {key: rows for key, rows in buffer.keys.items() if CAMERA.fullmatch(key)}
        cameras = [key for key, rows in images.items() if rows.dtype == np.uint8 and rows.shape[3:] == (3,)]
        self.survey = Survey(
            format="UMI zarr",
            spec=told_spec(config.spec, self._guess(config.hz, cameras)),
            keys=tuple(self._spans),
            steps=tuple(stop - start - 1 for start, stop in self._spans.values()),
            identity=buffer.identity(self._measured),
            assumed=(UNSAID,) if config.spec else (*_assumed(config.hz), UNSAID),
            left_out=buffer.left_out(self._measured, [*self._demo, *cameras], least=2),
        )

    def read(self, index: int) -> Episode:
        name, spec = self.survey.keys[index], self.survey.spec
        span = self._spans[name]
        return Episode(
            spec=spec,
            states=self._observed(*span),
            images={camera.name: self._buffer.keys[camera.name](*span) for camera in spec.cameras},
            actions=self._actions(*span),
            rewards=np.zeros(span[1] - span[0] - 1, np.float32),
            terminated=False,
            truncated=True,
            success=None,
            provenance={key: self._demo_pose(key, name) for key in self._demo},
        )

    def close(self) -> None:
        self._buffer.close()

    def _guess(self, hz: float, cameras: list[str]) -> Spec:
        low, high = limits(readable(self._spans.values(), self._actions), 7 * len(self._robots))
        parts = [part for i, robot in enumerate(self._robots) for part in _parts(robot, 7 * i, low, high)]
        state = [(f"{r}_{key}_{i}", unit) for r in self._robots for key, dims, unit in MEASURED for i in range(dims)]
        return Spec(
            parts=tuple(parts),
            state_names=tuple(name for name, _ in state),
            state_units=tuple(unit for _, unit in state),
            dt=1 / hz,
            cameras=tuple(Camera(name, *self._buffer.keys[name].shape[1:3]) for name in cameras),
        )

    def _observed(self, start: int, stop: int) -> np.ndarray:
        """float32[T+1, 7 per robot]: position m, axis-angle rad, width m."""
        rows = [self._buffer.keys[key](start, stop) for key in self._measured]
        return np.concatenate(rows, axis=1).astype(np.float32)

    def _actions(self, start: int, stop: int) -> np.ndarray:
        """float32[T, 7 per robot]: what was reached a row later."""
        return self._observed(start, stop)[1:].copy()

    def _demo_pose(self, key: str, name: str) -> list[float]:
        """The pose a demonstration began or ended in: position m, axis-angle rad."""
        rows = self._buffer.keys[key](*self._spans[name])
        if (rows != rows[0]).any():
            where = f"{self._buffer.path}: {name}, data/{key}"
            raise ConversionError(
                f"{where}: expected one pose in all rows, got several; do its episodes end elsewhere?"
            )
        return rows[0].tolist()


def _parts(robot: str, start: int, low: np.ndarray, high: np.ndarray) -> tuple[ActionPart, ActionPart]:
    """Pose and gripper of one robot; `low` and `high` are of all dims."""

    def part(name: str, dims: slice, kind: str, unit: str, **more: object) -> ActionPart:
        first, last = start + dims.start, start + dims.stop
        return ActionPart(
            f"{robot}_{name}", first, last, kind, unit, tuple(low[first:last]), tuple(high[first:last]), **more
        )

    pose = part("pose", POSE, "pose", "m+rad", rotation="axis_angle", frame="tag")
    return pose, part("gripper", WIDTH, "gripper", "m", sign=-1)


def _assumed(hz: float) -> tuple[str, ...]:
    return (
        f"rate {hz:g} Hz (--source.hz)",
        "poses are in the mapping tag's frame, called 'tag'; a wider gripper is an open one (--source.spec=FILE)",
        "action limits: the data's own range (--source.spec=FILE)",
    )


def _robots(buffer: ReplayBuffer) -> list[str]:
    """robot0, robot1, ... Raises ConversionError where one lacks a key or has it in another shape."""
    found = [match[1] for key in buffer.keys if (match := ROBOT.fullmatch(key))]
    robots = sorted(found, key=lambda robot: int(robot.removeprefix("robot")))
    for key, dims in ((f"{robot}_{key}", dims) for robot in robots or ["robot0"] for key, dims, _ in MEASURED):
        rows = buffer.keys.get(key)
        if rows is None or rows.shape[1:] != (dims,) or rows.dtype.kind != "f":
            got = "nothing" if rows is None else f"{rows.dtype}{list(rows.shape)}"
            raise ConversionError(
                f"{buffer.path}: data/{key}: expected float [rows, {dims}], got {got}; is it from UMI?"
            )
    return robots


def _keys(robots: list[str], names: Sequence[str]) -> list[str]:
    return [f"{robot}_{name}" for robot in robots for name in names]
