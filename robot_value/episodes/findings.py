"""What in a store would hurt training, and what to do about it: measured per episode, judged over all of them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..types import Episode, Spec

SHORT = 8  # steps; an episode with fewer holds no whole chunk of the default horizon
IDLE = 0.3  # share of steps in which nothing moves, from which on cloning learns to wait
SATURATED = (0.2, 0.98)  # share of steps at a limit: below it is used, above it a switch that knows nothing between
OUTSIDE = 0.001  # share of steps outside the limits
SPIKE = 0.25  # of its range in the whole store that a state dimension leaves for a single frame: the sensor erred
APART = 5.0  # times what it does in USUAL of the episodes, at least: touch and joint velocities jump at every contact
USUAL = 0.95  # share of the episodes
GAP = 5.0  # times a fast change (90th percentile) that most state dimensions make at once: frames are missing
FROZEN = 10  # equal frames in a row while the state moves
DARK = 3.0  # mean of a frame's pixels, of 255
SHOWN = 5  # episodes named in a line


@dataclass(frozen=True)
class Measures:
    """One episode's low-dimensional part."""

    name: str
    steps: int
    success: bool | None
    rewarded: bool
    task: str
    unstable: bool
    final_observed: bool
    terminated: bool
    content: str  # hash of states and actions: equal episodes were recorded once
    idle: int  # steps in which no state and no action changed
    moved: np.ndarray  # bool[S], whether the state dimension changed at all
    state_low: np.ndarray  # float32[S]
    state_high: np.ndarray  # float32[S]
    spike: np.ndarray  # float64[S], largest distance of a frame from both neighbours, which are close to each other
    gap: float  # largest change between two frames, in fast changes, of the dimensions that always move
    low: np.ndarray  # float32[A]
    high: np.ndarray  # float32[A]
    outside: np.ndarray  # int64[A], steps outside the Spec's limits
    saturated: np.ndarray  # int64[A], steps exactly at a limit


@dataclass(frozen=True)
class Frames:
    """One camera of one episode."""

    name: str
    camera: str
    frozen: int  # frames in the longest run of equal ones during which the state moved
    equal: float  # share of frames that equal the one before
    dark: float  # share of frames that are black


@dataclass(frozen=True)
class Finding:
    what: str
    advice: str
    episodes: tuple[str, ...] = ()  # where; empty: everywhere

    def __str__(self) -> str:
        more = f" and {len(self.episodes) - SHOWN} more" if len(self.episodes) > SHOWN else ""
        where = f" ({', '.join(self.episodes[:SHOWN])}{more})" if self.episodes else ""
        return f"{self.what}{where}: {self.advice}"


def counted(episodes: Sequence[str]) -> str:
    return f"{len(episodes)} episode{'s' * (len(episodes) != 1)}"


def measure(name: str, episode: Episode) -> Measures:
    spec, actions = episode.spec, episode.actions
    slack = 1e-6 * (spec.high - spec.low)  # a limit that was rounded to float32 is kept
    moves = np.abs(np.diff(episode.states.astype(np.float64), axis=0))  # float64[frames - 1, S]
    same_action = np.append([False], (np.diff(actions, axis=0) == 0).all(1))[: len(moves)]
    at_limit = (np.abs(actions - spec.low) <= slack) | (np.abs(actions - spec.high) <= slack)
    return Measures(
        name=name,
        steps=len(episode),
        success=episode.success,
        rewarded=bool(episode.rewards.any()),
        task=episode.task,
        unstable=bool(episode.provenance.get("unstable", False)),
        final_observed=episode.final_observed,
        terminated=episode.terminated,
        content=hashlib.sha256(episode.states.tobytes() + actions.tobytes()).hexdigest(),
        idle=int(((moves == 0).all(1) & same_action).sum()) if moves.size else 0,
        moved=moves.any(0),
        state_low=episode.states.min(0),
        state_high=episode.states.max(0),
        spike=_spike(episode.states),
        gap=_gap(moves),
        low=actions.min(0),
        high=actions.max(0),
        outside=((actions < spec.low - slack) | (actions > spec.high + slack)).sum(0),
        saturated=at_limit.sum(0),
    )


def frames(name: str, episode: Episode) -> Iterator[Frames]:
    """Of every camera."""
    moved = (np.diff(episode.states, axis=0) != 0).any(1)
    for camera, images in episode.images.items():
        flat = images.reshape(len(images), -1)
        equal = (flat[1:] == flat[:-1]).all(1)  # bool[frames - 1]
        dark = float((flat.mean(1) < DARK).mean())
        yield Frames(name, camera, _longest(equal & moved), float(equal.mean()) if len(equal) else 0.0, dark)


def judge(spec: Spec, measures: Sequence[Measures], seen: Sequence[Frames] = ()) -> list[Finding]:
    """The worst first. `seen` are the frames that were looked at, which may be a part."""
    if not measures:
        return [Finding("the store is empty", "append episodes before training")]
    found = [
        *_outcomes(measures),
        *_repeated(measures),
        *_short(measures),
        *_actions(spec, measures),
        *_motion(spec, measures),
        *_pictures(seen),
        *_texts(spec, measures),
    ]
    return [finding for finding in found if finding]


def _outcomes(measures: Sequence[Measures]) -> Iterator[Finding]:
    known = [m.success for m in measures if m.success is not None]
    if not known:
        yield Finding(
            "success is unknown in every episode", "label it (`data label`), or a critic has nothing to learn"
        )
    elif all(known):
        yield Finding("every episode succeeded", "a critic sees no failure; collect or keep failed episodes too")
    elif not any(known):
        yield Finding("no episode succeeded", "neither a policy nor a critic can learn the task from this")
    if not any(m.rewarded for m in measures):
        yield Finding(
            "all rewards are zero", "label rewards first: `robot-value data label --labeler.type=terminal_success`"
        )
    if unstable := [m.name for m in measures if m.unstable]:
        yield Finding(f"{counted(unstable)} of a simulator that warned", "leave them out", tuple(unstable))
    if lost := [m.name for m in measures if not m.final_observed and not m.terminated]:
        yield Finding(f"{counted(lost)} without a last frame", "their last step is not used for values", tuple(lost))


def _repeated(measures: Sequence[Measures]) -> Iterator[Finding]:
    same = defaultdict(list)
    for m in measures:
        same[m.content].append(m.name)
    copies = [name for names in same.values() for name in names[1:]]
    if copies:
        advice = "they count twice, and may be in training and validation at once; leave the copies out"
        yield Finding(f"{counted(copies)} with the content of another", advice, tuple(copies))


def _short(measures: Sequence[Measures]) -> Iterator[Finding]:
    if short := [m.name for m in measures if m.steps < SHORT]:
        advice = "their chunks are mostly padding; were they stopped by accident?"
        yield Finding(f"{counted(short)} with fewer than {SHORT} steps", advice, tuple(short))


def _actions(spec: Spec, measures: Sequence[Measures]) -> Iterator[Finding]:
    steps = sum(m.steps for m in measures)
    outside, saturated = (sum(getattr(m, key) for m in measures) / steps for key in ("outside", "saturated"))
    low, high = np.min([m.low for m in measures], 0), np.max([m.high for m in measures], 0)
    limited = []
    for part in spec.parts:
        for d in range(part.start, part.stop):
            name = part.name if part.stop - part.start == 1 else f"{part.name}[{d - part.start}]"
            if outside[d] > OUTSIDE:
                advice = "the limits or the unit of the Spec are wrong, or the recording is"
                where = tuple(m.name for m in measures if m.outside[d])
                yield Finding(
                    f"action {name} is outside its limits in {100 * outside[d]:.1f} % of steps", advice, where
                )
            if SATURATED[0] < saturated[d] < SATURATED[1] and part.kind != "gripper":
                limited.append(f"{name} in {100 * saturated[d]:.0f} %")
            if low[d] == high[d]:
                yield Finding(f"action {name} never changes ({low[d]:g})", "nothing can be learned about it")
    if limited:
        what = f"actions are often at a limit ({', '.join(limited)} of steps)"
        yield Finding(what, "what the teacher wanted beyond it was cut off")


def _motion(spec: Spec, measures: Sequence[Measures]) -> Iterator[Finding]:
    idle = sum(m.idle for m in measures) / sum(m.steps for m in measures)
    if idle > IDLE:
        still = tuple(m.name for m in sorted(measures, key=lambda m: -m.idle / m.steps) if m.idle > IDLE * m.steps)
        yield Finding(f"nothing moves in {100 * idle:.0f} % of steps", "cloning learns to wait; cut pauses", still)
    if gaps := tuple(m.name for m in measures if m.gap > GAP):
        advice = f"everything that moves goes more than {GAP:g} times as far as it does when it is fast, in one frame"
        yield Finding(f"frames seem to be missing inside {counted(gaps)}", advice, gaps)
    spiked = _spiked(measures)
    if spikes := tuple(m.name for m, each in zip(measures, spiked, strict=True) if each.any()):
        of = ", ".join(name for d, name in enumerate(spec.state_names) if spiked[:, d].any())
        advice = f"a single frame leaves its neighbours by more than {100 * SPIKE:g} % of the range"
        yield Finding(f"{counted(spikes)} with spikes in state {of}", advice, spikes)
    moved = np.any([m.moved for m in measures], 0)
    if dead := [name for d, name in enumerate(spec.state_names) if not moved[d]]:
        yield Finding(f"state {', '.join(dead)} never changes", "a dead sensor, or a dimension to leave out")


def _pictures(seen: Sequence[Frames]) -> Iterator[Finding]:
    for camera in dict.fromkeys(f.camera for f in seen):
        mine = [f for f in seen if f.camera == camera]
        if frozen := tuple(f.name for f in mine if f.frozen >= FROZEN):
            advice = f"{FROZEN} or more equal frames in a row while the robot moves; the camera hung"
            yield Finding(f"camera {camera} freezes in {len(frozen)} of {len(mine)} episodes looked at", advice, frozen)
        equal = float(np.mean([f.equal for f in mine]))
        if equal > IDLE:
            yield Finding(
                f"camera {camera}: {100 * equal:.0f} % of frames repeat the one before",
                "it is slower than the control rate; its frames are older than the state beside them",
            )
        if dark := tuple(f.name for f in mine if f.dark > 0.1):
            yield Finding(f"camera {camera} is black in {counted(dark)}", "leave them out", dark)


def _texts(spec: Spec, measures: Sequence[Measures]) -> Iterator[Finding]:
    tasks = Counter(m.task for m in measures)
    if spec.language and "" in tasks:
        where = tuple(m.name for m in measures if not m.task)
        yield Finding(f"{counted(where)} without a task text", "a policy that reads it is told nothing", where)
    if len(tasks) > 1 and min(tasks.values()) < 0.05 * len(measures):
        rare, n = tasks.most_common()[-1]
        yield Finding(f"task {rare!r} has {n} of {len(measures)} episodes", "it will hardly be seen in training")


def _longest(run: np.ndarray) -> int:
    """Length in frames of the longest run of True in bool[frames - 1]; a run of n equal pairs is n + 1 frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], run.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    return int(lengths.max()) + 1 if len(lengths) else 0


def _spiked(measures: Sequence[Measures]) -> np.ndarray:
    """bool[E, S]: where a spike is large beside the range, and beside what the dimension does in other episodes."""
    spread = np.max([m.state_high for m in measures], 0) - np.min([m.state_low for m in measures], 0)
    spike = np.array([m.spike for m in measures])
    return (spike > SPIKE * spread) & (spike > APART * np.quantile(spike, USUAL, axis=0, method="lower"))


def _spike(states: np.ndarray) -> np.ndarray:
    """float64[S]: how far a frame lies from both neighbours that are at least four times closer to each other."""
    if len(states) < 3:
        return np.zeros(states.shape[1])
    states = states.astype(np.float64)
    moves, across = np.abs(np.diff(states, axis=0)), np.abs(states[2:] - states[:-2])
    out = np.minimum(moves[:-1], moves[1:])
    return np.where(across < 0.25 * out, out, 0.0).max(0)


def _gap(moves: np.ndarray) -> float:
    """Largest median over the dimensions that change in most frames; 0 where fewer than three do."""
    busy = (moves > 0).mean(0) > 0.8 if len(moves) else np.zeros(moves.shape[1], bool)
    if busy.sum() < 3:
        return 0.0
    fast = np.quantile(moves[:, busy], 0.9, axis=0)
    return float(np.median(moves[:, busy] / fast, axis=1).max())
