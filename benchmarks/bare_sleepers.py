"""A process per core that only sleeps, one control period at a time: where it wakes late, the machine was late.

Cores of a virtual machine are taken away for milliseconds to seconds by whoever shares them. What a benchmark of
reaction times sees at such a moment says nothing of what it measures, so both are told apart.
"""

from __future__ import annotations

import os
import struct
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np

from robot_value.workers import end_with_parent

LATE = 2.0  # periods between two wakings: the machine stood still


class BareSleepers:
    def __init__(self, folder: Path, context: BaseContext, period: float) -> None:
        self._late = round(LATE * period * 1e9)
        self._files = [folder / f"sleeper_{core}" for core in sorted(os.sched_getaffinity(0))]
        cores = zip(sorted(os.sched_getaffinity(0)), self._files, strict=True)
        self._processes = [context.Process(target=sleep, args=(c, str(f), period), daemon=True) for c, f in cores]
        for process in self._processes:
            process.start()

    def intervals(self, begin: int, end: int) -> np.ndarray:
        """s, between the wakings of each from `begin` to `end` (ns of CLOCK_MONOTONIC)."""
        inside = [times[(begin <= times) & (times < end)] for times in self._times()]
        return np.concatenate([np.diff(times) for times in inside]) * 1e-9

    def stood_still(self, spans: np.ndarray) -> np.ndarray:
        """bool[N]: did the machine stand still for a part of each of `spans`, int64[N, 2] (begin, end; ns)?"""
        spans = np.asarray(spans, np.int64).reshape(-1, 2)
        gaps = np.concatenate([np.stack([t[:-1], t[1:]], 1)[np.diff(t) > self._late] for t in self._times()])
        return ((gaps[:, 0] < spans[:, 1:]) & (spans[:, :1] < gaps[:, 1])).any(1)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def _times(self) -> list[np.ndarray]:
        written = [file.read_bytes() if file.exists() else b"" for file in self._files]  # not yet, at first
        return [np.frombuffer(data[: len(data) // 8 * 8], np.int64) for data in written]


def sleep(core: int, file: str, period: float) -> None:
    """Writes the time of every waking, int64 ns."""
    end_with_parent()
    os.sched_setaffinity(0, {core})
    with open(file, "wb", buffering=0) as out:
        due = time.monotonic()
        while True:
            due = max(due + period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            out.write(struct.pack("=q", time.monotonic_ns()))
