"""A dataset's labels laid out as its decoded cache is: row for row what a sampler reads in place of the recording."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..episodes.cache import Cache
from ..episodes.errors import StoreError
from ..episodes.manifest import canonical, sha256
from ..episodes.store import EpisodeStore
from .labels import Labels
from .store import LabelStore


@dataclass(frozen=True)
class CacheLabels:
    """Of the E episodes of a cache."""

    name: str
    hash: str  # of all labels
    reward: np.ndarray  # float32[sum of steps]
    terminated: np.ndarray  # bool[E]
    success: np.ndarray  # float32[E], 1, 0, or NaN where nobody knows
    weight: np.ndarray | None  # float32[sum of steps], relative chance of a start; None: all alike
    mc_return: np.ndarray | None  # float32[sum of steps], NaN where it follows from the rewards; None: everywhere
    gamma: float | None  # discount of mc_return, where the labeler said so
    rewarded: bool  # is a reward, a return or a termination other than as recorded

    def on(self, cache: Cache) -> Cache:
        """The cache, its rewards and outcomes replaced."""
        return replace(cache, reward=self.reward, terminated=self.terminated, success=self.success)


def read_labels(store: EpisodeStore, name: str, cache: Cache) -> CacheLabels:
    """All labels of that name, proven and of the cache's episodes. Raises StoreError where some are missing."""
    there = LabelStore.open(store, name)
    if missing := sorted(set(cache.names) - set(there.episodes())):
        raise StoreError(
            f"labels {name!r}: expected all {len(cache)} episodes, got none for {len(missing)} (first {missing[0]}); "
            "run `robot-value data label` again with the same flags"
        )
    pairs = zip(cache.names, cache.hashes, strict=True)
    labels = [there.read(episode, parent) for episode, parent in pairs]
    return lay_out(name, sha256(canonical([there.hash(episode) for episode in cache.names])), labels, cache)


def lay_out(name: str, key: str, labels: list[Labels], cache: Cache) -> CacheLabels:
    """labels: E, one per episode of the cache."""
    reward, terminated, success = np.array(cache.reward), np.array(cache.terminated), np.array(cache.success)
    weight, mc_return = np.ones_like(reward), np.full_like(reward, np.nan)
    for e, (each, start, steps) in enumerate(zip(labels, cache.step_start, cache.steps, strict=True)):
        for rows, said in ((reward, each.rewards), (weight, each.weights), (mc_return, each.returns)):
            if said is not None:
                rows[start : start + steps] = said
        terminated[e] = terminated[e] if each.terminated is None else each.terminated
        success[e] = success[e] if each.success is None else each.success
    said = {kind for each in labels for kind in each.arrays}
    rewarded = bool(said & {"rewards", "returns"}) or any(each.terminated is not None for each in labels)
    gammas = {each.about["gamma"] for each in labels if each.returns is not None and "gamma" in each.about}
    return CacheLabels(
        name=name,
        hash=key,
        reward=reward,
        terminated=terminated,
        success=success,
        weight=weight if "weights" in said else None,
        mc_return=mc_return if "returns" in said else None,
        gamma=gammas.pop() if len(gammas) == 1 else None,
        rewarded=rewarded,
    )
