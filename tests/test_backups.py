"""The parts of backups against closed forms and brute force, on critics whose values are set by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import spec, statistics
from torch import Tensor, nn

from robot_value.critics import qc
from robot_value.critics.backups import (
    annealed,
    best_chunk,
    best_of_n_value,
    expected_max_value,
    finite,
    policy_value,
    quantile_loss,
    smoothed,
)
from robot_value.critics.distribution import Distribution
from robot_value.critics.ensemble import aggregate

SPEC = spec()
CONFIG = qc.Config(hidden=(8,))
ROWS, N = 3, 5


class Known(nn.Module):
    """Member i says the i-th number of the chunk's first step: its values are what the test writes there."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, features: Tensor, chunk: Tensor) -> Tensor:
        return torch.stack([chunk[:, 0, i] for i in self.order])

    def distribution(self, features: Tensor, chunk: Tensor, generator=None) -> Distribution:
        return Distribution.point(self(features, chunk))


def critic(online=(0,), averaged=(1,), **changes):
    """Its online values are the first action dim of the chunk's first step, its averaged ones the second."""
    made = replace(CONFIG, **changes).build(SPEC, statistics(SPEC))
    made.q, made.target["q"] = Known(*online), Known(*averaged)
    return made


def drawn(seed: int = 0, n: int = N) -> tuple[Tensor, Tensor]:
    """features [B, F], chunks [B, n, H, A]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.zeros(ROWS, 3), torch.randn((ROWS, n, 4, 2), generator=generator)


def test_best_of_n_selects_by_the_online_critics_and_evaluates_by_the_averaged_ones():
    # mutation: evaluate with critic.q, or select with critic.target["q"]
    features, chunks = drawn()
    value = best_of_n_value(critic(), features, chunks).mean
    best = chunks[:, :, 0, 0].argmax(1)
    assert value.tolist() == [float(chunks[b, best[b], 0, 1]) for b in range(ROWS)]
    other = Known(1)
    same = best_of_n_value(critic(), features, chunks, select=other, evaluate=other).mean
    assert torch.equal(same, chunks[:, :, 0, 1].amax(1))


@pytest.mark.parametrize("how", ["mean", "min", "subset_min"])
def test_the_members_are_aggregated_before_the_best_is_chosen(how):
    # mutation: argmax of the first member; min over members after the maximum over candidates
    features, chunks = drawn()
    made = critic(online=(0, 1), averaged=(0, 1), aggregate=how)
    judged = aggregate(torch.stack([chunks[:, :, 0, 0], chunks[:, :, 0, 1]]), how)
    assert torch.equal(best_chunk(made.q, made, features, chunks), chunks[torch.arange(ROWS), judged.argmax(1)])
    assert torch.allclose(best_of_n_value(made, features, chunks).mean, judged.amax(1), atol=1e-6)


def test_a_policys_value_is_the_mean_over_its_chunks_with_the_members_joined_per_chunk():
    # mutation: min over members of the mean over chunks; select the best
    features, chunks = drawn()
    made = critic(online=(0, 1), averaged=(0, 1), aggregate="min")
    value = policy_value(made, features, chunks)
    assert torch.allclose(value.mean, chunks[:, :, 0].amin(-1).mean(1), atol=1e-6)
    assert torch.allclose(value.weights.sum(-1), torch.ones(ROWS)) and value.atoms.shape == (ROWS, N)
    one = policy_value(made, features, chunks[:, :1]).mean
    assert torch.allclose(one, chunks[:, 0, 0].amin(-1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), n=st.integers(1, 6), data=st.data())
def test_the_expected_maximum_is_the_mean_over_all_subsets(seed, n, data):
    # mutation: shares not flipped (the expected minimum); descending sort
    subset = data.draw(st.integers(1, n))
    features, chunks = drawn(seed, n)
    value = expected_max_value(critic(), features, chunks, subset).mean
    for b in range(ROWS):
        online, averaged = chunks[b, :, 0, 0].tolist(), chunks[b, :, 0, 1].tolist()
        best = [averaged[max(chosen, key=online.__getitem__)] for chosen in combinations(range(n), subset)]
        assert float(value[b]) == pytest.approx(sum(best) / len(best), abs=1e-5)


def test_the_expected_maximum_goes_from_the_policys_mean_to_the_best_of_all():
    features, chunks = drawn()
    made = critic()
    values = [expected_max_value(made, features, chunks, m).mean for m in range(1, N + 1)]
    assert torch.allclose(values[0], policy_value(made, features, chunks).mean, atol=1e-6)
    assert torch.allclose(values[-1], best_of_n_value(made, features, chunks).mean, atol=1e-6)
    with pytest.raises(ValueError, match="expected 1 to the 5 there are, got 6"):
        expected_max_value(made, features, chunks, N + 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_proposal_that_is_not_finite_never_reaches_a_target(bad):
    # mutation: `finite` returns its argument
    features, chunks = drawn()
    made, spoiled = critic(), chunks.clone()
    spoiled[0, 0, -1, 1] = spoiled[1, 3, 0, 0] = bad
    for value in (policy_value, best_of_n_value, lambda *given: expected_max_value(*given, 2)):
        assert value(made, features, spoiled).mean.isfinite().all()
        assert torch.equal(value(made, features, spoiled).mean[2], value(made, features, chunks).mean[2])
    assert torch.equal(finite(spoiled)[0, 0], chunks[0, 1]) and torch.equal(finite(chunks), chunks)


def test_annealing_goes_from_the_optimality_to_the_policy_backup():
    # mutation: shares swapped; no clamp at the end
    best, policy = Distribution.point(torch.tensor([1.0, 3.0])), Distribution.samples(torch.tensor([[0.0, 1], [1, 2]]))
    for step, expected in ((0, [1.0, 3.0]), (50, [0.75, 2.25]), (100, [0.5, 1.5]), (900, [0.5, 1.5])):
        mixed = annealed(best, policy, torch.tensor(step), 100)
        assert mixed.mean.tolist() == pytest.approx(expected)
        assert mixed.weights.sum(-1).tolist() == pytest.approx([1.0, 1.0])


def test_smoothing_adds_clipped_noise_and_stays_within_the_limits():
    # mutation: no clamp of the noise; limits in spec units; the same noise on every action
    made = critic()
    still = torch.zeros(200, 4, 2)
    noisy = smoothed(made, still, 0.2, torch.Generator().manual_seed(0))
    assert float(noisy.abs().max()) == pytest.approx(0.5) and float(noisy.std()) == pytest.approx(0.2, abs=0.01)
    assert noisy.flatten().unique().numel() > 1000
    at_limit = made.actions.normalize(torch.from_numpy(SPEC.high)).expand(200, 4, 2)
    spread = made.actions.unnormalize(smoothed(made, at_limit, 0.2, torch.Generator().manual_seed(0)))
    assert (spread <= torch.from_numpy(SPEC.high) * (1 + 1e-6)).all() and (spread < torch.from_numpy(SPEC.high)).any()


@settings(max_examples=25, deadline=None)
@given(kappa=st.floats(0.1, 0.9), values=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=7))
def test_the_quantile_loss_is_least_at_the_quantile(kappa, values):
    # mutation: slope of the other side; squared error
    q = torch.tensor(values, dtype=torch.float64)
    weight = torch.ones_like(q)

    def loss(v: float) -> float:
        return float(quantile_loss(q - v, kappa, weight))

    at_quantile = loss(sorted(values)[min(int(kappa * len(values)), len(values) - 1)])
    assert at_quantile == pytest.approx(
        min(map(loss, values)), abs=1e-12
    )  # least where a value is: it is piecewise linear


def test_a_quantile_does_not_mind_how_far_away_the_best_are():
    q, weight = torch.tensor([0.0, 1.0, 2.0]), torch.ones(3)
    grid = torch.linspace(-1, 60, 6101)

    def least(values: Tensor) -> float:
        return float(grid[torch.stack([quantile_loss(values - v, 0.5, weight) for v in grid]).argmin()])

    far = torch.tensor([0.0, 1.0, 50.0])
    assert least(q) == pytest.approx(least(far), abs=0.02) == pytest.approx(1.0, abs=0.02)
