"""Playing by several actors: they play what one process plays, whoever dies is replaced, Ctrl-C ends it cleanly."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from online_fakes import Here, PointConfig, save_models
from recorded import make_spec

from robot_value import cli, crowd, workers
from robot_value.arms import MAIN
from robot_value.beside import beside
from robot_value.collect import collect
from robot_value.crowd import collect_by
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm, compare, in_a_row
from robot_value.playing import Models, Site, load, play_all
from robot_value.types import SpecMismatch
from robot_value.workers import PATIENCE, Team, run_all, team

ROBOT, SEEDS = PointConfig(max_steps=6), tuple(range(100, 112))  # two waves of 5 and a short one
ARMS = [Arm("base"), Arm("soft", "softmax_average", {"temperature": 0.5}, n=3, critic=MAIN)]


@pytest.fixture(scope="module", autouse=True)
def no_power_is_lost():
    """Only processes die here: their files need not be on the disk, and the tests need not wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@dataclass(frozen=True)
class Fragile:
    """A point robot whose process is killed the first time that it meets the seed; `marks` counts how often."""

    deadly: int
    marks: str  # a folder
    late: int = 3  # control steps into the wave

    def build(self, batch_size, **options):
        robot = ROBOT.build(batch_size, **options)
        execute = robot.execute

        def fatal(decision, follower):
            if max(robot.step) >= self.late and self.deadly in robot.seed and not os.listdir(self.marks):
                Path(self.marks, "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return execute(decision, follower)

        robot.execute = fatal
        return robot


class Mortal(Here):
    """Dies at some of the calls that are made of all of its kind, counted from 1."""

    def __init__(self, deadly, numbers) -> None:
        super().__init__()
        self.deadly, self.numbers, self.ended = deadly, numbers, False

    def submit(self, function, *arguments):
        if self.ended:
            raise RuntimeError("cannot schedule new futures after shutdown")  # as every Executor
        if next(self.numbers) not in self.deadly:
            return super().submit(function, *arguments)
        future = Future()
        future.set_exception(BrokenExecutor("killed"))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.ended = True


def square(number):
    return number**2


def hired(deadly=()):
    """What hires mortals, and those that it has hired."""
    actors, numbers = [], itertools.count(1)

    def hire():
        actors.append(Mortal(deadly, numbers))
        return actors[-1]

    return hire, actors


# A team of actors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("deadly", [(), (1,), (2, 3), (4, 6)])
def test_a_team_answers_every_call_and_replaces_who_dies(number, deadly):
    # mutation: give up at the first death; go on with the dead one
    hire, actors = hired(deadly)
    members = Team(hire, number)
    calls = {i: (square, (i,)) for i in range(6)}
    assert run_all(members, calls, "squares", progress=False) == {i: i * i for i in range(6)}
    assert len(actors) == number + len(deadly) and sum(len(actor.calls) for actor in actors) == 6
    assert sum(actor.ended for actor in actors) == len(deadly)
    members.shutdown()
    assert all(actor.ended for actor in actors)


def test_a_call_that_kills_whoever_makes_it_is_given_up():
    # mutation: try for ever
    hire, actors = hired(range(1, 99))
    with pytest.raises(ChildProcessError, match="square: expected an actor that finishes it, got 3 deaths in a row"):
        Team(hire, 1).submit(square, 2).result()
    assert len(actors) == 1 + PATIENCE and all(actor.ended for actor in actors[:PATIENCE])


def test_deaths_that_something_came_of_are_not_counted():
    # mutation: count all deaths of a call; count none
    hire, actors = hired(range(1, 99))
    progress = iter([0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2])  # before and after the first death, the second, ...
    members = Team(hire, 1, lambda number: next(progress))
    with pytest.raises(ChildProcessError, match="3 deaths in a row"):
        members.submit(square, 2).result()
    assert len(actors) == 1 + 6 and next(progress, None) is None


def test_who_is_dismissed_in_the_middle_of_a_call_is_not_replaced():
    # mutation: hire another, who makes the call to its end
    hire, actors = hired()
    members, begun, asked = Team(hire, 1), threading.Event(), Future()
    actors[0].submit = lambda *_: begun.set() or asked
    actors[0].shutdown = lambda *_, **__: asked.done() or asked.set_exception(BrokenExecutor("dismissed"))
    answer = members.submit(square, 2)
    assert begun.wait(60)
    members.shutdown(cancel_futures=True)
    assert isinstance(answer.exception(), BrokenExecutor) and len(actors) == 1


def test_who_has_died_since_the_last_call_is_replaced():
    # mutation: only deaths that a future tells count
    def gone(*_):
        raise BrokenExecutor("it died long ago")

    hire, actors = hired()
    members = Team(hire, 1)
    actors[0].submit = gone
    assert members.submit(square, 2).result() == 4
    assert len(actors) == 2 and actors[0].ended


def test_processes_of_this_machine_are_a_team_too(monkeypatch):
    # mutation: a pool of processes, which breaks as a whole
    hire, actors = hired((1,))
    monkeypatch.setattr(workers, "LocalActor", hire)
    with team("local", 2) as members:
        assert members.submit(square, 3).result() == 9
    assert len(actors) == 3 and all(actor.ended for actor in actors)


def test_an_error_is_raised_as_itself_and_is_no_death():
    # mutation: take every exception for a death
    hire, actors = hired()
    with pytest.raises(ZeroDivisionError):
        Team(hire, 1).submit(divmod, 1, 0).result()
    assert len(actors) == 1


@pytest.mark.parametrize(("name", "number", "words"), [("dask", 1, "local, ray"), ("local", 0, "at least 1")])
def test_what_is_no_team_is_refused(name, number, words):
    with pytest.raises(ValueError, match=words), team(name, number):
        pass


# Evaluation ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    policy, critic = save_models(tmp_path_factory.mktemp("models"))
    return Models(0, Path(policy), {MAIN: Path(critic)})


def played(executor, models, robot=ROBOT, batch_size=5):
    return play_all(executor, Site(robot, batch_size), [models], ARMS, SEEDS, 7, SEEDS[:6])


@pytest.fixture(scope="module")
def alone(models):
    """All arms on all seeds, one after the other in this process, as a user of the library compares them."""
    trained = load(models)
    robot = ROBOT.build(5)
    gamma = trained.critics[MAIN].gamma
    return compare(robot, trained.policy, trained.critics, ARMS, SEEDS, seed=7, gamma=gamma, progress=False)


def assert_the_same_comparison(found, alone):
    assert found.seeds == alone.seeds and list(found.arms) == list(alone.arms)
    for name, expected in alone.arms.items():
        got = found.arms[name]
        for field in ("success", "steps", "reward", "unstable"):
            np.testing.assert_array_equal(getattr(got, field), getattr(expected, field))
        for field in expected.decisions.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(got.decisions, field), getattr(expected.decisions, field))
        assert got.reasons == expected.reasons
        assert found.row(name)["success"] == alone.row(name)["success"]
    assert found.difference("soft", "base") == alone.difference("soft", "base")


def test_waves_that_are_played_apart_are_the_comparison_of_all(models, alone):
    # mutation: deal seeds instead of waves; join waves along the training seeds
    actor = Here()
    found, kept = played(Team(lambda: actor, 1), models)
    assert [job.seeds for (job,) in actor.calls] == [SEEDS[:5], SEEDS[5:10], SEEDS[10:]] * 2
    assert_the_same_comparison(found, alone)
    assert {name: sorted(episodes) for name, episodes in kept.items()} == {"base": [*SEEDS[:6]], "soft": [*SEEDS[:6]]}


def test_a_seed_is_played_once(alone):
    with pytest.raises(ValueError, match="environment seeds must differ"):
        in_a_row([alone, alone])


# Collecting ---------------------------------------------------------------------------------------------------------


def content(path):
    """Everything of the episodes, in the order of the store."""
    store = EpisodeStore.open(path)
    episodes = [store.read(name) for name in store.names()]
    return [(e.states.tobytes(), e.actions.tobytes(), e.rewards.tobytes(), e.provenance) for e in episodes]


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """What one process collects, and says."""
    path = tmp_path_factory.mktemp("collected") / "episodes"
    return path, collect(ROBOT, path, 12, 100, batch_size=5, progress=False)


def by(executor, path, robot=ROBOT, episodes=12):
    return collect_by(executor, robot, path, episodes, 100, batch_size=5, progress=False)


def test_actors_collect_what_one_process_collects_in_its_order(collected, tmp_path):
    # mutation: adopt in the order of names without zeros; count what the actors say of waves they played twice
    actor = Here()
    done = by(Team(lambda: actor, 1), tmp_path / "episodes")
    assert len(actor.calls) == 3 and done == collected[1]
    assert content(tmp_path / "episodes") == content(collected[0])
    assert [path.name for path in tmp_path.iterdir()] == ["episodes"]
    again = by(Team(lambda: actor, 1), tmp_path / "episodes")  # nothing is missing
    assert (again.present, again.recorded, len(actor.calls)) == (12, 0, 3)


def test_what_a_call_that_was_cut_off_has_stored_is_adopted_and_not_played_again(collected, tmp_path):
    # mutation: leave it beside the store for ever; play its seeds again
    path, actor = tmp_path / "episodes", Here()
    collect(ROBOT, beside(path, "000001"), 5, 105, batch_size=5, progress=False)
    done = by(Team(lambda: actor, 1), path)
    assert (done.present, done.recorded) == (5, 7)
    assert sorted(content(path), key=seed_of) == sorted(content(collected[0]), key=seed_of)


def seed_of(episode):
    return episode[-1]["seed"]


def test_a_wave_that_was_cut_off_is_played_whole_and_only_what_it_lacks_is_stored(collected, tmp_path):
    # mutation: store all of it again; play the rest in other rows
    own = beside(tmp_path / "episodes", "0")
    collect(ROBOT, own, 2, 100, batch_size=2, progress=False)
    crowd.play(crowd.Wave(ROBOT, tmp_path / "episodes", "0", SEEDS[:5], 5, ""))
    assert sorted(map(seed_of, content(own))) == list(SEEDS[:5])


def test_what_a_call_for_another_robot_has_left_is_adopted_too(tmp_path):
    # mutation: adopt the episodes of this robot alone, and remove the store they lie in
    path = tmp_path / "episodes"
    collect(PointConfig(max_steps=9), beside(path, "000000"), 3, 100, batch_size=3, progress=False)
    done = by(Team(Here, 1), path)
    assert (done.present, done.recorded) == (0, 12)
    assert sorted(map(seed_of, content(path))) == sorted([100, 101, 102, *SEEDS])
    assert [each.name for each in tmp_path.iterdir()] == ["episodes"]


def test_a_store_of_another_robot_is_refused_before_anything_is_played(tmp_path):
    # mutation: compare when all has been played and is to be adopted
    spec = make_spec()
    EpisodeStore.create(tmp_path / "episodes", spec).close()
    with pytest.raises(SpecMismatch, match="the robot does not match"):
        by(Team(Here, 1), tmp_path / "episodes")
    assert not (tmp_path / "episodes.actors").exists()


@dataclass(frozen=True)
class Pressed:
    """A robot during whose second wave somebody presses Ctrl-C, once; the wave goes on when the actors were told."""

    waves: ClassVar[list] = []
    actors: ClassVar[list] = []

    def build(self, batch_size, **options):
        robot = ROBOT.build(batch_size, **options)
        reset = robot.reset

        def pressing(*arguments):
            self.waves.append(arguments)
            if len(self.waves) == 2:
                os.kill(os.getpid(), signal.SIGINT)
                end = time.monotonic() + 60
                while not all(actor.ended for actor in self.actors) and time.monotonic() < end:
                    time.sleep(0.001)
            return reset(*arguments)

        robot.reset = pressing
        return robot


@pytest.fixture
def ctrl_c():
    """Ctrl-C as a terminal gives it: a shell that starts the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_actors_keeps_what_is_finished_and_the_next_call_goes_on(tmp_path):
    # mutation: wait for the waves that have not begun; lose what the actors have stored
    hire, Pressed.actors = hired()
    Pressed.waves.clear()
    done = by(Team(hire, 1), tmp_path / "episodes", Pressed(), episodes=30)
    assert done.interrupted and done.recorded == 10 and all(actor.ended for actor in Pressed.actors)
    rest = by(Team(Here, 1), tmp_path / "episodes", Pressed(), episodes=30)
    assert not rest.interrupted and rest.present == done.recorded and rest.recorded == 30 - done.recorded
    assert sorted(map(seed_of, content(tmp_path / "episodes"))) == list(range(100, 130))


def test_the_commands_hand_backend_and_actors_on(monkeypatch, tmp_path, models, capsys):
    # mutation: --workers processes whatever --actors says
    (tmp_path / "their_lab").mkdir()
    (tmp_path / "their_lab" / "__init__.py").touch()
    (tmp_path / "their_lab" / "point.py").write_text("from online_fakes import PointConfig as Config\n")
    monkeypatch.syspath_prepend(tmp_path)
    asked = []

    @contextmanager
    def here(backend, number):
        asked.append((backend, number))
        yield Team(Here, 1)

    for module in ("commands.collect", "study"):
        monkeypatch.setattr(f"robot_value.{module}.team", here)
    robot = ["--robot.type=their_lab.point", "--robot.max_steps=6", "--batch_size=5"]
    data = [f"--out={tmp_path}/episodes", "--episodes=6", "--backend=ray", "--actors=3"]
    assert cli.main(["collect", *robot, *data]) == 0
    assert "6 recorded" in capsys.readouterr().out
    plan = ["--plan.candidates=[2]", "--plan.test_episodes=3", "--plan.validation_episodes=2"]
    plan += ["--plan.headroom_episodes=0", "--plan.timelines=0", f"--out={tmp_path}/page"]
    both = [f"--policy={models.policy}", f"--critic={models.critics[MAIN]}"]
    assert cli.main(["evaluate", *robot, *both, *plan, "--backend=ray", "--actors=2"]) == 0
    assert json.loads((tmp_path / "page" / "results.json").read_text())["arms"]["base"]["n"] == 3
    assert asked == [("ray", 3), ("ray", 2)]


# Ray ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rays():
    if find_spec("ray") is None:  # not importorskip: what Ray reads when it is imported is set by us
        pytest.skip('needs Ray (extra "scale")')
    with team("ray", 2) as actors:
        yield actors


def test_ray_actors_play_what_no_ray_plays_though_one_is_killed(rays, models, alone, tmp_path):
    # mutation: several threads of torch in the actor; RayActorError is not taken for a death
    found, kept = played(rays, models, Fragile(SEEDS[7], str(tmp_path)))
    assert os.listdir(tmp_path) == ["died"]
    assert_the_same_comparison(found, alone)
    assert sorted(kept["base"]) == list(SEEDS[:6])


def test_ray_actors_collect_what_no_ray_collects_though_one_is_killed(rays, tmp_path):
    # mutation: relative paths; a wave's store that the dead one still holds
    (tmp_path / "marks").mkdir()
    robot = Fragile(SEEDS[7], str(tmp_path / "marks"), late=0)
    done = by(rays, tmp_path / "episodes", robot)
    assert os.listdir(tmp_path / "marks") == ["died"] and (done.recorded, done.interrupted) == (12, False)
    collect(robot, tmp_path / "alone", 12, 100, batch_size=5, progress=False)
    assert content(tmp_path / "episodes") == content(tmp_path / "alone")
