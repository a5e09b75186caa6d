"""Flow matching against flows whose velocity and end point can be written down."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.flow import SAMPLERS, euler, interpolate, masked_square, midpoint, velocity_target
from robot_value.types import Steering

MEAN, STD = 2.0, 0.5  # of the data in the Gaussian examples


def noise(batch: int = 2, n: int = 5, horizon: int = 3, actions: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, n, horizon, actions, generator=torch.Generator().manual_seed(seed))


# data N(m, s^2): x_t ~ N(t m, (1 - t)^2 + t^2 s^2) and the flow's end point is m + s z
def gaussian_velocity(x: torch.Tensor, t: float) -> torch.Tensor:
    variance = (1 - t) ** 2 + t**2 * STD**2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


def test_the_path_runs_straight_from_noise_to_data():
    z, x = noise()[0], noise(seed=1)[0]
    assert torch.equal(interpolate(z, x, torch.zeros(5)), z)
    assert torch.equal(interpolate(z, x, torch.ones(5)), x)
    h = 1e-3
    slope = (interpolate(z, x, torch.full((5,), 0.5 + h)) - interpolate(z, x, torch.full((5,), 0.5 - h))) / (2 * h)
    assert torch.allclose(slope, velocity_target(z, x), atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_constant_velocity_is_integrated_exactly(sampler, steps):
    assert torch.allclose(sampler(lambda x, t: torch.full_like(x, 0.7), noise(), steps), noise() + 0.7, atol=1e-6)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (midpoint, 2)])
def test_noise_becomes_the_right_gaussian_with_an_error_of_the_samplers_order(sampler, order):
    # mutation: in midpoint, evaluate at t instead of t + dt / 2 -> order 1
    z = noise().double()
    exact = MEAN + STD * z
    errors = [(sampler(gaussian_velocity, z, steps) - exact).abs().max() for steps in (40, 80)]
    assert errors[1] < 0.05
    assert errors[0] / errors[1] > 0.95 * 2**order  # more is welcome: this flow is linear


def test_a_flow_without_steps_is_refused():
    with pytest.raises(ValueError, match="expected at least 1 step, got 0"):
        euler(gaussian_velocity, noise(), 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 4), horizon=st.integers(1, 4))
def test_the_loss_is_the_weighted_mean_over_valid_steps(seed, rows, horizon):
    # mutation: leave out `* weight[:, None]`, or divide by numel
    g = torch.Generator().manual_seed(seed)
    error = torch.randn(rows, horizon, 2, generator=g)
    valid = torch.rand(rows, horizon, generator=g) < 0.6
    weight = torch.rand(rows, generator=g)
    total = mass = 0.0
    for b in range(rows):
        for h in range(horizon):
            if valid[b, h]:
                total += float(weight[b] * error[b, h].square().sum())
                mass += float(weight[b] * 2)
    expected = total / mass if mass else 0.0
    assert float(masked_square(error, valid, weight)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_what_lies_beyond_the_valid_steps_cannot_spoil_the_loss_but_inside_it_shows():
    error = torch.zeros(1, 2, 1)
    error[0, 1] = torch.nan
    assert masked_square(error, torch.tensor([[True, False]]), torch.ones(1)) == 0
    assert masked_square(error, torch.tensor([[True, True]]), torch.ones(1)).isnan()


# Guides -------------------------------------------------------------------------------------------------------------


def test_a_guide_sees_the_predicted_clean_chunk():
    # mutation: x_hat = x + t v
    target = noise(seed=3)
    seen = []
    euler(lambda x, t: (target - x) / (1 - t), noise(), 5, guide=lambda x_hat, t: seen.append((x_hat, t)) or Steering())
    assert [t for _, t in seen] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    for x_hat, _ in seen:
        assert torch.allclose(x_hat, target, atol=1e-5)


def test_a_constant_gradient_moves_the_end_point_by_itself():
    gradient = noise(seed=2)
    out = euler(lambda x, t: torch.ones_like(x), noise(), 7, guide=lambda x_hat, t: Steering(gradient=gradient))
    assert torch.allclose(out, noise() + 1 + gradient, atol=1e-5)


def test_dropped_candidates_are_nan_for_good_and_the_others_do_not_notice():
    # mutation: write 0 instead of NaN
    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[0, 1] = keep[1, 4] = False

    def guide(x_hat, t):
        return Steering(keep=keep if t < 0.25 else None)

    out = euler(gaussian_velocity, noise(), 4, guide=guide)
    assert out[~keep].isnan().all()
    assert torch.equal(out[keep], euler(gaussian_velocity, noise(), 4)[keep])


def test_resampled_slots_continue_their_parents():
    parents = torch.tensor([[4, 4, 2, 2, 0], [0, 1, 2, 3, 4]])

    def guide(x_hat, t):
        return Steering(resample=parents if t == 0.5 else None)

    out, plain = (euler(gaussian_velocity, noise(), 4, guide=g) for g in (guide, None))
    assert torch.equal(out[0], plain[0][parents[0]])
    assert torch.equal(out[1], plain[1])


def test_a_dropped_slot_may_be_refilled_by_a_living_parent():
    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[:, 0] = False
    parents = torch.tensor([[1, 1, 2, 3, 4]] * 2)
    out = euler(gaussian_velocity, noise(), 1, guide=lambda x_hat, t: Steering(keep=keep, resample=parents))
    assert torch.equal(out[:, 0], out[:, 1]) and out.isfinite().all()


# Prefixes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_a_prefix_begins_every_chunk_and_is_on_its_own_path_at_every_time(sampler):
    # mutation: hold with noise and prefix exchanged
    prefix, z = noise(seed=5)[:, 0, :2], noise()
    seen = []

    def velocity(x, t):
        seen.append((x[:, :, :2].clone(), t))
        return gaussian_velocity(x, t)

    out = sampler(velocity, z, 4, prefix=prefix)
    assert torch.allclose(out[:, :, :2], prefix[:, None].expand(-1, 5, -1, -1))
    for x, t in [pair for pair in seen if pair[1] in (0, 0.25, 0.5, 0.75)]:
        assert torch.allclose(x, (1 - t) * z[:, :, :2] + t * prefix[:, None], atol=1e-6)
    assert torch.equal(out[:, :, 2:], sampler(gaussian_velocity, z, 4)[:, :, 2:]), "this velocity has no coupling"


def test_a_prefix_reaches_the_other_steps_through_the_network():
    def coupled(x, t):
        return x.mean(2, keepdim=True).expand_as(x)

    low, high = (torch.full((2, 1, 2), value) for value in (-3.0, 3.0))
    out = [euler(coupled, noise(), 4, prefix=p)[:, :, 1:] for p in (low, high)]
    assert (out[1] > out[0]).all()


def test_an_empty_prefix_is_none():
    assert torch.equal(
        euler(gaussian_velocity, noise(), 4, prefix=torch.zeros(2, 0, 2)), euler(gaussian_velocity, noise(), 4)
    )
