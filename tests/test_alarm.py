"""The failure alarm: its band by hand, its promise by Monte Carlo, its memory live, its file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from robot_value.steering.alarm import Alarm, Monitor
from robot_value.steering.setups import Setup


def walks(rng: np.random.Generator, episodes: int, length: int = 30, varied: bool = True) -> np.ndarray:
    """Scores of successful episodes: a trend plus correlated noise that grows over time, of different lengths."""
    noise = rng.standard_normal((episodes, length)).cumsum(1) * rng.gamma(2.0, 0.5, (episodes, 1))
    scores = np.linspace(0, 3, length) + noise
    if varied:
        scores[np.arange(length) >= rng.integers(length // 2, length + 1, episodes)[:, None]] = np.nan
    return scores


def test_the_band_by_hand():
    # even rows give mean 2, 3 and modulation sqrt(2), sqrt(2); odd rows stray by 1 and 3 in units of it
    root = 2**0.5
    scores = np.array([[1.0, 2.0], [2 + root, 3.0], [3.0, 4.0], [2.0, 3 + 3 * root]])
    alarm = Alarm.fit(scores, alpha=0.4)  # ceil(3 * 0.6) = 2: the larger; mutation: floor, or n instead of n + 1
    assert alarm.quantile == pytest.approx(3) and alarm.episodes == 4
    np.testing.assert_allclose(alarm.band(np.array([0, 1, 7])), [2 + 3 * root, 3 + 3 * root, 3 + 3 * root])


@pytest.mark.parametrize(("alpha", "episodes"), [(0.1, 40), (0.2, 18), (0.05, 100)])
def test_a_new_successful_episode_alarms_no_more_often_than_promised(alpha, episodes):
    # mutation: one half for both, a band per time step, or max over calibration's steps only
    rng = np.random.default_rng(1)
    rate = [Alarm.fit(walks(rng, episodes), alpha).rings(walks(rng, 20)).any(1).mean() for _ in range(400)]
    error = np.std(rate) / len(rate) ** 0.5
    n = episodes // 2
    exact = 1 - np.ceil((n + 1) * (1 - alpha) - 1e-9) / (n + 1)  # exchangeable scores without ties: known exactly
    assert np.mean(rate) <= alpha + 3 * error
    assert abs(np.mean(rate) - exact) < 3 * error + 0.005


def test_longer_episodes_than_calibration_saw_keep_the_promise():
    rng = np.random.default_rng(2)
    rate = []
    for _ in range(300):
        short = walks(rng, 60, 40, varied=False)
        ends = rng.integers(5, 41, 60)  # few are long: the band is carried on past most of them
        short[np.arange(40) >= ends[:, None]] = np.nan
        new = walks(rng, 20, 40, varied=False)
        new[np.arange(40) >= rng.integers(5, 41, 20)[:, None]] = np.nan
        rate.append(Alarm.fit(short, 0.1).rings(new).any(1).mean())
    assert np.mean(rate) <= 0.1 + 3 * np.std(rate) / 300**0.5


def test_failures_ring_and_ringing_never_stops():
    rng = np.random.default_rng(3)
    alarm = Alarm.fit(walks(rng, 60), 0.1)
    failing = walks(rng, 20, varied=False) + 5 * np.clip(np.arange(30) - 10, 0, None)
    rings = alarm.rings(failing)
    assert rings[:, -1].all() and rings[:, 5].mean() < 0.2
    assert (np.diff(rings.astype(int), axis=1) >= 0).all()  # mutation: no accumulate


def test_a_moment_at_which_all_calibration_episodes_agreed_does_not_ring_at_a_breath():
    scores = np.random.default_rng(4).standard_normal((40, 6))
    scores[:, 0] = 0.0
    assert Alarm.fit(scores, 0.1).band(np.zeros(1, int))[0] > 0.1  # mutation: no floor (0 / 0 as well)
    flat = Alarm.fit(np.ones((40, 6)), 0.1)
    assert flat.rings(np.array([[1.0, 1.0], [1.0, 1.5]])).tolist() == [[False, False], [False, True]]


def test_live_robots_hear_what_rings_says_each_at_its_own_step():
    rng = np.random.default_rng(5)
    alarm = Alarm.fit(walks(rng, 40), 0.3)
    scores = walks(rng, 12, varied=False) * 1.5
    expected, monitor = alarm.rings(scores), Monitor(alarm)
    keys = np.arange(12)
    live = np.array([monitor(column, keys) for column in scores[:, :10].T]).T
    np.testing.assert_array_equal(live, expected[:, :10])  # mutation: step not counted, or no latch
    keys = np.where(keys < 6, keys + 100, keys)  # six robots begin another episode
    later = np.array([monitor(column, keys) for column in scores[:, 10:].T]).T
    np.testing.assert_array_equal(later[6:], expected[6:, 10:])
    np.testing.assert_array_equal(later[:6], alarm.rings(scores[:6, 10:]))  # mutation: step or latch survives
    assert monitor.on.any() and expected.any() and not expected.all()


def test_reset_ends_the_alarm_of_the_rows_it_names():
    monitor = Monitor(Alarm((0.0,), (1.0,), 1.0, 0.1, 40, "value"))
    keys = np.zeros(3, np.int64)
    assert monitor(np.array([2.0, 2.0, 0.0]), keys).tolist() == [True, True, False]
    monitor.reset([0])
    assert monitor(np.array([0.0, 0.0, np.nan]), keys).tolist() == [False, True, False]
    monitor.reset()
    assert not monitor(np.zeros(3), keys).any()


@pytest.mark.parametrize(("episodes", "alpha", "enough"), [(18, 0.1, True), (17, 0.1, False), (2, 0.5, False)])
def test_too_few_episodes_are_refused_with_the_number_that_would_do(episodes, alpha, enough):
    scores = walks(np.random.default_rng(6), episodes)
    if enough:
        assert np.isfinite(Alarm.fit(scores, alpha).quantile)
    else:
        with pytest.raises(ValueError, match=r"at least (18|4) successful episodes"):
            Alarm.fit(scores, alpha)
    with pytest.raises(ValueError, match="alpha: expected"):
        Alarm.fit(scores, 0.0)


def test_an_alarm_survives_its_file(tmp_path):
    alarm = Alarm.fit(walks(np.random.default_rng(7), 40), 0.1, "spread")
    path = alarm.save(tmp_path / "new" / "alarm.json")
    assert Alarm.load(path) == alarm
    known = replace(alarm, setup=Setup("p", "c", "s", "r", "g", 4, 2))
    assert Alarm.load(known.save(path)) == known  # mutation: the setup left a dict
    json.loads(path.read_text(), parse_constant=pytest.fail)
    for text in ("[]", '{"format_version": 1}', '{"format_version": 9}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="alarm"):
            Alarm.load(path)


def test_the_alarm_needs_no_torch():
    code = "import sys, robot_value.steering.alarm; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
