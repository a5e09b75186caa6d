"""The last seconds of every camera: a step of steering names the frames it saw, and here they are found again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..messages import extract
from ..resampling import SECOND, Received
from ..topics import Pictures

AT_LEAST = 8  # frames per camera, however old: a lock-step arm waits for nobody's clock
Key = int | str  # header stamp in ns, or, of a lock-step arm whose stamps repeat, the header's frame_id
Frame = tuple[str, Key]  # camera name, key


@dataclass
class Album:
    cameras: Iterable[Pictures]
    seconds: float  # of pictures, still as messages
    _kept: dict[str, deque[tuple[Received, str]]] = field(default_factory=dict)  # camera -> (message, frame_id)

    def __post_init__(self) -> None:
        self._entries = {entry.camera.name: entry for entry in self.cameras}
        self._names = {entry.topic: entry.camera.name for entry in self.cameras}
        self._kept = {name: deque() for name in self._entries}

    def put(self, topic: str, received: Received, frame_id: str) -> None:
        kept = self._kept[self._names[topic]]
        kept.append((received, frame_id))
        while len(kept) > AT_LEAST and kept[0][0].time < received.time - self.seconds * SECOND:
            kept.popleft()

    def __contains__(self, frame: Frame) -> bool:
        return self._find(frame) is not None

    def open(self, frame: Frame) -> np.ndarray:
        """uint8[h, w, 3]. KeyError where it is not there (any more); MessageError where it is no such picture."""
        if (found := self._find(frame)) is None:
            raise KeyError(frame)
        return extract(self._entries[frame[0]], found.open())

    def _find(self, frame: Frame) -> Received | None:
        camera, key = frame
        named = isinstance(key, str)
        newest_first = reversed(self._kept.get(camera, ()))
        return next((r for r, frame_id in newest_first if (frame_id if named else r.stamp) == key), None)
