"""Pictures of a simulation in a thread with a simulator of its own: the physics never waits for a renderer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class Lookout:
    """One state at a time; while it is being drawn, others are not taken."""

    def __init__(self, build: Callable[[], Any]) -> None:
        """`build` makes a simulator with cameras and `look()`; in the thread, for a GL context belongs to one."""
        self._build, self._error = build, None
        self._ready, self._wake = threading.Event(), threading.Event()
        self._state: tuple[Mapping[str, Any], Any] | None = None
        self._seen: tuple[dict[str, np.ndarray], Any] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    @property
    def busy(self) -> bool:
        return self._state is not None

    def show(self, state: Mapping[str, Any], note: Any) -> None:
        """Draw a simulator's saved state, unless busy; `note` comes back with the pictures."""
        if not self.busy:
            self._state = (state, note)
            self._wake.set()

    def take(self) -> tuple[dict[str, np.ndarray], Any] | None:
        """Camera name -> uint8[h, w, 3], and the note; once, when they are done."""
        if self._error is not None:
            raise self._error
        seen, self._seen = self._seen, None
        return seen

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            simulator = self._build()
            simulator.reset(simulator.tasks[0], 0)  # what is restored needs an episode to be restored into
            self._ready.set()
            self._draw(simulator)
            simulator.close()
        except BaseException as error:
            self._error = error
            self._ready.set()

    def _draw(self, simulator: Any) -> None:
        while self._wake.wait() and not self._closed:
            self._wake.clear()
            state, note = self._state
            simulator.load_state(state)
            self._seen, self._state = (simulator.look().images, note), None
