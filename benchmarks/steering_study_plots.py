"""Pictures of `bench_steering`: success by N, and what was gained of what there was to gain.

python benchmarks/steering_study_plots.py docs/results/steering.json docs/images
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

ORANGE = "#c8641e"
WAYS = {"recipe": (BLUE, "recipe"), "argmax": (ORANGE, "argmax")}


def main() -> int:
    found, folder = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    for name, draw in (("steering_by_n", by_n), ("steering_gain", gain)):
        with plt.rc_context(STYLE):
            figure = draw(found)
            figure.savefig(folder / f"{name}.png", dpi=110)
            plt.close(figure)
            print(folder / f"{name}.png")
    return 0


def by_n(found: Mapping[str, Any]) -> plt.Figure:
    rows = [row for row in found["rows"] if "success_by_n" in row]
    columns = max(1, (len(rows) + 1) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(3 * columns, 5.4), sharex=True, sharey=True, squeeze=False)
    for i, axis in enumerate(axes.T.flat):  # the two policies of a task below each other
        axis.set_visible(i < len(rows))
        if i < len(rows):
            _curves(axis, rows[i])
    axes[0, 0].legend(frameon=False, fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("success")
    for axis in axes[-1]:
        axis.set_xlabel("candidates N")
    return figure


def _curves(axis: plt.Axes, row: Mapping[str, Any]) -> None:
    for way, (colour, label) in WAYS.items():
        points = row["success_by_n"][way]
        n = [point["candidates"] for point in points]
        axis.plot(n, [point["success"] for point in points], "o-", color=colour, label=label, markersize=3)
        low, high = zip(*(point["ci95"] for point in points), strict=True)
        axis.fill_between(n, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(n, [str(each) for each in n])
    axis.set_ylim(0, 1)
    axis.set_title(row["pair"], fontsize=10)


def gain(found: Mapping[str, Any]) -> plt.Figure:
    """Per pair and critic: the recipe's gain, ungated and behind the gate, with the margin of harm."""
    rows = found["do_no_harm"]["rows"]
    figure, axis = plt.subplots(figsize=(8.2, 0.34 * len(rows) + 1.4))
    for y, row in enumerate(reversed(rows)):
        for shift, arm, colour in ((0.17, "ungated", GREY), (-0.17, "gated", BLUE)):
            if not row[arm]:
                continue
            low, high = (100 * x for x in row[arm]["ci95"])
            axis.plot([low, high], [y + shift] * 2, color=colour, linewidth=2)
            axis.plot(100 * row[arm]["mean"], y + shift, "o", color=colour, markersize=4)
    names = [f"{row['pair']}, {LABELS[row['critic']]}" for row in reversed(rows)]
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.axvline(-100 * found["do_no_harm"]["margin"], color="#b02020", linewidth=1, linestyle="--")
    axis.set_xlabel("success minus the plain policy's, points\ngrey: ungated, blue: behind the gate, red: the margin")
    return figure


LABELS = {"main": "its critic", "shuffled": "shuffled", "other": "other task"}

if __name__ == "__main__":
    sys.exit(main())
