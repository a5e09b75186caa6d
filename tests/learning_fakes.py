"""Tiny specs, statistics and batches for the learning tests; everything fits in a few kilobytes."""

from __future__ import annotations

import numpy as np
import torch

from robot_value.normalize import Statistics
from robot_value.sampling import ChunkBatch, TensorObservation
from robot_value.types import ActionPart, Camera, Spec

TASKS = ("lift the cube", "open the door")


def spec(horizon: int = 4, n_obs_steps: int = 1, state: int = 3, images: bool = False, language: bool = False) -> Spec:
    """Two action dims with unlike limits, so that a mixed-up unit shows."""
    arm = ActionPart("arm", 0, 1, "position", "m", (-0.1,), (0.1,))
    grip = ActionPart("gripper", 1, 2, "gripper", "1", (0.0,), (8.0,))
    return Spec(
        parts=(arm, grip),
        state_names=tuple(f"s{i}" for i in range(state)),
        state_units=("m",) * state,
        dt=0.1,
        cameras=(Camera("front", 32, 32),) if images else (),
        horizon=horizon,
        n_obs_steps=n_obs_steps,
        language=language,
    )


def statistics(spec: Spec) -> dict[str, Statistics]:
    """As of states N(1, 2) and actions uniform within the limits."""
    n, low, high = spec.state_dim, spec.low, spec.high
    return {
        "state": Statistics(np.full(n, 1.0), np.full(n, 2.0), np.full(n, -5.0), np.full(n, 7.0), 1000),
        "action": Statistics((low + high) / 2, (high - low) / 12**0.5, low, high, 1000),
    }


def tensor_observation(spec: Spec, batch: int, generator: torch.Generator) -> TensorObservation:
    rows = (batch, spec.n_obs_steps)
    images = {
        c.name: torch.randint(0, 256, (*rows, c.height, c.width, 3), generator=generator, dtype=torch.uint8)
        for c in spec.cameras
    }
    state = 1 + 2 * torch.randn((*rows, spec.state_dim), generator=generator)
    return TensorObservation(state, images, torch.arange(batch) % len(TASKS), TASKS)


def random_batch(spec: Spec, batch: int = 8, scope: int | None = None, seed: int = 0) -> ChunkBatch:
    """Random windows, all steps valid, nothing terminates, rewards N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    scope, length = scope or spec.horizon, spec.horizon
    low, high = torch.from_numpy(spec.low), torch.from_numpy(spec.high)
    return ChunkBatch(
        observation=tensor_observation(spec, batch, generator),
        chunks=low + (high - low) * torch.rand((batch, length, spec.action_dim), generator=generator),
        rewards=torch.randn((batch, length), generator=generator),
        valid=torch.ones((batch, length), dtype=torch.bool),
        terminated=torch.zeros((batch, length), dtype=torch.bool),
        next={scope: tensor_observation(spec, batch, generator)},
        mc_return=torch.randn(batch, generator=generator),
        weight=torch.ones(batch),
        success=torch.ones(batch),
        index=torch.arange(batch),
    )
