"""Learning from an arm that works by itself: what is learned depends on its episodes, not on when they came."""

import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import point_spec
from online_fakes import save_models
from recorded import make_episode, make_spec

from robot_value import checkpoint
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.online import learning, publication
from robot_value.online.acting import Round
from robot_value.online.follow import Follow, Follower
from robot_value.online.learning import Online, OnlineJob, Schedule, train_online
from robot_value.online.publication import newest
from robot_value.online.supervised import Config as Supervisor
from robot_value.training import Interrupted, load_model
from robot_value.types import HUMAN, POLICY, SpecMismatch

EPISODES, PATIENCE = 5, 30.0  # PATIENCE: s
SCHEDULE = Schedule(
    episodes=EPISODES, per_round=2, ratio=0.5, batch_size=16, evaluate_every=1, progress=False, tensorboard=False,
    device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """Nobody looks at it here, and it takes as long as the run."""
    monkeypatch.setattr(learning, "write_page", lambda *_: None)


def job(models, folder, store, follow=(), **changes):
    schedule = replace(SCHEDULE, folder=str(folder), **changes)
    seen = Follow(**{"store": str(store), "poll": 0.01} | dict(follow))
    return OnlineJob(None, *models, arm=Arm("online"), schedule=schedule, follow=seen)


def episode(i, **changes):
    """As a recorder writes it: an operator's verdict and no reward; of every third a human drives three steps."""
    source = np.full(9 + i, POLICY, np.uint8)
    source[3:6] = HUMAN if i % 3 == 1 else POLICY
    said = {"rewards": np.zeros(9 + i, np.float32), "success": i % 2 == 0, "source": source, "task": ""}
    return make_episode(point_spec(horizon=0, n_obs_steps=0), 9 + i, seed=i, **said | changes)


def record(path, indices):
    store = EpisodeStore.open(path, "a") if (path / "zarr.json").exists() else None
    with store or EpisodeStore.create(path, point_spec(horizon=0, n_obs_steps=0)) as store:
        return [store.append(episode(i)) for i in indices]


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """A run that found all episodes when it began: its folder and their names."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "write_page", lambda *_: None)
        names = record(folder / "store", range(EPISODES))
        train_online(job(models, folder / "run", folder / "store"))
    return folder / "run", names


def rounds(folder):
    return json.loads((Path(folder) / "progress.json").read_text())["rounds"]


def weights(folder):
    return (checkpoint.newest(Path(folder)) / "model.safetensors").read_bytes()


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def published(folder):
    found = newest(Path(folder))
    return -1 if found is None else found.number


# -- rounds ------------------------------------------------------------------------------------------------------------


def test_a_round_is_the_next_episodes_of_the_store_in_their_order(whole):
    # mutation: take all that is there; take the newest first; hold trials on an arm
    folder, names = whole
    told = rounds(folder)
    assert [each["names"] for each in told] == [names[:2], names[2:4], names[4:]]
    assert [each["steps"] for each in told] == [[9, 10], [11, 12], [13]]
    assert [each["success"] for each in told] == [[True, False], [True, False], [True]]
    assert [each["human_steps"] for each in told] == [[0, 3], [0, 0], [3]]
    assert [each["version"] for each in told] == [0, 1, 2]
    assert [each["update"] for each in told] == [0, round(0.5 * 19), round(0.5 * 42)]
    assert json.loads((folder / "progress.json").read_text())["evaluations"] == []


def test_the_learner_waits_for_the_arm_and_learns_the_same_bits_as_from_a_finished_store(models, tmp_path, whole):
    # mutation: a round ends with one episode; seed the windows by the clock
    store, run = tmp_path / "store", tmp_path / "run"

    def work():
        for version, indices in ((0, [0, 1]), (1, [2]), (1, [3]), (2, [4])):
            until(lambda at=version: published(run) >= at)
            record(store, indices)

    arm = threading.Thread(target=work)
    arm.start()
    train_online(job(models, run, store))
    arm.join()
    assert [len(each["names"]) for each in rounds(run)] == [2, 2, 1]
    assert weights(run) == weights(whole[0])


class Crash(Exception):
    pass


@pytest.mark.parametrize("place", ["_take", "_book", "_publish"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_learner_that_dies_anywhere_goes_on_to_the_same_bits_and_no_version_goes_back(
    models, tmp_path, whole, monkeypatch, place, at
):
    # mutation: publish before the checkpoint is saved; publish newer weights under a number that was published before
    record(tmp_path / "store", range(EPISODES))
    asked, seen, calls, original = job(models, tmp_path / "run", tmp_path / "store"), [], [], getattr(Online, place)

    def dying(self, *arguments):
        calls.append(place)
        if len(calls) == at + (place == "_publish"):
            raise Crash
        return original(self, *arguments)

    publish = publication.publish
    monkeypatch.setattr(learning, "publish", lambda *told: (publish(*told), seen.append(newest(tmp_path / "run"))))
    with monkeypatch.context() as patch:
        patch.setattr(Online, place, dying)
        with pytest.raises(Crash):
            train_online(asked)
    train_online(asked)
    numbers = [each.number for each in seen]
    assert numbers == sorted(numbers) and set(numbers) == {0, 1, 2, 3}
    assert all(a.versions == b.versions for a in seen for b in seen if a.number == b.number)
    assert weights(tmp_path / "run") == weights(whole[0])
    assert [each["names"] for each in rounds(tmp_path / "run")] == [each["names"] for each in rounds(whole[0])]


def test_a_signal_ends_the_waiting_at_once_and_the_run_goes_on_later(models, tmp_path, whole):
    # mutation: wait for the round's last episode first
    store, run = tmp_path / "store", tmp_path / "run"
    record(store, [0, 1, 2])
    hand = threading.Thread(target=lambda: (until(lambda: published(run) == 1), os.kill(os.getpid(), signal.SIGINT)))
    hand.start()
    with pytest.raises(Interrupted):
        train_online(job(models, run, store))
    hand.join()
    assert len(rounds(run)) == 1
    record(store, [3, 4])
    train_online(job(models, run, store))
    assert weights(run) == weights(whole[0])


# -- what is published -------------------------------------------------------------------------------------------------


def test_versions_name_the_checkpoints_that_were_made_and_those_that_stay(models, tmp_path, monkeypatch):
    # mutation: name the start's checkpoint, which may lie elsewhere on the robot; hash the wrong folder
    record(tmp_path / "store", range(EPISODES))
    run, seen, publish = tmp_path / "run", [], publication.publish
    monkeypatch.setattr(learning, "publish", lambda *told: (publish(*told), seen.append(newest(run))))
    train_online(job(models, run, tmp_path / "store"))
    start = {"policy": load_model(models[0]).version, "critic": load_model(models[1]).version}
    assert [each.number for each in seen] == [0, 1, 2, 3]
    assert (seen[0].made, seen[0].versions) == ({}, start)
    last = load_model(seen[3].made["critic"])
    assert seen[3].versions == {"policy": start["policy"], "critic": last.version} != start
    assert seen[3].made == {"critic": checkpoint.newest(run)}


def test_nothing_published_is_no_version(tmp_path):
    # mutation: raise where there is no file yet
    assert newest(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format_version": 2, "version": 1, "made": {}, "versions": {}}',
        '{"format_version": 1, "version": -1, "made": {}, "versions": {}}',
        '{"format_version": 1, "version": true, "made": {}, "versions": {}}',
        '{"format_version": 1, "version": 1, "made": {"critic": "../elsewhere"}, "versions": {}}',
        '{"format_version": 1, "version": 1, "made": {"critic": "/etc"}, "versions": {}}',
        '{"format_version": 1, "version": 1, "made": {"robot": "x"}, "versions": {}}',
        '{"format_version": 1, "version": 1, "made": {}, "versions": {"policy": 3}}',
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, text):
    # mutation: trust the paths that are named
    (tmp_path / publication.FILE).write_text(text)
    with pytest.raises(ValueError, match=r"version\.json|expected"):
        newest(tmp_path)


# -- what episodes say to the learner ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "rewards", "interventions", "expected"),
    [
        ({"success": True}, "success", "", [0, 0, 0, 0, 1]),
        ({"success": False}, "success", "", [0, 0, 0, 0, 0]),
        ({"success": None, "terminated": False}, "success", "", [0, 0, 0, 0, 0]),
        ({"success": True}, "recorded", "", [0.5, 0, 0, 0, 0]),
        ({"success": True}, "success", "rlif", [0, 0, -1, 0, 0]),
        ({"success": True}, "success", "pvp", [0, 0, 0, 1, 0]),
    ],
)
def test_an_operators_verdict_is_what_an_episode_pays(models, tmp_path, said, rewards, interventions, expected):
    # mutation: rewards of the recording by default, which are zeros where no topic says one
    paid = np.array([0.5, 0, 0, 0, 0], np.float32)
    source = np.array([POLICY, POLICY, POLICY, HUMAN, POLICY], np.uint8)
    spec = point_spec(horizon=0, n_obs_steps=0)
    with EpisodeStore.create(tmp_path / "store", spec) as store:
        name = store.append(make_episode(spec, 5, rewards=paid, source=source, **said | {"task": ""}))
    asked = job(models, tmp_path / "run", tmp_path / "store", {"rewards": rewards}, interventions=interventions)
    online = Online(asked)
    online.sampler.take([name])
    data = online.sampler.grown.cache()
    np.testing.assert_array_equal(data.reward, np.array(expected, np.float32))
    assert bool(data.terminated[0]) == said.get("terminated", True)


def test_dagger_without_offline_data_waits_for_the_first_correction_and_catches_up(models, tmp_path):
    # mutation: draw windows as soon as there are episodes; forget the updates that were due meanwhile
    with EpisodeStore.create(tmp_path / "store", point_spec(horizon=0, n_obs_steps=0)) as store:
        for i in range(EPISODES):
            source = np.full(9 + i, POLICY, np.uint8)
            source[2:8] = HUMAN if i == 3 else POLICY  # in the second round
            store.append(episode(i, source=source))

    def learn(folder, episodes):
        dagger = {"learn": "policy", "interventions": "dagger", "episodes": episodes}
        train_online(job(models, tmp_path / folder, tmp_path / "store", **dagger))

    learn("whole", EPISODES)
    assert [each["update"] for each in rounds(tmp_path / "whole")] == [0, 0, round(0.5 * 42)]
    for episodes in (2, 4, EPISODES):  # a run that is begun anew before and after the correction
        learn("parts", episodes)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def followed(store):
    """What becomes of waiting for two episodes of the store, of which there is one at most."""
    follower = Follower(Follow(str(store), poll=60), point_spec(horizon=0, n_obs_steps=0), (), [])
    with closing(follower):
        return follower.submit_round(None, Round(1, None, (0, 1)))


def test_a_store_of_another_robot_is_refused_with_its_name_and_the_field_before_the_round_is_over(tmp_path):
    # mutation: read arrays of equal shapes, whatever they mean; compare when the round is over
    other = make_spec()
    with EpisodeStore.create(tmp_path / "store", other) as store:
        store.append(make_episode(other))
    with pytest.raises(SpecMismatch, match=r"the store .*store does not match: .*expected"):
        followed(tmp_path / "store").result()


def test_who_waits_for_a_store_that_is_not_there_says_so(tmp_path, capsys):
    # mutation: wait for a misspelled folder without a word
    assert isinstance(followed(tmp_path / "sotre").exception(), CancelledError)
    assert "sotre: no episode store yet" in capsys.readouterr().out


def test_a_run_does_not_go_on_with_another_store(models, tmp_path, whole):
    # mutation: a KeyError's traceback; wait for ever for names above the last
    shutil.copytree(whole[0], tmp_path / "run")
    record(tmp_path / "other", range(9, 12))
    with pytest.raises(ValueError, match=r"other: expected episode 00000000-.* which this run has learned from"):
        train_online(job(models, tmp_path / "run", tmp_path / "other", episodes=9))


def test_episodes_of_another_robot_are_never_taken_in(models, tmp_path):
    # mutation: trust the follower; it has no say in demonstrations
    other = make_spec()
    with EpisodeStore.create(tmp_path / "store", other) as store:
        name = store.append(make_episode(other))
    with pytest.raises(SpecMismatch, match=r"the store .*store does not match: .*expected"):
        Online(job(models, tmp_path / "run", tmp_path / "store")).sampler.take([name])


def test_what_an_arm_cannot_have_is_refused(models, tmp_path):
    # mutation: ignore the scripted expert
    with pytest.raises(ValueError, match="supervisor: expected none where an arm is followed"):
        replace(job(models, tmp_path, tmp_path / "store"), supervisor=Supervisor())
    with pytest.raises(ValueError, match="display: expected none where an arm is followed"):
        replace(job(models, tmp_path, tmp_path / "store"), display=object())
    with pytest.raises(ValueError, match="rewards: expected one of success, recorded, got 'dense'"):
        Follow(rewards="dense")
    with pytest.raises(ValueError, match="poll: expected a time above 0"):
        Follow(poll=0)
