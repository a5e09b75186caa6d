"""Published figures are the files' figures, and the README's commands exist."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from robot_value import cli, components, flags
from robot_value.commands import _train_online, calibrate, collect, evaluate, mine, replay, train
from robot_value.commands._arm import PARTS
from robot_value.commands.data import ACTIONS
from robot_value.recipe import refuse_overlap
from robot_value.results_shape import missing_controls, validate_results

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ("lift", "can", "cube")
ALGORITHMS = ROOT / "docs" / "algorithms"
STEERING = sorted((ROOT / "docs").glob("steering*.md")) + sorted((ROOT / "docs" / "steering").glob("*.md"))
COMMANDS = {
    "calibrate": (calibrate.Calibrate, calibrate.CHOICES),
    "evaluate": (evaluate.Evaluate, {"robot": flags.Choice("robots", "robosuite"), **PARTS}),
}


@pytest.mark.parametrize("name", STUDIES)
def test_committed_results_have_the_agreed_shape_and_every_control(name):
    results = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    validate_results(results)
    assert missing_controls(results) == []
    validation, test = (range(first, last + 1) for first, last in (results["seeds"][k] for k in ("validation", "test")))
    refuse_overlap(validation, test)


def test_every_table_says_what_its_file_says():
    check = [sys.executable, str(ROOT / "benchmarks" / "make_tables.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_shows_the_two_commands_and_only_verbs_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text
    verbs = {line.split()[1] for line in text.splitlines() if line.startswith("robot-value ")}
    assert verbs <= set(cli.VERBS) and {"collect", "train", "evaluate"} <= verbs


@pytest.mark.parametrize("name", components.names("critics"))
def test_every_critic_has_a_page_that_is_listed_and_its_module_names_what_defines_it(name):
    # mutation: delete docs/algorithms/qc.md, or its line in the list
    page = (ALGORITHMS / f"{name}.md").read_text(encoding="utf-8")
    assert f"<!-- measured: {name} -->" in page and "arxiv.org" in page
    assert f"({name}.md)" in (ALGORITHMS / "README.md").read_text(encoding="utf-8")
    assert "efining term" in components.load("critics", name).__doc__


@pytest.mark.parametrize("page", sorted(ALGORITHMS.glob("*.md")), ids=lambda page: page.stem)
def test_every_link_of_the_algorithm_pages_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links {link}"


@pytest.mark.parametrize("page", sorted(ALGORITHMS.glob("*.md")), ids=lambda page: page.stem)
def test_every_command_of_the_algorithm_pages_has_flags_that_exist(page):
    # mutation: --critic.kappa=0.9 in docs/algorithms/dqc.md
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^robot-value train .*$", text, re.MULTILINE):
        flags.parse(train.Train, line.split("#")[0].split()[2:], train.CHOICES)


@pytest.mark.parametrize("page", STEERING, ids=lambda page: page.stem)
def test_every_link_of_the_steering_pages_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links {link}"


@pytest.mark.parametrize("page", STEERING, ids=lambda page: page.stem)
def test_every_command_of_the_steering_pages_has_flags_that_exist(page):
    # mutation: --gate.file=gate.json in docs/steering.md
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ *(robot-value (?:calibrate|evaluate) .*)$", text, re.MULTILINE):
        words = shlex.split(line.split("#")[0].replace("...", ""))
        command, choices = COMMANDS[words[1]]
        flags.parse(command, words[2:], choices)


@pytest.mark.parametrize("kind", ["selectors", "gates", "proposers", "guides"])
def test_every_part_of_steering_is_in_its_page(kind):
    # mutation: delete a row of docs/steering/gates.md
    text = (ROOT / "docs" / "steering" / f"{kind}.md").read_text(encoding="utf-8")
    assert [name for name in components.names(kind) if f"`{name}`" not in text] == []


DATA_PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("data", "labels", "reward_labels", "topics")),
]
DATA_PAGES += sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.mark.parametrize("page", DATA_PAGES, ids=lambda page: page.stem)
def test_every_data_command_of_the_pages_has_paths_and_flags_that_exist(page):
    # mutation: --labeler.kappa=0.9, or one path too many, in docs/data.md
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^robot-value data .*$", text, re.MULTILINE):
        name, *words = shlex.split(line.split("#")[0])[2:]
        action, (paths, rest) = ACTIONS[name], flags.positional(words)
        choices = dict(action.choices((), rest))
        if "source" in choices and not any(word.startswith("--source.type") for word in rest):
            choices["source"] = flags.Choice("converters", "lerobot")  # recognised by the dataset, which is not here
        assert action.fits(len(paths)), line
        flags.parse(action.flags, rest, choices)


@pytest.mark.parametrize("page", DATA_PAGES, ids=lambda page: page.stem)
def test_every_link_of_the_data_pages_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links {link}"


REPLAY_PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorials" / "replay.md",
    ROOT / "docs" / "tutorials" / "steer_a_lerobot_policy.md",
    *sorted((ROOT / "docs" / "replay").glob("*.md")),
    ROOT / "docs" / "tutorials" / "online.md",
    *sorted((ROOT / "docs" / "online").glob("*.md")),
]
LOG_COMMANDS = {
    "replay": (replay.Replay, {"source": flags.Choice("converters", None), **PARTS}),
    "mine": (mine.Mine, {}),
    "collect": (collect.Collect, {"robot": flags.Choice("robots", "robosuite")}),
    "train": (train.Train, train.CHOICES),
    "online": (_train_online.TrainOnline, _train_online.CHOICES),
}


@pytest.mark.parametrize("page", REPLAY_PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_replay_pages_has_flags_that_exist(page):
    # mutation: --shuffle_critic= in docs/tutorials/replay.md
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ *robot-value (?:replay|mine|collect|train) .*$", text, re.MULTILINE):
        verb, *words = (word for word in shlex.split(line.split("#")[0])[1:] if word != "...")
        if verb == "train" and words[0] == "online":
            verb = words.pop(0)
        command, choices = LOG_COMMANDS[verb]
        paths, rest = flags.positional(words)
        assert len(paths) == (verb in ("replay", "mine")), line
        flags.parse(command, rest, choices)


@pytest.mark.parametrize("page", REPLAY_PAGES, ids=lambda page: page.stem)
def test_every_link_of_the_replay_pages_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links {link}"
