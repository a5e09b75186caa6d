"""Statistics match numpy, the map is its own inverse, and nothing runs on data nobody measured."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robot_value.normalize import (
    MODES,
    SCALE_FLOOR,
    MissingStatistics,
    Normalizer,
    Statistics,
    fit_statistics,
)

tables = arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(-1e4, 1e4, width=32))


def same(a, b):
    return a.to_json() == b.to_json()


# mutation: in Statistics.fit leave out `delta**2 * (count * rows / total)` -> std of streams is wrong, this fails.
@settings(max_examples=100, deadline=None)
@given(tables, st.lists(st.integers(0, 30), max_size=3))
def test_statistics_of_a_stream_are_those_of_the_whole(data, cuts):
    pieces = np.split(data, sorted(min(cut, len(data)) for cut in cuts))
    got = Statistics.fit(iter(pieces))
    exact = data.astype(np.float64)
    np.testing.assert_allclose(got.mean, exact.mean(0), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got.std, exact.std(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(got.low, data.min(0))
    np.testing.assert_array_equal(got.high, data.max(0))
    assert got.count == len(data)


def test_memory_mapped_arrays_are_measured_block_by_block_over_all_leading_axes(tmp_path, monkeypatch):
    monkeypatch.setattr("robot_value.normalize._ROWS", 7)
    data = np.random.default_rng(0).normal(3, 2, (10, 5, 4)).astype(np.float32)
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=data.shape)
    mapped[:] = data
    statistics = fit_statistics({"state": mapped, "action": data[..., :2]})
    np.testing.assert_allclose(statistics["state"].mean, data.reshape(-1, 4).mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["state"].std, data.reshape(-1, 4).std(0), rtol=1e-5)
    assert statistics["action"].count == 50


# mutation: in Normalizer.unnormalize write `y * scale` -> this fails.
@settings(max_examples=100, deadline=None)
@given(tables, st.sampled_from(MODES), st.data())
def test_unnormalize_undoes_normalize_on_numpy_and_torch(data, mode, draw):
    normalizer = Normalizer.fit(data, mode)
    row = arrays(np.float32, (3, data.shape[1]), elements=st.floats(-1e4, 1e4, width=32))
    x = draw.draw(row)
    size = np.abs(x) + np.abs(normalizer.offset)
    for version in (x, x.astype(np.float64), torch.from_numpy(x.copy()), torch.from_numpy(x.astype(np.float64))):
        normal = normalizer.normalize(version)
        assert type(normal) is type(version) and normal.dtype == version.dtype
        back = np.asarray(normalizer.unnormalize(normal))
        assert (np.abs(back - x) <= 1e-6 * size + 1e-12).all()
    np.testing.assert_array_equal(normalizer.normalize(torch.from_numpy(x)).numpy(), normalizer.normalize(x))


# mutation: swap the offsets of the two modes -> this fails.
def test_mean_std_gives_zero_mean_unit_std_and_min_max_gives_minus_one_to_one():
    data = np.random.default_rng(0).uniform(-3, 7, (1000, 3)).astype(np.float32)
    z = Normalizer.fit(data, "mean_std").normalize(data)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-5)
    u = Normalizer.fit(data, "min_max").normalize(data)
    np.testing.assert_allclose(u.min(0), -1, atol=1e-6)
    np.testing.assert_allclose(u.max(0), 1, atol=1e-6)


# mutation: drop `np.maximum(scale, SCALE_FLOOR)` -> division by zero, this fails.
@pytest.mark.parametrize("mode", MODES)
def test_a_dim_that_never_moved_becomes_zero_and_is_restored(mode):
    data = np.float32([[5.0, 0.1], [5.0, 0.3], [5.0 + 1e-6, 0.2]])
    normalizer = Normalizer.fit(data, mode)
    normal = normalizer.normalize(data)
    assert normalizer.scale[0] == np.float32(SCALE_FLOOR) and np.abs(normal[:, 0]).max() < 0.02
    np.testing.assert_allclose(normalizer.unnormalize(normal), data, atol=1e-6)
    # a model that is off by one standard deviation there is off by the floor, no more
    assert abs(normalizer.unnormalize(np.float32([[1.0, 0.0]]))[0, 0] - 5.0) < 2 * SCALE_FLOOR


@pytest.mark.parametrize("mode", MODES)
def test_gradients_pass_through_even_after_a_first_use_in_inference_mode(mode):
    normalizer = Normalizer.fit(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), mode)
    with torch.inference_mode():
        normalizer.normalize(torch.zeros(2, 3))
    x = torch.randn(4, 3, requires_grad=True)
    normalizer.normalize(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.broadcast_to(1 / normalizer.scale, (4, 3)), rtol=1e-6)
    y = torch.randn(4, 3, requires_grad=True)
    copy.deepcopy(normalizer).unnormalize(y).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), np.broadcast_to(normalizer.scale, (4, 3)), rtol=1e-6)


# mutation: in Statistics.to_json round the lists to 7 digits -> this fails.
@settings(max_examples=100, deadline=None)
@given(tables, st.sampled_from(MODES))
def test_json_keeps_every_bit(data, mode):
    normalizer = Normalizer.fit(data, mode)
    back = Normalizer.from_json(json.loads(json.dumps(normalizer.to_json())))
    assert same(back.statistics, normalizer.statistics) and back.mode == mode
    for name in ("mean", "std", "low", "high"):
        a, b = getattr(back.statistics, name), getattr(normalizer.statistics, name)
        assert a.dtype == np.float32 and a.tobytes() == b.tobytes()


def test_whole_numbers_are_normalised_to_floats():
    normalizer = Normalizer.fit(np.arange(10).reshape(-1, 1))
    assert normalizer.normalize(np.array([[3]])).dtype.kind == "f"
    assert normalizer.normalize(torch.tensor([[3]])).dtype == torch.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_data_is_refused_naming_key_dim_and_row(bad):
    good, data = np.zeros((4, 3), np.float32), np.zeros((5, 3), np.float32)
    data[2, 1] = bad
    with pytest.raises(ValueError, match=rf"action: expected finite numbers, got {bad} in dim 1 of row 6; repair"):
        fit_statistics({"state": [good], "action": [good, data]})


def test_missing_unfitted_and_misshapen_statistics_are_refused():
    statistics = fit_statistics({"state": np.zeros((2, 3), np.float32)})
    with pytest.raises(MissingStatistics, match=r"expected key 'action', got \['state'\]"):
        Normalizer.of(statistics, "action")
    assert same(Normalizer.of(statistics, "state", "min_max").statistics, statistics["state"])
    with pytest.raises(MissingStatistics, match="expected fitted Statistics, got NoneType"):
        Normalizer(None)
    with pytest.raises(ValueError, match="expected one of mean_std, min_max, got 'standard'"):
        Normalizer(statistics["state"], "standard")
    with pytest.raises(ValueError, match=r"expected \[..., 3\], got \[5, 2\]"):
        Normalizer(statistics["state"]).normalize(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="expected at least one row to measure, got none"):
        Statistics.fit(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"data: expected \[..., 3\], got \[2, 2\]"):
        Statistics.fit([np.zeros((2, 3)), np.zeros((2, 2))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": [-1.0]}, "std >= 0"),
        ({"mean": [float("nan")]}, "mean: expected 1 finite numbers"),
        ({"low": [1.0], "high": [0.0]}, "low <= high"),
        ({"count": 0}, "count >= 1"),
        ({"high": [0.0, 1.0]}, "high: expected 1 finite numbers"),
        ({"median": [0.0]}, "expected keys"),
    ],
)
def test_statistics_that_cannot_be_true_are_refused(change, message):
    good = {"mean": [0.0], "std": [1.0], "low": [-1.0], "high": [1.0], "count": 2}
    assert same(Statistics.from_json(good), Statistics(**good))
    with pytest.raises(ValueError, match=message):
        Statistics.from_json(good | change)
    with pytest.raises(ValueError, match="got list"):
        Statistics.from_json([])
