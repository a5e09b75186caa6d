"""Small networks against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, random_batch, spec, statistics, tensor_observation
from torch import nn

from robot_value.networks import matmul as matmul_module
from robot_value.networks.augment import random_shift
from robot_value.networks.chunk_head import ChunkTransformer, DiTBlock, chunk_head, time_features
from robot_value.networks.ema import EMA, frozen_copy, lerp_
from robot_value.networks.ensemble import EnsembleMLP
from robot_value.networks.images import ImageEncoder, spatial_softmax
from robot_value.networks.matmul import best_mode, matmul, relative_error
from robot_value.networks.mlp import mlp
from robot_value.networks.observation import EncoderConfig, ObservationEncoder
from robot_value.networks.seeding import normal, seeded_weights
from robot_value.networks.text import TextEncoder, text_features

FIXED_LIFT = (0.61220723, 0.22324215, -0.7321767, -0.19819821)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Perceptrons --------------------------------------------------------------------------------------------------------


def test_an_mlp_without_hidden_layers_is_one_linear_map():
    net = mlp(3, (), 2)
    x = torch.randn(5, 3, generator=generator())
    assert torch.allclose(net(x), x @ net[0].weight.T + net[0].bias)


def test_layer_norm_makes_an_mlp_blind_to_the_scale_of_its_first_activations():
    net = mlp(3, (8,), 1, layer_norm=True)
    nn.init.zeros_(net[0].bias)
    x = torch.randn(5, 3, generator=generator())
    assert torch.allclose(net(x), net(100 * x), atol=1e-3)


def separate(ensemble: EnsembleMLP, e: int) -> nn.Sequential:
    """Member e as an ordinary perceptron with the same weights."""
    sizes = [w.shape[1] for w in ensemble.weights]
    net = mlp(ensemble.weights[0].shape[2], sizes[:-1], sizes[-1], ensemble.layer_norm)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    norms = [layer for layer in net if isinstance(layer, nn.LayerNorm)]
    for layer, weights, biases in zip(linear, ensemble.weights, ensemble.biases, strict=True):
        layer.weight.data, layer.bias.data = weights[e].data, biases[e].data
    for layer, gains, shifts in zip(norms, ensemble.gains, ensemble.shifts, strict=True):
        layer.weight.data, layer.bias.data = gains[e].data, shifts[e].data
    return net


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("path", ["looped", "batched"])
def test_an_ensemble_is_its_members_apart_whichever_way_it_is_multiplied(path, layer_norm):
    # mutation: in `batched`, use weights without transpose(1, 2) / in `_member`, drop the norm
    with seeded_weights(0):
        ensemble = EnsembleMLP(3, 5, (8, 8), 2, layer_norm)
        for parameter in [*ensemble.gains, *ensemble.shifts]:
            nn.init.normal_(parameter)
    x = torch.randn(7, 5, generator=generator())
    out = getattr(ensemble, path)(x)
    assert out.shape == (3, 7, 2)
    for e in range(3):
        assert torch.allclose(out[e], separate(ensemble, e)(x), atol=1e-5)


def test_both_ways_through_an_ensemble_have_the_same_gradients():
    ensemble = EnsembleMLP(3, 5, (8,), 1)
    x = torch.randn(7, 5, generator=generator())
    grads = []
    for path in (ensemble.looped, ensemble.batched):
        ensemble.zero_grad()
        path(x).square().sum().backward()
        grads.append([p.grad.clone() for p in ensemble.parameters()])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_ensemble_members_start_apart_and_none_is_refused():
    ensemble = EnsembleMLP(2, 5, (8,), 1)
    out = ensemble(torch.randn(4, 5, generator=generator()))
    assert not torch.allclose(out[0], out[1])
    with pytest.raises(ValueError, match="at least 1 member, got 0"):
        EnsembleMLP(0, 5, (8,))


# Chunk heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["mlp", "transformer"])
def test_a_chunk_head_treats_rows_alone_and_depends_on_all_its_inputs(head):
    net = chunk_head(head, 6, 4, 2, width=16, depth=2, heads=2)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator(1))
    x, t = torch.randn(5, 4, 2, generator=generator()), torch.rand(5, generator=generator())
    condition = net.condition(torch.randn(5, 6, generator=generator()))
    out = net(x, t, condition)
    assert out.shape == (5, 4, 2)
    assert torch.allclose(net(x[2:3], t[2:3], condition[2:3]), out[2:3], atol=1e-5)
    assert torch.allclose(net(x, t[:1], condition)[0], out[0], atol=1e-5), "one time for all rows"
    for changed in ((x + 1, t, condition), (x, 1 - t, condition), (x, t, condition + 1)):
        assert not torch.allclose(net(*changed), out, atol=1e-3)


@pytest.mark.parametrize("head", ["mlp", "transformer"])
def test_a_condition_serves_as_many_consecutive_rows_as_there_are_for_it(head):
    # mutation: repeat instead of repeat_interleave / the last condition for all
    net = chunk_head(head, 6, 4, 2, width=16, depth=2, heads=2)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator(1))
    x, t = torch.randn(6, 4, 2, generator=generator()), torch.rand(3, generator=generator())
    condition = net.condition(torch.randn(3, 6, generator=generator()))
    each = net(x, t.repeat_interleave(2), condition.repeat_interleave(2, 0))
    assert torch.allclose(net(x, t, condition), each, atol=1e-5)
    assert torch.allclose(net(x[:2], t[:1], condition[:1]), each[:2], atol=1e-5)


def test_a_transformer_modulates_once_per_condition_not_per_candidate():
    # mutation: repeat the condition before the blocks
    net, seen = ChunkTransformer(6, 4, 2, 8, 2, 2), []
    for block in net.blocks:
        block.modulation.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape))
    net(torch.zeros(32, 4, 2), torch.zeros(1), torch.zeros(2, 8))
    assert seen == [(2, 8), (2, 8)]


def test_an_unknown_head_is_refused_with_the_list():
    with pytest.raises(ValueError, match="expected one of mlp, transformer, got 'unet'"):
        chunk_head("unet", 6, 4, 2, 16, 2, 2)


def test_a_fresh_transformer_block_changes_nothing_as_its_gates_start_at_zero():
    # mutation: do not zero the modulation's bias and weight
    block = DiTBlock(8, 2)
    y, c = torch.randn(3, 5, 4, 8, generator=generator()), torch.randn(3, 8, generator=generator(1))
    assert torch.equal(block(y, c), y)


def test_transformer_tokens_know_their_place_in_the_chunk():
    net = ChunkTransformer(2, 4, 1, 8, 1, 2)
    nn.init.normal_(net.position, generator=generator())
    out = net(torch.zeros(1, 4, 1), torch.zeros(1), net.condition(torch.zeros(1, 2)))
    assert not torch.allclose(out[:, 0], out[:, 1])


def test_time_features_tell_all_hundred_noise_levels_apart():
    features = time_features(torch.arange(100) / 100)
    distance = torch.cdist(features, features) + torch.eye(100)
    assert distance.min() > 0.01


# Images, text, augmentation -----------------------------------------------------------------------------------------


def test_spatial_softmax_points_at_the_brightest_pixel():
    # mutation: swap grid_x and grid_y
    x = torch.zeros(1, 2, 5, 9)
    x[0, 0, 0, 8], x[0, 1, 4, 4] = 1000, 1000
    assert torch.allclose(spatial_softmax(x), torch.tensor([[1.0, 0.0, -1.0, 1.0]]), atol=1e-5)


@pytest.mark.parametrize("pooling", ["spatial_softmax", "average"])
def test_images_become_features_row_by_row(pooling):
    net = ImageEncoder(6, (16, 16), pooling)
    images = torch.randint(0, 256, (3, 32, 32, 3), generator=generator(), dtype=torch.uint8)
    out = net(images)
    assert out.shape == (3, 6)
    assert torch.allclose(net(images[1:2]), out[1:2], atol=1e-5)
    assert not torch.allclose(out[0], out[1])


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="expected one of spatial_softmax, average, got 'max'"):
        ImageEncoder(6, pooling="max")


def test_texts_that_share_words_lie_closer_than_texts_that_do_not():
    a, b, c = text_features(("lift the red cube", "lift the blue cube", "open a door"), 256)
    assert a @ b > 0.5 > abs(a @ c)
    assert np.isclose(np.linalg.norm(a), 1)


def test_text_features_are_the_same_in_every_process_and_ignore_case_and_spacing():
    # the numbers were computed once; a hash that is salted per process would change them
    assert np.allclose(text_features(("Lift",), 4), text_features(("  lift ",), 4))
    assert np.allclose(text_features(("lift",), 4)[0], FIXED_LIFT, atol=1e-6)
    assert not text_features(("",), 4).any()
    assert text_features((), 4).shape == (0, 4)


def test_the_text_encoder_follows_the_task_index_not_the_place_in_the_table():
    net = TextEncoder(5, fixed=16)
    both, swapped = net(("lift", "open"), torch.tensor([1, 0])), net(("open", "lift"), torch.tensor([0, 1]))
    assert torch.allclose(both, swapped)
    assert not torch.allclose(both[0], both[1])


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 4), frames=st.integers(1, 3), pixels=st.integers(1, 4), seed=st.integers(0, 1000))
def test_a_random_shift_is_a_crop_of_the_edge_padded_image_and_moves_a_row_as_one(rows, frames, pixels, seed):
    # mutation: draw the shift per frame / clamp to width instead of width - 1
    images = torch.randint(0, 256, (rows, frames, 7, 9, 3), generator=generator(seed), dtype=torch.uint8)
    out = random_shift(images, pixels, generator(seed))
    assert out.shape == images.shape and out.dtype == torch.uint8
    widths = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    for row in range(rows):
        padded = torch.from_numpy(np.pad(images[row].numpy(), widths, mode="edge"))
        crops = [padded[:, y : y + 7, x : x + 9] for y in range(2 * pixels + 1) for x in range(2 * pixels + 1)]
        assert any(torch.equal(out[row], crop) for crop in crops)


def test_random_shifts_differ_between_rows_and_zero_pixels_is_off():
    images = torch.randint(0, 256, (1, 1, 9, 9, 3), generator=generator(), dtype=torch.uint8).expand(64, -1, -1, -1, -1)
    out = random_shift(images, 2, generator())
    assert len(torch.unique(out.flatten(1), dim=0)) > 15  # of 25 possible
    assert random_shift(images, 0) is images


# Observations -------------------------------------------------------------------------------------------------------


def test_features_are_normalised_states_then_images_then_text():
    s = spec(n_obs_steps=2, images=True, language=True)
    encoder = ObservationEncoder(s, statistics(s), EncoderConfig(image_features=5, text_features=7))
    observation = tensor_observation(s, 4, generator())
    features = encoder(observation)
    assert features.shape == (4, encoder.features) == (4, 2 * 3 + 2 * 5 + 7)
    assert torch.allclose(features[:, :6], ((observation.state - 1) / 2).flatten(1), atol=1e-6)


def test_only_images_are_augmented_and_only_where_asked():
    s = spec(images=True)
    observation = random_batch(s).observation
    on, off = (ObservationEncoder(s, statistics(s), EncoderConfig(shift=pixels)) for pixels in (4, 0))
    moved = on.augment(observation, generator())
    assert torch.equal(moved.state, observation.state)
    assert not torch.equal(moved.images["front"], observation.images["front"])
    assert off.augment(observation, generator()) is observation


def test_an_encoder_needs_to_know_its_history():
    with pytest.raises(ValueError, match="n_obs_steps: expected at least 1"):
        ObservationEncoder(spec(n_obs_steps=0), statistics(spec()), EncoderConfig())


def test_tasks_are_read_by_their_text():
    s = spec(language=True)
    encoder = ObservationEncoder(s, statistics(s), EncoderConfig())
    observation = tensor_observation(s, 4, generator())
    assert observation.tasks == TASKS
    features = encoder(observation)[:, 3:]
    assert torch.allclose(features[0], features[2]) and not torch.allclose(features[0], features[1])


# Averages, seeds, products ------------------------------------------------------------------------------------------


def test_a_weight_average_follows_its_formula():
    # mutation: lerp with decay instead of 1 - decay
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    ema = EMA(net, decay=0.9)
    nn.init.constant_(net.weight, 1.0)
    expected = 0.0
    for step in range(200):
        ema.update(net, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * 1.0
        assert ema.module.weight.item() == pytest.approx(expected, abs=1e-5)
    assert not ema.module.weight.requires_grad
    with pytest.raises(ValueError, match="expected 0 <= decay < 1, got 1"):
        EMA(net, 1)


def test_the_average_takes_buffers_as_they_are():
    net = nn.BatchNorm1d(2)
    average = frozen_copy(net)
    net.running_mean += 3
    lerp_(average, net, 0.1)
    assert torch.equal(average.running_mean, net.running_mean)


def test_initial_weights_depend_on_their_seed_alone_and_leave_the_global_generator_be():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded_weights(3):
        first = nn.Linear(2, 2).weight
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    with seeded_weights(3):
        assert torch.equal(nn.Linear(2, 2).weight, first)
    with seeded_weights(4):
        assert not torch.equal(nn.Linear(2, 2).weight, first)


def test_draws_come_from_the_generator_that_is_passed():
    device = torch.device("cpu")
    assert torch.equal(normal((3,), device, generator(1)), normal((3,), device, generator(1)))
    assert normal((3,), device, None).shape == (3,)


def test_the_product_mode_is_switched_for_the_block_and_then_restored():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(RuntimeError), matmul("onednn"):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        raise RuntimeError
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with matmul("default"):
        assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(ValueError, match="expected one of default, onednn, got 'tf32'"), matmul("tf32"):
        pass


def test_a_product_mode_that_loses_float32_is_never_chosen(monkeypatch):
    # mutation: drop the comparison with TOLERANCE
    monkeypatch.setattr(matmul_module, "_seconds", lambda: 1.0 if _mode() == "default" else 0.1)
    assert relative_error() < matmul_module.TOLERANCE
    monkeypatch.setattr(matmul_module, "relative_error", lambda: 1e-6)
    assert best_mode.__wrapped__(1) == "onednn"
    monkeypatch.setattr(matmul_module, "relative_error", lambda: 1e-3)
    assert best_mode.__wrapped__(1) == "default"
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert best_mode.__wrapped__(1) == "default"


def test_the_probe_runs_on_this_machine_and_keeps_float32():
    mode = best_mode(torch.get_num_threads())
    with matmul(mode):
        assert relative_error() < 1e-5


def _mode() -> str:
    return "onednn" if torch.backends.mkldnn.matmul.fp32_precision == "bf16" else "default"
