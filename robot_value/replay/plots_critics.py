"""Figures of what was found out about critics: (title, svg, caption) each, for any page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..report_plots import BLUE, COLOURS, GREY, ORANGE, RED, plt, styled, svg
from ..statistics import Interval
from .compare_critics import MEASURES, Difference
from .critics import Diagnosis
from .outliers import Outliers
from .prediction import Prediction
from .sensitivity import Sensitivity

Figures = list[tuple[str, str, str]]  # title, svg, caption
WIDE, SQUARE = (6.4, 3.6), (4.6, 4.2)


def of_diagnoses(found: Sequence[Diagnosis]) -> Figures:
    """All critics in each figure."""
    eces = ", ".join(f"{d.critic} {d.calibration.ece.mean:.3f}" for d in found)
    bound = found[0].calibration.lower_bounds
    figures = [
        (
            "Calibration",
            _calibration(found),
            f"Bins of equal count, bars are 95 % intervals over episodes. ECE: {eces}. In {100 * bound:.0f} % of the "
            "decisions time ran out later, so that the return is a lower bound.",
        ),
        ("Order in time", _order(found), "Rank correlation of value and time inside each episode (VOC)."),
        (
            "Temporal differences",
            _residuals(found),
            "Share of decisions by residual; a consistent critic is narrow around 0.",
        ),
    ]
    if spread := [d for d in found if d.spread.diagram is not None]:
        ranks = ", ".join(f"{d.critic} {d.spread.rank.mean:.2f}" for d in spread)
        caption = f"Mean absolute error in bins of equal count of the ensemble's spread. Rank correlation: {ranks}."
        figures.append(("Spread against error", _spread(spread), caption))
    return figures


def of_predictions(found: Sequence[Prediction]) -> Figures:
    counts = f"{found[0].successes} successes and {found[0].failures} failures"
    figures = [
        (
            "Success prediction",
            _prediction(found),
            f"AUROC of the value for success, {counts}, 95 % intervals over episodes; 0.5 is a coin. Left: by share of "
            "the episode, known only afterwards. Right: at fixed steps, among episodes that still run.",
        )
    ]
    for each in found:
        if (alarms := each.alarms) is not None:
            caption = (
                f"Values below the band alarm. Cross-fitted: {_percent(alarms.false_alarms)} of the successes alarm "
                f"(asked for: at most {100 * alarms.alpha:.0f} %), {_percent(alarms.detected)} of the failures do."
            )
            figures.append((f"Failure alarm: {each.critic}", _alarm(each), caption))
    return figures


def of_sensitivities(found: Sequence[Sequence[Sensitivity]]) -> Figures:
    caption = "How far a foreign input moves the value, in standard deviations of the value; 0: the critic ignores it."
    return [("Sensitivity", _sensitivity(found), caption)] if any(found) else []


def of_comparison(found: Sequence[Difference]) -> Figures:
    caption = "Differences on the same episodes with 95 % intervals; right of 0 is in favour of the one named first."
    return [("Critics compared", _comparison(found), caption)] if found else []


def of_outliers(found: Outliers) -> Figures:
    caption = (
        f"Episodes by their strangest decision, 1: the conformal threshold. {len(found.flagged)} of {len(found.p)} are "
        f"flagged; about {100 * found.alpha:g} % would be if all were alike."
    )
    return [("Unlike the others", _outliers(found), caption)] if found.excess.any() else []


@styled
def _calibration(found: Sequence[Diagnosis]) -> str:
    figure, axes = plt.subplots(figsize=SQUARE)
    diagrams = [d.calibration.diagram for d in found]
    every = np.concatenate([v for d in diagrams for v in (d.predicted, d.realised)])
    ends = [min(0.0, every.min()), max(1.0, every.max())]
    axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="perfect")
    for d, diagram, colour in zip(found, diagrams, COLOURS * 3, strict=False):
        axes.vlines(diagram.predicted, diagram.low, diagram.high, color=colour, alpha=0.5)
        axes.plot(diagram.predicted, diagram.realised, "o-", color=colour, markersize=4, label=d.critic)
    axes.set(xlabel="value of the executed chunk", ylabel="realised discounted return")
    axes.legend()
    return svg(figure, "replay calibration")


@styled
def _order(found: Sequence[Diagnosis]) -> str:
    figure, axes = plt.subplots(figsize=(6.4, 1.3 + 0.45 * len(found)))
    for i, d in enumerate(found):
        for at, colour, label in ((d.order.success, BLUE, "successes"), (d.order.failure, RED, "failures")):
            axes.plot([at.low, at.high], [i, i], color=colour, linewidth=2)
            axes.plot(at.mean, i, "o", color=colour, label=label if not i else None)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(found)), [d.critic for d in found])
    axes.set(xlabel="rank correlation of value and time", xlim=(-1.03, 1.03), ylim=(len(found) - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncols=2)
    return svg(figure, "value order")


@styled
def _residuals(found: Sequence[Diagnosis]) -> str:
    figure, axes = plt.subplots(figsize=WIDE)
    known = [d.residuals.residual[np.isfinite(d.residuals.residual)] for d in found]
    reach = max((float(np.quantile(np.abs(r), 0.99)) for r in known if len(r)), default=1.0) or 1.0
    edges = np.linspace(-reach, reach, 42)
    for d, residual, colour in zip(found, known, COLOURS * 3, strict=False):
        share = np.histogram(np.clip(residual, -reach, reach), edges)[0] / max(len(residual), 1)
        axes.stairs(share, edges, color=colour, label=d.critic, linewidth=1.5)
    axes.set(xlabel="residual, the outermost bins hold all beyond", ylabel="share of decisions")
    axes.legend()
    return svg(figure, "temporal differences")


@styled
def _spread(found: Sequence[Diagnosis]) -> str:
    figure, axes = plt.subplots(figsize=WIDE)
    for d, colour in zip(found, COLOURS * 3, strict=False):
        diagram = d.spread.diagram
        axes.fill_between(diagram.predicted, diagram.low, diagram.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(diagram.predicted, diagram.realised, "o-", color=colour, markersize=4, label=d.critic)
    axes.set(xlabel="spread of the ensemble", ylabel="mean absolute error", ylim=(0, None))
    axes.legend()
    return svg(figure, "spread against error")


@styled
def _prediction(found: Sequence[Prediction]) -> str:
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.4), sharey=True)
    for p, colour in zip(found, COLOURS * 3, strict=False):
        for axes, series in zip(panels, (p.relative, p.fixed), strict=True):
            time = [at.time for at in series]
            low, high = [at.auroc.low for at in series], [at.auroc.high for at in series]
            axes.fill_between(time, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(time, [at.auroc.mean for at in series], "o-", markersize=4, color=colour, label=p.critic)
    for axes, label in zip(panels, ("share of the episode", "control step"), strict=True):
        axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        axes.set(xlabel=label, ylim=(0, 1.02))
    panels[0].set(ylabel="AUROC")
    panels[0].legend(loc="lower right")
    return svg(figure, "success prediction")


@styled
def _alarm(found: Prediction) -> str:
    figure, axes = plt.subplots(figsize=WIDE)
    alarms, t = found.alarms, np.arange(len(found.alarms.floor))
    axes.fill_between(t, alarms.floor, alarms.normal, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(t, alarms.normal, color=BLUE, label="mean of successes")
    axes.plot(t, alarms.floor, color=RED, label="alarm below")
    axes.set(xlabel="decision of the episode", ylabel="value")
    axes.legend()
    return svg(figure, f"failure alarm {found.critic}")


@styled
def _sensitivity(found: Sequence[Sequence[Sensitivity]]) -> str:
    inputs = list(dict.fromkeys(each.input for critic in found for each in critic))
    figure, axes = plt.subplots(figsize=(6.4, 1.2 + 0.32 * len(inputs)))
    height = 0.8 / len(found)
    for j, (critic, colour) in enumerate(zip(found, COLOURS * 3, strict=False)):
        at = [inputs.index(each.input) + (j - (len(found) - 1) / 2) * height for each in critic]
        axes.barh(at, [e.relative.mean for e in critic], 0.9 * height, color=colour, alpha=0.85, label=critic[0].critic)
        axes.hlines(at, [e.relative.low for e in critic], [e.relative.high for e in critic], color=GREY)
    axes.set_yticks(range(len(inputs)), inputs)
    axes.invert_yaxis()
    axes.set(xlabel="mean |change of value| / std of value")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=len(found))
    return svg(figure, "sensitivity")


@styled
def _comparison(found: Sequence[Difference]) -> str:
    pairs = list(dict.fromkeys((d.critic, d.against) for d in found))
    figure, axes = plt.subplots(figsize=(6.4, 1.2 + 0.22 * len(found)))
    for d in found:
        sign = 1 if MEASURES[d.measure] == "higher" else -1
        pair = pairs.index((d.critic, d.against))
        y, colour = (
            list(MEASURES).index(d.measure) + (pair - (len(pairs) - 1) / 2) * 0.7 / len(pairs),
            COLOURS[pair % 6],
        )
        axes.plot([sign * d.difference.low, sign * d.difference.high], [y, y], color=colour, linewidth=2)
        label = f"{d.critic} over {d.against}" if d.measure == next(iter(MEASURES)) else None
        axes.plot(sign * d.difference.mean, y, "o", color=colour, label=label)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(
        range(len(MEASURES)),
        [f"{name} (lower is better)" if way == "lower" else name for name, way in MEASURES.items()],
    )
    axes.invert_yaxis()
    axes.set(xlabel="advantage")
    figure.legend(loc="outside upper center", ncols=min(3, len(pairs)))
    return svg(figure, "critics compared")


@styled
def _outliers(found: Outliers) -> str:
    figure, axes = plt.subplots(figsize=WIDE)
    excess = np.sort(found.excess)[::-1]
    beyond = excess > 1
    axes.plot(np.flatnonzero(~beyond), excess[~beyond], ".", color=BLUE, markersize=4)
    axes.plot(np.flatnonzero(beyond), excess[beyond], "o", color=ORANGE, markersize=5)
    axes.axhline(1, color=RED, linestyle="--", linewidth=1)
    axes.set(xlabel="episodes, strangest first", ylabel="strangest decision / threshold", ylim=(0, None))
    return svg(figure, "outliers")


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
