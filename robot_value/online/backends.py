"""Who plays a round's episodes: one process of this machine, several, or Ray actors. Whoever dies is replaced.

The waves of a round (what is simulated at once) are dealt to the actors. A lone actor appends to the run's store.
Several append to stores of their own beside it, for a store has one writer; when they are done the run's store adopts
their episodes. So an episode that is on disk is lost by nobody's death, and any number of actors plays the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

from .. import beside
from ..playing import waves
from ..workers import PATIENCE, hiring
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
    """Actors, each an Executor of one process, and the thread that deals, waits, replaces and gathers."""

    def __init__(self, hire: Callable[[], Executor], number: int) -> None:
        self._hire, self._actors = hire, [hire() for _ in range(number)]
        self._thread = ThreadPoolExecutor(1, "actors")

    def submit_round(self, acting: Acting, round: Round) -> Future[Played]:
        return self._thread.submit(self._play, *_absolute(acting, round))

    def close(self) -> None:
        for each in (self._thread, *self._actors):
            each.shutdown(wait=True, cancel_futures=True)

    def _play(self, acting: Acting, round: Round) -> Played:
        done: dict[int, Any] = {}  # seed -> its row of Played, where there is no store that tells
        fruitless = 0
        gather(acting.store, round)  # what a run that was killed left
        while left := _left(acting, round, done):
            if fruitless == PATIENCE:
                raise RuntimeError(
                    f"round {round.number}: expected actors that play seeds {left[0]}, got {PATIENCE} deaths in a row; "
                    "is there memory enough? The same command continues"
                )
            done |= self._ask(acting, round, left)
            gather(acting.store, round)
            fruitless = fruitless + 1 if _left(acting, round, done) == left else 0
        if acting.store is None:
            return Played((), *zip(*(done[seed] for seed in round.seeds), strict=True))
        there = recorded(acting.store, round)  # an episode that broke at its reset is not
        return play(acting, replace(round, seeds=tuple(seed for seed in round.seeds if seed in there)))

    def _ask(self, acting: Acting, round: Round, left: Sequence[Wave]) -> dict[int, Any]:
        """The seeds of those who lived; whoever died is replaced."""
        parts = [tuple(seed for wave in part for seed in wave) for part in deal(left, len(self._actors))]
        asked = [
            self._submit(k, _own(acting, k, len(self._actors)), replace(round, seeds=part))
            for k, part in enumerate(parts)
        ]
        wait(asked)
        done = {}
        for k, (part, future) in enumerate(zip(parts, asked, strict=True)):
            if isinstance(future.exception(), BrokenExecutor):
                self._actors[k].shutdown(wait=False)
                self._actors[k] = self._hire()
                continue
            played = future.result()
            rows = repeat(None) if acting.store else zip(played.success, played.steps, strict=True)
            done |= dict(zip(part, rows, strict=False))
        return done

    def _submit(self, k: int, acting: Acting, round: Round) -> Future[Played]:
        """One who died since the last round says so here, or in the future."""
        try:
            return self._actors[k].submit(play, acting, round)
        except BrokenExecutor as error:
            future: Future[Played] = Future()
            future.set_exception(error)
            return future


def deal(left: Sequence[Wave], number: int) -> list[Sequence[Wave]]:
    """To at most `number` actors, as evenly as whole waves can be."""
    return [left[k::number] for k in range(min(number, len(left)))]


def gather(path: Path | None, round: Round) -> None:
    """The run's store adopts what actors have recorded of the round in stores of their own."""
    if path is not None:
        beside.gather(path, lambda store: {seed: each.name for seed, each in recorded(store, round).items()})


def _left(acting: Acting, round: Round, done: dict[int, Any]) -> list[Wave]:
    known = recorded(acting.store, round).keys() | done.keys()
    return [wave for wave in waves(round.seeds, acting.site.batch_size) if not known >= set(wave)]


def _own(acting: Acting, k: int, number: int) -> Acting:
    """Where actor k appends."""
    if acting.store is None or number == 1:
        return acting
    return replace(acting, store=beside.beside(acting.store, str(k)), display=None if k else acting.display)


def _absolute(acting: Acting, round: Round) -> tuple[Acting, Round]:
    """An actor may have another working folder."""
    version, store = round.version, acting.store
    critic = None if version.critic is None else version.critic.absolute()
    version = replace(version, policy=version.policy.absolute(), critic=critic)
    return replace(acting, store=None if store is None else store.absolute()), replace(round, version=version)
