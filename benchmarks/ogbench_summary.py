"""From the cells' results to the table: success per task, mean over tasks, gain over the plain policy, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ogbench_protocol import PUBLISHED_ORDER

from robot_value.statistics import bootstrap, paired_difference, wilson

Cells = Sequence[Mapping[str, Any]]  # result.json of cells
BASE = "bc"


def summarize(cells: Cells, algorithms: Sequence[str], tasks: Sequence[int]) -> dict[str, Any]:
    """A row per algorithm in the order given; what is not finished yet is missing, what failed says why."""
    rows = [_row(name, cells, tasks) for name in algorithms]
    return {"rows": [row for row in rows if row["tasks"] or row["failed"]], "order": ordering(rows)}


def outcomes(cells: Cells, algorithm: str, task: int) -> np.ndarray:
    """float64[R, S]: success per training seed and test seed; NaN where the simulation was unstable."""
    found = sorted((c for c in cells if _is(c, algorithm, task) and c["status"] == "done"), key=lambda c: c["seed"])
    return np.array([np.where(c["unstable"], np.nan, c["success"]) for c in found], float)


def ordering(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Published and measured order of the algorithms that both have; None where one of them has no figure yet."""
    mean = {row["name"]: row["mean"]["success"] for row in rows if row["mean"]}
    shared = [ours for _, ours in PUBLISHED_ORDER.values() if ours in mean]
    measured = sorted(shared, key=lambda name: -mean[name])
    agree = shared == measured if len(shared) > 1 else None
    return {"published": shared, "measured": measured, "agree": agree, "mean": {name: mean[name] for name in shared}}


def _row(name: str, cells: Cells, tasks: Sequence[int]) -> dict[str, Any]:
    mine = [cell for cell in cells if cell["algorithm"] == name]
    done = {task: outcomes(cells, name, task) for task in tasks}
    done = {task: found for task, found in done.items() if found.size}
    finished = [cell for cell in mine if cell["status"] == "done"]
    failed = [{key: c[key] for key in ("task", "seed", "error", "where")} for c in mine if c["status"] == "failed"]
    return {
        "name": name,
        "tasks": {str(task): _rate(found) for task, found in done.items()},
        "mean": _mean(done) if len(done) == len(tasks) else None,
        "minus_base": _difference(name, cells, tasks),
        "failed": failed,
        "candidates": {str(cell["task"]): cell["candidates"] for cell in finished},
        "wall_seconds": float(np.mean([cell["wall_seconds"] for cell in mine])) if mine else None,
        "seconds": {
            part: float(np.mean([cell["seconds"][part] for cell in finished]))
            for part in (finished[0]["seconds"] if finished else ())
        },
    }


def _rate(found: np.ndarray) -> dict[str, Any]:
    stable = found[np.isfinite(found)]
    rate = wilson(int(stable.sum()), stable.size)
    return {"success": rate.mean, "ci95": rate.ci95, "n": int(stable.size), "training_seeds": len(found)}


def _mean(done: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """Over tasks of equal weight; the interval resamples test seeds, whose noise is shared by tasks and seeds."""
    stacked = np.concatenate(list(done.values()))
    stable = np.isfinite(stacked).all(0)
    interval = bootstrap(stacked[:, stable])
    return {"success": interval.mean, "ci95": interval.ci95, "n": int(stacked[:, stable].size)}


def _difference(name: str, cells: Cells, tasks: Sequence[int]) -> dict[str, Any] | None:
    """Paired with the plain policy of the same training seed, task and test seed, where both have played."""
    both = [(_by_seed(cells, name, task), _by_seed(cells, BASE, task)) for task in tasks]
    pairs = [(mine[seed], base[seed]) for mine, base in both for seed in mine.keys() & base.keys()]
    if name == BASE or not pairs:
        return None
    arm, base = (np.stack(side) for side in zip(*pairs, strict=True))
    stable = np.isfinite(arm).all(0) & np.isfinite(base).all(0)
    gap = paired_difference(arm[:, stable], base[:, stable])
    return {"mean": gap.mean, "ci95": gap.ci95, "cells": len(pairs)}


def _by_seed(cells: Cells, algorithm: str, task: int) -> dict[int, np.ndarray]:
    seeds = sorted(c["seed"] for c in cells if _is(c, algorithm, task) and c["status"] == "done")
    return dict(zip(seeds, outcomes(cells, algorithm, task), strict=True))


def _is(cell: Mapping[str, Any], algorithm: str, task: int) -> bool:
    return cell["algorithm"] == algorithm and cell["task"] == task
