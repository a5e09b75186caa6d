"""A world small enough to check evaluation by hand: push a counter to 3 within 8 steps.

State p starts at seed % 3 / 10, each step adds the action, an episode ends in success at p >= 3. Actions are
0.6 * noise clipped to [-1, 1], so the plain policy wanders; the honest critic scores a chunk by how far it pushes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from robot_value.types import ActionPart, Features, Observation, Outcome, Scores, Spec

STEPS, HORIZON, GOAL = 8, 2, 3.0
SPEC = Spec(
    parts=(ActionPart("push", 0, 1, "other", "1", (-1.0,), (1.0,)),),
    state_names=("p",),
    state_units=("1",),
    dt=0.1,
    horizon=HORIZON,
    n_obs_steps=1,
)


@dataclass
class Counter:
    """A Robot with B independent rows and exact save/load."""

    batch_size: int = 4
    unstable_seeds: tuple[int, ...] = ()
    spec: Spec = SPEC
    restored: int = 0  # how often rows were restored
    p: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.p, self.t = np.zeros(self.batch_size), np.zeros(self.batch_size, np.int64)
        self.seed, self.over = np.zeros(self.batch_size, np.int64), np.zeros(self.batch_size, bool)

    def reset(self, tasks, seeds, rows=None) -> Observation:
        self.seed = np.array(seeds, np.int64)
        self.p, self.t = self.seed % 3 / 10, np.zeros(self.batch_size, np.int64)
        self.over = np.zeros(self.batch_size, bool)
        return self._observe()

    def execute(self, decision, follower) -> Outcome:
        k = int(decision.execute.max())
        shape = (self.batch_size, k)
        rewards, valid = np.zeros(shape, np.float32), np.zeros(shape, bool)
        executed, states = np.zeros((*shape, 1), np.float32), np.zeros((*shape, 1), np.float32)
        for i in range(k):
            live = ~self.over & (i < decision.execute)
            action = follower.action(self._observe(), decision, np.full(self.batch_size, i))
            self.p = np.where(live, self.p + action[:, 0], self.p)
            self.t += live
            rewards[:, i], valid[:, i] = live & (self.p >= GOAL), live
            executed[:, i], states[:, i, 0] = action, self.p
            self.over |= live & ((self.p >= GOAL) | (self.t >= STEPS))
        success = self.p >= GOAL
        return Outcome(
            observation=self._observe(),
            states=states,
            images={},
            executed=executed,
            commanded=executed,
            executed_valid=valid,
            rewards=rewards,
            source=np.zeros(shape, np.uint8),
            terminated=success,
            truncated=self.over & ~success,
            success=success,
            unstable=np.isin(self.seed, self.unstable_seeds) & self.over,
        )

    def save_state(self):
        return [
            {"p": self.p[i], "t": self.t[i], "seed": self.seed[i], "over": self.over[i]} for i in range(self.batch_size)
        ]

    def load_state(self, states, rows=None) -> Observation:
        self.restored += len(states)
        self.p = np.array([state["p"] for state in states])
        self.t = np.array([state["t"] for state in states])
        self.seed = np.array([state["seed"] for state in states])
        self.over = np.array([state["over"] for state in states])
        return self._observe()

    def close(self) -> None:
        """Nothing to release."""

    def _observe(self) -> Observation:
        batch = self.batch_size
        return Observation(
            state=self.p.astype(np.float32)[:, None, None],
            images={},
            task=("",) * batch,
            time=self.t * 0.1,
            step=self.t.copy(),
            episode=self.seed.copy(),
            pending=np.zeros((batch, 0, 1), np.float32),
            committed=np.zeros(batch, np.int64),
        )


class Wanderer:
    """ChunkPolicy: 0.6 * noise."""

    spec = SPEC

    def encode(self, observation):
        return Features(torch.from_numpy(observation.state[:, -1]))

    def sample(self, context, n, noise, prefix=None, guide=None):
        return 0.6 * noise, torch.full(noise.shape[:2], HORIZON)


@dataclass
class PushCritic:
    """Scores a chunk by sign * its sum: +1 is the truth, -1 its opposite, 0 knows nothing."""

    sign: float = 1.0
    spec: Spec = SPEC
    scope: int = HORIZON

    def encode(self, observation, policy_context=None):
        return policy_context

    def score(self, context, chunks, lengths):
        value = self.sign * chunks.sum((2, 3)) + context.value
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))
