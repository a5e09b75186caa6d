"""RLPD's critic: ten members, the least of a random pair in the target, and values that stay bounded off the data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import Finite

from robot_value.critics import rlpd
from robot_value.sampling import bootstrap, returns

SMALL = rlpd.Config(hidden=(32, 32))


def build(config=SMALL):
    s = spec()
    middle = torch.from_numpy((s.low + s.high) / 2).expand(1, 1, s.horizon, s.action_dim)
    critic = config.build(s, statistics(s), TASKS)
    critic.attach(Finite(s, lambda states: middle.expand(len(states), -1, -1, -1)))
    return critic


def test_it_keeps_the_contract():
    check_critic(build().eval(), observation(spec()))


def largest_value_far_off(layer_norm: bool) -> tuple[float, float]:
    """|Q| of chunks a million standard deviations away, and |w| |gelu(LN)| + |b| over all possible LN outputs."""
    critic, batch = build(replace(SMALL, layer_norm=layer_norm)), random_batch(spec())
    for _ in range(30):
        critic.update(batch, torch.Generator().manual_seed(0))
    features, chunk = critic.see(batch)
    with torch.no_grad():
        far = critic.q(features, 1e6 * chunk).abs().max()
        weight, bias = critic.q.net.weights[-1], critic.q.net.biases[-1]
        if not layer_norm:
            return far.item(), 0.0
        gain, shift = critic.q.net.gains[-1], critic.q.net.shifts[-1]
        hidden = gain.abs().amax(1) * 32**0.5 + shift.norm(dim=1)  # |LN(x)| <= sqrt(width), |gelu(x)| <= |x|
        return far.item(), float((weight.flatten(1).norm(dim=1) * hidden + bias.abs()[:, 0]).max())


def test_layer_norm_bounds_the_value_of_chunks_that_nobody_saw():
    # mutation: ignore config.layer_norm. The defining term: without it the same training leaves them unbounded.
    far, bound = largest_value_far_off(layer_norm=True)
    assert far <= bound < 100
    assert largest_value_far_off(layer_norm=False)[0] > 1e3


def test_the_target_is_the_least_of_a_random_pair_of_averaged_members():
    # mutation: minimum of all ten, or mean; one pair for ever
    critic, batch = build(), random_batch(spec())
    middle = torch.zeros(8, 4, 2)  # the policy's chunk, normalized
    with torch.no_grad():
        members = critic.target["q"](critic.ahead(batch, 4), middle)  # [E, B]
        data = critic.q(*critic.see(batch))
        y = returns(batch, 0.99, 4) + bootstrap(batch, 0.99, 4) * members  # [E, B]
    pairs = {(i, j): (data - torch.minimum(y[i], y[j])).square().mean().item() for i in range(10) for j in range(i)}
    found = set()
    for seed in range(12):
        loss = critic.loss(batch, torch.Generator().manual_seed(seed))[0].item()
        nearest = min(pairs, key=lambda pair: abs(pairs[pair] - loss))
        assert pairs[nearest] == pytest.approx(loss, rel=1e-5)
        found.add(nearest)
    assert len(found) > 3


def test_scores_expect_the_pairs_minimum_and_are_not_random():
    critic, seen = build(), observation(spec())
    chunks = torch.rand(3, 4, 4, 2)
    context = critic.encode(seen)
    values = critic.values(context.repeat(4).value, critic.actions.normalize(chunks.flatten(0, 1)))
    pairs = [torch.minimum(values[i], values[j]) for i in range(10) for j in range(i)]
    score = critic.score(context, chunks).value
    assert torch.allclose(score.flatten(), torch.stack(pairs).mean(0), atol=1e-5)
    assert torch.equal(score, critic.score(context, chunks).value)
