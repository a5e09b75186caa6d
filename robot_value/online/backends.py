"""Who plays a round's episodes: one process of this machine, several, or Ray actors. Whoever dies is replaced.

The waves of a round (what is simulated at once) are dealt to the actors. A lone actor appends to the run's store.
Several append to stores of their own beside it, for a store has one writer; when they are done the run's store adopts
their episodes. So an episode that is on disk is lost by nobody's death, and any number of actors plays the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

from .. import beside
from ..playing import waves
from ..workers import Team, hiring
from .acting import Acting, Played, Round, play, recorded

Wave = tuple[int, ...]  # environment seeds


class Actors(Protocol):
    def submit_round(self, acting: Acting, round: Round) -> Future[Played]:
        """What the store lacks of the round is played; the future knows all of it, in the order of the seeds."""
        ...


@dataclass(frozen=True)
class Local:
    """One actor, an Executor that somebody else looks after."""

    executor: Executor

    def submit_round(self, acting: Acting, round: Round) -> Future[Played]:
        return self.executor.submit(play, acting, round)


@contextmanager
def actors(name: str, number: int) -> Iterator[Actors]:
    """`number` processes of this machine ("local") or of a Ray cluster ("ray"); at the end they finish and go."""
    with hiring(name, number) as hire:
        crew = Crew(hire, number)
        try:
            yield crew
        finally:
            crew.close()


class Crew:
    """A Team of actors, and the thread that deals them their waves and gathers what came of them."""

    def __init__(self, hire: Callable[[], Executor], number: int) -> None:
        self._number, self._team = number, Team(hire, number, _recorded)
        self._thread = ThreadPoolExecutor(1, "actors")

    def submit_round(self, acting: Acting, round: Round) -> Future[Played]:
        return self._thread.submit(self._play, *_absolute(acting, round))

    def close(self) -> None:
        """After the round that is being played."""
        for each in (self._thread, self._team):
            each.shutdown(wait=True, cancel_futures=True)

    def _play(self, acting: Acting, round: Round) -> Played:
        gather(acting.store, round)  # what a run that was killed left
        parts = [tuple(chain(*part)) for part in deal(_left(acting, round), self._number)]
        asked = [
            self._team.submit(play, _own(acting, k, self._number), replace(round, seeds=part))
            for k, part in enumerate(parts)
        ]
        wait(asked)
        gather(acting.store, round)
        played = [each.result() for each in asked]
        if acting.store is None:
            rows = {}
            for part, each in zip(parts, played, strict=True):
                rows |= dict(zip(part, zip(each.success, each.steps, strict=True), strict=True))
            return Played((), *zip(*(rows[seed] for seed in round.seeds), strict=True))
        there = recorded(acting.store, round)  # an episode that broke at its reset is not
        return play(acting, replace(round, seeds=tuple(seed for seed in round.seeds if seed in there)))


def _recorded(acting: Acting, round: Round) -> int:
    """Episodes that a part of a round has brought so far."""
    return len(recorded(acting.store, round))


def deal(left: Sequence[Wave], number: int) -> list[Sequence[Wave]]:
    """To at most `number` actors, as evenly as whole waves can be."""
    return [left[k::number] for k in range(min(number, len(left)))]


def gather(path: Path | None, round: Round) -> None:
    """The run's store adopts what actors have recorded of the round in stores of their own."""
    if path is not None:
        beside.gather(path, lambda store: {seed: each.name for seed, each in recorded(store, round).items()})


def _left(acting: Acting, round: Round) -> list[Wave]:
    known = recorded(acting.store, round).keys()
    return [wave for wave in waves(round.seeds, acting.site.batch_size) if not known >= set(wave)]


def _own(acting: Acting, k: int, number: int) -> Acting:
    """Where actor k appends."""
    if acting.store is None or number == 1:
        return acting
    return replace(acting, store=beside.beside(acting.store, str(k)), display=None if k else acting.display)


def _absolute(acting: Acting, round: Round) -> tuple[Acting, Round]:
    """An actor may have another working folder."""
    version, store, supervisor = round.version, acting.store, acting.supervisor
    critic = None if version.critic is None else version.critic.absolute()
    version = replace(version, policy=version.policy.absolute(), critic=critic)
    if supervisor is not None and supervisor.judge:
        supervisor = replace(supervisor, judge=str(Path(supervisor.judge).absolute()))
    store = None if store is None else store.absolute()
    return replace(acting, store=store, supervisor=supervisor), replace(round, version=version)
