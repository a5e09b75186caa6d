"""Collecting: every seed once, marked honestly, whatever interrupts it."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from fakes import PointMass

from robot_value.collect import Collected, collect, describe
from robot_value.episodes.store import EpisodeStore
from robot_value.types import SpecMismatch


@dataclass(frozen=True)
class Config:
    """A robots component's Config, as far as collecting needs it."""

    quality: tuple[float, ...] = (0.1, 0.2)
    unstable: tuple[int, ...] = ()
    presses: ClassVar[int] = 0  # of Ctrl-C, during the third decision
    built: ClassVar[list[Interrupting]] = []

    def build(self, batch_size: int, workers: int = 0, n_obs_steps: int = 1, driver: str = "policy"):
        robot = Interrupting(batch_size, n_obs_steps=n_obs_steps, expert=driver == "expert", unstable=self.unstable)
        robot.presses, robot.calls = self.presses, 0
        self.built.append(robot)
        return robot


class Interrupting(PointMass):
    def execute(self, decision, follower):
        self.calls += 1
        for _ in range(self.presses if self.calls == 3 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return super().execute(decision, follower)


@pytest.fixture(autouse=True)
def nothing_built():
    Config.built.clear()


def seeds(path) -> list[int]:
    return [episode.provenance["seed"] for episode in EpisodeStore.open(path)]


def run(config, path, episodes, **options) -> Collected:
    return collect(config, path, episodes, progress=False, **options)


def test_every_seed_becomes_one_episode_driven_by_the_expert(tmp_path):
    config = Config()
    done = run(config, tmp_path / "s", 7, first_seed=10, batch_size=3)
    assert seeds(tmp_path / "s") == list(range(10, 17))
    assert (done.present, done.recorded, done.successes, done.unstable) == (0, 7, 7, 0) and done.success_rate == 1
    episodes = list(EpisodeStore.open(tmp_path / "s"))
    assert done.steps == sum(map(len, episodes)) and config.built[0].closed
    assert all((episode.source == 1).all() and not episode.decisions for episode in episodes)
    np.testing.assert_allclose(np.abs(episodes[0].states[-1]), 0, atol=0.1)  # the expert went home


def test_provenance_says_where_an_episode_comes_from(tmp_path):
    run(Config(), tmp_path / "s", 1, first_seed=4, task="home")
    provenance = next(iter(EpisodeStore.open(tmp_path / "s"))).provenance
    start = np.random.default_rng(4).uniform(-1, 1, 2).astype(np.float32)
    assert provenance["seed"] == 4 and provenance["latents"] == {"start": start.tolist()}
    assert provenance["robot"] == describe(Config()) and provenance["robot"]["config"]["quality"] == [0.1, 0.2]
    assert provenance["task"] == "home" and not provenance["unstable"]
    assert {"robot_value", "numpy"} <= set(provenance["libraries"])


def test_running_again_adds_exactly_the_missing_seeds(tmp_path):
    config = Config()
    run(config, tmp_path / "s", 3, first_seed=2)
    again = run(config, tmp_path / "s", 6)
    assert (again.present, again.recorded) == (3, 3)
    assert seeds(tmp_path / "s") == [2, 3, 4, 0, 1, 5]
    built = len(config.built)
    last = run(config, tmp_path / "s", 6)  # nothing is missing: no simulator is started
    assert (last.present, last.recorded, len(config.built)) == (6, 0, built) and np.isnan(last.success_rate)


def test_another_robot_config_or_task_has_seeds_of_its_own(tmp_path):
    # mutation: comparing the seed alone in recorded_seeds
    run(Config(), tmp_path / "s", 2)
    assert run(replace(Config(), quality=(0.9,)), tmp_path / "s", 2).recorded == 2
    assert run(Config(), tmp_path / "s", 2, task="home").recorded == 2
    assert len(EpisodeStore.open(tmp_path / "s")) == 6


def test_unstable_episodes_are_stored_marked_and_not_tried_again(tmp_path):
    config = Config(unstable=(1,))
    done = run(config, tmp_path / "s", 3)
    assert (done.recorded, done.unstable) == (3, 1) and done.successes == 2 and done.success_rate == 1
    marks = {e.provenance["seed"]: e.provenance["unstable"] for e in EpisodeStore.open(tmp_path / "s")}
    assert marks == {0: False, 1: True, 2: False}
    assert run(config, tmp_path / "s", 3).recorded == 0


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_keeps_what_is_finished_and_the_next_call_completes_it(tmp_path, presses, capsys, monkeypatch):
    path = tmp_path / "s"
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Config, "presses", presses)
    config = Config()
    done = run(config, path, 9, batch_size=2)
    monkeypatch.undo()
    assert done.interrupted and 0 < done.recorded < 9 and config.built[0].closed
    assert signal.getsignal(signal.SIGINT) is handler and "press Ctrl-C again" in capsys.readouterr().err
    assert len(EpisodeStore.open(path)) == done.recorded
    rest = run(Config(), path, 9, batch_size=2)
    assert not rest.interrupted and rest.present == done.recorded and sorted(seeds(path)) == list(range(9))


def test_the_store_stays_open_for_the_next_writer_also_after_an_error(tmp_path):
    path = tmp_path / "s"
    run(Config(), path, 1)

    class Wider(Config):
        def build(self, **options):
            robot = super().build(**options)
            robot.spec = robot.spec.choose(dt=0.5)
            return robot

    config = Wider()
    with pytest.raises(SpecMismatch, match=r"the robot does not match: dt: expected 0.1, got 0.5"):
        run(config, path, 2)
    assert config.built[0].closed
    assert run(Config(), path, 2).recorded == 1


def test_outside_the_main_thread_collecting_works_without_a_signal_handler(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(Config(), tmp_path / "s", 2)))
    thread.start()
    thread.join()
    assert found[0].recorded == 2
