"""What the guard watches besides its inputs: who else commands the arm, and whether its own periods come in time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from .managed import ManagedNode

KEPT = 3000  # intervals, a minute at 50 Hz
LEASE = 25.0  # s, after which Fast DDS has surely forgotten a participant that was killed


class Commanders:
    """Other publishers on the controllers' topics."""

    def __init__(self, node: ManagedNode, topics: Sequence[str]) -> None:
        self._node, self._topics = node, topics
        self._namesake: float | None = None  # s, since when there is another publisher with our own name

    def others(self) -> list[str]:
        """Names. One with our own name may be what was left of us when we were killed: it is given time to vanish."""
        ours, found, namesakes = self._node.get_fully_qualified_name(), set(), 0
        for topic in self._topics:
            publishers = self._node.get_publishers_info_by_topic(topic)
            names = [f"{end.node_namespace.rstrip('/')}/{end.node_name}" for end in publishers]
            namesakes += max(0, names.count(ours) - 1)
            found |= {f"{name} on {topic}" for name in names if name != ours}
        self._namesake = (self._namesake or time.monotonic()) if namesakes else None
        if self._namesake and time.monotonic() - self._namesake > LEASE:
            found.add(f"another {ours}")
        return sorted(found)


class Intervals:
    """Between commands."""

    def __init__(self, period: float) -> None:
        self._period, self._last = period, None
        self._seconds: deque[float] = deque(maxlen=KEPT)
        self.count = self.late = 0  # of all; longer than two periods

    def add(self, now: int) -> None:
        if self._last is not None:
            seconds = (now - self._last) * 1e-9
            self._seconds.append(seconds)
            self.count, self.late = self.count + 1, self.late + (seconds > 2 * self._period)
        self._last = now

    def forget(self) -> None:
        self._last = None

    def values(self) -> dict[str, str]:
        """For /diagnostics, of the last minute; misses of all time."""
        if not self._seconds:
            return {}
        p50, p99, most = np.percentile(list(self._seconds), [50, 99, 100]) * 1e3
        told = {"interval_p50_ms": p50, "interval_p99_ms": p99, "interval_max_ms": most}
        return {key: f"{value:.2f}" for key, value in told.items()} | {"misses": str(self.late)}
