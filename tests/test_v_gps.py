"""V-GPS as published: single actions, the averaged critics' minimum, and rewards that count steps to success."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import Finite

from robot_value.critics import cal_ql, v_gps
from robot_value.sampling import ChunkBatch, TensorObservation
from robot_value.types import Features

SMALL = v_gps.Config(hidden=(32, 32), samples=2)


def build(config=SMALL, s=None):
    s = s or spec()
    middle = torch.from_numpy((s.low + s.high) / 2).expand(1, 1, s.horizon, s.action_dim)
    critic = config.build(s, statistics(s), TASKS)
    critic.attach(Finite(s, lambda states: middle.expand(len(states), -1, -1, -1)))
    return critic


def test_it_keeps_the_contract():
    check_critic(build().eval(), observation(spec()))


def test_the_first_action_speaks_for_the_chunk_where_cal_ql_reads_all_of_it():
    # mutation: scope of the whole horizon. The defining term; cal_ql is V-GPS without it.
    seen, chunks = observation(spec()), torch.rand(3, 2, 4, 2)
    chunks[:, 1, 0] = chunks[:, 0, 0]  # two candidates that part after the first action
    critic = build()
    value = critic.score(critic.encode(seen), chunks).value
    assert torch.equal(value[:, 0], value[:, 1])
    critic = build(cal_ql.Config(hidden=(32, 32)))
    value = critic.score(critic.encode(seen), chunks).value
    assert (value[:, 0] - value[:, 1]).abs().min() > 1e-6


def test_scores_are_the_minimum_of_the_averaged_critics():
    # mutation: score with the online critics; mean
    critic, seen, chunks = build(), observation(spec()), torch.rand(3, 5, 4, 2)
    before = critic.score(critic.encode(seen), chunks).value
    for p in critic.q.parameters():
        p.data += 0.1
    assert torch.equal(critic.score(critic.encode(seen), chunks).value, before)
    context = critic.encode(seen).repeat(5).value
    members = critic.target["q"](context, critic.actions.normalize(chunks[:, :, :1].flatten(0, 1)))
    assert torch.allclose(before.flatten(), members.amin(0), atol=1e-6)


STEPS, FREE = 6, 3  # of the episode, and its last ones without a reward of -1


def walk(s) -> ChunkBatch:
    """One successful episode with V-GPS's rewards; the state counts its steps, one action."""
    at = torch.arange(STEPS)
    middle = torch.from_numpy((s.low + s.high) / 2).expand(STEPS, s.horizon, -1)
    rewards = torch.zeros(STEPS, s.horizon)
    rewards[:, 0] = -(at < STEPS - FREE).float()

    def seen(x):
        return TensorObservation(3 * x.float().view(-1, 1, 1), {}, torch.zeros(STEPS, dtype=torch.int64), ("",))

    recorded = [sum(-(0.98**i) for i in range(STEPS - FREE - t)) for t in range(STEPS)]
    return replace(
        random_batch(s, STEPS),
        observation=seen(at),
        next={1: seen(at + 1)},
        chunks=middle,
        rewards=rewards,
        terminated=(at == STEPS - 1)[:, None] & (torch.arange(s.horizon) == 0),
        mc_return=torch.tensor(recorded, dtype=torch.float32),
    )


def test_with_its_rewards_the_value_is_minus_the_discounted_steps_to_success():
    # mutation: bootstrap over k steps; no bootstrap
    s = spec(state=1)
    critic, batch = build(replace(SMALL, alpha=0.0, hidden=(64, 64), tau=0.2, lr=5e-3), s), walk(s)
    for _ in range(200):
        critic.update(batch, torch.Generator().manual_seed(0))
    value = critic.score(Features(critic.encoder(batch.observation)), batch.chunks[:, None]).value[:, 0]
    assert value.tolist() == pytest.approx(batch.mc_return.tolist(), abs=0.15)


def test_the_policys_actions_are_floored_and_random_ones_are_not(monkeypatch):
    # mutation: no floor
    s = spec()
    batch = random_batch(s)
    batch = replace(batch, next={1: batch.next[4]}, mc_return=torch.full((8,), 100.0))
    seen = []
    monkeypatch.setattr(v_gps, "cql", lambda q, others: seen.append(others) or q)
    build().loss(batch, torch.Generator().manual_seed(0))
    assert (seen[0][..., 2:] == 100).all() and (seen[0][..., :2] < 50).all()


def test_longer_scopes_are_refused_with_the_page_to_take():
    with pytest.raises(ValueError, match=r"expected 1 .* got 2; take cal_ql"):
        build(replace(SMALL, scope=2))
