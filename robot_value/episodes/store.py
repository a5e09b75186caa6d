"""The episode store: a zarr v3 group per episode, committed by one rename after fsync.

`append` returns only when the episode survives a crash; a reader sees whole episodes or nothing; damage is reported
with file, expected and got, never read. Root and episodes open with `zarr.open_group`. Format: datasets/README.md.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..types import FORMAT_VERSION, Episode, Spec
from .arrays import to_files
from .durable import publish, replace_file, write_tree
from .encoding import decode, encode, spec_fingerprint
from .lock import WriterLock
from .manifest import (
    MANIFEST,
    EpisodeDamaged,
    Manifest,
    Problem,
    StoreError,
    newer,
    read_files,
    read_manifest,
    unexpected_files,
)

KIND = "robot_value episodes"
NAME = re.compile(r"\d{8}-[0-9a-f]{8}")  # order of appending, then the head of the content's hash
OURS = {".lock", ".staging", ".zarr.json.partial", "episodes"}  # what an interrupted `create` may have left
CAMERA = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")  # camera names become folders


class EpisodeStore:
    """Many readers, one writer. Use `create` or `open`; a writer is closed by `close()` or a `with` block."""

    def __init__(self, path: Path, spec: Spec, lock: WriterLock | None):
        self.path = path
        self.spec = spec  # horizon and n_obs_steps are 0: data have none
        self._lock = lock
        self._next = 0
        if lock:
            _remove(path / ".staging")  # what a crashed writer had not acknowledged
            self._next = 1 + max((int(name[:8]) for name in self.names()), default=-1)

    @classmethod
    def create(cls, path: str | Path, spec: Spec) -> EpisodeStore:
        """A new, empty store opened for appending."""
        path = Path(path)
        spec = spec.choose(horizon=0, n_obs_steps=0)
        if (path / "zarr.json").exists():
            raise StoreError(f"{path} is a store already; open it with mode='a' to append")
        for camera in spec.cameras:
            if not CAMERA.fullmatch(camera.name):
                raise StoreError(f"camera name {camera.name!r}: expected only letters, digits, '_', '-' and '.'")
        root = to_files({}, _root_attributes(spec))["zarr.json"]
        path.mkdir(parents=True, exist_ok=True)
        if foreign := {entry.name for entry in path.iterdir()} - OURS:
            raise StoreError(f"{path}: expected a new or empty folder, got one with {sorted(foreign)[:3]}")
        lock = WriterLock(path / ".lock")
        (path / "episodes").mkdir(exist_ok=True)
        replace_file(path / "episodes" / "zarr.json", to_files({}, {})["zarr.json"])
        replace_file(path / "zarr.json", root)
        return cls(path, spec, lock)

    @classmethod
    def open(cls, path: str | Path, mode: str = "r") -> EpisodeStore:
        """Open to read ("r") or to append and read ("a", the only writer)."""
        if mode not in ("r", "a"):
            raise StoreError(f"mode: expected 'r' or 'a', got {mode!r}")
        path = Path(path)
        spec = _read_root(path)
        return cls(path, spec, WriterLock(path / ".lock") if mode == "a" else None)

    def names(self) -> list[str]:
        """Committed episodes in the order they were appended."""
        return sorted(entry.name for entry in (self.path / "episodes").iterdir() if NAME.fullmatch(entry.name))

    def __len__(self) -> int:
        return len(self.names())

    def __iter__(self) -> Iterator[Episode]:
        return (self.read(name) for name in self.names())

    def append(self, episode: Episode) -> str:
        """Commit the episode and return its name. After an error the store is as before and the caller still has it."""
        if self._lock is None:
            raise StoreError(f"{self.path} is open for reading; open it with mode='a' to append")
        self.spec.check(episode.spec, who="the episode")
        files = encode(episode, spec_fingerprint(self.spec))
        manifest = Manifest.of(files, steps=len(episode), frames=len(episode.states))
        name = f"{self._next:08d}-{manifest.hash[:8]}"
        staged = self.path / ".staging" / uuid4().hex
        try:
            write_tree(staged, files | {MANIFEST: manifest.to_bytes()})
            self._next += 1  # even if what follows fails: a name is never tried twice
            publish(staged, self.path / "episodes" / name)
        finally:
            _remove(staged)  # only there where something failed
        return name

    def read(self, name: str, images: bool = True, decisions: bool = True) -> Episode:
        """The episode as it was appended; bytes are proven by SHA-256 before they are decoded.

        What is left out is not read and only checked by size. Raises EpisodeDamaged, KeyError for an unknown name.
        """
        folder, manifest = self._folder(name), self.manifest(name)
        without = (*(() if images else ("images/",)), *(() if decisions else ("decisions/",)))
        files = read_files(folder, manifest, without)
        try:
            return decode(files, self.spec, images, decisions)
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            problem = Problem(name, "zarr.json", "an episode of this store's Spec", str(error))
            raise EpisodeDamaged([problem]) from error

    def verify(self, name: str | None = None) -> list[Problem]:
        """Read everything, or one episode, and report all damage; an empty list means sound."""
        problems: list[Problem] = []
        for each in [name] if name else self.names():
            try:
                self.read(each)
                problems += unexpected_files(self._folder(each), self.manifest(each))
            except EpisodeDamaged as damage:
                problems += damage.problems
        return problems

    def manifest(self, name: str) -> Manifest:
        return read_manifest(self._folder(name))

    def manifest_hash(self, name: str) -> str:
        """Names the episode's content; what labels and caches are keyed by."""
        return self.manifest(name).hash

    def close(self) -> None:
        """Let another writer in."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _folder(self, name: str) -> Path:
        folder = self.path / "episodes" / name
        if not NAME.fullmatch(name) or not folder.is_dir():
            raise KeyError(f"no episode {name!r} in {self.path}; names() lists all {len(self)}")
        return folder


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _root_attributes(spec: Spec) -> dict[str, Any]:
    try:
        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "spec": spec.to_json(),
            "spec_sha256": spec_fingerprint(spec),
        }
    except ValueError as error:
        raise StoreError(f"spec: expected finite limits and plain values, got {error}") from None


def _read_root(path: Path) -> Spec:
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"no episode store at {path}: expected a folder with zarr.json; `robot-value collect` makes one"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}/zarr.json is damaged: expected JSON with attributes, got {error!r}") from None
    if not isinstance(attributes, dict) or attributes.get("kind") != KIND:
        raise StoreError(f"{path} is a zarr group but not an episode store: expected kind {KIND!r} in its attributes")
    if attributes["format_version"] > FORMAT_VERSION:
        raise StoreError(newer(str(path), attributes["format_version"]))
    try:
        spec = Spec.from_json(attributes["spec"])
        fingerprint = spec_fingerprint(spec)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}/zarr.json is damaged: expected a Spec, got {error}") from None
    if fingerprint != attributes.get("spec_sha256"):
        expected = str(attributes.get("spec_sha256"))[:12]
        raise StoreError(f"{path}/zarr.json is damaged: expected a Spec with sha256 {expected}, got {fingerprint[:12]}")
    return spec
