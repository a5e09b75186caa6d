"""Every regularizer against a closed form or a plain loop, and all of them on one page by a weight."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, random_batch, spec, statistics
from torch import nn

from robot_value.critics import iql
from robot_value.critics.regularizers import TERMS, RegularizerConfig, geometry, lipschitz, penalty, robust
from robot_value.critics.regularizers.bisimulation import bisimulation
from robot_value.critics.regularizers.chunks import judge, random_chunks
from robot_value.critics.regularizers.cql import calibrated, cql, csve
from robot_value.critics.regularizers.orthogonal import orthogonal, sideways
from robot_value.critics.regularizers.representation import (
    co_adaptation,
    effective_rank,
    representation,
    singular_values,
)
from robot_value.critics.value_networks import QNetwork
from robot_value.networks.observation import EncoderConfig

SEEDS = st.integers(0, 10_000)


@pytest.fixture(autouse=True)
def _same_networks():
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def gradient(loss: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, of, retain_graph=True)


# Conservatism -------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, temperature=st.floats(0.2, 5))
def test_on_a_table_cql_pushes_by_softmax_and_holds_the_recorded_action(seed, temperature):
    # mutation: forget the data's own action in the sum; divide by T twice
    table = (3 * randn(5, seed=seed)).requires_grad_()  # Q of five actions, the third was recorded
    others = table[[0, 1, 3, 4]]
    slope = gradient(cql(table[2].view(1, 1), others.view(1, 1, 4), temperature).sum(), table)[0]
    recorded = torch.eye(5, dtype=torch.float64)[2]
    assert torch.allclose(slope, (table / temperature).softmax(0) - recorded, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_cql_has_a_floor_that_no_data_can_be_pulled_through(seed):
    # mutation: leave the recorded action out of the sum
    loss = cql(100 * randn(2, 3, seed=seed), 100 * randn(2, 3, 6, seed=seed + 1))
    assert loss.shape == (2, 3)
    assert (loss >= -np.log(7) - 1e-9).all()
    assert torch.allclose(cql(torch.ones(2, 3), torch.ones(2, 3, 6)), torch.zeros(2, 3), atol=1e-6)


def test_with_a_density_cql_estimates_the_sum_over_all_actions():
    # mutation: add the log density instead of subtracting it
    table = randn(6)
    uniform = torch.full((1, 6), -np.log(6))
    loss = cql(table[:1].view(1, 1), table.view(1, 1, 6), 1.0, uniform)
    assert loss.item() == pytest.approx((table.logsumexp(0) - table[0]).item())


def descended(floor: bool) -> list[float]:
    """Q of the recorded, a random and a policy's action after TD (to 0.5) and CQL; the recorded return is 0.5."""
    table = torch.zeros(3, requires_grad=True)
    for _ in range(150):
        q_data, q_random, q_policy = (table[i].view(1, 1) for i in range(3))
        q_policy = q_policy[..., None]
        if floor:
            q_policy = calibrated(q_policy, torch.tensor([0.5]))
        penalty = cql(q_data, torch.cat([q_random[..., None], q_policy], -1))
        step = gradient(((q_data - 0.5).square() + penalty).sum(), table)[0]
        table = (table - 0.2 * step).detach().requires_grad_()
    return table.tolist()


def test_calibration_stops_the_push_at_the_recorded_return_and_only_for_the_policys_actions():
    # mutation: minimum instead of maximum; floor under random actions too
    recorded, random, policy = descended(floor=True)
    assert recorded > 0.4 and random < -0.5
    assert policy == 0.0  # it began below the floor: nothing ever pushed it
    assert descended(floor=False)[2] < -0.5


def test_from_above_the_policys_value_comes_down_to_the_recorded_return_and_stays():
    value = torch.tensor([[[2.0]]], requires_grad=True)
    for _ in range(100):
        loss = cql(torch.zeros(1, 1), calibrated(value, torch.tensor([0.5]))).sum()
        with torch.no_grad():
            value -= 0.04 * gradient(loss, value)[0]
    assert value.item() == pytest.approx(0.5, abs=0.03)  # a step wide


def test_state_values_go_down_beside_the_data_and_up_on_it():
    # mutation: sign
    on, beside = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    up, down = gradient(csve(on, beside).mean(), on, beside)
    assert torch.allclose(up, torch.full((4,), -0.25)) and torch.allclose(down, torch.full((4,), 0.25))


def test_random_chunks_fill_the_limits_and_repeat_with_the_generator():
    # mutation: forget to normalize; draw from [-1, 1] whatever the limits
    critic = build()
    chunks = random_chunks(critic, 200, 5, generator())
    assert chunks.shape == (200, 5, 4, 2)
    raw = critic.actions.unnormalize(chunks).flatten(0, 2)
    low, high = torch.from_numpy(critic.spec.low), torch.from_numpy(critic.spec.high)
    assert (raw >= low - 1e-4).all() and (raw <= high + 1e-4).all()
    span = high - low
    assert (((raw.mean(0) - low) / span - 0.5).abs() < 0.02).all()
    assert ((raw.amin(0) - low) / span < 0.01).all() and ((high - raw.amax(0)) / span < 0.01).all()
    assert torch.equal(chunks, random_chunks(critic, 200, 5, generator()))


def test_judging_many_chunks_is_judging_each():
    # mutation: repeat the features instead of interleaving them
    q, features, chunks = QNetwork(3, 4, 2, 2, (8,)), torch.randn(5, 3), torch.randn(5, 6, 4, 2)
    each = torch.stack([q(features, chunks[:, i]) for i in range(6)], -1)
    assert torch.allclose(judge(q, features, chunks), each, atol=1e-6)


# Robustness ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, copies=st.integers(1, 5))
def test_smoothness_is_the_worst_copys_leaning_square(seed, copies):
    # mutation: mean over copies; tau and 1 - tau exchanged; copies laid out row by row
    q, noisy = randn(2, 3, seed=seed), randn(2, copies * 3, seed=seed + 1)
    loss = robust.smoothness(q, noisy, tau=0.2)
    for e in range(2):
        for b in range(3):
            differences = [float(noisy[e, c * 3 + b] - q[e, b]) for c in range(copies)]
            worst = max((0.8 if d > 0 else 0.2) * d * d for d in differences)
            assert loss[e, b].item() == pytest.approx(worst)


def test_a_constant_value_is_smooth_and_perturbed_features_stay_within_reach():
    features = torch.randn(4, 3)
    rows = robust.perturbed(features, 0.1, 6, generator())
    moved = rows.unflatten(0, (6, 4)) - features
    assert 0.09 < moved.abs().max() <= 0.1 + 1e-6 and moved.mean().abs() < 0.02
    assert robust.smoothness(torch.full((2, 4), 3.0), torch.full((2, 24), 3.0)).abs().max() == 0


def test_uncertainty_pulls_every_member_down_by_the_disagreement_and_nothing_where_they_agree():
    # mutation: let the gradient through the target; plus instead of minus
    q = torch.tensor([[1.0, 2.0], [3.0, 2.0]], requires_grad=True)  # std 1 and 0
    loss = robust.uncertainty(q, alpha=0.7)
    assert torch.allclose(loss, torch.tensor([[0.49, 0.0], [0.49, 0.0]]))
    assert torch.allclose(gradient(loss.sum(), q)[0], torch.tensor([[1.4, 0.0], [1.4, 0.0]]))


# Geometry -----------------------------------------------------------------------------------------------------------


def test_distance_is_the_root_mean_square_over_steps():
    # mutation: mean over dims too
    chunk, others = randn(3, 4, 2), randn(3, 5, 4, 2, seed=1)
    d = geometry.distance(chunk, others)
    for b in range(3):
        for n in range(5):
            squares = [float(((others[b, n, t] - chunk[b, t]) ** 2).sum()) for t in range(4)]
            assert d[b, n].item() == pytest.approx((sum(squares) / 4) ** 0.5)


def test_the_margin_is_a_ceiling_that_falls_with_distance():
    # mutation: two-sided square; ceiling rises with distance
    q = torch.tensor([[[0.0, 0.5, 0.5]]], requires_grad=True)
    target, d = torch.tensor([1.0]), torch.tensor([[0.1, 0.1, 0.4]])  # ceilings 0.8, 0.8, 0.2 with slope 2
    loss = geometry.margin(q, target, d, slope=2.0)
    assert loss.item() == pytest.approx(0.3**2 / 3)
    assert gradient(loss.sum(), q)[0].flatten().tolist() == pytest.approx([0, 0, 2 * 0.3 / 3])


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, slope=st.floats(0, 5))
def test_rank_is_the_mean_over_pairs_and_zero_where_value_falls_with_distance(seed, slope):
    # mutation: d_i - d_j
    q, d = randn(2, 3, 4, seed=seed), randn(3, 4, seed=seed + 1).abs()
    loss = geometry.rank(q, d, slope)
    for e in range(2):
        for b in range(3):
            pairs = [
                float(q[e, b, i] - q[e, b, j] - slope * (d[b, j] - d[b, i])) ** 2 for i in range(4) for j in range(4)
            ]
            assert loss[e, b].item() == pytest.approx(sum(pairs) / 16, abs=1e-9)
    assert geometry.rank((7 - slope * d)[None], d, slope).abs().max() < 1e-10


# Representation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_representation_is_what_the_last_layer_reads(layer_norm):
    # mutation: replace the first layer; keep the last bias
    q = QNetwork(3, 4, 2, 2, (8, 16), layer_norm)
    features, chunk = torch.randn(5, 3), torch.randn(5, 4, 2)
    phi = representation(q, features, chunk)
    assert phi.shape == (2, 5, 16)
    values = torch.einsum("erw,ew->er", phi, q.net.weights[-1][:, 0]) + q.net.biases[-1]
    assert torch.allclose(values, q(features, chunk), atol=1e-5)


def test_networks_without_a_single_last_layer_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match="got Linear; take the spectral or gradient penalty"):
        representation(nn.Linear(3, 1), torch.zeros(1, 3), torch.zeros(1, 4, 2))


def test_descending_co_adaptation_turns_neighbouring_features_apart():
    # mutation: ascend (return the negative product)
    q, chunk = QNetwork(3, 4, 2, 2, (16, 16)), torch.randn(32, 4, 2)
    now, after = torch.randn(32, 3), torch.randn(32, 3)
    optimizer, products = torch.optim.Adam(q.parameters(), 1e-2), []
    for _ in range(30):
        phi, following = representation(q, now, chunk), representation(q, after, chunk)
        loss = co_adaptation(phi, following).mean()
        assert loss.item() == pytest.approx(torch.einsum("ebw,ebw->", phi, following).item() / 64, rel=1e-4)
        products.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert products[-1] < 0.5 * products[0]


def test_effective_rank_counts_directions():
    # mutation: squares of singular values; no exponential
    assert effective_rank(torch.eye(5)).item() == pytest.approx(5, rel=1e-5)
    assert effective_rank(torch.outer(torch.randn(6), torch.randn(4))).item() == pytest.approx(1, rel=1e-3)
    assert effective_rank(torch.diag(torch.tensor([2.0, 2, 0, 0]))).item() == pytest.approx(2, rel=1e-4)


def test_the_singular_value_penalty_is_numpys_and_raises_the_effective_rank():
    # mutation: smallest less largest; forget the square
    phi = (randn(1, 20, 6) + 4 * randn(1, 20, 1, seed=1) * randn(1, 1, 6, seed=2)).requires_grad_()
    sigma = np.linalg.svd(phi.detach().numpy()[0], compute_uv=False)
    assert singular_values(phi).item() == pytest.approx((sigma[0] ** 2 - sigma[-1] ** 2) / 20)
    before = effective_rank(phi).item()
    for _ in range(40):
        phi = (phi - 0.5 * gradient(singular_values(phi).sum(), phi)[0]).detach().requires_grad_()
    assert effective_rank(phi).item() > 1.3 * before


# Slopes -------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, out=st.integers(1, 6), inputs=st.integers(1, 6))
def test_power_iteration_finds_numpys_largest_singular_value_and_its_gradient(seed, out, inputs):
    # mutation: v' W v; gradient through the iteration
    weight = randn(out, inputs, seed=seed).requires_grad_()
    norm = lipschitz.spectral_norm(weight, iterations=300)
    u, sigma, vh = np.linalg.svd(weight.detach().numpy())
    assert norm.item() == pytest.approx(sigma[0], rel=2e-3)
    if len(sigma) == 1 or sigma[1] < 0.95 * sigma[0]:  # else the leading direction takes longer
        slope = gradient(norm, weight)[0].numpy()
        assert np.allclose(slope, np.outer(u[:, 0], vh[0]), atol=1e-4)


def test_few_iterations_are_enough_for_layers_and_only_weights_count():
    # mutation: take gains or biases for weights
    q = QNetwork(3, 4, 2, 3, (32, 32))
    exact = sum(float((np.linalg.svd(w.detach().numpy(), compute_uv=False)[:, 0] ** 2).mean()) for w in q.net.weights)
    assert lipschitz.spectral_penalty(q).item() == pytest.approx(exact, rel=0.03)
    assert lipschitz.spectral_penalty(q.requires_grad_(False)) == 0


def test_the_gradient_penalty_of_a_linear_value_is_its_slope_above_the_limit():
    # mutation: two-sided; no square root
    w = torch.randn(2, 4, 2, generator=generator())

    def q(features, chunk):
        return torch.einsum("eka,rka->er", w, chunk) + features.sum(1)

    features, chunk = torch.randn(5, 3), torch.randn(5, 4, 2)
    length = w.flatten(1).norm(dim=1)
    limit = float(length.mean())
    expected = (length - limit).clamp_min(0).square()[:, None].expand(2, 5)
    assert torch.allclose(lipschitz.gradient_penalty(q, features, chunk, limit), expected, atol=1e-5)
    with torch.no_grad():  # as validation calls it
        assert torch.allclose(lipschitz.gradient_penalty(q, features, chunk, limit), expected, atol=1e-5)


def test_descending_the_gradient_penalty_flattens_a_network_to_the_limit():
    q, features, chunk = QNetwork(3, 4, 2, 2, (32,), False), torch.randn(16, 3), torch.randn(16, 4, 2)
    with torch.no_grad():
        q.net.weights[-1] *= 20
    optimizer = torch.optim.Adam(q.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        losses.append(lipschitz.gradient_penalty(q, features, chunk, 0.5).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


# Orthogonal gradients -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, eta=st.floats(0.1, 2))
def test_the_orthogonal_update_is_gram_schmidt(seed, eta):
    # mutation: project onto the backward gradient; add instead of subtract
    x, y = randn(3, seed=seed).requires_grad_(), randn(2, seed=seed + 1).requires_grad_()
    a, b = randn(5, seed=seed + 2), randn(5, seed=seed + 3)
    z = torch.cat([x, y])
    forward, backward = (a * z).sum() + z.square().sum(), (b * z).sum() + z.pow(3).sum()
    f, g = (torch.cat(gradient(loss, x, y)) for loss in (forward, backward))
    loss = orthogonal(forward, backward, [x, y], eta)
    total = torch.cat(gradient(loss, x, y))
    assert loss.item() == pytest.approx(forward.item())
    assert abs(float((total - f) @ f)) < 1e-8 * max(1.0, float(f @ f))
    assert torch.allclose(total, f + eta * (g - (f @ g) / (f @ f) * f), atol=1e-8)


def test_a_backward_gradient_that_only_undoes_the_forward_one_is_dropped():
    x = randn(4).requires_grad_()
    forward = x.square().sum()
    assert torch.allclose(gradient(orthogonal(forward, -forward, [x]), x)[0], 2 * x)
    with torch.no_grad():  # validation: nothing to project
        assert sideways(forward.detach(), forward.detach(), [x]) == 0


# Bisimulation -------------------------------------------------------------------------------------------------------


def test_features_that_measure_rewards_and_futures_are_a_bisimulation():
    # mutation: minus the future; discount the reward
    future, reward = torch.tensor([0.0, 1.0, 2.5, 4.0]), torch.tensor([0.0, 0.5, 0.7, 3.0])  # both rise together
    bootstrap = torch.full((4,), 0.9)
    features = (reward + 0.9 * future)[:, None]
    for order in (None, torch.tensor([2, 3, 0, 1])):
        loss = bisimulation(features, future[:, None], reward, bootstrap, order)
        assert torch.allclose(loss, torch.zeros(4), atol=1e-10)
    assert bisimulation(features + torch.tensor([[0.0], [0], [1], [0]]), future[:, None], reward, bootstrap).sum() > 1


def test_ends_have_no_future_and_the_future_is_not_trained():
    # mutation: no detach; use gamma^k where the episode terminated
    features, future = randn(2, 3).requires_grad_(), randn(2, 3, seed=1).requires_grad_()
    reward, ended = torch.zeros(2), torch.zeros(2)
    loss = bisimulation(features, future, reward, ended)
    assert torch.allclose(loss, (features[0] - features[1]).abs().sum().square().expand(2))
    alive = bisimulation(features, future, reward, torch.ones(2)).sum()
    assert torch.autograd.grad(alive, future, allow_unused=True)[0] is None


# On a page ----------------------------------------------------------------------------------------------------------

SMALL_IMAGES = EncoderConfig(image_features=8, image_channels=(16, 16))


def build(config: iql.Config | None = None, s=None):
    s = s or spec()
    return (config or iql.Config(members=2, hidden=(16, 16))).build(s, statistics(s), TASKS)


def test_every_weight_names_a_penalty():
    weights = [f.name for f in fields(RegularizerConfig) if f.default == 0.0]
    assert weights == list(TERMS)


def test_without_weights_nothing_is_computed_or_drawn():
    critic, batch = build(), random_batch(spec())
    critic.encoder = None  # would fail if asked
    assert penalty(critic, RegularizerConfig(), batch)[0] == 0


@pytest.mark.parametrize("name", TERMS)
def test_every_penalty_can_be_added_to_a_page_by_its_weight(name):
    # mutation: forget the weight; detach the term
    s = spec(images=name == "bisimulation")
    critic, batch = build(iql.Config(members=2, hidden=(16, 16), encoder=SMALL_IMAGES), s), random_batch(s)
    limits = {"limit": 0.0, "epsilon": 0.1}
    total, metrics = penalty(critic, RegularizerConfig(**{name: 3.0}, **limits), batch, generator())
    assert list(metrics) == [f"{name}_penalty"]
    assert total.item() == pytest.approx(3 * metrics[f"{name}_penalty"].item(), rel=1e-5, abs=1e-7)
    total.backward()
    moved = [p.grad for p in critic.trained if p.grad is not None]
    assert moved and all(g.isfinite().all() for g in moved) and any(g.abs().max() > 0 for g in moved)
    with torch.no_grad():  # validation
        assert penalty(critic.eval(), RegularizerConfig(**{name: 3.0}), batch, generator())[0].isfinite()


def test_penalties_add_up_and_rows_are_weighed():
    # mutation: mean over rows whatever their weight
    critic, batch = build(), random_batch(spec())
    one = RegularizerConfig(gradient=1.0, limit=0.0)
    both = RegularizerConfig(gradient=1.0, spectral=0.5, limit=0.0)
    total = [penalty(critic, config, batch, generator())[0].item() for config in (one, both)]
    spectral = penalty(critic, RegularizerConfig(spectral=0.5), batch)[0].item()
    assert total[1] == pytest.approx(total[0] + spectral, rel=1e-5)
    alone = penalty(critic, one, replace(batch, weight=torch.eye(8)[3]), generator())[0]
    features, chunk = critic.see(batch)
    row = lipschitz.gradient_penalty(critic.q, features[3:4], chunk[3:4], 0.0).mean()
    assert alone.item() == pytest.approx(row.item(), rel=1e-4)


def test_a_penalty_on_features_needs_features_that_learn():
    with pytest.raises(ValueError, match="expected an encoder with weights"):
        penalty(build(), RegularizerConfig(bisimulation=1.0), random_batch(spec()))


def test_the_next_state_moves_v_only_at_right_angles_to_the_page():
    # mutation: add the backward gradient as it is
    critic, batch = build(), random_batch(spec())
    penalty(critic, RegularizerConfig(orthogonal=1.0), batch)[0].backward()
    pushed = torch.cat([p.grad.flatten() for p in critic.v.parameters()])
    features, _ = critic.see(batch)
    after = critic.v(critic.ahead(batch, 4)).detach()[0]
    rewards = batch.rewards @ critic.gamma ** torch.arange(4.0)
    forward = (critic.v(features)[0] - rewards - critic.gamma**4 * after).square().mean()
    along = torch.cat([g.flatten() for g in torch.autograd.grad(forward, list(critic.v.parameters()))])
    assert pushed.norm() > 0
    assert abs(float(pushed @ along)) < 1e-4 * float(pushed.norm() * along.norm())
