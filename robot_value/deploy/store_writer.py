"""Episodes into the store from a thread: the robot never waits for the disk, and what the disk refuses is tried again.

An OSError (no space, quota, read-only) keeps the episode and everything behind it until it can be written; an episode
that the store refuses for what it holds is given up. Both are said in `error`; nothing is swallowed.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path

from ..episodes.store import EpisodeStore
from ..types import Episode, Spec


def open_store(path: str | Path, spec: Spec) -> EpisodeStore:
    """To append to; created where there is none. Raises StoreError or SpecMismatch, and then holds no lock."""
    if not (Path(path) / "zarr.json").exists():
        return EpisodeStore.create(path, spec)
    store = EpisodeStore.open(path, mode="a")
    try:
        store.spec.check(spec, who=f"the robot, for the store {path},")
    except ValueError:
        store.close()
        raise
    return store


class StoreWriter:
    def __init__(self, store: EpisodeStore, retry: float = 1.0) -> None:
        self.store, self.retry = store, retry  # retry: s between two attempts
        self.written: deque[tuple[int, str]] = deque()  # (steps, name in the store), to be taken by whoever reports
        self.refused: list[str] = []  # why an episode was given up
        self.error = ""  # of the disk; "" when it writes
        self._waiting: deque[Episode] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    def put(self, episode: Episode) -> None:
        with self._changed:
            self._waiting.append(episode)
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Episodes that are not on disk yet."""
        return len(self._waiting)

    @property
    def bytes(self) -> int:
        """Of pictures that wait."""
        return sum(image.nbytes for episode in list(self._waiting) for image in episode.images.values())

    def flush(self, timeout: float) -> bool:
        """Whether everything was written within `timeout` s."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def close(self, timeout: float) -> int:
        """How many episodes could not be written within `timeout` s, and are lost."""
        self.flush(timeout)
        with self._changed:
            self._ended, unwritten = True, len(self._waiting)
            self._changed.notify_all()
        self._thread.join(timeout + self.retry)
        return unwritten

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                episode = self._waiting[0]
            done = self._write(episode)
            with self._changed:
                if done:
                    self._waiting.popleft()
                    self._changed.notify_all()
                else:
                    self._changed.wait_for(lambda: self._ended, self.retry)

    def _write(self, episode: Episode) -> bool:
        try:
            name = self.store.append(episode)
        except OSError as error:
            self.error = f"{self.store.path}: {error}; {self.waiting} episodes wait in memory, make room"
            return False
        except Exception as error:  # it will never be written, and those behind it may
            self.refused.append(f"{type(error).__name__}: {error}")
        else:
            self.written.append((len(episode), name))
        self.error = ""
        return True
