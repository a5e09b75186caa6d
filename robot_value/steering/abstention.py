"""Learned abstention: how confident must the critic be before it may act? Decided on paired validation episodes.

Every threshold is really played on the seeds that the plain policy was played on. Where both are equally good, the D
episodes that only one of them solved are fair coin flips, so that the exact (Clopper-Pearson) lower bound of the share
w / D that steering won says whether it helps, and few such episodes say nothing:

    gain = (w - l) / n        bound = D / n * (2 * Beta^-1(alpha / m; w, l + 1) - 1)        D = w + l, m thresholds

The critic may act where the expected gain is above 0 and the bound above -margin: it is expected to help, and what it
may cost at worst is bounded. A critic that costs more than the margin is let through with chance <= alpha (Bonferroni
over the thresholds). With margin 0 the gain itself must be proven.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..episodes.durable import replace_file
from ..untrusted import check_version, read_json
from .setups import Setup

FORMAT_VERSION = 1
ALWAYS, NEVER = -math.inf, math.inf  # the ends of all thresholds


@dataclass(frozen=True)
class Trial:
    """Validation episodes in which the critic acted where its confidence was above `threshold`."""

    threshold: float  # in standard deviations of the candidates' values
    wins: int  # episodes that only steering solved
    losses: int  # episodes that only the plain policy solved
    n: int  # episodes
    bound: float  # one-sided lower confidence bound of the gain in success

    @property
    def gain(self) -> float:
        return (self.wins - self.losses) / self.n

    @property
    def error(self) -> float:
        """Standard error of the gain."""
        return math.sqrt(max(0.0, self.wins + self.losses - self.n * self.gain**2)) / self.n


@dataclass(frozen=True)
class Choice:
    threshold: float  # NEVER where no threshold may act
    alpha: float  # chance of letting a critic act that costs more than the margin
    trials: tuple[Trial, ...]  # by threshold, rising
    margin: float = 0.0  # of success, that the critic may cost at worst

    @property
    def trial(self) -> Trial | None:
        """Of the chosen threshold; None: never."""
        return next((trial for trial in self.trials if trial.threshold == self.threshold), None)

    @property
    def gain(self) -> float:
        """Mean gain in success that is expected of the gate; never acting gains nothing."""
        return self.trial.gain if self.trial else 0.0


def thresholds(confidences: np.ndarray, quantiles: Sequence[float] = (0.5,)) -> list[float]:
    """ALWAYS and quantiles of the confidences seen in shadow, rising. NEVER needs no play: it is the plain policy."""
    known = np.asarray(confidences, float)
    known = known[np.isfinite(known)]
    found = np.quantile(known, quantiles).tolist() if len(known) else []
    return sorted({ALWAYS, *found})


def choose(base: np.ndarray, steered: Mapping[float, np.ndarray], alpha: float = 0.05, margin: float = 0.05) -> Choice:
    """Among thresholds that may act the lowest whose gain is within a standard error of the largest, else NEVER.

    A higher threshold gives up gains, so it must be better by more than chance (one-standard-error rule).
    `base` and each of `steered` (threshold -> success) are bool[S] on the same validation seeds.
    """
    if not steered or not 0 < alpha < 0.5 or not 0 <= margin < 1:
        got = f"{len(steered)} thresholds, alpha={alpha} and margin={margin}"
        raise ValueError(f"expected thresholds, 0 < alpha < 0.5 and 0 <= margin < 1, got {got}")
    trials = tuple(_trial(t, base, steered[t], alpha / len(steered)) for t in sorted(steered))
    able = [trial for trial in trials if trial.gain > 0 and trial.bound > -margin]
    best = max(able, key=lambda trial: trial.gain, default=None)
    chosen = next((trial for trial in able if trial.gain >= best.gain - best.error), None)
    return Choice(chosen.threshold if chosen else NEVER, alpha, trials, margin)


def lower_bound(wins: int, losses: int, n: int, level: float) -> float:
    """Of the gain, missed with chance <= level; exact given how many episodes differ. 0 where none does."""
    share = float(stats.beta.ppf(level, wins, losses + 1)) if wins else 0.0
    return (2 * share * (wins + losses) - (wins + losses)) / n


@dataclass(frozen=True)
class Calibration:
    """A choice and all it rests on: what the gate loads, and what a reader needs to trust it."""

    choice: Choice
    base_success: float  # of the plain policy on the validation seeds
    abstained: tuple[float, ...]  # per trial, share of decisions left to the plain policy
    setup: Setup
    seeds: tuple[int, ...]  # validation seeds; never to be tested on
    quantiles: tuple[float, ...]  # of the shadow confidences that were tried beside ALWAYS

    def save(self, path: Path) -> Path:
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
        return path

    @classmethod
    def load(cls, path: Path) -> Calibration:
        data = check_version(read_json(path), FORMAT_VERSION, f"{path}: a calibration")
        try:
            trials = tuple(_number(Trial(**trial)) for trial in data["choice"].pop("trials"))
            choice = _number(Choice(**data.pop("choice"), trials=trials))
            lists = {name: tuple(data.pop(name)) for name in ("abstained", "seeds", "quantiles")}
            return cls(choice=choice, setup=Setup(**data.pop("setup")), **lists, **data)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path}: not a calibration ({error}); write it with `robot-value calibrate`") from error


def _trial(threshold: float, base: np.ndarray, steered: np.ndarray, level: float) -> Trial:
    base, steered = np.asarray(base, bool), np.asarray(steered, bool)
    if base.ndim != 1 or base.shape != steered.shape or not base.size:
        raise ValueError(
            f"threshold {threshold}: expected success bool[S] on the seeds of the plain policy's, "
            f"got {list(steered.shape)} against {list(base.shape)}; play both on the same seeds"
        )
    wins, losses = int((steered & ~base).sum()), int((~steered & base).sum())
    return Trial(threshold, wins, losses, base.size, lower_bound(wins, losses, base.size, level))


def _finite(value: Any) -> Any:
    """JSON has no infinities: they become "inf" and "-inf", which float() reads."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _number(part: Any) -> Any:
    """The same with its threshold as a float again."""
    return replace(part, threshold=float(part.threshold))
