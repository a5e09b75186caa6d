"""Bugs that are planted into recorded episodes, by seed: which episodes, which dimension, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robot_value.types import Episode, Spec

SHARE = 0.05  # of the episodes
USED = 0.02  # of its range that an action dim's standard deviation is at least, where its sign is flipped


@dataclass(frozen=True)
class MemoryLog:
    """Episodes as a log (robot_value.replay.logs.Log)."""

    spec: Spec
    episodes: dict[str, Episode]

    def names(self) -> list[str]:
        return list(self.episodes)

    def read(self, name: str) -> Episode:
        return self.episodes[name]


@dataclass(frozen=True)
class Bug:
    what: str  # text in the warning that must come
    spoil: Callable[[Episode], Episode]
    everywhere: bool = False  # in all episodes


def plant(log: MemoryLog, bug: Bug, rng: np.random.Generator) -> tuple[MemoryLog, set[str]]:
    """The log with the bug in SHARE of its episodes, and which."""
    names = log.names()
    count = len(names) if bug.everywhere else max(1, round(SHARE * len(names)))
    chosen = {names[i] for i in rng.choice(len(names), count, replace=False)}
    spoiled = {name: bug.spoil(episode) if name in chosen else episode for name, episode in log.episodes.items()}
    return replace(log, episodes=spoiled), chosen


def action_sign(log: MemoryLog, rng: np.random.Generator) -> Bug:
    """Of an arm dim that the log makes use of."""
    spread = np.concatenate([episode.actions for episode in log.episodes.values()]).std(0)
    used = spread > USED * (log.spec.high - log.spec.low)
    arm = [d for part in log.spec.parts if part.kind != "gripper" for d in range(part.start, part.stop) if used[d]]
    sign = _signs(log.spec.action_dim, [int(rng.choice(arm))])
    return Bug("has the other sign", lambda episode: replace(episode, actions=episode.actions * sign, commanded=None))


def sensor_sign(log: MemoryLog, rng: np.random.Generator) -> Bug:
    """Of a joint's position and velocity; of the hand's position where joints are not recorded."""
    names = log.spec.state_names
    joints = [n for n in names if n.startswith(("joint_", "robot0_joint_pos_")) and not n.endswith("velocity")]
    chosen = str(rng.choice(joints or [n for n in names if n.startswith("robot0_eef_pos")]))
    sign = _signs(len(names), [d for d, name in enumerate(names) if name in (chosen, f"{chosen}_velocity")])
    return Bug("has the other sign", lambda episode: replace(episode, states=episode.states * sign))


def swapped_label(log: MemoryLog, rng: np.random.Generator) -> Bug:
    """Success, ending and the last reward tell the same wrong story: no contradiction gives it away."""
    last = {ok: [e.rewards[-1] for e in log.episodes.values() if bool(e.success) == ok] for ok in (True, False)}

    def spoil(episode: Episode) -> Episode:
        success, rewards = not episode.success, episode.rewards.copy()
        rewards[-1] = np.median(last[success])
        return replace(episode, success=success, rewards=rewards, terminated=success, truncated=not success)

    return Bug("labelled", spoil)


def shifted(steps: int, everywhere: bool = False) -> Callable[[MemoryLog, np.random.Generator], Bug]:
    """Actions recorded a step late (1) or early (-1)."""

    def spoil(episode: Episode) -> Episode:
        at = np.clip(np.arange(len(episode)) - steps, 0, len(episode) - 1)
        return replace(episode, actions=episode.actions[at], commanded=None)

    whole = "one step late in the whole log" if steps > 0 else "actions are early in the whole log"
    what = whole if everywhere else "actions are one step"
    return lambda log, rng: Bug(what, spoil, everywhere)


def frozen_camera(log: MemoryLog, rng: np.random.Generator) -> Bug:
    """From the middle of the episode on, one camera shows what it showed there."""
    camera = str(rng.choice([camera.name for camera in log.spec.cameras]))

    def spoil(episode: Episode) -> Episode:
        pixels = episode.images[camera].copy()
        pixels[len(pixels) // 2 :] = pixels[len(pixels) // 2]
        return replace(episode, images={**episode.images, camera: pixels})

    return Bug("freezes", spoil)


BUGS = {
    "action sign": action_sign,
    "sensor sign": sensor_sign,
    "labels swapped": swapped_label,
    "late in some": shifted(1),
    "early in some": shifted(-1),
    "late everywhere": shifted(1, everywhere=True),
    "early everywhere": shifted(-1, everywhere=True),
}


def counts(warned: Sequence[str], planted: set[str]) -> tuple[int, int, int]:
    """Found, falsely accused, missed."""
    named = set(warned)
    return len(named & planted), len(named - planted), len(planted - named)


def _signs(size: int, flipped: Sequence[int]) -> np.ndarray:
    sign = np.ones(size, np.float32)
    sign[list(flipped)] = -1
    return sign
