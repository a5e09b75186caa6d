"""The replay benchmark's books: what counts as the models', and a set of the shape it says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from replayed import synthetic

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_replay as bench


def test_what_no_network_did_is_not_the_models():
    # mutation: selecting counts as a model's; reading is left out because no stage names it
    seconds = {"encode": 1.0, "sample": 4.0, "score": 1.0, "score all": 2.0, "select": 0.5, "total": 10.0}
    found = bench.stages(replace(synthetic(episodes=3), seconds=seconds))
    assert found["not_the_models"] == pytest.approx(0.2) and found["seconds"] == 10.0
    assert found["stages"]["reading and the rest"] == pytest.approx(1.5)


def test_the_set_has_the_shape_of_lift_and_both_outcomes(tmp_path):
    # mutation: every episode succeeds
    with bench.record(tmp_path / "store", 4) as store:
        episodes = [store.read(name) for name in store.names()]
    assert [e.success for e in episodes] == [False, True, False, True]
    assert [len(e) == bench.LIMIT for e in episodes] == [True, False, True, False]
    assert episodes[1].rewards[-1] == 1 and episodes[0].rewards.sum() == 0
    assert episodes[0].states.shape == (bench.LIMIT + 1, bench.STATE)


def test_the_job_takes_the_first_episodes_and_the_recommended_recipe(tmp_path):
    with bench.record(tmp_path / "store", 3):
        job = bench.job_of(tmp_path, 2, workers=0)
    assert len(job.names) == 2 and (job.arm.selector, job.arm.n) == ("softmax_average", 16)
