"""Chunked IQL against values that can be written down, and its scores against the contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import check_critic
from fakes import observation
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, random_batch, spec, statistics

from robot_value.critics import iql
from robot_value.critics.backups import expectile_loss, td_target, weighted_mean
from robot_value.critics.chunk_critic import hold_last
from robot_value.critics.ensemble import aggregate, spread
from robot_value.networks.observation import EncoderConfig
from robot_value.sampling import ChunkBatch, TensorObservation
from robot_value.types import Features

SMALL = iql.Config(members=2, hidden=(32, 32))
SMALL_IMAGES = EncoderConfig(image_features=8, image_channels=(16, 16), text_features=4)


def build(config=SMALL, s=None):
    s = s or spec()
    return config.build(s, statistics(s), TASKS).eval()


# Values -------------------------------------------------------------------------------------------------------------

GAMMA, K = 0.9, 2
# Two states, two chunks (-: actions at the lower limits, +: at the upper), K = 2 steps each; reward comes with step 2.
#   s = 0, chunk +: reward 0, goes to s = 1        Q(0, +) = g^2 V(1)
#   s = 0, chunk -: reward 0, stays (time runs out) Q(0, -) = g^2 V(0)
#   s = 1, chunk +: reward 1, terminates            Q(1, +) = g
#   s = 1, chunk -: reward 0, terminates at once    Q(1, -) = 0


def two_states() -> ChunkBatch:
    s = spec(horizon=K, state=1)
    low, high = torch.from_numpy(s.low), torch.from_numpy(s.high)
    state = torch.tensor([0.0, 0.0, 1.0, 1.0])
    following = torch.tensor([1.0, 0.0, 9.0, 9.0])  # what comes after the end must not matter
    chunks = torch.stack([high, low, high, low])[:, None].expand(-1, K, -1).clone()
    valid, terminated = torch.ones(4, K, dtype=torch.bool), torch.zeros(4, K, dtype=torch.bool)
    terminated[2, 1] = terminated[3, 0] = True
    valid[3, 1] = False

    def seen(x):
        return TensorObservation(x.view(-1, 1, 1), {}, torch.zeros(len(x), dtype=torch.int64), ("",))

    return ChunkBatch(
        observation=seen(state),
        chunks=chunks,
        rewards=torch.tensor([[0.0, 0], [0, 0], [0, 1], [0, 0]]),
        valid=valid,
        terminated=terminated,
        next={K: seen(following)},
        mc_return=torch.tensor([GAMMA**3, 0.0, GAMMA, 0.0]),
        weight=torch.ones(4),
        success=torch.tensor([1.0, 0, 1, 0]),
        index=torch.arange(4),
    )


def expected_values(tau: float) -> tuple[list[float], list[float]]:
    """V and Q at the fixed point of the expectile backup, by iteration on the four numbers."""

    def expectile(a: float, b: float) -> float:  # tau-expectile of two equally likely numbers
        high, low = max(a, b), min(a, b)
        return tau * high + (1 - tau) * low  # tau (high - v) = (1 - tau) (v - low)

    v0, v1 = 0.0, expectile(GAMMA, 0.0)
    for _ in range(500):
        v0 = expectile(GAMMA**2 * v1, GAMMA**2 * v0)
    return [v0, v1], [GAMMA**2 * v1, GAMMA**2 * v0, GAMMA, 0.0]


@pytest.mark.parametrize(("target", "tau"), [("q", 0.8), ("v", 0.5)])
def test_two_states_get_the_values_that_can_be_written_down(target, tau):
    # mutation: bootstrap where terminated / not where truncated; expectile with 1 - tau; gamma instead of gamma^k
    config = replace(SMALL, gamma=GAMMA, expectile=tau, tau=0.05, lr=3e-3, target=target, aggregate="mean")
    s = spec(horizon=K, state=1)
    critic, batch = config.build(s, statistics(s)), two_states()
    for _ in range(700):
        critic.update(batch)
    v, q = expected_values(tau)
    context = Features(critic.encoder(batch.observation))
    scores = critic.score(context, batch.chunks[:, None], torch.full((4, 1), K))
    assert scores.value[:, 0].tolist() == pytest.approx(q, abs=0.03)
    assert critic.v(context.value)[0].tolist() == pytest.approx([v[0], v[0], v[1], v[1]], abs=0.03)


def test_without_the_asymmetry_v_is_the_value_of_the_data_and_not_of_the_better_actions():
    # the defining term of iql.py; mutation: slope of 1/2 whatever tau
    s, batch = spec(horizon=K, state=1), two_states()
    found = {}
    for tau in (0.9, 0.5):
        critic = replace(SMALL, gamma=GAMMA, expectile=tau, tau=0.05, lr=3e-3, target="v", aggregate="mean")
        critic = critic.build(s, statistics(s))
        for _ in range(300):
            critic.update(batch)
        found[tau] = critic.v(critic.encoder(batch.observation))[0, 2].item()  # s = 1, where Q is g or 0
    assert found[0.9] > 0.7 * GAMMA > 0.6 * GAMMA > found[0.5]


def test_a_target_is_the_chunks_reward_and_what_comes_after_unless_it_ended():
    batch = two_states()
    target = td_target(batch, torch.full((4,), 10.0), GAMMA, K)
    assert target.mean.tolist() == pytest.approx([10 * GAMMA**2, 10 * GAMMA**2, GAMMA, 0.0])


@settings(max_examples=25, deadline=None)
@given(tau=st.floats(0.05, 0.95), values=st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=6))
def test_the_expectile_loss_is_least_at_the_expectile(tau, values):
    # mutation: slope from error > 0
    q = torch.tensor(values, dtype=torch.float64)
    v, weight = q.mean(), torch.ones(len(q), dtype=torch.float64)
    for _ in range(300):  # tau sum (q - v)+ = (1 - tau) sum (v - q)+, as a fixed point
        share = torch.where(q > v, tau, 1 - tau)
        v = (share * q).sum() / share.sum()
    best = expectile_loss(q - v, tau, weight)
    for step in (-0.05, 0.05):
        assert expectile_loss(q - v - step, tau, weight) >= best


def test_weights_count_rows():
    values = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    assert weighted_mean(values, torch.tensor([1.0, 0.0])) == 2.0
    assert weighted_mean(values[0], torch.tensor([1.0, 3.0])) == 4.0
    assert weighted_mean(values, torch.zeros(2)) == 0.0


def test_a_row_of_weight_zero_teaches_nothing():
    batch = random_batch(spec())
    weight = torch.ones(8)
    weight[0] = 0
    rewards = batch.rewards.clone()
    rewards[0] = 1e6
    losses = [build().loss(replace(batch, weight=weight, rewards=r))[0] for r in (batch.rewards, rewards)]
    assert torch.allclose(*losses)


# Pessimism ----------------------------------------------------------------------------------------------------------


def test_pessimism_is_the_least_member_or_the_mean_less_some_spread():
    values = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert aggregate(values, "min").tolist() == [1.0, 2.0]
    assert aggregate(values, "mean").tolist() == [2.0, 2.0]
    assert aggregate(values, "mean", rho=0.5).tolist() == [1.5, 2.0]
    assert spread(values[:1]).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="expected one of mean, min, subset_min, got 'max'"):
        aggregate(values, "max")


def test_scores_are_the_aggregate_of_the_members():
    critic, batch = build(), random_batch(spec())
    features = critic.encoder(batch.observation)
    members = critic.q(features, critic.actions.normalize(batch.chunks))
    scores = critic.score(Features(features), batch.chunks[:, None])
    assert torch.allclose(scores.value[:, 0], members.amin(0), atol=1e-6)
    assert torch.allclose(scores.spread[:, 0], members.std(0, correction=0), atol=1e-6)


# The contract -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [0, 1, 3])
def test_a_critic_of_any_scope_keeps_the_contract(scope):
    critic = build(replace(SMALL, scope=scope))
    assert critic.scope == (scope or 4)
    check_critic(critic, observation(spec()))


def test_a_critic_of_images_and_language_keeps_the_contract():
    s = spec(n_obs_steps=2, images=True, language=True)
    check_critic(build(replace(SMALL, encoder=SMALL_IMAGES), s), observation(s, 3, task=(TASKS[0], TASKS[1], TASKS[0])))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_chunk_that_is_not_finite_never_gets_a_finite_value(bad, layer_norm):
    critic, seen = build(replace(SMALL, layer_norm=layer_norm)), observation(spec())
    chunks = torch.zeros(3, 4, 4, 2)
    chunks[1, 2, 0, 1] = bad
    value = critic.score(critic.encode(seen), chunks, torch.full((3, 4), 4)).value
    assert not value[1, 2].isfinite()
    assert value.isfinite().sum() == 11


def test_scores_are_differentiable_in_the_chunks_spec_units():
    critic, seen = build(), observation(spec())
    chunks = torch.zeros(3, 2, 4, 2, requires_grad=True)
    critic.score(critic.encode(seen), chunks).value.sum().backward()
    assert chunks.grad.isfinite().all() and chunks.grad.abs().sum() > 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scope=st.integers(1, 5))
def test_a_short_chunk_is_scored_as_if_its_last_action_were_held(seed, scope):
    # mutation: gather with lengths instead of lengths - 1
    g = torch.Generator().manual_seed(seed)
    chunks = torch.randn(2, 3, 5, 2, generator=g)
    lengths = torch.randint(1, 6, (2, 3), generator=g)
    held = hold_last(chunks, lengths, scope)
    for b in range(2):
        for n in range(3):
            for h in range(scope):
                assert torch.equal(held[b, n, h], chunks[b, n, min(h, int(lengths[b, n]) - 1)])


def test_chunks_shorter_than_the_scope_are_refused():
    with pytest.raises(ValueError, match="expected at least 4 steps"):
        hold_last(torch.zeros(1, 1, 3, 2), None, 4)


# Updates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["q", "v"])
def test_the_target_follows_its_network_by_tau_and_is_not_trained(target):
    # mutation: update the target before the optimizer's step
    critic = build(replace(SMALL, target=target, tau=0.1))
    network = getattr(critic, target)
    before = [p.clone() for p in critic.target[target].parameters()]
    critic.update(random_batch(spec()))
    for old, new, online in zip(before, critic.target[target].parameters(), network.parameters(), strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * online, atol=1e-6)
        assert not new.requires_grad


def test_images_are_encoded_for_q_alone_and_q_never_feels_the_loss_of_v():
    # mutation: do not detach the features that V sees
    s = spec(images=True)
    gradients = []
    for expectile in (0.5, 0.9):  # matters to V only
        critic = build(replace(SMALL, encoder=SMALL_IMAGES, expectile=expectile), s)
        critic.loss(random_batch(s))[0].backward()
        gradients.append([p.grad for p in [*critic.encoder.parameters(), *critic.q.parameters()]])
        assert all(p.grad is None for p in critic.target.parameters())
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_an_update_on_images_trains_the_encoder_and_takes_seconds_not_minutes():
    s = spec(images=True, language=True)
    critic = build(replace(SMALL, encoder=SMALL_IMAGES), s).train()
    before = {name: p.clone() for name, p in critic.encoder.named_parameters()}
    metrics = critic.update(random_batch(s), torch.Generator().manual_seed(0))
    assert all(not value.requires_grad and value.isfinite() for value in metrics.values())
    assert any(not torch.equal(p, before[name]) for name, p in critic.encoder.named_parameters())


def test_unknown_options_and_scopes_are_refused():
    for field, value in (("aggregate", "max"), ("target", "both")):
        with pytest.raises(ValueError, match=f"{field}: expected one of .*, got '{value}'"):
            build(replace(SMALL, **{field: value}))
    with pytest.raises(ValueError, match=r"scope: expected 0 to the horizon of 4 steps .*, got 5"):
        build(replace(SMALL, scope=5))
    with pytest.raises(ValueError, match="choose the horizon"):
        build(SMALL, spec(horizon=0))
