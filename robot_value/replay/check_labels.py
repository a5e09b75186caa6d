"""Does an episode end like those of its own label? Confident learning (arXiv 1911.00068) on how and when they end.

    p_e = P(success | end of episode e), logistic in z and z^2 (z standardised), fitted to the other folds' episodes
    suspect: odds for the other label > ODDS

The weights' prior is narrow where a feature alone says little (adaptive ridge, after Zou 2006). Fitted twice: the
second time without the episodes whose label the first fit did not believe. No critic is asked: one that was trained on
these labels has learned the wrong ones, too (`label_errors` ranks what it says, for mining).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from ..episodes.findings import Finding, counted
from .survey import Trace

FOLDS = 5
LEAST = 10  # episodes of either label without which nothing is said
ODDS = 10.0  # for the other label
TOLD = 0.8  # share of labels that the ends must explain; else they do not tell, and nobody is accused
FLOOR = 1e-3  # correlation with success that a feature has at least
CLIP = 2.0  # standard deviations; what is odd must not count as evidence by how odd it is


def check_labels(traces: Sequence[Trace]) -> list[Finding]:
    known = [trace for trace in traces if trace.success is not None]
    success = np.array([bool(trace.success) for trace in known], bool)
    if min(success.sum(), (~success).sum()) < LEAST:
        return []
    odds = mislabel_odds(endings(known), success)
    found = []
    for label, word, other in ((True, "success", "failure"), (False, "failure", "success")):
        names = tuple(known[i].name for i in np.flatnonzero((odds > ODDS) & (success == label)))
        if names:
            what = f"{counted(names)} labelled {word}, ending like a {other}"
            found.append(Finding(what, "look at their ends, and correct the label", names))
    return found


def endings(traces: Sequence[Trace]) -> np.ndarray:
    """float64[E, F], standardised with squares: the last state and picture, the length, and whether time ran out.

    Where operators end failures as they like, when an episode ended tells nothing, and weighs nothing.
    """
    steps = np.array([len(trace.actions) for trace in traces])
    when = np.stack([steps, steps == steps.max()], 1)
    raw = np.array([np.concatenate([trace.states[-1], trace.picture]) for trace in traces], np.float64)
    raw = np.concatenate([raw, when], 1)
    middle, spread = np.median(raw, 0), raw.std(0)
    z = np.clip((raw - middle) / np.maximum(spread, 1e-9), -CLIP, CLIP)[:, spread > 1e-6]
    return np.concatenate([z, z**2], 1)


def mislabel_odds(features: np.ndarray, success: np.ndarray) -> np.ndarray:
    """float64[E], of the label that an episode does not have, given all episodes of other folds."""
    believed = np.ones(len(success), bool)
    for _ in range(2):
        if believed.mean() < TOLD:  # a second fit would believe what the first one made up
            return np.zeros(len(success))
        p = _cross_fitted(features, success, believed)
        own = np.where(success, p, 1 - p)
        believed = own > 0.5
    return (1 - own) / np.maximum(own, 1e-12)


def _cross_fitted(features: np.ndarray, success: np.ndarray, believed: np.ndarray) -> np.ndarray:
    fold = np.random.default_rng(0).permutation(len(success)) % FOLDS
    p = np.zeros(len(success))
    for i in range(FOLDS):
        fitted = (fold != i) & believed
        p[fold == i] = expit(_with_one(features[fold == i]) @ _logistic(features[fitted], success[fitted]))
    return p


# argmin_w  -sum_e log p(success_e | x_e, w) + sum_f (w_f / r_f)^2 / 2, r_f = |corr(x_f, success)|, by Newton's method
def _logistic(features: np.ndarray, success: np.ndarray, steps: int = 12) -> np.ndarray:
    x, centred = _with_one(features), features - features.mean(0)
    said = success - success.mean()
    r = np.abs(said @ centred) / np.maximum(np.sqrt((said @ said) * (centred**2).sum(0)), 1e-9)
    prior = np.diag(np.append((r + FLOOR) ** -2, 1e-6))
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = expit(x @ w)
        curvature = (x * (p * (1 - p) + 1e-9)[:, None]).T @ x + prior
        w -= np.linalg.solve(curvature, x.T @ (p - success) + prior @ w)
    return w


def _with_one(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features, np.ones((len(features), 1))], 1)
