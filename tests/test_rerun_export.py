"""Rerun files of a replay, checked by Rerun's own tool."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from replayed import synthetic
from test_replay_page import report_of

from robot_value.episodes.findings import Finding
from robot_value.replay.rerun_export import worth_a_look, write_rrd


def printed(path) -> str:
    command = [sys.executable, "-m", "rerun", "rrd", "print", "-v", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_chosen_episode_becomes_a_file_with_everything_the_page_shows(tmp_path):
    # mutation: the first episode whatever was asked for; one camera frame for all steps
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (pip install 'robot_value[rerun]')")
    report = report_of(synthetic(episodes=2), cameras=("front",))
    (path,) = write_rrd(tmp_path, report, [1])
    said = printed(path)
    assert path.name == "episode_000001.rrd" and '"episode_0001"' in said
    for entity in ("/states", "/actions", "/rewards", "/values/main", "/decisions", "/cameras/front"):
        assert entity in said


def test_what_warnings_name_is_worth_a_look_first_then_what_steering_would_change_most():
    # mutation: detours first; a finding about the whole log counts for every episode
    replayed = synthetic(episodes=4)
    moved = (
        replayed.logged + np.where(replayed.episode == 2, 0.5, replayed.episode / 100)[:, None, None] * replayed.span
    )
    name = [episode.name for episode in replayed.episodes]
    findings = [Finding("x", "y", (name[1], name[0])), Finding("x", "y", (name[0], "gone")), Finding("x", "y")]
    report = report_of(replace(replayed, chosen=moved.astype(np.float32)), findings=findings)
    assert worth_a_look(report, 9) == [0, 1, 2, 3] and worth_a_look(report, 2) == [0, 1]
    assert worth_a_look(replace(report, findings=()), 2) == [2, 3]


def test_without_rerun_it_says_what_to_install(tmp_path, monkeypatch):
    # mutation: the bare ModuleNotFoundError
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ImportError, match=r"pip install 'robot_value\[rerun\]'"):
        write_rrd(tmp_path, report_of(synthetic(episodes=1)))
