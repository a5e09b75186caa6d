"""Figures of policies.diagnose and counterfactual.diagnose: (title, inline SVG, caption) each."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from ..report_plots import BLUE, GREEN, GREY, ORANGE, TEXT, styled, svg
from . import counterfactual, policies
from .phases import Part

Drawing = tuple[str, str, str]  # title, svg, caption
OWN_OPINION = "The critic's own opinion of its own choices: a claim, not evidence."


def figures(found: policies.Diagnosis) -> list[Drawing]:
    """What can be drawn: without a critic there are no ranks, with one candidate neither scale nor groups."""
    n, share = found.candidates, found.coverage.share
    drawn: list[Drawing] = []
    if n > 1:
        drawn.append(
            (
                "Does the policy know what the log did?",
                coverage(found),
                f"Distance of the executed chunk to the nearest of {n} candidates, over the candidates' own distance "
                f"to their neighbours. {share.mean:.0%} of the chunks are covered; at least "
                f"{found.coverage.expected:.0%} are to be expected if this policy made the log.",
            )
        )
    if found.rank is not None:
        drawn.append(
            (
                "Rank of the executed chunk's value",
                rank(found.rank),
                "Flat if this policy made the log; high on the right, the critic prefers what the log did. The band "
                "holds 95 % of each bar if the truth is flat.",
            )
        )
    if n > 1:
        drawn.append(
            (
                "Where the policy hesitates",
                over_time(found),
                "Distance of two candidates, and share of decisions whose candidates form two groups; the dashed line "
                "is the share that one group gives by chance.",
            )
        )
    drawn.append(
        (
            "Action error by joint",
            errors(found),
            "Mean difference of a candidate and the log, in the joint's range, beside that of two candidates: what "
            "exceeds the policy's own spread is what it does not know.",
        )
    )
    drawn.append(("Action error by phase", errors_by_phase(found), "The same error in each phase, % of the range."))
    return drawn


def counterfactual_figures(found: counterfactual.Diagnosis) -> list[Drawing]:
    drawn = [
        (
            "What other arms would have done",
            arms(found),
            "How far from the plain policy's chunk, and how much better the main critic says that is, with 95 % "
            f"intervals over episodes. {OWN_OPINION}",
        )
    ]
    if len(found.arms) > 1:
        caption = "Mean distance of two arms' chunks, % of the action range; small squares choose alike."
        drawn.append(("Which arms choose alike", agreement(found), caption))
    return drawn


@styled
def coverage(found: policies.Diagnosis) -> str:
    """Histogram of nearest / neighbour on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = found.crowd.nearest / found.crowd.neighbour
    known = np.isfinite(ratio)
    ratio, covered = np.clip(ratio[known], 0.1, 100), found.crowd.covered[known] == 1
    edges = np.geomspace(min(0.5, ratio.min(initial=0.5)), max(4.0, ratio.max(initial=4.0)) * 1.001, 41)
    axes.hist([ratio[covered], ratio[~covered]], edges, stacked=True, color=[BLUE, ORANGE], label=["covered", "not"])
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if edges[0] <= tick <= edges[-1]]
    axes.set(xscale="log", xlabel="distance to the nearest candidate / candidates' own", ylabel="decisions")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend()
    return svg(figure, "coverage")


@styled
def rank(found: policies.Rank) -> str:
    figure, axes = plt.subplots(figsize=(6.4, 2.8))
    bins = len(found.counts)
    low, high = stats.binom.ppf([0.025, 0.975], found.decisions, 1 / bins) / found.decisions
    axes.axhspan(low, high, color=GREY, alpha=0.3, linewidth=0)
    axes.bar((np.arange(bins) + 0.5) / bins, found.counts / found.decisions, 0.92 / bins, color=BLUE)
    axes.set(xlim=(0, 1), xlabel="share of candidates that the critic values less", ylabel="share of decisions")
    return svg(figure, "rank of the logged value")


@styled
def over_time(found: policies.Diagnosis) -> str:
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9), sharex=True)
    _course(left, found.disagreement.by_time, BLUE)
    left.set(ylabel="disagreement, action ranges", xlabel="time in the episode", ylim=(0, None))
    _course(right, found.modes.by_time, GREEN)
    right.axhline(found.modes.alpha, color=GREY, linestyle="--", linewidth=1)
    right.set(ylabel="decisions with two groups", xlabel="time in the episode", ylim=(0, None))
    return svg(figure, "disagreement over time")


@styled
def errors(found: policies.Diagnosis) -> str:
    joints = found.error.axes
    figure, axes = plt.subplots(figsize=(6.4, 0.7 + 0.42 * len(joints)))
    place = np.arange(len(joints))
    for shift, colour, label in ((-0.2, BLUE, "error"), (0.2, GREY, "spread")):
        each = [getattr(joint, label) for joint in joints]
        mean, low, high = (
            np.array([getattr(i, key) / j.range for i, j in zip(each, joints, strict=True)])
            for key in ("mean", "low", "high")
        )
        name = "against the log" if label == "error" else "between candidates"
        axes.barh(place + shift, 100 * mean, 0.36, color=colour, label=name)
        axes.errorbar(100 * mean, place + shift, xerr=100 * np.abs([mean - low, high - mean]), fmt="none", ecolor=TEXT)
    axes.set(yticks=place, yticklabels=[joint.name for joint in joints], xlabel="% of the joint's range")
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    return svg(figure, "action error")


@styled
def errors_by_phase(found: policies.Diagnosis) -> str:
    joints = found.error.axes
    phases = [part.name for part in joints[0].by_phase]
    table = np.array([[100 * part.mean.mean / joint.range for part in joint.by_phase] for joint in joints])
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.3 * len(joints)))
    _heat(axes, table, [joint.name for joint in joints], phases)
    return svg(figure, "action error by phase")


@styled
def arms(found: counterfactual.Diagnosis) -> str:
    """A row per arm: moved, gain."""
    shown = sorted(found.arms, key=lambda arm: np.nan_to_num(arm.gain.mean))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 0.9 + 0.3 * len(shown)), sharey=True)
    for axes, key, colour, label in (
        (left, "moved", BLUE, "distance from the plain policy, ranges"),
        (right, "gain", ORANGE, "expected gain, value units"),
    ):
        each = [getattr(arm, key) for arm in shown]
        mean, low, high = (np.array([getattr(i, name) for i in each]) for name in ("mean", "low", "high"))
        axes.errorbar(mean, range(len(shown)), xerr=np.abs([mean - low, high - mean]), fmt="o", color=colour, ms=4)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set(xlabel=label, yticks=range(len(shown)), yticklabels=[arm.name.replace("_", " ") for arm in shown])
    return svg(figure, "what other arms would have done")


@styled
def agreement(found: counterfactual.Diagnosis) -> str:
    labels = [arm.name.replace("_", " ") for arm in found.arms]
    figure, axes = plt.subplots(figsize=(7.2, 1.6 + 0.32 * len(labels)))
    _heat(axes, 100 * found.apart, labels, labels)
    axes.set_xticks(range(len(labels)), labels, rotation=55, ha="right", rotation_mode="anchor")
    return svg(figure, "which arms choose alike")


def _course(axes: Axes, parts: Sequence[Part], colour: str) -> None:
    """Means with intervals against the tenth of the time."""
    time = [int(part.name.split()[0]) for part in parts]
    mean, low, high = (np.array([getattr(part.mean, key) for part in parts]) for key in ("mean", "low", "high"))
    axes.fill_between(time, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(time, mean, color=colour, marker="o", ms=3)
    axes.set(xticks=[0, 25, 50, 75, 100], xticklabels=["0 %", "", "50 %", "", "100 %"])


def _heat(axes: Axes, table: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Shades with their numbers; the darkest is the largest."""
    top = float(np.nanmax(table, initial=0.0)) or 1.0
    axes.grid(visible=False)
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            axes.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, color=BLUE, alpha=0.75 * value / top, linewidth=0))
            axes.text(j, i, f"{value:.1f}" if value < 9.95 else f"{value:.0f}", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
