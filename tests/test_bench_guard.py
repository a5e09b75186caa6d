"""The guard's benchmark: its random streams find nothing in the guard, and find what is taken away from it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bare_sleepers
import guard_properties
import guard_reactions

from robot_value import braking, wire
from robot_value.safety import Limits


def test_a_thousand_random_periods_break_no_limit_while_the_arm_really_moves():
    found = guard_properties.run(1000, seed=1)
    assert found["violations"] == 0 and found["commands"] > 900 and found["moving"] > 200


# mutation: in guard_properties.judge leave out the jerk.
def test_without_one_of_its_checks_the_same_streams_find_violations():
    def careless(self, position, v, braking_step, wanted, dims):
        return wanted[dims]

    with patch.object(braking.Brakes, "_safe", careless):
        assert guard_properties.run(1000, seed=1)["violations"] > 0
    with patch.object(braking, "_brake", lambda v, a, most: -np.copysign(np.minimum(np.abs(v), most), v)):
        assert guard_properties.run(500, seed=1)["violations"] > 0


def test_the_judge_names_the_first_command_beyond_each_limit():
    limits = Limits([-1.0], [1.0], [1.0], [5.0], [100.0])
    for path, first in (
        ([[0.0], [0.0], [1.1]], 2),
        ([[0.0], [np.nan]], 0),
        ([[0.0], [0.0], [0.0], [0.0009]], 3),  # jerk: 0.0009 / 8e-6 = 112
        ([[0.0], [0.0007], [0.0021], [0.0035]], 1000),
    ):
        bad = guard_properties.judge(np.array(path), limits, 0.02) > 1e-6
        assert (int(bad.argmax()) if bad.any() else 1000) == first, path


def test_spans_that_touch_a_late_waking_of_any_core_are_those_at_which_the_machine_stood_still(tmp_path):
    # mutation: ask one core only; call every interval a late one
    class Idle:
        Process = Mock

    sleepers = bare_sleepers.BareSleepers(tmp_path, Idle, period=0.02)
    wakings = np.array([0, 20, 40, 60, 80, 100, 120, 140]) * 1_000_000
    for file in sleepers._files:
        file.write_bytes(wakings.tobytes() + b"half")
    sleepers._files[-1].write_bytes(np.delete(wakings, [3, 4]).tobytes())  # nothing from 40 to 100 ms
    spans = np.array([[0, 30], [30, 50], [95, 120], [100, 130]]) * 1_000_000
    assert sleepers.stood_still(spans).tolist() == [False, True, True, False]
    assert sleepers.intervals(0, 150_000_000).max() == pytest.approx(0.06)


def test_a_stop_is_the_first_after_the_last_word_of_the_victim_however_late_one_looks():
    # mutation: look at the last 200 commands only, as it once was: 4 s after the stop it would be 4 s late
    bench = object.__new__(guard_reactions.Bench)
    sources = [wire.STOP] * 5 + [wire.POLICY] * 50 + [wire.STOP] * 1000
    bench.abouts = [SimpleNamespace(start=20 * i, source=source) for i, source in enumerate(sources)]
    assert bench._first_stop(20 * 54) == 20 * 55 and bench._first_stop(0) == 20
