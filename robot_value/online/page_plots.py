"""The two plots of an online run's page, as SVG in the page's own colours."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from ..report_plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, styled, svg
from ..statistics import wilson
from .books import PASSED, PLAIN, WORSE, Progress, Trial


@styled
def success(progress: Progress) -> str:
    """Success of versions on trial against environment steps, the offline start as a line."""
    figure, axes = plt.subplots(figsize=(6.8, 3.9))
    played = np.cumsum([sum(each.steps) for each in progress.rounds])
    own = [np.mean(each.success) if each.success else np.nan for each in progress.rounds]
    axes.plot(played, own, ".", color=GREY, markersize=5, alpha=0.7, label="rounds")
    passed = [trial for trial in progress.evaluations if trial.verdict == PASSED]
    worse = [trial for trial in progress.evaluations if trial.verdict == WORSE]
    start = next((trial for trial in progress.evaluations if trial.verdict != PLAIN), None)
    tried = [trial for trial in progress.evaluations if trial.verdict != PLAIN]
    if start is not None:
        level = np.mean(start.success)
        axes.axhline(level, color=BLUE, linestyle="--", linewidth=1, label=f"offline start, {100 * level:.0f} %")
        steps, rates = [t.env_steps for t in tried], np.array([np.mean(t.success) for t in tried])
        axes.fill_between(steps, rates, level, where=rates < level, interpolate=True, color=RED, alpha=0.15, lw=0)
    for plain in (trial for trial in progress.evaluations if trial.verdict == PLAIN):
        axes.axhline(np.mean(plain.success), color=GREY, linestyle=":", label="plain policy")
    _points(axes, passed, BLUE, "o-", "passed")
    _points(axes, worse, RED, "x", "rolled back")
    axes.set(xlabel="environment steps", ylabel="success", ylim=(-0.03, 1.03))
    figure.legend(loc="outside upper center", ncols=5, fontsize=9)
    return svg(figure, "success against environment steps")


def _points(axes: plt.Axes, trials: list[Trial], colour: str, style: str, label: str) -> None:
    if not trials:
        return
    rates = [wilson(sum(trial.success), len(trial.success)) for trial in trials]
    steps, means = [trial.env_steps for trial in trials], [rate.mean for rate in rates]
    errors = [[r.mean - r.low for r in rates], [r.high - r.mean for r in rates]]
    axes.errorbar(steps, means, errors, fmt=style, color=colour, capsize=2, linewidth=1.5, elinewidth=1, label=label)


@styled
def time_spent(progress: Progress) -> str:
    """Seconds of the robot's side and of the learner's, side by side: what both did in the same wall time."""
    seconds = [each.seconds for each in progress.rounds]
    trials = sum(trial.seconds for trial in progress.evaluations)
    wall = sum(each.wall for each in seconds) + trials
    acting, learning = sum(each.acting for each in seconds), sum(each.learning for each in seconds)
    books, waiting = sum(each.bookkeeping for each in seconds), sum(each.waiting for each in seconds)
    lanes = {
        "robot": [
            ("working", acting, GREEN),
            ("on trial", trials, PURPLE),
            ("waiting for the learner", wall - acting - trials, GREY),
        ],
        "learner": [
            ("learning", learning, BLUE),
            ("on trial", trials, PURPLE),
            ("waiting for the robot", waiting, GREY),
            ("keeping books", books, ORANGE),
        ],
    }
    figure, axes = plt.subplots(figsize=(6.8, 1.9))
    for row, parts in enumerate(lanes.values()):
        left = 0.0
        for name, width, colour in parts:
            known = name in axes.get_legend_handles_labels()[1]
            axes.barh(row, width, 0.6, left=left, color=colour, alpha=0.85, label=None if known else name)
            left += width
    axes.set_yticks(range(len(lanes)), list(lanes))
    axes.invert_yaxis()
    axes.set(xlabel="seconds", xlim=(0, wall or 1))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return svg(figure, "time")
