"""A synthetic Replayed of known truth: reward 1 at a success's last step, values that are the return plus noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from recorded import make_spec

from robot_value.replay.replayed import LoggedEpisode, Opinion, Replayed


def synthetic(
    episodes: int = 20,
    seed: int = 0,
    n: int = 4,  # N candidates
    horizon: int = 4,  # H
    execute: int = 2,  # k, also the steps between decisions
    steps: tuple[int, int] = (12, 24),  # a success lasts low..high-1 steps, a failure high: its time ran out
    success: float = 0.6,  # share of successful episodes, exact up to rounding
    gamma: float = 0.98,
    critics: Mapping[str, float] | None = None,  # critic -> std of its error; inf: it knows nothing, N(0.5, 0.3)
    bias: float = 0.0,  # every critic's value = return + bias + error
    **changes,
) -> Replayed:
    """Errors are normal with std noise * scale_d, and `spread` is that std, so that spread predicts the error.

    Candidate 0 is the logged chunk plus a little noise; candidates' values are the logged value plus N(0, 0.1); the
    first critic's argmax is chosen. The columns hold "state" float32[D, S], a slow walk of each episode.
    """
    rng, spec = np.random.default_rng(seed), make_spec(n_obs_steps=1)
    won = rng.permutation(episodes) < round(success * episodes)
    lengths = np.where(won, rng.integers(*steps, episodes), steps[1])
    facts = tuple(
        LoggedEpisode(
            name=f"episode_{i:04d}",
            steps=int(t),
            success=bool(w),
            terminated=bool(w),
            unstable=False,
            task="lift",
            rewards=np.eye(1, t, t - 1, dtype=np.float32)[0] * w,
        )
        for i, (t, w) in enumerate(zip(lengths, won, strict=True))
    )
    at = [np.arange(0, t, execute) for t in lengths]
    episode, step = np.repeat(np.arange(episodes), [len(a) for a in at]), np.concatenate(at)
    logged = rng.uniform(spec.low, spec.high, (len(step), horizon, spec.action_dim)).astype(np.float32)
    candidates = rng.uniform(spec.low, spec.high, (len(step), n, horizon, spec.action_dim)).astype(np.float32)
    candidates[:, 0] = logged + rng.normal(0, 0.01, logged.shape)
    returns = won[episode] * gamma ** (lengths[episode] - 1.0 - step)
    walk = [np.cumsum(rng.normal(0, 0.1, (len(a), spec.state_dim)), 0) + rng.normal(size=spec.state_dim) for a in at]
    opinions = {name: _opinion(rng, returns + bias, noise, n) for name, noise in (critics or {"main": 0.1}).items()}
    best = next(iter(opinions.values())).value.argmax(1)
    fields = {
        "spec": spec,
        "horizon": horizon,
        "execute": execute,
        "gamma": gamma,
        "episodes": facts,
        "episode": episode,
        "step": step,
        "logged": logged,
        "length": np.minimum(horizon, lengths[episode] - step),
        "candidates": candidates,
        "chosen": candidates[np.arange(len(step)), best],
        "index": best,
        "reason": np.full(len(step), "chosen"),
        "opinions": opinions,
        "columns": {"state": np.concatenate(walk).astype(np.float32)},
    }
    return Replayed(**(fields | changes))


def _opinion(rng: np.random.Generator, truth: np.ndarray, noise: float, n: int) -> Opinion:
    scale = np.exp(rng.normal(0, 0.5, len(truth))) * (0.3 if math.isinf(noise) else noise)
    logged = (0.5 if math.isinf(noise) else truth) + rng.normal(size=len(truth)) * scale
    value = logged[:, None] + rng.normal(0, 0.1, (len(truth), n))
    spread = np.repeat(scale[:, None], n, 1)
    fields = {
        "value": value,
        "spread": spread,
        "logged_value": logged,
        "logged_spread": scale,
        "chosen_value": value.max(1),
    }
    return Opinion(**{name: column.astype(np.float32) for name, column in fields.items()})
