"""A man in the middle: passes one topic on, or drops, delays, reorders, doubles, changes, freezes or bursts it.

    proxy = Proxy(graph, Image, "/camera/real", "/camera", SENSOR)
    proxy.rule = lost(0.1, rng)          # a rule: message -> [(delay in s, message), ...]

Runs in the harness's own process. What it passed on last, and when, is known: `last` is the last valid input.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

Rule = Callable[[Any], list[tuple[float, Any]]]  # message -> (s to wait, what to publish)


def passed(message: Any) -> list[tuple[float, Any]]:
    return [(0.0, message)]


def dropped(message: Any) -> list[tuple[float, Any]]:
    return []


def changed(change: Callable[[Any], None]) -> Rule:
    """`change` edits each message in place."""

    def rule(message: Any) -> list[tuple[float, Any]]:
        change(message)
        return [(0.0, message)]

    return rule


def lost(share: float, rng: np.random.Generator) -> Rule:
    return lambda message: [] if rng.random() < share else [(0.0, message)]


def delayed(low: float, high: float, rng: np.random.Generator) -> Rule:
    """s; different delays change the order."""
    return lambda message: [(float(rng.uniform(low, high)), message)]


def doubled(later: float) -> Rule:
    return lambda message: [(0.0, message), (later, message)]


def frozen() -> Rule:
    """Everything but the stamp stays as in the first message seen."""
    kept: list[Any] = []

    def rule(message: Any) -> list[tuple[float, Any]]:
        kept[:] = kept or [message]
        if message is not kept[0]:
            message.data = kept[0].data
        return [(0.0, message)]

    return rule


class Proxy:
    def __init__(self, graph: Any, kind: type, source: str, target: str, qos: Any) -> None:
        self.rule: Rule = passed
        self.last = 0  # ns, when a message was passed on unchanged
        self.newest: Any = None  # message seen, before any rule
        self.count = 0  # messages published
        self.recent: deque[tuple[int, Any]] = deque(maxlen=1000)  # (ns, message) that was published
        self._passed: deque[int] = deque(maxlen=10_000)  # ns
        self.publisher = graph.publisher(kind, target, qos)
        self._waiting: list[tuple[float, int, Any]] = []
        self._number, self._news, self._open = itertools.count(), threading.Condition(), True
        self.heard = graph.listen(kind, source, qos, self._pass)
        self.heard.messages = _Last()  # a long run is not kept
        threading.Thread(target=self._later, daemon=True).start()

    def burst(self, message: Any, count: int, gap: float = 0.0) -> None:
        """`count` times the same message, `gap` s between two."""
        for _ in range(count):
            self._publish(message)
            time.sleep(gap)

    def longest_gap(self, since: int) -> int:
        """ns between two messages published since `since` (ns), or until now."""
        times = [since, *(at for at in list(self._passed) if at > since), time.monotonic_ns()]
        return int(np.diff(times).max())

    def close(self) -> None:
        with self._news:
            self._open = False
            self._news.notify()

    def _pass(self, message: Any) -> None:
        self.newest = message
        for wait, what in self.rule(message):
            if wait > 0:
                with self._news:
                    heapq.heappush(self._waiting, (time.monotonic() + wait, next(self._number), what))
                    self._news.notify()
            else:
                self._publish(what)

    def _publish(self, message: Any) -> None:
        if self.rule is passed:
            self.last = time.monotonic_ns()
        self.publisher.publish(message)
        now = time.monotonic_ns()
        self._passed.append(now)
        self.recent.append((now, message))
        self.count += 1

    def _later(self) -> None:
        while True:
            with self._news:
                if not self._open:
                    return
                due = self._waiting[0][0] - time.monotonic() if self._waiting else 1.0
                if due > 0:
                    self._news.wait(due)
                    continue
                _, _, message = heapq.heappop(self._waiting)
            self._publish(message)


class _Last(list):
    """Keeps the newest item only."""

    def append(self, item: Any) -> None:
        self[:] = [item]
