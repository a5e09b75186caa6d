"""The guard's core against random inputs; an oracle that shares no code with it judges every published command."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from robot_value.guard import Guard
from robot_value.safety import Limits

DIMS = 8
CYCLES = 500  # per stream, each with limits, period and habits of its own
GARBAGE = [None, [], [0.0] * 3, "text", np.full(DIMS, np.nan), np.full(DIMS, np.inf), np.full(DIMS, 1e30), {}]
WORDS = ("enable", "enable", "enable", "disable", "reset", "fault", "bad_state", "good_state")


def run(cycles: int, seed: int = 0) -> dict[str, Any]:
    """Counts; `excess` is the worst published, in units of its limit, minus one."""
    commands, violations, worst, moving, seconds = 0, 0, -1.0, 0, []
    for stream in range(-(-cycles // CYCLES)):
        rng = np.random.default_rng([seed, stream])
        dt = float(rng.choice([0.01, 0.02, 0.05]))
        limits = _limits(rng)
        for piece in _stream(rng, limits, dt, seconds):
            excess = judge(piece, limits, dt)
            worst, commands = max(worst, float(excess.max())), commands + len(piece)
            violations += int((excess > 1e-6).sum())
            moving += int((np.abs(np.diff(piece, axis=0)).max(1) > 1e-9).sum())
    p50, p99, most = (np.percentile(seconds, [50, 99, 100]) * 1e3).round(3).tolist()
    cost = {"tick_ms_p50": p50, "tick_ms_p99": p99, "tick_ms_max": most}
    found = {"cycles": cycles, "commands": commands, "moving": moving, "violations": violations, "worst_excess": worst}
    return found | cost


def judge(path: np.ndarray, limits: Limits, dt: float) -> np.ndarray:
    """float64[n], per command the worst excess over position (rad) or rate limits (in units of the limit); from rest.

    Positions are numbers near 1, exact to 1e-16: their third difference over dt = 0.01 s is exact to 1e-9 of 1 / s^3.
    """
    if not np.isfinite(path).all():
        return np.full(len(path), np.inf)
    rows = np.vstack([path[:1]] * 3 + [path])
    excess = np.maximum(limits.low - path, path - limits.high).max(1)
    for most in (limits.velocity, limits.acceleration, limits.jerk):
        rows = np.diff(rows, axis=0) / dt
        excess = np.maximum(excess, (np.abs(rows[-len(path) :]) / most).max(1) - 1)
    return excess


def _limits(rng: np.random.Generator) -> Limits:
    """Stops take 0.05 to 1 s; some dims have a range that is short for their speed."""
    velocity = 10 ** rng.uniform(-1, 0.5, DIMS)
    slowing, swelling = rng.uniform(0.02, 0.5, DIMS), rng.uniform(0.01, 0.2, DIMS)
    acceleration = velocity / slowing
    half = velocity * rng.uniform(0.05, 2.0, DIMS)
    return Limits(-half, half, velocity, acceleration, acceleration / swelling, max_clamps=10**6)


def _stream(rng: np.random.Generator, limits: Limits, dt: float, seconds: list[float]) -> list[np.ndarray]:
    """What was published, cut where the guard began anew."""
    guard = Guard(limits, dt, reanchors=bool(rng.integers(2)))
    middle, calm = rng.uniform(limits.low, limits.high) * 0.5, rng.uniform(0.2, 3.0)
    pieces, began = [[]], 0
    for i in range(CYCLES):
        if rng.random() < 0.03 or i == 1:
            word = "enable" if i == 1 else str(rng.choice(WORDS))
            {"enable": lambda: guard.enable(True), "disable": lambda: guard.enable(False)}.get(
                word, lambda word=word: getattr(guard, word)(*([] if word in ("reset", "good_state") else ["x"]))
            )()
        here = middle if guard.motion is None else guard.motion.position
        wave = middle + 0.4 * (limits.high - limits.low) * np.sin(calm * (i - began) * dt + np.arange(DIMS))
        kind = rng.random()
        wanted = wave if kind < 0.85 else here + rng.normal(0, 0.3, DIMS) if kind < 0.97 else GARBAGE[rng.integers(8)]
        measured = here + rng.normal(0, 1e-3, DIMS) if rng.random() < 0.98 else GARBAGE[rng.integers(8)]
        age = rng.uniform(0, 0.05) if rng.random() < 0.98 else rng.choice([np.nan, -1.0, 9.0])
        start = time.thread_time()
        command = guard.tick(wanted, measured, age).command
        seconds.append(time.thread_time() - start)
        pieces.append([]) if command is None else pieces[-1].append(command)
    return [np.array(piece) for piece in pieces if piece]
