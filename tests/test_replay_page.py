"""A page about a log: shards that read back, texts that stay texts, an index that 10,000 episodes do not break."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import make_episode, make_spec
from replayed import synthetic

from robot_value.episodes.findings import Finding
from robot_value.replay.decided import Kept, decided
from robot_value.replay.page import index, render, write_page
from robot_value.replay.report import Mark, Report, Section, detour, headline, limit_of
from robot_value.replay.shards import POINTS, Pictures, packed, script_json, shard, shard_name, short, timeline
from robot_value.replay.subgoals import of_episode
from robot_value.replay.timelines import write_timelines
from robot_value.steering.alarm import Alarm
from robot_value.types import Decision

EVIL = "</script><script>alert(1)</script><!-- \u2028 ' \" & <img src=x onerror=alert(2)>"


def report_of(replayed, cameras=(), **changes) -> Report:
    """With a log that fits: as many steps as the Replayed says."""
    spec = make_spec(cameras=cameras)
    log = Kept({e.name: make_episode(spec, e.steps, i) for i, e in enumerate(replayed.episodes)})
    return Report(replace(replayed, spec=spec.choose(n_obs_steps=1)), log, **changes)


def unpacked(data) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(data["data"]), "<u2").reshape(data["shape"]).astype(float)
    return levels / 65535


def of_script(text):
    """The JSON that a shard hands to the page."""
    found = re.fullmatch(r"robot_value_episode\((\d+), (\{.*\})\);\n", text)
    return int(found[1]), json.loads(found[2])


# -- shards -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_packed_arrays_come_back_to_a_65535th_of_their_columns_range(rows, seed):
    # mutation: one range for all columns; big-endian levels
    values = np.random.default_rng(seed).normal(size=(rows, 3)) * [1e-3, 1, 1e3]
    data = packed(values)
    low, high = values.min(0), values.max(0)
    back = low + unpacked(data) * (high - low)
    np.testing.assert_allclose(back, values, rtol=0, atol=(high - low).max() / 65535 * 0.51)
    assert (np.abs(back - values) <= (high - low) / 65535 * 0.51 + 1e-12).all()
    np.testing.assert_allclose(data["low"], low, rtol=1e-3)


def test_scores_keep_four_digits_and_unknown_ones_become_null():
    # mutation: json's NaN, which no other reader of JSON knows
    assert short(np.array([[1.234567, np.nan], [np.inf, -1e-9]])) == [[1.235, None], [None, -1e-9]]


@given(st.text())
def test_no_text_ends_the_script_it_stands_in(text):
    # mutation: plain json.dumps
    written = script_json({"x": text + EVIL})
    assert json.loads(written) == {"x": text + EVIL} and not set("<>&\u2028\u2029") & set(written)


def test_a_timeline_says_what_the_log_and_the_pass_said():
    # mutation: rows of the neighbouring episode; returns of the first decision only
    replayed = synthetic(episodes=3, critics={"main": 0.1, "other": 0.3})
    report = report_of(replayed, limits={"main": np.full(len(replayed), 0.25)}, marks=[Mark(1, 4, "look")])
    number, data = of_script(shard(report, 1, Pictures()))
    rows = replayed.rows(1)
    assert number == 1 and data["steps"] == replayed.episodes[1].steps
    assert data["decisions"]["step"] == replayed.step[rows].tolist()
    np.testing.assert_allclose(data["decisions"]["returns"], replayed.returns[rows], rtol=1e-3)
    other = data["decisions"]["critics"]["other"]
    np.testing.assert_allclose(other["value"], replayed.opinions["other"].value[rows], rtol=1e-3)
    assert other["limit"] is None and set(data["decisions"]["critics"]["main"]["limit"]) == {0.25}
    assert data["marks"] == [[4, "look"]] and timeline(report, 0, Pictures())["marks"] == []
    reasons = data["decisions"]["reasons"]
    assert [reasons[i] for i in data["decisions"]["reason"]] == replayed.reason[rows].tolist()


def test_a_timeline_knows_the_subgoals_of_its_frames():
    # mutation: those of the neighbouring episode; at the decisions' resolution
    report = report_of(synthetic(episodes=3))
    for number, facts in enumerate(report.replayed.episodes):
        found = timeline(report, number, Pictures())["subgoals"]
        assert found == of_episode(report.log.read(facts.name)).tolist() and found[-1] == facts.steps


def test_plans_hold_executed_chosen_and_the_candidates_envelope():
    # mutation: envelope over chunk steps instead of candidates
    replayed = synthetic(episodes=2)
    data = timeline(report_of(replayed), 0, Pictures())["decisions"]["plans"]
    rows = replayed.rows(0)
    low, high = np.array(data["low"])[:, None], np.array(data["high"])[:, None]
    plans = low + unpacked(data) * (high - low)
    expected = [replayed.logged, replayed.chosen, replayed.candidates.min(1), replayed.candidates.max(1)]
    np.testing.assert_allclose(plans, np.stack([each[rows] for each in expected], 3), atol=2e-3)


def test_a_candidate_that_was_not_proposed_does_not_reach_the_envelope():
    # mutation: candidates.min(1), which is NaN
    replayed = synthetic(episodes=1)
    replayed.candidates[:, 1:] = np.nan
    data = timeline(report_of(replayed), 0, Pictures())["decisions"]["plans"]
    low, high = np.array(data["low"])[:, None], np.array(data["high"])[:, None]
    plans = low + unpacked(data) * (high - low)
    np.testing.assert_allclose(plans[..., 2], replayed.candidates[:, 0], atol=2e-3)


def test_frames_are_thumbnails_of_known_steps_within_the_budget():
    # mutation: frames[:n] instead of evenly spaced; all frames whatever the budget
    from io import BytesIO

    from PIL import Image

    report = report_of(synthetic(episodes=2), cameras=("front",))
    data = timeline(report, 0, Pictures(side=4, per_episode=5, quality=95))
    assert len(data["frames"]) == len(data["cameras"]["front"]) == 5
    assert data["frames"][0] == 0 and data["frames"][-1] == data["steps"]
    assert Image.open(BytesIO(base64.b64decode(data["cameras"]["front"][0]))).size == (4, 3)
    assert Pictures(budget=1e9).frames(10_000, 2) < Pictures().frames(100, 2) == Pictures().per_episode
    assert Pictures(budget=0).frames(10_000, 2) == 4


def test_interventions_are_runs_of_somebody_else():
    # mutation: runs of the policy, too; a last run that never ends
    report = report_of(synthetic(episodes=1))
    name = report.replayed.episodes[0].name
    steps = report.replayed.episodes[0].steps
    source = np.zeros(steps, np.uint8)
    source[2:5], source[-1] = 2, 1
    report.log.episodes[name] = replace(report.log.read(name), source=source)
    expected = [[2, 5, "human"], [steps - 1, steps, "expert"]]
    assert timeline(report, 0, Pictures())["sources"] == expected


def test_long_episodes_are_thinned_to_a_bounded_shard():
    # mutation: at = range(steps)
    report = report_of(synthetic(episodes=1, steps=(5000, 5001), execute=50))
    data = timeline(report, 0, Pictures())
    assert len(data["at"]) == POINTS == data["states"]["shape"][0] and data["at"][-1] == data["steps"] - 1
    assert len(json.dumps(data)) < 100_000


# -- what the numbers mean --------------------------------------------------------------------------------------------


def test_an_alarm_is_the_first_decision_below_the_limit():
    # mutation: the last one; the row instead of the step
    replayed = synthetic(episodes=2)
    value = replayed.opinions["main"].logged_value
    value[:] = 1.0
    rows = replayed.rows(1)
    value[[rows.start + 2, rows.start + 4]] = 0.0
    alarms = report_of(replayed, limits={"main": np.full(len(replayed), 0.5)}).alarms("main")
    assert alarms.tolist() == [-1, int(replayed.step[rows.start + 2])]


def test_an_alarms_band_counts_decisions_from_each_episodes_start():
    # mutation: np.arange(len(replayed)) without the episode's first row
    replayed = synthetic(episodes=2)
    alarm = Alarm((0.0, 1.0, 2.0), (1.0, 1.0, 1.0), 0.5, 0.1, 20, "minus value")
    limit = limit_of(alarm, replayed)
    for e in range(2):
        assert limit[replayed.rows(e)][:4].tolist() == [-0.5, -1.5, -2.5, -2.5]


def test_a_detour_is_the_mean_distance_over_the_steps_that_were_executed():
    # mutation: all H steps; ranges forgotten
    replayed = synthetic(episodes=1)
    chosen = replayed.logged.copy()
    chosen[:, :2] += 0.1 * replayed.span
    chosen[:, 2:] += 5.0
    found = detour(replace(replayed, chosen=chosen.astype(np.float32)))
    np.testing.assert_allclose(found, 0.1, rtol=1e-4)


@pytest.mark.parametrize(
    ("critic", "verdict"), [(0.02, "critic tells success from failure"), (float("inf"), "cannot be told from guessing")]
)
def test_the_headline_says_whether_the_critic_knows(critic, verdict):
    # mutation: comparing the estimate instead of the interval with a half
    assert verdict in headline(synthetic(episodes=60, critics={"main": critic}))


def test_the_headline_is_honest_where_nothing_can_be_said():
    assert "cannot be said" in headline(synthetic(episodes=4, success=1.0))
    assert "Without a critic" in headline(replace(synthetic(episodes=4), opinions={}))


def test_limits_and_marks_that_do_not_fit_are_refused():
    replayed = synthetic(episodes=2)
    with pytest.raises(ValueError, match=r"marks: expected numbers of episodes below 2, got 2"):
        report_of(replayed, marks=[Mark(2, 0, "")])
    with pytest.raises(ValueError, match=r"limits: expected \[\d+\]"):
        report_of(replayed, limits={"main": np.zeros(3)})


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_holds_its_index_and_every_episode_has_a_shard(tmp_path):
    # mutation: shards of an earlier, longer page are left behind
    report = report_of(synthetic(episodes=4))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/episode_000009.js").write_text("old")
    page = write_page(tmp_path, report)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [f"episode_{i:06d}.js" for i in range(4)]
    assert shard_name(3) == "data/episode_000003.js"
    written = re.search(r'<script type="application/json" id="index">(.*?)</script>', page.read_text(), re.S)[1]
    assert json.loads(written) == json.loads(json.dumps(index(report)))


def test_the_page_asks_nothing_of_anybody():
    # mutation: a font from elsewhere
    page = render(report_of(synthetic(episodes=2)))
    assert not re.findall(r'(?:src|href|url\()\s*=?\s*["\']?(?:https?:)?//', page)
    assert "default-src 'none'" in page and "connect-src" not in page


def test_texts_of_a_log_stay_texts():
    # mutation: the finding as markup; json.dumps into the script
    replayed = synthetic(episodes=2)
    facts = tuple(replace(e, name=f"{e.name}{EVIL}", task=EVIL) for e in replayed.episodes)
    report = report_of(
        replace(replayed, episodes=facts, reason=np.full(len(replayed), EVIL), unequal=(EVIL,), compared=1),
        title=EVIL,
        headline=EVIL,
        lines=[EVIL],
        command=EVIL,
        findings=[Finding(EVIL, EVIL, (facts[0].name,))],
        marks=[Mark(0, 0, EVIL)],
        sections=[Section(EVIL, [(EVIL, "<svg></svg>", EVIL)], [EVIL])],
        notes={facts[0].name: [EVIL]},
    )
    page, script = render(report), shard(report, 0, Pictures())
    assert "<script>alert" not in page + script and "<img" not in page + script
    assert page.count("</script>") == 2  # the index and our own


def test_findings_lead_to_their_episodes():
    # mutation: numbers of findings and episodes exchanged
    replayed = synthetic(episodes=3)
    names = [e.name for e in replayed.episodes]
    found = index(report_of(replayed, findings=[Finding("a", "b"), Finding("c", "d", (names[2], "gone"))]))
    assert found["columns"]["warnings"] == [[], [], [1]]
    assert [f["episodes"] for f in found["findings"]] == [[], [2]]


def test_the_table_shows_each_episodes_lowest_value_and_largest_detour():
    # mutation: np.fmax for the value
    replayed = synthetic(episodes=3)
    columns = index(report_of(replayed))["columns"]
    value, away = replayed.opinions["main"].logged_value, detour(replayed)
    np.testing.assert_allclose(columns["value"], [value[replayed.rows(e)].min() for e in range(3)], rtol=1e-3)
    np.testing.assert_allclose(columns["detour"], [away[replayed.rows(e)].max() for e in range(3)], rtol=1e-3)


def test_ten_thousand_episodes_make_a_page_below_two_megabytes():
    # mutation: the timeline in the index
    began = time.process_time()
    replayed = synthetic(episodes=10_000, steps=(4, 6))
    report = Report(replayed, Kept({}))
    page = render(report)
    assert len(index(report)["columns"]["name"]) == 10_000 and len(page) < 2e6
    assert time.process_time() - began < 10


# -- recorded decisions -----------------------------------------------------------------------------------------------


def recorded(n=3, horizon=4, steps=6, **changes):
    rng = np.random.default_rng(0)

    def decision(t):
        candidates = rng.normal(size=(1, n, horizon, 3)).astype(np.float32)
        value = rng.normal(size=(1, n)).astype(np.float32)
        fields = {
            "chunk": candidates[:, n // 2],
            "execute": np.array([2]),
            "start_step": np.array([t]),
            "reason": ("chosen",),
            "index": np.array([n // 2]),
            "candidates": candidates,
            "value": value,
            "spread": value * 0 + 0.5,
        }
        return Decision(**(fields | changes))

    return replace(make_episode(make_spec(), steps), decisions=tuple(decision(t) for t in (0, 2, 4, 6)))


def test_decisions_of_an_evaluation_become_rows_with_the_value_of_what_was_executed():
    # mutation: value[0] instead of value[index]; the decision after the end as a row
    episode = recorded()
    found = decided(Kept({"7": episode, "8": episode}))
    assert found.step.tolist() == [0, 2, 4] * 2 and found.episode.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.execute == 2 and found.horizon == 4 and found.length.tolist() == [4, 4, 2] * 2
    expected = [float(d.value[0, 1]) for d in episode.decisions[:3]]
    np.testing.assert_array_equal(found.opinions["main"].logged_value[:3], np.float32(expected))
    np.testing.assert_array_equal(found.logged[1], episode.actions[2:6])


def test_a_new_chunk_has_no_value_and_a_policy_without_critic_no_opinion():
    # mutation: value[-1] for index -1
    new = decided(Kept({"a": recorded(index=np.array([-1]))}))
    assert np.isnan(new.opinions["main"].logged_value).all()
    bare = recorded(
        candidates=np.zeros((1, 0, 4, 3), np.float32), value=np.zeros((1, 0)), spread=np.zeros((1, 0)),
        index=np.array([0]),
    )  # fmt: skip
    assert decided(Kept({"a": bare})).opinions == {}


def test_test_episodes_of_a_study_are_one_page_each_arm_by_its_seeds(tmp_path):
    # mutation: the order in which they ended; N of the first arm for all
    plain = recorded(n=1, value=np.full((1, 1), np.nan), spread=np.full((1, 1), np.nan))
    page = write_timelines(
        tmp_path / "episodes", {"base": {9: plain, 7: plain}, "argmax": {7: recorded()}}, "walk", 0.9
    )
    found = json.loads(re.search(r'id="index">(.*?)</script>', page.read_text())[1])
    assert found["columns"]["name"] == ["base, seed 7", "base, seed 9", "argmax, seed 7"]
    unscored, scored = (
        of_script((page.parent / shard_name(number)).read_text())[1]["decisions"]["critics"]["main"]
        for number in (0, 2)
    )
    assert unscored["value"] == [[None] * 3] * 3
    np.testing.assert_allclose(scored["value"][0], recorded().decisions[0].value[0], rtol=1e-3)


def test_recorded_decisions_make_a_page(tmp_path):
    log = Kept({"a": recorded()})
    assert write_page(tmp_path, Report(decided(log), log)).exists()
    with pytest.raises(ValueError, match=r"got none in \['b'\]"):
        decided(Kept({"b": make_episode(make_spec())}))
