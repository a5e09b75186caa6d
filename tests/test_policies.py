"""Chunk policies: units, limits, independence of rows, guides, prefixes, losses; for every head and prediction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import check_policy, noise
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics

from robot_value.networks.observation import EncoderConfig
from robot_value.policies import diffusion, flow
from robot_value.policies._chunks import clip, in_tiles
from robot_value.types import Observation, Steering

CONFIGS = {
    "flow": flow.Config(width=32, depth=2),
    "flow midpoint": flow.Config(width=32, depth=2, sampler="midpoint", sample_steps=3),
    "flow transformer": flow.Config(head="transformer", width=32, depth=1, heads=2),
    "diffusion epsilon": diffusion.Config(width=32, depth=2, prediction="epsilon"),
    "diffusion": diffusion.Config(width=32, depth=2, normalization="mean_std"),
}
SMALL_IMAGES = EncoderConfig(image_features=8, image_channels=(16, 16), text_features=4)


@pytest.fixture(params=CONFIGS, ids=str)
def config(request):
    return CONFIGS[request.param]


def build(config, s=None, tasks=TASKS):
    """A policy whose weights are large enough that everything it is given matters."""
    s = s or spec()
    policy = config.build(s, statistics(s), tasks).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    return policy


def seen(s, batch: int = 3) -> Observation:
    return observation(s, batch, task=tuple(TASKS[i % 2] for i in range(batch)))


def test_every_head_and_prediction_keeps_the_contract(config):
    check_policy(build(config), seen(spec()))


def test_images_and_language_keep_the_contract(config):
    s = spec(horizon=4, n_obs_steps=2, images=True, language=True)
    check_policy(build(replace(config, encoder=SMALL_IMAGES), s), seen(s))


def test_many_candidates_are_the_same_in_small_tiles_as_in_one(config):
    # mutation: in_tiles steps by tile + 1
    whole, tiled = build(config), build(replace(config, tile=4))
    draws = noise(spec(), seen(spec()), 7)
    prefix = torch.zeros(3, 1, 2)
    for policy_prefix in (None, prefix):
        out = [p.sample(p.encode(seen(spec())), 7, draws, prefix=policy_prefix)[0] for p in (whole, tiled)]
        assert torch.allclose(*out, atol=1e-5)


def test_a_guide_that_only_watches_changes_nothing_and_sees_spec_units(config):
    policy, draws, seen_hats = build(config), noise(spec(), seen(spec()), 5), []

    def watch(x_hat, t):
        seen_hats.append(x_hat)
        return Steering()

    context = policy.encode(seen(spec()))
    plain, watched = policy.sample(context, 5, draws)[0], policy.sample(context, 5, draws, guide=watch)[0]
    assert torch.allclose(plain, watched, atol=1e-5)
    assert seen_hats[0].shape == (3, 5, 4, 2) and len(seen_hats) == policy.sample_steps
    assert seen_hats[-1][..., 0].abs().mean() < 1 < seen_hats[-1][..., 1].abs().mean(), "metres, and grip up to 8"


@pytest.mark.parametrize("config", [CONFIGS["flow"], CONFIGS["flow midpoint"], CONFIGS["diffusion"]])
def test_a_gradient_is_with_respect_to_spec_units(config):
    # mutation: do not multiply by the scale
    policy = build(config)
    with torch.no_grad():
        for parameter in policy.head.output.parameters():
            parameter.zero_()  # the network says nothing: what moves is the gradient's
    context, draws = policy.encode(seen(spec())), 0.1 * noise(spec(), seen(spec()), 5)
    scale = torch.as_tensor(policy.actions.scale)

    def end(gradient: float) -> torch.Tensor:
        return policy.sample(context, 5, draws, guide=lambda x, t: Steering(gradient=torch.full_like(x, gradient)))[0]

    # d x = scale g and d chunk = scale d x: a spec-unit gradient moves the chunk by scale^2 g
    moved = (end(1e-2) - end(-1e-2)) / scale**2
    assert torch.allclose(moved[..., 0], moved[..., 1], rtol=1e-2)
    assert (moved > 0).all()


def test_pruned_candidates_come_back_as_nan_and_cost_nothing(config):
    policy = build(config)
    context, draws = policy.encode(seen(spec())), noise(spec(), seen(spec()), 6)
    keep = torch.ones(3, 6, dtype=torch.bool)
    keep[:, 2:] = False
    keep[1] = False
    rows = []
    hook = policy.head.input.register_forward_hook(lambda module, x, y: rows.append(len(x[0])))
    out, _ = policy.sample(context, 6, draws, guide=lambda x_hat, t: Steering(keep=keep))
    hook.remove()
    assert out[~keep].isnan().all()
    assert torch.allclose(out[keep], policy.sample(context, 6, draws)[0][keep], atol=1e-5)
    assert rows[0] == 18 and rows[-1] == 4
    none, _ = policy.sample(context, 6, draws, guide=lambda x_hat, t: Steering(keep=torch.zeros_like(keep)))
    assert none.isnan().all()


def test_an_observation_is_encoded_once_however_many_candidates_there_are(config):
    s = spec(images=True)
    policy, calls = build(replace(config, encoder=SMALL_IMAGES), s), []
    policy.encoder.cameras["front"].register_forward_hook(lambda *_: calls.append(1))
    context = policy.encode(seen(s))
    policy.sample(context, 16, noise(s, seen(s), 16))
    assert len(calls) == 1


def test_a_bad_observation_or_noise_spoils_its_own_row_only(config):
    # mutation: clip with clamp alone (infinity becomes a limit)
    policy, good = build(config), seen(spec())
    state = good.state.copy()
    state[1, 0, 0] = float("nan")
    draws = noise(spec(), good, 3)
    clean, _ = policy.sample(policy.encode(good), 3, draws)
    dirty, _ = policy.sample(policy.encode(replace(good, state=state)), 3, draws)
    assert dirty[1].isnan().all()
    assert torch.allclose(dirty[[0, 2]], clean[[0, 2]], atol=1e-5)
    draws[2, 1] = float("inf")
    dirty, _ = policy.sample(policy.encode(good), 3, draws)
    assert dirty[2, 1].isnan().any() and dirty[2, 0].isfinite().all()


def test_chunks_stay_inside_the_limits_and_what_is_not_finite_stays_visible():
    s = spec()
    policy = build(CONFIGS["flow"], s)
    wild = 100 * noise(s, seen(s), 5)
    chunks, _ = policy.sample(policy.encode(seen(s)), 5, wild)
    assert (chunks >= torch.from_numpy(s.low)).all() and (chunks <= torch.from_numpy(s.high)).all()
    clipped = clip(torch.tensor([-2.0, 0.5, torch.inf, torch.nan]), torch.tensor(-1.0), torch.tensor(1.0))
    assert clipped[:2].tolist() == [-1.0, 0.5] and clipped[2:].isnan().all()


def test_wrong_noise_and_an_undecided_horizon_are_refused(config):
    policy = build(config)
    with pytest.raises(ValueError, match=r"expected \[B, n, H, A\] = \[3, 2, 4, 2\], got \[3, 3, 4, 2\]"):
        policy.sample(policy.encode(seen(spec())), 2, torch.zeros(3, 3, 4, 2))
    with pytest.raises(ValueError, match="horizon: expected at least 1"):
        build(config, spec(horizon=0))


def test_unknown_options_are_refused_with_the_list():
    with pytest.raises(ValueError, match="sampler: expected one of euler, midpoint, got 'rk4'"):
        build(flow.Config(sampler="rk4"))
    with pytest.raises(ValueError, match="prediction: expected one of epsilon, sample, got 'v'"):
        build(diffusion.Config(prediction="v"))
    with pytest.raises(ValueError, match="expected min_max with prediction epsilon, got 'mean_std'"):
        build(diffusion.Config(prediction="epsilon", normalization="mean_std"))


def test_the_seed_decides_the_initial_weights(config):
    a, b, c = (build(replace(config, seed=seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["head.input.weight"], c["head.input.weight"])


def test_more_sampling_steps_may_be_asked_for_later():
    policy = build(CONFIGS["flow"])
    calls = []
    policy.head.input.register_forward_hook(lambda *_: calls.append(1))
    policy.sample_steps = 4
    policy.sample(policy.encode(seen(spec())), 1, noise(spec(), seen(spec()), 1))
    assert len(calls) == 4


def test_in_tiles_is_the_function_itself_when_rows_do_not_mix():
    x = torch.arange(10.0)
    assert torch.equal(in_tiles(lambda a, b: a * 2, 3, (x, None)), 2 * x)


# Losses -------------------------------------------------------------------------------------------------------------


def loss_of(policy, batch, seed: int = 0):
    return policy.loss(batch, torch.Generator().manual_seed(seed))[0]


def test_the_loss_ignores_steps_beyond_the_episodes_end(config):
    # mutation: ignore batch.valid
    policy = build(config)
    policy.head.input.weight.data.zero_()  # the noisy chunk is an input too; here only the target matters
    batch = random_batch(spec())
    batch.valid[:, 2:] = False
    other = batch.chunks.clone()
    other[:, 2:] = 0.0
    assert torch.allclose(loss_of(policy, batch), loss_of(policy, replace(batch, chunks=other)))
    batch.valid[:] = False
    assert loss_of(policy, batch) == 0


def test_the_loss_weighs_rows(config):
    policy, batch = build(config), random_batch(spec())
    weight = torch.zeros(8)
    weight[:4] = 3.0
    half = replace(
        batch,
        valid=batch.valid & (weight > 0)[:, None],
    )
    assert torch.allclose(loss_of(policy, replace(batch, weight=weight)), loss_of(policy, half), atol=1e-6)


def test_the_loss_draws_from_the_generator_it_is_given(config):
    policy, batch = build(config), random_batch(spec())
    assert torch.equal(loss_of(policy, batch), loss_of(policy, batch))
    assert not torch.equal(loss_of(policy, batch), loss_of(policy, batch, seed=1))
    assert policy.loss(batch)[0].requires_grad


def test_images_are_shifted_in_training_only(config):
    s = spec(images=True)
    policy, batch = build(replace(config, encoder=SMALL_IMAGES), s), random_batch(s)
    still = build(replace(config, encoder=replace(SMALL_IMAGES, shift=0)), s)
    assert torch.equal(loss_of(policy.eval(), batch), loss_of(still.eval(), batch))
    seen_images = []
    policy.encoder.cameras["front"].register_forward_hook(lambda module, x, y: seen_images.append(x[0]))
    loss_of(policy.train(), batch)
    assert not torch.equal(seen_images[0], batch.observation.images["front"].flatten(0, 1))
    with torch.no_grad():
        loss_of(policy.eval(), batch)
    assert torch.equal(seen_images[1], batch.observation.images["front"].flatten(0, 1))


def test_a_few_steps_of_gradient_descent_lower_the_loss(config):
    policy, batch = build(config), random_batch(spec())
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = loss_of(policy, batch, seed=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
