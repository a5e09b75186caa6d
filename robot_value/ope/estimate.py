"""Everything a log can say about one policy: fitted Q always, the others where densities are known, and the support.

replayed = watch(store, steerer, every=2)          # the policy's chunks at the log's states, without moving
result = evaluate(replayed, Target(limit=64))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..episodes.findings import Finding
from ..replay.logged_robot import Log, LoggedRobot
from ..replay.replayed import Replayed
from ..replay.scribe import Moment, replay
from ..statistics import Interval
from ..steering.steerer import Steerer
from . import bound, doubly_robust, fqe, importance
from .chunks import Chunks, Target, chunks
from .support import Support, findings, support


@dataclass(frozen=True)
class Estimate:
    method: str  # fqe | importance | doubly_robust | bound | on_policy
    value: float  # NaN where refused
    low: float  # of the 95 % interval
    high: float
    episodes: int  # that it stands on
    effective: float = math.nan  # effective sample size, episodes
    note: str = ""  # why it was refused, or on what it depends

    def to_json(self) -> dict[str, Any]:
        numbers = {"value": self.value, "low": self.low, "high": self.high, "effective": self.effective}
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        return {"method": self.method, "episodes": self.episodes, "note": self.note} | finite


@dataclass(frozen=True)
class Evaluation:
    target: Target
    estimates: tuple[Estimate, ...]
    support: Support
    findings: tuple[Finding, ...]

    def estimate(self, method: str) -> Estimate:
        return next(each for each in self.estimates if each.method == method)

    def to_json(self) -> dict[str, Any]:
        return {
            "target": {"outcome": self.target.outcome, "gamma": self.target.gamma, "limit": self.target.limit},
            "estimates": [each.to_json() for each in self.estimates],
            "support": self.support.to_json(),
            "findings": [str(each) for each in self.findings],
        }


def evaluate(
    replayed: Replayed,
    target: Target,
    config: fqe.Config = fqe.Config(),
    log_ratio: np.ndarray | None = None,  # float64[D], log pi - log mu of the logged chunks; None: unknown
    estimated: bool = False,  # whether those densities are themselves estimates
) -> Evaluation:
    """Of the policy that `replayed` asked; its chosen chunks are what is valued."""
    found = chunks(replayed, target)
    fitted = fqe.fit(replayed, found, config)
    seen = support(replayed, fqe.features(replayed, 0), config.seed)
    estimates = [_estimate("fqe", fitted.interval, int(_known(found).sum()), note="extrapolates" * seen.missing)]
    if log_ratio is not None:
        estimates += _reweighted(found, fitted, np.asarray(log_ratio, float), estimated)
    return Evaluation(target, tuple(estimates), seen, tuple(findings(replayed, seen)))


def on_policy(replayed: Replayed) -> Estimate:
    """Success of the policy that made the log: counted, not estimated."""
    known = replayed.success[np.isfinite(replayed.success)]
    return _estimate("on_policy", bound.on_policy(int(known.sum()), len(known)), len(known), effective=len(known))


def _reweighted(found: Chunks, fitted: fqe.Fitted, log_ratio: np.ndarray, estimated: bool) -> list[Estimate]:
    whole = importance.complete(found)
    n, weight = int(whole.sum()), importance.weights(found, log_ratio)[whole][:, -1]
    effective = importance.effective(weight) if n else 0.0
    note = "densities are kernel estimates" if estimated else ""
    if effective < importance.LEAST:
        refusal = f"effective sample size {effective:.1f} of {n} episodes, at least {importance.LEAST:g} needed"
        nothing = Interval(math.nan, math.nan, math.nan)
        return [_estimate(m, nothing, n, effective, refusal) for m in ("importance", "doubly_robust")]
    q, v = fitted.unseen()
    estimates = [
        _estimate("importance", importance.weighted(found, log_ratio), n, effective, note),
        _estimate("doubly_robust", doubly_robust.weighted(found, log_ratio, q, v), n, effective, note),
    ]
    if found.target.outcome == "success" and not estimated:
        limits = bound.clipped(weight, found.returns[whole])
        estimates.append(_estimate("bound", limits, n, effective))
    return estimates


def _estimate(method: str, interval: Interval, episodes: int, effective: float = math.nan, note: str = "") -> Estimate:
    return Estimate(method, interval.mean, interval.low, interval.high, episodes, effective, note)


def _known(found: Chunks) -> np.ndarray:
    """bool[E]: anything of the episode is used."""
    return np.bincount(found.episode[found.usable], minlength=len(found.first)) > 0


@dataclass(frozen=True)
class Seen:
    """An Onlooker that keeps what the policy saw, as the vector it decides by: images and language included."""

    policy: Any

    def look(self, moment: Moment) -> dict[str, np.ndarray]:
        """features float32[B, F]"""
        context = self.policy.encode(moment.observation)
        value = getattr(context, "value", None)
        found = moment.observation.state if value is None else value.cpu().numpy()
        return {"features": found.reshape(len(found), -1)}


def watch(
    log: Log,
    steerer: Steerer,
    every: int | None = None,  # control steps between decisions; k must be a multiple. None: k
    names: Sequence[str] | None = None,
    batch_size: int = 50,
    progress: bool = False,
) -> Replayed:
    """The steerer's chunks at every so many steps of the log: more often than it would decide, more to fit on."""
    every = every or steerer.execute
    if steerer.execute % every:
        raise ValueError(f"every: expected a part of the {steerer.execute} steps that are executed, got {every}")
    robot = LoggedRobot(log, names, batch_size, steerer.policy.spec.n_obs_steps, every)
    try:
        return replay(robot, steerer, onlookers=(Seen(steerer.policy),), progress=progress)
    finally:
        robot.close()
