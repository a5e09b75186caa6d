"""`robot-value data repair | migrate | merge | split | label`: none of them rewrites a committed episode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import flags
from ..convert import spec_from
from ..episodes import EpisodeStore
from ..episodes.edit import merge as merge_stores
from ..episodes.edit import split as split_store
from ..episodes.migrate import migrate as migrate_store
from ..episodes.repair import repair as repair_store
from ..flags import Parsed


@dataclass(frozen=True)
class Repair:
    """Move damaged episodes to quarantine/. Exit code 0: it was sound, 3: repaired with a loss, 1: not repairable."""

    spec: str = ""  # a JSON copy of the Spec, where the store's own zarr.json is lost


def repair(paths: Sequence[str], parsed: Parsed) -> int:
    done = repair_store(paths[0], spec_from(parsed.values.spec))
    print(done.to_text())
    return done.code


@dataclass(frozen=True)
class Migrate:
    """Lift a store of an older format_version to this one; the old store is kept beside it."""


def migrate(paths: Sequence[str], parsed: Parsed) -> int:
    print(migrate_store(paths[0]).to_text())
    return 0


@dataclass(frozen=True)
class Merge:
    """Append all episodes of the sources to the target, byte by byte; what it holds already is not repeated."""

    progress: bool = True  # show a progress bar


def merge(paths: Sequence[str], parsed: Parsed) -> int:
    sources = [EpisodeStore.open(path) for path in paths[:-1]]
    exists = (Path(paths[-1]) / "zarr.json").exists()
    with EpisodeStore.open(paths[-1], "a") if exists else EpisodeStore.create(paths[-1], sources[0].spec) as target:
        done = merge_stores(sources, target, parsed.values.progress)
        print(f"{len(done.appended)} episodes copied, {done.there} were there; {paths[-1]} holds {len(target)}")
    return 0


@dataclass(frozen=True)
class Split:
    """Every episode into one of the new stores, by their shares, with success alike in all where it is known."""

    seed: int = 0  # the same seed gives the same parts
    progress: bool = True  # show a progress bar


def split(paths: Sequence[str], parsed: Parsed) -> int:
    shares = dict(_share(word) for word in paths[1:])
    done = split_store(EpisodeStore.open(paths[0]), shares, parsed.values.seed, parsed.values.progress)
    for path, copied in done.items():
        print(f"{path}: {len(copied.appended)} episodes copied, {copied.there} were there")
    return 0


def _share(word: str) -> tuple[str, float]:
    path, equals, share = word.rpartition("=")
    if not equals or not re.fullmatch(r"[0-9]*\.?[0-9]+", share):
        raise flags.FlagError(f"expected TARGET=SHARE such as train=0.9, got {word!r}")
    return path, float(share)


@dataclass(frozen=True)
class Label:
    """Write rewards or weights for value learning beside the episodes, as labels/NAME. Run it again to go on."""

    labeler: Any = None  # what is written
    name: str = ""  # of the labels; the labeler's name unless given
    base: str = ""  # labels to see instead of what was recorded
    fresh: bool = False  # where the name is taken by other labels, take NAME-2
    progress: bool = True  # show a progress bar


def label(paths: Sequence[str], parsed: Parsed) -> int:
    from ..labels.run import label as label_store

    config, kind = parsed.values, parsed.names["labeler"]
    if kind is None:
        raise flags.FlagError("expected --labeler.type (see --help), got none")
    name = config.name or kind.rpartition(".")[2]
    store = EpisodeStore.open(paths[0])
    done = label_store(store, kind, config.labeler, name, config.base, config.fresh, config.progress)
    print(done.to_text())
    return 0
