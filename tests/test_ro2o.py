"""RO2O: values do not follow small errors of the observation, and sink where the ensemble disagrees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import Finite

from robot_value.critics import ro2o
from robot_value.critics.regularizers.robust import perturbed

SMALL = ro2o.Config(members=3, hidden=(32, 32), alpha_steps=100)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config=SMALL, s=None):
    """The policy goes far beyond what the data show: to the upper limits."""
    s = s or spec()
    high = torch.from_numpy(s.high).expand(1, 1, s.horizon, s.action_dim)
    critic = config.build(s, statistics(s), TASKS)
    critic.attach(Finite(s, lambda states: high.expand(len(states), -1, -1, -1)))
    return critic


def narrow(s):
    """Recorded chunks at the lower limits, the episode ends with them."""
    batch = random_batch(s, 32)
    return replace(
        batch,
        chunks=torch.from_numpy(s.low).expand_as(batch.chunks).clone(),
        terminated=torch.ones_like(batch.terminated),
    )


def trained(config):
    s = spec(horizon=2)
    critic, batch = build(config, s), narrow(s)
    for i in range(80):
        critic.update(batch, generator(i))
    return critic, batch


def test_it_keeps_the_contract():
    check_critic(build().eval(), observation(spec()))


def test_where_the_members_disagree_the_value_sinks():
    # mutation: alpha = 0; detach the prediction instead of the target
    def off_the_data(weight: float) -> float:
        critic, batch = trained(replace(SMALL, uncertainty_weight=weight, lr=5e-3))
        high = torch.from_numpy(critic.spec.high).expand(32, 2, 2)
        with torch.no_grad():
            return critic.q(critic.see(batch)[0], critic.actions.normalize(high)).mean().item()

    assert off_the_data(1.0) < off_the_data(0.0) - 0.5


def test_small_errors_of_the_observation_do_not_change_the_value():
    # mutation: perturb nothing
    def change(weight: float) -> float:
        critic, batch = trained(
            replace(SMALL, uncertainty_weight=0.0, smooth_weight=weight, epsilon=0.3, lr=5e-3, members=2)
        )
        features, chunk = critic.see(batch)
        with torch.no_grad():
            return (critic.q(perturbed(features, 0.3, 1, generator()), chunk) - critic.q(features, chunk)).std().item()

    assert change(30.0) < 0.5 * change(0.0)


def test_the_weight_of_disagreement_falls_with_the_updates_made():
    # mutation: anneal upwards; never stop
    critic = build(replace(SMALL, alpha=1.0, alpha_last=0.1, alpha_steps=100))
    found = []
    for step in (0, 50, 100, 1000):
        critic.step.fill_(step)
        found.append(ro2o.alpha(critic).item())
    assert found == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_the_loss_is_its_three_parts():
    # mutation: drop a weight
    s, parts = spec(), {"smooth_weight": 0.0, "uncertainty_weight": 0.0}
    batch = random_batch(s)
    plain = build(replace(SMALL, **parts)).loss(batch, generator())[0]
    loss, metrics = build(replace(SMALL, smooth_weight=2.0, uncertainty_weight=3.0)).loss(batch, generator())
    assert loss.item() == pytest.approx(
        (plain + 2 * metrics["smoothness"] + 3 * metrics["uncertainty"]).item(), rel=1e-5
    )
    assert metrics["smoothness"] > 0 and metrics["uncertainty"] > 0
