"""floq against values that can be written down, its integration against its absence, and the contract."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from test_critics import GAMMA, K, two_states

from robot_value.critics import floq
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.policies import flow
from robot_value.training import TrainConfig, load_model
from robot_value.types import Episode, Features

SMALL = floq.Config(
    candidates=2,
    flow_steps=4,
    bins=16,
    cosines=4,
    coverage=1.0,
    low=-0.2,
    high=1.2,
    hidden=(32, 32),
    gamma=GAMMA,
    tau=0.2,
    lr=5e-3,
)


class Both:
    """A policy that proposes actions at the limits: the lower ones first, then the upper ones."""

    def __init__(self, s):
        self.spec = s

    def encoder(self, seen):
        return seen.state.flatten(1)

    def sample(self, context, n, noise):
        low, high = torch.from_numpy(self.spec.low), torch.from_numpy(self.spec.high)
        chunks = torch.stack([low, high])[:n, None].expand(n, self.spec.horizon, -1)
        return chunks.expand(len(noise), *chunks.shape), torch.full(noise.shape[:2], self.spec.horizon)


def build(config=SMALL, s=None):
    s = s or spec()
    critic = config.build(s, statistics(s), TASKS)
    critic.attach(Both(s))
    return critic


@cache
def trained(candidates: int = 2, flow_steps: int = 4, updates: int = 160):
    config = replace(SMALL, candidates=candidates, flow_steps=flow_steps, draws=16, members=1)
    critic, batch = build(config, spec(horizon=K, state=1)), two_states()
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        critic.update(batch, generator)
    return critic, batch


def flow_values(critic, batch) -> list[float]:
    features, chunk = critic.see(batch)
    with torch.no_grad():
        return critic.flow(features, chunk).mean(0).tolist()


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (2, [GAMMA**3, GAMMA**5, GAMMA, 0.0]),  # the better of - and +: always +
        (1, [0.0, 0.0, GAMMA, 0.0]),  # the policy's sample: always -, which never comes to anything
    ],
)
def test_two_states_get_the_values_of_what_the_policy_offers(candidates, expected):
    # mutation: the recorded chunk for a'; bootstrap where terminated; gamma for gamma^k; values of the worst candidate
    critic, batch = trained(candidates)
    assert flow_values(critic, batch) == pytest.approx(expected, abs=0.07)
    scores = critic.score(Features(critic.encoder(batch.observation)), batch.chunks[:, None])
    assert scores.value[:, 0].tolist() == pytest.approx(expected, abs=0.1)  # the MLP follows a little later


def disturbed(critic, batch, by: float) -> list[float]:
    """The flow's values when the velocity is off by `by` at the beginning of the integration."""
    head, velocity = critic.flow.head, critic.flow.head._velocity
    head._velocity = lambda net, x, z, t: velocity(net, x, z, t) + by * (t == 0)
    try:
        return flow_values(critic, batch)
    finally:
        head._velocity = velocity


def test_integration_corrects_what_the_first_step_got_wrong_and_a_single_step_does_not():
    # The defining term. Later steps see where the first one ended: of 0.3 of the range, little is left.
    left = {}
    for steps in (4, 1):
        critic, batch = trained(flow_steps=steps)
        pairs = zip(disturbed(critic, batch, 0.3), flow_values(critic, batch), strict=True)
        left[steps] = max(abs(a - b) for a, b in pairs) / (SMALL.high - SMALL.low)
    assert left[4] < 0.05 and left[1] == pytest.approx(0.3, abs=1e-4)


def test_the_mlp_learns_its_own_members_flow_and_the_flow_feels_nothing_of_it():
    # mutation: the TD target for the MLP; members mixed up; no detach of the features
    critic, batch = build(), random_batch(spec())
    taught = torch.stack([torch.full((8,), 0.3), torch.full((8,), 0.9)])
    critic.flow.forward = lambda features, chunk: taught
    for _ in range(100):
        critic.update(batch, torch.Generator().manual_seed(0))
    features, chunk = critic.see(batch)
    assert torch.allclose(critic.q(features, chunk), taught, atol=0.05)


def test_only_the_flow_trains_the_encoder():
    s = spec(language=True)
    critic, batch = build(replace(SMALL, candidates=1), s), random_batch(s)
    critic.loss(batch, torch.Generator().manual_seed(0))[0].backward()
    whole = [p.grad for p in critic.encoder.parameters() if p.grad is not None]
    critic.zero_grad()
    critic.q.forward = lambda features, chunk: torch.zeros(2, len(features))
    critic.loss(batch, torch.Generator().manual_seed(0))[0].backward()
    alone = [p.grad for p in critic.encoder.parameters() if p.grad is not None]
    assert whole and all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))


def test_the_backup_asks_the_averaged_flow():
    # mutation: critic.flow in the target
    critic, batch = build(), random_batch(spec())
    before = critic.loss(batch, torch.Generator().manual_seed(0))[1]["target"]
    with torch.no_grad():
        critic.target["flow"].net.biases[-1].add_(0.2)
    after = critic.loss(batch, torch.Generator().manual_seed(0))[1]["target"]
    assert after > before + 0.05


def test_scores_keep_the_contract_and_have_gradients_in_the_chunk():
    critic, seen = build().eval(), observation(spec())
    check_critic(critic, seen)
    chunks = torch.zeros(3, 2, 4, 2, requires_grad=True)
    critic.score(critic.encode(seen), chunks).value.sum().backward()
    assert chunks.grad.isfinite().all() and chunks.grad.abs().sum() > 0


def test_bounds_are_needed_and_so_is_a_policy():
    s = spec()
    with pytest.raises(ValueError, match="expected bounds of the returns, got none"):
        replace(SMALL, low=0.0, high=0.0).build(s, statistics(s))
    with pytest.raises(ValueError, match="this critic's backup asks the policy"):
        SMALL.build(s, statistics(s)).update(random_batch(s))


def test_a_floq_critic_trains_from_a_store_with_bounds_of_its_returns_and_is_loaded_as_it_was_saved(tmp_path):
    s, rng = spec(horizon=4, state=2), np.random.default_rng(0)
    with EpisodeStore.create(tmp_path / "data", s) as data:
        for success in (True, False):
            actions = rng.uniform(s.low, s.high, (9, 2)).astype(np.float32)
            states, rewards = rng.standard_normal((10, 2)).astype(np.float32), np.zeros(9, np.float32)
            rewards[-1] = 2.0 * success
            data.append(Episode(s, states, {}, actions, rewards, success, not success, success))

    def job(name, config, base=""):
        run = TrainConfig(str(tmp_path / name), 2, 8, validation_fraction=0.0, progress=False, tensorboard=False)
        return Job(str(tmp_path / "data"), config, run, Windowing(horizon=4), base=base)

    clone = fit(job("clone", flow.Config(width=16, depth=1, sample_steps=2)))
    config = replace(SMALL, low=0.0, high=0.0, scope=2)
    model = load_model(fit(job("critic", config, str(clone))))
    assert model.config == config and int(model.step) == 2
    assert (model.flow.head.low, model.flow.head.high) == (0.0, 2.0)
    check_critic(model, observation(s))
