"""Where a replay's episodes come from: a store, or any dataset that a converter knows, read ahead in processes.

Decoding an episode costs tens of ms; in a process of its own it never waits for the models, nor they for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..convert import Source
from ..episodes import EpisodeStore
from ..types import Episode, Spec
from ..workers import process_pool


class Log(Protocol):
    """What is played: an EpisodeStore, or anything else with episodes by name."""

    spec: Spec

    def names(self) -> list[str]: ...

    def read(self, name: str) -> Episode: ...


@dataclass(frozen=True)
class SourceLog:
    """A dataset of another format, as it is: its episodes are named by their keys there."""

    source: Source

    @property
    def spec(self) -> Spec:
        return self.source.survey.spec

    @property
    def identity(self) -> str:
        """Another content is another identity; the names do not say."""
        return self.source.survey.identity

    def names(self) -> list[str]:
        return list(self.source.survey.keys)

    def read(self, name: str) -> Episode:
        return self.source.read(self.source.survey.keys.index(name))


@dataclass(frozen=True)
class Opener:
    """Opens a log, here or in another process."""

    path: str
    source: Any = None  # a converter's Config; None: `path` is an episode store

    def __call__(self) -> Log:
        return EpisodeStore.open(self.path) if self.source is None else SourceLog(self.source.build(Path(self.path)))


@dataclass
class Ahead:
    """A Log that reads the following episodes, too, before they are asked for; best asked in the order of `order`."""

    log: Log
    order: tuple[str, ...]  # names in the order in which they will be asked for
    depth: int  # episodes that are read, or wait, beyond the one that was asked for
    pool: Executor
    fetch: Callable[[str], Episode]  # in the pool
    lends_a_hand: bool = False  # what nobody has begun to read when it is asked for, is read by whoever asks
    reading: dict[str, Future[Episode]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, log: Log, order: Sequence[str], depth: int = 8, opener: Opener | None = None, workers: int = 0
    ) -> Ahead:
        """Read by `workers` processes that open the log themselves, or, without any, by a thread of this one."""
        if opener is None or not workers:
            return cls(log, tuple(order), depth, ThreadPoolExecutor(1, "episodes"), log.read)
        return cls(log, tuple(order), depth, process_pool(workers), _Elsewhere(opener), lends_a_hand=True)

    @property
    def spec(self) -> Spec:
        return self.log.spec

    @property
    def identity(self) -> str:
        return getattr(self.log, "identity", "")

    def names(self) -> list[str]:
        return self.log.names()

    def begin(self, name: str) -> None:
        """This one and those after it; others that nobody has asked for are given up."""
        at = self._place[name]
        wanted = self.order[at : at + 1 + self.depth]
        for old in self.reading.keys() - set(wanted):
            self.reading.pop(old).cancel()
        for new in wanted:
            if new not in self.reading:
                self.reading[new] = self.pool.submit(self.fetch, new)

    def read(self, name: str) -> Episode:
        if name not in self._place:
            return self.log.read(name)
        self.begin(name)
        reading = self.reading.pop(name)
        return self.log.read(name) if self.lends_a_hand and reading.cancel() else reading.result()

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.order)}


@dataclass(frozen=True)
class _Elsewhere:
    """Reads in whichever process it is called."""

    opener: Opener

    def __call__(self, name: str) -> Episode:
        key = repr(self.opener)  # a Config need not be hashable
        if key not in _opened:
            _opened[key] = self.opener()
        return _opened[key].read(name)


_opened: dict[str, Log] = {}  # of this process
