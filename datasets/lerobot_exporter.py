"""Episode store -> LeRobotDataset v3.0, written by LeRobot itself, so that LeRobot loads it and trains on it."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from robot_value.convert import ConversionError
from robot_value.datasets.lerobot_survey import CAMERAS, SPEC
from robot_value.episodes import EpisodeStore, StoreError
from robot_value.episodes.durable import publish, replace_file, sync_folder
from robot_value.types import Episode, Spec

WRITERS = 4  # threads that compress images
STATE, OBJECTS = "observation.state", "observation.environment_state"


@dataclass(frozen=True)
class Config:
    use_videos: bool = False  # images as AV1 video: about ten times smaller, but not what was recorded (LeRobot: True)
    repo_id: str = ""  # name of the set on the hub, user/set; "local/<folder>" if empty
    # state name from which on the state is the objects': they become observation.environment_state, which LeRobot's
    # diffusion and ACT take in place of a camera; "" leaves the state whole
    objects_from: str = ""

    def build(self) -> LeRobotExporter:
        return LeRobotExporter(self)


@dataclass(frozen=True)
class LeRobotExporter:
    config: Config

    def export(self, store: EpisodeStore, path: Path, progress: bool = True) -> tuple[str, ...]:
        """Write beside `path`, then rename. Raises ConversionError; returns what v3.0 has no place for."""
        if path.exists():
            raise ConversionError(f"{path}: expected a new path, got one that exists; choose another or remove it")
        if not len(store):
            raise ConversionError(f"{store.path}: expected episodes, got none; LeRobot cannot load an empty set")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        try:
            left_out = self._write(store, partial, self.config.repo_id or f"local/{path.name}", progress)
            replace_file(partial / SPEC, json.dumps(store.spec.to_json()).encode())
            _sync(partial)
            publish(partial, path)
        except StoreError as error:
            raise ConversionError(f"{error}; nothing was exported") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # only there where something failed
        return left_out

    def _write(self, store: EpisodeStore, root: Path, repo_id: str, progress: bool) -> tuple[str, ...]:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
        from tqdm import tqdm

        known = [store.about(name)["success"] is not None for name in store.names()]
        states = _states(store.spec, self.config.objects_from)
        lost: Counter[str] = Counter()
        writer = LeRobotDataset.create(
            repo_id,
            _fps(store.spec),
            _features(store.spec, states, self.config.use_videos, any(known)),
            root=root,
            use_videos=self.config.use_videos,
            image_writer_threads=WRITERS if store.spec.cameras else 0,
            video_backend="pyav",
        )
        try:
            for name in tqdm(store.names(), "exporting", unit="episode", disable=not progress):
                episode = store.read(name)
                for frame in _frames(episode, states, any(known)):
                    writer.add_frame(frame)
                writer.save_episode(parallel_encoding=False)
                lost.update(_without_place(episode, any(known)))
        finally:
            writer.finalize()
        lines = [f"{what}: in {count} episodes" for what, count in lost.items()]
        lines += ["exact images: the videos are lossy, --target.use_videos=false keeps every bit"] * self._lossy(store)
        return (*lines, f"units, limits and kinds: LeRobot ignores {SPEC}, which `data convert` reads back")

    def _lossy(self, store: EpisodeStore) -> bool:
        return self.config.use_videos and bool(store.spec.cameras)


def _fps(spec: Spec) -> int:
    fps = round(1 / spec.dt)
    if fps < 1 or abs(fps * spec.dt - 1) > 1e-6:
        raise ConversionError(f"dt: expected a whole number of steps/s, as LeRobot wants it, got {1 / spec.dt:g}")
    return fps


def _states(spec: Spec, objects_from: str) -> dict[str, slice]:
    """Feature -> its numbers of the state; read one after the other they are the state again."""
    if not objects_from:
        return {STATE: slice(0, spec.state_dim)} if spec.state_dim else {}
    if objects_from not in spec.state_names[1:]:
        raise ConversionError(
            f"objects_from: expected a state name behind the robot's own, one of {', '.join(spec.state_names[1:])}; "
            f"got {objects_from!r}"
        )
    first = spec.state_names.index(objects_from)
    return {STATE: slice(0, first), OBJECTS: slice(first, spec.state_dim)}


def _features(spec: Spec, states: Mapping[str, slice], videos: bool, success: bool) -> dict[str, Any]:
    def numbers(dtype: str, names: list[str] | None, size: int = 1) -> dict[str, Any]:
        return {"dtype": dtype, "shape": (size,), "names": names}

    action = [
        f"{part.name}_{i}" if part.stop - part.start > 1 else part.name for part in spec.parts for i in _dims(part)
    ]
    named = {key: list(spec.state_names[part]) for key, part in states.items()}
    found = {key: numbers("float32", names, len(names)) for key, names in named.items()}
    found |= {"action": numbers("float32", action, spec.action_dim), "next.reward": numbers("float32", None)}
    found |= {"next.done": numbers("bool", None), "next.truncated": numbers("bool", None)}
    found |= {"next.success": numbers("bool", None)} if success else {}
    for camera in spec.cameras:
        shape, axes = (camera.height, camera.width, 3), ["height", "width", "channels"]
        found[f"{CAMERAS}{camera.name}"] = {"dtype": "video" if videos else "image", "shape": shape, "names": axes}
    return found


def _dims(part: Any) -> range:
    return range(part.stop - part.start)


def _frames(episode: Episode, states: Mapping[str, slice], success: bool) -> Iterator[dict[str, Any]]:
    """One per action; `next.*` say what the action led to, and endings stand on the last one."""
    for t in range(len(episode)):
        last = t == len(episode) - 1
        frame = {key: episode.states[t, part] for key, part in states.items()}
        frame |= {f"{CAMERAS}{name}": images[t] for name, images in episode.images.items()}
        frame |= {"action": episode.actions[t], "next.reward": episode.rewards[t : t + 1]}
        frame |= {"next.done": np.array([last and episode.terminated])}
        frame |= {"next.truncated": np.array([last and episode.truncated])}
        frame |= {"next.success": np.array([last and bool(episode.success)])} if success else {}
        yield frame | {"task": episode.task}


def _without_place(episode: Episode, success: bool) -> Iterator[str]:
    if episode.final_observed:
        yield "the observation after the last action"
    if episode.commanded is not None:
        yield "commanded actions"
    if episode.source is not None:
        yield "who decided each step (source)"
    if episode.decisions:
        yield "decisions"
    if episode.provenance:
        yield "provenance"
    if success and episode.success is None:
        yield "that success is unknown (next.success says False)"


def _sync(folder: Path) -> None:
    """On disk before the name is."""
    for parent, _, files in os.walk(folder):
        for name in files:
            with open(Path(parent) / name, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))
