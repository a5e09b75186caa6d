"""Learning from an arm that works by itself: a round is the next episodes that its recorder appends to the store.

    recorder ──► store ──► rounds, in the order of the store ──► checkpoints, version.json ──► steering node

Everything else is as beside a simulated robot (learning.py): while round r is recorded the learner learns from those
before; it waits where it is ahead, and catches up round by round where it is behind. What it learns is a function of
the seed and of the episodes in their order, whenever they came and however often the learner was killed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..episodes.store import EpisodeStore
from ..labelers import terminal_success
from ..training import Interrupted
from ..types import HUMAN, Episode, Spec
from .acting import Acting, Played, Round

REWARDS = ("success", "recorded")


@dataclass(frozen=True)
class Follow:
    store: str = ""  # episode store that an arm's recorder appends to; empty: a simulated robot works
    # what an episode pays: success: 1 with the step that ends a success, else 0 (an operator's verdict is all that most
    # arms have); recorded: what the reward topic said
    rewards: str = "success"
    poll: float = 1.0  # s between two looks at the store

    def __post_init__(self) -> None:
        if self.rewards not in REWARDS:
            raise ValueError(f"rewards: expected one of {', '.join(REWARDS)}, got {self.rewards!r}")
        if not self.poll > 0:
            raise ValueError(f"poll: expected a time above 0 s, got {self.poll}")

    def rewarded(self, episode: Episode) -> Episode:
        """The episode with what it pays. Of one that was stopped without a verdict nobody says that it succeeded."""
        if self.rewards == "recorded":
            return episode
        return terminal_success.Config(unknown="failure").build().label("", episode).on(episode)


class Follower:
    """Actors (backends.py) who are not ours to command: they work, and what they have recorded comes."""

    def __init__(self, follow: Follow, spec: Spec, known: Iterable[str], stop: Sequence[int]) -> None:
        """`known`: episodes of rounds that are over. `stop` gets a signal's number when the run is to end."""
        self.follow, self.spec, self._stop = follow, spec, stop
        self._last = max(known, default="")  # names go up, in the order of appending
        self._closed, self._thread = threading.Event(), ThreadPoolExecutor(1, "follower")

    def submit_round(self, acting: Acting, round: Round) -> Future[Played]:
        return self._thread.submit(self._wait, len(round.seeds))

    def close(self) -> None:
        self._closed.set()
        self._thread.shutdown()

    def _wait(self, wanted: int) -> Played:
        """Raises Interrupted: a round of an arm may take an hour. And SpecMismatch, before it has taken that hour."""
        if self._store() is None:
            tqdm.write(f"{self.follow.store}: no episode store yet; waiting for the recorder to make it")
        while len(names := self._arrived()) < wanted:
            if self._stop:
                tqdm.write("stopped while the arm works; the same command continues")
                raise Interrupted(128 + self._stop[0])
            if self._closed.wait(self.follow.poll):
                raise CancelledError
        self._last = names[wanted - 1]
        return _played(EpisodeStore.open(self.follow.store), names[:wanted])

    def _arrived(self) -> list[str]:
        store = self._store()
        return [] if store is None else [name for name in store.names() if name > self._last]

    def _store(self) -> EpisodeStore | None:
        path = Path(self.follow.store)
        if not (path / "zarr.json").exists():
            return None
        store = EpisodeStore.open(path)
        self.spec.check(store.spec, f"the store {path}")
        return store


def _played(store: EpisodeStore, names: Sequence[str]) -> Played:
    """One episode in memory at a time."""
    rows = []
    for name in names:
        episode = store.read(name, images=False, decisions=False)
        human = 0 if episode.source is None else int((episode.source == HUMAN).sum())
        rows.append((bool(episode.success), len(episode), human))
    return Played(tuple(names), *zip(*rows, strict=True))
