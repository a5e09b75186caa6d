"""The store's own zarr.json: its Spec, proven by SHA-256, its format_version and how its episodes are committed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..types import FORMAT_VERSION, Spec
from .encoding import spec_fingerprint
from .errors import Problem, StoreError
from .manifest import newer, sha256
from .remote import Folder, read_one

KIND = "robot_value episodes"
COMMITS = ("rename", "manifest")


@dataclass(frozen=True)
class Root:
    spec: Spec
    commit: str = "rename"  # "manifest": written under its final name, manifest.json last; for mounts where renaming
    # a folder is not one step (object stores, some network mounts)

    def __post_init__(self) -> None:
        if self.commit not in COMMITS:
            raise StoreError(f"commit: expected one of {', '.join(COMMITS)}, got {self.commit!r}")

    def to_bytes(self) -> bytes:
        try:
            attributes = {
                "kind": KIND,
                "format_version": FORMAT_VERSION,
                "spec": self.spec.to_json(),
                "spec_sha256": spec_fingerprint(self.spec),
            }
        except ValueError as error:
            raise StoreError(f"spec: expected finite limits and plain values, got {error}") from None
        return group(attributes if self.commit == "rename" else attributes | {"commit": self.commit})


def group(attributes: dict[str, Any]) -> bytes:
    """zarr.json of a zarr v3 group."""
    return json.dumps({"attributes": attributes, "zarr_format": 3, "node_type": "group"}, indent=2).encode()


def read_root(path: Folder) -> Root:
    """Raises StoreError where there is no store, where it is damaged, and where its format_version is another."""
    attributes = read_attributes(path)
    if (version := attributes["format_version"]) > FORMAT_VERSION:
        raise StoreError(newer(f"{path}/zarr.json", version))
    if version < FORMAT_VERSION:
        raise StoreError(
            f"{path} has format_version {version}, older than this robot_value reads ({FORMAT_VERSION}); "
            f"lift it with `robot-value data migrate {path}`"
        )
    try:
        spec = Spec.from_json(attributes["spec"])
        fingerprint = spec_fingerprint(spec)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}/zarr.json is damaged: expected a Spec, got {error}") from None
    if fingerprint != attributes.get("spec_sha256"):
        expected = str(attributes.get("spec_sha256"))[:12]
        raise StoreError(f"{path}/zarr.json is damaged: expected a Spec with sha256 {expected}, got {fingerprint[:12]}")
    return Root(spec, attributes.get("commit", "rename"))


def read_attributes(path: Folder) -> dict[str, Any]:
    """The root's attributes, of whatever version they are."""
    try:
        attributes = json.loads(read_one(path / "zarr.json"))["attributes"]
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"no episode store at {path}: expected a folder with zarr.json; `robot-value collect` makes one"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}/zarr.json is damaged: expected JSON with attributes, got {error!r}") from None
    if not isinstance(attributes, dict) or attributes.get("kind") != KIND:
        got = f"expected kind {KIND!r} in the attributes of its zarr.json"
        raise StoreError(f"{path} is a zarr group but not an episode store: {got}")
    if not isinstance(attributes.get("format_version"), int):
        raise StoreError(f"{path}/zarr.json is damaged: expected an integer format_version")
    return attributes


def root_problems(path: Folder, root: Root) -> list[Problem]:
    """The store's own files, compared byte for byte: what a reader parses is proven, but not that nobody edited it."""
    promised = {"zarr.json": root.to_bytes(), "episodes/zarr.json": group({})}
    problems = []
    for name, content in promised.items():
        try:
            got = sha256(read_one(path / name))[:12]
        except OSError as error:
            got = "nothing" if isinstance(error, FileNotFoundError) else str(error)
        if got != (expected := sha256(content)[:12]):
            problems.append(Problem(".", name, f"sha256 {expected}", f"sha256 {got}"))
    return problems
