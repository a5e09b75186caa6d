"""Plots as inline SVG that take their text colour from the page, so that light and dark both read well."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

TEXT = "#010203"  # stands for the page's text colour; replaced by currentColor in the SVG
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#3b82c4", "#dd7a1d", "#2f9e6e", "#d6455d", "#8b6fd0", "#8a8f98"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GREY,
    "axes.titlesize": 11,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.22,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
STAGES = ("encode", "sample", "score", "select")


def styled(plot: Callable[..., str]) -> Callable[..., str]:
    """The plot drawn in the page's style, which no other user of matplotlib in this process gets to feel."""

    @functools.wraps(plot)
    def draw(*arguments: Any) -> str:
        with plt.rc_context(STYLE | {"svg.hashsalt": plot.__name__}):
            return plot(*arguments)

    return draw


@styled
def success_by_n(curves: Mapping[str, Sequence[Mapping[str, Any]]], base: Mapping[str, Any] | None) -> str:
    """Success against N for every selector that was tried at more than one N; the plain policy as a line."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    drawn = {name: points for name, points in curves.items() if len(points) > 1}
    for i, (name, points) in enumerate(drawn.items()):
        colour, n = COLOURS[i % len(COLOURS)], [point["candidates"] for point in points]
        low, high = zip(*(point["ci95"] for point in points), strict=True)
        axes.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(n, [point["success"] for point in points], "o-", color=colour, label=name.replace("_", " "))
    if base is not None:
        axes.axhline(base["success"], color=GREY, linestyle="--", label="plain policy")
    ticks = sorted({point["candidates"] for points in drawn.values() for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set(xlabel="candidates per decision N", ylabel="success", ylim=(-0.02, 1.02))
    axes.legend(loc="best")
    return svg(figure, "success by N")


@styled
def calibration(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Critic's value against the realised discounted return, in bins of equal count, with the diagonal."""
    figure, axes = plt.subplots(figsize=(4.6, 4.2))
    values = [v for arm in found.values() for key in ("predicted", "realised") for v in arm[key]]
    low, high = min([*values, 0.0]), max([*values, 1.0])
    axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1, label="perfect")
    for i, (name, arm) in enumerate(found.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(arm["predicted"], arm["realised"], "o-", color=colour, markersize=5, label=name.replace("_", " "))
    axes.set(xlabel="critic's value at the decision", ylabel="realised discounted return")
    axes.legend(loc="best")
    return svg(figure, "calibration")


@styled
def headroom(rows: Sequence[Mapping[str, Any]]) -> str:
    """Base, selector and oracle at the same decision points, per continuation, with intervals."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    parts = (("base", "ci95_base", GREY), ("selector", "ci95_selector", BLUE), ("oracle", "ci95_oracle", GREEN))
    for j, (name, interval, colour) in enumerate(parts):
        at = [i + (j - 1) * 0.26 for i in range(len(rows))]
        height = [row[name] for row in rows]
        axes.bar(at, height, 0.24, color=colour, alpha=0.85, label=_headroom_label(name, rows[0]))
        for x, row in zip(at, rows, strict=True):
            low, high = row.get(interval) or [None, None]
            if low is not None:
                axes.plot([x, x], [low, high], color=TEXT, linewidth=1.2)
            axes.text(x + 0.02, row[name] + 0.015, f"{100 * row[name]:.0f}\u00a0%", fontsize=9, ha="left")
    axes.set_xticks(range(len(rows)), [f"continued with the {row['continuation']} policy" for row in rows])
    axes.set(ylabel="success from the decision on", ylim=(0, 1.08), xlim=(-0.6, len(rows) - 0.4))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=3)
    return svg(figure, "headroom")


@styled
def latency(arms: Mapping[str, Mapping[str, float]]) -> str:
    """Stacked milliseconds per stage, one bar per arm."""
    names = list(arms)
    stages = [s for s in STAGES if any(s in arms[n] for n in names)]
    stages += sorted({stage for name in names for stage in arms[name]} - set(stages))
    figure, axes = plt.subplots(figsize=(6.4, 1.3 + 0.32 * len(names)))
    left = [0.0] * len(names)
    for stage, colour in zip(stages, COLOURS * 3, strict=False):
        width = [arms[name].get(stage, 0.0) for name in names]
        axes.barh(range(len(names)), width, 0.62, left=left, color=colour, label=stage)
        left = [a + b for a, b in zip(left, width, strict=True)]
    for i, total in enumerate(left):
        axes.text(total, i, f" {total:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="ms per decision (median)", xlim=(0, max(left) * 1.14 or 1))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=len(stages))
    return svg(figure, "latency")


@styled
def curves(panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> str:
    """Small multiples: panel title -> line name -> [[step, value], ...]."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = plt.figure(figsize=(3.9 * columns, 2.5 * rows))
    for i, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        for colour, (name, points) in zip(COLOURS * 4, lines.items(), strict=False):
            known = [(step, value) for step, value in points if value is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, linewidth=1.5, label=name)
        axes.set(title=title.replace("_", " "), xlabel="gradient step")
        if len(lines) > 1:
            axes.legend(fontsize=8)
    return svg(figure, "learning curves")


def _headroom_label(name: str, row: Mapping[str, Any]) -> str:
    names = {"base": "first candidate", "selector": row.get("arm", "selector").replace("_", " "), "oracle": "best"}
    return f"{names[name]} of {row['candidates']}" if name == "oracle" else names[name]


def svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element with ids of its own, scalable, in the page's text colour."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{title}"', svg, count=1)
    prefix = re.sub(r"\W+", "-", title)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r"(url\(#|href=\"#)", rf"\1{prefix}-", svg)
