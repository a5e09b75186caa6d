"""The seams: a handful of methods each, no code. Third parties implement these; steering and the loop know only these.

Shape letters as in types.py. Whatever crosses a seam is in the Spec's units; models normalise inside themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .types import Decision, Episode, Observation, Outcome, Scores, Selection, Situation, Spec, Steering

if TYPE_CHECKING:
    import torch

    from .sampling import ChunkBatch
    from .steering.proposal import Request


class Context(Protocol):
    """An encoded observation, made once per decision."""

    def repeat(self, n: int) -> Context: ...

    def select(self, mask: torch.Tensor) -> Context: ...


class ChunkPolicy(Protocol):
    spec: Spec  # with horizon H and n_obs_steps O chosen

    def encode(self, observation: Observation) -> Context: ...

    def sample(
        self,
        context: Context,
        n: int,
        noise: torch.Tensor,  # float32[B, n, H, A], standard normal
        prefix: torch.Tensor | None = None,  # float32[B, p, A], actions that will be executed first, spec units
        guide: Callable[[torch.Tensor, float], Steering] | None = None,  # (x_hat [B, n, H, A], t) -> Steering
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chunks float32[B, n, H, A] in spec units and their lengths int64[B, n].

        A chunk starts at the observation's step: given a prefix, its first p steps are that prefix.
        """
        ...

    def loss(
        self, batch: ChunkBatch, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Where trainable: the loss and detached metrics; all randomness from `generator`."""
        ...


class Critic(Protocol):
    spec: Spec
    scope: int  # how many leading steps of a chunk it scores; must equal what will be executed

    def encode(self, observation: Observation, policy_context: Context | None = None) -> Context: ...

    def score(self, context: Context, chunks: torch.Tensor, lengths: torch.Tensor) -> Scores: ...

    def update(self, batch: ChunkBatch, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """One gradient step; returns detached metrics (read them every n steps, not every step)."""
        ...


class Proposer(Protocol):
    uses_critic: bool
    anytime: bool  # whether candidates may be asked for block by block: each depends on its own noise alone

    def __call__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        """Chunks float32[B, N, H, A] in spec units, NaN where refused, and lengths int64[B, N]; 0 is the plain one."""
        ...


class Guide(Protocol):
    uses_critic: bool

    def begin(self, request: Request) -> Callable[[torch.Tensor, float], Steering]:
        """This decision's (x_hat float32[B, N, H, A] in spec units, t in [0, 1]) -> Steering, for the sampler."""
        ...


class Selector(Protocol):
    uses_critic: bool  # whether it reads scores; then a candidate without a finite score cannot be selected

    def __call__(self, chunks: torch.Tensor, scores: Scores, situation: Situation) -> Selection: ...


class Gate(Protocol):
    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        """bool[B] whether the selection is used, and the reason where it is not."""
        ...


class ChunkFollower(Protocol):
    """One that mixes chunks has `check(spec)` as well: which numbers may be mixed is the robot's to say."""

    def action(self, observation: Observation, decision: Decision, offset: np.ndarray) -> np.ndarray:
        """float32[B, A] for the control step `offset` int64[B] steps after the decision's start."""
        ...


class Robot(Protocol):
    spec: Spec
    batch_size: int

    def reset(self, tasks: Sequence[str], seeds: Sequence[int], rows: Sequence[int] | None = None) -> Observation: ...

    def execute(self, decision: Decision, follower: ChunkFollower) -> Outcome:
        """Control steps happen until the next decision is due. Rows that are done, or execute 0, stay as they are."""
        ...

    def close(self) -> None: ...


class Watcher(Protocol):
    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None: ...

    def on_episode(self, episode: Episode) -> None: ...


class Snapshot(Protocol):
    """Simulated robots only: a restored rollout is bit-identical."""

    def save_state(self) -> Sequence[Mapping[str, Any]]: ...

    def load_state(self, states: Sequence[Mapping[str, Any]], rows: Sequence[int] | None = None) -> Observation: ...
