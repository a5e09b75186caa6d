"""The frequency-averaged score: an area that can be computed by hand, of a policy that is really played."""

import numpy as np
import pytest
from fakes import PointMass, point_spec
from hypothesis import given
from hypothesis import strategies as st
from online_fakes import save_models

from robot_value.online.decision_rates import at_rates, frequency_averaged_score
from robot_value.training import load_policy


def test_it_is_the_area_under_the_curve_over_its_width():
    # mutation: mean of the scores; area not divided by the range; against k instead of 1 / k
    assert frequency_averaged_score([2.5, 5, 20], [0.0, 1.0, 0.5]) == pytest.approx((2.5 * 0.5 + 15 * 0.75) / 17.5)


@given(st.floats(0, 1), st.lists(st.floats(0.1, 100), min_size=2, max_size=6, unique=True))
def test_a_policy_that_does_not_mind_has_its_own_score(score, rates):
    assert frequency_averaged_score(sorted(rates), [score] * len(rates)) == pytest.approx(score)


@pytest.mark.parametrize("rates", [[1.0], [2.0, 1.0], [1.0, 1.0]])
def test_rates_that_make_no_curve_are_refused(rates):
    with pytest.raises(ValueError, match="expected two or more rising rates"):
        frequency_averaged_score(rates, [0.5] * len(rates))


class Counting(PointMass):
    decisions = ()

    def execute(self, decision, follower):
        self.decisions = (*self.decisions, int(decision.execute.max()))
        return super().execute(decision, follower)


def test_every_rate_is_played_on_every_seed_slowest_first(tmp_path):
    # mutation: execute the horizon whatever k is; hertz falling
    policy, robot = load_policy(save_models(tmp_path)[0]), Counting(2, 0, 8, 1)
    found = at_rates(robot, policy, (1, 2, 3), steps=(1, 4, 2))
    assert found.hertz == (2.5, 5.0, 10.0) and found.success.shape == (3, 3)  # dt is 0.1 s
    assert list(dict.fromkeys(robot.decisions)) == [4, 2, 1]
    assert found.averaged == pytest.approx(frequency_averaged_score(found.hertz, found.success.mean(1)))
    with pytest.raises(ValueError, match="the horizon 4"):
        at_rates(robot, policy, (1,), steps=(1, 5))
    assert np.isfinite(found.averaged) and point_spec().dt == 0.1
