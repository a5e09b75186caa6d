"""Figures of ope.estimate.evaluate: (title, inline SVG, caption) each."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt

from ..ope.estimate import Evaluation
from ..ope.support import LEVEL, MISSING, Support
from ..report_plots import BLUE, GREY, RED, styled, svg

Drawing = tuple[str, str, str]  # title, svg, caption


def figures(found: Evaluation) -> list[Drawing]:
    refused = "; ".join(f"{each.method}: {each.note}" for each in found.estimates if math.isnan(each.value))
    share = found.support.share
    return [
        (
            "Estimated value of the policy",
            estimates(found),
            "95 % intervals: how another log of this kind would have differed, not what no such log shows."
            + (f" Refused: {refused}." if refused else ""),
        ),
        (
            "Does the log know what the policy would do?",
            distances(found.support),
            f"Distance of the policy's chunks to the nearest logged one in like states; {share.mean:.0%} "
            f"[{share.low:.0%}, {share.high:.0%}] are as near as {LEVEL:.0%} of the logged chunks are to one another. "
            f"Below {MISSING:.0%} the estimate is an extrapolation.",
        ),
    ]


@styled
def estimates(found: Evaluation) -> str:
    """A line per estimate that was given, red where it extrapolates."""
    given = [each for each in found.estimates if not math.isnan(each.value)]
    figure, axes = plt.subplots(figsize=(6.4, 1.0 + 0.5 * len(given)))
    for y, each in enumerate(given):
        colour = RED if each.note == "extrapolates" else BLUE
        axes.plot([each.low, each.high], [y, y], color=colour)
        axes.plot(each.value, y, "o", color=colour)
    axes.set_yticks(range(len(given)), [each.method.replace("_", " ") for each in given])
    axes.set(xlabel=found.target.outcome, ylim=(len(given) - 0.5, -0.5))
    if found.target.outcome == "success":
        axes.set_xlim(-0.02, 1.02)
    return svg(figure, "estimated value")


@styled
def distances(support: Support) -> str:
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    axes.hist(support.distance, bins=40, color=BLUE)
    axes.axvline(support.radius, color=GREY, linestyle="--", label="near")
    axes.set(xlabel="distance, share of the action's range", ylabel="decisions")
    axes.legend(loc="best")
    return svg(figure, "distance to the log")
