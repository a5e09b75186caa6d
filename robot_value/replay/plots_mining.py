"""Figures of mining.mine: (title, inline SVG, caption) each."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from ..report_plots import BLUE, GREY, ORANGE, RED, styled, svg
from .mining import Mined
from .onsets import Onsets
from .redundancy import Redundancy

COLOURS = {"worse": RED, "better": BLUE, "action": ORANGE}


def figures(mined: Mined) -> list[tuple[str, str, str]]:
    """What can be drawn of what was found."""
    drawn = []
    if mined.onsets and mined.onsets.onsets:
        found, of = len(mined.onsets.onsets), mined.onsets.failures
        caption = (
            f"Time from which on the value never came back to that of the successes, in {found} of {of} failures; a "
            f"success has such a time with chance {mined.onsets.alpha:.0%} at most."
        )
        drawn.append(("When failures began", failure_onsets(mined.onsets), caption))
    if mined.worse or mined.action:
        caption = (
            "The largest surprises of each kind, in standard deviations of what was to be expected: outcomes against "
            "the critic, actions against the policy's candidates."
        )
        drawn.append(("Moments that nobody expected", surprises(mined), caption))
    if len(mined.redundancy.diverse) > 1:
        repeated = len(mined.redundancy.repeated)
        caption = (
            "Distance of the least represented episode to the nearest kept one, if the most diverse are kept first, in "
            f"standard deviations of states and actions. {repeated} episodes repeat another one."
        )
        drawn.append(("How many episodes show all of it", coverage(mined.redundancy), caption))
    return drawn


@styled
def failure_onsets(found: Onsets) -> str:
    """Histogram of onset times."""
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    axes.hist([mark.seconds for mark in found.onsets], bins=20, color=RED, alpha=0.85)
    axes.set(xlabel="s since the episode began", ylabel="failures")
    return svg(figure, "failure onsets")


@styled
def surprises(mined: Mined) -> str:
    """Time in the episode against the size of the surprise."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    for kind, colour in COLOURS.items():
        marks = getattr(mined, kind)
        axes.plot([m.seconds for m in marks], [m.score for m in marks], "o", color=colour, markersize=5, label=kind)
    axes.set(xlabel="s since the episode began", ylabel="surprise")
    axes.set_ylim(bottom=0)
    axes.legend()
    return svg(figure, "surprises")


@styled
def coverage(found: Redundancy) -> str:
    """Radius against the number of kept episodes."""
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    axes.plot(np.arange(1, len(found.radius) + 1), found.radius, color=BLUE)
    axes.axhline(np.nanmedian(found.nearest), color=GREY, linestyle="--", label="median distance to the nearest")
    axes.set(xlabel="episodes kept", ylabel="distance")
    axes.set_ylim(bottom=0)
    axes.legend()
    return svg(figure, "diverse episodes")
