"""Damage of every kind in every file of a small dataset: reported with its file and episode, and never read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from append_until_killed import make_episode, make_spec

from robot_value.episodes import EpisodeStore, StoreError

KINDS = ("flip", "truncate", "delete", "swap", "overwrite", "extend")


@dataclass
class Mutations:
    trials: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    losses: list[str] = field(default_factory=list)  # not noticed, or noticed in another place


def mutate(path: Path, trials: int, seed: int = 0, bar: Callable[[range], Iterable] = iter) -> Mutations:
    make_dataset(path)
    rng, found = random.Random(seed), Mutations()
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != ".lock")
    for _ in bar(range(trials)):
        damaged = sound = b""
        while damaged == sound:  # a swap with itself damages nothing
            file, kind = rng.choice(files), rng.choice(KINDS)
            sound = file.read_bytes()
            damaged = _damaged(kind, sound, rng.choice(files), rng)
        found.trials += 1
        found.kinds[kind] += 1
        file.unlink() if damaged is None else file.write_bytes(damaged)
        if loss := unnoticed(path, file.relative_to(path).as_posix()):
            found.losses.append(f"{kind} of {file.relative_to(path)}: {loss}")
        file.write_bytes(sound)
    return found


def make_dataset(path: Path) -> None:
    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, make_spec()) as store:
        for _ in range(3):
            store.append(make_episode(store.spec, rng))


def _damaged(kind: str, sound: bytes, other: Path, rng: random.Random) -> bytes | None:
    at = rng.randrange(len(sound))
    return {
        "flip": lambda: sound[:at] + bytes([sound[at] ^ (1 << rng.randrange(8))]) + sound[at + 1 :],
        "truncate": lambda: sound[:at],
        "delete": lambda: None,
        "swap": other.read_bytes,
        "overwrite": lambda: (sound[:at] + rng.randbytes(rng.randrange(1, 64)) + sound[at + 64 :])[: len(sound)],
        "extend": lambda: sound + rng.randbytes(1),
    }[kind]()


def unnoticed(path: Path, file: str) -> str:
    """What is wrong with the report; "" where it names episode and file, and nothing damaged was read."""
    episode = file.split("/")[1] if file.count("/") > 1 else None
    try:
        store = EpisodeStore.open(path)
        problems = store.verify(episode)
    except StoreError as error:
        return "" if episode is None and "zarr.json" in str(error) else f"not named in {error}"
    where = (".", file) if episode is None else (episode, file.split("/", 2)[2])
    if where not in {(problem.episode, problem.file) for problem in problems}:
        return f"verify said {[str(problem) for problem in problems]}"
    try:
        if episode:
            store.read(episode)
            return "it was read"
    except StoreError:
        pass
    return ""
