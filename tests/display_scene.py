"""What tests of the live view show (pictures, a refused candidate, a new chunk, two episodes), and how they read it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from robot_value.display.display import Display
from robot_value.display.shown import Shown
from robot_value.types import ActionPart, Camera, Decision, Observation, Outcome, Spec

N, H, A, K, B, PIXELS = 5, 6, 7, 3, 2, 16
SPEC = Spec(
    parts=(
        ActionPart("arm", 0, 6, "pose", "0.05 m+0.5 rad", (-1,) * 6, (1,) * 6, "current", "axis_angle"),
        ActionPart("gripper", 6, 7, "gripper", "1", (-1,), (1,)),
    ),
    state_names=("eef.x", "eef y"),
    state_units=("m", "m"),
    dt=0.05,
    cameras=(Camera("front", PIXELS, PIXELS),),
    horizon=H,
    n_obs_steps=2,
)


@dataclass
class Kept:
    """A Sink that keeps everything."""

    shown: list[Shown] = field(default_factory=list)
    closed: bool = False

    def write(self, shown: Shown) -> None:
        self.shown.append(shown)

    def close(self) -> None:
        self.closed = True


@cache
def moments() -> tuple[tuple[Observation, Decision, Outcome], ...]:
    """Two robots, two episodes of four decisions each."""
    return tuple(_moment(np.random.default_rng(i), i) for i in range(8))


def show(display: Display) -> None:
    for each in moments():
        display.on_decision(*each)


def expected(robots: int = 1) -> list[Shown]:
    """What a sink is given, whole."""
    sink = Kept()
    with Display(sink, SPEC.dt, robots) as display:
        show(display)
    return sink.shown


TIMELINES = ("step", "episode", "time")


def recorded(path: Path) -> dict[str, dict]:
    """Entity -> rows (step, episode, time in ns) -> {component: values}, read by Rerun; static rows under None."""
    try:
        from rerun.chunk import RrdReader
    except ImportError:  # before 0.41
        from rerun.experimental import RrdReader

    found = defaultdict(lambda: defaultdict(dict))
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        names = [name for name in batch.schema.names if ":" in name]
        times = [batch.column(name).cast("int64").to_pylist() for name in TIMELINES if name in batch.schema.names]
        keys = list(zip(*times, strict=True)) or [None] * batch.num_rows
        for i, key in enumerate(keys):
            for name in names:
                if (values := batch.column(name)[i].as_py()) is not None:
                    found[chunk.entity_path][key][name.split(":")[-1]] = values
    return found


def tensor(row: Any) -> np.ndarray:
    """The numbers of a Tensor or a BarChart."""
    (found,) = row
    ((_, numbers),) = found["buffer"].items() if isinstance(found["buffer"], dict) else ((0, found["buffer"]),)
    return np.array(numbers, np.float32).reshape(found["shape"])


def _moment(rng: np.random.Generator, i: int) -> tuple[Observation, Decision, Outcome]:
    candidates = rng.normal(size=(B, N, H, A)).astype(np.float32)
    value, spread = rng.normal(size=(2, B, N)).astype(np.float32)
    if i == 1:
        candidates[:, 2], value[:, 2], spread[:, 2] = np.nan, np.nan, np.nan
    index = rng.integers(0, 2, B) if i != 2 else np.full(B, -1)
    chunk = candidates[np.arange(B), index] if i != 2 else candidates.mean(1)
    step = np.full(B, i % 4 * K)
    return _seen(rng, i, step), _decision(candidates, value, spread, index, chunk, step, i), _done(rng, i)


def _seen(rng: np.random.Generator, i: int, step: np.ndarray) -> Observation:
    ramp = np.linspace(0, 200, PIXELS).astype(np.uint8)  # smooth: JPEG keeps it to a few levels
    picture = np.broadcast_to(ramp[:, None, None] + np.uint8(i), (B, 2, PIXELS, PIXELS, 3))
    return Observation(
        state=rng.normal(size=(B, 2, 2)).astype(np.float32),
        images={"front": np.ascontiguousarray(picture)},
        task=("lift",) * B,
        time=step * SPEC.dt,
        step=step,
        episode=np.array([100, 200]) + i // 4,
        pending=np.zeros((B, 0, A), np.float32),
        committed=np.zeros(B, np.int64),
    )


def _decision(candidates, value, spread, index, chunk, step, i) -> Decision:
    reason = ("abstained", "chosen") if i == 3 else ("chosen", "chosen")
    return Decision(chunk, np.full(B, K), step, reason, index, candidates, value, spread)


def _done(rng: np.random.Generator, i: int) -> Outcome:
    valid = np.ones((B, K), bool)
    valid[:, 1:] = i % 4 != 3  # the last decision of an episode is cut short
    nothing, never = np.zeros((B, K), np.float32), np.zeros(B, bool)
    return Outcome(
        observation=None,
        states=np.zeros((B, K, 2), np.float32),
        images={},
        executed=rng.normal(size=(B, K, A)).astype(np.float32),
        commanded=np.zeros((B, K, A), np.float32),
        executed_valid=valid,
        rewards=nothing,
        source=np.zeros((B, K), np.uint8),
        terminated=never,
        truncated=never,
        success=never,
        unstable=never,
    )
