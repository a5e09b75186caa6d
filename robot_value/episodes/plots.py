"""The plots of a store's page: episodes, actions against limits, trajectories. Inline SVG, see report_plots.py."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from ..report_plots import BLUE, COLOURS, GREEN, GREY, RED, styled, svg
from ..types import Episode, Spec
from .summary import Facts

WINDOW = 20  # episodes in the running success rate
CURVES = 8  # state dimensions drawn of one episode: those that move most


@styled
def episodes(facts: Sequence[Facts]) -> str:
    """Lengths and returns by outcome, and success over the order of recording."""
    figure, (lengths, totals, success) = plt.subplots(1, 3, figsize=(11, 3.2))
    groups = [("succeeded", GREEN, True), ("failed", RED, False), ("unknown", GREY, None)]
    present = [(label, colour, [f for f in facts if f.success is kind]) for label, colour, kind in groups]
    present = [group for group in present if group[2]]
    colours, labels = [colour for _, colour, _ in present], [label for label, _, _ in present]
    for axes, key in ((lengths, "steps"), (totals, "total")):
        axes.hist([[getattr(f, key) for f in found] for _, _, found in present], 25, stacked=True, color=colours)
        axes.set_ylabel("episodes")
    lengths.set_xlabel("length (steps)")
    totals.set_xlabel("return (sum of rewards)")
    lengths.legend(labels, fontsize=9)
    known = np.array([f.success for f in facts if f.success is not None], float)
    if len(known):
        recent = [known[max(0, end - WINDOW) : end].mean() for end in range(1, len(known) + 1)]
        success.plot(np.arange(1, len(known) + 1), recent, color=BLUE)
        success.axhline(known.mean(), color=GREY, linestyle="--")
        success.set_xlabel(f"episode (mean of the last {WINDOW})")
    success.set(ylabel="success", ylim=(-0.03, 1.03))
    return svg(figure, "episodes")


@styled
def actions(spec: Spec, executed: np.ndarray) -> str:
    """A histogram per action dimension of executed float32[steps, A], with the Spec's limits."""
    columns = min(4, spec.action_dim)
    rows = -(-spec.action_dim // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2.8 * columns, 2.1 * rows), squeeze=False)
    names = [(part, part.name if part.stop - part.start == 1 else f"{part.name}[{d}]")
             for part in spec.parts for d in range(part.stop - part.start)]  # fmt: skip
    for axes in grid.flat[spec.action_dim :]:
        axes.set_visible(False)
    for d, (axes, (part, name)) in enumerate(zip(grid.flat, names, strict=False)):
        low, high = spec.low[d], spec.high[d]
        margin = 0.08 * (high - low)
        outside = np.mean((executed[:, d] < low) | (executed[:, d] > high))
        inside = np.clip(executed[:, d], low - margin, high + margin)
        axes.hist(inside, np.linspace(low - margin, high + margin, 41), color=BLUE)
        for limit in (low, high):
            axes.axvline(limit, color=RED, linestyle="--", linewidth=1)
        axes.set(title=f"{name} [{part.unit}]", yticks=[])
        if outside > 1e-4:
            axes.set_xlabel(f"{100 * outside:.1f} % outside")
    return svg(figure, "actions")


@styled
def trajectory(name: str, episode: Episode) -> str:
    """The state dimensions that move most, the actions, and the rewards of one episode over time."""
    spec = episode.spec
    figure, (state, action, reward) = plt.subplots(1, 3, figsize=(11, 3.2))
    time = np.arange(len(episode.states)) * spec.dt  # s
    scale = np.ptp(episode.states, axis=0)
    moving = np.sort(np.argsort(-scale, kind="stable")[:CURVES])
    change = episode.states - episode.states[0]
    for i, d in enumerate(moving):
        line = "-" if i < len(COLOURS) else "--"
        state.plot(time, change[:, d], line, color=COLOURS[i % len(COLOURS)], linewidth=1, label=spec.state_names[d])
    state.legend(fontsize=7)
    for d in range(spec.action_dim):
        action.step(time[: len(episode)], episode.actions[:, d], linewidth=1, color=COLOURS[d % len(COLOURS)])
    reward.step(time[: len(episode)], episode.rewards, color=GREEN)
    state.set_ylabel(f"change of state ({len(moving)} of {spec.state_dim} dims)")
    action.set_ylabel("action")
    reward.set_ylabel("reward")
    outcome = {True: "succeeded", False: "failed", None: "outcome unknown"}[episode.success]
    state.set_title(f"{name}: {outcome}", loc="left")
    for axes in (state, action, reward):
        axes.set_xlabel("time (s)")
    return svg(figure, f"trajectory {name}")
