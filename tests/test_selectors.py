"""What each selector picks, against closed forms and brute force."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import candidates, situation
from fakes import point_spec
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robot_value import components
from robot_value.steering.rotations import to_rotations
from robot_value.steering.selection import draw, softmax
from robot_value.steering.selectors.medoid import distances
from robot_value.types import ActionPart, Scores, Spec

SPEC = point_spec(horizon=4)
BAD = (math.nan, math.inf, -math.inf)


def selector(name: str, **options):
    return components.load("selectors", name).Config(**options).build()


def scores(values) -> Scores:
    value = torch.tensor(values, dtype=torch.float32)
    return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))


def choose(name: str, values, chunks=None, finite=None, spec=SPEC, seed=0, **options):
    given = scores(values)
    if chunks is None:
        chunks = candidates(SPEC, *given.value.shape, seed=1)[0]
    finite = torch.ones_like(given.scored) if finite is None else torch.tensor(finite)
    return selector(name, **options)(chunks, given, situation(spec, finite, seed)), chunks


def test_argmax_takes_the_best_and_argmin_the_worst_and_ties_go_to_the_lowest_index():
    values = [[1.0, 3.0, 3.0, 0.0, 0.0]]  # mutation: argmax over value.flip(1) picks 2 and 4
    assert choose("argmax", values)[0].index.item() == 1
    assert choose("argmin", values)[0].index.item() == 3


def test_first_is_the_lowest_finite_candidate_whatever_the_scores_say():
    assert choose("first", [[0.0, 9.0, 9.0]])[0].index.item() == 0
    assert choose("first", [[0.0, 9.0, 9.0]], finite=[[False, True, True]])[0].index.item() == 1


def test_random_is_uniform_over_the_finite_candidates_and_keyed():
    finite = [[True, False, True, True]] * 3000
    selection, _ = choose("random", [[0.0] * 4] * 3000, finite=finite)
    counts = torch.bincount(selection.index, minlength=4)
    assert counts[1] == 0 and (counts[[0, 2, 3]] - 1000).abs().max() < 100  # 4 standard deviations
    again, _ = choose("random", [[0.0] * 4] * 3000, finite=finite)
    other, _ = choose("random", [[0.0] * 4] * 3000, finite=finite, seed=1)
    assert selection.index.equal(again.index) and not selection.index.equal(other.index)


def test_mean_is_the_plain_average_of_the_finite_candidates():
    selection, chunks = choose("mean", [[0.0] * 3], finite=[[True, False, True]])
    assert selection.index.item() == -1
    torch.testing.assert_close(selection.chunk[0], (chunks[0, 0] + chunks[0, 2]) / 2)


def test_medoid_is_the_candidate_nearest_to_all_others_by_brute_force():
    chunks, _, at = candidates(SPEC, 6, 5, seed=2)
    selection = selector("medoid")(chunks, scores(np.zeros((6, 5))), at)
    span, k = SPEC.high - SPEC.low, at.execute
    for row, mine in enumerate(chunks.numpy() / span):
        totals = [sum(np.linalg.norm((a - b)[:k]) for b in mine) for a in mine]
        assert selection.index[row] == np.argmin(totals)


def test_medoid_looks_at_executed_steps_only_and_measures_in_units_of_the_limits():
    wide = ActionPart("far", 0, 1, "joint", "rad", (-100.0,), (100.0,))
    fine = ActionPart("near", 1, 2, "joint", "rad", (-0.1,), (0.1,))
    spec = Spec((wide, fine), ("q",), ("rad",), dt=0.1, horizon=2, n_obs_steps=1)
    first_step = torch.tensor([[0.0, 0.1], [9.0, 0.0], [10.0, 0.0], [1.0, -0.1], [2.0, 0.1]])
    second_step = torch.tensor([[50.0, 0.0], [-50.0, 0.0], [50.0, 0.0], [50.0, 0.0], [50.0, 0.0]])
    at = situation(spec, torch.ones(1, 5, dtype=torch.bool))
    assert at.execute == 1
    pairs = first_step.numpy() / (spec.high - spec.low)
    brute = [sum(np.linalg.norm(a - b) for b in pairs) for a in pairs]
    # mutation: without the division candidate 4 (the median of the wide dim) wins; with the second step candidate 2
    selection = selector("medoid")(torch.stack([first_step, second_step], 1)[None], scores([[0.0] * 5]), at)
    assert selection.index.item() == int(np.argmin(brute)) == 1


def test_two_candidates_are_equally_central_so_that_medoid_takes_the_first():
    chunks = candidates(SPEC, 50, 2, seed=3)[0]
    at = situation(SPEC, torch.ones(50, 2, dtype=torch.bool))
    assert not selector("medoid")(chunks, scores(np.zeros((50, 2))), at).index.any()
    d = distances(chunks, at)
    assert d.equal(d.mT) and not d.diagonal(dim1=1, dim2=2).any()


def test_softmax_weights_are_the_closed_form():
    value = torch.tensor([[1.0, 2.0, 6.0]])
    z = (value.double() - 3) / value.double().std(correction=0)
    expected = torch.exp(z / 0.5) / torch.exp(z / 0.5).sum()
    torch.testing.assert_close(softmax(value, torch.ones(1, 3, dtype=torch.bool), 0.5), expected)


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=8),
    st.floats(0.125, 100, width=32),
    st.floats(-1000, 1000, width=32),
)
def test_softmax_weights_do_not_depend_on_the_values_unit_or_offset(values, scale, offset):
    # mutation: dividing by the temperature without the deviation makes the weights depend on `scale`
    value = torch.tensor([values], dtype=torch.float64)
    usable = torch.ones(1, len(values), dtype=torch.bool)
    moved = value * scale + offset
    if moved.std() < 1e-3 * moved.abs().max() or value.std() < 1e-3 * value.abs().max():
        return  # near-ties may count as ties on one side only
    torch.testing.assert_close(softmax(value, usable, 0.5), softmax(moved, usable, 0.5), rtol=1e-6, atol=1e-9)


def test_equal_values_get_equal_weights_even_where_float32_rounding_tells_them_apart():
    value = torch.tensor([[100.0, 100.00001, 99.99999]])
    assert softmax(value, torch.ones(1, 3, dtype=torch.bool), 0.5)[0].tolist() == pytest.approx([1 / 3] * 3)


def test_softmax_draws_each_candidate_as_often_as_its_weight_says():
    weights = torch.tensor([[0.1, 0.0, 0.6, 0.3]], dtype=torch.float64).expand(4000, -1)
    index = draw(weights, situation(SPEC, torch.ones(4000, 4, dtype=torch.bool)).generators)
    frequency = torch.bincount(index, minlength=4) / 4000
    assert frequency[1] == 0 and (frequency - weights[0]).abs().max() < 0.03


def test_softmax_draws_from_the_softmax_of_its_values():
    selection, _ = choose("softmax", [[0.0, 1.0, 5.0]] * 2000)
    frequency = torch.bincount(selection.index, minlength=3) / 2000
    assert (frequency - selection.weights[0]).abs().max() < 0.04


def test_softmax_average_is_the_weighted_mean_chunk():
    values = [[0.0, 1.0, 5.0]]
    selection, chunks = choose("softmax_average", values)
    weights = softmax(torch.tensor(values), torch.ones(1, 3, dtype=torch.bool), 0.5)
    brute = sum(float(w) * chunk for w, chunk in zip(weights[0], chunks[0], strict=True))
    torch.testing.assert_close(selection.chunk[0], brute)
    torch.testing.assert_close(selection.weights, weights.float())


def test_softmax_average_lies_between_argmax_and_mean():
    values = [[0.0, 1.0, 5.0]]
    cold, hot = (choose("softmax_average", values, temperature=t)[0].chunk for t in (1e-3, 1e6))
    torch.testing.assert_close(cold, choose("argmax", values)[0].chunk)
    torch.testing.assert_close(hot, choose("mean", values)[0].chunk, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["softmax", "softmax_average"])
def test_a_temperature_that_means_nothing_is_refused(name, temperature):
    with pytest.raises(ValueError, match="temperature: expected a finite number above 0"):
        selector(name, temperature=temperature)


@pytest.mark.parametrize("name", components.names("selectors"))
@pytest.mark.parametrize("where", ["chunk", "value", "spread"])
@pytest.mark.parametrize("bad", BAD)
def test_a_non_finite_number_anywhere_keeps_its_candidate_out(name, where, bad):
    # mutation: leaving `& scores.value.isfinite()` out of `scored` lets a NaN value win argmax
    built = selector(name)
    for keep in range(3):  # every candidate but `keep` is broken
        chunks, given, _ = candidates(SPEC, 1, 3, seed=keep)
        broken = [i for i in range(3) if i != keep]
        finite = torch.ones(1, 3, dtype=torch.bool)
        if where == "chunk":
            chunks[0, broken, 0, 0] = bad
            finite[0, broken] = False
        else:
            getattr(given, where)[0, broken] = bad
        given = replace(given, scored=torch.ones_like(finite))
        selection = built(chunks, given, situation(SPEC, finite))
        if where == "chunk" or built.uses_critic:
            torch.testing.assert_close(selection.chunk[0], chunks[0, keep])
            assert selection.index.item() in (keep, -1) and selection.weights[0, keep] == 1


def test_an_unscored_candidate_cannot_win_by_score():
    given = Scores(torch.tensor([[1.0, 9.0]]), torch.zeros(1, 2), torch.tensor([[True, False]]))
    chunks, _, _ = candidates(SPEC, 1, 2, seed=0)
    assert selector("argmax")(chunks, given, situation(SPEC, given.scored | True)).index.item() == 0


# Rotations in averages

QUATERNION = ActionPart("pose", 0, 7, "pose", "m+rad", (-1.0,) * 7, (1.0,) * 7, rotation="quaternion")
SIX = ActionPart("turn", 7, 13, "rotation", "1", (-1.0,) * 6, (1.0,) * 6, rotation="6d")
TURNS = Spec((QUATERNION, SIX), ("x",), ("m",), dt=0.1, horizon=2, n_obs_steps=1)


def turn_chunks(rotations: list[Rotation], signs: list[int]) -> torch.Tensor:
    rows = []
    for rotation, sign in zip(rotations, signs, strict=True):
        matrix = rotation.as_matrix()
        rows.append(np.concatenate([[0.1, 0.2, 0.3], sign * rotation.as_quat(), matrix[:, 0], matrix[:, 1]]))
    return torch.tensor(np.array(rows), dtype=torch.float32)[None, :, None].expand(1, -1, 2, -1).contiguous()


@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=2)))
def test_the_average_of_two_rotations_is_the_rotation_half_way_whatever_the_quaternions_signs(signs):
    # mutation: without align_signs, opposite signs average to a rotation 90 degrees away
    a, b = Rotation.from_euler("z", 10, degrees=True), Rotation.from_euler("z", 50, degrees=True)
    selection, _ = choose("mean", [[0.0, 0.0]], chunks=turn_chunks([a, b], list(signs)), spec=TURNS)
    expected, step = Rotation.from_euler("z", 30, degrees=True), selection.chunk[0, 0].numpy()
    assert (Rotation.from_quat(step[3:7]).inv() * expected).magnitude() < 1e-6
    assert np.linalg.norm(step[3:7]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(step[7:], expected.as_matrix()[:, :2].T.ravel(), atol=1e-6)
    np.testing.assert_allclose(step[:3], [0.1, 0.2, 0.3], atol=1e-6)


def test_medoid_knows_that_q_and_minus_q_are_one_rotation():
    a, b, c = (Rotation.from_euler("z", angle, degrees=True) for angle in (0, 5, 60))
    selection, _ = choose("medoid", [[0.0] * 3], chunks=turn_chunks([a, b, c], [1, -1, 1]), spec=TURNS)
    assert selection.index.item() == 1


@example([0.6875, 0.671875, 0.67578125, 0.6875, 0.6875, 0.6875])  # 1e-5 off
@given(st.lists(st.floats(-1, 1, width=32), min_size=6, max_size=6))
def test_six_numbers_become_orthonormal_columns(numbers):
    # mutation: leaving the projection out of _gram_schmidt breaks orthogonality
    a, b = np.array(numbers[:3]), np.array(numbers[3:])
    if (apart := np.linalg.norm(np.cross(a, b))) < 1e-2:
        return  # no rotation is meant by parallel or vanishing columns
    rounding = 1e-6 * np.linalg.norm(a) * np.linalg.norm(b) / apart  # of float32; more where they are nearly parallel
    row = torch.cat([torch.zeros(3), torch.tensor([0.0, 0, 0, 1]), torch.tensor(numbers)])[None]
    first, second = to_rotations(row, TURNS)[0, 7:].view(2, 3)
    assert abs(float(first @ second)) < 1e-6 + rounding
    assert float(first.norm()) == pytest.approx(1, abs=1e-5) and float(second.norm()) == pytest.approx(1, abs=1e-5)
