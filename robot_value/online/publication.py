"""Which version of an online run is to act next: RUN/version.json, written by the learner, read beside the robot.

Numbers only ever go up. A version names the checkpoints that the run has made, below its folder; what the run has not
made stays what the robot was configured with, and `versions` says which that has to be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checkpoint
from ..results import write_atomic
from ..untrusted import check_version, inside, read_json

FILE, FORMAT_VERSION, LARGEST = "version.json", 1, 1 << 16  # LARGEST: bytes
KINDS = {"policy", "critic"}


@dataclass(frozen=True)
class Published:
    number: int
    made: Mapping[str, Path]  # "policy" or "critic" -> its checkpoint, of those that the run has made
    versions: Mapping[str, str]  # the same keys, of all that act -> name and hash, as Decision.versions tells them


def publish(root: Path, number: int, acting: Mapping[str, Path]) -> None:
    """`acting`: "policy" and, where there is one, "critic" -> checkpoint, or its run's folder. Durable on return.

    What was published stays: a number never means other weights, also where a killed run has saved newer ones since.
    """
    if (before := newest(root)) is not None and before.number >= number:
        return
    made = {kind: path.relative_to(root).as_posix() for kind, path in acting.items() if path.is_relative_to(root)}
    versions = {kind: version_of(path) for kind, path in acting.items()}
    told = {"format_version": FORMAT_VERSION, "version": number, "made": made, "versions": versions}
    write_atomic(root / FILE, json.dumps(told, indent=1) + "\n")


def newest(root: Path) -> Published | None:
    """None where nothing was published yet. Raises ValueError where the file cannot be meant."""
    try:
        told = check_version(read_json(root / FILE, LARGEST), FORMAT_VERSION, f"{root / FILE}: a published version")
    except FileNotFoundError:
        return None
    number, made, versions = (told.get(key) for key in ("version", "made", "versions"))
    if type(number) is not int or number < 0 or not _texts(made) or not _texts(versions):
        raise ValueError(f"{root / FILE}: expected a version's number, checkpoints and their names, got {told}")
    return Published(number, {kind: inside(root, name) for kind, name in made.items()}, versions)


def version_of(path: Path) -> str:
    """As `training.load_model` says it."""
    saved = checkpoint.load(path if (path / checkpoint.MANIFEST).exists() else checkpoint.newest(path))
    return f"{saved.name} {saved.hash[:12]}"


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= KINDS and all(type(text) is str for text in value.values())
