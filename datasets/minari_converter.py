"""Minari's HDF5, `episode_<i>/{observations [T+1], actions, rewards, terminations, truncations, infos}`, and the flat
HDF5 of D4RL, `{observations, actions, rewards, terminals, timeouts}` [rows]: one row per step, episodes end to end.

Observations may be an array or (nested) groups of arrays. Next to the file, metadata.json may name the environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robot_value import untrusted
from robot_value.convert import ConversionError, Survey, identity_of
from robot_value.datasets import hdf5_files
from robot_value.datasets.replay_buffer import limits, told_spec
from robot_value.types import ActionPart, Camera, Episode, Spec

if TYPE_CHECKING:
    import h5py

DEEPEST = 8  # groups within groups of observations
FLAT = {"observations", "actions", "rewards", "terminals"}
KNOWN = {"observations", "actions", "rewards", "terminations", "truncations"} | {"terminals", "timeouts"}
SUCCESS = ("infos/success", "infos/is_success")


def recognises(path: Path) -> bool:
    names = hdf5_files.top_level(_file(path))
    return "data" not in names and (names >= FLAT or any(name.startswith("episode_") for name in names))


@dataclass(frozen=True)
class Config:
    spec: str = ""  # JSON file with the Spec, where the source does not say what its numbers mean
    hz: float = 0.0  # control rate, 1/s; 0: `dt` (s) or control_freq of the metadata, or 20 where there is neither

    def build(self, path: Path) -> Source:
        file = hdf5_files.open_hdf5(_file(path))
        try:
            return Source(_file(path), file, self)
        except BaseException:
            file.close()
            raise


@dataclass(frozen=True)
class Place:
    """Where an episode lies: all of its own group, or rows [start, stop) of the flat file."""

    key: str
    group: h5py.Group
    start: int = 0
    stop: int | None = None


class Source:
    def __init__(self, path: Path, file: h5py.File, config: Config):
        self._file, self._array = file, lru_cache(64)(hdf5_files.array)  # of a flat file, every episode reads the same
        self._about = _metadata(path, file)
        self._places = _places(file)
        group = self._places[0].group
        self._state, self._cameras, others = _layout(group)
        lengths, low, high = self._measure()
        rate = config.hz or _rate(self._about) or 20.0
        bounds = _action_space(self._about, len(low))
        self.survey = Survey(
            format="Minari HDF5" if self._places[0].stop is None else "D4RL HDF5",
            spec=told_spec(config.spec, self._guess(rate, *(bounds or (low, high)))),
            keys=tuple(place.key for place in self._places),
            steps=tuple(lengths),
            identity=identity_of([self._about, lengths], [path]),
            assumed=tuple(_assumed(config, group, bool(_rate(self._about)), bool(bounds))),
            left_out=(*others, *_left_out(group), *(f"metadata {key}" for key in sorted(self._about))),
        )

    def read(self, index: int) -> Episode:
        place, name = self._places[index], self.survey.keys[index]
        where = f"{hdf5_files.where(place.group)} {name}"
        actions = self._actions(place)
        steps = len(actions)
        rewards = self._column(place, "rewards", steps)
        terminated, success = self._ended(place, steps), self._success(place)
        states, images = self._observed(place, steps)
        with hdf5_files.sound(where):
            return Episode(
                spec=self.survey.spec,
                states=states,
                images=images,
                actions=actions,
                rewards=rewards,
                terminated=terminated,
                truncated=not terminated,
                success=success,
                task=_environment(self._about),
            )

    def close(self) -> None:
        self._file.close()

    def _actions(self, place: Place) -> np.ndarray:
        """float32[T, A]"""
        data = self._array(place.group, "actions")
        if data.dtype.kind != "f":
            raise ConversionError(
                f"{hdf5_files.where(data)}: expected continuous actions (Box, floats [T, A]), got {data.dtype} "
                f"{list(data.shape)}; chunks of discrete actions are not supported"
            )
        return hdf5_files.floats(data, place.start, place.stop)

    def _column(self, place: Place, key: str, steps: int) -> np.ndarray:
        """float32[T]; zeros where the source says nothing."""
        if key not in place.group:
            return np.zeros(steps, np.float32)
        found = hdf5_files.column(self._array(place.group, key), place.start, place.stop)
        if len(found) != steps:
            where = hdf5_files.where(place.group, key)
            raise ConversionError(f"{where}: expected {steps} rows as in actions, got {len(found)}")
        return found

    def _ended(self, place: Place, steps: int) -> bool:
        """Whether the task ended; an end before the last step is an error."""
        keys = ("terminations", "truncations") if place.stop is None else ("terminals", "timeouts")
        terminations, truncations = (self._column(place, key, steps) > 0 for key in keys)
        if (early := (terminations | truncations)[:-1]).any():
            where = f"{hdf5_files.where(place.group)} {place.key}"
            raise ConversionError(f"{where}: expected its end at step {steps - 1}, got one at {int(np.argmax(early))}")
        return bool(steps and terminations[-1])

    def _success(self, place: Place) -> bool | None:
        """Whether any step says so; None where no step says anything."""
        key = next((key for key in SUCCESS if key in place.group), None)
        if key is None:
            return None
        return bool((hdf5_files.column(self._array(place.group, key), place.start, place.stop) > 0).any())

    def _observed(self, place: Place, steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """float32[T+1 or T, S], and camera -> uint8[T+1 or T, h, w, 3]."""
        parts = [self._vectors(place, key) for key in self._state]
        images = {camera.name: self._pixels(place, key, camera) for key, camera in self._cameras.items()}
        frames = {len(part) for part in (*parts, *images.values())}
        if len(frames) != 1 or not frames <= {steps, steps + 1}:
            where = f"{hdf5_files.where(place.group)} {place.key}"
            raise ConversionError(f"{where}: expected {steps + 1} or {steps} observations, got {sorted(frames)}")
        return np.concatenate([np.empty((*frames, 0), np.float32), *parts], axis=1), images

    def _vectors(self, place: Place, key: str) -> np.ndarray:
        """float32[T+1 or T, D]; a flat file may have next_observations, whose last row is the frame after the end."""
        seen = hdf5_files.floats(self._array(place.group, key), place.start, place.stop)
        if seen.shape[1] != self._state[key]:
            where = hdf5_files.where(place.group, key)
            raise ConversionError(f"{where}: expected {self._state[key]} dims as in the first, got {seen.shape[1]}")
        if place.stop is None or key != "observations" or "next_observations" not in place.group:
            return seen
        after = self._array(place.group, "next_observations")
        name = f"{hdf5_files.where(after)} {place.key}"
        return hdf5_files.with_last(seen, hdf5_files.floats(after, place.start, place.stop), name)

    def _pixels(self, place: Place, key: str, camera: Camera) -> np.ndarray:
        data, expected = self._array(place.group, key), (camera.height, camera.width, 3)
        if data.shape[1:] != expected or data.dtype != np.uint8:
            where = hdf5_files.where(data)
            raise ConversionError(f"{where}: expected uint8[frames, *{expected}], got {data.dtype}{list(data.shape)}")
        return hdf5_files.rows(data, place.start, place.stop)

    def _measure(self) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Actions of every episode (0 where they cannot be read, `read` says why), and what bounds them: float[A]."""
        lengths: list[int] = []
        dims = self._actions(replace(self._places[0], stop=self._places[0].start + 1)).shape[1]
        if not dims:
            raise ConversionError(f"{self._file.filename}: actions: expected [T, A], got no columns")
        low, high = limits(self._stream(dims, lengths), dims)
        return lengths, low, high

    def _stream(self, dims: int, lengths: list[int]) -> Iterator[np.ndarray]:
        """float32[T, A] of every episode that has them; each episode's T goes to `lengths`."""
        for place in self._places:
            try:
                actions = self._actions(place)
            except ConversionError:
                actions = np.empty((0, dims), np.float32)
            lengths.append(len(actions))
            if len(actions) and actions.shape[1] == dims:
                yield actions

    def _guess(self, rate: float, low: np.ndarray, high: np.ndarray) -> Spec:
        names = tuple(f"{_short(key)}_{i}" for key, dims in self._state.items() for i in range(dims))
        return Spec(
            parts=(ActionPart("action", 0, len(low), "other", "1", tuple(low), tuple(high)),),
            state_names=names,
            state_units=("1",) * len(names),
            dt=1 / rate,
            cameras=tuple(self._cameras.values()),
        )


def _file(path: Path) -> Path:
    """The HDF5 file of a Minari dataset's folder."""
    inside = (path / "data" / "main_data.hdf5", path / "main_data.hdf5")
    return next((file for file in inside if file.is_file()), path)


def _metadata(path: Path, file: h5py.File) -> dict[str, Any]:
    """metadata.json beside the file, or what older versions keep in the file's attributes; {} where there is none."""
    beside = path.parent / "metadata.json"
    found: Any = {}
    if beside.is_file():
        try:
            found = untrusted.read_json(beside)
        except (OSError, ValueError) as error:
            raise ConversionError(f"{beside}: expected the metadata's JSON, got {error}") from error
    elif content := hdf5_files.text(file, "env_spec"):
        found = {"env_spec": content}
    if not isinstance(found, dict):
        raise ConversionError(f"{beside}: expected a JSON object, got {type(found).__name__}")
    return {key: _unpacked(value) for key, value in found.items()}


def _unpacked(value: Any) -> Any:
    """Minari writes objects as texts of JSON."""
    try:
        return hdf5_files.json_object(value, "") if isinstance(value, str) and value.startswith("{") else value
    except ConversionError:
        return value


def _rate(about: dict[str, Any]) -> float:
    """1/s, 0 where the metadata do not say."""
    told = about.get("env_spec")
    places = (about, told.get("kwargs") if isinstance(told, dict) else None)
    for values in places:
        if dt := hdf5_files.positive(values, "dt"):
            return 1 / dt
        if rate := hdf5_files.positive(values, "control_freq"):
            return rate
    return 0.0


def _environment(about: dict[str, Any]) -> str:
    told = about.get("env_spec")
    return str(told.get("id", "")) if isinstance(told, dict) else ""


def _action_space(about: dict[str, Any], dims: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Lowest and highest action that the metadata promise; None where they promise no finite range."""
    space = about.get("action_space")
    try:
        low, high = (np.broadcast_to(np.asarray(space[key], float).ravel(), dims) for key in ("low", "high"))
    except (TypeError, KeyError, ValueError, IndexError):
        return None
    return (low, high) if np.isfinite([low, high]).all() and (low < high).all() else None


def _places(file: h5py.File) -> list[Place]:
    """Every episode, in order."""
    if groups := hdf5_files.numbered(file, "episode"):
        return [Place(name, hdf5_files.subgroup(file, name)) for name in groups]
    if not set(hdf5_files.members(file)) >= FLAT:
        got = hdf5_files.members(file)[:5]
        raise ConversionError(f"{file.filename}: expected episode_0, ... or {sorted(FLAT)}, got {got}")
    flags = [hdf5_files.column(hdf5_files.array(file, key)) for key in ("terminals", "timeouts") if key in file]
    steps = len(hdf5_files.array(file, "actions"))
    if not steps or any(len(flag) != steps for flag in flags):
        got = [len(flag) for flag in flags]
        raise ConversionError(f"{file.filename}: expected {steps or 'some'} rows of terminals, timeouts, got {got}")
    ends = np.union1d(np.flatnonzero(np.any([flag > 0 for flag in flags], axis=0)) + 1, [steps]).tolist()
    return [Place(f"episode_{i}", file, *span) for i, span in enumerate(zip([0, *ends[:-1]], ends, strict=True))]


def _layout(group: h5py.Group) -> tuple[dict[str, int], dict[str, Camera], list[str]]:
    """State keys with their dims, camera keys, and a line for each observation that is neither."""
    state, cameras, others = {}, {}, []
    for key in _leaves(group, "observations"):
        data = hdf5_files.array(group, key)
        if data.ndim == 2 or (data.ndim == 1 and data.dtype.kind == "f"):
            state[key] = data.shape[1] if data.ndim == 2 else 1
        elif data.ndim == 4 and data.dtype == np.uint8 and data.shape[3] == 3:
            cameras[key] = Camera(_short(key), *data.shape[1:3])
        else:
            others.append(f"{key}: {data.dtype}{list(data.shape)}, neither numbers [T, D] nor uint8 [T, h, w, 3]")
    if not state and not cameras:
        raise ConversionError(f"{hdf5_files.where(group, 'observations')}: expected numbers or images, got {others}")
    return state, cameras, others


def _leaves(group: h5py.Group, key: str, depth: int = 0) -> Iterator[str]:
    """Paths of the arrays below, sorted."""
    import h5py

    if depth > DEEPEST:
        raise untrusted.Refused(f"{hdf5_files.where(group, key)}: expected at most {DEEPEST} nested groups, got more")
    with hdf5_files.sound(hdf5_files.where(group, key)):
        found = group.get(key)
    if not isinstance(found, h5py.Group):
        yield key
        return
    for name in hdf5_files.members(found):
        yield from _leaves(group, f"{key}/{name}", depth + 1)


def _short(key: str) -> str:
    """observations/arm/position -> arm.position: a name that can be a folder's."""
    return ".".join(key.split("/")[1:]) or "observation"


def _assumed(config: Config, group: h5py.Group, rate_told: bool, limits_told: bool) -> Iterator[str]:
    if not (config.hz or config.spec or rate_told):
        yield "control rate 20 Hz: the metadata do not say (--source.hz)"
    if not config.spec:
        yield "kinds, units and absolute reference of action and state (--source.spec=FILE)"
    if not (config.spec or limits_told):
        yield "action limits: the data's own range (--source.spec=FILE)"
    if "rewards" not in group:
        yield "rewards are 0: there are none; `robot-value data label` gives them"
    if not any(key in group for key in SUCCESS):
        yield "success unknown: there is no infos/success; `robot-value data label` gives it"
    yield "an episode that neither terminates nor times out is truncated"


def _left_out(group: h5py.Group) -> Iterator[str]:
    """Judged by the first episode."""
    used = {*KNOWN, "infos", "next_observations"}
    infos = group.get("infos")
    yield from (key for key in hdf5_files.members(group) if key not in used and not key.startswith("episode_"))
    if infos is not None:
        yield from (f"infos/{key}" for key in hdf5_files.members(infos) if f"infos/{key}" not in SUCCESS)
    for key in (*_leaves(group, "observations"), "actions"):
        if hdf5_files.array(group, key).dtype == np.float64:
            yield f"what float32 does not hold of {key}"
