"""Weighted atoms, and the ways one kind becomes another, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from robot_value.critics.distribution import Distribution, gaussian_bins, midpoints, project

numbers = st.floats(-3, 3, width=32)


def distribution(values: list[float], seed: int = 0) -> Distribution:
    weights = torch.rand(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
    return Distribution(torch.tensor(values, dtype=torch.float64), weights / weights.sum())


def test_mean_and_variance_are_those_of_the_weighted_atoms():
    d = Distribution(torch.tensor([[0.0, 1.0], [5.0, 5.0]]), torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    assert d.mean.tolist() == [0.25, 5.0]
    assert d.variance.tolist() == [0.1875, 0.0]
    assert Distribution.point(torch.tensor([2.0])).variance.tolist() == [0.0]
    assert Distribution.samples(torch.tensor([1.0, 3.0])).mean == 2.0


@settings(max_examples=50, deadline=None)
@given(values=st.lists(numbers, min_size=1, max_size=6), reward=numbers, discount=st.floats(0, 1))
def test_a_backup_shifts_and_shrinks_every_atom(values, reward, discount):
    # mutation: discount the reward; discount the weights
    d = distribution(values)
    after = d.backed_up(torch.tensor(reward), torch.tensor(discount, dtype=torch.float64))
    assert after.mean.item() == pytest.approx(reward + discount * d.mean.item(), abs=1e-5)
    assert after.variance.item() == pytest.approx(discount**2 * d.variance.item(), abs=1e-5)


def brute_projection(d: Distribution, support: list[float]) -> list[float]:
    """One atom at a time: clip it, find its two neighbours, share its weight by nearness."""
    mass = [0.0] * len(support)
    for atom, weight in zip(d.atoms.tolist(), d.weights.tolist(), strict=True):
        atom = min(max(atom, support[0]), support[-1])
        upper = next(i for i, z in enumerate(support) if z >= atom - 1e-9)
        lower = max(upper - 1, 0)
        share = 1.0 if lower == upper else (atom - support[lower]) / (support[upper] - support[lower])
        mass[upper] += weight * share
        mass[lower] += weight * (1 - share)
    return mass


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(numbers, min_size=1, max_size=6), low=st.floats(-2, 0), span=st.floats(0.5, 3), n=st.integers(2, 9)
)
def test_a_projection_shares_each_atom_between_its_neighbours(values, low, span, n):
    # mutation: do not clip; divide by the whole span; forget the weights
    d, support = distribution(values), torch.linspace(low, low + span, n, dtype=torch.float64)
    projected = project(d, support)
    assert projected.tolist() == pytest.approx(brute_projection(d, support.tolist()), abs=1e-6)
    assert projected.sum().item() == pytest.approx(1, abs=1e-9)
    clipped = (d.atoms.clamp(support[0], support[-1]) * d.weights).sum()
    assert (projected * support).sum().item() == pytest.approx(clipped.item(), abs=1e-6)


def test_a_projection_keeps_leading_dimensions_apart():
    rows = Distribution(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    assert project(rows, torch.linspace(0, 1, 3)).tolist() == [[0.5, 0, 0.5], [0, 1, 0]]


@settings(max_examples=50, deadline=None)
@given(value=st.floats(-1, 2), sigma=st.floats(0.02, 0.5))
def test_smeared_bins_hold_the_normal_distributions_mass(value, sigma):
    # mutation: variance for sigma; no renormalization
    edges = np.linspace(-1.2, 2.3, 41)
    expected = np.diff(norm.cdf(edges, value, sigma))
    got = gaussian_bins(torch.tensor(value, dtype=torch.float64), torch.from_numpy(edges), sigma)
    assert got.numpy() == pytest.approx(expected / expected.sum(), abs=1e-9)


def test_midpoints_are_the_middles_of_equal_parts():
    assert midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]
