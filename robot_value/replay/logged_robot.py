"""A Robot that plays recorded episodes: the steerer meets exactly the observations of the log, and changes nothing.

What was executed is what the log says was executed. The next decision is due where the log's own recorder decided, or,
in data without decisions, after the steps that the steerer wanted to execute.

A robot that decides while it moves (committed > 0) is asked where it was asked then, and is told the same promises:
what the log commanded until the decision took effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..protocols import ChunkFollower
from ..types import Decision, Episode, Observation, Outcome
from .logs import Ahead, Log


@dataclass
class Playing:
    """One robot's episode and how far it has come."""

    episode: Episode
    number: int  # in the robot's `names`
    key: int  # of the episode's randomness: the seed it was recorded with, else its number
    at: int = 0  # t, control step of the next decision

    @property
    def done(self) -> bool:
        return self.at >= len(self.episode)

    def chunk(self, step: int, horizon: int) -> tuple[np.ndarray, int]:
        """float32[H, A] that was executed from `step` on, the last action repeated past the end, and its length."""
        last = len(self.episode) - 1
        first = min(step, last)  # a robot whose episode has ended is looked at, too
        return self.episode.actions[np.minimum(np.arange(first, first + horizon), last)], min(horizon, last + 1 - first)

    def due(self, execute: int, every: int | None) -> int:
        """Control step of the decision after this one."""
        if every or not len(self.made):
            return min(self.at + max(1, every or execute), len(self.episode))
        later = self.made[np.searchsorted(self.made, self.at, "right") :]
        return min(int(later[0]), len(self.episode)) if len(later) else len(self.episode)

    @cached_property
    def made(self) -> np.ndarray:
        """int64[decisions], control step of the observation that each logged decision was made from."""
        return np.array([int(decision.made_at[0]) for decision in self.episode.decisions], np.int64)

    def promised(self, every: int | None) -> np.ndarray:
        """float32[P, A]: what the robot was told already when the log decided here; it comes before any new chunk."""
        k = 0
        if not every and (here := np.flatnonzero(self.made == self.at)).size:
            decision = self.episode.decisions[here[0]]
            k = int(decision.start_step[0]) - self.at
        told = self.episode.actions if self.episode.commanded is None else self.episode.commanded
        return told[self.at : self.at + k]


class LoggedRobot:
    """Seeds are the episodes' numbers in `names`; the wave after the one that plays is being read already."""

    def __init__(
        self,
        log: Log,
        names: Sequence[str] | None = None,  # None: all
        batch_size: int = 1,
        n_obs_steps: int = 1,
        every: int | None = None,  # control steps between decisions; None: the log's own, else the steerer's
    ) -> None:
        self.batch_size, self.n_obs_steps, self.every = batch_size, n_obs_steps, every
        self.names = tuple(log.names() if names is None else names)
        self.log = log if isinstance(log, Ahead) else Ahead.of(log, self.names, batch_size)
        self.spec = log.spec.choose(n_obs_steps=n_obs_steps)
        self.rows: list[Playing] = []

    def reset(self, tasks: Sequence[str], seeds: Sequence[int], rows: Sequence[int] | None = None) -> Observation:
        """Tasks are the log's own; what is asked for is not looked at."""
        if rows is not None:
            raise ValueError("a log is played in whole batches: expected rows=None")
        if bad := [seed for seed in seeds if not 0 <= seed < len(self.names)]:
            raise ValueError(f"seeds: expected numbers of episodes below {len(self.names)}, got {bad[:5]}")
        episodes = {number: self.log.read(self.names[number]) for number in dict.fromkeys(seeds)}
        self.rows = [Playing(episodes[seed], seed, _key(episodes[seed], seed)) for seed in seeds]
        return self._observe()

    def execute(self, decision: Decision, follower: ChunkFollower) -> Outcome:
        """Time passes until the next decision is due. The decision is noted by whoever watches; the log goes on."""
        steps = [
            0 if row.done or not wanted else row.due(int(wanted), self.every) - row.at
            for row, wanted in zip(self.rows, decision.execute, strict=True)
        ]
        longest, spec = max(1, *steps), self.spec
        states = np.zeros((self.batch_size, longest, spec.state_dim), np.float32)
        executed, commanded = np.zeros((2, self.batch_size, longest, spec.action_dim), np.float32)
        rewards = np.zeros((self.batch_size, longest), np.float32)
        valid, source = np.zeros((self.batch_size, longest), bool), np.zeros((self.batch_size, longest), np.uint8)
        images = {
            camera.name: np.zeros((self.batch_size, longest, camera.height, camera.width, 3), np.uint8)
            for camera in spec.cameras
        }
        frames = self._frames(np.arange(1, longest + 1))
        for i, (row, k) in enumerate(zip(self.rows, steps, strict=True)):
            episode, now, after = row.episode, slice(row.at, row.at + k), frames[i, :k]
            states[i, :k], executed[i, :k] = episode.states[after], episode.actions[now]
            rewards[i, :k], valid[i, :k] = episode.rewards[now], True
            commanded[i, :k] = (episode.actions if episode.commanded is None else episode.commanded)[now]
            source[i, :k] = 0 if episode.source is None else episode.source[now]
            for name, pixels in episode.images.items():
                images[name][i, :k] = pixels[after]
            row.at += k
        ended = np.array([row.done for row in self.rows])
        terminated = ended & [row.episode.terminated for row in self.rows]
        return Outcome(
            observation=self._observe(),
            states=states,
            images=images,
            executed=executed,
            commanded=commanded,
            executed_valid=valid,
            rewards=rewards,
            source=source,
            terminated=terminated,
            truncated=ended & ~terminated,
            success=ended & [bool(row.episode.success) for row in self.rows],
            unstable=np.array([bool(row.episode.provenance.get("unstable", False)) for row in self.rows]),
        )

    def close(self) -> None:
        self.log.close()

    def _observe(self) -> Observation:
        seen = list(zip(self.rows, self._frames(np.arange(1 - self.n_obs_steps, 1)), strict=True))
        promised = [row.promised(self.every) for row in self.rows]
        committed = np.array([len(actions) for actions in promised], np.int64)
        pending = np.zeros((self.batch_size, committed.max(), self.spec.action_dim), np.float32)
        for row, actions in zip(pending, promised, strict=True):
            row[: len(actions)] = actions
        at = np.array([row.at for row in self.rows], np.int64)
        return Observation(
            state=np.stack([row.episode.states[frames] for row, frames in seen]),
            images={
                camera.name: np.stack([row.episode.images[camera.name][frames] for row, frames in seen])
                for camera in self.spec.cameras
            },
            task=tuple(row.episode.task for row in self.rows),
            time=at * self.spec.dt,
            step=at,
            episode=np.array([row.key for row in self.rows], np.int64),
            pending=pending,
            committed=committed,
        )

    def _frames(self, offset: np.ndarray) -> np.ndarray:
        """int64[B, .], those at offset [.] from each robot's; before the first and after the last frame, that one."""
        at, last = np.array([(row.at, len(row.episode.states) - 1) for row in self.rows]).T
        return np.clip(at[:, None] + offset, 0, last[:, None])


def _key(episode: Episode, number: int) -> int:
    seed = episode.provenance.get("seed")
    return seed if isinstance(seed, int) else number


def differences(logged: Decision, again: Decision) -> str:
    """The first field in which two decisions of one robot are not equal bit by bit; "" where they are."""
    found = _first_difference(logged, again)
    names = sorted(logged.versions.keys() | again.versions.keys())
    parts = [(name, logged.versions.get(name), again.versions.get(name)) for name in names]
    others = [f"{name} {was}, now {now}" for name, was, now in parts if was != now]
    others += [f"seed {logged.seed}, now {again.seed}"] if logged.seed != again.seed else []
    return f"{found} (recorded with {'; '.join(others)})" if found and others else found


def _first_difference(logged: Decision, again: Decision) -> str:
    fields: Mapping[str, tuple[np.ndarray, np.ndarray]] = {
        name: (np.asarray(getattr(logged, name)), np.asarray(getattr(again, name)))
        for name in ("candidates", "value", "spread", "index", "chunk", "execute")
    }
    for name, (was, now) in fields.items():
        if was.shape != now.shape:
            return f"{name}: logged {list(was.shape)}, now {list(now.shape)}"
        if not np.array_equal(was, now, equal_nan=was.dtype.kind == "f"):
            where = tuple(int(i) for i in np.argwhere(~((was == now) | ((was != was) & (now != now))))[0])
            return f"{name}{list(where)}: logged {was[where]}, now {now[where]}"
    return "" if logged.reason == again.reason else f"reason: logged {logged.reason[0]!r}, now {again.reason[0]!r}"
