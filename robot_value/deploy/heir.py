"""What decides from the next episode on: loaded, compared and warmed up in a thread, handed over between two episodes.

Meanwhile the old one decides on, and it stays where the new one cannot be used. The guard knows nothing of either.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..types import Spec

if TYPE_CHECKING:
    from .steering_setup import Setup, Thinking

NICE = 19  # of the thread that loads: below everything else


class Heir:
    def __init__(self, robot: Spec, say: Callable[[str], None]) -> None:
        self.robot, self.say = robot, say
        self.refused = ""  # why the newest that was asked for is not used; "" where nothing is wrong
        self._changed = threading.Lock()
        self._ready: Thinking | None = None
        self._thread: threading.Thread | None = None

    def ask(self, setup: Setup, old: Thinking) -> str:
        """Begin to make one that takes the place of `old`; "" or why not."""
        if self._thread is not None and self._thread.is_alive():
            return "one is being loaded; ask again when it is there"
        self._thread = threading.Thread(target=self._make, args=(setup, old), name="heir", daemon=True)
        self._thread.start()
        return ""

    def take(self, old: Thinking) -> Thinking:
        """Between two episodes, in the thread that decides: the one that is ready, else `old`."""
        new = self._swap(None)
        if new is None:
            return old
        new.steerer.books = old.steerer.books  # what happened lately is still of interest
        old.close()
        return new

    def close(self, timeout: float) -> None:
        """Waits `timeout` s for what is being loaded."""
        if self._thread is not None:
            self._thread.join(timeout)
        if (left := self._swap(None)) is not None:
            left.close()

    def _make(self, setup: Setup, old: Thinking) -> None:
        from .steering_setup import prepare

        os.nice(NICE)  # Linux: of this thread
        try:
            new = prepare(setup, self.robot)
            _same_shape(old.policy.spec, new.policy.spec)
        except Exception as error:  # whatever a file or a network does, the old one decides on
            self.refused = str(error) or type(error).__name__
            self.say(f"refused, what decides stays: {self.refused}")
            return
        if (before := self._swap(new)) is not None:
            before.close()
        self.refused = ""
        self.say(f"ready, decides from the next episode on: {new.versions}")

    def _swap(self, new: Thinking | None) -> Thinking | None:
        with self._changed:
            before, self._ready = self._ready, new
        return before


def _same_shape(expected: Spec, got: Spec) -> None:
    """The robot stacks that many observations. What else a Spec says was compared with the robot's."""
    for name in ("horizon", "n_obs_steps"):
        if (want := getattr(expected, name)) != (has := getattr(got, name)):
            raise ValueError(f"policy: expected {name} {want} as of the one that decides, got {has}; restart this node")
