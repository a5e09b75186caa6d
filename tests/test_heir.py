"""A newer version takes over between two episodes, or not at all."""

import json
import shutil
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import observation
from steered import mapping, save_models

from robot_value.deploy import steering_setup
from robot_value.deploy.heir import Heir
from robot_value.deploy.steering_setup import Setup, as_published, prepare
from robot_value.online import publication
from robot_value.online.publication import Published

PATIENCE = 60.0  # s


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"), mapping().spec)


@pytest.fixture
def asked(models):
    return Setup("topics.yaml", str(models[0]), str(models[1]), n=4)


@pytest.fixture
def old(asked):
    return prepare(asked, mapping().spec)


def loaded(setup, old):
    """An Heir that was asked and has said what came of it, and what it said."""
    said = []
    heir = Heir(mapping().spec, said.append)
    assert heir.ask(setup, old) == ""
    end = time.monotonic() + PATIENCE
    while not said and time.monotonic() < end:
        time.sleep(0.01)
    return heir, said


def test_what_is_ready_decides_from_the_next_episode_on_and_every_decision_tells_its_number(asked, old):
    # mutation: swap while the old one plays; forget the number in decisions
    expected = {kind: old.versions[kind] for kind in ("policy", "critic")}
    setup = as_published(asked, Published(3, {}, expected))
    heir, said = loaded(setup, old)
    assert "ready" in said[0] and heir.refused == ""
    old.steerer.books.decisions = 7
    new = heir.take(old)
    assert new is not old and new.steerer.books.decisions == 7
    assert new.versions == expected | {"online": "3"}
    seen = observation(old.policy.spec, batch=1)
    told = new.thinker(seen).versions
    assert (told["online"], told["critic"]) == ("3", expected["critic"]) and "online" not in old.thinker(seen).versions
    assert heir.take(new) is new  # once


def test_a_published_checkpoint_is_read_in_the_place_of_the_configured_one(asked, old, models, tmp_path):
    # mutation: read the parameter's checkpoint again
    shutil.copytree(models[1], tmp_path / "step_00000009")
    moved = replace(asked, critic=str(tmp_path / "gone"))
    heir, _ = loaded(as_published(moved, Published(1, {"critic": tmp_path / "step_00000009"}, {})), old)
    assert heir.take(old).versions["online"] == "1"


def broken(how, asked, models, tmp_path):
    if how == "damaged":
        critic = tmp_path / "critic"
        shutil.copytree(models[1], critic)
        weights = critic / "model.safetensors"
        weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
        return replace(asked, critic=str(critic))
    if how == "another robot's":
        (tmp_path / "other").mkdir()
        return replace(asked, critic=str(save_models(tmp_path / "other", mapping(rate=20.0).spec)[1]))
    if how == "more observations":
        (tmp_path / "other").mkdir()
        policy, critic = save_models(tmp_path / "other", mapping().spec, n_obs_steps=3)
        return replace(asked, policy=str(policy), critic=str(critic))
    if how == "beside another policy":
        return replace(asked, number=2, expected={"policy": "flow 0123456789ab"})
    return replace(asked, policy=str(tmp_path / "missing"))


@pytest.mark.parametrize("how", ["damaged", "another robot's", "more observations", "beside another policy", "missing"])
def test_what_cannot_be_used_is_refused_with_the_reason_and_the_old_one_stays(asked, old, models, tmp_path, how):
    # mutation: let the exception end the thread without a word; hand over before the comparison
    heir, said = loaded(broken(how, asked, models, tmp_path), old)
    assert "refused" in said[0] and heir.refused and heir.refused in said[0]
    assert heir.take(old) is old
    heir, _ = loaded(asked, old)
    assert heir.refused == "" and heir.take(old) is not old


def test_a_policy_of_another_shape_is_named_with_both_numbers(asked, old, models, tmp_path):
    # mutation: got others; hand it over to a robot that stacks fewer observations
    heir, _ = loaded(broken("more observations", asked, models, tmp_path), old)
    assert "expected n_obs_steps 2 as of the one that decides, got 3" in heir.refused


def test_an_error_without_words_is_told_by_its_name(asked, old, monkeypatch):
    # mutation: "" for the reason, which means that nothing is wrong
    def failing(setup, robot):
        raise MemoryError

    monkeypatch.setattr(steering_setup, "prepare", failing)
    heir, said = loaded(asked, old)
    assert heir.refused == "MemoryError" and "MemoryError" in said[0]


def test_a_look_that_failed_is_forgotten_when_the_next_one_is_fine(tmp_path, monkeypatch):
    # mutation: keep the reason until a newer version is ready; end the thread with the first error; say nothing of a
    # misspelled folder
    pytest.importorskip("rclpy")
    from robot_value.ros_nodes import steering_node

    def publish(number):
        told = {"format_version": 1, "version": number, "made": {}, "versions": {}}
        (tmp_path / publication.FILE).write_text(json.dumps(told))

    def until(true):
        end = time.monotonic() + PATIENCE
        while not true() and time.monotonic() < end:
            time.sleep(0.001)
        assert true()

    monkeypatch.setattr(steering_node, "LOOK", 0.001)
    config = steering_node.Config(topics="topics.yaml", policy="policy", online=str(tmp_path))
    steering = steering_node.Steering(None, config)
    steering.asked, steering.thinking = steering_node._setup(config), SimpleNamespace(lag=0)
    steering.heir = SimpleNamespace(ask=lambda setup, old: "")
    watching = threading.Thread(target=steering._follow)
    watching.start()
    try:
        until(lambda: "no version yet" in steering.unread)
        publish(2)
        until(lambda: steering.unread == "" and steering.asked.number == 2)
        (tmp_path / publication.FILE).write_text("{")
        until(lambda: publication.FILE in steering.unread)
        publish(1)
        until(lambda: "versions never go back" in steering.unread)
        publish(2)
        until(lambda: steering.unread == "")
    finally:
        steering._closing.set()
        watching.join()


def test_one_is_loaded_at_a_time_and_the_newest_that_is_ready_takes_over(asked, old, monkeypatch):
    # mutation: a thread per call; the first that was ready stays
    gate, made = threading.Event(), []

    def slow(setup, robot):
        gate.wait(PATIENCE)
        made.append(prepare(setup, robot))
        return made[-1]

    monkeypatch.setattr(steering_setup, "prepare", slow)
    heir = Heir(mapping().spec, lambda text: None)
    assert heir.ask(asked, old) == ""
    assert "being loaded" in heir.ask(asked, old)
    assert heir.take(old) is old  # nothing is ready: nobody waits
    gate.set()
    heir._thread.join(PATIENCE)
    assert heir.ask(replace(asked, number=5), old) == ""
    heir._thread.join(PATIENCE)
    assert len(made) == 2 and heir.take(old) is made[1]
    assert np.isfinite(made[1].latency).all()
