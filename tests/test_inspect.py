"""`data inspect` and `data verify`: figures recomputed by hand, a page that stands alone, exit codes for scripts."""

import re

import numpy as np
import pytest
from recorded import make_episode, make_spec

from robot_value.episodes import EpisodeStore
from robot_value.episodes.inspect import inspect_command, summarize, verify, verify_command, write_html
from robot_value.statistics import wilson


@pytest.fixture
def store(tmp_path):
    """Five episodes: two succeed, two fail, one is unknown; one misses its last frame; one was unstable."""
    spec = make_spec(cameras=("front",))
    outcomes = [True, False, None, True, False]
    robots = [{"module": "robot_value.sim.lift_robot", "config": {}}, "arm", None, "arm", "arm"]
    with EpisodeStore.create(tmp_path / "store", spec) as store:
        for seed, (success, robot) in enumerate(zip(outcomes, robots, strict=True)):
            provenance = {"unstable": seed == 4} | ({"robot": robot} if robot else {})
            source = np.array([2] * 4 + [1] * seed, np.uint8)
            store.append(
                make_episode(
                    spec, 4 + seed, seed, success=success, final_observed=seed != 3, terminated=seed < 4,
                    provenance=provenance, source=source, rewards=np.full(4 + seed, 0.5, np.float32),
                )
            )  # fmt: skip
        yield store


# mutation: `bool(fact.success)` of every episode, unknown ones too, in StoreSummary.success
def test_a_summary_counts_what_was_recorded(store):
    summary = summarize(store)
    assert (summary.episodes, summary.steps, summary.unstable) == (5, 30, 1)
    assert summary.success == wilson(2, 4)
    assert [fact.total for fact in summary.facts] == [2, 2.5, 3, 3.5, 4]
    assert summary.damage == () and summary.gaps == ()
    assert summary.size == sum(p.stat().st_size for p in (store.path / "episodes").rglob("*") if p.is_file())
    lines = dict(summary.lines())
    assert lines["success"] == "50.0 % [15.0, 85.0] of 4 episodes where it is known"
    assert lines["return"] == "mean 3, median 3, 2 to 4"
    assert lines["length"] == "mean 6, median 6, 4 to 8 steps"
    assert lines["endings"] == "4 terminated, 1 ran out of time, 1 without a last frame"
    assert lines["decided by"] == "policy 0 %, expert 33 %, human 67 %"
    assert lines["tasks"] == "'task 0' 3, 'task 1' 2"
    assert lines["recorded by"] == "arm 3, lift_robot 1"
    text = summary.to_text()
    assert "5 episodes, 30 steps" in text and "0-1 arm (position, current) [m]" in text
    assert "2 gripper (gripper, absolute) [1]  0..1, outside in" in text  # recorded actions reach -1
    assert "images  front uint8[frames, 4, 5, 3] rgb8" in text and re.search(r"1 s1 \[m\]  -\d", text)


def test_damage_and_missing_numbers_are_said_and_the_rest_is_still_summarised(store):
    names = store.names()
    (store.path / "episodes" / names[1] / "states/c/0/0").unlink()
    for path in sorted((store.path / "episodes" / names[2]).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (store.path / "episodes" / names[2]).rmdir()
    summary = summarize(store)
    assert summary.episodes == 3 and summary.gaps == (2,)
    assert [(p.episode, p.file) for p in summary.damage] == [(names[1], "states/c/0/0")]
    assert "1 numbers missing, first 2" in summary.to_text()
    assert f"1 problems, first {names[1]}/states/c/0/0: expected" in summary.to_text()


def test_an_empty_store_and_unknown_outcomes_have_a_summary(tmp_path):
    with EpisodeStore.create(tmp_path / "s", make_spec()) as store:
        assert "no episodes" in summarize(store).to_text()
        write_html(store, tmp_path / "empty.html")
        store.append(make_episode(store.spec, success=None))
        assert summarize(store).success is None
        assert "unknown in every episode" in summarize(store).to_text()
        write_html(store, tmp_path / "page.html")
        assert "outcome unknown" in (tmp_path / "page.html").read_text()


def test_the_page_stands_alone_and_shows_every_part(store, tmp_path):
    write_html(store, tmp_path / "deep" / "page.html")
    html = (tmp_path / "deep" / "page.html").read_text()
    for heading in ("Episodes", "Actions against their limits", "Trajectories", "Frames"):
        assert f"<h2>{heading}</h2>" in html
    assert html.count("<svg") == 2 + 4 and html.count('src="data:image/png;base64,') == 4
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) and "<script" not in html
    assert all(name in html for name in (*store.names()[:2], "front", "50.0 %"))


def test_the_commands_print_and_answer_with_an_exit_code(store, tmp_path, capsys):
    assert inspect_command(store.path, tmp_path / "page.html") == 0
    assert "5 episodes" in capsys.readouterr().out and (tmp_path / "page.html").exists()
    assert verify_command(store.path) == 0
    assert capsys.readouterr().out == f"{store.path}: 5 episodes, all sound\n"
    assert verify(store.path) == []

    name = store.names()[2]
    frames = store.path / "episodes" / name / "images/front/c/0/0/0/0"
    frames.write_bytes(frames.read_bytes()[:-1])
    assert verify_command(store.path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{name}/images/front/c/0/0/0/0: expected \d+ bytes, got \d+ bytes", lines[0])
    assert lines[1] == f"{store.path}: 1 of 5 episodes damaged"
    assert inspect_command(store.path, tmp_path / "page.html") == 1
    assert f"{name}/images" in (tmp_path / "page.html").read_text()

    for command in (inspect_command, verify_command):
        assert command(tmp_path / "none") == 1
        error = capsys.readouterr().err
        assert "no episode store at" in error and error.count("\n") == 1
