"""Whether a selection is used: always, or (in shadow) scored and logged while the plain policy drives."""

from __future__ import annotations

import numpy as np
from contracts import candidates
from fakes import HomingCritic, HomingPolicy, observation, point_spec

from robot_value import components
from robot_value.steering.selection import pick
from robot_value.steering.steerer import Steerer


def gate(name: str):
    return components.load("gates", name).Config().build()


def steered(gate_name: str, n: int = 16):
    argmax = components.load("selectors", "argmax").Config().build()
    return Steerer(HomingPolicy(), HomingCritic(), argmax, gate(gate_name), n=n)(observation(point_spec()))


def test_always_uses_every_selection_and_shadow_none():
    chunks, scores, at = candidates(point_spec(), 4, 3, seed=0)
    selection = pick(chunks, scores.value.argmax(1))
    assert gate("always")(chunks, scores, selection, at)[0].all()
    use, why_not = gate("shadow")(chunks, scores, selection, at)
    assert not use.any() and why_not == "shadow"


def test_shadow_executes_the_plain_policy_and_logs_what_the_critic_thinks():
    plain = Steerer(HomingPolicy(), execute=4)(observation(point_spec()))
    always, shadow = steered("always"), steered("shadow")
    assert shadow.reason == ("shadow",) * 3 and not shadow.index.any()
    np.testing.assert_allclose(shadow.chunk, plain.chunk, atol=1e-5)  # mutation: Shadow returning ones
    np.testing.assert_array_equal(shadow.value, always.value)
    assert np.isfinite(shadow.value).all() and always.index.any()
