"""Rerun files of a replay, read by Rerun's own reader."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from replayed import synthetic
from test_replay_page import report_of

from robot_value.episodes.findings import Finding
from robot_value.replay.rerun_export import decisions, worth_a_look, write_rrd


def test_a_chosen_episode_becomes_a_file_with_everything_the_page_shows(tmp_path):
    # mutation: the first episode whatever was asked for; one camera frame for all steps; rows of another episode
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (pip install 'robot_value[view]')")
    from display_scene import recorded, tensor

    report = report_of(synthetic(episodes=2), cameras=("front",))
    (path,) = write_rrd(tmp_path, report, [1])
    found, replayed, episode = recorded(path), report.replayed, report.log.read("episode_0001")
    rows, dt = replayed.rows(1), replayed.spec.dt
    steps = replayed.step[rows].tolist()
    assert path.name == "episode_000001.rrd" and len(steps) > 3

    def at(t, *episode):
        return (t, *episode, round(t * dt * 1e9))

    for t, state in enumerate(episode.states):
        np.testing.assert_array_equal(found["/states"][at(t)]["scalars"], state)
    for t, action in enumerate(episode.actions):
        np.testing.assert_array_equal(found["/actions"][at(t)]["scalars"], action)
        assert found["/rewards"][at(t)]["scalars"] == [episode.rewards[t]]
    assert len({bytes(row["blob"][0]) for row in found["/cameras/front"].values()}) == len(episode.states)
    for d, t in zip(range(rows.start, rows.stop), steps, strict=True):
        opinion = replayed.opinions["main"]
        expected = [opinion.logged_value[d], opinion.chosen_value[d], *opinion.value[d]]
        np.testing.assert_array_equal(found["/values/main"][at(t)]["scalars"], expected)
        decided = at(t, 1)  # the decision's rows say the episode too
        np.testing.assert_array_equal(tensor(found["/candidates"][decided]["data"]), replayed.candidates[d])
        np.testing.assert_array_equal(tensor(found["/chunk"][decided]["data"]), replayed.chosen[d])
        headroom = opinion.value[d].max() - opinion.value[d][0]
        assert found["/headroom"][decided]["scalars"] == pytest.approx([headroom])
        assert found["/decisions"][decided]["text"][0].startswith(replayed.reason[d])


def test_without_a_critic_decisions_are_shown_without_scores():
    # mutation: zeros for scores
    replayed = replace(synthetic(episodes=1), opinions={})
    shown = list(decisions(report_of(replayed), 0))
    assert len(shown) == len(replayed) and all(np.isnan(each.value).all() for each in shown)


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
    with pytest.raises(ValueError, match=r"pip install 'robot_value\[view\]'"):
        write_rrd(tmp_path, report_of(synthetic(episodes=1)))
