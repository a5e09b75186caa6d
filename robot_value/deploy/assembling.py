"""What a recorded Take becomes: an episode, or one per stretch of whole steps where something was lost.

Nothing is repeated and nothing is invented to bridge a gap (resampling.py); only the stretch that ends the recording
knows how it ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import wire
from ..resampling import runs, summed
from ..types import EXPERT, HUMAN, POLICY, Decision, Episode
from .recording import TASK_ENDS, Command, Take

SOURCES = {wire.POLICY: POLICY, wire.HUMAN: HUMAN, wire.STOP: POLICY, "expert": EXPERT}  # a stop: `stopped` names it


def episodes(take: Take, shortest: int, provenance: Mapping[str, Any]) -> list[Episode]:
    """None where no stretch has `shortest` steps. `provenance` is added to what the take knows."""
    executed, last = take.executed(), take.length
    whole = [take.whole(k) for k in range(last + 1)]
    stretches = runs(whole, [False, *(command is not None for command in executed)])
    about = {**provenance, "seed": take.seed, "episode": take.number, "ended_by": _ended_by(take)}
    return [
        _episode(take, range(first, first + steps), observed, executed[first : first + steps], about)
        for first, steps, observed in stretches
        if steps >= shortest
    ]


def lost(take: Take) -> dict[str, int]:
    """What is not there ("step", "action" or a camera's name) -> control steps."""
    found = Counter(action=take.executed().count(None))
    for k in range(take.length):
        found.update(take.unseen(k) if k in take.steps else ["step"])
    return {what: count for what, count in found.items() if count}


def _episode(
    take: Take, part: range, observed: bool, commands: Sequence[Command], provenance: Mapping[str, Any]
) -> Episode:
    frames = [take.steps[k] for k in range(part.start, part.stop + observed)]
    actions = np.stack([command.action for command in commands])
    wanted = np.stack([_wanted(take, k, command) for k, command in zip(part, commands, strict=True)])
    ends = part.stop == take.length
    terminated = ends and take.ending.event in TASK_ENDS
    return Episode(
        spec=take.topics.spec,
        states=np.stack([frame.state for frame in frames]),
        images={
            entry.camera.name: np.stack([take.pictures[entry.camera.name, f.frames[entry.camera.name]] for f in frames])
            for entry in take.topics.cameras
        },
        actions=actions,
        rewards=_rewards(take, part),
        terminated=terminated,
        truncated=not terminated,
        success=_success(take) if ends else None,
        task=take.task,
        commanded=None if np.array_equal(wanted, actions) else wanted,
        source=np.array([SOURCES[command.source] for command in commands], np.uint8),
        decisions=_decisions(take, part),
        provenance={**provenance, **_marks(take, part, commands)},
    )


def _wanted(take: Take, k: int, command: Command) -> np.ndarray:
    """float32[A], what was asked of the guard; a human's wish is not known apart from what was done."""
    return take.planned.get(k, command.action) if command.source in (wire.POLICY, wire.STOP) else command.action


def _rewards(take: Take, part: range) -> np.ndarray:
    """float32[T]"""
    if take.counted:
        told = [reward for _, reward in take.rewards[part.start : part.stop]]
        return np.array(told + [0.0] * (len(part) - len(told)), np.float32)
    times = [take.steps[part.start].time, *map(take.end, part)]
    return summed(take.rewards, np.array(times, np.int64))


def _success(take: Take) -> bool | None:
    return take.ending.event == "success" if take.ending.event in TASK_ENDS else take.success


def _decisions(take: Take, part: range) -> tuple[Decision, ...]:
    """Counted from the stretch's first step."""
    kept = [decision for step, decision in sorted(take.decisions.items()) if step in part]
    return tuple(replace(decision, start_step=decision.start_step - part.start) for decision in kept)


def _marks(take: Take, part: range, commands: Sequence[Command]) -> dict[str, Any]:
    """Steps in which the guard held the arm; where the stretch lies in what was recorded, if it is not all of it."""
    stopped = [i for i, command in enumerate(commands) if command.source == wire.STOP]
    marks: dict[str, Any] = {"stopped": stopped} if stopped else {}
    if len(part) < take.length:
        marks |= {"part": [part.start, part.stop, take.length], "lost": lost(take)}
    return marks


def _ended_by(take: Take) -> str:
    return f"{take.ending.event}: {take.ending.why}" if take.ending.why else take.ending.event
