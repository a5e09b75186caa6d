"""The Markdown table of what `bench_online` found: per task and algorithm where it began, where it went, its dip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from online_summary import DIP, GOAL


def table(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "| task | algorithm | training seeds | flow alone | offline start | last evaluation | minus the start | dip | "
        f"control steps to {GOAL:.0%} | minutes per seed |",
        "|---" * 10 + "|",
    ]
    lines += [_row(task, row) for task, each in found["tasks"].items() for row in each["rows"]]
    protocol, machine = found["protocol"], found["machine"]
    said = (
        f"{protocol['evaluate_episodes']} episodes per evaluation and training seed, environment seeds from "
        f"{protocol['evaluate_seed']} on, the same each time; {protocol['budget']} control steps, "
        f"{protocol['ratio']:g} gradient steps each; `{found['command']}`; {machine['cores']} cores, "
        f"GPU: {machine['gpu'] or 'none'}."
    )
    fell = {task: each["fell"] for task, each in found["tasks"].items() if each["fell"]}
    names = "; ".join(f"{task}: {', '.join(names)}" for task, names in fell.items()) or "none"
    return [*lines, "", f"{said} Of the better half fell more than {DIP:.0%} below their start: {names}."]


def _row(task: str, row: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, row["seeds"]))
    if failed := row["failed"]:
        seeds += f" ({len(failed)} failed: {failed[0]['error']})"
    if not row["seeds"]:
        return f"| {task} | {row['name']} | {seeds.strip()} |" + " |" * 7
    gain, solved = row["gain"], row["solved_at"]
    cells = [
        *(_rate(row[name]) for name in ("plain", "start", "final")),
        f"{gain['mean']:+.2f} [{gain['ci95'][0]:+.2f}, {gain['ci95'][1]:+.2f}]",
        f"{row['dip']:+.2f}",
        "not" if solved is None else f"{solved:.0f}",
        f"{row['wall_seconds'] / 60:.0f}",
    ]
    return f"| {task} | {row['name']} | {seeds} | {' | '.join(cells)} |"


def _rate(point: Mapping[str, Any]) -> str:
    return f"{point['success']:.2f} [{point['ci95'][0]:.2f}, {point['ci95'][1]:.2f}]"
