"""The value of a state, of a trained critic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..types import Observation, Spec


def critic_value(folder: str, data: Spec) -> Callable[[np.ndarray], np.ndarray]:
    """states float32[n, S] -> float32[n], by the value network V of a saved critic (iql and others that have one)."""
    from ..training import load_model  # a labeler without a critic does not stand on training

    critic = load_model(folder)
    spec = critic.spec
    spec.check(data, who=f"the dataset (for {folder})")
    if not hasattr(critic, "v") or spec.cameras or spec.language or spec.n_obs_steps != 1:
        got = f"{critic.version}: {len(spec.cameras)} cameras, language={spec.language}, n_obs_steps={spec.n_obs_steps}"
        raise ValueError(
            f"critic: expected one with a value network of one state (as iql), got {got}; leave it out to fit a value"
        )

    @torch.no_grad()
    def value(states: np.ndarray) -> np.ndarray:
        return critic.v(critic.encode(_observation(states, spec.action_dim)).value)[0].cpu().numpy()

    return value


def _observation(states: np.ndarray, action_dim: int) -> Observation:
    n = len(states)
    whole = np.zeros(n, np.int64)
    pending = np.zeros((n, 0, action_dim), np.float32)
    return Observation(states[:, None], {}, ("",) * n, np.zeros(n), whole, whole, pending, whole)
