"""The planted-bug benchmark's books: what is planted, and how a cell is counted."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from recorded import make_episode, make_spec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from bench_planted_bugs import cell, summary, table
from planted_bugs import BUGS, MemoryLog, frozen_camera, plant

from robot_value.episodes.findings import Finding

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
        Finding("critic shuffled explains 2 %", ""),
        Finding("3 episodes are copies of others", "", ("c",)),
    ]
    counted = cell("lift", "late in some", 0, found, {"a", "b", "c"}, "actions are one step")
    assert (counted.found, counted.false, counted.missed) == (2, 1, 1)
    assert counted.critics == ("shuffled",) and counted.others == ("3 episodes are copies of others",)


def test_a_warning_about_the_whole_log_finds_all_and_one_about_some_does_not():
    whole = cell("lift", "late everywhere", 0, [Finding("late in the whole log", "")], {"a", "b"}, "late")
    some = cell("lift", "late everywhere", 0, [Finding("late", "", ("a",))], {"a", "b"}, "late")
    assert (whole.found, whole.missed, some.found, some.missed) == (2, 0, 1, 1)


def test_the_table_has_precision_and_recall_over_all_seeds():
    cells = [
        cell("stack", "action sign", seed, [Finding("action x", "", names)], {"a", "b"}, "action")
        for seed, names in enumerate([("a", "b"), ("a", "c")])
    ]
    (row,) = summary(cells)
    assert row["held_out"] and row["precision"][0] == row["recall"][0] == 0.75
    assert "0.75" in table([row])
