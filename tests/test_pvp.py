"""PVP's critic: proxy values where a human acted, carried elsewhere by a backup without rewards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import Finite

from robot_value.critics import pvp
from robot_value.sampling import bootstrap

SMALL = pvp.Config(hidden=(32, 32), lr=1e-2)


def trained(config=SMALL, updates=250, **changes):
    """On 8 windows of which the first half is a human's, and a policy that always proposes the middle."""
    s = spec()
    middle = torch.from_numpy((s.low + s.high) / 2).expand(1, 1, s.horizon, s.action_dim)
    critic = config.build(s, statistics(s), TASKS)
    critic.attach(Finite(s, lambda states: middle.expand(len(states), -1, -1, -1)))
    marks = (torch.arange(8) < 4).float()[:, None].expand(8, s.horizon)
    batch = replace(random_batch(s), rewards=marks, **changes)
    for i in range(updates):
        critic.update(batch, torch.Generator().manual_seed(i))
    features, chunk = critic.see(batch)
    with torch.no_grad():
        return critic, batch, critic.q(features, chunk), critic.q(features, torch.zeros_like(chunk))  # [E, B]


ENDED = {"terminated": torch.ones((8, 4), dtype=torch.bool)}


def test_a_humans_chunk_is_pulled_to_1_and_the_policys_in_its_place_to_minus_1():
    # mutation: swap the signs; pull everywhere; take the marks for rewards
    _, _, recorded, overridden = trained(**ENDED)
    torch.testing.assert_close(recorded[:, :4], torch.full((2, 4), 0.5), atol=0.1, rtol=0)  # y = 0 pulls as hard as 1
    torch.testing.assert_close(overridden[:, :4], torch.full((2, 4), -1.0), atol=0.1, rtol=0)
    torch.testing.assert_close(recorded[:, 4:], torch.zeros(2, 4), atol=0.1, rtol=0)


def test_without_proxy_values_nothing_is_good_or_bad():
    # the defining term taken away
    _, _, recorded, _ = trained(replace(SMALL, proxy=0.0), **ENDED)
    assert recorded.abs().max() < 0.1


def test_the_backup_carries_values_without_any_reward():
    # mutation: keep the marks in the target
    critic, batch, _, _ = trained(updates=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        following = critic.target["q"](critic.ahead(batch, 4), torch.zeros(8, 4, 2)).min(0).values
        features, chunk = critic.see(batch)
        target = bootstrap(batch, critic.gamma, 4) * following
        expected = (critic.q(features, chunk) - target).square().mean()
    assert pvp.loss(critic, batch, generator)[1]["q_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_chunk_is_a_humans_if_every_step_that_was_taken_is():
    # mutation: any step, or only the first; ask beyond the episode's end
    rewards = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0]])
    valid = torch.tensor([[True] * 4, [True] * 4, [True] * 4, [True, True, False, False]])
    batch = replace(random_batch(spec(), batch=4), rewards=rewards, valid=valid)
    assert pvp.by_a_human(batch, 4).tolist() == [1, 0, 0, 1]
    assert pvp.by_a_human(batch, 2).tolist() == [1, 1, 0, 1]
