"""Cal-QL on chunks: its loss is the formula, and its floor keeps the policy's chunks worth what was achieved."""

from __future__ import annotations

from dataclasses import replace

import mdps
import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import TWO_STATES, Finite

from robot_value.critics import cal_ql
from robot_value.sampling import ChunkBatch
from robot_value.types import Features, Spec

SMALL = cal_ql.Config(members=2, hidden=(32, 32), samples=2)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def build(config=SMALL, s=None, policy=None):
    s = s or spec()
    critic = config.build(s, statistics(s), TASKS)
    critic.attach(policy or Finite(s, lambda states: random_chunks(s, len(states))))
    return critic


def random_chunks(s: Spec, rows: int, n: int = 3) -> torch.Tensor:
    """[rows, n, H, A] within the limits, always the same."""
    low, high = torch.from_numpy(s.low), torch.from_numpy(s.high)
    return low + (high - low) * torch.rand((rows, n, s.horizon, s.action_dim), generator=generator())


# The formula --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("max_target", [True, False])
def test_the_loss_is_the_formula_row_by_row(monkeypatch, calibrated, max_target):
    # mutation: floor under random chunks; policy's chunks at s' valued at s'; online critics in the target
    s, t = spec(), 0.7
    drawn = random_chunks(s, 8, 2)
    monkeypatch.setattr(cal_ql, "random_chunks", lambda critic, *_: critic.actions.normalize(drawn))
    config = replace(SMALL, calibrated=calibrated, max_target_backup=max_target, alpha=3.0, temperature=t)
    critic, batch = build(config, s), random_batch(s)
    for p in critic.target.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator())
    loss, _ = critic.loss(batch, generator())

    proposed = random_chunks(s, 8)[:, :2]  # the same at s and at s'
    now, after = critic.encoder(batch.observation), critic.encoder(batch.next[4])

    def q(network, features, chunks, b):
        return network(features[b : b + 1], critic.actions.normalize(chunks[b : b + 1]))[:, 0]  # [E]

    expected = []
    for b in range(8):
        following = [q(critic.target["q"], after, proposed[:, i], b).min() for i in range(2)]
        y = sum(0.98**i * batch.rewards[b, i] for i in range(4))
        y = y + 0.98**4 * (max(following) if max_target else following[0])
        data = q(critic.q, now, batch.chunks, b)
        policy = torch.stack([q(critic.q, now, proposed[:, i], b) for i in (0, 1, 0, 1)])
        if calibrated:
            policy = policy.clamp_min(batch.mc_return[b])
        others = torch.cat([data[None], *(q(critic.q, now, drawn[:, i], b)[None] for i in range(2)), policy])
        penalty = t * (others / t).exp().mean(0).log() - data
        expected.append(((data - y) ** 2 + 3 * penalty).mean())
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_without_a_penalty_the_maximum_over_proposals_is_backed_up():
    # mutation: bootstrap from the recorded chunk; always back up the first proposal
    config = replace(SMALL, alpha=0.0, samples=3, max_target_backup=True, gamma=0.9)
    config = replace(config, members=1, tau=0.3, lr=1e-2, layer_norm=False)
    critic = config.build(mdps.tabular_spec(TWO_STATES), mdps.tabular_statistics(TWO_STATES))
    critic.attach(mdps.tabular_policy(TWO_STATES))
    batch = mdps.tabular_batch(TWO_STATES)
    for _ in range(100):
        critic.update(batch, generator())
    known = mdps.supported_values(TWO_STATES, max)
    seen = critic.encoder(mdps.observed(TWO_STATES, [state for state, _ in known]))
    chunks = torch.stack([mdps.chunk_tensor(critic.spec, chunk) for _, chunk in known])
    found = critic.score(Features(seen), chunks[:, None]).value[:, 0].tolist()
    assert found == pytest.approx(list(known.values()), abs=0.05)


# Its defining term --------------------------------------------------------------------------------------------------


def one_demonstration(s: Spec) -> ChunkBatch:
    """From one state the low chunk was recorded, reward 0.5 at its end; the policy would do the high one."""
    batch = random_batch(s, 16)
    first = replace(batch.observation, state=batch.observation.state[:1].expand(16, -1, -1))
    terminated = torch.zeros_like(batch.terminated)
    terminated[:, -1] = True
    rewards = torch.zeros_like(batch.rewards)
    rewards[:, -1] = 0.5
    chunks = torch.from_numpy(s.low).expand_as(batch.chunks).clone()
    recorded = torch.full((16,), 0.5)
    return replace(batch, observation=first, terminated=terminated, rewards=rewards, chunks=chunks, mc_return=recorded)


def value_of_the_policys_chunk(calibrated: bool) -> float:
    s = spec(horizon=2)
    high = torch.from_numpy(s.high).expand(1, 2, 2)
    config = replace(SMALL, calibrated=calibrated, gamma=1.0, alpha=1.0, lr=3e-3)
    critic, batch = build(config, s, Finite(s, lambda states: high.expand(len(states), 1, 2, 2))), one_demonstration(s)
    for _ in range(80):
        metrics = critic.update(batch, generator())
    return metrics["q_policy"].item()


def test_the_floor_keeps_the_policys_chunks_from_sinking_below_what_was_achieved(monkeypatch):
    # mutation: calibrate nothing
    # random chunks would pull their neighbours down; here they are the recorded one again, to see the floor alone
    recorded = torch.from_numpy(spec().low).expand(16, 2, 2, 2)
    monkeypatch.setattr(cal_ql, "random_chunks", lambda critic, *_: critic.actions.normalize(recorded))
    assert value_of_the_policys_chunk(calibrated=True) > -0.3
    assert value_of_the_policys_chunk(calibrated=False) < -2.0


# The contract -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [0, 1, 3])
def test_it_keeps_the_contract(scope):
    check_critic(build(replace(SMALL, scope=scope)).eval(), observation(spec()))


def test_a_proposal_that_is_not_finite_spoils_nothing():
    # mutation: no `finite`
    s = spec()
    chunks = random_chunks(s, 8)
    chunks[:, 0] = torch.nan
    critic = build(policy=Finite(s, lambda states: chunks))
    metrics = critic.update(random_batch(s), generator())
    assert all(value.isfinite() for value in metrics.values())
