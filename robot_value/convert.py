"""Any recorded dataset into the episode store: one episode in memory at a time, resumable, nothing assumed silently.

A converter is one file, `datasets/<name>_converter.py`: `recognises(path)` and a `Config` whose `build(path)` opens a
Source. Every episode's provenance says where it came from, so that an interrupted conversion goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from . import components
from .episodes import EpisodeStore, StoreError
from .types import Episode, Spec
from .untrusted import Refused, read_json


class ConversionError(ValueError):
    """The source cannot be converted as it is; the message says where, what was expected, what came, what to do."""


@dataclass(frozen=True)
class Survey:
    """What a source holds, known before anything is converted."""

    format: str  # e.g. "LeRobotDataset v3.0"
    spec: Spec
    keys: tuple[str, ...]  # one per episode: its name in the source, the same every time
    steps: tuple[int, ...]  # T, actions of each episode; 0 where only reading it tells
    identity: str  # SHA-256 of the source's metadata and of its files' sizes: another source is another identity
    assumed: tuple[str, ...] = ()  # what the source does not say and was assumed; each names the flag that tells it
    left_out: tuple[str, ...] = ()  # what the source has and the store has no place for

    def to_text(self) -> str:
        """For `--dry-run`: what would happen."""
        spec, steps = self.spec, sum(self.steps)
        known = f"{steps:,} steps ({steps * spec.dt / 60:.1f} min at {1 / spec.dt:g} Hz)" if all(self.steps) else ""
        lines = [f"{self.format}: {len(self.keys)} episodes, {known or 'steps known only by reading'}"]
        for part in spec.parts:
            limits = ", ".join(f"{lo:.4g}..{hi:.4g}" for lo, hi in zip(part.low, part.high, strict=True))
            about = f"{part.name} {part.start}-{part.stop - 1} ({part.kind}, {part.reference}) [{part.unit}]"
            lines.append(f"  action  {about}  {limits}")
        names = [f"{n} [{u}]" for n, u in zip(spec.state_names, spec.state_units, strict=True)]
        lines.append(f"  state   {', '.join(names) or 'none'}")
        lines += [f"  camera  {c.name} {c.height} x {c.width} {c.encoding}" for c in spec.cameras]
        lines += [f"  assumed   {line}" for line in self.assumed]
        return "\n".join([*lines, *(f"  left out  {line}" for line in self.left_out)])


class Source(Protocol):
    """An opened dataset. Episodes are read one by one; reading them in order is as fast as the format allows."""

    survey: Survey

    def read(self, index: int) -> Episode:
        """Raises ConversionError naming file and episode where it cannot be had whole and sound."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Converted:
    """What a conversion did."""

    appended: tuple[str, ...]  # episodes of the store, in order
    there: int  # episodes that an earlier run had converted already
    skipped: tuple[str, ...]  # one line per episode that was not sound; empty unless they are to be skipped


def convert(source: Source, store: EpisodeStore, skip_bad: bool = False, progress: bool = True) -> Converted:
    """Append every episode that an earlier run has not. Raises ConversionError at the first bad one, or skips it."""
    from tqdm import tqdm

    survey = source.survey
    known, appended, skipped = keys_in(store, survey.identity), [], []
    todo = [i for i, key in enumerate(survey.keys) if key not in known]
    for index in tqdm(todo, "converting", unit="episode", disable=not progress):
        try:
            episode = source.read(index)
            appended.append(store.append(told(episode, survey, survey.keys[index])))
        except (ConversionError, StoreError, Refused) as error:
            line = f"episode {survey.keys[index]}: {error}"
            if not skip_bad:
                raise ConversionError(f"{line}; {len(appended)} episodes were converted, --skip_bad goes on") from error
            skipped.append(line)
    return Converted(tuple(appended), len(known), tuple(skipped))


def told(episode: Episode, survey: Survey, key: str) -> Episode:
    """The episode, knowing where it came from."""
    origin = {"format": survey.format, "identity": survey.identity, "key": key}
    return replace(episode, provenance={**episode.provenance, "converted": origin})


def keys_in(store: EpisodeStore, identity: str) -> set[str]:
    """Keys of the episodes of this very source that the store has."""
    origins = (store.about(name)["provenance"].get("converted", {}) for name in store.names())
    return {origin["key"] for origin in origins if origin.get("identity") == identity}


def recognise(path: Path) -> str:
    """Name of the one converter that knows this dataset. Raises ConversionError where none or several do."""
    if not path.exists():
        raise ConversionError(f"{path}: expected a dataset, got nothing at that path")
    known = components.names("converters")
    found = [name for name in known if components.load("converters", name).recognises(path)]
    if len(found) != 1:
        got = f"more than one ({', '.join(found)})" if found else "none"
        raise ConversionError(
            f"{path}: expected one known format, got {got}; choose --source.type of {', '.join(known)}"
        )
    return found[0]


def spec_from(path: str) -> Spec | None:
    """The Spec in a JSON file (Spec.to_json), for sources that do not say what their numbers mean; None for ""."""
    if not path:
        return None
    try:
        return Spec.from_json(read_json(Path(path)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ConversionError(f"{path}: expected a Spec as JSON (`Spec.to_json`), got {error}") from error


def identity_of(metadata: Any, files: Iterable[Path] = ()) -> str:
    """Survey.identity from JSON-like metadata and the payload files (their names and sizes)."""
    from .episodes.manifest import sha256

    sizes: Mapping[str, int] = {path.name: path.stat().st_size for path in files}
    return sha256(json.dumps([metadata, sizes], sort_keys=True, default=str).encode())


class Exporter(Protocol):
    """The other way: `datasets/<name>_exporter.py` has a `Config` whose `build()` returns one."""

    def export(self, store: EpisodeStore, path: Path, progress: bool = True) -> tuple[str, ...]:
        """Write the whole store to the new `path`, which appears whole or not at all.

        Returns what the format has no place for, a line each. Raises ConversionError.
        """
        ...
