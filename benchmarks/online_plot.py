"""Pictures of `bench_online`: success against control steps, an axis per algorithm, the offline start as a line.

python benchmarks/online_plot.py docs/results/online.json docs/images
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from robot_value.report_plots import BLUE, GREY, STYLE

COLUMNS = 4


def main() -> int:
    found, folder = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    for name, task in found["tasks"].items():
        draw(task, folder / f"online_{name}.png")
        print(folder / f"online_{name}.png")
    return 0


def draw(task: Mapping[str, Any], path: Path) -> None:
    """All curves, each in its own axis before the others in grey; what has not been run is not drawn."""
    rows = [row for row in task["rows"] if row["seeds"]]
    if not rows:
        return
    lines = -(-len(rows) // COLUMNS)
    with plt.rc_context(STYLE | {"text.color": "black", "axes.labelcolor": "black", "xtick.color": "black"}):
        figure, axes = plt.subplots(lines, COLUMNS, figsize=(11, 2.6 * lines), sharex=True, sharey=True, squeeze=False)
        for i, axis in enumerate(axes.flat):
            axis.set_visible(i < len(rows))
            if i < len(rows):
                _curve(axis, rows[i], rows)
        for axis in axes[:, 0]:
            axis.set_ylabel("success")
        for axis in axes[-1]:
            axis.set_xlabel("control steps")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _curve(axis: plt.Axes, row: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> None:
    for other in rows:
        axis.plot(*_xy(other), color=GREY, linewidth=0.6, alpha=0.5)
    steps, success = _xy(row)
    axis.plot(steps, success, "o-", color=BLUE, markersize=3)
    low, high = zip(*(point["ci95"] for point in row["curve"]), strict=True)
    axis.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0)
    axis.axhline(row["start"]["success"], color="black", linewidth=0.8, linestyle="--")  # the offline weights
    axis.set_ylim(0, 1.02)
    axis.set_title(f"{row['name']} ({len(row['seeds'])} seed{'s' * (len(row['seeds']) > 1)})")


def _xy(row: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    return [p["env_steps"] for p in row["curve"]], [p["success"] for p in row["curve"]]


if __name__ == "__main__":
    sys.exit(main())
