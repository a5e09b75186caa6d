"""Many actors: they play what one plays, an episode that is on disk survives every death, and Ray changes nothing."""

import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from online_fakes import Here, PointConfig, save_models

from robot_value import beside
from robot_value.arms import MAIN
from robot_value.episodes.errors import StoreError
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.online.acting import Acting, Round, Version, play
from robot_value.online.backends import Crew, Local, actors, deal, gather
from robot_value.online.supervised import Config as Supervisor
from robot_value.playing import Site
from robot_value.workers import LocalActor

ARM = Arm("online", "softmax_average", {"temperature": 0.5}, n=3, critic=MAIN)
ROBOT = PointConfig(max_steps=6)
SEEDS = tuple(range(100, 112))  # two waves of 5 and a short one


@pytest.fixture(scope="module", autouse=True)
def no_power_is_lost():
    """Only processes die here: their files need not be on the disk, and the tests need not wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    policy, critic = save_models(tmp_path_factory.mktemp("models"))
    return Version(3, Path(policy), Path(critic))


@dataclass(frozen=True)
class Fragile:
    """A point robot whose process is killed the first time that it meets the seed; `marks` counts how often."""

    deadly: int
    marks: str  # a folder
    times: int = 1

    def build(self, batch_size, **options):
        robot = ROBOT.build(batch_size, **options)
        execute = robot.execute

        def fatal(decision, follower):
            died = len(os.listdir(self.marks))
            late = max(robot.step) >= 3  # in the middle of the wave
            if late and self.deadly in robot.seed and died < self.times:
                Path(self.marks, str(died)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return execute(decision, follower)

        robot.execute = fatal
        return robot


def acting(store, robot=None, batch_size=5):
    return Acting(Site(robot or ROBOT, batch_size, 0), ARM, store, seed=7)


def content(store):
    """Everything of the episodes that does not depend on the clock, by seed; each seed may be there once."""
    store, found = EpisodeStore.open(store), {}
    for name in store.names():
        episode = store.read(name)
        seed = episode.provenance["seed"]
        assert seed not in found, f"seed {seed} was recorded twice"
        scores = b"".join(each.value.tobytes() for each in episode.decisions)
        found[seed] = (episode.states.tobytes(), episode.actions.tobytes(), scores, episode.provenance["version"])
    return found


@pytest.fixture(scope="module")
def alone(version, tmp_path_factory):
    """What one actor in the test's process plays and says."""
    store = tmp_path_factory.mktemp("alone") / "episodes"
    played = Local(Here()).submit_round(acting(store), Round(1, version, SEEDS)).result()
    return content(store), played


def seeds_of(store, names):
    store = EpisodeStore.open(store)
    return tuple(store.about(name)["provenance"]["seed"] for name in names)


class InTurn(Here):
    """One of several in this process, whose robot they share."""

    turn: ClassVar[threading.Lock] = threading.Lock()

    def submit(self, function, *arguments):
        with self.turn:
            return super().submit(function, *arguments)


class Mortal(Here):
    """Dies at its n-th call after it has recorded some of what it was asked for."""

    left: ClassVar[dict[int, int]] = {}  # call number -> seeds that are recorded before the death

    def submit(self, function, acting, round):
        with InTurn.turn:
            Mortal.calls_of_all += 1
            if (some := self.left.get(Mortal.calls_of_all)) is None:
                return super().submit(function, acting, round)
            if some:
                function(acting, Round(round.number, round.version, round.seeds[:some]))
        future = Future()
        future.set_exception(BrokenExecutor("killed"))
        return future


@pytest.fixture
def mortal(monkeypatch):
    monkeypatch.setattr(Mortal, "calls_of_all", 0, raising=False)
    return lambda left: monkeypatch.setattr(Mortal, "left", left) or Mortal


# -- the same episodes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 5])
def test_any_number_of_actors_plays_the_episodes_that_one_plays(version, alone, tmp_path, number):
    # mutation: deal seeds instead of waves (an episode's last bits depend on its row); let several write to one store
    store, hired = tmp_path / "episodes", [InTurn() for _ in range(number)]
    crew = Crew(iter(hired).__next__, number)
    played = crew.submit_round(acting(store), Round(1, version, SEEDS)).result()
    crew.close()
    assert content(store) == alone[0]
    assert seeds_of(store, played.names) == SEEDS
    assert (played.success, played.steps) == (alone[1].success, alone[1].steps)
    written = [asked.store for each in hired for asked, _ in each.calls]
    assert written == [store] if number == 1 else len({store, *written}) == 1 + min(number, 3)
    assert not (tmp_path / "episodes.actors").exists()


def test_an_evaluation_is_told_in_the_order_of_the_seeds_and_not_recorded(version):
    # mutation: in the order of the actors; or a store for evaluations
    robot = PointConfig(max_steps=6, unstable=SEEDS[6:8])  # whose episodes are shorter
    crew = Crew(InTurn, 2)
    played = crew.submit_round(acting(None, robot), Round(0, version, SEEDS)).result()
    crew.close()
    assert played == Local(Here()).submit_round(acting(None, robot), Round(0, version, SEEDS)).result()
    assert len(set(played.steps[6:8])) == 1 and len(set(played.steps)) == 2 and played.names == ()


def test_waves_are_dealt_whole_and_evenly():
    # mutation: leave the last waves out; an empty part for an actor that is not needed
    left = [(1, 2), (3, 4), (5,)]
    assert deal(left, 2) == [[(1, 2), (5,)], [(3, 4)]] and deal(left, 9) == [[(1, 2)], [(3, 4)], [(5,)]]


def test_processes_of_this_machine_play_the_same_and_outlive_a_kill(version, alone, tmp_path):
    # mutation: do not replace who died; play what is recorded again
    marks = tmp_path / "marks"
    marks.mkdir()
    with actors("local", 1) as crew:
        robot = Fragile(SEEDS[7], str(marks))
        played = crew.submit_round(acting(tmp_path / "episodes", robot), Round(1, version, SEEDS)).result()
    assert len(list(marks.iterdir())) == 1
    assert content(tmp_path / "episodes") == alone[0] and len(played.names) == len(SEEDS)


def test_ctrl_c_does_not_reach_a_process_that_is_ended_at_once_when_it_is_dismissed():
    # mutation: leave SIGINT as it is; let it finish what it is doing
    process = LocalActor()
    assert process.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    busy = process.submit(time.sleep, 60)
    while not busy.running():  # what has not begun is cancelled
        time.sleep(0.01)
    process.shutdown(wait=False, cancel_futures=True)
    assert isinstance(busy.exception(), BrokenExecutor)
    process.shutdown(cancel_futures=True)  # again: nobody is there


def test_an_actor_with_another_working_folder_finds_everything(version, tmp_path, monkeypatch):
    # mutation: hand relative paths on
    monkeypatch.chdir(tmp_path)
    relative = Version(3, *(Path(os.path.relpath(path)) for path in (version.policy, version.critic)))
    actor = Here()
    crew = Crew(lambda: actor, 1)
    crew.submit_round(acting(Path("episodes")), Round(1, relative, SEEDS[:1])).result()
    judged = replace(acting(None), supervisor=Supervisor(judge="judge"))
    crew.submit_round(judged, Round(0, relative, SEEDS[:1])).result()
    crew.close()
    (asked, round), (watched, _) = actor.calls
    assert all(path.is_absolute() for path in (asked.store, round.version.policy, round.version.critic))
    assert watched.supervisor.judge == str(Path.cwd() / "judge")


# -- deaths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("left", [{1: 0}, {1: 3, 2: 1}, {2: 2, 4: 5}])
def test_what_a_dead_actor_recorded_stays_and_the_rest_is_played_by_another(
    version, alone, tmp_path, mortal, number, left
):
    # mutation: forget the dead one's store; record again what its cut-off wave had
    store = tmp_path / "episodes"
    crew = Crew(mortal(left), number)
    played = crew.submit_round(acting(store), Round(1, version, SEEDS)).result()
    crew.close()
    assert content(store) == alone[0] and seeds_of(store, played.names) == SEEDS


def test_actors_that_only_die_end_the_run_and_what_is_recorded_stays(version, tmp_path, mortal):
    # mutation: try for ever; or count deaths that brought an episode with them
    store = tmp_path / "episodes"
    crew = Crew(mortal({1: 5, 2: 10} | dict.fromkeys(range(3, 99), 0)), 1)
    with pytest.raises(ChildProcessError, match="play: expected an actor that finishes it, got 3 deaths in a row"):
        crew.submit_round(acting(store), Round(1, version, SEEDS)).result()
    crew.close()
    assert sorted(content(store)) == list(SEEDS[:10]) and Mortal.calls_of_all == 5


def test_an_error_of_the_robot_is_raised_and_is_no_death(tmp_path, version):
    # mutation: take every exception for a death
    @dataclass(frozen=True)
    class Broken:
        def build(self, **_):
            raise OSError("no arm there")

    crew = Crew(InTurn, 2)
    with pytest.raises(OSError, match="no arm there"):
        crew.submit_round(acting(tmp_path / "episodes", Broken()), Round(1, version, SEEDS)).result()
    crew.close()


# -- a store for each actor, one for all -------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def finished(version, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    for k in (0, 1):
        play(acting(folder / str(k)), Round(1, version, SEEDS[5 * k : 5 * k + 5]))
    return folder


@pytest.fixture
def apart(finished, tmp_path):
    """The run's store, not there yet; beside it those of two actors who have finished, and nobody has gathered."""
    shutil.copytree(finished, tmp_path / "episodes.actors")
    return tmp_path / "episodes"


@pytest.mark.parametrize("at", [0, 3, 5, 6, 8, 11])  # 5 and 11: an actor's store is being removed
def test_gathering_that_is_cut_off_anywhere_loses_and_doubles_nothing(version, alone, apart, monkeypatch, at):
    # mutation: remove an actor's store before its episodes are adopted, or without taking its zarr.json away first
    steps, rmtree = [0], shutil.rmtree

    def counted(function):
        def call(*arguments, **options):
            steps[0] += 1
            if steps[0] == at + 1:
                if function is rmtree:
                    rmtree(Path(arguments[0]) / "episodes")  # half of it
                raise Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(beside, "adopt", counted(beside.adopt))
        patched.setattr(beside, "shutil", SimpleNamespace(rmtree=counted(rmtree)))  # not the store's own
        with pytest.raises(Killed):
            gather(apart, Round(1, version, SEEDS))
    gather(apart, Round(1, version, SEEDS))
    assert content(apart) == {seed: alone[0][seed] for seed in SEEDS[:10]}
    assert not apart.with_name("episodes.actors").exists()


def test_a_run_that_was_killed_with_many_actors_goes_on_with_one(version, alone, apart):
    # mutation: gather only what is left when all has been played again
    safe = {path.name[9:] for path in apart.parent.glob("episodes.actors/*/episodes/0*")}
    crew = Crew(Here, 1)
    crew.submit_round(acting(apart), Round(1, version, SEEDS)).result()
    crew.close()
    assert content(apart) == alone[0]
    assert len(safe) == 10 and safe <= {name[9:] for name in EpisodeStore.open(apart).names()}  # the very same


def test_an_actor_that_still_writes_is_not_robbed(version, apart):
    # mutation: gather without the writer's lock
    writing = apart.with_name("episodes.actors") / "1"
    with EpisodeStore.open(writing, "a"), pytest.raises(StoreError, match="being written by"):
        gather(apart, Round(1, version, SEEDS))
    assert len(EpisodeStore.open(writing).names()) == 5


@pytest.mark.parametrize(("name", "number", "words"), [("dask", 1, "local, ray"), ("local", 0, "at least 1")])
def test_what_is_no_backend_is_refused(name, number, words):
    # mutation: fall back to local
    with pytest.raises(ValueError, match=words), actors(name, number):
        pass


# -- Ray ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    if find_spec("ray") is None:  # not importorskip: what Ray reads when it is imported is set by us
        pytest.skip('needs Ray (extra "scale")')
    from robot_value.ray_actors import cluster

    with cluster(2):
        yield


def test_one_ray_actor_plays_what_no_ray_plays(cluster, version, alone, tmp_path):
    # mutation: several threads of torch in the actor
    from robot_value.ray_actors import RayActor

    crew = Crew(RayActor, 1)
    played = crew.submit_round(acting(tmp_path / "episodes"), Round(1, version, SEEDS)).result()
    crew.close()
    assert content(tmp_path / "episodes") == alone[0]
    assert (played.success, played.steps) == (alone[1].success, alone[1].steps)
    assert [name[:8] for name in played.names] == [name[:8] for name in alone[1].names]  # stored in the same order


def test_a_ray_actor_that_is_killed_is_replaced_and_loses_nothing(cluster, version, alone, tmp_path):
    # mutation: RayActorError is not taken for a death
    from robot_value.ray_actors import RayActor

    marks = tmp_path / "marks"
    marks.mkdir()
    crew = Crew(RayActor, 2)
    robot = Fragile(SEEDS[7], str(marks))
    played = crew.submit_round(acting(tmp_path / "episodes", robot), Round(1, version, SEEDS)).result()
    crew.close()
    assert len(list(marks.iterdir())) == 1
    assert content(tmp_path / "episodes") == alone[0] and seeds_of(tmp_path / "episodes", played.names) == SEEDS


def test_an_error_in_a_ray_actor_comes_as_itself(cluster):
    # mutation: raise RayTaskError
    from robot_value.ray_actors import RayActor

    actor = RayActor()
    with pytest.raises(ZeroDivisionError):
        actor.submit(divmod, 1, 0).result()
    assert actor.submit(os.getpid).result() != os.getpid()
    actor.shutdown()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ray_listens_on_loopback_only(cluster):
    # mutation: leave Ray's environment as it is: it listens on every interface
    found = [address for pid in descendants(os.getpid()) for address in listening(pid)]
    assert found and all(address in ("0100007F", "0000000000000000FFFF00000100007F") for address in found), found


def descendants(pid):
    children = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    return children + [each for child in children for each in descendants(child)]


def listening(pid):
    """Addresses that a process listens on, as the kernel writes them."""
    links = (os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir())
    sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                yield words[1].split(":")[0]
