"""The Watcher of the live view: a bounded queue between the loop and a thread of its own that draws."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable

from ..types import Decision, Episode, Observation, Outcome
from .shown import Shown, Sink, cut

BACKLOG = 64  # decisions that may wait to be drawn; then the oldest goes
PATIENCE = 5.0  # s that the end waits for what is still to be drawn


class Display:
    """As a context it is closed at the end. What could not be drawn in time is dropped, counted and said."""

    wants_episodes = False

    def __init__(
        self,
        sink: Sink,
        dt: float,  # s per control step
        robots: int = 1,  # rows of the batch that are shown, the first ones
        say: Callable[[str], None] | None = None,  # where it says what was lost; None: stderr
        backlog: int = BACKLOG,
    ) -> None:
        self.drawn = self.dropped = 0  # decisions
        self.failed = ""  # why nothing is drawn any more
        self._sink, self._robots, self._say, self._backlog = sink, robots, say or _to_stderr, backlog
        self._clocks = [Clock(dt) for _ in range(robots)]
        self._waiting: deque[Shown] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        self._thread.start()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        """Copies and returns. Rows that rest are not shown."""
        for row in range(min(self._robots, observation.batch_size)):
            if decision.execute[row]:
                time = self._clocks[row](observation, outcome, row)
                self._put(cut(observation, decision, outcome, row, time))

    def on_episode(self, episode: Episode) -> None:
        """Nothing: decisions are shown when they are made."""

    def close(self, patience: float = PATIENCE) -> None:
        """Draw what waits, for at most `patience` seconds; then say what was lost."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(patience)
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()
        if self._thread.is_alive():
            self._say(f"display: expected the viewer to take what is left within {patience:g} s; it is given up")
        if self.dropped:
            self._say(f"display: {self.dropped} of {self.dropped + self.drawn} decisions were not shown: {self._why}")

    @property
    def _why(self) -> str:
        return self.failed or "the viewer was slower than the robot"

    def _put(self, shown: Shown) -> None:
        with self._changed:
            if self.failed or self._closed:
                self.dropped += 1
                return
            self._waiting.append(shown)
            if len(self._waiting) > self._backlog:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.notify()

    def _run(self) -> None:
        shown = None
        try:
            while (shown := self._next()) is not None:
                self._sink.write(shown)
                self.drawn += 1
            self._sink.close()
        except Exception as error:  # a viewer that was closed, a disk that is full: the robot goes on
            self._give_up(f"{type(error).__name__}: {error}", lost=int(shown is not None))

    def _next(self) -> Shown | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popleft() if self._waiting else None

    def _give_up(self, why: str, lost: int) -> None:
        with self._changed:
            self.failed = why
            self.dropped += lost + len(self._waiting)
            self._waiting.clear()
        self._say(f"display: nothing is shown any more ({why}); the robot goes on")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Clock:
    """Seconds since the display began: a robot's own time, and an episode never before the end of the last one."""

    def __init__(self, dt: float) -> None:
        self._dt, self._offset, self._end = dt, 0.0, 0.0
        self._last: tuple[int, int] | None = None  # episode, step

    def __call__(self, observation: Observation, outcome: Outcome, row: int) -> float:
        now, last = float(observation.time[row]), self._last
        self._last = int(observation.episode[row]), int(observation.step[row])
        if last is None:
            self._offset = -now
        elif self._last[0] != last[0] or self._last[1] <= last[1]:
            self._offset = max(self._offset, self._end - now)
        self._end = now + self._offset + int(outcome.executed_valid[row].sum()) * self._dt
        return now + self._offset
