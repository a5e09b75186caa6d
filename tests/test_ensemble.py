"""How members become one opinion: order statistics against brute force, pools of distributions against their means."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.critics.distribution import Distribution
from robot_value.critics.ensemble import AGGREGATES, aggregate, expected_subset_min, pool, spread, subset_shares

MEMBERS, ROWS, ATOMS = 5, 4, 3


def members(seed: int = 0) -> Distribution:
    """Unlike atoms and weights everywhere."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand((MEMBERS, ROWS, ATOMS), generator=generator)
    return Distribution(torch.randn((MEMBERS, ROWS, ATOMS), generator=generator), weights / weights.sum(-1, True))


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6), data=st.data())
def test_the_expected_minimum_is_the_mean_over_all_subsets(values, data):
    # mutation: C(E - i + 1, m - 1), descending sort
    subset = data.draw(st.integers(1, len(values)))
    least = [min(chosen) for chosen in combinations(values, subset)]
    got = expected_subset_min(torch.tensor(values)[:, None], subset)
    assert float(got) == pytest.approx(sum(least) / len(least), abs=1e-5)


@given(members=st.integers(1, 12), data=st.data())
def test_shares_of_the_order_statistics_are_a_distribution_that_leans_to_the_least(members, data):
    subset = data.draw(st.integers(1, members))
    shares = subset_shares(members, subset, torch.zeros(1, dtype=torch.float64))
    assert float(shares.sum()) == pytest.approx(1.0) and (shares >= 0).all()
    assert (shares.diff() <= 1e-12).all()
    assert (shares[members - subset + 1 :] == 0).all()  # of m, one is always smaller than the m - 1 largest


def test_one_is_the_mean_and_all_is_the_minimum():
    values = torch.randn(MEMBERS, ROWS, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(expected_subset_min(values, 1), values.mean(0), atol=1e-6)
    assert torch.equal(expected_subset_min(values, MEMBERS), values.amin(0))
    with pytest.raises(ValueError, match="expected 1 to the 5 there are, got 6"):
        expected_subset_min(values, 6)


def test_a_pool_of_points_has_the_mean_that_scores_have():
    # mutation: rho added; atoms moved by member
    values = torch.randn(MEMBERS, ROWS, generator=torch.Generator().manual_seed(0))
    points = Distribution.point(values)
    for how, rho in (("mean", 0.0), ("mean", 0.5), ("min", 0.0)):
        assert torch.allclose(pool(points, how, rho).mean, aggregate(values, how, rho), atol=1e-6)


def test_a_pool_by_the_mean_is_the_mixture_and_by_the_minimum_one_whole_member():
    # mutation: min per atom (the least atom of different members)
    given = members()
    mixture = pool(given, "mean")
    assert torch.allclose(mixture.mean, given.mean.mean(0), atol=1e-6) and mixture.atoms.shape == (
        ROWS,
        MEMBERS * ATOMS,
    )
    least = pool(given, "min")
    for row, member in enumerate(given.mean.argmin(0).tolist()):
        assert torch.equal(least.atoms[row], given.atoms[member, row])
        assert torch.equal(least.weights[row], given.weights[member, row])
    lowered = pool(given, "mean", rho=1.0)
    assert torch.allclose(lowered.mean, given.mean.mean(0) - spread(given.mean), atol=1e-6)


def test_a_random_pair_is_drawn_from_the_generator_and_is_its_expectation_on_average():
    # mutation: always the first two members; one draw per row would need rows of their own
    given, generator = members(), torch.Generator().manual_seed(0)
    draws = torch.stack([pool(given, "subset_min", generator=generator).mean for _ in range(600)])
    assert torch.allclose(draws.mean(0), expected_subset_min(given.mean, 2), atol=0.1)
    assert all((draws[:, row, None] == given.mean[:, row]).any(1).all() for row in range(ROWS))
    again = pool(given, "subset_min", generator=torch.Generator().manual_seed(0)).mean
    assert torch.equal(again, draws[0])


def test_a_single_member_is_its_own_pool_whatever_the_way():
    given = Distribution(members().atoms[:1], members().weights[:1])
    for how in AGGREGATES:
        if how != "subset_min":
            assert torch.allclose(pool(given, how, rho=0.5).mean, given.mean[0])
    with pytest.raises(ValueError, match="expected one of mean, min, subset_min, got 'max'"):
        pool(given, "max")
