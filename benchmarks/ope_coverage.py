"""How often the intervals of `robot_value.ope` hold the truth, on toys whose values are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ope_toys import DRIFT, LADDER, Toy, drift, ladder

from robot_value.ope import bound, doubly_robust, fqe, importance
from robot_value.ope.chunks import Chunks, Target, chunks
from robot_value.statistics import Interval, wilson

EPISODES = 200
FITTED = fqe.Config(members=8, hidden=(32,), steps=400, batch_size=128, lr=3e-3, tau=0.05)
TOYS: dict[str, tuple[Callable[[int], Toy], Target]] = {
    "ladder": (lambda seed: ladder(EPISODES, (0.5, 0.6), (0.7, 0.7), seed), LADDER),
    "drift": (lambda seed: drift(EPISODES, 0.0, 0.2, seed), DRIFT),
}


def coverage(name: str, logs: int, fitted_logs: int) -> dict[str, Any]:
    """Method -> share of logs whose interval holds the truth, with its own interval, and the mean width."""
    make, target = TOYS[name]
    found: dict[str, list[tuple[Interval, float]]] = {}
    for seed in range(logs):
        toy = make(seed)
        for method, interval in intervals(toy, chunks(toy.replayed, target), seed < fitted_logs).items():
            found.setdefault(method, []).append((interval, toy.truth))
    return {method: summary(each) for method, each in found.items()}


def intervals(toy: Toy, found: Chunks, fit: bool) -> dict[str, Interval]:
    nothing = np.zeros(len(toy.log_ratio))  # Q = V = 0: importance sampling with a control variate that knows nothing
    methods = {"importance": importance.weighted(found, toy.log_ratio, 500)}
    if found.target.outcome == "success":
        methods["bound"] = bound.clipped(importance.weights(found, toy.log_ratio)[:, -1], found.returns)
    if fit:
        fitted = fqe.fit(toy.replayed, found, FITTED)
        methods["fqe"], (q, v) = fitted.interval, fitted.unseen()
        methods["doubly_robust"] = doubly_robust.weighted(found, toy.log_ratio, q, v, 500)
    return methods | {"doubly_robust_ignorant": doubly_robust.weighted(found, toy.log_ratio, nothing, nothing, 500)}


def summary(each: list[tuple[Interval, float]]) -> dict[str, Any]:
    held = [interval.low <= truth <= interval.high for interval, truth in each]
    rate = wilson(sum(held), len(held))
    width = float(np.mean([interval.high - interval.low for interval, _ in each]))
    error = float(np.mean([interval.mean - truth for interval, truth in each]))
    return {"coverage": rate.mean, "ci95": rate.ci95, "logs": len(held), "width": width, "mean_error": error}
