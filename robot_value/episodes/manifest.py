"""What an episode's folder must contain, byte for byte: sizes and SHA-256 of every file, and a hash of the whole.

A manifest is written last and read first. Damage anywhere (payload, metadata, the manifest itself) becomes a Problem.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..types import FORMAT_VERSION
from ..untrusted import parse_json
from .errors import EpisodeDamaged, Problem, StoreError
from .remote import Folder, read, read_one, sizes

MANIFEST = "manifest.json"


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
    format_version: int = FORMAT_VERSION

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
        return {"format_version": self.format_version, "steps": self.steps, "frames": self.frames, "files": files}


def read_manifest(folder: Folder) -> Manifest:
    """The folder's manifest, proven against its own hash. Raises EpisodeDamaged, or StoreError for a newer format."""
    try:
        content = read_one(folder / MANIFEST)
    except OSError as error:
        got = "nothing" if isinstance(error, FileNotFoundError) else str(error)
        raise EpisodeDamaged([Problem(folder.name, MANIFEST, "a file", got)]) from None
    try:
        data = parse_json(content, MANIFEST)
        proof = sha256(canonical({key: value for key, value in data.items() if key != "hash"}))
        if canonical(data) != content or proof != data.get("hash"):
            got = f"content with sha256 {proof[:12]}"
            raise EpisodeDamaged([Problem(folder.name, MANIFEST, f"sha256 {str(data.get('hash'))[:12]}", got)])
        if (version := int(data["format_version"])) > FORMAT_VERSION:
            raise StoreError(newer(f"episode {folder.name}", version))
        files = {safe(name): Entry(int(entry["size"]), str(entry["sha256"])) for name, entry in data["files"].items()}
        return Manifest(int(data["steps"]), int(data["frames"]), files, version)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise EpisodeDamaged([Problem(folder.name, MANIFEST, "a manifest", f"unreadable bytes ({error})")]) from None


def read_files(folder: Folder, manifest: Manifest, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every promised file's verified bytes; those below a `without` prefix are checked by size only and not read."""
    found = sizes(folder)
    wanted = [name for name, entry in manifest.files.items() if found.get(name) == entry.size]
    contents = read(folder, (name for name in wanted if not name.startswith(without)))
    problems = [
        Problem(folder.name, name, promised, got)
        for name, entry in manifest.files.items()
        for promised, got in [_differs(entry, found.get(name, -1), contents.get(name))]
        if got
    ]
    if problems:
        raise EpisodeDamaged(problems)
    return contents


def _differs(entry: Entry, size: int, content: bytes | OSError | None) -> tuple[str, str]:
    """(what was promised, what is there); the latter empty where they agree. None: not to be read."""
    if size != entry.size:
        return f"{entry.size} bytes", "nothing" if size < 0 else f"{size} bytes"
    if content is None:
        return "", ""
    if isinstance(content, OSError):
        return f"{entry.size} bytes", f"an error in reading them ({content})"
    digest = sha256(content)
    return f"sha256 {entry.sha256[:12]}", "" if digest == entry.sha256 else f"sha256 {digest[:12]}"


def unexpected_files(folder: Folder, manifest: Manifest) -> list[Problem]:
    """Files nobody promised: a reader that trusts the folder's listing would take them for data."""
    strangers = sorted(sizes(folder).keys() - {*manifest.files, MANIFEST})
    return [
        Problem(folder.name, name, "no such file", "a file not in manifest.json", stranger=True) for name in strangers
    ]


def newer(what: str, version: Any) -> str:
    return (
        f"{what} has format_version {version}, newer than this robot_value understands ({FORMAT_VERSION}); "
        "upgrade robot_value"
    )


def safe(name: str) -> str:
    """A relative path that stays inside its folder; anything else is an attack or damage."""
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"unsafe file name {name!r}")
    return name


def canonical(data: Any) -> bytes:
    """One byte string per JSON value; NaN and infinity are refused."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
