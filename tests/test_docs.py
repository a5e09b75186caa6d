"""Published figures are the files' figures, and the README's commands exist."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from robot_value import cli
from robot_value.recipe import refuse_overlap
from robot_value.results_shape import missing_controls, validate_results

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ("lift", "can", "cube")


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
