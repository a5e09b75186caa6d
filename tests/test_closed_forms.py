"""Steering against closed forms: a policy whose chunks are exactly Gaussian, values that are linear or quadratic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from fakes import observation, point_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.diffusion import ddim, make_scheduler
from robot_value.flow import euler, renoise
from robot_value.policies._chunks import full_lengths
from robot_value.steering.guides import gradient, halving, particles
from robot_value.steering.proposal import Request
from robot_value.steering.selectors import argmax, mean, medoid, softmax, softmax_average
from robot_value.steering.steerer import Steerer
from robot_value.types import Features, Observation, Scores, Situation, Spec, Steering

MEAN, STD = 0.5, 0.8  # of every action number of the policy
GOAL = -0.7  # where the quadratic value is largest
SPEC = point_spec(horizon=1, limit=20.0)


@dataclass
class GaussianPolicy:
    """Chunks N(MEAN, STD^2): exactly without a guide; with one by Euler steps along the flow's known velocity."""

    spec: Spec = SPEC
    steps: int = 10
    calls: list[bool] = field(default_factory=list)  # whether gradients were on, per call of the velocity

    def encode(self, observation: Observation) -> Features:
        return Features(torch.from_numpy(observation.state[:, -1]))

    def sample(self, context, n, noise, prefix=None, guide=None):
        chunks = MEAN + STD * noise if guide is None else euler(self.velocity, noise, self.steps, guide, prefix)
        return chunks, full_lengths(chunks)

    # x_t ~ N(t m, (1 - t)^2 + t^2 s^2), whose points move at v = m + (t s^2 - (1 - t)) / var_t (x - t m)
    def velocity(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.calls.append(torch.is_grad_enabled())
        return MEAN + (t * STD**2 - (1 - t)) / variance(t) * (x - t * MEAN)


def variance(t: float) -> float:
    return (1 - t) ** 2 + t**2 * STD**2


@dataclass
class LinearCritic:
    """value = slope * the sum of a chunk's numbers."""

    slope: float = 1.0
    spec: Spec = SPEC
    scope: int = 1

    def encode(self, observation: Observation, policy_context: Features | None = None) -> Features:
        return Features(torch.from_numpy(observation.state[:, -1]))

    def score(self, context, chunks, lengths) -> Scores:
        value = self.value(chunks).sum((2, 3))
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x


class QuadraticCritic(LinearCritic):
    """value = -slope |a - GOAL|^2 / 2."""

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return -self.slope * (x - GOAL).square() / 2


def request(n: int, critic=None, batch: int = 1, seed: int = 0, steps: int = 10, **changes) -> Request:
    policy, seen = GaussianPolicy(steps=steps), observation(SPEC, batch)
    context, device = policy.encode(seen), torch.device("cpu")
    return replace(Request(policy, context, seen, n, seed, device, 1, critic, None), **changes)


def guided(guide, r: Request) -> torch.Tensor:
    """Chunks [B, N, 1, 2]; candidate 0 is the plain one."""
    return replace(r, guide=guide).sample(r.noise())[0]


# exp(-k (x - c)^2 / 2) N(x; m, s^2) is N with precision 1 / s^2 + k and the precision-weighted mean
def tilted(k: float, std: float = STD) -> tuple[float, float]:
    """Mean and standard deviation."""
    precision = 1 / std**2 + k
    return (MEAN / std**2 + k * GOAL) / precision, precision**-0.5


def gaussian_chunks(batch: int, n: int, seed: int = 0) -> torch.Tensor:
    """One number per chunk, [B, N, 1, 1]."""
    return MEAN + STD * torch.randn(batch, n, 1, 1, generator=torch.Generator().manual_seed(seed))


def chosen(selector, chunks: torch.Tensor, critic: LinearCritic) -> torch.Tensor:
    """What a selector makes of chunks [B, N, 1, A], [B, A]."""
    finite = chunks.isfinite().all(3).all(2)
    generators = [np.random.default_rng(row) for row in range(len(chunks))]
    scores = critic.score(None, chunks, None)
    return selector(chunks, scores, Situation(generators=generators, finite=finite)).chunk[:, 0]


# Selectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 8, 32])
def test_best_of_n_is_the_largest_of_n_normals(n):
    # mutation: argmin
    z = np.linspace(-9, 9, 20001)
    density, below = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi), 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    expected = np.trapezoid(n * z * density * below ** (n - 1), z)  # E max = int z n phi(z) Phi(z)^(n-1) dz
    best = chosen(argmax.Config().build(), gaussian_chunks(8000, n), LinearCritic())
    assert (float(best.mean()) - MEAN) / STD == pytest.approx(expected, abs=0.03)


def test_the_steerer_chooses_best_of_n_as_well():
    s = Steerer(GaussianPolicy(), LinearCritic(), argmax.Config().build(), n=4)
    decision = s(observation(SPEC, 1500))
    sums = decision.chunk.sum((1, 2))  # the value's argument: N(2 m, 2 s^2)
    assert (sums.mean() - 2 * MEAN) / (math.sqrt(2) * STD) == pytest.approx(1.0294, abs=0.06)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_softmax_of_a_linear_value_shifts_the_policy_by_its_std_over_the_temperature(temperature):
    # mutation: logits times the temperature
    selectors = [m.Config(temperature=temperature).build() for m in (softmax, softmax_average)]
    few, many = gaussian_chunks(3000, 400), gaussian_chunks(4, 40000)
    for selector, chunks in zip(selectors, (few, many), strict=True):
        assert float(chosen(selector, chunks, LinearCritic()).mean()) == pytest.approx(
            MEAN + STD / temperature, abs=0.04
        )


def test_softmax_of_a_quadratic_value_is_a_narrower_policy_nearer_to_the_goal():
    # Var (x - c)^2 / 2 = (m - c)^2 s^2 + s^4 / 2, by which values are scaled
    k = 1 / math.sqrt((MEAN - GOAL) ** 2 * STD**2 + STD**4 / 2)
    mean_, std = tilted(k)
    drawn = chosen(softmax.Config(temperature=1.0).build(), gaussian_chunks(3000, 400), QuadraticCritic())
    averaged = chosen(softmax_average.Config(temperature=1.0).build(), gaussian_chunks(4, 40000), QuadraticCritic())
    assert (float(drawn.mean()), float(drawn.std())) == pytest.approx((mean_, std), abs=0.03)
    assert float(averaged.mean()) == pytest.approx(mean_, abs=0.02)


@pytest.mark.parametrize("module", [argmax, mean, medoid, softmax_average], ids=lambda m: m.__name__.split(".")[-1])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_candidates_changes_no_selection(module, seed):
    chunks = gaussian_chunks(3, 7, seed)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    selector, critic = module.Config().build(), QuadraticCritic()
    assert torch.allclose(chosen(selector, chunks, critic), chosen(selector, chunks[:, order], critic), atol=1e-6)


# Particles ----------------------------------------------------------------------------------------------------------

PARTICLES = {
    "difference": particles.Config(ess=0.8),
    "copies stay copies": particles.Config(churn=0.0),
    "every evaluation": particles.Config(ess=1.0, every=4),
    "multinomial": particles.Config(draw="multinomial", ess=0.8, every=2),
    "max": particles.Config(potential="max", every=8, start=0.4),
    "sum": particles.Config(potential="sum", every=8, start=0.4),
}


@pytest.mark.parametrize("config", PARTICLES.values(), ids=PARTICLES)
def test_particles_end_as_the_policy_tilted_by_the_exponential_of_value(config):
    # mutations: no correction at the end; difference without r_{i-1}; nobody's past follows a resampled particle
    guide = replace(config, strength=1.0, normalize=False).build()
    r = request(20000, QuadraticCritic(), steps=32)
    plain = euler(r.policy.velocity, r.noise(), 32)  # Euler's own chunks are a little narrower than STD
    mean_, std = tilted(1.0, float(plain.std()))
    x = guided(guide, r)[:, 1:]
    assert (float(x.mean()), float(x.std())) == pytest.approx((mean_, std), abs=0.03)


def test_a_linear_value_shifts_particles_and_leaves_their_spread():
    guide = particles.Config(strength=1.5, normalize=False).build()
    r = request(20000, LinearCritic(), steps=32)
    std = float(euler(r.policy.velocity, r.noise(), 32).std())
    x = guided(guide, r)
    assert (float(x.mean()), float(x.std())) == pytest.approx((MEAN + 1.5 * std**2, std), abs=0.03)


def test_particles_tilt_a_diffusion_policy_as_well():
    # mutation: noise level of the step before, in renoise
    scheduler, r = make_scheduler(100, "squaredcos_cap_v2"), request(20000, QuadraticCritic())
    guide = particles.Config(strength=1.0, normalize=False, ess=1.0, every=4).build()

    def clean(x: torch.Tensor, timestep: int) -> torch.Tensor:  # E[x_0 | x]
        a = scheduler.alphas_cumprod[timestep]
        return MEAN + a.sqrt() * STD**2 / (a * STD**2 + 1 - a) * (x - a.sqrt() * MEAN)

    plain, x = (ddim(clean, r.noise(), scheduler, 50, "sample", guide=g) for g in (None, guide.begin(r)))
    mean_, std = tilted(1.0, float(plain.std()))
    assert (float(x.mean()), float(x.std())) == pytest.approx((mean_, std), abs=0.03)


@pytest.mark.parametrize("slope", [1e-3, 1e3])
def test_normalized_particles_do_not_feel_the_unit_of_value(slope):
    # mutation: ignore normalize
    x = [guided(particles.Config().build(), request(64, QuadraticCritic(s), batch=2)) for s in (slope, 1.0)]
    assert torch.allclose(*x, atol=1e-4)


def test_new_noise_makes_new_particles_and_none_copies_old_ones():
    # mutation: churn also at the last step, or before resampling
    r = request(256, QuadraticCritic(3.0))
    counts = {}
    for churn in (0.0, 0.5):
        x = guided(particles.Config(strength=3.0, normalize=False, churn=churn).build(), r)
        counts[churn] = len(x[0, :, 0, 0].unique())
    plain = euler(r.policy.velocity, r.noise(), 10)
    old = guided(particles.Config(strength=3.0, normalize=False, churn=0.0).build(), r)
    assert torch.isin(old, plain).all()
    assert counts[0.5] > 1.3 * counts[0.0]


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_renoising_leaves_the_law_at_a_flow_time(t):
    # mutations: sqrt(1 - churn) for sqrt(1 - churn^2); sigma left out
    z = torch.randn(1, 200_000, 1, 1, generator=torch.Generator().manual_seed(0))
    x = t * MEAN + math.sqrt(variance(t)) * z
    z_hat = (1 - t) / math.sqrt(variance(t)) * z  # E[noise | x_t]
    new = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    moved = renoise(x, z_hat, 1 - t, Steering(noise=new, churn=torch.full((1, 200_000), 0.5)))
    assert float(moved.mean()) == pytest.approx(t * MEAN, abs=0.01)
    lost = (1 - t) ** 2 * (t * STD) ** 2 / variance(t) * 0.5**4 / 4  # of the variance, to leading order
    assert float(moved.var()) == pytest.approx(variance(t) - lost, rel=0.02)
    assert float((moved - x).std()) > 0.4 * (1 - t), "they did move"


def test_resampling_without_a_preference_leaves_the_law_of_the_policy():
    r = request(40000, LinearCritic(1e-3), steps=32)
    x = guided(particles.Config(normalize=False, ess=1.0, churn=0.3).build(), r)
    plain = euler(r.policy.velocity, r.noise(), 32)
    assert (float(x.mean()), float(x.std())) == pytest.approx((float(plain.mean()), float(plain.std())), abs=0.01)


# Gradients ----------------------------------------------------------------------------------------------------------


def ode(critic_slope, goal_pull, noise: torch.Tensor, weight: float, steps: int = 400) -> torch.Tensor:
    """dx/dt = v(x, t) + w dQ/dx_hat on numbers, by many small midpoint steps."""
    policy, x, dt = GaussianPolicy(), noise.double(), 1 / steps

    def slope(x: torch.Tensor, t: float) -> torch.Tensor:
        v = policy.velocity(x, t)
        return v + weight * (critic_slope + goal_pull * (GOAL - x - (1 - t) * v))

    for i in range(steps):
        x = x + dt * slope(x + dt / 2 * slope(x, i * dt), (i + 0.5) * dt)
    return x


def pushed(critic, weight: float, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and chunks, candidate 0 left out."""
    r = request(5, critic, steps=steps)
    return r.noise()[:, 1:], guided(gradient.Config(weight=weight, normalize=False).build(), r)[:, 1:]


def test_a_linear_value_shifts_every_chunk_by_the_same_known_amount():
    # points spread as sd_t does, so a push at t arrives as s / sd_t: shift = w s int_0^1 dt / sd_t
    t = np.linspace(0, 1, 10001)
    shift = 0.6 * STD * np.trapezoid(variance(t) ** -0.5, t)
    noise, x = pushed(LinearCritic(), 0.6, 500)
    assert torch.allclose(x, MEAN + STD * noise + shift, atol=5e-3)


@pytest.mark.parametrize("critic, pull", [(LinearCritic(), (1.0, 0.0)), (QuadraticCritic(), (0.0, 1.0))])
def test_gradient_guidance_follows_its_differential_equation_to_first_order(critic, pull):
    # mutations: gradient at x instead of x_hat; half the weight
    errors = []
    for steps in (20, 40, 80):
        noise, x = pushed(critic, 1.5, steps)
        errors.append(float((x - ode(*pull, noise, 1.5)).abs().max()))
    assert errors[2] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.4) and errors[1] / errors[2] == pytest.approx(2, abs=0.3)


def test_a_normalized_push_has_the_same_size_whatever_the_unit_of_value():
    chunks = [guided(gradient.Config(weight=0.01).build(), request(5, LinearCritic(s))) for s in (1e-3, 1e3)]
    plain = guided(gradient.Config(weight=0.0).build(), request(5, LinearCritic()))
    assert torch.allclose(*chunks, atol=1e-4)
    # the range is 40: 0.01 half ranges are 0.2 m/s, spread out or contracted by the flow as above
    t = np.arange(10) / 10
    assert 0.5 < float((chunks[0] - plain)[:, 1:].mean()) / (0.2 * STD * np.mean(variance(t) ** -0.5)) < 2


# Halving ------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
def test_halving_finds_the_best_of_n_where_predictions_rank_as_chunks_do(seed, n):
    # mutations: keep the worse half; keep one alone. The flow of a Gaussian is monotone, and so is a linear value
    r = request(n, LinearCritic(), seed=seed, batch=2)
    full, halved = euler(r.policy.velocity, r.noise(), 10), guided(halving.Config().build(), r)
    value = full.sum((2, 3))
    survivors = halved.isfinite().all(3).all(2)
    assert survivors[:, 0].all() and survivors[[0, 1], value.argmax(1)].all(), "candidate 0 and the best go on"
    assert (survivors.sum(1) == max(-(-n // 8), min(n, 2))).all()
    assert torch.equal(halved[survivors], full[survivors]), "and do not notice"
