"""The OPE benchmark: choosing a log, ranks, coverage, what it says of a shortfall, and the toys' truth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from replayed import synthetic
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_ope
from ope_coverage import coverage
from ope_policies import only, policies
from ope_toys import DECISIONS, drift, drift_value, ladder, ladder_value


def cell(name: str, successes: int, values: list[float], half: float = 0.1, missing: bool = False) -> dict:
    estimates = [
        {
            "estimates": [{"method": "fqe", "value": v, "low": v - half, "high": v + half}],
            "support": {"share": 0.9, "missing": missing},
            "log_success": 0.5,
        }
        for v in values
    ]
    return {"name": name, "truth": {"successes": successes, "n": 100}, "estimates": estimates}


def test_a_perfect_ranking_is_one_and_a_reversed_log_halves_it_away() -> None:
    good = bench_ope.summarise([cell(str(i), 10 * i, [i / 10, i / 10]) for i in range(1, 9)])
    assert good["spearman"]["per_log"] == pytest.approx([1, 1]) and good["spearman"]["policies"] == 8
    both = bench_ope.summarise([cell(str(i), 10 * i, [i / 10, -i / 10]) for i in range(1, 9)])
    assert both["spearman"]["mean"] == pytest.approx(0)  # mutation: rank the mean of the logs' values
    assert both["spearman"]["ci95"][0] <= 0 <= both["spearman"]["ci95"][1]


def test_ranks_share_ties_and_a_constant_has_none() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 30, 12))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(bench_ope.spearman(x, y), expected)  # mutation: ordinal ranks
    assert np.isnan(bench_ope.spearman(np.ones(4), np.arange(4)))


def test_coverage_counts_policies_and_logs_and_forgives_only_the_truths_own_error() -> None:
    report = bench_ope.summarise([cell("a", 50, [0.55, 0.62]), cell("b", 80, [0.8, 0.3])])
    assert report["coverage"] == {"mean": 0.5, "ci95": report["coverage"]["ci95"], "n": 4}
    assert report["coverage_allowing_for_error_of_truth"]["mean"] == 0.75  # 0.62 +- 0.14 holds 0.5; 0.3 does not 0.8
    assert report["mean_error"] == pytest.approx(np.mean([0.05, 0.12, 0, -0.5]))


def test_estimates_drawn_towards_the_log_have_a_slope_below_one() -> None:
    truth = np.array([0.0, 0.5, 1.0])
    assert bench_ope.pull(np.stack([0.5 + 0.3 * (truth - 0.5)] * 2), truth) == pytest.approx(0.3)
    assert np.isnan(bench_ope.pull(np.ones((1, 2)), np.ones(2)))


def test_a_shortfall_is_said_with_its_figures_and_silence_means_none() -> None:
    good = bench_ope.summarise([cell(str(i), 10 * i, [i / 10]) for i in range(1, 9)])
    assert bench_ope.shortfall(good) == ""
    bad = bench_ope.summarise([cell(str(i), 10 * i, [1 - i / 10], half=0.01) for i in range(1, 9)])
    said = bench_ope.shortfall(bad)
    assert "Spearman -1.00 < 0.8" in said and "coverage" in said and "slope -1.00" in said
    unknown = bench_ope.summarise([cell("a", 50, [0.5]), cell("b", 50, [0.5])])
    assert "Spearman nan" in bench_ope.shortfall(unknown)  # mutation: nan passes


def test_a_logs_episodes_are_taken_whole_and_numbered_anew() -> None:
    replayed = synthetic(episodes=6)
    part = only(replayed, [1, 4])
    rows = np.concatenate([np.arange(len(replayed))[replayed.rows(e)] for e in (1, 4)])
    np.testing.assert_array_equal(part.logged, replayed.logged[rows])
    np.testing.assert_array_equal(part.columns["state"], replayed.columns["state"][rows])
    np.testing.assert_array_equal(part.success, replayed.success[[1, 4]])
    assert np.unique(part.episode).tolist() == [0, 1]  # mutation: the old numbers


def test_there_are_ten_policies_or_more_that_differ() -> None:
    found = policies(8)
    assert len(found) >= 10 and len({str(each) for each in found.values()}) == len(found)


def test_a_toys_truth_is_what_playing_it_gives() -> None:
    p = (0.55, 0.7)
    played = np.mean([e.success for e in ladder(4000, mu=p, pi=p).replayed.episodes])
    assert abs(played - ladder_value(p)) < 0.025
    discount = 0.95 ** (2 * np.arange(DECISIONS) + 1)
    returns = [(e.rewards[1::2] * discount).sum() for e in drift(2000, mu=0.3, pi=0.3).replayed.episodes]
    assert abs(np.mean(returns) - drift_value(0.3)) < 4 * np.std(returns) / 2000**0.5


def test_coverage_on_a_toy_is_counted_for_every_method() -> None:
    found = coverage("ladder", logs=3, fitted_logs=0)
    assert found.keys() == {"importance", "bound", "doubly_robust_ignorant"}
    assert all(each["logs"] == 3 and 0 <= each["coverage"] <= 1 for each in found.values())
