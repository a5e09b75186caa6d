"""The books of the sampling benchmark: ratios per sample, readers that read the same windows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_sampling as bench
from blocks import Arm

from robot_value.episodes.cache import open_cache


@pytest.fixture
def store(tmp_path, monkeypatch):
    for name, value in {"STEPS": 20, "SIZE": 8, "BATCH": 8, "PER_SAMPLE": 4}.items():
        monkeypatch.setattr(bench, name, value)
    return bench.record(tmp_path / "store", episodes=6, images=True)


def arm(seconds: float, clean: int = 5) -> Arm:
    return Arm(lambda: None, clean=[seconds] * clean, disturbed=[seconds] * (5 - clean))


def test_a_ratio_is_of_samples_per_second_whatever_a_call_reads():
    # mutation: seconds per call compared
    arms = {"index_select": arm(1.0), "sampler": arm(2.0), "windows": arm(1.0), "zarr": arm(4.0)}
    row = bench.row("x", arms, {"index_select": 256, "sampler": 256, "windows": 256, "zarr": 16})
    assert row["ratio"] == row["ratio_low"] == 0.5 and row["ratios"]["zarr"][0] == pytest.approx(1 / 64)
    assert row["trusted"] and not bench.row("x", arms | {"sampler": arm(2.0, 4)}, dict.fromkeys(arms, 1))["trusted"]


def test_zarr_tensorstore_and_h5py_read_the_same_windows(store, tmp_path):
    # mutation: another order of keys or another step in one of them
    pytest.importorskip("tensorstore")
    readers = (bench.zarr_reader(store), bench.tensorstore_reader(store), bench.h5py_reader(store, tmp_path / "x.hdf5"))
    samples = [[array for sample in read() for array in sample] for read in readers]
    for arrays in zip(*samples, strict=True):
        assert all(np.array_equal(arrays[0], other) for other in arrays[1:])


def test_the_baseline_gathers_what_the_sampler_draws(store):
    # mutation: row numbers of another seed; frames counted like steps
    cache = open_cache(store, progress=False)
    ram = bench.in_ram(cache)
    batch = bench.ChunkSampler(cache, bench.HORIZON, batch_size=bench.BATCH).sample()
    state, after, chunks, image, image_after = bench.gather_windows(cache, *ram)()
    assert np.array_equal(state, batch.observation.state[:, 0])
    assert np.array_equal(after, batch.next[bench.HORIZON].state[:, 0])
    assert np.array_equal(chunks.view(batch.chunks.shape), batch.chunks)
    assert np.array_equal(image, batch.observation.images["front"][:, 0])
    assert np.array_equal(image_after, batch.next[bench.HORIZON].images["front"][:, 0])


def test_the_pool_is_charged_for_its_decoding(store):
    # mutation: a budget that holds everything; the decoder left running behind
    call, batches = bench.pool_reader(store)
    call()
    assert 1 <= batches < len(store) * 20 // bench.BATCH
