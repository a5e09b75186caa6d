"""VGAS: from a single demonstration, near misses are worth less the farther they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import Finite

from robot_value.critics import vgas
from robot_value.critics.regularizers import geometry

SMALL = vgas.Config(hidden=(16,), heads=2, candidates=4, subset=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config=SMALL, s=None):
    """The policy proposes chunks spread over the limits."""
    s = s or spec()
    low, high = torch.from_numpy(s.low), torch.from_numpy(s.high)
    table = low + (high - low) * torch.rand((1, 8, s.horizon, s.action_dim), generator=generator())
    critic = config.build(s, statistics(s), TASKS)
    critic.attach(Finite(s, lambda states: table.expand(len(states), -1, -1, -1)))
    return critic


@pytest.mark.parametrize("network", ["mlp", "transformer"])
def test_it_keeps_the_contract(network):
    check_critic(build(replace(SMALL, network=network)).eval(), observation(spec()))


def fall(weight: float) -> float:
    """How much less a chunk at distance 1 is worth than the only one recorded, after training on that one."""
    s = spec(horizon=2)
    config = replace(SMALL, network="mlp", hidden=(32, 32), candidates=8, subset=8, noise=0.2, slope=1.0, lr=1e-2)
    critic, batch = build(replace(config, margin_weight=weight, rank_weight=weight), s), random_batch(s, 16)
    middle = torch.from_numpy((s.low + s.high) / 2)
    batch = replace(
        batch,
        observation=replace(batch.observation, state=torch.ones_like(batch.observation.state)),
        chunks=middle.expand_as(batch.chunks).clone(),
        rewards=torch.ones_like(batch.rewards) / 2,
        terminated=torch.ones_like(batch.terminated),
    )
    for i in range(100):
        critic.update(batch, generator(i))
    directions = torch.nn.functional.normalize(torch.randn(64, 2, 2, generator=generator()), dim=-1)
    with torch.no_grad():
        features, chunk = critic.see(batch)
        values = critic.q(features[:1].expand(64, -1), chunk[:1] + directions).mean(0)
        return float(critic.q(features[:1], chunk[:1]).mean() - values.mean())


def test_value_falls_with_the_distance_to_the_demonstration():
    # mutation: distances of the policy's chunks to each other. The defining term; without it nothing says so.
    assert fall(1.0) > 0.5
    assert abs(fall(0.0)) < 0.25


def test_the_loss_is_its_three_parts_at_the_policys_chunks_and_a_noisy_recorded_one():
    # mutation: near misses at s'; target without gradient stop
    config = replace(SMALL, margin_weight=2.0, rank_weight=3.0)
    critic, batch = build(config), random_batch(spec())
    plain, _ = build(replace(config, margin_weight=0.0, rank_weight=0.0)).loss(batch, generator())
    loss, metrics = critic.loss(batch, generator())
    assert loss.item() == pytest.approx((plain + 2 * metrics["margin"] + 3 * metrics["rank"]).item(), rel=1e-5)
    features, chunk = critic.see(batch)
    others = vgas.near_misses(critic, batch, chunk, generator())
    assert others.shape == (8, 5, 4, 2)
    assert 0 < geometry.distance(chunk, others)[:, -1].max() < 0.2  # the recorded one, noise of 0.02
    assert torch.allclose(critic.actions.unnormalize(others[:, :4]), critic.policy.chunks(features)[:, :4], atol=1e-4)


def test_every_near_miss_is_held_to_its_own_distance(monkeypatch):
    # mutation: distances in another order than the chunks
    critic, batch = build(), random_batch(spec())
    features, chunk = critic.see(batch)
    others = chunk[:, None] + torch.tensor([0.1, 1.0, 3.0])[:, None, None]
    monkeypatch.setattr(vgas, "near_misses", lambda *_: others)
    _, metrics = critic.loss(batch, generator())
    values = torch.stack([critic.q(features, others[:, i]) for i in range(3)], -1)
    assert metrics["distance"].item() == pytest.approx(2**0.5 * 4.1 / 3, rel=1e-4)
    expected = geometry.rank(values, 2**0.5 * torch.tensor([[0.1, 1.0, 3.0]]), 5.0).mean()
    assert metrics["rank"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_backup_is_the_expected_maximum():
    # mutation: policy sample instead
    def target(subset: int) -> float:
        critic, batch = build(replace(SMALL, subset=subset)), random_batch(spec())
        return critic.loss(batch, generator())[1]["target"].item()

    assert target(4) > target(2) > target(1)
