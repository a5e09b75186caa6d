"""Intervals and tests against closed forms, brute force and published tables."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robot_value.statistics import (
    auroc,
    bootstrap,
    holm,
    mcnemar,
    noninferiority,
    paired_difference,
    ratio,
    reliability,
    spearman_within,
    wilson,
)


def test_wilson_gives_the_published_intervals():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(successes, n).ci95 == pytest.approx([low, high], abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_are_where_the_score_test_just_rejects(counts):
    successes, n = counts
    interval = wilson(successes, n)
    # mutation: `z * z / (4 * n * n)` -> `z * z / (2 * n * n)`
    for end in interval.ci95:
        if 1e-12 < end < 1 - 1e-12:
            assert abs(interval.mean - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(
                stats.norm.ppf(0.975), rel=1e-6
            )
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_wilson_mirrors_when_successes_and_failures_swap():
    assert wilson(3, 10).ci95 == pytest.approx([1 - end for end in reversed(wilson(7, 10).ci95)])


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson(successes, n)


def test_bootstrap_of_three_values_has_the_quantiles_of_all_27_resamples():
    values = np.array([0.0, 1.0, 5.0])
    every = np.sort([np.mean(resample) for resample in itertools.product(values, repeat=3)])
    interval = bootstrap(values, resamples=200_000)
    assert interval.mean == 2
    assert interval.ci95 == [every[0], every[-1]]  # 1/27 > 2.5 %: both extremes are inside


def test_bootstrap_is_close_to_the_normal_interval_for_many_seeds():
    values = np.random.default_rng(0).random(2000)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert bootstrap(values).ci95 == pytest.approx([values.mean() - half, values.mean() + half], abs=1e-3)


def test_bootstrap_over_environment_seeds_sees_only_the_mean_over_training_seeds():
    rng = np.random.default_rng(1)
    values = rng.random((3, 50))
    pooled, per_seed = bootstrap(values), bootstrap(values.mean(0))
    # mutation: `rows * means` -> `means`, and `/ len(values)` dropped
    assert [pooled.mean, *pooled.ci95] == pytest.approx([per_seed.mean, *per_seed.ci95])


def test_two_level_bootstrap_knows_that_training_seeds_differ():
    values = np.repeat([[0.2], [0.5], [0.8]], 200, axis=1)  # no spread between environment seeds at all
    one, two = bootstrap(values), bootstrap(values, training=True)
    assert one.ci95 == pytest.approx([0.5, 0.5])
    # mutation: `if training` -> `if not training`
    assert two.ci95 == pytest.approx([0.2, 0.8])  # 1/27 > 2.5 %: all rows the lowest, all rows the highest


def test_two_level_variance_is_the_closed_form_of_a_crossed_design():
    rng = np.random.default_rng(2)
    rows, columns = rng.normal(size=(6, 1)), rng.normal(size=(1, 300))
    interval = bootstrap(rows + columns, training=True, resamples=20_000)
    deviation = math.sqrt(rows.var() / 6 + columns.var() / 300)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)


def test_paired_difference_ignores_what_both_arms_share():
    shared = np.random.default_rng(3).random(40) < 0.5
    interval = paired_difference(shared, shared)
    assert (interval.mean, interval.ci95) == (0, [0, 0])


def test_paired_difference_refuses_unpaired_outcomes():
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="equal shapes"):
        mcnemar(np.zeros(3), np.zeros(4))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5))
def test_mcnemar_is_the_sum_of_all_coin_sequences_as_unlikely(wins, losses, agree):
    arm = np.array([1] * wins + [0] * losses + [1] * agree, bool)
    against = np.array([0] * wins + [1] * losses + [1] * agree, bool)
    n = wins + losses
    chances = [math.comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(chance for chance in chances if chance <= chances[wins] * (1 + 1e-9))
    # mutation: `~arm & against` -> `arm & against`
    assert mcnemar(arm, against) == pytest.approx(expected)


def test_mcnemar_of_the_textbook_table():
    # 1 win against 9 losses: p = 2 * (C(10,0) + C(10,1)) / 2**10
    assert mcnemar([1] + [0] * 9, [0] + [1] * 9) == pytest.approx(22 / 1024)


def test_ratio_of_proportional_vectors_has_no_spread():
    denominator = np.random.default_rng(4).random(30) + 0.5
    interval = ratio(0.4 * denominator, denominator)
    assert [interval.mean, *interval.ci95] == pytest.approx([0.4] * 3)


def test_ratio_matches_a_plain_loop():
    rng = np.random.default_rng(5)
    numerator, denominator = rng.random(25), rng.random(25) + 0.2
    draws = np.random.default_rng(9).integers(0, 25, (4000, 25))
    slow = np.quantile([numerator[draw].mean() / denominator[draw].mean() for draw in draws], [0.025, 0.975])
    # mutation: `above[below > 0] / below` -> `below / above`
    assert ratio(numerator, denominator).ci95 == pytest.approx(slow, abs=0.02)


def test_ratio_has_no_bounds_where_its_denominator_may_be_zero():
    interval = ratio(np.array([0.1, 0.2, 0.1, 0.0]), np.array([1.0, -0.9, 0.5, -0.4]))
    assert interval.mean == pytest.approx(0.1 / 0.05)
    assert np.isnan(interval.ci95).all()
    assert math.isnan(ratio(np.ones(3), -np.ones(3)).mean)


def test_ratio_refuses_matrices():
    with pytest.raises(ValueError, match="two equal vectors"):
        ratio(np.ones((2, 2)), np.ones((2, 2)))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_spearman_within_a_group_agrees_with_scipy(pairs):
    x, y = np.array(pairs, float).T
    mine = spearman_within([x], [y])[0]
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(mine)
    else:
        # mutation: `rankdata(y)` -> `y`
        assert mine == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


def test_spearman_of_unscored_candidates_is_unknown():
    assert np.isnan(spearman_within([[np.nan, 1.0, 2.0]], [[0.0, 0.5, 1.0]])).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=15))
def test_auroc_counts_pairs(scored):
    score, success = np.array([s for s, _ in scored]), np.array([k for _, k in scored])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[success] for b in score[~success]]
    mine = auroc(score, success)
    # mutation: `(positive + 1) / 2` -> `positive / 2`
    assert math.isnan(mine) if not pairs else mine == pytest.approx(np.mean(pairs))


def test_reliability_of_a_perfect_predictor_has_no_error():
    predicted = np.linspace(0, 1, 103)
    diagram = reliability(predicted, predicted)
    assert diagram.ece == pytest.approx(0)
    assert diagram.count.sum() == 103
    assert diagram.count.max() - diagram.count.min() <= 1
    assert (np.diff(diagram.predicted) > 0).all()


def test_reliability_error_is_the_bias_of_a_constant_overestimate():
    realised = np.repeat([0.0, 1.0], 50)
    assert reliability(realised + 0.3, realised, bins=4).ece == pytest.approx(0.3)
    # bins of different size count by their decisions: |0-1|*2/3 + |1-1|*1/3
    assert reliability(np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0]), bins=2).ece == pytest.approx(2 / 3)


def test_reliability_has_no_empty_bins():
    assert reliability(np.array([1.0, 2.0]), np.array([1.0, 2.0]), bins=10).count.tolist() == [1, 1]


@pytest.mark.parametrize(
    "call", [lambda: bootstrap(np.zeros((2, 0))), lambda: reliability([], []), lambda: ratio(np.zeros(0), np.zeros(0))]
)
def test_nothing_to_summarise_is_refused(call):
    with pytest.raises(ValueError, match="no outcomes to summarise"):
        call()


def test_reliability_refuses_unequal_vectors():
    with pytest.raises(ValueError, match="two equal vectors"):
        reliability([0.1], [0.1, 0.2])


# Non-inferiority and several tests at once ------------------------------------------------------------------------


def outcomes(wins: int, losses: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    arm, against = np.zeros(n, bool), np.zeros(n, bool)
    arm[:wins], against[wins : wins + losses] = True, True
    return arm, against


@pytest.mark.parametrize(("wins", "losses", "n"), [(3, 5, 100), (0, 0, 50), (20, 9, 200), (0, 7, 80), (12, 0, 90)])
def test_noninferiority_takes_its_variance_from_the_likeliest_rates_on_the_boundary(wins, losses, n):
    # mutation: the variance of the observed rates (0 without discordant pairs); p and q exchanged
    margin = 0.05

    def unlikely(p: np.ndarray) -> np.ndarray:
        same = n - wins - losses
        return -sum(k * np.log(r) for k, r in ((wins, p), (losses, p + margin), (same, 1 - 2 * p - margin)) if k)

    grid = np.linspace(1e-9, (1 - margin) / 2 - 1e-9, 400_001)
    with np.errstate(divide="ignore"):
        likeliest = grid[np.argmin(unlikely(grid))]
    z = ((wins - losses) / n + margin) / math.sqrt((2 * likeliest + margin - margin**2) / n)
    assert noninferiority(*outcomes(wins, losses, n), margin) == pytest.approx(stats.norm.sf(z), rel=1e-3)


def test_noninferiority_lets_an_arm_at_the_margin_through_as_often_as_its_level_says():
    # mutation: two-sided p; margin with the wrong sign
    rng, n, p, margin = np.random.default_rng(0), 400, 0.08, 0.05
    drawn = rng.multinomial(n, [p, p + margin, 1 - 2 * p - margin], 4000)
    passed = np.mean([noninferiority(*outcomes(w, lost, n), margin) < 0.05 for w, lost, _ in drawn])
    assert 0.03 < passed < 0.07
    equal = rng.multinomial(n, [0.02, 0.02, 0.96], 400)
    assert np.mean([noninferiority(*outcomes(w, lost, n), margin) < 0.05 for w, lost, _ in equal]) > 0.95


def test_holm_multiplies_by_how_many_are_left_and_never_falls():
    # mutation: Bonferroni; no running maximum; back in sorted order
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
