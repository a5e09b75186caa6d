"""robomimic's HDF5: `data/demo_<i>/{actions, obs/<key>, next_obs/<key>, rewards, dones}` and `mask/<filter>`.

The frame after the last action is the last row of next_obs, where the file has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robot_value.convert import ConversionError, Survey, identity_of
from robot_value.datasets import hdf5_files
from robot_value.datasets.replay_buffer import limits, told_spec
from robot_value.types import ActionPart, Camera, Episode, Spec

if TYPE_CHECKING:
    import h5py

KNOWN = {"actions", "obs", "next_obs", "rewards", "dones"}


def recognises(path: Path) -> bool:
    return path.is_file() and "data" in hdf5_files.top_level(path)


@dataclass(frozen=True)
class Config:
    spec: str = ""  # JSON file with the Spec, where the source does not say what its numbers mean
    filter: str = ""  # only the demos of mask/<filter>, e.g. "train" (default: all)
    state: tuple[str, ...] = ()  # keys of obs that make up the state, in this order (default: all [T, D], sorted)
    hz: float = 0.0  # control rate, 1/s; 0: control_freq of env_args, or 20 (robosuite's default) where it has none
    success_from_reward: bool = True  # a reward above 0 means success, as in robomimic's sparse tasks

    def build(self, path: Path) -> Source:
        file = hdf5_files.open_hdf5(path)
        try:
            return Source(path, file, self)
        except BaseException:
            file.close()
            raise


@dataclass(frozen=True)
class Layout:
    """What an observation holds, taken from the first demo; the others must have it too."""

    state: dict[str, int]  # key -> dims
    cameras: tuple[Camera, ...]
    other: tuple[str, ...]  # keys that are neither

    @classmethod
    def of(cls, demo: h5py.Group, chosen: tuple[str, ...]) -> Layout:
        group = hdf5_files.subgroup(demo, "obs")
        arrays = {key: hdf5_files.array(group, key) for key in hdf5_files.members(group)}
        vectors = {key: data.shape[1] for key, data in arrays.items() if data.ndim == 2 and data.shape[1]}
        if unknown := set(chosen) - set(vectors):
            raise ConversionError(
                f"{hdf5_files.where(group)}: --source.state: expected keys of {sorted(vectors)}, got {sorted(unknown)}"
            )
        images = {key: d.shape for key, d in arrays.items() if d.ndim == 4 and d.dtype == np.uint8 and d.shape[3] == 3}
        cameras = tuple(Camera(key, *shape[1:3]) for key, shape in images.items())
        state = {key: vectors[key] for key in chosen or vectors}
        return cls(state, cameras, tuple(key for key in arrays if key not in state and key not in images))


class Source:
    def __init__(self, path: Path, file: h5py.File, config: Config):
        self._file, self._data, self._config = file, hdf5_files.subgroup(file, "data"), config
        self._env = hdf5_files.json_object(hdf5_files.text(self._data, "env_args"), f"{path}: env_args")
        keys = _chosen(file, hdf5_files.numbered(self._data, "demo"), config.filter)
        first = hdf5_files.subgroup(self._data, keys[0])
        self._layout = Layout.of(first, config.state)
        lengths, low, high = self._measure(keys)
        rate = config.hz or hdf5_files.positive(self._env.get("env_kwargs"), "control_freq") or 20.0
        self.survey = Survey(
            format="robomimic HDF5",
            spec=told_spec(config.spec, self._guess(rate, low, high)),
            keys=tuple(keys),
            steps=tuple(lengths),
            identity=identity_of([self._env, lengths], [path]),
            assumed=self._assumed(first, rate),
            left_out=self._left_out(first),
        )

    def read(self, index: int) -> Episode:
        demo = hdf5_files.subgroup(self._data, self.survey.keys[index])
        actions = hdf5_files.floats(hdf5_files.array(demo, "actions"))
        steps = _steps(demo, len(actions))
        states, images = self._observed(demo, steps)
        rewards, dones = (_signal(demo, key, steps) for key in ("rewards", "dones"))
        terminated = bool(dones[-1] > 0)
        solved = self._config.success_from_reward and bool((rewards > 0).any())
        with hdf5_files.sound(hdf5_files.where(demo)):
            return Episode(
                spec=self.survey.spec,
                states=states,
                images=images,
                actions=actions,
                rewards=rewards,
                terminated=terminated,
                truncated=not terminated,
                success=True if solved else None,
                task=str(self._env.get("env_name", "")),
                provenance={"env_args": self._env},
            )

    def close(self) -> None:
        self._file.close()

    def _observed(self, demo: h5py.Group, steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """float32[T+1 or T, S], and camera -> uint8[T+1 or T, h, w, 3]."""
        parts = [np.empty((steps + ("next_obs" in demo), 0), np.float32)]
        parts += [
            _both(demo, key, (steps, dims), hdf5_files.floats, check=True) for key, dims in self._layout.state.items()
        ]
        images = {
            camera.name: _both(demo, camera.name, (steps, camera.height, camera.width, 3), _pixels, check=False)
            for camera in self._layout.cameras
        }
        return np.concatenate(parts, axis=1), images

    def _measure(self, keys: list[str]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Actions of every demo (0 where they cannot be read, `read` says why), their lowest and highest float[A]."""
        lengths: list[int] = []
        dims = hdf5_files.floats(hdf5_files.array(self._data, f"{keys[0]}/actions"), 0, 1).shape[1]
        if not dims:
            raise ConversionError(f"{hdf5_files.where(self._data, keys[0])}/actions: expected [T, A], got no columns")
        low, high = limits(self._stream(keys, dims, lengths), dims)
        return lengths, low, high

    def _stream(self, keys: list[str], dims: int, lengths: list[int]) -> Iterator[np.ndarray]:
        """float32[T, A] of every demo that has them; each demo's T goes to `lengths`."""
        for key in keys:
            try:
                actions = hdf5_files.floats(hdf5_files.array(self._data, f"{key}/actions"))
            except ConversionError:
                actions = np.empty((0, dims), np.float32)
            lengths.append(len(actions))
            if len(actions) and actions.shape[1] == dims:
                yield actions

    def _guess(self, rate: float, low: np.ndarray, high: np.ndarray) -> Spec:
        names = tuple(f"{key}_{i}" for key, dims in self._layout.state.items() for i in range(dims))
        return Spec(
            parts=(ActionPart("action", 0, len(low), "other", "1", tuple(low), tuple(high)),),
            state_names=names,
            state_units=("1",) * len(names),
            dt=1 / rate,
            cameras=self._layout.cameras,
        )

    def _assumed(self, demo: h5py.Group, rate: float) -> tuple[str, ...]:
        told, missing = self._config, KNOWN - set(demo)
        lines = {
            f"control rate {rate:g} Hz, robosuite's default (--source.hz)": not (
                told.hz or told.spec or hdf5_files.positive(self._env.get("env_kwargs"), "control_freq")
            ),
            "kinds, units and absolute reference of action and state (--source.spec=FILE)": not told.spec,
            "action limits: the data's own range (--source.spec=FILE)": not told.spec,
            "success where a reward is above 0, else unknown (--source.success_from_reward)": told.success_from_reward,
            "terminated where the last `dones` is set, else truncated; some recordings set it at every end": True,
            "rewards are 0: there are none; `robot-value data label` gives them": "rewards" in missing,
            "every episode ends by truncation: there is no `dones`": "dones" in missing,
        }
        return tuple(line for line, holds in lines.items() if holds)

    def _left_out(self, demo: h5py.Group) -> tuple[str, ...]:
        """Judged by the first demo."""
        keys = [f"obs/{key}" for key in self._layout.other]
        keys += [key for key in hdf5_files.members(demo) if key not in KNOWN]
        keys += [f"attribute {key}" for key in sorted(demo.attrs) if key != "num_samples"]
        numbers = ["actions", *(f"obs/{key}" for key in self._layout.state)]
        wide = [key for key in numbers if hdf5_files.array(demo, key).dtype.itemsize > 4]
        return (*keys, *(f"what float32 does not hold of {key}" for key in wide))


def _chosen(file: h5py.File, demos: list[str], name: str) -> list[str]:
    """The demos that the filter names, in numeric order."""
    if not demos:
        raise ConversionError(f"{file.filename}: expected data/demo_0, ..., got none; is it a robomimic dataset?")
    if not name:
        return demos
    known = hdf5_files.members(file["mask"]) if "mask" in file else []
    if name not in known:
        raise ConversionError(f"{file.filename}: --source.filter: expected one of {known}, got {name!r}")
    found = hdf5_files.rows(hdf5_files.array(hdf5_files.subgroup(file, "mask"), name, numbers=False))
    chosen = {entry.decode(errors="replace") if isinstance(entry, bytes) else str(entry) for entry in found.ravel()}
    if not chosen or (unknown := chosen - set(demos)):
        got = sorted(unknown)[:3] if chosen else "none"
        raise ConversionError(f"{file.filename}: mask/{name}: expected names of demos in data, got {got}")
    return [demo for demo in demos if demo in chosen]


def _steps(demo: h5py.Group, steps: int) -> int:
    """T, which num_samples confirms where it is there."""
    with hdf5_files.sound(hdf5_files.where(demo)):
        promised = int(demo.attrs.get("num_samples", steps))
    if promised != steps or not steps:
        raise ConversionError(
            f"{hdf5_files.where(demo)}: expected {promised or 'some'} actions (num_samples), got {steps}"
        )
    return steps


def _both(
    demo: h5py.Group, key: str, shape: tuple[int, ...], read: Callable[..., np.ndarray], check: bool
) -> np.ndarray:
    """obs/<key> of the given shape, with the last row of next_obs/<key> behind it where there is one."""
    seen = _of_shape(demo, f"obs/{key}", shape)
    if "next_obs" not in demo:
        return read(seen)
    after = _of_shape(demo, f"next_obs/{key}", shape)
    if check:
        return hdf5_files.with_last(read(seen), read(after), hdf5_files.where(after))
    return np.concatenate([read(seen), read(after, shape[0] - 1, shape[0])])


def _of_shape(demo: h5py.Group, key: str, shape: tuple[int, ...]) -> h5py.Dataset:
    data = hdf5_files.array(demo, key)
    if data.shape != shape:
        raise ConversionError(
            f"{hdf5_files.where(data)}: expected shape {list(shape)} as in the first demo, got {list(data.shape)}"
        )
    return data


def _pixels(data: h5py.Dataset, start: int = 0, stop: int | None = None) -> np.ndarray:
    if data.dtype != np.uint8:
        raise ConversionError(f"{hdf5_files.where(data)}: expected uint8 pixels, got {data.dtype}")
    return hdf5_files.rows(data, start, stop)


def _signal(demo: h5py.Group, key: str, steps: int) -> np.ndarray:
    """float32[T]; zeros where the source says nothing."""
    found = hdf5_files.column(hdf5_files.array(demo, key)) if key in demo else np.zeros(steps, np.float32)
    if len(found) != steps:
        raise ConversionError(f"{hdf5_files.where(demo, key)}: expected {steps} rows as in actions, got {len(found)}")
    return found
