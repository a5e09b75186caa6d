"""Success prediction over time, failure alarms and outliers, on synthetic logs whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from replayed import synthetic

from robot_value.replay import outliers as strange
from robot_value.replay import plots_critics
from robot_value.replay.outliers import outliers
from robot_value.replay.prediction import Config, by_decision, fixed_rows, predict, relative_rows
from robot_value.statistics import auroc

FAST = Config(resamples=100)


def spoken(replayed, value):
    main = replayed.opinions[replayed.main]
    return replace(replayed, opinions={"main": replace(main, logged_value=np.asarray(value))})


def per_step(replayed, of_success, of_failure):
    """float64[D]: f(decision number) of the episode's outcome."""
    first = np.searchsorted(replayed.episode, replayed.episode)
    number = np.arange(len(replayed)) - first
    return np.where(replayed.success[replayed.episode] == 1, of_success(number), of_failure(number))


def test_relative_times_are_the_first_the_middle_and_the_last_decision():
    replayed = synthetic(seed=0)
    for e, (first, last) in enumerate((replayed.rows(e).start, replayed.rows(e).stop - 1) for e in range(20)):
        rows = [rows[e] for _, rows in relative_rows(replayed, 3)]
        assert rows[0] == first and rows[2] == last and abs(rows[1] - (first + last) / 2) <= 0.5


def test_at_a_fixed_step_every_running_episode_shows_its_last_decision_up_to_then():
    # mutation: episodes that have ended take part; the decision after the step
    replayed = synthetic(episodes=40, seed=1, execute=3)
    found = fixed_rows(replayed, FAST)
    assert len(found) > 3 and found[0][0] == 0
    for t, rows in found:
        for e, episode in enumerate(replayed.episodes):
            due = [d for d in range(*replayed.rows(e).indices(len(replayed))) if replayed.step[d] <= t]
            assert rows[e] == (due[-1] if t < episode.steps else -1)
        for s in (0, 1):
            assert sum(rows[replayed.success == s] >= 0) >= FAST.running


def test_no_fixed_step_is_compared_without_both_outcomes():
    assert fixed_rows(synthetic(seed=1, success=1.0), FAST) == []


def test_auroc_over_time_is_that_of_the_values_at_that_time_and_its_interval_holds_it():
    replayed = synthetic(episodes=40, seed=2, critics={"main": 0.5})
    found, value = predict(replayed, "main", FAST), replayed.opinions["main"].logged_value
    for at, (_, rows) in zip(found.relative, relative_rows(replayed, FAST.moments), strict=True):
        assert at.auroc.mean == pytest.approx(auroc(value[rows], replayed.success == 1))
        assert at.auroc.low <= at.auroc.mean <= at.auroc.high and (at.successes, at.failures) == (24, 16)


def test_a_critic_that_learns_of_the_outcome_half_way_predicts_it_from_then_on():
    # mutation: relative time counted from the end
    replayed = synthetic(episodes=60, seed=3, steps=(20, 22))
    blind = np.random.default_rng(0).normal(size=len(replayed))
    late = blind + 100 * per_step(replayed, lambda n: n >= 6, lambda n: 0 * n)
    found = [at.auroc for at in predict(spoken(replayed, late), "main", FAST).relative]
    assert found[0].low < 0.5 < found[0].high and found[-1].mean == 1.0 and found[-3].mean == 1.0


def test_outcomes_nobody_knows_are_left_out_but_may_alarm():
    replayed = synthetic(episodes=100, seed=4, critics={"main": 0.05})
    lost = np.flatnonzero(replayed.success == 0)[:10]
    episodes = tuple(replace(e, success=None) if i in lost else e for i, e in enumerate(replayed.episodes))
    found = predict(replace(replayed, episodes=episodes), "main", FAST)
    assert found.failures == 30 and all(at.failures == 30 for at in found.relative)
    assert (found.alarms.decision[lost] >= 0).all()


def test_an_alarm_rings_when_a_failure_falls_and_says_how_early_that_is():
    # mutation: alarms on the value instead of -value; decision number for the row; time in decisions
    replayed = synthetic(episodes=100, seed=5, steps=(20, 24))
    noise = 0.01 * np.random.default_rng(0).normal(size=len(replayed))
    value = noise + per_step(replayed, lambda n: 0.5 + 0 * n, lambda n: np.where(n >= 4, 0.0, 0.5))
    found = predict(spoken(replayed, value), "main", FAST)
    alarms, lost = found.alarms, np.flatnonzero(replayed.success == 0)
    assert alarms.detected.mean == 1.0
    fourth = np.array([replayed.rows(e).start + 4 for e in lost])
    assert (alarms.decision[lost] == fourth).mean() > 0.8  # the rest are false alarms before
    assert alarms.seconds == pytest.approx(8 * replayed.spec.dt) and alarms.earliness == pytest.approx(16 / 24)
    assert (alarms.floor[:10] < 0.5).all() and (alarms.floor[:10] > 0.3).all()
    np.testing.assert_allclose(alarms.normal[:10], 0.5, atol=0.02)


def test_false_alarms_stay_below_alpha_on_average_and_are_not_judged_by_their_own_alarm():
    # mutation: successes judged by the alarm of their own half
    rates = []
    for seed in range(25):
        replayed = synthetic(episodes=40, seed=seed, success=1.0, execute=4, critics={"main": float("inf")})
        rates.append(predict(replayed, "main", Config(resamples=1, alpha=0.2, seed=seed)).alarms.false_alarms.mean)
    assert 0.11 < np.mean(rates) < 0.22  # halves of 10: the rank leaves 2 of 11 above, 0.18


def test_too_few_successes_leave_no_alarm_and_say_so():
    found = predict(synthetic(episodes=20, seed=6), "main", FAST)
    assert found.alarms is None and "at least 18 successful episodes" in found.why
    json.dumps(found.to_json(), allow_nan=False)


def test_a_table_by_decision_has_a_row_per_episode():
    replayed = synthetic(episodes=5, seed=7)
    table = by_decision(replayed, np.arange(float(len(replayed))))
    for e in range(5):
        rows = replayed.rows(e)
        np.testing.assert_array_equal(table[e, : rows.stop - rows.start], np.arange(rows.start, rows.stop))
        assert np.isnan(table[e, rows.stop - rows.start :]).all()


def test_predictions_and_outliers_are_plain_json_and_drawn():
    replayed = synthetic(episodes=120, seed=8)
    found, far = predict(replayed, "main", FAST), outliers(replayed)
    for each in (found, far):
        json.dumps(each.to_json(), allow_nan=False)
    figures = plots_critics.of_predictions([found]) + plots_critics.of_outliers(far)
    assert len(figures) == 3 and all(svg.startswith("<svg") and caption for _, svg, caption in figures)


def moved(replayed, rows, by=5.0):
    state = replayed.columns["state"].copy()
    state[rows] += by
    return replace(replayed, columns=replayed.columns | {"state": state})


def test_an_episode_far_from_all_others_is_flagged_first():
    replayed = synthetic(episodes=120, seed=9)
    found = outliers(moved(replayed, replayed.rows(7).start, by=20.0))
    assert found.flagged == (replayed.episodes[7].name,) and found.excess[7] > 2
    assert found.distance.argmax() == replayed.rows(7).start


def test_an_episode_does_not_vouch_for_itself():
    # mutation: neighbours of the same episode count
    replayed = synthetic(episodes=120, seed=10)
    assert outliers(moved(replayed, replayed.rows(7), by=20.0)).flagged == (replayed.episodes[7].name,)


def test_distances_are_those_of_brute_force():
    # mutation: squared distances; k nearest instead of their mean; groups not divided by their length
    replayed = synthetic(episodes=6, seed=11)
    found, state, chunk = outliers(replayed), replayed.columns["state"], replayed.logged.reshape(len(replayed), -1)
    x, a = state / state.std(0), chunk / chunk.std(0)
    for d in (0, 20, len(replayed) - 1):
        square = ((x - x[d]) ** 2).mean(1) + ((a - a[d]) ** 2).mean(1)
        nearest = np.sort(np.sqrt(square[replayed.episode != replayed.episode[d]]))
        assert found.distance[d] == pytest.approx(nearest[:5].mean(), rel=1e-4)
        assert found.nearest[d] == pytest.approx(nearest[0], rel=1e-4)


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_and_thresholds_are_those_of_leaving_each_episode_out(ties):
    # mutation: the episode calibrates its own threshold
    strangest = np.random.default_rng(0).gamma(2.0, 5.0, 50)
    strangest = np.ceil(strangest) if ties else strangest
    p, excess = strange._judge(strangest, strangest, True, 0.1)
    for e, own in enumerate(strangest):
        others = np.delete(strangest, e)
        assert p[e] == pytest.approx((1 + (others >= own).sum()) / 50)
        assert excess[e] == pytest.approx(own / np.sort(others)[int(np.ceil(50 * 0.9)) - 1])
    np.testing.assert_array_equal(p <= 0.1, excess > 1)


def test_too_few_episodes_for_alpha_flag_none():
    found = outliers(moved(synthetic(episodes=20, seed=12), 0, by=50.0))
    assert found.flagged == () and not found.excess.any()


def test_against_training_data_a_log_of_the_same_kind_is_flagged_at_alpha_and_a_moved_one_entirely():
    # mutation: calibrated on the log itself
    training, log = synthetic(episodes=150, seed=13), synthetic(episodes=60, seed=14)
    config = strange.Config(alpha=0.05)
    assert outliers(log, training, config).rate.mean < 0.2
    assert outliers(moved(log, slice(None), by=20.0), training, config).rate.mean == 1.0


def test_a_log_without_states_says_which_onlooker_it_takes():
    with pytest.raises(ValueError, match="replay with the onlooker States"):
        outliers(replace(synthetic(seed=15), columns={}))
