"""`robot-value data inspect` and `data verify`: a store's summary as text and as a page, and its damage."""

from __future__ import annotations

import base64
import io
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from ..types import Episode
from .manifest import EpisodeDamaged, Problem, StoreError
from .store import EpisodeStore
from .summary import StoreSummary, summarize

__all__ = ["StoreSummary", "inspect_command", "summarize", "verify", "verify_command", "write_html"]

SHOWN = 4  # episodes whose trajectories and frames are drawn
SAMPLED = 500  # episodes whose actions are counted into histograms
MOMENTS = 6  # frames shown of an episode


def inspect_command(path: Path | str, html: Path | None = None, looked_at: int = 0) -> int:
    """Print the summary, and write the page where asked. Exit code 0; 1 where the store is damaged or unreadable.

    The images of `looked_at` episodes are searched for frozen and black frames.
    """
    try:
        store = EpisodeStore.open(path)
        summary = summarize(store, looked_at)
        print(summary.to_text())
        if html:
            write_html(store, html, summary)
            print(f"page written to {html}")
    except StoreError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if summary.damage else 0


def verify_command(path: Path | str) -> int:
    """One line per problem. Exit code 0: sound, 1: damaged or unreadable."""
    try:
        problems = verify(path)
    except StoreError as error:
        print(error, file=sys.stderr)
        return 1
    for problem in problems:
        print(problem)
    damaged = len({problem.episode for problem in problems})
    total = len(EpisodeStore.open(path))
    print(f"{path}: {damaged} of {total} episodes damaged" if problems else f"{path}: {total} episodes, all sound")
    return 1 if problems else 0


def verify(path: str | Path) -> list[Problem]:
    """All damage in the store at `path`, by SHA-256 of every byte and a full decode; empty where it is sound."""
    return EpisodeStore.open(path).verify()


def write_html(store: EpisodeStore, path: str | Path, summary: StoreSummary | None = None) -> None:
    """A self-contained page: the summary, distributions against limits, trajectories, frames."""
    from .. import report_html as page
    from . import plots

    summary = summary or summarize(store)
    body = [page.paragraph(summary.headline(), "headline"), page.definitions(summary.lines())]
    if summary.damage:
        body.append(page.section("Damage", *(page.paragraph(str(problem)) for problem in summary.damage)))
    if summary.findings:
        lines = "".join(page.paragraph(str(finding)) for finding in summary.findings)
        body.append(page.section("What would hurt training", f'<div class="warnings">{lines}</div>'))
    if summary.facts:
        shown = _chosen(store, summary)
        body += [
            page.section("Episodes", page.figure(plots.episodes(summary.facts))),
            page.section(
                "Actions against their limits",
                page.figure(plots.actions(summary.spec, _actions(store, summary)), "Dashed: the Spec's limits."),
            ),
            page.section("Trajectories", *(page.figure(plots.trajectory(name, e)) for name, e in shown.items())),
            page.section("Frames", *(_frames(name, episode) for name, episode in shown.items())),
        ]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page.page(f"Episodes in {store.path.name}", body))


def _chosen(store: EpisodeStore, summary: StoreSummary) -> dict[str, Episode]:
    """Half succeeded, half failed where there are both; the first of each kind."""
    good = [fact.name for fact in summary.facts if fact.success]
    other = [fact.name for fact in summary.facts if not fact.success]
    names = [*good[: max(SHOWN // 2, SHOWN - len(other))], *other[: max(SHOWN // 2, SHOWN - len(good))]]
    episodes = {}
    for name in names:
        try:
            episodes[name] = store.read(name, decisions=False)
        except EpisodeDamaged:  # its images are; `verify` reports them
            continue
    return episodes


def _actions(store: EpisodeStore, summary: StoreSummary) -> np.ndarray:
    """float32[steps, A] of at most SAMPLED episodes, evenly spread over the store."""
    stride = -(-len(summary.facts) // SAMPLED)
    names = islice((fact.name for fact in summary.facts), 0, None, stride)
    return np.concatenate([store.read(name, images=False, decisions=False).actions for name in names])


def _frames(name: str, episode: Episode) -> str:
    """A strip per camera, from the first frame to the last."""
    from .. import report_html as page

    at = np.linspace(0, len(episode.states) - 1, MOMENTS).astype(int)
    strips = [
        page.figure(_png(np.concatenate(image[at], axis=1)), f"{name}, {camera}, frames {', '.join(map(str, at))}")
        for camera, image in episode.images.items()
    ]
    return "".join(strips)


def _png(pixels: np.ndarray) -> str:
    """uint8[h, w, 3] as an <img> that carries its own data."""
    import matplotlib.image

    data = io.BytesIO()
    matplotlib.image.imsave(data, pixels, format="png")
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img style="width: 100%" alt="frames" src="data:image/png;base64,{text}">'
