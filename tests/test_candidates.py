"""Candidates and their values in one batch are what a loop over single candidates gives; NaN never wins."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import random_batch, spec, statistics, tensor_observation
from torch import nn

from robot_value import components
from robot_value.critics import qc
from robot_value.critics.candidates import best_of_n, propose, values
from robot_value.critics.value_networks import QNetwork
from robot_value.networks import packed as packed_module
from robot_value.networks.packed import packable
from robot_value.networks.seeding import normal, seeded_weights
from robot_value.policies import flow
from robot_value.types import Features

DISTILLED = ("faster", "hume", "noise_critic")  # they judge denoised seeds
PRECISIONS = ["off", "float32", "auto"]
FLOW = flow.Config(width=32, depth=2, sample_steps=3, tile=7)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def q_network(members: int = 2) -> QNetwork:
    with seeded_weights(0):
        return QNetwork(3, 4, 2, members, (32, 32))


def features_and_chunks(batch: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, generator=generator(1)), torch.randn(batch, n, 4, 2, generator=generator(2))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_proposals_are_the_policys_own_samples_one_candidate_at_a_time(precision):
    # mutation: draw the noise after packing's probe from the same generator / condition of the wrong row
    s = spec()
    policy, observation = FLOW.build(s, statistics(s)), tensor_observation(s, 3, generator(1))
    got = propose(policy, observation, 5, generator(), precision)
    noise = normal((3, 5, 4, 2), torch.device("cpu"), generator())
    context = Features(policy.encoder(observation))
    for n in range(5):
        alone, _ = policy.sample(context, 1, noise[:, n : n + 1])
        assert torch.allclose(got[:, n], alone[:, 0], atol=1e-5)
    assert not got.requires_grad


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tile", [1, 4, 2048])
def test_values_are_q_of_every_candidate_alone(precision, tile):
    # mutation: repeat features instead of repeat_interleave / unflatten with n first
    q, (features, chunks) = q_network(), features_and_chunks(3, 5)
    got = values(q, features, chunks, tile, precision)
    assert got.shape == (2, 3, 5) and not got.requires_grad
    for row in range(3):
        for n in range(5):
            alone = q(features[row : row + 1], chunks[row : row + 1, n])
            assert torch.allclose(got[:, row, n], alone[:, 0], atol=1e-5)


def test_weights_are_packed_once_for_all_tiles(monkeypatch):
    # mutation: enter `packed` per tile
    q, (features, chunks) = q_network(), features_and_chunks(3, 5)
    values(q, features, chunks, 4, "float32")  # probes, once per process
    calls, pack = [], packed_module.pack
    monkeypatch.setattr(packed_module, "pack", lambda part, dtype: calls.append(part) or pack(part, dtype))
    values(q, features, chunks, 4, "float32")
    assert calls == [q.net]


def test_values_take_any_function_of_features_and_chunks():
    features, chunks = features_and_chunks(2, 3)
    got = values(lambda f, c: (f.sum(1) + c.sum((1, 2)))[None], features, chunks, precision="float32")
    assert torch.allclose(got[0], features.sum(1)[:, None] + chunks.sum((2, 3)), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(1, 4), n=st.integers(1, 6), dead=st.integers(0, 63), seed=st.integers(0, 99))
def test_the_best_is_the_largest_finite_value(batch, n, dead, seed):
    # mutation: argmax over the raw values, where NaN wins
    select = torch.randn(batch, n, generator=generator(seed))
    broken = torch.tensor([bool(dead >> i & 1) for i in range(n)])
    select[:, broken] = torch.tensor([torch.nan, torch.inf, -torch.inf])[seed % 3]
    chunks = torch.randn(batch, n, 4, 2, generator=generator(seed + 1))
    index, chosen = best_of_n(select, chunks)
    for row in range(batch):
        alive = [i for i in range(n) if not broken[i]]
        if alive:
            assert index[row] == max(alive, key=lambda i, row=row: select[row, i].item())
        assert torch.equal(chosen[row], chunks[row, index[row]])


@pytest.mark.parametrize("precision", ["off", "float32", "bfloat16"])
def test_a_candidate_that_is_not_finite_never_wins(precision):
    # mutation: nan_to_num in values
    q, (features, chunks) = q_network(), features_and_chunks(4, 3)
    chunks[:, 1, 2, 0] = torch.nan
    value = values(q, features, chunks, precision=precision).mean(0)
    assert value[:, 1].isnan().all() and value[:, [0, 2]].isfinite().all()
    assert (best_of_n(value, chunks)[0] != 1).all()


@pytest.mark.parametrize("precision", ["off", "float32"])
def test_an_update_encodes_once_per_observation_and_packs_once_per_network(monkeypatch, precision):
    # mutation: encode per candidate / pack per tile
    s = spec()
    policy = FLOW.build(s, statistics(s))
    critic = qc.Config(hidden=(32, 32), candidates=8, precision=precision).build(s, statistics(s))
    critic.attach(policy)
    critic.update(random_batch(s), generator())  # probes, once per process
    count, pack = Counter(), packed_module.pack
    monkeypatch.setattr(packed_module, "pack", lambda part, dtype: count.update([id(part)]) or pack(part, dtype))
    policy.encoder.register_forward_hook(lambda *_: count.update(["policy's observations"]))
    critic.encoder.register_forward_hook(lambda *_: count.update(["critic's observations"]))
    critic.update(random_batch(s), generator())
    packs = {id(policy.head): 1, id(critic.q.net): 1} if precision == "float32" else {}
    assert count == {"policy's observations": 1, "critic's observations": 2} | packs


def choosing() -> list[str]:
    """Critics whose page lets the arithmetic of candidates be chosen."""
    pages = {name: components.load("critics", name).Config for name in components.names("critics")}
    return [name for name, page in pages.items() if "precision" in {each.name for each in fields(page)}]


@pytest.mark.parametrize("name", choosing())
def test_a_critic_that_asks_for_packed_candidates_packs_them_and_learns_the_same(name, monkeypatch):
    # mutations: the field is named and not read; denoise, or values of what it made, left plain
    s, losses, packs, pack = spec(), {}, [], packed_module.pack
    monkeypatch.setattr(packed_module, "pack", lambda part, dtype: packs.append(id(part)) or pack(part, dtype))
    policy, batch = FLOW.build(s, statistics(s)), random_batch(s)
    more = {"n_step": {"backup": "best_of_n"}, "floq": {"low": -2.0, "high": 2.0}}.get(name, {})
    for precision in ("off", "float32"):
        critic = components.load("critics", name).Config(precision=precision, **more).build(s, statistics(s))
        critic.attach(policy)
        asked = replace(batch, next={k: next(iter(batch.next.values())) for k in critic.offsets})
        critic.loss(asked, generator())  # probes, once per process
        packs.clear()
        losses[precision] = critic.loss(asked, generator())[0]
        judges = {id(part) for part in packable(critic)}
        assert (id(policy.head) in packs) == (precision == "float32")
        if precision == "float32" and name in DISTILLED:
            assert judges & set(packs)
    torch.testing.assert_close(losses["float32"], losses["off"], rtol=1e-4, atol=1e-5)


def test_candidates_never_train_anything():
    # mutation: drop no_grad
    q, (features, chunks) = q_network(), features_and_chunks(2, 3)
    features = nn.Parameter(features)
    for precision in PRECISIONS:
        assert not values(q, features, chunks, precision=precision).requires_grad
    assert q(features, chunks[:, 0]).requires_grad
