"""A packed diffusion_policy ReplayBuffer: zarr v2, groups `data` and `meta`, as their `ReplayBuffer` opens it.

Chunks run along time and hold 2 MB, compressed as theirs are (blosc lz4, level 5, no shuffle).
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.storage import LocalStore, ZipStore

from robot_value.convert import ConversionError
from robot_value.episodes import EpisodeStore
from robot_value.episodes.durable import publish, sync_folder
from robot_value.types import Episode, Spec

CHUNK_BYTES = 2_000_000  # of ReplayBuffer's get_optimal_chunks
OURS = ("action", "state", "reward")
SPEC_LOST = "dt, names, units, frames and limits; `--source.spec=FILE` gives them back to a conversion"


@dataclass(frozen=True)
class Config:
    """Nothing to choose: a path that ends in .zip becomes a zip, any other a folder."""

    def build(self) -> Exporter:
        return Exporter()


class Exporter:
    def export(self, store: EpisodeStore, path: Path, progress: bool = True) -> tuple[str, ...]:
        """Keys action, state, reward and the cameras' names. Memory: one episode and one chunk per key."""
        from tqdm import tqdm

        names = store.names()
        steps = [store.manifest(name).steps for name in names]
        if not names:
            raise ConversionError(f"{store.path}: expected at least one episode to export, got none")
        lost: Counter[str] = Counter()
        with _new_group(path) as root:
            columns = _columns(root.create_group("data"), store.spec, sum(steps))
            ends = np.cumsum(steps, dtype=np.int64)  # int64[E], exclusive
            _array(root.create_group("meta"), "episode_ends", ends.shape, ends.dtype, len(ends), None)[...] = ends
            for name in tqdm(names, "packing", unit="episode", disable=not progress):
                episode = store.read(name)
                lost.update(_lost(episode))
                for column in columns:
                    column.extend(_rows(episode, column.name))
            for column in columns:
                column.flush()
        return (*(f"{what} ({count} of {len(names)} episodes)" for what, count in lost.items()), SPEC_LOST)


class Column:
    """One key, written in whole chunks: a member of a zip can be written only once."""

    def __init__(self, data: zarr.Group, name: str, rows: int, row: tuple[int, ...], dtype: type):
        from numcodecs import Blosc

        chunk = chunk_rows(rows, row, dtype)
        self.name = name
        self._array = _array(data, name, (rows, *row), dtype, chunk, Blosc("lz4", 5, Blosc.NOSHUFFLE))
        self._buffer = np.empty((chunk, *row), dtype)
        self._filled = self._written = 0  # rows

    def extend(self, rows: np.ndarray) -> None:
        while len(rows):
            taken = rows[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        """What is left of the last chunk."""
        if self._filled:
            self._array[self._written : self._written + self._filled] = self._buffer[: self._filled]
        self._written, self._filled = self._written + self._filled, 0


def chunk_rows(rows: int, row: tuple[int, ...], dtype: type) -> int:
    """Of an array of `rows` rows: as many as first reach CHUNK_BYTES."""
    return min(rows, math.ceil(CHUNK_BYTES / (math.prod(row) * np.dtype(dtype).itemsize)))


def _columns(data: zarr.Group, spec: Spec, rows: int) -> list[Column]:
    if taken := [c.name for c in spec.cameras if c.name in OURS]:
        raise ConversionError(
            f"cameras: expected names other than {', '.join(OURS)}, got {taken}; the keys would clash"
        )
    cameras = [Column(data, c.name, rows, (c.height, c.width, 3), np.uint8) for c in spec.cameras]
    state = [Column(data, "state", rows, (spec.state_dim,), np.float32)] if spec.state_dim else []
    action = Column(data, "action", rows, (spec.action_dim,), np.float32)
    return [action, *state, Column(data, "reward", rows, (), np.float32), *cameras]


def _rows(episode: Episode, key: str) -> np.ndarray:
    """[T, ...]: one row per action, so without the final observation."""
    rows = {"action": episode.actions, "state": episode.states, "reward": episode.rewards} | episode.images
    return rows[key][: len(episode)]


def _lost(episode: Episode) -> Iterator[str]:
    """What the format has no place for and this episode has."""
    there = {
        "the observation after the last action": episode.final_observed,
        "task text": episode.task,
        "whether the task ended": episode.terminated,
        "success": episode.success is not None,
        "commanded actions": episode.commanded is not None,
        "who decided each step": episode.source is not None,
        "decisions": episode.decisions,
        "provenance": episode.provenance,
    }
    return (what for what, present in there.items() if present)


def _array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype, chunk: int, compressor) -> zarr.Array:
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *shape[1:]),
        compressors=compressor,
        fill_value=0,
        config={"write_empty_chunks": True},  # as zarr 2 does: a missing chunk is damage
    )


@contextmanager
def _new_group(path: Path) -> Iterator[zarr.Group]:
    """A zarr v2 root that gets its name when it is whole and on disk. Raises ConversionError where that is taken."""
    if path.exists():
        raise ConversionError(f"{path}: expected a new path, got one that exists; move it away or choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)  # of an interrupted export
    store = ZipStore(partial, mode="w") if path.suffix == ".zip" else LocalStore(partial)
    try:
        yield zarr.create_group(store, zarr_format=2)
        store.close()
        _sync(partial)
        publish(partial, path)
    finally:
        store.close()
        _remove(partial)


def _sync(path: Path) -> None:
    """A file, or a folder with everything in it, on disk."""
    for each in [path, *path.rglob("*")]:
        if each.is_dir():
            sync_folder(each)
        else:
            with open(each, "rb") as file:
                os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
