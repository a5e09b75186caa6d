"""Every component found in the folders keeps its contract; a new file is checked without being named here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import check_critic, check_follower, check_gate, check_policy, check_robot, check_selector
from fakes import HomingCritic, HomingPolicy, PointMass, observation, point_spec

from robot_value import components
from robot_value.normalize import Statistics
from robot_value.steering.selection import pick
from robot_value.types import ActionPart, Camera, Features, Spec

MIXED = Spec(
    parts=(
        ActionPart(
            "arm", 0, 7, "pose", "m+rad", (-2.0,) * 3 + (-1.0,) * 4, (2.0,) * 3 + (1.0,) * 4, rotation="quaternion"
        ),
        ActionPart("turn", 7, 13, "rotation", "1", (-1.0,) * 6, (1.0,) * 6, rotation="6d"),
        ActionPart("gripper", 13, 14, "gripper", "m", (0.0,), (0.08,)),
    ),
    state_names=("a", "b", "c"),
    state_units=("m", "m", "rad"),
    dt=0.05,
    horizon=6,
    n_obs_steps=2,
)
SEEN = MIXED.choose(cameras=(Camera("wrist", 16, 16),), language=True)
TASKS = ("lift", "stack")
OPTIONS = {"greedy": {"temperature": 1.0}}  # at temperature 0 other noise gives the same chunk


def built(kind: str, name: str, spec: Spec):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    statistics = {
        "state": Statistics.fit(rng.standard_normal((100, spec.state_dim)).astype(np.float32)),
        "action": Statistics.fit(rng.uniform(spec.low, spec.high, (100, spec.action_dim)).astype(np.float32)),
        "return": Statistics.fit(rng.uniform(0, 1, (100, 1)).astype(np.float32)),
    }
    return components.load(kind, name).Config(**OPTIONS.get(name, {})).build(spec, statistics, TASKS).eval()


def seen(spec: Spec):
    return observation(spec, 3, task=("stack", "lift", "stack")) if spec.language else observation(spec, 3)


@pytest.mark.parametrize("name", components.names("selectors"))
@pytest.mark.parametrize("spec", [point_spec(), MIXED], ids=["point", "mixed"])
def test_every_selector_keeps_the_contract(name, spec):
    check_selector(components.load("selectors", name).Config().build(), spec)


# Those that need a file are held to the contract where the tests make one: test_more_gates, test_two_speeds.
NEED_A_FILE = {"calibrated", "conformal", "fast"}


@pytest.mark.parametrize("name", sorted({*components.names("gates")} - NEED_A_FILE))
def test_every_gate_keeps_the_contract(name):
    check_gate(components.load("gates", name).Config().build(), MIXED)


@pytest.mark.parametrize("name", sorted({*components.names("followers")} - NEED_A_FILE))
def test_every_follower_keeps_the_contract(name):
    check_follower(components.load("followers", name).Config().build(), MIXED, observation(MIXED))


@pytest.mark.parametrize("name", components.names("policies"))
@pytest.mark.parametrize("spec", [MIXED, SEEN], ids=["state", "images"])
def test_every_policy_keeps_the_contract(name, spec):
    check_policy(built("policies", name, spec), seen(spec))


@pytest.mark.parametrize("name", components.names("critics"))
@pytest.mark.parametrize("spec", [MIXED, SEEN], ids=["state", "images"])
def test_every_critic_keeps_the_contract(name, spec):
    check_critic(built("critics", name, spec), seen(spec))


@pytest.mark.parametrize("delay", [0, 2, (0, 1, 3)])
def test_the_fake_robots_keep_the_contract_with_and_without_delay(delay):
    check_robot(PointMass(3, delay, max_steps=17), seeds=(4, 5, 6))


def test_the_fake_policy_and_critic_keep_the_contract():
    check_policy(HomingPolicy(), observation(point_spec()))
    check_critic(HomingCritic(), observation(point_spec()))


class NanBlind:
    uses_critic = True

    def __call__(self, chunks, scores, situation):
        return pick(chunks, scores.value.argmax(1))


class SharedStream(HomingPolicy):
    def sample(self, context, n, noise, prefix=None, guide=None):
        return super().sample(context, n, noise.flip(1), prefix)


class Crowd(HomingPolicy):
    def encode(self, observation):
        centred = observation.state[:, -1] - observation.state[:, -1].mean(0)
        return Features(torch.from_numpy(centred))


class FarSighted(HomingCritic):
    def score(self, context, chunks, lengths):
        scores = super().score(context, chunks, lengths)
        return replace(scores, value=scores.value + chunks[:, :, self.scope].sum(2))


class Runaway:
    def action(self, observation, decision, offset):
        return decision.chunk[:, 0] * 2


class Sleepless(PointMass):
    def execute(self, decision, follower):
        self.done[:] = False
        return super().execute(decision, follower)


def test_each_contract_refuses_a_component_that_breaks_it():
    spec = point_spec()
    seen = observation(spec)
    with pytest.raises(AssertionError, match="not finite"):
        check_selector(NanBlind(), spec)
    with pytest.raises(AssertionError, match="candidate 0 must not depend on N"):
        check_policy(SharedStream(), seen)
    with pytest.raises(AssertionError, match="must not depend on others"):
        check_policy(Crowd(), seen)
    with pytest.raises(AssertionError, match="beyond the scope"):
        check_critic(FarSighted(), seen)
    with pytest.raises(AssertionError, match="inside the spec's limits"):
        check_follower(Runaway(), spec, seen)
    with pytest.raises(AssertionError, match="bool"):
        check_gate(lambda *_: (np.ones(5), "no"), spec)
    with pytest.raises(AssertionError, match="stays as it is"):
        check_robot(Sleepless(2, unstable=(4,)), seeds=(4, 5))
