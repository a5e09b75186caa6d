"""diffusion_policy's ReplayBuffer zarr: one row is an observation and the action taken on it; the last action's effect
is not recorded. It says nothing of rates, units, limits and endings: those are assumed, or told by a Spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robot_value.convert import ConversionError, Survey
from robot_value.datasets.replay_buffer import ReplayBuffer, Rows, holds, limits, open_buffer, readable, told_spec
from robot_value.types import ActionPart, Camera, Episode, Spec

SCALES = ("0..255", "0..1")
DIMS = 4096  # of one key that counts as low-dimensional


def recognises(path: Path) -> bool:
    return holds(path, "meta/episode_ends") and not holds(path, "data/robot0_eef_pos")


@dataclass(frozen=True)
class Config:
    spec: str = ""  # JSON file with the Spec, where the source does not say what its numbers mean
    hz: float = 10.0  # control rate of the recording, 1/s (PushT's); the format has no place for it
    state: tuple[str, ...] = ()  # keys that make up the state, in this order (default: every float key [rows, dims])
    float_images: str = "0..255"  # range of images that are stored as floats: "0..255" (PushT's) or "0..1"

    def build(self, path: Path) -> Source:
        if not self.hz > 0 or self.float_images not in SCALES:
            got = f"{self.hz} and {self.float_images!r}"
            raise ConversionError(
                f"hz, float_images: expected a positive rate and one of {', '.join(SCALES)}, got {got}"
            )
        return Source(open_buffer(path), self)


class Source:
    def __init__(self, buffer: ReplayBuffer, config: Config):
        self._buffer, self._scale = buffer, config.float_images
        self._state = _state_keys(buffer, config.state)
        self._reward = "reward" if _is_reward(buffer.keys.get("reward")) else None
        self._spans = buffer.spans(least=1)
        cameras = [key for key, rows in buffer.keys.items() if _is_image(rows)]
        spec = told_spec(config.spec, self._guess(config.hz, cameras))
        numbers = ["action", *self._state, *([self._reward] if self._reward else [])]
        self.survey = Survey(
            format="diffusion_policy ReplayBuffer",
            spec=spec,
            keys=tuple(self._spans),
            steps=tuple(stop - start for start, stop in self._spans.values()),
            identity=buffer.identity(numbers),
            assumed=self._assumed(config, spec),
            left_out=buffer.left_out(numbers, cameras, least=1),
        )

    def read(self, index: int) -> Episode:
        name = self.survey.keys[index]
        spec, (start, stop) = self.survey.spec, self._spans[name]
        keys = self._buffer.keys
        rewards = np.zeros(stop - start, np.float32)
        if self._reward:
            rewards = keys[self._reward](start, stop).reshape(-1).astype(np.float32)
        return Episode(
            spec=spec,
            states=self._states(start, stop),
            images={c.name: self._pixels(c.name, name, start, stop) for c in spec.cameras},
            actions=self._actions(start, stop),
            rewards=rewards,
            terminated=False,
            truncated=True,
            success=None,
        )

    def close(self) -> None:
        self._buffer.close()

    def _guess(self, hz: float, cameras: list[str]) -> Spec:
        keys = self._buffer.keys
        dims = keys["action"].shape[1]
        low, high = limits(readable(self._spans.values(), self._actions), dims)
        names = [f"{key}_{i}" for key in self._state for i in range(keys[key].shape[1])]
        return Spec(
            parts=(ActionPart("action", 0, dims, "other", "1", tuple(low), tuple(high)),),
            state_names=tuple(names),
            state_units=("1",) * len(names),
            dt=1 / hz,
            cameras=tuple(Camera(name, *keys[name].shape[1:3]) for name in cameras),
        )

    def _assumed(self, config: Config, spec: Spec) -> tuple[str, ...]:
        rewards = (
            () if self._reward else ("rewards are 0: there is no key `reward`; `robot-value data label` gives them",)
        )
        endings = "every episode ends by truncation, success unknown, steps by the policy (`robot-value data label`)"
        if config.spec:
            return (*rewards, endings)
        return (
            f"control rate {1 / spec.dt:g} Hz (--source.hz)",
            "kinds, units and absolute reference of action and state (--source.spec=FILE)",
            "action limits: the data's own range (--source.spec=FILE)",
            *rewards,
            endings,
        )

    def _actions(self, start: int, stop: int) -> np.ndarray:
        return self._buffer.keys["action"](start, stop).astype(np.float32)  # float32[T, A]

    def _states(self, start: int, stop: int) -> np.ndarray:
        parts = [self._buffer.keys[key](start, stop).astype(np.float32) for key in self._state]
        return np.concatenate([np.empty((stop - start, 0), np.float32), *parts], axis=1)  # float32[T, S]

    def _pixels(self, key: str, name: str, start: int, stop: int) -> np.ndarray:
        where = f"{self._buffer.path}: {name}, data/{key}"
        return pixels(self._buffer.keys[key](start, stop), self._scale, where)


def pixels(images: np.ndarray, scale: str, where: str) -> np.ndarray:
    """uint8[T, h, w, 3] of images that may be stored as floats. Raises ConversionError where that would change them."""
    if images.dtype == np.uint8:
        return images
    top = 255 if scale == "0..255" else 1
    sound = (images >= 0) & (images <= top)
    if top == 255:
        sound &= images == np.floor(images)
    if not sound.all():
        what = "whole numbers in 0..255" if top == 255 else "numbers in 0..1"
        other = SCALES[1] if top == 255 else SCALES[0]
        raise ConversionError(
            f"{where}: expected {what}, got {images[~sound][0]}; is it --source.float_images={other}?"
        )
    if top == 255 and 0 < images.max() <= 1:
        raise ConversionError(f"{where}: expected 0..255, got nothing above 1; is it --source.float_images=0..1?")
    return np.rint(images * (255 // top)).astype(np.uint8)


def _state_keys(buffer: ReplayBuffer, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of the state in order. Raises ConversionError where a key that is needed is not there."""
    low_dim = [key for key, rows in buffer.keys.items() if _is_vector(rows) and key != "reward"]
    if "action" not in low_dim:
        raise ConversionError(f"{buffer.path}: expected data/action float [rows, dims], got {sorted(buffer.keys)}")
    low_dim.remove("action")
    if unknown := set(chosen) - set(low_dim):
        raise ConversionError(f"{buffer.path}: --source.state: expected keys among {low_dim}, got {sorted(unknown)}")
    return chosen or tuple(sorted(low_dim, key=lambda key: (key != "state", key)))


def _is_vector(rows: Rows) -> bool:
    return len(rows.shape) == 2 and rows.dtype.kind == "f" and 0 < rows.shape[1] <= DIMS


def _is_image(rows: Rows) -> bool:
    return len(rows.shape) == 4 and rows.shape[-1] == 3 and (rows.dtype == np.uint8 or rows.dtype.kind == "f")


def _is_reward(rows: Rows | None) -> bool:
    return rows is not None and rows.dtype.kind == "f" and rows.shape[1:] in ((), (1,))
