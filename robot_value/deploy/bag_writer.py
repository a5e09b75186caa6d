"""Messages as they came (CDR) into an MCAP bag that `ros2 bag` reads, from a thread. The episode store is not this.

A bag's times are wall-clock by convention; ours are the steady clock's plus one constant, so that they never jump.
What is waiting for the disk is bounded; a bag that loses a message, or that the disk refuses, says so in `error`.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

WAITING = 4096  # messages between the robot and the disk
END = None


class BagWriter:
    def __init__(self, folder: Path, waiting: int = WAITING) -> None:
        """A new bag. Raises OSError where it cannot be begun."""
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore

        self.folder, self.error, self.messages = folder, "", 0
        self.offset = time.time_ns() - time.monotonic_ns()  # ns, bag time - steady time
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Any] = {}
        self._unknown: set[str] = set()
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._bag = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._bag.set_custom_data("steady_clock_offset_ns", str(self.offset))
        self._bag.open()
        self._queue: Queue = Queue(waiting)
        self._thread = threading.Thread(target=self._run, name="bag writer", daemon=True)
        self._thread.start()

    def put(self, topic: str, kind: str, received: int, raw: bytes) -> None:
        """`kind` e.g. "std_msgs/msg/Bool"; `received` in ns of the steady clock."""
        try:
            self._queue.put_nowait((topic, kind, received + self.offset, raw))
        except Full:
            self.error = self.error or f"{self.folder}: messages were left out, the disk is too slow"

    def close(self, keep: bool = True, timeout: float = 1.0) -> None:
        """Finish the bag, or remove it. Never raises; `error` says what went wrong."""
        try:
            self._queue.put(END, timeout=timeout)
            self._thread.join(timeout)
        except Full:
            pass
        if self._thread.is_alive():
            self.error = f"{self.folder}: the disk does not answer; the bag may end early"
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self) -> None:
        try:
            while (item := self._queue.get()) is not END:
                self._write(*item)
            self._bag.close()
        except Exception as error:  # the bag is lost from here on; episodes are not
            self.error = f"{self.folder}: {type(error).__name__}: {error}; the bag ends here"
            self._bag.abort()
            self._drain()

    def _write(self, topic: str, kind: str, when: int, raw: bytes) -> None:
        if kind not in self._types.fielddefs:
            if topic not in self._unknown:
                self._unknown.add(topic)
                self.error = self.error or f"{topic}: {kind} is of a package that rosbags does not know; left out"
            return
        if topic not in self._connections:
            self._connections[topic] = self._bag.add_connection(topic, kind, typestore=self._types)
        self._bag.write(self._connections[topic], when, raw)
        self.messages += 1

    def _drain(self) -> None:
        """Whoever puts is not to find a full queue."""
        while True:
            try:
                if self._queue.get(timeout=60.0) is END:
                    return
            except Empty:
                return
