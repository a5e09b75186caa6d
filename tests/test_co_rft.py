"""CO-RFT: every prefix of a chunk gets the value it has when the robot decides again after it."""

from __future__ import annotations

from dataclasses import replace

import mdps
import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import TWO_STATES, Finite, Problem

from robot_value.critics import co_rft
from robot_value.critics.distribution import Distribution

SMALL = co_rft.Config(members=2, hidden=(32, 32))
EXACT = replace(SMALL, members=1, alpha=0.0, smoothing=0.0, gamma=0.9, tau=0.3, lr=1e-2, layer_norm=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config=SMALL, s=None):
    s = s or spec()
    middle = torch.from_numpy((s.low + s.high) / 2).expand(1, 1, s.horizon, s.action_dim)
    critic = config.build(s, statistics(s), TASKS)
    critic.attach(Finite(s, lambda states: middle.expand(len(states), -1, -1, -1)))
    return critic


def batch_for(critic, seed: int = 0):
    s = critic.spec
    batch = random_batch(s, seed=seed)
    return replace(batch, next={k: random_batch(s, seed=k).observation for k in critic.offsets})


@pytest.mark.parametrize("network", ["mlp", "transformer"])
@pytest.mark.parametrize("scope", [0, 2])
def test_it_keeps_the_contract(network, scope):
    critic = build(replace(SMALL, network=network, scope=scope, hidden=(16,)))
    assert critic.offsets == tuple(range(1, (scope or 4) + 1))
    check_critic(critic.eval(), observation(spec()))


# Values -------------------------------------------------------------------------------------------------------------


def known_values(problem: Problem) -> dict[mdps.Key, float]:
    """Q of every prefix by iteration: what its steps bring, then whole chunks of the policy's first choice."""
    data, q = mdps.rows(problem), {}
    choice = [chunks[0] for chunks in mdps.support(problem)]

    def value(s: int) -> float:
        return q.get((s, choice[s]), 0.0)

    for _ in range(mdps.SWEEPS):
        q = mdps.mean_by_key(
            [((r.state, r.chunk[:j]), r.target(j, problem.gamma, value)) for r in data for j in range(1, problem.k + 1)]
        )
    return q


def largest_error(problem: Problem) -> float:
    critic = EXACT.build(mdps.tabular_spec(problem), mdps.tabular_statistics(problem))
    critic.attach(mdps.tabular_policy(problem))
    batch = mdps.tabular_batch(problem, critic.offsets)
    for _ in range(90):
        critic.update(batch, generator())
    known = known_values(problem)
    chunks = [mdps.chunk_tensor(critic.spec, (chunk + chunk[-1:] * problem.k)[: problem.k]) for _, chunk in known]
    features = critic.encoder(mdps.observed(problem, [state for state, _ in known]))
    with torch.no_grad():
        found = critic.q.prefixes(features, critic.actions.normalize(torch.stack(chunks)))[0]
    errors = [abs(float(found[i, len(chunk) - 1]) - known[state, chunk]) for i, (state, chunk) in enumerate(known)]
    return max(errors)


def test_every_prefix_has_its_own_value_only_with_a_target_of_its_own(monkeypatch):
    # mutation: bootstrap all prefixes at the last offset. The defining term is removed in the second half.
    assert largest_error(TWO_STATES) < 0.05
    every = co_rft.prefix_targets

    def only_the_whole_chunks(critic, batch, generator):
        targets = every(critic, batch, generator)
        return Distribution(targets.atoms[:, -1:].expand_as(targets.atoms), targets.weights)

    monkeypatch.setattr(co_rft, "prefix_targets", only_the_whole_chunks)
    assert largest_error(TWO_STATES) > 0.1


def test_the_penalty_holds_at_every_prefix_with_the_floor_for_the_policys_only(monkeypatch):
    # mutation: penalize the whole chunk alone; exchange prefixes and rows
    critic = build()
    batch = replace(batch_for(critic), mc_return=torch.full((8,), 50.0))
    seen = []
    monkeypatch.setattr(co_rft, "cql", lambda q, others: seen.append((q, others)) or 0 * q)
    critic.loss(batch, generator())
    q, others = seen[0]
    assert torch.allclose(q, critic.q.prefixes(*critic.see(batch)).movedim(2, 1), atol=1e-6)
    assert others.shape == (2, 4, 8, 4)
    assert (others[..., 2:] == 50).all() and (others[..., :2] < 20).all()


def test_target_noise_moves_the_next_chunk_and_stays_within_the_limits():
    # mutation: no smoothing
    quiet, noisy = (build(replace(SMALL, smoothing=std)) for std in (0.0, 0.3))
    batch = batch_for(quiet)
    a, b = (co_rft.prefix_targets(critic, batch, generator()).mean for critic in (quiet, noisy))
    assert a.shape == (8, 4) and (a - b).abs().max() > 1e-4
