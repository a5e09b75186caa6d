"""Splice without a jolt: at a switch of chunks the gap between the old plan and the new one closes over m steps.

    a = new + w (old - new),  w(u) = 1 - 10 u^3 + 15 u^4 - 6 u^5,  u = (i + 1) / (m + 1) at the i-th step of the new one

w' = w'' = 0 at both ends, so that position, velocity and acceleration go over continuously (Flash & Hogan 1985). Only
absolute targets are paths. Relative ones pass through: a share of the old plan's increments would be added to a plan
that counts from elsewhere, and nothing takes it out again; they are velocities whose own jump the integral smooths.
Grippers pass through too: half closed is not on the way from open to closed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...types import Decision, Observation, Spec
from ..memory import Memory
from ._mix import mix
from ._recent import Recent, expect_known, expect_spec


@dataclass(frozen=True)
class Config:
    m: int = 4  # control steps a gap takes to close; 0.2 s at 20 Hz, half of a usual k = 8

    def build(self) -> Blend:
        if self.m < 1:
            raise ValueError(f"m: expected at least 1 step, got {self.m}; follower splice does not blend")
        return Blend(self.m)


@dataclass
class Blend:
    m: int
    spec: Spec | None = None
    recent: Recent = field(default_factory=Recent)
    plan: Memory = field(default_factory=Memory)  # what is being executed, from its last switch on
    number: np.ndarray | None = None  # int64[B], which decision the plan leads into

    def check(self, spec: Spec) -> None:
        self.spec = spec

    def action(self, observation: Observation, decision: Decision, offset: np.ndarray) -> np.ndarray:
        """float32[B, A]."""
        self.plan.forget(self.recent.add(observation, decision))
        said = self.recent.said(observation)
        owner = self.recent.owner(said)
        self._follow(observation, said[owner, np.arange(len(owner))], owner + self.recent.dropped)
        return expect_known(self.plan.recall(observation, observation.step)[:, 0], observation, decision)

    def _follow(self, observation: Observation, new: np.ndarray, number: np.ndarray) -> None:
        """Plan the way into `new` float32[B, H, A] (from this step on) where another decision came into force."""
        old = self.plan.recall(observation, observation.step - 2)  # two executed steps, then the old plan's rest
        if old is None:
            self.plan, self.number = Memory(new, observation.step.copy(), observation.episode.copy()), number
            return
        moving = ~np.isnan(old[:, 1]).any(-1)
        switched = number != self.number
        into = np.flatnonzero(switched & moving)
        if len(into):
            new[into] = self._into(_continued(old[into]), new[into])
        self.plan.chunk[switched], self.plan.start_step[switched] = new[switched], observation.step[switched]
        self.plan.episode[switched], self.number = observation.episode[switched], number

    def _into(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        spec, horizon = expect_spec(self.spec), new.shape[1]
        u = np.minimum((np.arange(horizon) + 1) / (self.m + 1), 1)
        w = 1 - 10 * u**3 + 15 * u**4 - 6 * u**5
        paths = [[p.reference == "absolute" and p.kind != "gripper"] * (p.stop - p.start) for p in spec.parts]
        share = np.broadcast_to(w[:, None] * np.concatenate(paths), new.shape)  # of the old plan
        newest = np.ones(len(new), np.int64)
        return mix(np.stack([old, new], 1), np.stack([share, 1 - share], 1), newest, spec)


def _continued(old: np.ndarray) -> np.ndarray:
    """float32[R, H, A] from old [R, H, A] that began two steps ago: past its end it keeps its last velocity."""
    rows, step = np.arange(len(old)), np.arange(old.shape[1] + 2)
    last = old.shape[1] - 1 - (~np.isnan(old[:, ::-1, 0])).argmax(1)  # int64[R]
    end = old[rows, last][:, None]
    velocity = np.nan_to_num(end - old[rows, last - 1][:, None])
    beyond = end + velocity * (step - last[:, None])[..., None]
    held = np.pad(old, ((0, 0), (0, 2), (0, 0)))
    return np.where((step <= last[:, None])[..., None], held, beyond)[:, 2:].astype(np.float32)
