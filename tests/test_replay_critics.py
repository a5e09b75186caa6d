"""What is said about a critic, against closed forms, brute force, and synthetic logs whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from replayed import synthetic
from scipy import stats

from robot_value.replay import by_episode, critics, plots_critics
from robot_value.replay.compare_critics import MEASURES, compare, to_json
from robot_value.replay.critics import diagnose
from robot_value.replay.diagnoses import of_critics
from robot_value.replay.temporal import temporal_differences
from robot_value.statistics import auroc, reliability

FAST = critics.Config(resamples=200)
small = hnp.arrays(float, st.integers(3, 12), elements=st.integers(-3, 3).map(float))


def spoken(replayed, **values):
    """The same log with other values of the logged chunks, float[D] by critic."""
    main = replayed.opinions[replayed.main]
    return replace(replayed, opinions={c: replace(main, logged_value=np.asarray(v)) for c, v in values.items()})


@settings(max_examples=30, deadline=None)
@given(small, st.integers(0, 9))
def test_a_weighted_rank_correlation_is_that_of_the_repeated_rows(x, seed):
    # mutation: ranks by position instead of midranks of the weights
    rng = np.random.default_rng(seed)
    y, times = rng.integers(0, 3, len(x)).astype(float), rng.integers(0, 3, len(x))
    x2, y2 = np.repeat(x, times), np.repeat(y, times)
    found = by_episode.spearman(x, y, np.arange(len(x)), np.stack([times, times]).astype(float)).estimate
    ranked = len(x2) > 0 and np.ptp(x2) > 0 and np.ptp(y2) > 0
    np.testing.assert_allclose(found, stats.spearmanr(x2, y2).statistic if ranked else np.nan, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(small, st.integers(0, 9))
def test_a_weighted_auroc_is_that_of_the_repeated_rows(score, seed):
    # mutation: ties count whole
    rng = np.random.default_rng(seed)
    won, times = rng.random(len(score)) < 0.5, rng.integers(0, 3, len(score))
    found = by_episode.auroc(score, won.astype(float), np.arange(len(score)), np.stack([times, times]).astype(float))
    np.testing.assert_allclose(found.estimate, auroc(np.repeat(score, times), np.repeat(won, times)), atol=1e-12)


def test_a_mean_over_decisions_has_the_interval_of_its_episodes_not_of_its_decisions():
    # mutation: resampling rows
    episode = np.repeat(np.arange(40), 100)
    per_episode = np.random.default_rng(0).normal(size=40)
    found = by_episode.mean(per_episode[episode], episode, by_episode.draws(40)).interval
    expected = 2 * 1.96 * per_episode.std(ddof=1) / np.sqrt(40)
    assert found.mean == pytest.approx(per_episode.mean()) and found.high - found.low == pytest.approx(
        expected, rel=0.15
    )


def test_the_interval_of_the_rank_correlation_covers_the_truth():
    truth = stats.spearmanr(*_correlated(np.random.default_rng(99), 200_000)).statistic
    covered = 0
    for seed in range(40):
        x, y = _correlated(np.random.default_rng(seed), 80)
        found = by_episode.spearman(x, y, np.arange(80), by_episode.draws(80, 200, seed)).interval
        covered += found.low <= truth <= found.high
    assert covered >= 34  # 95 % of 40, less three standard deviations


def _correlated(rng, n):
    x = rng.normal(size=n)
    return x, x + rng.normal(size=n)


def test_a_critic_that_says_the_return_is_calibrated_ranks_and_has_no_bias():
    replayed = synthetic(seed=1)
    found = diagnose(spoken(replayed, main=replayed.returns), "main", FAST)
    assert found.calibration.ece.mean < 1e-9 and abs(found.calibration.bias.mean) < 1e-9
    assert found.ranking.overall.mean == pytest.approx(1) and found.ranking.across.mean == pytest.approx(1)
    assert found.order.success.mean == pytest.approx(1)  # a sparse return only rises until the success


def test_a_constant_promise_too_much_is_the_bias_and_the_ece():
    # mutation: bias = G - V
    replayed = synthetic(seed=2)
    found = diagnose(spoken(replayed, main=replayed.returns + 0.25), "main", FAST).calibration
    assert found.bias.mean == pytest.approx(0.25) and found.ece.mean == pytest.approx(0.25)


def test_skill_is_one_for_the_return_none_for_its_mean_and_negative_for_a_wrong_value():
    # mutation: variance without the mean; the inverse ratio
    replayed = synthetic(episodes=40, seed=13)
    returns = replayed.returns
    spoken_by = {"right": returns, "mean": np.full(len(returns), returns.mean()), "wrong": returns.max() - returns}
    found = {c: diagnose(spoken(replayed, **{c: v}), c, FAST).calibration.skill for c, v in spoken_by.items()}
    assert found["right"].low == pytest.approx(1) and found["mean"].mean == pytest.approx(0, abs=1e-9)
    expected = 1 - np.mean((returns.max() - 2 * returns) ** 2) / returns.var()
    assert found["wrong"].mean == pytest.approx(expected) and found["wrong"].high < 0
    noisy = returns + np.random.default_rng(0).normal(size=len(returns)) * returns.std() / 2
    assert diagnose(spoken(replayed, main=noisy), "main", FAST).calibration.skill.mean == pytest.approx(0.75, abs=0.05)


def test_the_ece_is_that_of_the_reliability_diagram():
    replayed = synthetic(seed=3, critics={"main": 0.4})
    value = replayed.opinions["main"].logged_value.astype(float)
    found, whole = diagnose(replayed, "main", FAST).calibration, reliability(value, replayed.returns)
    assert found.ece.mean == pytest.approx(whole.ece)
    np.testing.assert_allclose(found.diagram.realised, whole.realised)
    assert (found.diagram.low <= whole.realised).all() and (whole.realised <= found.diagram.high).all()


def test_returns_of_episodes_whose_time_ran_out_are_named_lower_bounds_and_can_be_left_out():
    # mutation: ece_terminated over all decisions; unseen with the wrong exponent
    replayed = synthetic(episodes=10, seed=4)
    won = replayed.success[replayed.episode] == 1
    value = np.where(won, replayed.returns, 0.5)  # wrong in failures alone, and those are all time-outs
    found = diagnose(spoken(replayed, main=value), "main", FAST).calibration
    assert found.lower_bounds == pytest.approx((~won).mean())
    assert found.ece.mean > 0.1 and found.ece_terminated.mean < 1e-9
    left = np.array([e.steps for e in replayed.episodes])[replayed.episode] - replayed.step
    assert found.unseen == pytest.approx((replayed.gamma ** left[~won]).mean())


def test_temporal_differences_are_those_of_the_rewards_in_between():
    # mutation: gamma^1 for gamma^k; V' of the next episode; 0 for the unknown end of a time-out
    replayed = synthetic(episodes=6, seed=5, execute=3)
    value = np.random.default_rng(0).normal(size=len(replayed))
    found = temporal_differences(replayed, value)
    for d in range(len(replayed)):
        episode, t = replayed.episodes[replayed.episode[d]], replayed.step[d]
        last = d + 1 == len(replayed) or replayed.episode[d + 1] != replayed.episode[d]
        k = episode.steps - t if last else replayed.step[d + 1] - t
        rewards = sum(replayed.gamma**i * episode.rewards[t + i] for i in range(k))
        following = (0.0 if episode.terminated else np.nan) if last else value[d + 1]
        np.testing.assert_allclose(found[d], rewards + replayed.gamma**k * following - value[d], atol=1e-6)


def test_the_worst_moments_are_where_the_value_was_spoiled():
    replayed = synthetic(episodes=10, seed=6)
    value = replayed.returns.copy()
    value[17] += 5
    found = diagnose(spoken(replayed, main=value), "main", FAST).residuals
    assert 17 in found.worst[:2] and len(found.worst) == FAST.worst


def test_a_value_that_reads_the_clock_rises_in_failures_as_in_successes():
    # mutation: failures and successes swapped, or both in one mean
    replayed = synthetic(seed=7)
    won = replayed.success[replayed.episode] == 1
    clock = diagnose(spoken(replayed, main=replayed.step.astype(float)), "main", FAST).order
    honest = diagnose(spoken(replayed, main=np.where(won, 1.0, -1.0) * replayed.step), "main", FAST).order
    assert clock.success.mean == pytest.approx(1) and clock.failure.mean == pytest.approx(1)
    assert honest.success.mean == pytest.approx(1) and honest.failure.mean == pytest.approx(-1)


def test_spread_that_is_the_size_of_the_error_ranks_with_it_and_a_single_critic_has_none():
    replayed = synthetic(episodes=60, seed=8, critics={"main": 0.3})
    found = diagnose(replayed, "main", FAST).spread
    assert found.rank.low > 0.2 and found.diagram.realised[-1] > 2 * found.diagram.realised[0]
    main = replayed.opinions["main"]
    single = replace(replayed, opinions={"main": replace(main, logged_spread=np.zeros(len(replayed)))})
    assert np.isnan(diagnose(single, "main", FAST).spread.rank.mean)


def test_decisions_that_were_not_scored_are_left_out():
    # mutation: NaN as 0
    replayed = synthetic(seed=9)
    value = replayed.returns.copy()
    value[::3] = np.nan
    found = diagnose(spoken(replayed, main=value), "main", FAST)
    assert found.decisions == np.isfinite(value).sum() and found.calibration.ece.mean < 1e-9
    with pytest.raises(ValueError, match="expected values of the logged chunks, got none"):
        diagnose(spoken(replayed, main=np.full(len(value), np.nan)), "main", FAST)


def test_of_two_critics_the_informed_one_wins_every_measure_and_equal_ones_none():
    # mutation: unpaired draws; better ignores that a low ECE is good
    replayed = synthetic(episodes=60, seed=10, critics={"good": 0.1, "blind": float("inf")})
    assert [d.better for d in compare(replayed, FAST)] == ["good"] * len(MEASURES)
    good = replayed.opinions["good"]
    twins = compare(replace(replayed, opinions={"a": good, "b": good}), FAST)
    assert all(d.better is None and d.difference.low == d.difference.high == 0 for d in twins)
    json.dumps(to_json(twins), allow_nan=False)


def test_a_paired_difference_is_narrower_than_the_intervals_beside_each_other():
    # mutation: another seed for the second critic
    replayed = synthetic(episodes=60, seed=11, critics={"main": 0.3})
    value = replayed.opinions["main"].logged_value
    close = spoken(replayed, a=value, b=value + 0.02 * np.random.default_rng(0).normal(size=len(value)))
    difference = next(d for d in compare(close, FAST) if d.measure == "rank").difference
    alone = diagnose(close, "a", FAST).ranking.overall
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)


def test_everything_said_about_a_critic_is_plain_json_and_drawn():
    replayed = synthetic(seed=12, critics={"main": 0.2, "other": 0.5})
    found = [diagnose(replayed, name, FAST) for name in replayed.opinions]
    assert json.loads(json.dumps(found[0].to_json(), allow_nan=False))["critic"] == "main"
    figures = plots_critics.of_diagnoses(found) + plots_critics.of_comparison(compare(replayed, FAST))
    assert len(figures) == 5 and all(svg.startswith("<svg") and caption for _, svg, caption in figures)


def test_a_critic_that_says_less_than_the_mean_return_is_warned_about():
    # mutation: warn where the interval only reaches 0, or of every critic
    replayed = synthetic(episodes=40, seed=1)
    said = of_critics(spoken(replayed, main=replayed.returns, lost=replayed.returns.mean() - 3 * replayed.returns))
    assert [finding.what.split()[1] for finding in said.findings] == ["lost"]
