"""Whole episodes from store to store: select, merge, split. What is copied are proven bytes, not decoded numbers.

An episode's content has one hash (its manifest's), so what a target holds already is not copied again: an interrupted
run goes on where it stopped, and duplicates end up there once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .encoding import spec_fingerprint
from .errors import EpisodeDamaged, Problem, StoreError
from .manifest import read_files
from .store import EpisodeStore


@dataclass(frozen=True)
class Copied:
    """What a copy did."""

    appended: tuple[str, ...]  # new episodes of the target, in order
    there: int  # episodes whose content the target held already: an earlier run's, or duplicates


def select(source: EpisodeStore, target: EpisodeStore, names: Iterable[str], progress: bool = True) -> Copied:
    """Append these episodes of `source` to `target`, provenance and all. Raises StoreError, EpisodeDamaged."""
    from tqdm import tqdm

    _same_spec(source, target)
    known, appended, there = _hashes(target, target.names()), [], 0
    for name in tqdm(list(names), f"copying {source.path.name}", unit="episode", disable=not progress):
        if (key := source.manifest_hash(name)) in known:
            there += 1
        else:
            appended.append(adopt(target, source, name))
            known.add(key)
    return Copied(tuple(appended), there)


def merge(sources: Sequence[EpisodeStore], target: EpisodeStore, progress: bool = True) -> Copied:
    """All episodes of all sources, in order. Nothing is copied unless all Specs are the target's."""
    for source in sources:
        _same_spec(source, target)
    done = [select(source, target, source.names(), progress) for source in sources]
    return Copied(tuple(name for one in done for name in one.appended), sum(one.there for one in done))


def split(
    store: EpisodeStore, targets: Mapping[str | Path, float], seed: int = 0, progress: bool = True
) -> dict[str | Path, Copied]:
    """Every episode into one of the new stores at `targets` (path -> share of the episodes); see `shares`."""
    chosen = shares(store, targets, seed)
    done = {}
    for path, names in chosen.items():
        exists = (Path(path) / "zarr.json").exists()
        with EpisodeStore.open(path, "a") if exists else EpisodeStore.create(path, store.spec) as target:
            if strangers := _hashes(target, target.names()) - _hashes(store, names):
                raise StoreError(
                    f"{path}: expected a new store or this very split interrupted, got one with {len(strangers)} other "
                    "episodes; was it made with another seed or other shares?"
                )
            done[path] = select(store, target, names, progress)
    return done


def shares[Key](store: EpisodeStore, fractions: Mapping[Key, float], seed: int = 0) -> dict[Key, list[str]]:
    """Names per share: a function of seed and content, disjoint also in content, successes spread evenly.

    Episodes are shuffled among those of equal success; each in turn goes to the share that is most behind.
    """
    _check_fractions(fractions)
    first = {store.manifest_hash(name): name for name in reversed(store.names())}  # a duplicate is not a second episode
    success = {key: store.about(name)["success"] for key, name in first.items()}
    rng = np.random.default_rng(seed)
    order = []
    for kind in (True, False, None):
        alike = sorted(key for key in first if success[key] is kind)
        order += [alike[i] for i in rng.permutation(len(alike))]
    chosen: dict[Key, list[str]] = {key: [] for key in fractions}
    for count, key in enumerate(order, start=1):
        behind = max(fractions, key=lambda share: fractions[share] * count - len(chosen[share]))
        chosen[behind].append(first[key])
    if empty := [str(share) for share, names in chosen.items() if not names]:
        raise StoreError(f"split: expected an episode for each share, got none for {empty}; {len(order)} are too few")
    return {share: sorted(names) for share, names in chosen.items()}


def adopt(target: EpisodeStore, source: EpisodeStore, name: str) -> str:
    """Commit a copy of another store's episode, byte for byte; its new name in `target`."""
    manifest = source.manifest(name)
    files = read_files(source.path / "episodes" / name, manifest)
    if (spec := _spec_of(files)) != (expected := spec_fingerprint(target.spec)):
        raise EpisodeDamaged([Problem(name, "zarr.json", f"spec {expected[:12]}", str(spec)[:12])])
    return target.adopt(files, manifest)


def _spec_of(files: Mapping[str, bytes]) -> object:
    """The hash of the Spec that the episode's numbers follow; None where it says none."""
    try:
        return json.loads(files["zarr.json"])["attributes"]["spec"]
    except (ValueError, KeyError, TypeError):
        return None


def _same_spec(source: EpisodeStore, target: EpisodeStore) -> None:
    if spec_fingerprint(source.spec) != spec_fingerprint(target.spec):
        lines = target.spec.differences(source.spec) or [
            "they differ by rounding only; convert or record them with one Spec"
        ]
        raise StoreError(f"{source.path}: its Spec is not that of {target.path}: {'; '.join(lines)}")


def _hashes(store: EpisodeStore, names: Iterable[str]) -> set[str]:
    return {store.manifest_hash(name) for name in names}


def _check_fractions(fractions: Mapping) -> None:
    if not fractions or min(fractions.values()) <= 0 or not math.isclose(sum(fractions.values()), 1):
        raise StoreError(f"split: expected positive shares that sum to 1, got {[*fractions.values()]}")
