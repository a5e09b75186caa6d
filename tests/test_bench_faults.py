"""How the fault matrix is booked: what was not seen is neither survived nor failed, and no failure is forgotten."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_faults
from faults_case import Disturbed, NotSurvived


@dataclass
class Case:
    """A case whose trials end as told: "" survived, else why not; None: the machine spoiled it."""

    ends: list[str | None]
    id: str = "F23"
    part: str = "contracts"
    fault: str = ""
    expected: str = ""
    control: str = ""
    rig: str = ""
    unprotected: str = ""
    bound_ms: float | None = None
    spoils: bool = False

    def trial(self, rig: Any, rng: Any) -> None:
        end = self.ends.pop(0)
        if end is None:
            raise Disturbed("the harness stalled")
        if end:
            raise NotSurvived(end)


class Rig:
    def begin(self) -> None: ...
    def judge(self) -> None: ...


class Rigs:
    def get(self, case: Any, unprotected: str) -> Rig:
        return Rig()

    def drop(self, rig: Any) -> None: ...


def played(*ends: str | None, trials: int) -> dict[str, Any]:
    return bench_faults.play(Case(list(ends)), Rigs(), trials, 0)


def test_what_the_machine_spoils_every_time_was_not_seen_and_the_case_is_not_done(tmp_path):
    # mutation: count it as a failure, or as survived
    row = played("", *[None] * (1 + bench_faults.AGAIN), None, "", trials=3)
    assert (row["trials"], row["passes"], row["not_seen"], row["failures"]) == (2, 2, 1, [])
    assert row["repeats"] == bench_faults.AGAIN + 1
    assert not bench_faults.passed({**row, "control_fails": True}) and "2/2 (1 not seen)" in bench_faults.line(row)
    book = bench_faults.Book(tmp_path / "faults.json", ["x"], ())
    book.add(row)
    assert not book.played(Case([]), 3) and book.played(Case([]), 2)


def test_a_failure_stays_in_the_row_when_the_case_is_played_again(tmp_path):
    # mutation: replace the row
    path = tmp_path / "faults.json"
    for ends in (("", "an old plan was followed"), ("late", ""), ("", "")):
        book = bench_faults.Book(path, ["x"], ())
        book.add(played(*ends, trials=2))
    book.add({**book.row(Case([])), "control_fails": True})
    (row,) = json.loads(path.read_text())["faults"]
    assert row["passes"] == 2 and row["control_fails"] is True
    assert [(each["passes"], each["failures"]) for each in row["earlier"]] == [
        (1, ["an old plan was followed"]),
        (1, ["late"]),
    ]


# mutation: Rig.stalled asks the states alone.
def test_a_stop_proves_nothing_where_nobody_could_run():
    pytest.importorskip("rclpy")
    from faults_rig import Rig as Whole

    rig, gap, still = object.__new__(Whole), 10_000_000, False
    rig.states = SimpleNamespace(longest_gap=lambda since: gap)
    rig.sleepers = SimpleNamespace(stood_still=lambda spans: np.array([still]))
    assert rig.stalled(0) == ""
    rig.by = lambda source, since: []
    rig.undisturbed(0)
    rig.by = lambda source, since: [SimpleNamespace(ns=5_000_000)]
    rig.state, rig.said = "HOLD", {}
    gap = 60_000_000
    assert "stalled for 60 ms" in rig.stalled(0)
    gap, still = 10_000_000, True
    with pytest.raises(Disturbed, match="only sleeps"):
        rig.undisturbed(0)
