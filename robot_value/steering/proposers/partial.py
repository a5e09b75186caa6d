"""Partly denoised candidates at several flow times, finished in a cascade: Hume (Song et al. 2025, arXiv 2505.21432).

    tau_i = low + (i / M)(high - low),  i < M = n * pool            each candidate stops at a flow time of its own
    x^_i  = x_t + (1 - t) v(x_t, t)  at the first step t >= tau_i    the clean chunk it is heading for
    x_i   = (1 - tau_i) z_i + tau_i x^_i                             the same, noised to tau_i
    a_i   = x_i + integral of v from tau_i to 1                      for the n best of the pool only

The pool is judged half done, by the value of x^_i or, by a critic of noisy chunks (critics/hume.py), of x_i at tau_i.
Such a critic is shown x_i in its own units, as in training; it is finished in the policy's.
Stopping costs about tau_i of a chunk, finishing one more. Without `finish` candidates stay x^_i: fewer denoising steps,
and what a fast System 1 may finish. Needs a flow policy. Committed actions enter before a chunk is finished.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...normalize import Normalizer
from ...types import Steering
from ..proposal import Request, clip
from ._slots import beside_samples, best, judge_noise, open_slots, take, with_committed

JUDGES = ("estimate", "noisy")


@dataclass(frozen=True)
class Config:
    pool: int = 4  # candidates begun for every one that is kept; 1 judges nothing
    low: float = 0.2  # earliest flow time to stop at; own choice, Hume's 0.9 saves next to nothing
    high: float = 0.6  # latest; Hume 1.0
    finish: bool = True  # denoise what was kept to the end
    judge: str = "estimate"  # estimate: the value of x^_i | noisy: of x_i at tau_i, by a critic with flow times (hume)

    def build(self) -> Partial:
        if self.pool < 1 or not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"partial: expected pool >= 1 and 0 <= low <= high <= 1, got {self}")
        if self.judge not in JUDGES:
            raise ValueError(f"judge: expected one of {', '.join(JUDGES)}, got {self.judge!r}")
        return Partial(self)


class Partial:
    anytime = False

    def __init__(self, config: Config) -> None:
        self.config, self.uses_critic = config, config.pool > 1

    def __call__(self, request: Request) -> tuple[Tensor, Tensor]:
        if not hasattr(request.policy, "finish"):
            got = type(request.policy).__name__
            raise ValueError(f"proposer partial: expected a flow policy, got {got} without finish(); use samples")
        if request.guide is not None:
            got = type(request.guide).__name__
            raise ValueError(f"proposer partial: expected no guide, got {got}; use samples, or leave the guide out")
        slots = open_slots(request)
        if not slots:
            return request.sample(request.noise())
        chunks = with_committed(request, self._kept(request, len(slots)))
        lengths = torch.full(chunks.shape[:2], chunks.shape[2], dtype=torch.int64, device=chunks.device)
        return beside_samples(request, slots, chunks, lengths)

    def _kept(self, request: Request, n: int) -> Tensor:
        """float32[B, n, H, A]"""
        pool, span = n * self.config.pool, self.config.high - self.config.low
        times = self.config.low + torch.arange(pool, device=request.device) / pool * span  # float32[M]
        noise = request.noise(pool, "partial")
        estimate = with_committed(request, stop_at(request, noise, times))
        times = times.expand(request.batch, -1)
        if self.config.pool > 1:
            chosen = best(self._value(request, estimate, noise, times), n)
            estimate, noise, times = (take(each, chosen) for each in (estimate, noise, times))
        return request.policy.finish(request.context, estimate, times, noise) if self.config.finish else estimate

    def _value(self, request: Request, estimate: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """float32[B, M]"""
        estimate = clip(estimate, request.policy.spec)
        if self.config.judge == "noisy":
            t, actions = times[:, :, None, None], judged_in(request)
            x = (1 - t) * noise + t * actions.normalize(estimate)
            return judge_noise(request, x, times)
        lengths = torch.full(times.shape, estimate.shape[2], dtype=torch.int64, device=times.device)
        return request.critic.score(request.critic_context, estimate, lengths).value


def judged_in(request: Request) -> Normalizer:
    """The units in which the critic learned to judge actions; the policy's, where it has none."""
    critic = getattr(request.critic, "main", request.critic)  # of a panel
    return getattr(critic, "actions", request.policy.actions)


def stop_at(request: Request, noise: Tensor, times: Tensor) -> Tensor:
    """noise [B, M, H, A], times [M] -> the clean chunks [B, M, H, A] in sight when each candidate reaches its time.

    A guide watches and drops who has arrived, so that nobody is denoised further than that.
    """
    estimate = torch.full_like(noise, torch.nan)

    def watch(x_hat: Tensor, t: float) -> Steering:
        nonlocal estimate
        estimate = torch.where(x_hat.isfinite(), x_hat, estimate)  # those who arrived are NaN by now
        return Steering(keep=(times > t + 1e-6).expand(x_hat.shape[:2]))

    request.policy.sample(request.context, noise.shape[1], noise, guide=watch)
    return estimate
