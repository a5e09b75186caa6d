"""Importance sampling, doubly robust estimates and bounds: closed forms and brute force on toys of known density."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from ope_toys import DRIFT, LADDER, drift, ladder, ladder_value

from robot_value.ope import bound, doubly_robust, importance
from robot_value.ope.chunks import chunks

POLICIES = {"mu": (0.5, 0.6), "pi": (0.7, 0.7)}


def test_the_logs_own_policy_is_worth_what_its_episodes_returned() -> None:
    toy = ladder(50)
    found = chunks(toy.replayed, LADDER)
    none = np.zeros(len(toy.replayed))
    assert importance.weighted(found, none).mean == pytest.approx(found.returns.mean())
    assert importance.effective(importance.weights(found, none)[:, -1]) == pytest.approx(50)


def test_weights_are_products_along_an_episode_and_stay_after_its_end() -> None:
    toy = ladder(20, **POLICIES)
    found = chunks(toy.replayed, LADDER)
    weight = importance.weights(found, toy.log_ratio)
    for e in range(20):
        ratios = np.exp(toy.log_ratio[found.episode == e])
        expected = np.concatenate([np.cumprod(ratios), np.full(4 - len(ratios), ratios.prod())])
        np.testing.assert_allclose(weight[e], expected[: weight.shape[1]])  # mutation: 0 after the end


def test_weighted_importance_sampling_is_its_formula() -> None:
    toy = drift(15, seed=1)
    found = chunks(toy.replayed, DRIFT)
    weight = np.exp(np.cumsum(toy.log_ratio.reshape(15, 4), 1))
    rewards = np.array([e.rewards[1::2] for e in toy.replayed.episodes], float)
    discount = DRIFT.gamma ** (2 * np.arange(4) + 1)
    expected = (discount * (weight * rewards).sum(0) / weight.sum(0)).sum()  # mutation: normalize over time
    assert importance.weighted(found, toy.log_ratio).mean == pytest.approx(expected)


@pytest.mark.parametrize("make, target", [(lambda: ladder(1500, **POLICIES), LADDER), (lambda: drift(1500), DRIFT)])
def test_all_estimators_find_the_value_of_another_policy(make, target) -> None:
    toy = make()
    found = chunks(toy.replayed, target)
    interval = importance.weighted(found, toy.log_ratio, 200)
    assert interval.low < toy.truth < interval.high
    wrong = np.full(len(toy.replayed), 0.3)  # a value function that knows nothing
    each = doubly_robust.doubly_robust(found, toy.log_ratio, wrong, wrong)
    assert abs(each.mean() - toy.truth) < 4 * each.std() / math.sqrt(len(each))  # mutation: no correction
    wdr = doubly_robust.weighted(found, toy.log_ratio, wrong, wrong, 200)
    assert wdr.low < toy.truth < wdr.high


def test_a_true_value_function_leaves_importance_sampling_nothing_to_correct() -> None:
    toy = ladder(100, mu=(0.5, 0.5), pi=(0.6, 0.6))
    found = chunks(toy.replayed, LADDER)
    q, v = ladder_tables(toy, (0.6, 0.6))
    each = doubly_robust.doubly_robust(found, toy.log_ratio, q, v)
    error = doubly_robust.corrections(found, q, v)
    np.testing.assert_allclose(error, 0, atol=1e-12)  # a rung follows from its chunk: mutation: V of the same state
    np.testing.assert_allclose(each, ladder_value((0.6, 0.6)))


def ladder_tables(toy, p: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """True q of the logged chunk and v of the state, float64[D], by dynamic programming."""
    value = np.zeros((5, 3))  # decisions left, rung
    value[:, 2] = 1
    for left in range(1, 5):
        value[left, 0] = p[0] * value[left - 1, 1] + (1 - p[0]) * value[left - 1, 0]
        value[left, 1] = p[1] * 1 + (1 - p[1]) * value[left - 1, 0]
    rung, left = toy.replayed.columns["state"][:, 0].astype(int), 4 - toy.replayed.step // 2
    good = toy.replayed.logged[:, 0, 0] > 0
    return np.where(good, value[left - 1, np.minimum(rung + 1, 2)], value[left - 1, 0]), value[left, rung]


def test_weighted_doubly_robust_without_reweighting_is_the_mean_of_the_unweighted() -> None:
    toy = ladder(60)
    found, none = chunks(toy.replayed, LADDER), np.zeros(len(toy.replayed))
    q, v = np.random.default_rng(0).random((2, len(none)))
    each = doubly_robust.doubly_robust(found, none, q, v)
    assert doubly_robust.weighted(found, none, q, v).mean == pytest.approx(each.mean())


def test_episodes_whose_end_nobody_saw_are_not_reweighted() -> None:
    toy = ladder(10)
    first = replace(toy.replayed.episodes[0], success=None)
    unknown = replace(toy.replayed, episodes=(first, *toy.replayed.episodes[1:]))
    np.testing.assert_array_equal(importance.complete(chunks(unknown, LADDER)), [False] + [True] * 9)


def test_effective_sample_size_is_all_for_equal_weights_and_one_for_a_single_heavy_one() -> None:
    assert importance.effective(np.full(7, 3.0)) == pytest.approx(7)
    assert importance.effective(np.array([1e200, 1.0, 1.0])) == pytest.approx(1)  # mutation: overflow
    assert importance.effective(np.zeros(3)) == 0


def test_a_gaussian_density_is_scipys_and_steps_that_never_happened_have_none() -> None:
    rng = np.random.default_rng(0)
    chunk, mean = rng.normal(size=(2, 5, 3, 2))
    expected = stats.norm.logpdf(chunk, mean, 0.7).sum(-1)  # [5, 3]
    np.testing.assert_allclose(importance.gaussian_log_density(chunk, mean, 0.7), expected.sum(1))
    happened = np.arange(3) < np.array([1, 2, 3, 3, 1])[:, None]
    found = importance.gaussian_log_density(chunk, mean, 0.7, happened)
    np.testing.assert_allclose(found, (expected * happened).sum(1))  # mutation: padding counts


def test_a_kernel_density_comes_near_the_true_one_and_prefers_the_likelier_policy() -> None:
    toy = ladder(40)
    d, rng = len(toy.replayed), np.random.default_rng(0)
    logged = rng.normal(size=(d, 2, 1)).astype(np.float32)
    near, far = (rng.normal(m, 1, size=(d, 256, 2, 1)).astype(np.float32) for m in (0, 1.5))
    of = [importance.kernel_log_density(replace(toy.replayed, logged=logged, candidates=c)) for c in (near, far)]
    truth = importance.gaussian_log_density(logged.astype(float), np.zeros(1), 1.0)
    assert np.abs(of[0] - truth).mean() < 0.2  # mutation: without 1 / N
    assert (of[0] - of[1]).mean() > 1
    with pytest.raises(ValueError, match="replay with n=64"):
        importance.kernel_log_density(toy.replayed)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 2), min_size=2, max_size=40), st.floats(0.01, 0.5))
def test_a_bernstein_bound_is_below_the_mean_and_falls_with_confidence(x: list[float], delta: float) -> None:
    x = np.array(x)
    low = bound.bernstein_low(x, 2.0, delta)
    assert low < x.mean()
    assert bound.bernstein_low(x, 2.0, delta / 2) < low  # mutation: delta is not used


def test_a_bernstein_bound_is_its_formula() -> None:
    assert bound.bernstein_low(np.full(11, 0.5), 1.0, 0.1) == pytest.approx(0.5 - 7 * math.log(20) / 30)
    halves = np.tile([0.0, 1.0], 50)  # variance 1/4 * 100/99
    expected = 0.5 - math.sqrt(2 * 25 / 99 * math.log(20) / 100) - 7 * math.log(20) / 297
    assert bound.bernstein_low(halves, 1.0, 0.1) == pytest.approx(expected)  # mutation: no variance term
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        bound.bernstein_low(np.array([0.5, 2.0]), 1.0)


def test_the_clipped_bound_holds_on_both_sides_in_nearly_every_log() -> None:
    """Of 30 logs of the ladder; 27 would be seen by chance in one of 200 runs. And the bound says something."""
    truth, held, widths = ladder_value(POLICIES["pi"]), [], []
    for seed in range(30):
        toy = ladder(400, **POLICIES, seed=seed)
        found = chunks(toy.replayed, LADDER)
        interval = bound.clipped(importance.weights(found, toy.log_ratio)[:, -1], found.returns)
        held.append(interval.low <= truth <= interval.high)
        widths.append(interval.high - interval.low)
    assert np.mean(held) >= 0.9  # mutation: divide by the largest weight first
    assert np.mean(widths) < 0.75


def test_clopper_and_pearson_say_nothing_new() -> None:
    found = bound.on_policy(8, 10)
    assert found.mean == 0.8
    assert stats.binom.sf(7, 10, found.low) == pytest.approx(0.025)
    assert stats.binom.cdf(8, 10, found.high) == pytest.approx(0.025)
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        bound.on_policy(3, 2)


def test_weighted_importance_sampling_covers_the_truth_as_often_as_it_says() -> None:
    """Of 40 logs; fewer than 35 would be seen by chance in one of 70 runs. `bench_ope` counts 400."""
    truth, held = ladder_value(POLICIES["pi"]), 0
    for seed in range(40):
        toy = ladder(150, **POLICIES, seed=1000 + seed)
        interval = importance.weighted(chunks(toy.replayed, LADDER), toy.log_ratio, 300)
        held += interval.low <= truth <= interval.high
    assert held >= 35  # mutation: the interval of a resample, not of the logs
