"""System 1 (Hume, arXiv 2505.21432): a small policy finishes the chosen chunk at the control rate.

    x = (1 - start) z + start chunk[offset:],   then the small policy's own flow from `start` to 1

Where to go was decided slowly, by a large policy and a critic; what the small policy adds is the newest observation,
of its own cameras and history. A small `start` leaves more to it, 1 plays the chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import randomness
from ...types import Decision, Observation, Spec
from ..memory import Memory
from ._recent import Recent, expect_known


@dataclass(frozen=True)
class Config:
    checkpoint: str = ""  # folder of a flow policy; the chunk policy of System 1
    every: int = 1  # control steps between two looks; 1 reacts at the control rate
    start: float = 0.5  # flow time at which the small policy takes over; ours, tune on validation seeds
    steps: int = 0  # integration steps from `start` to 1; 0: the policy's own
    seed: int = 0  # key of its noise
    device: str = "cpu"  # where the small policy runs

    def build(self) -> Fast:
        from ...training import load_model

        if not self.checkpoint:
            raise ValueError("checkpoint: expected the folder of a small flow policy, got none; train one first")
        policy = load_model(Path(self.checkpoint), self.device)
        policy.sample_steps = self.steps or policy.sample_steps
        return Fast(policy, self.every, self.start, self.seed, torch.device(self.device))


@dataclass
class Fast:
    policy: Any  # a ChunkPolicy with `finish`
    every: int = 1
    start: float = 0.5
    seed: int = 0
    device: torch.device = torch.device("cpu")
    recent: Recent = field(default_factory=Recent)
    plan: Memory = field(default_factory=Memory)  # the small policy's newest chunk
    number: np.ndarray | None = None  # int64[B], which decision it was made from

    def __post_init__(self) -> None:
        if not hasattr(self.policy, "finish"):
            raise ValueError(f"expected a flow policy, got {type(self.policy).__name__} without finish(); train a flow")
        if not 1 <= self.every <= self.policy.spec.horizon or not 0 <= self.start <= 1:
            raise ValueError(
                f"expected 1 <= every <= {self.policy.spec.horizon} (the small policy's horizon) and start in [0, 1], "
                f"got every={self.every} and start={self.start}"
            )

    def check(self, spec: Spec) -> None:
        """The robot may have cameras, history and texts that the small policy does not look at, but nothing less."""
        own = self.policy.spec
        cameras = tuple(camera for camera in spec.cameras if camera.name in {c.name for c in own.cameras})
        history, language = min(spec.n_obs_steps, own.n_obs_steps), spec.language and own.language
        seen = replace(spec, cameras=cameras, horizon=0, n_obs_steps=history, language=language)
        replace(own, horizon=0).check(seen, "the robot, as System 1 sees it,")

    def action(self, observation: Observation, decision: Decision, offset: np.ndarray) -> np.ndarray:
        """float32[B, A]."""
        self.plan.forget(self.recent.add(observation, decision))
        number = self.recent.owner(self.recent.said(observation)) + self.recent.dropped
        chunk = self.recent.in_force(observation)  # [B, H, A] from this step on
        expect_known(chunk[:, 0], observation, decision)
        if self.plan.recall(observation, observation.step) is None:
            self._begin(observation)
        due = self._due(observation, number) & ~np.isnan(chunk[:, 0]).any(-1)
        if due.any():
            self.plan.chunk[due] = self.finish(observation.rows(due), chunk[due])
            self.plan.start_step[due], self.plan.episode[due] = observation.step[due], observation.episode[due]
        self.number = number
        return expect_known(self.plan.recall(observation, observation.step)[:, 0], observation, decision)

    def finish(self, observation: Observation, chunk: np.ndarray) -> np.ndarray:
        """The plan float32[R, h, A] of the small policy's horizon; where it is not finite, the chunk [R, H, A] itself.

        A chunk that is nearly over is continued by its last action. Nobody executes that: it only fills the horizon.
        """
        rough = _filled(chunk, self.policy.spec.horizon)
        shape = (1, *rough.shape[1:])
        noise = randomness.normal(self.seed, observation.episode, observation.step, shape, "fast")
        context = self.policy.encode(_seen(observation, self.policy.spec))
        chunks, noise = (torch.from_numpy(x).to(self.device) for x in (rough[:, None], noise))
        plan = self.policy.finish(context, chunks, self.start, noise)[:, 0].cpu().numpy()
        return np.where(np.isfinite(plan).all((1, 2), keepdims=True), plan, rough)

    def _begin(self, observation: Observation) -> None:
        shape = (observation.batch_size, self.policy.spec.horizon, self.policy.spec.action_dim)
        self.plan = Memory(np.full(shape, np.nan, np.float32), observation.step.copy(), observation.episode.copy())
        self.number = np.full(observation.batch_size, -1)

    def _due(self, observation: Observation, number: np.ndarray) -> np.ndarray:
        """bool[B]: a new decision came into force, the plan is old, or there is none."""
        unplanned = np.isnan(self.plan.recall(observation, observation.step)[:, 0]).any(-1)
        return unplanned | (number != self.number) | (observation.step - self.plan.start_step >= self.every)


def _filled(chunk: np.ndarray, horizon: int) -> np.ndarray:
    """float32[R, h, A] of chunk [R, H, A]: cut at h, or continued by the last known action."""
    known = (~np.isnan(chunk).any(-1)).sum(1)  # the leading ones
    step = np.minimum(np.arange(horizon), known[:, None] - 1)
    return chunk[np.arange(len(chunk))[:, None], step]


def _seen(observation: Observation, spec: Spec) -> Observation:
    """The cameras and the last frames that a model of `spec` looks at."""
    newest = slice(-spec.n_obs_steps, None)
    images = {camera.name: observation.images[camera.name][:, newest] for camera in spec.cameras}
    return replace(observation, state=observation.state[:, newest], images=images)
