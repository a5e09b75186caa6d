"""The Markdown table of what `bench_interventions` found: the expert's steps until the robot works alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def interventions(found: Mapping[str, Any]) -> list[str]:
    target = f"{found['target']:.0%}"
    lines = [
        f"| method | training seeds | first evaluation | expert steps to {target} | in all | last evaluation |",
        "|---" * 6 + "|",
    ]
    for name in found["methods"]:
        cells = [row for row in found["rows"] if row["method"] == name]
        columns = (
            [str(row["seed"]) for row in cells],
            [_rate(row["evaluations"][0]) for row in cells],
            ["not" if row["expert_steps"] is None else str(row["expert_steps"]) for row in cells],
            [str(row["expert_steps_in_all"]) for row in cells],
            [_rate(row["evaluations"][-1]) for row in cells],
        )
        lines.append(f"| `{name}` | {' | '.join(', '.join(column) for column in columns)} |")
    pairs = "; ".join(f"`{pair['arm']}`, seed {pair['seed']}: {_fewer(pair)}" for pair in found["pairs"]) or "none yet"
    p = found["protocol"]
    said = (
        f"{p['episodes']} supervised episodes, {p['evaluate_episodes']} per evaluation, {p['ratio']:g} gradient steps"
    )
    return [*lines, "", f"{found['task']}; {said} per control step. Fewer expert steps, paired by seed: {pairs}."]


def _rate(evaluation: Mapping[str, Any]) -> str:
    low, high = evaluation["ci95"]
    return f"{evaluation['success']:.2f} [{low:.2f}, {high:.2f}]"


def _fewer(pair: Mapping[str, Any]) -> str:
    said = {"unknown": "neither got there", "neither": "as many"}
    return said.get(pair["fewer"], f"`{pair['fewer']}`")
