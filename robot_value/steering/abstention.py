"""Learned abstention: how confident must the critic be before it may act? Decided on paired validation episodes.

Every threshold is really played on the seeds that the plain policy was played on. Where both are equally good, the D
episodes that only one of them solved are fair coin flips, so that the exact (Clopper-Pearson) lower bound of the share
w / D that steering won says whether it helps, and few such episodes say nothing:

    gain = (w - l) / n        bound = D / n * (2 * Beta^-1(alpha / m; w, l + 1) - 1)        D = w + l, m thresholds

The critic acts only if a bound is above 0. A critic that helps at no threshold is let through with chance <= alpha
(Bonferroni; Holm would let it through in exactly the same cases).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..episodes.durable import replace_file

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


@dataclass(frozen=True)
class Choice:
    threshold: float  # NEVER where no gain was proven
    alpha: float  # chance of letting a critic act that does not help
    trials: tuple[Trial, ...]  # by threshold, rising

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


def choose(base: np.ndarray, steered: Mapping[float, np.ndarray], alpha: float = 0.05) -> Choice:
    """Among thresholds whose bound is above 0 the one with the largest gain (ties: the rarer use), else NEVER.

    `base` and each of `steered` (threshold -> success) are bool[S] on the same validation seeds.
    """
    if not steered or not 0 < alpha < 0.5:
        raise ValueError(f"expected thresholds and 0 < alpha < 0.5, got {len(steered)} thresholds and alpha={alpha}")
    trials = tuple(_trial(t, base, steered[t], alpha / len(steered)) for t in sorted(steered))
    proven = [trial for trial in trials if trial.bound > 0]
    best = max(proven, key=lambda trial: (trial.gain, trial.threshold), default=None)
    return Choice(best.threshold if best else NEVER, alpha, trials)


def lower_bound(wins: int, losses: int, n: int, level: float) -> float:
    """Of the gain, missed with chance <= level; exact given how many episodes differ. 0 where none does."""
    share = float(stats.beta.ppf(level, wins, losses + 1)) if wins else 0.0
    return (2 * share * (wins + losses) - (wins + losses)) / n


@dataclass(frozen=True)
class Setup:
    """What a threshold was calibrated for: any other part, and its gain is unknown."""

    policy: str  # component and checkpoint hash
    critic: str  # component and checkpoint hash
    selector: str  # with its options
    proposer: str  # with its options
    guide: str  # with its options
    n: int  # candidates per decision
    execute: int  # steps until the next decision

    @classmethod
    def of(cls, steerer: Any, critic: Any) -> Setup:
        """Of a Steerer that is about to use `critic`."""
        parts = {name: _describe(getattr(steerer, name, None)) for name in ("policy", "selector", "proposer", "guide")}
        return cls(critic=_describe(critic), n=steerer.n, execute=steerer.execute, **parts)

    def check(self, other: Setup) -> None:
        lines = [
            f"{item.name}: expected {getattr(self, item.name)!r}, got {getattr(other, item.name)!r}"
            for item in fields(self)
            if getattr(self, item.name) != getattr(other, item.name)
        ]
        if lines:
            raise ValueError(
                f"the gate was calibrated for something else: {'; '.join(lines)}; run `robot-value calibrate` again"
            )


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
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.pop("format_version", None) if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(f"{path}: expected a calibration of format_version {FORMAT_VERSION}, got {version}")
        try:
            trials = tuple(_number(Trial(**trial)) for trial in data["choice"].pop("trials"))
            choice = _number(Choice(**data.pop("choice"), trials=trials))
            lists = {name: tuple(data.pop(name)) for name in ("abstained", "seeds", "quantiles")}
            return cls(choice=choice, setup=Setup(**data.pop("setup")), **lists, **data)
        except (KeyError, TypeError, AttributeError) as error:
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


def _describe(part: Any) -> str:
    """Checkpoint, or a component with its options (a dataclass shows them)."""
    if part is None:
        return "none"
    plain = repr(part) if is_dataclass(part) else type(part).__name__
    return getattr(part, "version", plain)


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
