"""What learning beside the robot costs: whose seconds are whose."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from online_fakes import Here
from test_bench_online import BY_NAME, TINY, Points

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_online_overhead as bench
import online_cells
from bench_online_overhead import Measured, figures
from online_cells import Cell

from robot_value.online.backends import Local


def test_each_round_is_made_once_beside_the_robot_and_once_alone(tmp_path, monkeypatch):
    # mutations: no `lap`: the time alone counts as bookkeeping; more updates alone than beside
    monkeypatch.setattr(online_cells, "about", lambda scenario: {"made": scenario.made})
    cell = Cell(Points("points", episodes=8), BY_NAME["iql_average"], 0, replace(TINY, evaluate_every=0), tmp_path)
    job = bench.online_job(cell, *bench.offline(cell))
    asked = []

    def half_a_second(call, times):
        asked.append(times)
        call()
        time.sleep(0.5)
        return 0.5

    monkeypatch.setattr(bench, "timed", half_a_second)
    rounds = bench.play(job, Local(Here()), 3)
    assert len(rounds) == 3 and asked == [each.updates for each in rounds] and min(asked) >= 1
    assert all(each.alone == 0.5 and each.books < 0.4 and 0 < each.beside <= each.wall for each in rounds)


def measured(**values):
    return Measured(
        **{"updates": 10, "beside": 1.0, "alone": 0.95, "overlapped": 0.8, "wall": 2.0, "books": 0.1} | values
    )


def test_the_verdict_asks_for_speed_books_and_cores():
    # mutation: beside over alone; any goal left out
    good = figures([measured(cores=1.8)] * 5, quick=False)
    assert good["passed"] and good["speed"]["of_alone"] == 0.95 and good["bookkeeping"]["share"] == pytest.approx(0.05)
    assert good["updates_per_second"] == {"beside": 10.0, "alone": 10 / 0.95} and good["overlapped"] == 0.8
    for bad in ({"alone": 0.8}, {"books": 0.3}, {"cores": 1.0}):
        assert figures([measured(**{"cores": 1.8} | bad)] * 5, quick=False)["passed"] is False
    assert figures([measured(cores=1.0)], quick=True)["passed"] is None
    assert bench.said(good).startswith("PASS: the learner at 0.95")


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(SystemExit, match="algorithm"):
        bench.parse(["--arm=nothing"])
    options = bench.parse(["--rounds=1000"])
    assert options.rounds == 39
