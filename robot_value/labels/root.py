"""What lies above the labelled episodes: the names there are, and of each the Origin in its zarr.json, proven."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ..episodes.errors import Problem, StoreError
from ..episodes.manifest import newer
from ..episodes.remote import Folder, listing, read_one
from ..episodes.root import group
from ..episodes.store import EpisodeStore
from ..types import FORMAT_VERSION
from .encoding import LABELS, Kind, Origin

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}")  # becomes a folder


class LabelsDamaged(StoreError):
    """The labels on disk are not what was written, or not of this episode."""

    def __init__(self, problems: Iterable[Problem], kind: Kind = LABELS):
        self.problems = list(problems)
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(
            f"damaged {kind.name} {self.problems[0]}{more}; delete that folder and run `robot-value {kind.command}` "
            "again"
        )


def names(store: EpisodeStore, kind: Kind = LABELS) -> list[str]:
    """Names under which this store has labels."""
    root = store.path / kind.name
    try:
        found = [name for name in listing(root) if NAME.fullmatch(name) and (root / name).is_dir()]
    except FileNotFoundError:
        return []
    return [name for name in found if "zarr.json" in listing(root / name)]


def safe_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise StoreError(
            f"name of labels: expected up to 64 letters, digits, '_' and '-', a letter or digit first, got {name!r}"
        )
    return name


def refuse_other(name: str, there: Origin, wanted: Origin) -> None:
    """Raises StoreError unless labels of the `wanted` origin may go on under a name that has some of origin `there`."""
    for what, old, new in zip(asdict(there), asdict(there).values(), asdict(wanted).values(), strict=True):
        if old == new:
            continue
        if what == "dataset":
            why = (
                "a labeler fitted on other episodes than the store has now; old and new labels would not mean the same"
            )
        else:
            why = f"{what} {short(old)}, asked for {short(new)}"
        raise StoreError(f"labels {name!r} are there already, made with {why}; give another --name, or --fresh")


def origin_bytes(origin: Origin, kind: Kind = LABELS) -> bytes:
    """zarr.json of the labels of one name."""
    about = {"kind": kind.title, "format_version": FORMAT_VERSION}
    return group(about | {"origin": asdict(origin), "origin_sha256": origin.hash})


def read_origin(folder: Folder, kind: Kind = LABELS) -> Origin:
    try:
        attributes = json.loads(read_one(folder / "zarr.json"))["attributes"]
        if attributes["kind"] != kind.title:
            raise ValueError(f"kind {attributes['kind']!r}")
        if attributes["format_version"] > FORMAT_VERSION:
            raise StoreError(newer(f"{kind.name} {folder.name!r}", attributes["format_version"]))
        origin = Origin(**attributes["origin"])
        if origin.hash != attributes["origin_sha256"]:
            raise ValueError(f"an origin with sha256 {origin.hash[:12]}, expected {attributes['origin_sha256'][:12]}")
        return origin
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LabelsDamaged(
            [Problem(f"{kind.name}/{folder.name}", "zarr.json", f"an origin of {kind.name}", str(error))], kind
        ) from error


def short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:60]}..." if len(text) > 60 else text or "none"
