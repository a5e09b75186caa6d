"""What the steps of a human say to the learner, beside the recorded rewards.

    rlif    r_t = -1 if a human takes over at step t + 1, else 0 (Luo et al. 2024, arXiv 2311.12996)
    pvp     r_t = 1 if step t is not the policy's, else 0: a mark for the critic `pvp`, no reward (Peng et al. 2023)
    dagger  a policy clones whole chunks of others, and nothing of its own (HG-DAgger, Kelly et al. 2019)

For online episodes, and demonstrations given mid-run. Offline data say what they were labelled with, e.g. by the
labeler `intervention`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..episodes.cache import Cache
from ..labelers import intervention
from ..labels.cached import CacheLabels
from ..types import POLICY, Episode

HOW = ("", "rlif", "pvp", "dagger")


def check(how: str) -> None:
    if how not in HOW:
        raise ValueError(f"interventions: expected one of {', '.join(filter(None, HOW))} or nothing, got {how!r}")


def relabel(episode: Episode, how: str) -> Episode:
    """The episode with the rewards that its interventions mean; "" and "dagger" leave it as it was recorded."""
    check(how)
    if how == "rlif":
        return intervention.Config().build().label("", episode).on(episode)
    if how == "pvp":
        others = np.zeros(len(episode), bool) if episode.source is None else episode.source != POLICY
        return replace(episode, rewards=others.astype(np.float32))
    return episode


def starts(cache: Cache, horizon: int, how: str) -> CacheLabels | None:
    """Where windows of H steps may begin, as weights; None: everywhere. All weights are 0 before the first correction.

    Past an episode's end nothing is executed and nothing is asked: a correction that ends the episode counts.
    """
    check(how)
    if how != "dagger":
        return None
    weight = np.zeros(len(cache.source), np.float32)
    for first, steps in zip(cache.step_start, cache.steps, strict=True):
        others = cache.source[first : first + steps] != POLICY
        weight[first : first + steps] = _all_ahead(others, horizon)
    outcome = {"reward": cache.reward, "terminated": cache.terminated, "success": cache.success}
    return CacheLabels(how, how, **outcome, weight=weight, mc_return=None, gamma=None, rewarded=False)


def _all_ahead(flags: np.ndarray, horizon: int) -> np.ndarray:
    """bool[T]: is it set at t and at the following H - 1 steps that there are."""
    missing = np.append(0, np.cumsum(~flags))
    last = np.minimum(np.arange(len(flags)) + horizon, len(flags))
    return missing[last] == missing[:-1]
