"""What packed arithmetic changes in the choice among candidates, on networks that were trained on data with structure.

Regret is what the chosen candidate lacks to the best one, both valued by the plain float32 critic, over the standard
deviation of the candidates' values: 0 where the choice is the same, about 2 for the worst choice of a random critic.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robot_value.critics.candidates import best_of_n, propose, values
from robot_value.critics.chunk_critic import ChunkCritic
from robot_value.episodes.cache import Cache, open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.policies.flow import FlowPolicy
from robot_value.sampling import ChunkBatch
from robot_value.types import ActionPart, Episode, Spec

STATE, ACTION, HORIZON = 28, 5, 5
CANDIDATES = 32


def structured_cache(folder: Path, episodes: int = 40, steps: int = 80) -> Cache:
    """States wander; the expert acts tanh(W s) or its mirror image, with noise; reward is nearness to tanh(W s)."""
    rng = np.random.default_rng(0)
    arm = ActionPart("arm", 0, ACTION, "other", "1", (-1.0,) * ACTION, (1.0,) * ACTION)
    spec = Spec((arm,), tuple(f"s{i}" for i in range(STATE)), ("1",) * STATE, dt=0.05)
    best = rng.standard_normal((STATE, ACTION)) / STATE**0.5
    with EpisodeStore.create(folder / "store", spec) as store:
        for _ in range(episodes):
            states = _wander(rng, steps + 1)
            wanted = np.tanh(states[:-1] @ best)
            mode = rng.choice([-1.0, 1.0], (steps, 1))
            actions = np.clip(mode * wanted + 0.2 * rng.standard_normal(wanted.shape), -1, 1).astype(np.float32)
            rewards = np.exp(-np.square(actions - wanted).sum(1)).astype(np.float32)
            store.append(Episode(spec, states, {}, actions, rewards, False, True, None))
        return open_cache(store, progress=False)


def _wander(rng: np.random.Generator, steps: int) -> np.ndarray:
    """float32[steps, STATE], each N(0, 1), neighbours correlated by 0.9."""
    states = np.empty((steps, STATE), np.float32)
    states[0] = rng.standard_normal(STATE)
    for i in range(1, steps):
        states[i] = 0.9 * states[i - 1] + (1 - 0.9**2) ** 0.5 * rng.standard_normal(STATE)
    return states


def fidelity(policy: FlowPolicy, critic: ChunkCritic, batch: ChunkBatch, precision: str) -> dict[str, float]:
    """Packed against plain, same noise, over the batch's observations."""
    plain_chunks, plain = judged(policy, critic, batch, "off")
    chunks, q = judged(policy, critic, batch, precision)
    index, _ = best_of_n(q, chunks)
    best, spread = plain.amax(1), plain.std(1, correction=0)  # [B]
    regret = (best - plain.gather(1, index[:, None])[:, 0]) / spread
    return {
        "max_dx": float((chunks - plain_chunks).abs().max()),  # in std of the actions
        "max_dq": float(((q - plain).abs() / spread[:, None]).max()),  # in std of Q over the candidates
        "argmax_agreement": float((index == plain.argmax(1)).float().mean()),
        "mean_regret": float(regret.mean()),
        "max_regret": float(regret.max()),
    }


def judged(policy: FlowPolicy, critic: ChunkCritic, batch: ChunkBatch, precision: str) -> tuple[Tensor, Tensor]:
    """Candidates [B, n, H, A], normalized, and their values [B, n]."""
    generator = torch.Generator().manual_seed(0)
    chunks = propose(policy, batch.observation, CANDIDATES, generator, precision)
    chunks = critic.actions.normalize(chunks)
    with torch.no_grad():
        features = critic.features(batch.observation)
    return chunks, critic.pessimistic(values(critic.q, features, chunks, precision=precision))
