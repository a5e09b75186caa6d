"""The page of an online run: what progress.json tells, in words, and where the time went."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from browser import chromium
from online_fakes import Here, PointConfig, save_models

from robot_value import flags
from robot_value.arms import MAIN
from robot_value.commands import _train_online, collect, evaluate, train
from robot_value.commands._arm import PARTS
from robot_value.evaluate import Arm
from robot_value.online.books import PASSED, PLAIN, WORSE, Booked, Progress, Seconds, Trial, overhead
from robot_value.online.learning import OnlineJob, Schedule, train_online
from robot_value.online.page import dip, headline, render

MADE = {"command": "robot-value train online", "git": "abc", "machine": {"cores": 2}, "versions": {"python": "3.12"}}


def solved(k, n=20):
    return [i < k for i in range(n)]


def progress(rounds=6, **changes):
    """Six rounds: a good start, a version that is rolled back, a good end."""
    steps = [100] * 10
    booked = [
        Booked(r, r - 1, 100 * r, [f"e{r}"] * 10, solved(r, 10), steps, [0] * 10, refused=0, seconds=Seconds(8, 6, 0.5))
        for r in range(1, rounds + 1)
    ]
    trials = [
        Trial(None, 0, 0, 0, solved(9), PLAIN, None, 0.0, 4.0),
        Trial(0, 0, 0, 0, solved(10), PASSED, None, 1.0, 4.0),
        Trial(2, 2, 200, 2000, solved(2, 10), WORSE, 0, 31.9, 2.0),
        Trial(5, 4, 401, 4000, solved(12), PASSED, 0, 0.8, 4.0),
        Trial(7, 6, 600, 6000, solved(19), PASSED, 5, 0.1, 4.0),
    ]
    return replace(Progress(booked, trials), **changes)


def test_what_progress_is_told_it_tells_again(tmp_path):
    # mutation: lose the seconds or the verdicts
    before = progress(stopped="update 3: expected a number")
    before.save(tmp_path)
    assert Progress.load(tmp_path) == before
    assert Progress.load(tmp_path / "nowhere") == Progress()


def test_the_headline_compares_the_offline_start_with_the_last_version_that_passed():
    # mutation: take the plain policy for the start; take the last trial whatever its verdict
    assert headline(progress()) == (
        "The offline start solved 10 of 20 evaluation seeds; after 6,000 environment steps version 7 solves 19 of 20."
    )
    rolled_back = progress()
    rolled_back.evaluations[3:] = []
    assert "solves 10 of 20 evaluation seeds; nothing learned since has passed" in headline(rolled_back)
    rolled_back.evaluations[:] = [replace(t, verdict=WORSE) for t in rolled_back.evaluations]
    assert "the plain policy acted all along" in headline(rolled_back)
    assert "no version was put on trial" in headline(Progress())


def test_the_dip_counts_versions_that_were_rolled_back():
    # mutation: look at passed versions only; compare counts instead of shares
    assert dip(progress()) == (
        "The dip: version 2, after 2,000 steps, solved 2 of 10, 30 points below the offline start."
    )
    better = progress()
    del better.evaluations[2]
    assert dip(better) == "No version on trial solved a smaller share than the offline start."
    assert dip(Progress()) == ""


def test_the_page_names_every_roll_back_refusal_and_stop(tmp_path):
    # mutation: leave one of them out
    told = progress(stopped="update 601: the last 20 gradient steps were refused")
    told.rounds[2:] = [replace(each, refused=3) for each in told.rounds[2:]]
    page = render(told, tmp_path, "both", MADE)
    assert "learning critic and policy" in page
    assert "Version 2 was shown to be worse than version 0; learning went on from version 0." in page
    assert "3 gradient steps were refused, in round 3." in page
    assert "Learning was given up. update 601" in page
    assert page.count("rolled\u00a0back</span>") == 1 and page.count("passed</span>") == 3
    assert not re.search(r"(src|href|url)\W+http", page) and "<script" not in page


def test_where_the_time_went_adds_up():
    # mutation: count a wait as bookkeeping; leave out the trials
    assert overhead(progress()) == (
        "69 s: the robot working 69.6 %, the learner learning 52.2 %, both at once 52.2 %, evaluating 26.1 %, "
        "keeping books 4.3 %"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run of the point robot, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    policy, critic = save_models(folder / "models")
    schedule = Schedule(
        folder=str(folder / "run"), episodes=4, per_round=2, ratio=0.5, batch_size=16, evaluate_every=1,
        evaluate_episodes=2, progress=False, device="cpu",
    )  # fmt: skip
    arm = Arm("online", "argmax", n=3, critic=MAIN)
    return train_online(OnlineJob(PointConfig(), policy, critic, arm=arm, schedule=schedule, batch_size=2), Here())


def test_a_run_ends_with_a_page_and_curves_over_environment_steps(run):
    # mutation: gradient steps on TensorBoard's axis; no page where nothing is wrong
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert "<h2>Losses</h2>" in (run / "report.html").read_text()
    told = json.loads((run / "progress.json").read_text())
    events = EventAccumulator(str(run / "events" / "robot"))
    events.Reload()
    points = events.Scalars("trial/success")
    assert [point.step for point in points] == [each["env_steps"] for each in told["evaluations"][1:]]
    assert {"trial/low", "trial/high", "plain/success", "round/success"} <= set(events.Tags()["scalars"])


def test_seconds_are_never_negative(run):
    # mutation: leave the trials' time in the round after them
    seconds = [each["seconds"] for each in json.loads((run / "progress.json").read_text())["rounds"]]
    assert all(min(each.values()) >= 0 for each in seconds)


def test_the_page_is_whole_on_a_phone(tmp_path):
    # mutation: a table that is wider than the screen without scrolling
    page = tmp_path / "report.html"
    page.write_text(render(progress(), tmp_path, "critic", MADE))
    with chromium(390, 844) as browser:
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        assert len(browser.find_elements("css selector", "figure svg")) == 2


DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = (DOCS / "tutorials" / "online.md", DOCS / "online" / "guard_rails.md", DOCS / "online" / "interventions.md")
ROBOT = {"robot": flags.Choice("robots", "robosuite")}
COMMANDS = {
    "train online": (_train_online.TrainOnline, _train_online.CHOICES),
    "train": (train.Train, train.CHOICES),
    "collect": (collect.Collect, ROBOT),
    "evaluate": (evaluate.Evaluate, {**ROBOT, **PARTS}),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_pages_has_flags_that_exist(page):
    # mutation: --schedule.evaluations=100 in docs/tutorials/online.md
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^robot-value (.*)$", text, re.MULTILINE):
        verb = next(verb for verb in COMMANDS if line.startswith(verb + " "))
        command, choices = COMMANDS[verb]
        flags.parse(command, shlex.split(line.removeprefix(verb)), choices)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_the_pages_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links {link}"
