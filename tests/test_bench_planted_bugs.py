"""The planted-bug benchmark's books: what is planted, and how a cell is counted."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from recorded import make_episode, make_spec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_planted_bugs as bench
from bench_planted_bugs import CLEAN, FROZEN, LABELS, Cell, again, cell, judged, planting, summary, table
from planted_bugs import BUGS, MemoryLog, frozen_camera, plant
from planted_logs import LOGS, Log, Size

from robot_value.episodes.findings import Finding
from robot_value.replay.check_motion import Response, _everywhere
from robot_value.replay.survey import survey

SPEC = replace(make_spec(cameras=("front",)), state_names=("joint_0", "joint_0_velocity", "joint_1"))
LOG = MemoryLog(SPEC, {f"e{i:02d}": make_episode(SPEC, 12, seed=i, success=i % 2 == 0) for i in range(40)})


def planted(bug: str, seed: int = 0):
    rng = np.random.default_rng(seed)
    made = (BUGS | {"camera": frozen_camera})[bug](LOG, rng)
    return plant(LOG, made, rng)


def test_every_bug_changes_its_share_of_the_episodes_and_no_other():
    for bug in (*BUGS, "camera"):
        log, names = planted(bug)
        changed = {
            name
            for name, e in log.episodes.items()
            if not np.array_equal(e.actions, (was := LOG.read(name)).actions)
            or not np.array_equal(e.states, was.states)
            or not np.array_equal(e.images["front"], was.images["front"])
            or e.success != was.success
        }
        assert changed == names and len(names) == (40 if "everywhere" in bug else 2), bug


def test_a_swapped_label_contradicts_neither_reward_nor_ending():
    log, names = planted("labels swapped")
    last = {ok: np.median([e.rewards[-1] for e in LOG.episodes.values() if e.success == ok]) for ok in (True, False)}
    for name in names:
        episode = log.read(name)
        assert episode.terminated == episode.success != episode.truncated
        assert episode.rewards[-1] == np.float32(last[episode.success])


def test_a_late_action_is_the_one_of_a_step_before():
    log, names = planted("late in some")
    for name in names:
        np.testing.assert_array_equal(log.read(name).actions[1:], LOG.read(name).actions[:-1])


def test_the_same_seed_plants_the_same():
    assert planted("action sign", 3)[1] == planted("action sign", 3)[1] != planted("action sign", 4)[1]


def test_a_cell_counts_only_the_warning_that_should_come_and_keeps_the_others_apart():
    found = [
        Finding("actions are one step late", "", ("a", "b", "x")),
        Finding("1 episode with the content of another", "", ("c",)),
    ]
    counted = cell("lift", "late in some", 0, found, list("abcx"), {"a", "b", "c"}, "actions are one step")
    assert (counted.found, counted.false, counted.missed, counted.episodes) == (2, 1, 1, 4)
    assert counted.others == ["1 episode with the content of another (1 named)"]


def test_a_bug_in_the_whole_log_is_one_warning_and_one_about_some_episodes_is_none():
    whole = cell("lift", "late everywhere", 0, [Finding("late in the whole log", "")], ["a", "b"], {"a", "b"}, "late")
    some = cell("lift", "late everywhere", 0, [Finding("late", "", ("a",))], ["a", "b"], {"a", "b"}, "late")
    assert (whole.found, whole.false, whole.missed) == (1, 0, 0)
    assert (some.found, some.false, some.missed) == (0, 0, 1)  # mutation: named episodes counted


def test_a_warning_of_the_opposite_shift_does_not_count():
    said = {onset: next(_everywhere(Response(np.zeros(0), np.zeros(0), onset))).what for onset in (-1, 1, 3)}
    late, early = (BUGS[f"{word} everywhere"](LOG, np.random.default_rng(0)).what for word in ("late", "early"))
    assert [late in said[onset] for onset in (-1, 1, 3)] == [True, False, False]  # mutation: "late" alone
    assert [early in said[onset] for onset in (-1, 1, 3)] == [False, True, True]


def test_a_row_has_precision_and_recall_over_all_seeds_and_fails_below_what_is_asked():
    cells = [
        cell("lift_joint", "action sign", seed, [Finding("action x", "", names)], list("abc"), {"a", "b"}, "action")
        for seed, names in enumerate([("a", "b"), ("a", "c")])
    ]
    (row,) = summary(cells)
    assert row["held_out"] and row["precision"]["mean"] == row["recall"]["mean"] == 0.75 and not row["passed"]
    assert "0.75" in table([row]) and "MISSED" in table([row])


def test_warnings_of_a_clean_log_are_counted_per_hundred_episodes():
    def clean(warnings: int):
        found = [Finding(f"w{i}", "") for i in range(warnings)]
        (row,) = summary([cell("can", CLEAN, 0, found, [str(i) for i in range(200)], set())])
        return row["per_100"], row["passed"]

    assert clean(2) == (1.0, True) and clean(3) == (1.5, False)  # mutation: no `what` matches everything


def test_the_survey_of_a_spoiled_log_is_what_a_whole_new_one_would_be():
    log, names = planted("camera")
    quick, whole = again(survey(LOG), log, names), survey(log)
    assert quick.frames == whole.frames
    assert [t.name for t in quick.traces] == [t.name for t in whole.traces]
    log, names = planted("action sign")
    for ours, theirs in zip(again(survey(LOG), log, names).traces, survey(log).traces, strict=True):
        np.testing.assert_array_equal(ours.actions, theirs.actions)  # mutation: the clean one wins


def test_a_judged_cell_is_not_judged_again_and_another_detector_judges_anew(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "read", lambda log, root: LOG)
    monkeypatch.setattr(bench, "of_data", lambda *a: asked.append(a[-2:]) or Cell("x", a[-2], a[-1], 40, 1, 0, 0, []))
    log, size = Log("x", LOGS[0].robot, 8), Size(seeds=1)
    first = judged(log, tmp_path, size)
    assert judged(log, tmp_path, size) == first and len(asked) == len(first) == 1 + len(BUGS)
    monkeypatch.setattr(bench, "detectors", lambda: ["other"])
    judged(log, tmp_path, size)
    assert len(asked) == 2 * len(first)  # mutation: the key without the detectors


def test_no_held_out_log_is_a_development_log():
    def made_of(held_out):
        return {(log.robot.values["task"], log.first_seed) for log in LOGS if log.held_out == held_out}

    assert not made_of(True) & made_of(False)
    assert {log.pictures for log in LOGS if log.held_out} == {True, False}


def test_labels_are_swapped_only_where_both_are_known_and_cameras_frozen_only_where_there_are_some():
    planted = {log.name: {bug for bug, _ in planting(log, Size(critics=0))} for log in LOGS}
    assert LABELS not in planted["scene-task1"] and LABELS in planted["puzzle-3x3-task1"]  # mutation: `or` for `and`
    assert [name for name, bugs in planted.items() if FROZEN in bugs] == [log.name for log in LOGS if log.pictures]
