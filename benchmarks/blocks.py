"""Timing that can be trusted on a shared machine: arms take turns in short blocks, and disturbed blocks are dropped.

A block counts as disturbed where other processes used more than FOREIGN of the machine's CPU time. Ratios are of
medians, with a bootstrap interval; fewer than CLEAN clean blocks per arm give no verdict.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

FOREIGN = 0.12  # share of one core's time
CLEAN = 5  # blocks per arm


@dataclass
class Arm:
    """Something to be timed, and what was seen."""

    run: Callable[[], object]
    repeats: int = 1  # calls per block
    cpu: Callable[[], float] = time.process_time  # CPU seconds of the process that does the work
    clean: list[float] = field(default_factory=list)  # s per call
    disturbed: list[float] = field(default_factory=list)  # s per call

    @property
    def trusted(self) -> bool:
        return len(self.clean) >= CLEAN

    @property
    def seconds(self) -> np.ndarray:
        """s per call, of clean blocks where there are enough, else of all."""
        return np.array(self.clean if self.trusted else self.clean + self.disturbed)


def interleave(arms: dict[str, Arm], seconds: float, block: float = 0.2) -> None:
    """Time every arm in turns, in alternating order, for about `seconds` in all."""
    for arm in arms.values():
        arm.run()
        start = time.perf_counter()
        arm.run()
        arm.repeats = max(1, int(block / max(time.perf_counter() - start, 1e-6)))
    deadline, order = time.perf_counter() + seconds, list(arms.values())
    rounds = 0
    while time.perf_counter() < deadline or rounds < CLEAN:
        for arm in order:
            _block(arm)
        order.reverse()
        rounds += 1


def _block(arm: Arm) -> None:
    used, own, start = busy(), arm.cpu(), time.perf_counter()
    for _ in range(arm.repeats):
        arm.run()
    wall = time.perf_counter() - start
    foreign = (busy() - used - (arm.cpu() - own)) / wall
    (arm.clean if foreign <= FOREIGN else arm.disturbed).append(wall / arm.repeats)


def busy() -> float:
    """CPU seconds that all processes of this machine have used since boot."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def ratio(numerator: Arm, denominator: Arm, seed: int = 0) -> tuple[float, float, float]:
    """Ratio of median times with its 95 % bootstrap interval: (ratio, low, high)."""
    rng = np.random.default_rng(seed)
    a, b = numerator.seconds, denominator.seconds
    draws = [np.median(rng.choice(a, len(a))) / np.median(rng.choice(b, len(b))) for _ in range(2000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.median(a) / np.median(b)), float(low), float(high)


def median_ms(arm: Arm, seed: int = 0) -> dict[str, float | int]:
    """Median milliseconds per call with its 95 % bootstrap interval, and how many blocks stand behind it."""
    rng = np.random.default_rng(seed)
    seconds = arm.seconds
    low, high = np.quantile([np.median(rng.choice(seconds, len(seconds))) for _ in range(2000)], [0.025, 0.975])
    blocks = {"clean_blocks": len(arm.clean), "disturbed_blocks": len(arm.disturbed)}
    return {"ms": 1e3 * float(np.median(seconds)), "ms_low": 1e3 * float(low), "ms_high": 1e3 * float(high)} | blocks
