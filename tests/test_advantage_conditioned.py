"""A flow that was told which data are good, on two modes of which a known critic prefers one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import check_policy
from fakes import observation
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, spec, statistics
from test_actors import FLOW, SPEC, UPHILL, bandit, drawn, mean, share_of_good, side, trained

from robot_value.critics import mc
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.learners import Optimization, PolicyLearner
from robot_value.networks.observation import EncoderConfig
from robot_value.policies import advantage_conditioned
from robot_value.policies.advantage_conditioned import NEGATIVE, POSITIVE, labels
from robot_value.training import TrainConfig, load_model
from robot_value.types import Episode, Features, Steering

HALF = advantage_conditioned.Config(FLOW, positive=0.5, drop=0.3, samples=8)  # positive is exactly the good mode


def build(config=HALF, s=SPEC):
    return config.build(s, statistics(s), TASKS).eval()


def with_guidance(actor, w: float):
    """The same weights, acting with another w."""
    other = build(replace(actor.config, guidance=w))
    other.load_state_dict(actor.state_dict())
    return other


@pytest.fixture(scope="module")
def clone():
    """A flow that has learned both modes."""
    learner = PolicyLearner(FLOW.build(SPEC, statistics(SPEC), TASKS), 250, Optimization(lr=5e-3, ema=0.98))
    generator, batch = torch.Generator().manual_seed(0), bandit(192)
    for _ in range(250):
        learner.update(batch, generator)
    return learner.deployed


@pytest.fixture(scope="module")
def told(clone):
    return trained(HALF, clone, UPHILL)


def test_it_acts_in_the_good_mode_alone_and_without_its_token_in_both(told):
    # mutation: act with the negative token; swap the labels; the token also where it is dropped
    sides = drawn(told)[1]
    assert share_of_good(told) > 0.95
    assert ((sides - 1).abs().mean((2, 3)) < 0.4).float().mean() > 0.8, "what it plays is still the data's mode"
    assert 0.35 < share_of_good(told.base) < 0.65
    assert share_of_good(with_guidance(told, 0.0)) == share_of_good(told.base)


def test_what_it_does_not_do_is_what_was_called_negative(told):
    # mutation: one token for both
    with torch.no_grad():
        swapped = with_guidance(told, 1.0)
        swapped.token.weight.copy_(told.token.weight.flip(0))
    assert share_of_good(swapped) < 0.05


def test_guidance_sharpens_what_the_token_says(clone):
    # mutation: positive + w (positive - plain); 1 - w
    # Three quarters are called positive, all of the good mode and half of the bad. Guidance tilts the plain flow by
    # (p(positive | a) / p(positive))^w, so the good mode has odds of 2^w.
    loose = trained(replace(HALF, positive=0.75), clone, UPHILL)
    for w in (1.0, 2.0, 4.0):
        assert share_of_good(with_guidance(loose, w)) == pytest.approx(2**w / (2**w + 1), abs=0.1)


def test_without_labels_that_mean_something_it_clones(clone, monkeypatch):
    # the defining term removed: a token that says nothing
    monkeypatch.setattr(advantage_conditioned, "labels", lambda advantage, share: torch.arange(len(advantage)) // 2 % 2)
    assert 0.35 < share_of_good(trained(HALF, clone, UPHILL, steps=60)) < 0.65


@pytest.mark.parametrize("w", [1.0, 3.0])
def test_training_starts_from_the_clone_exactly(clone, w):
    # mutation: a token that starts at random
    actor = build(replace(HALF, guidance=w))
    actor.adopt(clone)
    assert torch.allclose(drawn(actor)[1], drawn(clone)[1], atol=1e-5)
    assert all(p.requires_grad for p in actor.parameters())


@pytest.mark.parametrize(("w", "calls"), [(1.0, 4), (2.0, 8)])
def test_the_conditional_flow_costs_one_network_call_per_step_and_guidance_two(w, calls):
    actor, seen = build(replace(HALF, guidance=w)), []
    actor.base.head.input.register_forward_hook(lambda *_: seen.append(1))
    drawn(actor, 16)
    assert len(seen) == calls


def test_with_every_token_dropped_no_token_learns():
    # mutation: drop where uniform < 1 - p
    for drop, learns in ((1 - 1e-9, False), (0.0, True)):
        actor = build(replace(HALF, drop=drop))
        actor.attach(UPHILL)
        actor.loss(bandit(), torch.Generator().manual_seed(0))[0].backward()
        assert bool(actor.token.weight.grad.any()) == learns and actor.base.head.output.weight.grad.any()


def test_only_valid_steps_and_weighted_rows_teach():
    # mutation: a plain mean of the squares
    batch = bandit()
    weight, valid, chunks = torch.ones(96), batch.valid.clone(), batch.chunks.clone()
    weight[0], valid[1], chunks[:2] = 0, False, 0.0
    losses = []
    for data in (batch.chunks, chunks):
        actor = build()
        actor.attach(type(UPHILL)(lambda c: mean(c) * 0))  # labels that do not depend on the chunks
        given_batch = replace(batch, chunks=data, weight=weight, valid=valid)
        losses.append(actor.loss(given_batch, torch.Generator().manual_seed(0))[0])
    assert torch.allclose(*losses)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(-50, 50), min_size=2, max_size=40, unique=True), share=st.floats(0.05, 0.95))
def test_the_best_share_of_a_batch_is_positive(values, share):
    # mutation: quantile of the share instead of its complement
    advantage = torch.tensor(values, dtype=torch.float32)
    label = labels(advantage, share)
    good, bad = advantage[label == POSITIVE], advantage[label == NEGATIVE]
    assert len(good) >= 1 and abs(len(good) - share * len(values)) <= 1
    assert not len(bad) or good.min() > bad.max()


def test_where_nothing_is_better_everything_is_positive():
    # mutation: > for >=, and the token that acts is never taught
    assert labels(torch.zeros(5), 0.3).tolist() == [POSITIVE] * 5


def test_a_guide_is_obeyed_and_may_prune(told):
    # mutation: drop the guide; forget the units
    context = Features(told.encoder(bandit(2).observation)[:1])
    draws = drawn(told, 40)[0]
    plain = told.sample(context, 40, draws)[0]
    up = torch.zeros(2, 2)
    up[:, 0] = 30.0  # per metre of the arm
    keep = torch.arange(40)[None] < 30
    pushed = told.sample(context, 40, draws, guide=lambda x_hat, t: Steering(gradient=up.expand_as(x_hat), keep=keep))[
        0
    ]
    assert pushed[:, 30:].isnan().all()
    moved = side(pushed[:, :30]) - side(plain[:, :30])
    assert moved[..., 0].mean() > 0.3 and moved[..., 1].abs().mean() < 0.5 * moved[..., 0].mean()


@pytest.mark.parametrize("w", [1.0, 2.0])
@pytest.mark.parametrize("head", ["mlp", "transformer"])
def test_it_keeps_the_contract_with_either_head_and_with_images(w, head):
    s = spec(n_obs_steps=2, images=True, language=True)
    small = EncoderConfig(image_features=8, image_channels=(16, 16), text_features=4)
    base = replace(FLOW, head=head, encoder=small)
    actor = build(replace(HALF, base=base, guidance=w), s)
    torch.nn.init.normal_(actor.token.weight)
    check_policy(actor, observation(s, 3, task=(TASKS[0], TASKS[1], TASKS[0])))


def test_it_trains_from_a_store_with_a_critic_and_comes_back_from_its_checkpoint(tmp_path):
    # mutation: keep the tokens out of the module
    s, rng = spec(horizon=0, n_obs_steps=0, state=2), np.random.default_rng(0)
    store = EpisodeStore.create(tmp_path / "store", s)
    for i in range(6):
        actions = rng.uniform(s.low, s.high, (6, 2)).astype(np.float32)
        states, rewards = rng.standard_normal((7, 2)).astype(np.float32), np.float32([0, 0, 0, 0, 0, i % 2])
        store.append(Episode(s, states, {}, actions, rewards, True, False, bool(i % 2), TASKS[0]))
    store.close()
    quiet = {"progress": False, "tensorboard": False, "matmul": "default", "validation_fraction": 0.0}
    train = TrainConfig(folder=str(tmp_path / "run"), batch_size=8, steps=3, log_every=1, **quiet)
    fit(Job(str(store.path), mc.Config(hidden=(8,)), train, Windowing(2), policy=replace(HALF, guidance=2.0)))
    policy, again = load_model(tmp_path / "run" / "policy"), load_model(tmp_path / "run" / "policy")
    assert policy.config.guidance == 2.0 and policy.token.weight.any()
    seen, noise = observation(policy.spec), torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    chunks = policy.sample(policy.encode(seen), 4, noise)[0]
    assert chunks.isfinite().all() and chunks.equal(again.sample(again.encode(seen), 4, noise)[0])


def test_a_loss_without_a_critic_says_where_one_comes_from():
    with pytest.raises(ValueError, match=r"expected one, got none; train both with --critic.type"):
        build().loss(bandit())


@pytest.mark.parametrize("wrong", [{"positive": 1.0}, {"drop": 1.0}, {"guidance": -1.0}, {"samples": 0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected positive in \(0, 1\), drop in \[0, 1\), guidance >= 0"):
        build(replace(HALF, **wrong))
