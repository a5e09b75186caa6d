"""What an episode's folder must contain, byte for byte: sizes and SHA-256 of every file, and a hash of the whole.

A manifest is written last and read first. Damage anywhere (payload, metadata, the manifest itself) becomes a Problem.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..types import FORMAT_VERSION

MANIFEST = "manifest.json"


class StoreError(ValueError):
    """The store cannot do what was asked; one line says what was expected, what came and what to do."""


@dataclass(frozen=True)
class Problem:
    """One damaged file: what was promised and what is there."""

    episode: str
    file: str  # relative to the episode's folder
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.episode}/{self.file}: expected {self.expected}, got {self.got}"


class EpisodeDamaged(StoreError):
    """The episode on disk is not the one that was acknowledged."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(
            f"damaged episode {self.problems[0]}{more}; restore it from a copy or move its folder to quarantine/"
        )


@dataclass(frozen=True)
class Entry:
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`hash` names the episode's content: equal hashes mean equal bytes."""

    steps: int  # T, actions
    frames: int  # T + 1 or T, observations
    files: Mapping[str, Entry]  # path relative to the episode's folder, "/" between parts

    @classmethod
    def of(cls, files: Mapping[str, bytes], steps: int, frames: int) -> Manifest:
        entries = {name: Entry(len(files[name]), sha256(files[name])) for name in sorted(files)}
        return cls(steps, frames, entries)

    @property
    def hash(self) -> str:
        return sha256(canonical(self._content()))

    def to_bytes(self) -> bytes:
        return canonical(self._content() | {"hash": self.hash})

    def _content(self) -> dict[str, Any]:
        files = {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in self.files.items()}
        return {"format_version": FORMAT_VERSION, "steps": self.steps, "frames": self.frames, "files": files}


def read_manifest(folder: Path) -> Manifest:
    """The folder's manifest, proven against its own hash. Raises EpisodeDamaged, or StoreError for a newer format."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise EpisodeDamaged([Problem(folder.name, MANIFEST, "a file", "nothing")]) from None
    try:
        data = json.loads(content)
        if (version := data["format_version"]) > FORMAT_VERSION:
            raise StoreError(newer(f"episode {folder.name}", version))
        files = {safe(name): Entry(int(entry["size"]), str(entry["sha256"])) for name, entry in data["files"].items()}
        manifest = Manifest(int(data["steps"]), int(data["frames"]), files)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EpisodeDamaged([Problem(folder.name, MANIFEST, "a manifest", f"unreadable bytes ({error})")]) from None
    if manifest.to_bytes() != content:
        got = f"content with sha256 {manifest.hash[:12]}"
        raise EpisodeDamaged([Problem(folder.name, MANIFEST, f"sha256 {str(data.get('hash'))[:12]}", got)])
    return manifest


def read_files(folder: Path, manifest: Manifest, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every promised file's verified bytes; those below a `without` prefix are checked by size only and not read."""
    files, problems = {}, []
    for name, entry in manifest.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() and _inside(path, folder) else None
        if size != entry.size:
            got = "nothing" if size is None else f"{size} bytes"
            problems.append(Problem(folder.name, name, f"{entry.size} bytes", got))
        elif not name.startswith(without):
            files[name] = path.read_bytes()
            if (digest := sha256(files[name])) != entry.sha256:
                problems.append(Problem(folder.name, name, f"sha256 {entry.sha256[:12]}", f"sha256 {digest[:12]}"))
    if problems:
        raise EpisodeDamaged(problems)
    return files


def unexpected_files(folder: Path, manifest: Manifest) -> list[Problem]:
    """Files nobody promised: a reader that trusts the folder's listing would take them for data."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    strangers = sorted(found - {*manifest.files, MANIFEST})
    return [Problem(folder.name, name, "no such file", "a file not in manifest.json") for name in strangers]


def newer(what: str, version: Any) -> str:
    return (
        f"{what} has format_version {version}, newer than this robot_value understands ({FORMAT_VERSION}); "
        "upgrade robot_value"
    )


def safe(name: str) -> str:
    """A relative path that stays inside its folder; anything else is an attack or damage."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.as_posix() != name:
        raise ValueError(f"unsafe file name {name!r}")
    return name


def canonical(data: Any) -> bytes:
    """One byte string per JSON value; NaN and infinity are refused."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
