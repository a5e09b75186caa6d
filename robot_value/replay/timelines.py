"""Test episodes of a study as a page of timelines: every decision as it was made. No model is asked again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..types import Episode
from .decided import Kept, decided
from .page import write_page
from .report import Report


def write_timelines(folder: Path, played: Mapping[str, Mapping[int, Episode]], title: str, gamma: float) -> Path:
    """`played`: arm -> seed -> episode, with decisions. Returns the page."""
    log = Kept(
        {f"{arm}, seed {seed}": episode for arm, each in played.items() for seed, episode in sorted(each.items())}
    )
    return write_page(
        folder,
        Report(
            decided(log, gamma),
            log,
            title=f"{title}: test episodes",
            headline="What was seen, proposed, scored and executed at every decision of these episodes.",
            lines=[f"The first test seeds, whatever they show, under the arms {' and '.join(played)}."],
        ),
    )
