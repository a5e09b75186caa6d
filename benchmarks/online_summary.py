"""From the cells' results to curves: success against control steps per algorithm, where it began, its dip, its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robot_value.statistics import bootstrap, paired_difference

Cells = Sequence[Mapping[str, Any]]  # result.json of cells of one task
GOAL, DIP = 0.95, 0.10  # success that counts as solved; how far below its start an algorithm should never fall


def summarize(cells: Cells, algorithms: Sequence[str], budget: int) -> dict[str, Any]:
    """A row per algorithm in the order given; `fell` names those of the better half that fell more than DIP."""
    rows = [_row(name, [c for c in cells if c["algorithm"] == name], budget) for name in algorithms]
    rows = [row for row in rows if row["seeds"] or row["failed"]]
    done = sorted((row for row in rows if row["seeds"]), key=lambda row: -row["final"]["success"])
    better = done[: (len(done) + 1) // 2]
    return {"rows": rows, "fell": [row["name"] for row in better if row["dip"] < -DIP]}


def _row(name: str, cells: Cells, budget: int) -> dict[str, Any]:
    done = sorted((c for c in cells if c["status"] == "done"), key=lambda c: c["seed"])
    failed = [{key: c[key] for key in ("seed", "error", "where")} for c in cells if c["status"] == "failed"]
    row = {"name": name, "seeds": [c["seed"] for c in done], "failed": failed}
    return row | (_figures(done, budget) if done else {})


def _figures(done: Cells, budget: int) -> dict[str, Any]:
    """Figures of R training seeds on the same S evaluation seeds."""
    within = [[e for e in c["evaluations"] if e["env_steps"] <= budget] or c["evaluations"][:1] for c in done]
    start = np.array([c["start"] for c in done], float)  # [R, S]
    final = np.array([evaluations[-1]["success"] for evaluations in within], float)
    curve = [_point(0, start)]
    for i in range(min(map(len, within))):  # the i-th evaluation, where every training seed has it
        steps = float(np.mean([evaluations[i]["env_steps"] for evaluations in within]))
        curve.append(_point(steps, np.array([evaluations[i]["success"] for evaluations in within], float)))
    gain = paired_difference(final, start, training=len(done) > 1)
    solved = [point["env_steps"] for point in curve if point["success"] >= GOAL]
    learning = sum(sum(c["learning_seconds"]) for c in done)
    return {
        "plain": _point(0, np.array([c["plain"] for c in done], float)),  # the policy alone
        "start": curve[0],
        "final": _point(float(np.mean([evaluations[-1]["env_steps"] for evaluations in within])), final),
        "gain": {"mean": gain.mean, "ci95": gain.ci95},
        "dip": min(point["success"] for point in curve) - curve[0]["success"],  # of the mean over seeds; 0: never below
        "solved_at": solved[0] if solved else None,  # control steps of the first evaluation at GOAL
        "curve": curve,
        "wall_seconds": float(np.mean([c["wall_seconds"] for c in done])),
        "updates_per_second": sum(c["updates"] for c in done) / learning if learning else None,
    }


def _point(env_steps: float, success: np.ndarray) -> dict[str, Any]:
    """success [R, S]; the interval resamples evaluation seeds, and training seeds where there are several."""
    interval = bootstrap(success, training=len(success) > 1)
    return {"env_steps": env_steps, "success": interval.mean, "ci95": interval.ci95, "n": int(success.size)}
