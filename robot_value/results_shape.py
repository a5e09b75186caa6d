"""What results.json must hold, so that pages, documentation and checks can read it: one line per problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FORMAT_VERSION = 1
NUMBER, NONE = (int, float), type(None)
PROVENANCE = {
    "format_version": int,
    "command": str,
    "git": (str, NONE),
    "versions": dict,
    "machine": dict,
    "wall_seconds": NUMBER,
}
TABLE = {
    "task": str,
    "policy": str,
    "critic": (str, NONE),
    "seeds": dict,
    "recipe": dict,
    "arms": dict,
    "difference": dict,
    "headroom": (dict, NONE),
    "latency_ms": dict,
}
SEEDS = {"training": list, "validation": list, "test": list}
RECIPE = {"selector": str, "n": int, "chosen_on": str}
ARM = {"success": NUMBER, "n": int, "ci95": list}
DIFFERENCE = {
    "arm": str,
    "against": str,
    "mean": NUMBER,
    "ci95": list,
    "p_mcnemar": NUMBER,
    "gate": str,
    "abstained": NUMBER,
}
HEADROOM = {
    "n_episodes": int,
    "candidates": int,
    "points": int,
    "rollouts": int,
    "continuation": str,
    "pass_at_n": NUMBER,
    "base": NUMBER,
    "oracle": NUMBER,
    "ci95_oracle": list,
    "selector": NUMBER,
    "recovered": (*NUMBER, NONE),
    "ci95_recovered": list,
    "rank_correlation": (*NUMBER, NONE),
    "regret": NUMBER,
}
CONTROLS = ("base", "random", "medoid", "mean", "argmin", "shuffled_critic")


class InvalidResults(ValueError):
    """results.json does not have the shape that pages and checks read."""


def validate_results(results: Mapping[str, Any]) -> None:
    """Raise InvalidResults with one line that lists everything wrong; a table of rows is checked row by row."""
    problems = typed(results, "results", PROVENANCE)
    if not problems and results["format_version"] > FORMAT_VERSION:
        got = results["format_version"]
        problems = [f"format_version: expected at most {FORMAT_VERSION}, got {got}; upgrade robot_value"]
    if "rows" in results:
        for i, row in enumerate(results["rows"]):
            problems += _table(row, f"rows[{i}]")
    else:
        problems += _table(results, "results")
    problems += not_finite(results, "results")
    if problems:
        raise InvalidResults("results.json: " + "; ".join(problems))


def missing_controls(results: Mapping[str, Any]) -> list[str]:
    """Controls that a table should carry and this one lacks."""
    return [name for name in CONTROLS if name not in results["arms"]]


def _table(row: Any, where: str) -> list[str]:
    problems = typed(row, where, TABLE)
    if problems:
        return problems
    problems = [*typed(row["seeds"], f"{where}.seeds", SEEDS), *typed(row["recipe"], f"{where}.recipe", RECIPE)]
    problems += _overlap(row["seeds"], where)
    for name, arm in row["arms"].items():
        problems += typed(arm, f"{where}.arms.{name}", ARM) or _rate(arm, f"{where}.arms.{name}")
    difference = row["difference"]
    problems += typed(difference, f"{where}.difference", DIFFERENCE)
    for role in ("arm", "against"):
        if difference.get(role) not in row["arms"]:
            problems.append(f"{where}.difference.{role}: expected one of the arms, got {difference.get(role)!r}")
    if row["headroom"] is not None:
        problems += typed(row["headroom"], f"{where}.headroom", HEADROOM)
    return problems


def typed(data: Any, where: str, fields: Mapping[str, Any]) -> list[str]:
    if not isinstance(data, Mapping):
        return [f"{where}: expected an object, got {type(data).__name__}"]
    problems = []
    for key, kinds in fields.items():
        if key not in data:
            problems.append(f"{where}.{key}: expected {_names(kinds)}, got nothing")
        elif not isinstance(data[key], kinds) or isinstance(data[key], bool):
            problems.append(f"{where}.{key}: expected {_names(kinds)}, got {data[key]!r:.60}")
    return problems


def _rate(arm: Mapping[str, Any], where: str) -> list[str]:
    ends = arm["ci95"]
    if len(ends) == 2 and None not in ends and 0 <= ends[0] <= arm["success"] <= ends[1] <= 1:
        return []
    return [f"{where}: expected 0 <= ci95[0] <= success <= ci95[1] <= 1, got success {arm['success']} and ci95 {ends}"]


def _overlap(seeds: Mapping[str, Any], where: str) -> list[str]:
    validation, test = seeds.get("validation"), seeds.get("test")
    if validation and test and validation[0] <= test[-1] and test[0] <= validation[-1]:
        return [f"{where}.seeds: expected test seeds that chose nothing, got validation {validation} and test {test}"]
    return []


def not_finite(value: Any, where: str) -> list[str]:
    if isinstance(value, Mapping):
        return [problem for key, item in value.items() for problem in not_finite(item, f"{where}.{key}")]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [problem for i, item in enumerate(value) for problem in not_finite(item, f"{where}[{i}]")]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{where}: expected a finite number or null, got {value}"]
    return []


def _names(kinds: Any) -> str:
    return " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
