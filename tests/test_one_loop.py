"""Equal seeds and observations give equal bits: in simulation, over ROS topics in lock-step, from the recording."""

import sys
from pathlib import Path

import numpy as np
import pytest
from recorded import make_decision

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bench():
    pytest.importorskip("rclpy")
    sys.path.append(str(ROOT / "benchmarks"))
    import bench_one_loop

    return bench_one_loop


def test_three_ways_through_one_loop_decide_the_same_bits(bench, tmp_path):
    # mutation: the episode's counter as key of the randomness; a history that forgets a frame; images one step late
    report = bench.compare(tmp_path, episodes=2, steps=20, humans=[1])
    assert report["unequal"] == []
    assert report["decisions"] >= 8 and report["steps"] == 40
    assert report["episodes_with_interventions"] == 1 and report["human_steps"] == bench.OWNED


def test_a_single_bit_is_noticed(bench):
    # mutation: allclose
    from dataclasses import replace

    decision = make_decision(np.random.default_rng(0), 3)
    bits = decision.candidates.copy().view(np.uint32)
    bits.flat[5] ^= 1
    other = replace(decision, candidates=bits.view(np.float32))
    assert bench.lines_that_differ([decision], [decision]) == []
    assert len(bench.lines_that_differ([decision], [other])) == 1
    assert bench.lines_that_differ([decision], []) == ["1 decisions, now 0"]
