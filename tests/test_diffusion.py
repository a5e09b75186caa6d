"""Diffusion against data whose best denoiser can be written down."""

from __future__ import annotations

import pytest
import torch

from robot_value.diffusion import add_noise, alphas_bar, clean_from_epsilon, ddim, make_scheduler
from robot_value.types import Steering

MEAN, STD = 2.0, 0.5  # of the data
SCHEDULER = make_scheduler(100, "squaredcos_cap_v2")


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(seed))


# data N(m, s^2): E[x | x_t] = m + sqrt(abar) s^2 / (abar s^2 + 1 - abar) (x_t - sqrt(abar) m)
def gaussian_clean(x: torch.Tensor, timestep: int) -> torch.Tensor:
    abar = SCHEDULER.alphas_cumprod[timestep]
    return MEAN + abar.sqrt() * STD**2 / (abar * STD**2 + 1 - abar) * (x - abar.sqrt() * MEAN)


def gaussian_epsilon(x: torch.Tensor, timestep: int) -> torch.Tensor:
    abar = SCHEDULER.alphas_cumprod[timestep]
    return (x - abar.sqrt() * gaussian_clean(x, timestep)) / (1 - abar).sqrt()


def test_noise_is_added_by_the_schedule_and_taken_away_by_its_inverse():
    data, eps = noise(1)[0], noise(2)[0]
    alpha_bar = alphas_bar(SCHEDULER, torch.tensor([0, 10, 50, 80, 90]))
    x = add_noise(data, eps, alpha_bar)
    expected = SCHEDULER.alphas_cumprod[50].sqrt() * data[2] + (1 - SCHEDULER.alphas_cumprod[50]).sqrt() * eps[2]
    assert torch.allclose(x[2], expected)
    assert torch.allclose(clean_from_epsilon(x, eps, alpha_bar), data, atol=1e-4)


def test_the_schedule_ends_in_pure_noise_and_begins_near_the_data():
    assert SCHEDULER.alphas_cumprod[-1] < 1e-4 and SCHEDULER.alphas_cumprod[0] > 0.99


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_a_denoiser_that_knows_the_answer_gives_it_in_any_number_of_steps(steps, prediction):
    # mutation: swap the branches of `prediction`
    target = noise(3) / 5

    def predict(x, timestep):
        abar = SCHEDULER.alphas_cumprod[timestep]
        return target if prediction == "sample" else (x - abar.sqrt() * target) / (1 - abar).sqrt()

    assert torch.allclose(ddim(predict, noise(), SCHEDULER, steps, prediction, clip=1.0), target, atol=2e-3)


def test_noise_becomes_the_right_gaussian_as_steps_grow():
    exact = MEAN + STD * noise()
    errors = [
        (ddim(gaussian_clean, noise(), SCHEDULER, steps, "sample") - exact).abs().max() for steps in (10, 50, 100)
    ]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.06


@pytest.mark.parametrize("steps", [2, 10])
def test_sampling_begins_at_pure_noise_however_few_steps_there_are(steps):
    # mutation: timestep_spacing "leading"
    seen = []
    ddim(lambda x, t: seen.append(t) or x, noise(), SCHEDULER, steps, "sample")
    assert seen == list(range(99, -1, -100 // steps))


def test_both_predictions_are_one_sampler():
    by_sample = ddim(gaussian_clean, noise(), SCHEDULER, 10, "sample")
    by_epsilon = ddim(gaussian_epsilon, noise(), SCHEDULER, 10, "epsilon")
    assert torch.allclose(by_sample, by_epsilon, atol=2e-2)  # eps is divided by sqrt(abar) = 5e-4 at the first step


def test_the_given_noise_decides_everything():
    torch.manual_seed(0)
    first = ddim(gaussian_clean, noise(), SCHEDULER, 10, "sample")
    torch.manual_seed(1)
    assert torch.equal(first, ddim(gaussian_clean, noise(), SCHEDULER, 10, "sample"))
    assert not torch.allclose(first, ddim(gaussian_clean, noise(1), SCHEDULER, 10, "sample"))


@pytest.mark.parametrize("steps", [0, 7, 101])
def test_steps_must_divide_the_noise_levels(steps):
    with pytest.raises(ValueError, match=f"divides 100, got {steps}"):
        ddim(gaussian_clean, noise(), SCHEDULER, steps, "sample")


def test_predictions_are_clipped_to_what_the_normalisation_promises():
    out = ddim(lambda x, t: torch.full_like(x, 5.0), noise(), SCHEDULER, 10, "sample", clip=1.0)
    assert torch.allclose(out, torch.ones_like(out), atol=1e-5)


def test_a_guide_sees_clean_chunks_from_noise_to_data_and_moves_them_by_the_noise_level():
    # mutation: drop the factor sqrt(1 - abar)
    target, times = noise(3), []

    def guide(x_hat, t):
        assert torch.allclose(x_hat, target)
        times.append(t)
        return Steering(gradient=torch.ones_like(x_hat))

    out = ddim(lambda x, t: target, noise(), SCHEDULER, 10, "sample", guide=guide)
    assert times == pytest.approx([i / 10 for i in range(10)])
    last = (1 - SCHEDULER.alphas_cumprod[9]).sqrt()
    assert torch.allclose(out, target + last, atol=1e-5)


def test_dropped_candidates_are_nan_and_resampled_ones_continue_their_parents():
    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[0, 1] = False
    parents = torch.arange(5).repeat(2, 1)
    parents[1, 0] = 3

    def guide(x_hat, t):
        return Steering(keep=keep, resample=parents) if t == 0.5 else Steering()

    out, plain = (ddim(gaussian_clean, noise(), SCHEDULER, 10, "sample", guide=g) for g in (guide, None))
    assert out[0, 1].isnan().all()
    assert torch.equal(out[1, 0], plain[1, 3])
    assert torch.equal(out[1, 1:], plain[1, 1:])


def test_a_prefix_begins_every_chunk_and_leaves_uncoupled_steps_alone():
    prefix = noise(4)[:, 0, :2]
    out = ddim(gaussian_clean, noise(), SCHEDULER, 10, "sample", prefix=prefix)
    assert torch.allclose(out[:, :, :2], prefix[:, None].expand(-1, 5, -1, -1), atol=1e-5)
    assert torch.equal(out[:, :, 2:], ddim(gaussian_clean, noise(), SCHEDULER, 10, "sample")[:, :, 2:])
