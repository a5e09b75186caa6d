"""One episode's Labels <-> the files of their zarr group, and the Origin that says what made them.

A Kind is what may lie beside episodes: labels, and a policy's features (features/encoding.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..episodes.arrays import Stored, open_files, read_array, to_files
from ..episodes.errors import StoreError
from ..episodes.manifest import Manifest, canonical, newer, read_files, read_manifest, sha256
from ..episodes.remote import Folder
from ..types import FORMAT_VERSION
from .labels import ARRAYS, Labels


@dataclass(frozen=True)
class Kind:
    """What lies beside episodes in a folder of this name: its bytes, and the command that makes it."""

    name: str  # "labels"
    command: str  # of robot-value
    encode: Callable[[Any, Origin, Manifest], dict[str, bytes]]  # (what is said, by whom, of which episode) -> files
    decode: Callable[[Folder], tuple[Any, dict[str, Any]]]  # what was said, and its attributes

    @property
    def title(self) -> str:
        """`kind` in zarr.json."""
        return f"robot_value {self.name}"


@dataclass(frozen=True)
class Origin:
    """What made the labels of one name; labels of another origin need another name."""

    labeler: str  # component name, or dotted module
    config: dict[str, Any] = field(default_factory=dict)  # JSON values
    base: str = ""  # name of the labels that the labeler saw in place of the recording
    dataset: str = ""  # SHA-256 of the dataset it was fitted on; "" where an episode's labels depend on it alone

    @property
    def hash(self) -> str:
        return sha256(canonical(asdict(self)))


def encode(labels: Labels, origin: Origin, parent: Manifest) -> dict[str, bytes]:
    """Raises ValueError where they cannot be of that episode."""
    labels.check(parent.steps)
    attributes = about(LABELS, origin, parent) | {
        "terminated": None if labels.terminated is None else bool(labels.terminated),
        "success": None if labels.success is None else bool(labels.success),
        "about": json.loads(canonical(labels.about)),
    }
    return to_files({name: Stored(array, ("step",)) for name, array in labels.arrays.items()}, attributes)


def opened(folder: Folder, what: str, names: Iterable[str]) -> tuple[Manifest, dict[str, Any], dict[str, np.ndarray]]:
    """Manifest, attributes, and those of the arrays that are there. Raises EpisodeDamaged, StoreError, KeyError."""
    manifest = read_manifest(folder)
    files = read_files(folder, manifest)
    group = open_files(files)
    attributes = dict(group.attrs)
    if attributes["format_version"] > FORMAT_VERSION:
        raise StoreError(newer(f"{what} of {folder.name}", attributes["format_version"]))
    return manifest, attributes, {n: read_array(group, n, files) for n in names if f"{n}/zarr.json" in files}


def decode(folder: Folder) -> tuple[Labels, dict[str, Any]]:
    """The labels and their attributes. Raises EpisodeDamaged, StoreError, ValueError, KeyError, TypeError."""
    manifest, attributes, arrays = opened(folder, "labels", ARRAYS)
    said = {name: attributes[name] for name in ("terminated", "success", "about")}
    labels = Labels(**arrays, **said)
    labels.check(manifest.steps)
    return labels, attributes


def about(kind: Kind, origin: Origin, parent: Manifest) -> dict[str, Any]:
    """Attributes that whatever lies beside an episode has."""
    versions = {"kind": kind.title, "format_version": FORMAT_VERSION}
    return versions | {"origin": asdict(origin), "parent": parent.hash}


LABELS = Kind("labels", "data label", encode, decode)
