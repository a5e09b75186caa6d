"""SIGKILL of an actor and of a learner: two trials of benchmarks/bench_online_kills.py, which makes many."""

import sys
from pathlib import Path

import pytest
from online_fakes import Here, save_models

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_online_kills as kills


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def whole(home):
    """An undisturbed run, in the test's own process."""
    save_models(home / "models")
    kills.train(home, home / "whole", "local", 1, Here())
    return kills.Whole(kills.content(home / "whole"), seconds=6)


@pytest.mark.parametrize("case", ["learner", "actor"])
def test_a_killed_run_goes_on_to_the_same_bits_and_loses_no_episode(home, whole, case):
    # mutation: record the whole of a wave that was cut off (bench_online_kills.unprotect); raise where an actor dies
    for seed in (11, 12, 13, 14):  # on a fast machine a run may be over before its moment
        found = kills.session(home, case, seed, whole, most=1)
        assert found["failures"] == []
        if found["kills"]:
            break
    assert found["kills"] == 1


def test_a_killed_run_of_policy_and_critic_goes_on_to_the_same_bits(home):
    # mutation: only one of the two is looked for when a run resumes
    save_models(home / "models")
    kills.train(home, home / "both", "both", 1, Here())
    whole = kills.Whole(kills.content(home / "both"), seconds=6)
    assert {name.split("/")[0] for name in whole.content["weights"]} == {"policy", "critic"}
    for seed in (21, 22, 23, 24):
        found = kills.session(home, "both_learner", seed, whole, most=1)
        assert found["failures"] == []
        if found["kills"]:
            break
    assert found["kills"] == 1


def test_what_is_lost_doubled_or_changed_is_seen(home, whole):
    # mutation: compare names only
    folder = home / "whole"
    assert kills.differences(folder, whole) == []
    seen = kills.Seen()
    seen.look(folder, "now")
    seen.episodes.add("ffffffff")
    seen.step += 1
    seen.look(folder, "later")
    assert [words.split(":")[0] for words in seen.failures] == ["later", "later"] and "ffffffff" in seen.failures[0]
    other = kills.Whole({**whole.content, "weights": {}}, 1)
    assert kills.differences(folder, other) == ["weights differ from the undisturbed run's"]
