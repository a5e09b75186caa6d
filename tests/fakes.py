"""Small stand-ins with answers known in closed form: a point mass that may delay decisions, policies, critics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from robot_value.types import (
    EXPERT,
    POLICY,
    ActionPart,
    Decision,
    Episode,
    Features,
    Observation,
    Outcome,
    Scores,
    Spec,
)

DT = 0.1  # s


def point_spec(horizon: int = 8, n_obs_steps: int = 2, limit: float = 1.0) -> Spec:
    """A 2-D point that is told velocities in m/s and knows its position in m."""
    velocity = ActionPart("velocity", 0, 2, "position", "m/s", (-limit, -limit), (limit, limit), reference="current")
    return Spec(
        parts=(velocity,),
        state_names=("x", "y"),
        state_units=("m", "m"),
        dt=DT,
        horizon=horizon,
        n_obs_steps=n_obs_steps,
    )


def observation(spec: Spec, batch: int = 3, seed: int = 0, **changes: Any) -> Observation:
    """A random synchronous observation of B robots in different episodes."""
    rng = np.random.default_rng(seed)
    history = (batch, max(spec.n_obs_steps, 1))
    images = {
        camera.name: rng.integers(0, 256, (*history, camera.height, camera.width, 3)).astype(np.uint8)
        for camera in spec.cameras
    }
    plain = Observation(
        state=rng.standard_normal((*history, spec.state_dim)).astype(np.float32),
        images=images,
        task=("",) * batch,
        time=np.zeros(batch),
        step=np.zeros(batch, np.int64),
        episode=np.arange(batch) + 100,
        pending=np.zeros((batch, 0, spec.action_dim), np.float32),
        committed=np.zeros(batch, np.int64),
    )
    return replace(plain, **changes)


class PointMass:
    """x <- x + DT * velocity from a start drawn by the seed; within 0.1 m of the origin the task is done (reward 1).

    With `delay` d a decision takes effect d control steps after the observation it was made from: until then the robot
    goes on with what it was told before. `execute` returns when the next decision is due, so that a new chunk of k
    steps follows the old one without a gap.
    """

    def __init__(
        self,
        batch_size: int = 2,
        delay: int | Sequence[int] = 0,  # control steps, per robot
        max_steps: int = 40,
        n_obs_steps: int = 2,
        expert: bool = False,  # a scripted driver ignores the chunk
        unstable: Sequence[int] = (),  # seeds whose episode breaks at step 3
    ) -> None:
        self.spec = point_spec(horizon=0, n_obs_steps=0)
        self.batch_size, self.max_steps, self.n_obs_steps = batch_size, max_steps, n_obs_steps
        self.delay = np.broadcast_to(np.asarray(delay), batch_size)
        self.expert, self.breaks = expert, set(unstable)
        self.latents: list[dict[str, Any]] = [{} for _ in range(batch_size)]
        self.closed = False

    def reset(self, tasks: Sequence[str], seeds: Sequence[int], rows: Sequence[int] | None = None) -> Observation:
        rows = range(self.batch_size) if rows is None else rows
        if len(rows) == self.batch_size:
            self.seed, self.task = [0] * self.batch_size, [""] * self.batch_size
            self.history: list[list[np.ndarray]] = [[] for _ in rows]
            self.pending = [np.zeros((0, 2), np.float32) for _ in rows]
            self.step, self.done = np.zeros(self.batch_size, np.int64), np.zeros(self.batch_size, bool)
        for row, task, seed in zip(rows, tasks, seeds, strict=True):
            start = np.random.default_rng(seed).uniform(-1, 1, 2).astype(np.float32)
            self.history[row], self.pending[row] = [start], np.zeros((0, 2), np.float32)
            self.seed[row], self.task[row], self.step[row], self.done[row] = seed, task, 0, False
            self.latents[row] = {"start": start.tolist()}
        return self._observe()

    def execute(self, decision: Decision, follower: Any) -> Outcome:
        observation, batch = self._observe(), self.batch_size
        committed = observation.committed
        later = np.minimum(self.delay, decision.execute - 1)  # executed after the next decision is due
        due = np.where(self.done | (decision.execute == 0), 0, committed + decision.execute - later)
        log = _Log(batch, int(due.max(initial=0)))
        for i in range(log.k):
            offset = np.clip(self.step - decision.start_step, 0, decision.chunk.shape[1] - 1)
            new = follower.action(self._observe(), decision, offset)
            for row in np.flatnonzero((i < due) & ~self.done):
                old = self.pending[row]
                told = self._drive(row) if self.expert else old[i] if i < committed[row] else new[row]
                self._advance(log, row, i, told)
        for row in range(batch):
            told = int((self.step - decision.start_step)[row])
            self.pending[row] = decision.chunk[row, max(told, 0) :] if self.delay[row] else self.pending[row][:0]
        return log.outcome(self._observe(), EXPERT if self.expert else POLICY)

    def close(self) -> None:
        self.closed = True

    def save_state(self) -> list[dict[str, Any]]:
        return [
            {"history": list(self.history[b]), "pending": self.pending[b].copy(), "step": int(self.step[b])}
            | {"done": bool(self.done[b]), "seed": self.seed[b], "task": self.task[b]}
            for b in range(self.batch_size)
        ]

    def _drive(self, row: int) -> np.ndarray:
        return np.clip(-self.history[row][-1] / DT, -1, 1).astype(np.float32)

    def _advance(self, log: _Log, row: int, i: int, told: np.ndarray) -> None:
        executed = np.clip(told, -1, 1)
        position = (self.history[row][-1] + np.float32(DT) * executed).astype(np.float32)
        self.history[row].append(position)
        self.step[row] += 1
        solved = bool(np.hypot(*position) < 0.1)
        broken = self.seed[row] in self.breaks and self.step[row] == 3
        log.states[row, i], log.executed[row, i], log.commanded[row, i] = position, executed, told
        log.valid[row, i], log.rewards[row, i] = True, float(solved)
        log.terminated[row] = solved and not broken
        log.truncated[row] = broken or (not solved and self.step[row] >= self.max_steps)
        log.success[row], log.unstable[row] = solved and not broken, broken
        self.done[row] = log.terminated[row] or log.truncated[row]

    def _observe(self) -> Observation:
        width = max((len(p) for p in self.pending), default=0)
        pending = np.zeros((self.batch_size, width, 2), np.float32)
        for row, actions in enumerate(self.pending):
            pending[row, : len(actions)] = actions
        stacked = [([h[0]] * self.n_obs_steps + h)[-self.n_obs_steps :] for h in self.history]
        return Observation(
            state=np.array(stacked, np.float32),
            images={},
            task=tuple(self.task),
            time=self.step * DT,
            step=self.step.copy(),
            episode=np.array(self.seed, np.int64),
            pending=pending,
            committed=np.array([min(d, len(p)) for d, p in zip(self.delay, self.pending, strict=True)], np.int64),
        )


class _Log:
    """Control-rate arrays of one `execute`, padded to k steps."""

    def __init__(self, batch: int, k: int) -> None:
        self.k = k
        self.states, self.executed, self.commanded = (np.zeros((batch, k, 2), np.float32) for _ in range(3))
        self.valid, self.rewards = np.zeros((batch, k), bool), np.zeros((batch, k), np.float32)
        self.terminated, self.truncated, self.success, self.unstable = (np.zeros(batch, bool) for _ in range(4))

    def outcome(self, observation: Observation, source: int) -> Outcome:
        return Outcome(
            observation=observation,
            states=self.states,
            images={},
            executed=self.executed,
            commanded=self.commanded,
            executed_valid=self.valid,
            rewards=self.rewards,
            source=np.full(self.valid.shape, source, np.uint8),
            terminated=self.terminated,
            truncated=self.truncated,
            success=self.success,
            unstable=self.unstable,
        )


@dataclass
class HomingPolicy:
    """chunk = velocity towards the origin + scale * noise, the same for all H steps but for the noise."""

    spec: Spec = field(default_factory=point_spec)
    scale: float = 0.3  # m/s of noise
    calls: list[str] = field(default_factory=list)

    def encode(self, observation: Observation) -> Features:
        self.calls.append("encode")
        return Features(torch.from_numpy(observation.state[:, -1]))

    def sample(self, context, n, noise, prefix=None, guide=None):
        self.calls.append(f"sample {len(noise)} x {n}, prefix {0 if prefix is None else prefix.shape[1]}")
        chunks = -context.value[:, None, None, : self.spec.action_dim] + self.scale * noise
        if prefix is not None:
            chunks = torch.cat([prefix[:, None].expand(-1, n, -1, -1), chunks[:, :, prefix.shape[1] :]], 2)
        return chunks, torch.full((len(noise), n), self.spec.horizon)


@dataclass
class FixedPolicy:
    """Proposes the same chunks [B, N, H, A] whatever it sees and whatever the noise."""

    spec: Spec
    chunks: torch.Tensor
    lengths: torch.Tensor | None = None

    def encode(self, observation: Observation) -> Features:
        return Features(torch.from_numpy(observation.state[:, -1]))

    def sample(self, context, n, noise, prefix=None, guide=None):
        full = torch.full(self.chunks.shape[:2], self.chunks.shape[2])
        return self.chunks.clone(), full if self.lengths is None else self.lengths


@dataclass
class HomingCritic:
    """value = minus the distance to the origin after the first `scope` steps."""

    spec: Spec = field(default_factory=point_spec)
    scope: int = 4

    def encode(self, observation: Observation, policy_context: Features | None = None) -> Features:
        return Features(torch.from_numpy(observation.state[:, -1]))

    def score(self, context, chunks, lengths) -> Scores:
        end = context.value[:, None] + DT * chunks[:, :, : self.scope].sum(2)
        value = -end.norm(dim=2)
        named = {"risk": -value, "count": value}
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool), named)


@dataclass
class FixedCritic:
    """Says the same scores [B, N] whatever it is asked: gradient 0, risk 0, and the value as familiarity."""

    spec: Spec
    scope: int
    value: torch.Tensor
    spread: torch.Tensor | None = None
    scored: torch.Tensor | None = None
    seen: list[torch.Tensor] = field(default_factory=list)

    def encode(self, observation: Observation, policy_context: Features | None = None) -> Features:
        return Features(torch.from_numpy(observation.state[:, -1]))

    def score(self, context, chunks, lengths) -> Scores:
        self.seen.append(chunks)
        spread = torch.zeros_like(self.value) if self.spread is None else self.spread
        scored = torch.ones_like(self.value, dtype=torch.bool) if self.scored is None else self.scored
        value = self.value + 0.0 * chunks.nan_to_num(0.0).sum()
        return Scores(value, spread.clone(), scored, {"risk": torch.zeros_like(value), "count": value.detach()})


@dataclass
class Notebook:
    """A Watcher that remembers everything."""

    wants_episodes: bool = True
    decisions: list[tuple[Observation, Decision, Outcome]] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        self.decisions.append((observation, decision, outcome))

    def on_episode(self, episode: Episode) -> None:
        self.episodes.append(episode)
