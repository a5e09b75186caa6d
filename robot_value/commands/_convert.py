"""`robot-value data convert | export | pack`: other people's formats into the store, and the store into theirs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import convert as conversion
from ..components import load
from ..episodes import EpisodeStore
from ..flags import Choice, Parsed


@dataclass(frozen=True)
class Convert:
    """Append a recorded dataset to an episode store. Interrupt it and run it again: it goes on where it stopped."""

    source: Any = None  # what the dataset is and what it does not say; its type is recognised unless given
    dry_run: bool = False  # only say what would happen; the first episode is read to be sure
    skip_bad: bool = False  # leave out episodes that are not sound (exit code 3 says there were some)
    progress: bool = True  # show a progress bar


def source_choice(paths: Sequence[str], argv: Sequence[str]) -> dict[str, Choice]:
    """The converter that knows PATH, unless the user names one."""
    named = any(word.startswith("--source.type") for word in argv) or "--help" in argv or "-h" in argv or not paths
    return {"source": Choice("converters", None if named else conversion.recognise(Path(paths[0])))}


def convert(paths: Sequence[str], parsed: Parsed) -> int:
    config = parsed.values
    source = config.source.build(Path(paths[0]))
    try:
        print(source.survey.to_text())
        if config.dry_run:
            print(
                f"episode {source.survey.keys[0]} is sound: {len(source.read(0))} steps" if source.survey.keys else ""
            )
            return 0
        with opened(Path(paths[1]), source) as store:
            done = conversion.convert(source, store, config.skip_bad, config.progress)
            total = len(store)
    finally:
        source.close()
    print(f"{len(done.appended)} episodes converted, {done.there} were already there; {paths[1]} holds {total}")
    for line in done.skipped:
        print(f"skipped {line}", file=sys.stderr)
    return 3 if done.skipped else 0


def opened(path: Path, source: conversion.Source) -> EpisodeStore:
    """The store at `path` for appending; a new one has the source's Spec."""
    return (
        EpisodeStore.open(path, "a") if (path / "zarr.json").exists() else EpisodeStore.create(path, source.survey.spec)
    )


@dataclass(frozen=True)
class Export:
    """Write an episode store as somebody else's dataset."""

    target: Any = None  # the format
    progress: bool = True  # show a progress bar


def export(paths: Sequence[str], parsed: Parsed) -> int:
    config = parsed.values
    if config.target is None:
        raise conversion.ConversionError("expected --target.type (see --help), got none")
    return written(config.target, paths, config.progress)


@dataclass(frozen=True)
class Pack:
    """Write an episode store as one flat diffusion_policy zarr (a folder, or a file that ends in .zarr.zip)."""

    progress: bool = True  # show a progress bar


def pack(paths: Sequence[str], parsed: Parsed) -> int:
    return written(load("exporters", "diffusion_policy").Config(), paths, parsed.values.progress)


def written(target: Any, paths: Sequence[str], progress: bool) -> int:
    lost = target.build().export(EpisodeStore.open(paths[0]), Path(paths[1]), progress)
    print("\n".join([paths[1], *(f"  left out  {line}" for line in lost)]))
    return 0
