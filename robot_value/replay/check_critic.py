"""Does a critic know what the log alone teaches? A critic of shuffled rewards, or of another task, does not.

    y: success (else the return), v: the critic's value, b: ridge of y on the state, fitted to other episodes;
    all less their mean over the episodes at the same decision, for values rise towards the end in good and bad ones
    skill = corr(v, y)^2 / corr(b, y)^2, with an interval over resampled episodes

Chance is no yardstick: a random function of the state agrees with success by accident of its direction, or against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..episodes.findings import Finding
from ..statistics import Interval
from .by_episode import draws
from .replayed import Replayed
from .survey import Trace

ENOUGH = 0.5  # share of what the log teaches that a critic must explain
TEACHES = 0.1  # R^2 of the baseline, its lower bound, below which the log teaches too little to judge a critic
LEAST = 20  # episodes
FOLDS = 5
RIDGE = 1.0


@dataclass(frozen=True)
class Skill:
    critic: Interval  # corr(v, y)^2; negative where the correlation is
    baseline: Interval  # corr(b, y)^2
    share: Interval  # their ratio


def check_critics(replayed: Replayed, traces: Sequence[Trace]) -> list[Finding]:
    skills = {name: skill(replayed, traces, name) for name in replayed.opinions}
    return [
        Finding(
            f"critic {name} explains {_percent(s.critic)} of how episodes end, a linear model {_percent(s.baseline)}",
            "do not steer by it: was it trained on this task, with these rewards?",
        )
        for name, s in skills.items()
        if s is not None and s.baseline.low > TEACHES and s.share.high < ENOUGH
    ]


def skill(replayed: Replayed, traces: Sequence[Trace], critic: str) -> Skill | None:
    """None where there are too few episodes, or all ended alike."""
    outcome, states = _outcome(replayed), _states(replayed, traces)
    value = replayed.opinions[critic].logged_value.astype(np.float64)
    known = np.isfinite(outcome) & np.isfinite(value)
    episode, step = replayed.episode[known], replayed.step[known]
    if len(np.unique(episode)) < LEAST or np.ptp(outcome[known]) == 0:
        return None
    y, v = _matched(outcome[known], step), _matched(value[known], step)
    b = _predicted(_matched(states[known], step), y, episode)
    drawn = draws(len(replayed.episodes))
    of_critic, of_baseline = (_explained(x, y, episode, drawn) for x in (v, b))
    return Skill(*map(_interval, (of_critic, of_baseline, of_critic / np.maximum(of_baseline, 1e-9))))


def _outcome(replayed: Replayed) -> np.ndarray:
    """float64[D]: success of the episode, NaN where unknown; the return where success does not tell any apart."""
    success = replayed.success
    tells = len(np.unique(success[np.isfinite(success)])) == 2
    return success[replayed.episode] if tells else replayed.returns


def _states(replayed: Replayed, traces: Sequence[Trace]) -> np.ndarray:
    """float64[D, F] at each decision, standardised, with squares."""
    of = {trace.name: trace.states for trace in traces}
    raw = np.stack(
        [of[replayed.episodes[e].name][t] for e, t in zip(replayed.episode, replayed.step, strict=True)]
    ).astype(np.float64)
    z = np.clip((raw - raw.mean(0)) / np.maximum(raw.std(0), 1e-9), -4, 4)
    return np.concatenate([z, z**2], 1)


def _matched(x: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Less the mean of all decisions at the same control step."""
    moment, count = np.unique(step, return_inverse=True, return_counts=True)[1:]
    sums = np.zeros((len(count), *x.shape[1:]))
    np.add.at(sums, moment, x)
    return x - (sums / count.reshape(-1, *[1] * (x.ndim - 1)))[moment]


def _predicted(x: np.ndarray, y: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """float64[D], each from the episodes of the other folds."""
    found = np.zeros(len(y))
    for i in range(FOLDS):
        fitted, rest = episode % FOLDS != i, episode % FOLDS == i
        gram = x[fitted].T @ x[fitted] + RIDGE * np.eye(x.shape[1])
        found[rest] = x[rest] @ np.linalg.solve(gram, x[fitted].T @ y[fitted])
    return found


def _explained(x: np.ndarray, y: np.ndarray, episode: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """float64[R + 1], squared correlation with its sign, of the data and of its resamples."""
    xx, xy, yy = (drawn @ np.bincount(episode, each, drawn.shape[1]) for each in (x * x, x * y, y * y))
    return np.sign(xy) * xy**2 / np.maximum(xx * yy, 1e-12)


def _interval(draws_of_it: np.ndarray) -> Interval:
    return Interval(float(draws_of_it[0]), *map(float, np.quantile(draws_of_it[1:], [0.025, 0.975])))


def _percent(share: Interval) -> str:
    return f"{100 * share.mean:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
