"""Lifts a store of an older format_version: a chain of small steps, into a new store beside, swapped in by rename.

The old store is kept as it was, under another name. A migration that was cut short is begun anew, or, where only the
swap was missing, finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..types import FORMAT_VERSION, Spec
from .durable import make_folder, publish, replace_file, sync_folder, write_tree
from .errors import EpisodeDamaged, StoreError
from .lock import WriterLock
from .manifest import MANIFEST, Manifest, newer, read_files, read_manifest
from .remote import listing
from .root import Root, group, read_attributes, read_root
from .store import NAME, EpisodeStore

Files = Mapping[str, bytes]  # of an episode: relative path -> content


@dataclass(frozen=True)
class Step:
    """From one format_version to the next. Both ends are plain JSON and bytes: the old code is gone."""

    root: Callable[[dict[str, Any]], dict[str, Any]]  # attributes of zarr.json, without format_version
    episode: Callable[[Files, dict[str, Any]], dict[str, bytes]]  # its files and the new root's attributes


STEPS: Mapping[int, Step] = {}  # by the version they lift from; version 1 is the first


@dataclass(frozen=True)
class Migrated:
    """What a migration did."""

    old: int  # format_version
    episodes: int
    kept: Path | None  # the old store; None where nothing had to be done
    left_behind: tuple[str, ...] = ()  # a line each: what is only in the old store

    @property
    def code(self) -> int:
        return 3 if self.left_behind else 0

    def to_text(self) -> str:
        if self.kept is None:
            return f"format_version {self.old} is current; nothing to migrate"
        lines = [f"{self.episodes} episodes lifted from format_version {self.old} to {FORMAT_VERSION}"]
        return "\n".join([*lines, f"the old store is {self.kept}", *(f"left behind: {x}" for x in self.left_behind)])


def migrate(path: str | Path, steps: Mapping[int, Step] = STEPS) -> Migrated:
    """Raises StoreError where there is no way from the store's version to ours, or a writer is at work."""
    path = Path(os.path.abspath(path))
    if not path.exists() and (found := _half_swapped(path)):
        publish(path.with_name(f"{path.name}.migrating"), path)
        return Migrated(read_attributes(found)["format_version"], len(EpisodeStore.open(path)), found)
    attributes = read_attributes(path)
    version = attributes["format_version"]
    if version > FORMAT_VERSION:
        raise StoreError(newer(str(path), version))
    if version == FORMAT_VERSION:
        read_root(path)
        return Migrated(version, len(EpisodeStore.open(path)), None)
    if missing := [v for v in range(version, FORMAT_VERSION) if v not in steps]:
        raise StoreError(f"{path} has format_version {version}; expected a step from {missing[0]}, got none")
    if (kept := _old_name(path, version)).exists():
        raise StoreError(f"{kept} is there already; expected no store of that name, move it away")
    chain = [steps[v] for v in range(version, FORMAT_VERSION)]
    lock = WriterLock(path / ".lock")
    try:
        count, left_behind = _lift(path, path.with_name(f"{path.name}.migrating"), attributes, chain)
        publish(path, kept)
        publish(path.with_name(f"{path.name}.migrating"), path)
    finally:
        lock.release()
    return Migrated(version, count, kept, tuple(left_behind))


def _old_name(path: Path, version: int) -> Path:
    return path.with_name(f"{path.name}.v{version}")


def _half_swapped(path: Path) -> Path | None:
    """The old store, where a migration died between its two renames."""
    olds = [old for v in range(FORMAT_VERSION) if (old := _old_name(path, v)).exists()]
    return olds[0] if olds and path.with_name(f"{path.name}.migrating").exists() else None


def _lift(old: Path, new: Path, attributes: dict[str, Any], chain: list[Step]) -> tuple[int, list[str]]:
    """Write the new store; its root last, so that a store that has one is whole."""
    from tqdm import tqdm

    if new.exists():
        shutil.rmtree(new)
    make_folder(new / "episodes")
    beside = ("labels", "features", "quarantine")
    left_behind = [f"{each}/ (made for the old episodes)" for each in beside if (old / each).exists()]
    roots = [{key: value for key, value in attributes.items() if key != "format_version"}]
    for step in chain:
        roots.append(step.root(roots[-1]))
    names = [name for name in listing(old / "episodes") if NAME.fullmatch(name)]
    for name in tqdm(names, "migrating", unit="episode", leave=False):
        try:
            _lift_episode(old / "episodes" / name, new / "episodes", roots[1:], chain)
        except EpisodeDamaged as damage:
            left_behind.append(str(damage.problems[0]))
    sync_folder(new / "episodes")
    replace_file(new / "episodes" / "zarr.json", group({}))
    replace_file(new / "zarr.json", _root_of(roots[-1]).to_bytes())
    problems = EpisodeStore.open(new).verify()
    if problems:
        raise StoreError(f"a step made what the store cannot read ({problems[0]}); {old} is as it was")
    return len(EpisodeStore.open(new)), left_behind


def _root_of(attributes: dict[str, Any]) -> Root:
    try:
        return Root(Spec.from_json(attributes["spec"]), attributes.get("commit", "rename"))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"a step made a root that cannot be read ({error!r}); the old store is as it was") from error


def _lift_episode(folder: Path, target: Path, roots: list[dict[str, Any]], chain: list[Step]) -> None:
    manifest = read_manifest(folder)
    files: Files = read_files(folder, manifest)
    for step, root in zip(chain, roots, strict=True):
        files = step.episode(files, root)
    about = json.loads(files["zarr.json"])["attributes"]
    lifted = Manifest.of(files, about["steps"], about["frames"])
    write_tree(target / f"{folder.name[:8]}-{lifted.hash[:8]}", {**files, MANIFEST: lifted.to_bytes()})
