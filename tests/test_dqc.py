"""Decoupled Q-chunking: what the distillation is for, its optimism, its quantile, and who learns from whom."""

from __future__ import annotations

from dataclasses import replace

import mdps
import pytest
import torch
from learning_fakes import random_batch, spec, statistics
from mdps import CHAIN

from robot_value.critics import dqc
from robot_value.critics.distribution import Distribution

SMALL = {"hidden": (32, 32), "layer_norm": False, "lr": 2e-2, "gamma": CHAIN.gamma, "aggregate": "mean", "tau": 0.2}
CONFIG = dqc.Config(**SMALL, members=1, low=-1.2, high=1.2, kappa_d=0.9, kappa_b=0.6)
FOUND, LOST = 0.05, 0.1


def found(known) -> dict[mdps.Key, float]:
    return mdps.tabular_scores(CONFIG, CHAIN, known, updates=260)


def test_without_an_optimistic_distillation_the_partial_critic_is_an_average_over_what_the_data_did_next(monkeypatch):
    # mutation: slope of q - whole; distil from the TD target (the n-step baseline)
    optimistic, plain = (mdps.decoupled_values(CHAIN, 1, kappa_d, kappa_b=0.6) for kappa_d in (0.9, 0.5))
    assert mdps.distance(found(optimistic), optimistic) < FOUND

    def straight(critic, features, part, whole, generator):
        return critic.q.regress(features, part, Distribution.point(whole), generator)

    monkeypatch.setattr(dqc, "distilled", straight)
    without = found(optimistic)
    assert mdps.distance(without, optimistic) > LOST
    assert mdps.distance(without, plain) < FOUND


def test_an_optimistic_partial_critic_knows_what_the_best_continuation_is_worth_and_n_step_does_not():
    # by definition alone: the chain's best first step from the middle is +, then + again, for -0.1 + 0.9 = 0.8
    optimistic = mdps.decoupled_values(CHAIN, 1, kappa_d=0.98, kappa_b=0.95)
    baseline = mdps.implicit_values(CHAIN, lambda q: mdps.quantile(q, 0.95), scope=1, n=CHAIN.k)
    assert optimistic[1, (1,)] == pytest.approx(0.8, abs=0.03)
    assert baseline[1, (1,)] < 0.55


def critic(**changes):
    return replace(CONFIG, **changes).build(spec(), statistics(spec()))


def test_the_partial_critic_scores_and_is_judged_by_the_chunk_critic_alone():
    # mutation: gradient through `whole` in the distillation; V trained on the online critic
    made, batch = critic(scope=2, members=2), random_batch(spec())
    features, part = made.see(batch)
    assert part.shape[1] == made.scope == 2 and made.offsets == (4,)
    whole = made.whole(features, made.actions.normalize(batch.chunks))
    dqc.distilled(made, features, part, whole.detach(), None)[1].sum().backward()
    assert all(p.grad is None for p in made.whole.parameters())
    assert all(p.grad is not None for p in made.q.parameters())
    assert torch.equal(made.values(features, part), made.q(features, part))


def test_distillation_goes_member_by_member():
    # mutation: every member on the mean of the chunk critic's
    made, batch = critic(members=2), random_batch(spec())
    features, part = made.see(batch)
    whole = torch.stack([torch.full((8,), -1.0), torch.full((8,), 1.0)])
    _, loss = dqc.distilled(made, features, part, whole, None)
    gradients = torch.autograd.grad(loss.sum(), made.q.net.biases[-1])[0].flatten()
    assert gradients[0] > 0 > gradients[1]


def test_v_is_moved_by_the_side_it_is_on_not_by_how_far(monkeypatch):
    # mutation: expectile instead of quantile: the pull would grow with the distance
    made, batch = critic(), random_batch(spec())
    pulls = []
    for value in (0.5, 1.1):
        monkeypatch.setattr(made.target["q"], "forward", lambda f, c, v=value: torch.full((1, len(f)), v))
        made.zero_grad()
        made.loss(batch)[0].backward()
        pulls.append(float(made.v.net.biases[-1].grad))
    assert pulls[0] == pytest.approx(pulls[1]) == pytest.approx(-made.config.kappa_b, abs=1e-5)


def test_only_the_partial_critic_has_an_average():
    assert list(critic().target) == ["q"]
