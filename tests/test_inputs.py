"""What critics see, for pages with and without a policy in their backup: images, language, history, a policy, TACO."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics

from robot_value.critics import iql, qc
from robot_value.critics.auxiliary import Taco, info_nce
from robot_value.critics.chunk_critic import ChunkCritic
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.networks.observation import EncoderConfig
from robot_value.networks.policy_features import PolicyFeatures, seen_through
from robot_value.policies import flow
from robot_value.sampling import to_tensors
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer
from robot_value.training import TrainConfig, load_model
from robot_value.types import Episode, Features

SMALL_IMAGES = EncoderConfig(image_features=8, image_channels=(16, 16), text_features=4)
POLICY = flow.Config(width=16, depth=1, sample_steps=2, encoder=SMALL_IMAGES)
PAGES = {
    "iql": iql.Config(members=2, hidden=(16, 16), encoder=SMALL_IMAGES),
    "qc": qc.Config(candidates=3, hidden=(16, 16), encoder=SMALL_IMAGES),
}
ALL = spec(n_obs_steps=2, images=True, language=True)

pages = pytest.mark.parametrize("page", PAGES)


def build(page: str, s=ALL, **encoder):
    """A critic with a policy to ask, and that policy."""
    config, policy = PAGES[page], POLICY.build(s, statistics(s), TASKS).eval()
    policy.version = "flow 1"
    config = replace(config, encoder=replace(config.encoder, **encoder))
    if config.encoder.source == "policy":
        config = replace(config, encoder=seen_through(config.encoder, policy))
    critic = config.build(s, statistics(s), TASKS).eval()
    if critic.needs_policy:
        critic.attach(policy)
    return critic, policy


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def gradients(module: torch.nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


# Images, language, history -------------------------------------------------------------------------------------------


@pages
def test_only_q_teaches_the_encoder(page):
    # mutation: V, or the next observation's value, with gradients into the features
    critic, policy = build(page)
    critic.loss(random_batch(ALL), generator())[0].backward()
    assert gradients(critic.encoder) > 0 and gradients(policy) == 0
    deaf, _ = build(page)
    with torch.no_grad():
        for p in deaf.q.parameters():
            p.zero_()  # a Q that does not listen to its features says nothing to them either
    deaf.loss(random_batch(ALL), generator())[0].backward()
    assert gradients(deaf.encoder) == 0


@pages
def test_images_are_shifted_apart_now_and_next_while_training_and_never_otherwise(page):
    # mutation: augment in eval mode; one shift for both observations
    critic, _ = build(page)
    batch = random_batch(ALL)
    batch = replace(batch, next={4: batch.observation})
    seen: list[torch.Tensor] = []
    critic.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].images["front"]))
    critic.loss(batch, generator())
    assert all(torch.equal(each, batch.observation.images["front"]) for each in seen)
    seen.clear()
    critic.train().loss(batch, generator())
    now, following = seen
    assert not torch.equal(now, batch.observation.images["front"]) and not torch.equal(now, following)


@pages
def test_values_depend_on_the_instruction_and_on_the_order_of_the_history(page):
    # mutation: encode the last frame only; one text for the whole batch
    critic, _ = build(page)
    seen, chunks = observation(ALL, task=TASKS[:1] * 3), random_batch(ALL, 3).chunks[:, None]

    def values(given):
        return critic.score(critic.encode(given), chunks).value.detach()

    other = values(replace(seen, task=(TASKS[0], TASKS[1], TASKS[0])))
    assert torch.isclose(values(seen), other, rtol=0, atol=1e-6)[:, 0].tolist() == [True, False, True]
    for turned in (
        replace(seen, state=np.ascontiguousarray(seen.state[:, ::-1])),
        replace(seen, images={name: np.ascontiguousarray(image[:, ::-1]) for name, image in seen.images.items()}),
    ):
        assert not torch.isclose(values(turned), values(seen), rtol=0, atol=1e-6).any()


# A frozen policy's features ------------------------------------------------------------------------------------------


@pages
@pytest.mark.parametrize("projection", [(), (16, 8)])
def test_a_critic_sees_through_the_eyes_of_its_policy_and_trains_only_what_stands_on_top(page, projection):
    # mutation: policy features with gradient; own encoder used at decision time; shifted images for a frozen policy
    critic, policy = build(page, source="policy", projection=projection)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    assert critic.needs_policy and critic.encoder.features == (8 if projection else policy.encoder.features)
    critic.train().update(random_batch(ALL), generator())
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in policy.named_parameters())
    assert (gradients(critic.encoder) > 0) == bool(projection) and gradients(critic.q) > 0
    seen = observation(ALL)
    context = critic.encode(seen, policy.encode(seen)).value
    assert torch.equal(context, critic.features(to_tensors(seen)))
    assert projection or torch.equal(context, policy.encode(seen).value)
    assert not any("policy" in name or "cameras" in name for name in critic.state_dict())


def test_a_critic_that_sees_through_a_policy_refuses_to_be_blind_or_to_borrow_other_eyes():
    # mutation: compare nothing in check_policy
    critic, policy = build("iql", source="policy")
    seen = observation(ALL)
    with pytest.raises(ValueError, match="policy_context: expected the policy's"):
        critic.encode(seen)
    wide = Features(torch.zeros(3, policy.encoder.features + 1))
    with pytest.raises(ValueError, match=rf"expected float32\[B, {policy.encoder.features}\], got \[3, "):
        critic.encode(seen, wide)
    other = POLICY.build(ALL, statistics(ALL), TASKS)
    for version in ("flow 2", ""):
        other.version = version
        with pytest.raises(ValueError, match=r"sees through the policy 'flow 1', got .*; steer that policy or train"):
            critic.attach(other)
    own, _ = build("iql")
    own.attach(other)  # it asks for chunks at most; any policy of the same spec will do


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"source": "policy"}, "expected the width of the policy's features, got 0; train with --base"),
        ({"source": "policy", "policy_features": 4, "goal": True}, "expected goal=false and taco=0"),
        ({"source": "policy", "policy_features": 4, "taco": 1.0}, "expected goal=false and taco=0"),
        ({"source": "vla"}, "expected own or policy, got 'vla'"),
        ({"pooling": "query"}, "encoder.pooling: expected mean with source=own, got query"),
        ({"source": "policy", "policy_features": 4, "pooling": "max"}, "expected mean or query, got 'max'"),
        ({"source": "policy", "policy_features": 4, "pooling": "query"}, "expected a policy that gives tokens"),
    ],
)
def test_sources_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(PAGES["iql"], encoder=EncoderConfig(**wrong)).build(ALL, statistics(ALL), TASKS)


@pytest.mark.parametrize("wrong", [{"source": "policy", "policy_features": 4}, {"taco": 1.0}])
def test_a_policy_has_its_own_eyes_and_no_contrastive_loss(wrong):
    with pytest.raises(ValueError, match="only critics see through a policy's eyes or learn with TACO"):
        replace(POLICY, encoder=EncoderConfig(**wrong)).build(ALL, statistics(ALL), TASKS)


def test_a_critic_trained_on_a_checkpoints_features_is_loaded_with_that_policys_name(tmp_path):
    s = spec(horizon=4, state=2)
    with EpisodeStore.create(tmp_path / "data", s) as store:
        rng = np.random.default_rng(0)
        for _ in range(3):
            actions = rng.uniform(s.low, s.high, (9, 2)).astype(np.float32)
            states = rng.standard_normal((10, 2)).astype(np.float32)
            store.append(Episode(s, states, {}, actions, np.eye(9, dtype=np.float32)[8], True, False, True))
    quiet = TrainConfig(str(tmp_path / "base"), 2, 8, validate_every=0, progress=False, tensorboard=False)
    base = fit(Job(str(tmp_path / "data"), POLICY, quiet, Windowing(horizon=4)))
    config = replace(PAGES["iql"], encoder=EncoderConfig(source="policy", projection=(8,)))
    job = Job(str(tmp_path / "data"), config, replace(quiet, folder=str(tmp_path / "critic")), Windowing(horizon=4))
    critic, policy = load_model(fit(replace(job, base=str(base)))), load_model(base)
    critic.check_policy(policy)
    assert critic.config.encoder.policy_version == policy.version != ""
    seen = observation(policy.spec)
    assert critic.encode(seen, policy.encode(seen)).value.shape == (3, 8)
    with pytest.raises(ValueError, match="train with --base"):
        fit(job)


def test_the_steerer_hands_over_the_policys_features_and_the_goal():
    # mutation: Steerer encodes without the policy's context; to_tensors drops the goal
    critic, policy = build("iql", source="policy")
    seen = observation(ALL)
    decision = Steerer(policy, critic, argmax.Config().build(), n=4)(seen)
    candidates = torch.from_numpy(decision.candidates)
    expected = critic.score(policy.encode(seen), candidates).value.detach().numpy()
    np.testing.assert_allclose(decision.value, expected, rtol=1e-4, atol=1e-5)
    towards, _ = build("iql", goal=True)
    steerer = Steerer(policy, towards, argmax.Config().build(), n=4)
    values = [steerer(replace(seen, goal=observation(ALL, seed=seed))).value for seed in (1, 2)]
    assert not np.isclose(*values, rtol=0, atol=1e-5).any()


# TACO ----------------------------------------------------------------------------------------------------------------


def test_features_that_say_nothing_cost_the_logarithm_of_the_rows_that_count():
    # mutation: uncounted rows stay among the negatives, or in the mean
    counted = torch.arange(8) < 5
    assert info_nce(torch.zeros(8, 8), torch.ones(8, dtype=torch.bool)).item() == pytest.approx(math.log(8))
    assert info_nce(torch.zeros(8, 8), counted).item() == pytest.approx(math.log(5))
    logits = torch.randn(8, 8, generator=generator())
    spoiled = torch.where(counted[:, None] & counted, logits, 1e6 * torch.rand(8, 8, generator=generator()))
    assert torch.equal(info_nce(logits, counted), info_nce(spoiled, counted))
    rows = logits[:5, :5].double()
    by_hand = -(rows.diag() - rows.exp().sum(1).log()).mean()
    assert info_nce(logits, counted).item() == pytest.approx(by_hand.item(), abs=1e-5)
    assert info_nce(50 * torch.eye(8), ~counted | counted).item() < 1e-6
    assert info_nce(logits, torch.zeros(8, dtype=torch.bool)) == 0


def test_deterministic_moves_can_be_told_from_the_actions_and_not_without_them():
    # defining term: the actions. All start in one state, so what comes is the actions' work alone
    # mutation: forget the chunk in Taco.forward
    draws = generator()
    features, chunk = torch.zeros(16, 4), torch.rand(16, 3, 2, generator=draws) * 4 - 2
    following = torch.cat([chunk.sum(1), (chunk**2).sum(1)], 1)
    losses = []
    for shown in (chunk, torch.zeros_like(chunk)):
        torch.manual_seed(0)
        taco = Taco(4, 3, spec())
        optimizer = torch.optim.Adam(taco.parameters(), 3e-3)
        for _ in range(150):
            loss = info_nce(taco(features, shown, following), torch.ones(16, dtype=torch.bool))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    told, untold = losses
    assert told < 0.1 and untold >= math.log(16) - 1e-4  # rows that all say the same cannot do better: Jensen


@pages
def test_any_page_adds_taco_by_its_weight_and_its_encoder_learns_from_it(page):
    # mutation: loss without the weight; taco_loss with the next features' gradient or without the present ones'
    batch = random_batch(ALL)
    plain, _ = build(page)
    with_taco = [build(page, taco=weight)[0] for weight in (0.5, 2.0)]
    without = plain.loss(batch, generator())[0]
    for critic, weight in zip(with_taco, (0.5, 2.0), strict=True):
        loss, metrics = critic.loss(batch, generator())
        assert loss.item() == pytest.approx((without + weight * metrics["taco"]).item(), rel=1e-5)
        assert not metrics["taco"].requires_grad
    deaf = with_taco[0]
    with torch.no_grad():
        for p in deaf.q.parameters():
            p.zero_()
    deaf.loss(batch, generator())[0].backward()
    assert gradients(deaf.encoder) > 0 and gradients(deaf.taco) > 0


@pages
def test_taco_looks_ahead_by_the_scope_and_leaves_out_windows_that_were_cut_short(page):
    # mutation: `valid[:, :scope].any(1)`
    s = spec(images=True)
    config = replace(PAGES[page], scope=2, encoder=replace(SMALL_IMAGES, taco=1.0))
    critic = config.build(s, statistics(s), TASKS).eval()
    assert critic.taco.steps == 2
    if critic.needs_policy:
        critic.attach(POLICY.build(s, statistics(s), TASKS))
    batch = random_batch(s, scope=2)
    valid = batch.valid.clone()
    valid[:3, 1] = False
    cut = replace(batch, valid=valid)
    features, chunk = critic.see(batch)
    logits = critic.taco(features, chunk, critic.ahead(batch, 2))[3:, 3:]
    expected = info_nce(logits, torch.ones(5, dtype=torch.bool)).item()
    assert critic.loss(cut, generator())[1]["taco"].item() == pytest.approx(expected, rel=1e-5)


def test_taco_looks_where_a_page_looks_and_has_the_actions_of_a_chunk_at_most():
    # mutation: k is the scope whatever the page looks at
    s = spec(images=True)
    config = replace(PAGES["iql"], scope=1, encoder=replace(SMALL_IMAGES, taco=1.0))

    def looking(*offsets):
        networks, loss = iql.networks, iql.loss
        return ChunkCritic(config, s, statistics(s), networks=networks, loss=loss, averaged=("q",), offsets=offsets)

    assert [looking(*offsets).taco.steps for offsets in ((), (3,), (2, 4), (3, 1))] == [1, 3, 2, 1]
    assert looking(3).offsets == (3,)
    with pytest.raises(ValueError, match="at most the 4 steps of a chunk, got 9"):
        looking(9)


def test_taco_without_an_encoder_to_teach_is_refused():
    s = spec()
    config = replace(PAGES["iql"], encoder=EncoderConfig(taco=1.0))
    with pytest.raises(ValueError, match=r"encoder.taco: expected an encoder with weights .*; set 0"):
        config.build(s, statistics(s))


def test_policy_features_are_never_given_a_gradient():
    module = PolicyFeatures(EncoderConfig(source="policy", policy_features=3, projection=(4,)))
    features = torch.ones(2, 3, requires_grad=True)
    module(features).sum().backward()
    assert features.grad is None and gradients(module) > 0
