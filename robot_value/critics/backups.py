"""What a critic regresses on: y = sum_{i<k} gamma^i r_i + gamma^k V(s_{t+k}), for every way to say what V is.

A backup turns networks and a batch into the distribution of the next value, atoms [B, K]; `td_target` moves it one
backup earlier, for single actions, n steps, options and chunks alike. The formula stands above each function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..networks.seeding import normal
from ..ranks import shared
from ..sampling import bootstrap, returns
from .candidates import best_of_n, values
from .distribution import Distribution
from .ensemble import pool, subset_shares

if TYPE_CHECKING:
    from ..sampling import ChunkBatch
    from .chunk_critic import ChunkCritic
    from .value_networks import QNetwork


def td_target(batch: ChunkBatch, following: Distribution | Tensor, gamma: float, k: int) -> Distribution:
    """atoms [B, K]. `bootstrap` is 0 where the episode terminated inside the chunk; time-outs keep their future."""
    if isinstance(following, Tensor):
        following = Distribution.point(following)
    return following.backed_up(returns(batch, gamma, k), bootstrap(batch, gamma, k))


def mc_target(batch: ChunkBatch) -> Distribution:
    """The discounted return that was recorded, to the episode's end."""
    return Distribution.point(batch.mc_return)


# -- without a policy: V is where the asymmetric loss of u = Q - V is least ------------------------------------------


# L = mean | tau - 1(u < 0) | u^2: the tau-expectile of q, tau > 0.5 leans to the better actions
def expectile_loss(error: Tensor, tau: float, weight: Tensor) -> Tensor:
    """error u [B], weight [B]."""
    return weighted_mean(slope(error, tau) * error.square(), weight)


# L = mean | kappa - 1(u < 0) | |u|: the kappa-quantile of q, which a share 1 - kappa of the actions surpasses
def quantile_loss(error: Tensor, kappa: float, weight: Tensor) -> Tensor:
    """error u [B], weight [B]; any increasing scale has the same quantile, so u may be a difference of logits."""
    return weighted_mean(slope(error, kappa) * error.abs(), weight)


# | tau - 1(u < 0) |
def slope(error: Tensor, tau: float) -> Tensor:
    return (error < 0).to(error) * (1 - 2 * tau) + tau


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """values [..., B], weight [B]: mean over all entries."""
    return (values * weight).sum() / shared(weight.sum() * (values.numel() / weight.numel())).clamp_min(1e-12)


# -- with chunks at the next observation: n proposals of a policy, or the one that was recorded ----------------------


# V(s') = 1/n sum_i Qbar(s', a_i): n = 1 is the policy sample of SAC and TD3, or SARSA with the recorded chunk
@torch.no_grad()
def policy_value(
    critic: ChunkCritic,
    features: Tensor,
    chunks: Tensor,
    generator: torch.Generator | None = None,
    evaluate: QNetwork | None = None,  # default the averaged critics
) -> Distribution:
    """features [B, F] and chunks [B, n, k, A], normalized, of the next observation -> atoms [B, n * K]."""
    q = evaluate or critic.target["q"]
    following = evaluated(q, critic, features, finite(chunks), generator)  # atoms [B, n, K]
    return _mixture(following, torch.full_like(following.mean, 1 / chunks.shape[1]))


# V(s') = agg_i Qbar_i(s', a*), a* = argmax_n agg_i Q_i(s', a_n): online critics select, averaged ones evaluate
@torch.no_grad()
def best_of_n_value(
    critic: ChunkCritic,
    features: Tensor,
    proposed: Tensor,
    generator: torch.Generator | None = None,
    select: QNetwork | None = None,  # default the online critics
    evaluate: QNetwork | None = None,  # default the averaged critics
) -> Distribution:
    """features [B, F] and proposed [B, n, k, A] of the next observation -> atoms [B, K]."""
    chosen = best_chunk(select or critic.q, critic, features, proposed)
    return policy_value(critic, features, chosen[:, None], generator, evaluate)


# V(s') = E max over a random m-subset of M proposals = sum_i Qbar(s', a_(i)) C(i - 1, m - 1) / C(M, m),
# a_(i) the proposal with the i-th smallest agg Q: EMaQ's operator, exactly; m = M is best-of-M, m = 1 the policy's mean
@torch.no_grad()
def expected_max_value(
    critic: ChunkCritic, features: Tensor, proposed: Tensor, subset: int, generator: torch.Generator | None = None
) -> Distribution:
    """features [B, F] and proposed [B, M, k, A] of the next observation -> atoms [B, M * K]."""
    proposed = finite(proposed)
    judged = critic.pessimistic(values(critic.q, features, proposed, precision=critic.precision))  # [B, M]
    shares = subset_shares(proposed.shape[1], subset, judged).flip(0)  # of the i-th smallest
    weights = torch.zeros_like(judged).scatter(1, judged.argsort(1), shares.expand_as(judged))
    return _mixture(evaluated(critic.target["q"], critic, features, proposed, generator), weights)


# V = (1 - w) V_best + w V_policy, w = min(1, step / steps): from the optimality to the policy backup
def annealed(best: Distribution, policy: Distribution, step: Tensor, steps: int) -> Distribution:
    """atoms [B, K] and [B, K'] -> [B, K + K']; `step` counts updates."""
    share = (step / steps).clamp_max(1.0)
    weights = [(1 - share) * best.weights, share * policy.weights]
    return Distribution(torch.cat([best.atoms, policy.atoms], -1), torch.cat(weights, -1))


# a + clip(e, -c, c), e ~ N(0, std^2), within the limits: TD3's smoothing, so that a narrow peak of Q is worth little
def smoothed(critic: ChunkCritic, chunks: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    """chunks [..., A] and std in normalized units; noise is cut at 2.5 std, as TD3 cuts 0.2 at 0.5."""
    noise = std * normal(chunks.shape, chunks.device, generator).clamp(-2.5, 2.5)
    low, high = (critic.actions.normalize(torch.from_numpy(x).to(chunks)) for x in (critic.spec.low, critic.spec.high))
    return torch.minimum(torch.maximum(chunks + noise, low), high)


@torch.no_grad()
def best_chunk(q: QNetwork, critic: ChunkCritic, features: Tensor, proposed: Tensor) -> Tensor:
    """The one of proposed [B, n, k, A] that q likes best -> [B, k, A]."""
    return best_of_n(critic.pessimistic(values(q, features, proposed, precision=critic.precision)), proposed)[1]


@torch.no_grad()
def evaluated(
    q: QNetwork, critic: ChunkCritic, features: Tensor, chunks: Tensor, generator: torch.Generator | None = None
) -> Distribution:
    """features [B, F], chunks [B, n, k, A] -> what q's members agree on by the config, atoms [B, n, K]."""
    n = chunks.shape[1]
    members = q.distribution(features.repeat_interleave(n, 0), chunks.flatten(0, 1), generator)
    pooled = pool(members, critic.config.aggregate, critic.config.rho, generator=generator)
    return Distribution(pooled.atoms.unflatten(0, (-1, n)), pooled.weights.unflatten(0, (-1, n)))


def finite(chunks: Tensor) -> Tensor:
    """Chunks [B, n, k, A] that are not finite, replaced by the row's first that is: one must not spoil the mean."""
    usable = chunks.isfinite().flatten(2).all(2)  # [B, n]
    first = chunks[torch.arange(len(chunks), device=chunks.device), usable.int().argmax(1)]
    return torch.where(usable[..., None, None], chunks, first[:, None])


def _mixture(parts: Distribution, shares: Tensor) -> Distribution:
    """atoms [B, n, K] and shares [B, n] that sum to 1 -> atoms [B, n * K]."""
    return Distribution(parts.atoms.flatten(1), (parts.weights * shares[..., None]).flatten(1))
