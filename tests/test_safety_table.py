"""The tables of docs/faults.md say what the result files say."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import safety_table

ROW = {"id": "F2", "part": "", "fault": "a frozen picture", "trials": 20, "passes": 19, "control_fails": True}
ROW |= {"p50_ms": 10.4, "p99_ms": 20.6, "max_ms": 21.0, "bound_ms": 40.0}
SPREAD = {"n": 300, "p50_ms": 1.0, "p99_ms": 65.2, "max_ms": 80.0, "beyond": 0.0123}
SUMMARY = {**SPREAD, "machine_stood_still": 0, "otherwise": SPREAD, "bare_sleeper": {**SPREAD, "beyond": 0.0045}}


def test_a_fault_that_was_not_survived_every_time_is_said_and_so_is_a_control_that_survived():
    # mutation: count passes instead of cases that passed every time, or a null control as one that fails
    faults = {"faults": [{**ROW, "id": "F10", "passes": 20, "control_fails": None, "p50_ms": None}, ROW]}
    lines = safety_table.cases(faults)[2:]
    assert lines[0] == "| F2 | a frozen picture | 19 of 20 | 10 / 21 / 21 | 40 | fails |"
    assert lines[1] == "| F10 | a frozen picture | 20 of 20 |  | 40 | not tried |"
    again = {**ROW, "passes": 18, "trials": 18, "not_seen": 2, "earlier": [{"trials": 20, "passes": 17}]}
    assert "| 18 of 18, 2 not seen; before 17 of 20 |" in safety_table.cases({"faults": [again]})[2]
    text = "\n".join(safety_table.goals({name: faults if name == "faults" else None for name in safety_table.FILES}))
    assert "1 of 2 cases in every trial" in text and "1 of 40 trials failed, at least 20 a case" in text
    assert "controls that fail, as they must | all | 1 of 1 tried, 2 cases" in text
    assert text.count("not run") == 4


def test_every_part_that_was_measured_has_a_row_and_parts_that_were_not_have_none():
    # mutation: the reactions of one load only, or a row for a part that is missing
    load = {"load": "idle", "state_source_killed": SUMMARY, "commands": {"n": 5000, "violations": 2}}
    guard = {"reactions": [load, {**load, "load": "both cores saturated", "interval": SUMMARY}]}
    found = {name: guard if name == "guard" else None for name in safety_table.FILES}
    text = "\n".join(safety_table.goals(found))
    assert text.count("p99 65 ms, longest 80 ms, n = 300") == 2 and "emergency stop to stop" not in text
    assert "intervals over 2 periods, both cores saturated" in text and "1.23% of 300, longest 80 ms" in text
    assert "a process that only sleeps |  | 0.45% of 300" in text and text.count("2 of 5,000") == 2


def test_what_was_seen_while_the_machine_stood_still_is_shown_beside_the_rest():
    # mutation: only the rest
    slow = {**SUMMARY, "max_ms": 430.0, "machine_stood_still": 4, "otherwise": {**SPREAD, "n": 296}}
    guard = {"reactions": [{"load": "idle", "emergency_stop": slow, "commands": {"n": 5000, "violations": 0}}]}
    text = "\n".join(safety_table.goals({name: guard if name == "guard" else None for name in safety_table.FILES}))
    assert "longest 430 ms, n = 300; without 4 while the machine stood still p99 65 ms, longest 80 ms, n = 296" in text
