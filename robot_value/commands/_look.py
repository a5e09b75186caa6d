"""`robot-value data inspect | verify | stats`: nothing is changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..episodes import EpisodeStore
from ..episodes.inspect import inspect_command, verify_command
from ..features.encoding import FEATURES
from ..flags import Parsed
from ..labels.encoding import LABELS
from ..labels.store import names as label_names
from ..labels.store import verify as verify_labels
from ..normalize import Statistics, fit_statistics


@dataclass(frozen=True)
class Inspect:
    """Episodes, steps, success, returns, keys, shapes, units and size of a store, and what would hurt training."""

    html: str | None = None  # write a self-contained page with plots and frames to this file (default: text only)
    frames: int = 20  # episodes whose images are searched for frozen and black frames; 0: none


def inspect(paths: Sequence[str], parsed: Parsed) -> int:
    config = parsed.values
    return inspect_command(paths[0], Path(config.html) if config.html else None, config.frames)


@dataclass(frozen=True)
class Verify:
    """Check every file of episodes, labels and features against its manifest. Exit code 0: sound, 1: damaged."""


def verify(paths: Sequence[str], parsed: Parsed) -> int:
    store = EpisodeStore.open(paths[0])
    code = verify_command(paths[0])
    for kind in (LABELS, FEATURES):
        problems = verify_labels(store, kind)
        if found := label_names(store, kind):
            print(*problems, f"{kind.name} {', '.join(found)}: {len(problems)} problems", sep="\n")
        code = 1 if problems else code
    return code


@dataclass(frozen=True)
class Stats:
    """Mean, standard deviation and range of every state and action dimension and of the rewards."""

    json: str | None = None  # also write them to this file


def stats(paths: Sequence[str], parsed: Parsed) -> int:
    store = EpisodeStore.open(paths[0])
    found = measured(store)
    names = {"state": store.spec.state_names, "action": action_names(store), "reward": ("reward",)}
    print(f"{'':<32}{'mean':>11}{'std':>11}{'low':>11}{'high':>11}")
    for key, statistics in found.items():
        columns = zip(statistics.mean, statistics.std, statistics.low, statistics.high, strict=True)
        for name, row in zip(names[key], columns, strict=True):
            print(f"{key + ' ' + name:<32}" + "".join(f"{value:>11.4g}" for value in row))
    print(f"{found['action'].count} steps, {found['state'].count} frames")
    if parsed.values.json:
        content = {key: {"names": list(names[key]), **statistics.to_json()} for key, statistics in found.items()}
        Path(parsed.values.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(parsed.values.json, file=sys.stderr)
    return 0


def measured(store: EpisodeStore) -> dict[str, Statistics]:
    """One episode in memory at a time."""

    def rows(key: str):
        for name in store.names():
            array: np.ndarray = getattr(store.read(name, images=False, decisions=False), key)
            yield array if array.ndim == 2 else array[:, None]

    return fit_statistics({"state": rows("states"), "action": rows("actions"), "reward": rows("rewards")})


def action_names(store: EpisodeStore) -> list[str]:
    return [
        part.name if part.stop - part.start == 1 else f"{part.name}[{d}]"
        for part in store.spec.parts
        for d in range(part.stop - part.start)
    ]
