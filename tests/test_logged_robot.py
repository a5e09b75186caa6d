"""A log played through the one loop: the steerer meets what the recording one met, and decides the same bit by bit."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from fakes import HomingCritic, HomingPolicy, Notebook, PointMass
from recorded import assert_same, make_episode, make_spec

from robot_value import cli, flags
from robot_value.commands._arm import PARTS
from robot_value.commands.replay import Replay, _source
from robot_value.convert import Survey
from robot_value.episodes import EpisodeStore
from robot_value.loop import Recorder, run_episodes
from robot_value.replay.logged_robot import LoggedRobot, differences
from robot_value.replay.logs import Ahead, Opener, SourceLog
from robot_value.replay.scribe import replay
from robot_value.steering.followers import splice
from robot_value.steering.selectors import softmax, softmax_average
from robot_value.steering.steerer import Steerer
from robot_value.steering.two_speeds import ThinkAhead
from robot_value.types import Episode, Observation

SEEDS = (11, 4, 7, 30, 2)


@dataclass
class Memory:
    """A Log in RAM that remembers what was read."""

    episodes: dict[str, Episode]
    reads: list[str] = field(default_factory=list)

    @property
    def spec(self):
        return next(iter(self.episodes.values())).spec

    def names(self):
        return list(self.episodes)

    def read(self, name):
        self.reads.append(name)
        return self.episodes[name]


def memory(*episodes: Episode) -> Memory:
    return Memory({f"e{i}": episode for i, episode in enumerate(episodes)})


def steerer(seed: int = 3, selector=softmax, **changes) -> Steerer:
    return Steerer(HomingPolicy(), HomingCritic(), selector.Config().build(), n=5, seed=seed, **changes)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What our own Recorder stored of two robots at once, and what the recording steerer met."""
    store = EpisodeStore.create(tmp_path_factory.mktemp("log") / "store", PointMass().spec)
    notebook = Notebook(wants_episodes=False)
    run_episodes(PointMass(batch_size=2), steerer(), watchers=(Recorder(store), notebook), seeds=SEEDS)
    return Memory({name: store.read(name) for name in store.names()}), notebook.decisions, store


def met(decisions) -> dict[tuple[int, int], tuple]:
    """(episode, step) -> what its steerer saw and said, of the rows that moved."""
    return {
        (int(o.episode[row]), int(o.step[row])): (o.rows([row]), d.candidates[row], d.value[row], d.chunk[row])
        for o, d, outcome in decisions
        for row in np.flatnonzero(outcome.executed_valid.any(1))
    }


def test_the_steerer_meets_exactly_the_observations_of_the_recording_one_and_decides_the_same(recorded):
    # mutation: a history that ends one frame early; the key of an episode is its number instead of its seed
    log, original, _ = recorded
    robot, notebook = LoggedRobot(log, batch_size=2, n_obs_steps=2), Notebook(wants_episodes=False)
    run_episodes(robot, steerer(), watchers=(notebook,), seeds=range(len(SEEDS)))
    was, now = met(original), met(notebook.decisions)
    assert was.keys() == now.keys() and len(was) > 10
    for key in was:
        (seen, *said), (seen_again, *said_again) = was[key], now[key]
        assert_same(vars(seen), vars(seen_again))
        assert_same(said, said_again)


def test_every_logged_decision_is_reproduced_bit_by_bit_at_the_same_batch_shape(recorded):
    # mutation: decisions of other steps are compared; execute is left out of the comparison
    log, original, _ = recorded
    found = replay(LoggedRobot(log, batch_size=2, n_obs_steps=2), steerer(), progress=False)
    assert found.unequal == () and found.compared == len(found) == len(met(original))
    assert [e.steps for e in found.episodes] == [len(log.read(name)) for name in log.names()]


def test_two_passes_are_the_same_pass(recorded):
    log, *_ = recorded
    one, two = (replay(LoggedRobot(log, batch_size=3, n_obs_steps=2), steerer(), progress=False) for _ in range(2))
    for name in ("episode", "step", "logged", "length", "candidates", "chosen", "index", "reason"):
        assert_same(getattr(one, name), getattr(two, name))
    assert_same(vars(one.opinions["main"]), vars(two.opinions["main"]))


def test_a_changed_weight_is_seen_with_the_first_field_that_differs(recorded):
    # mutation: allclose instead of equality
    log, *_ = recorded
    changed = Steerer(HomingPolicy(scale=0.31), HomingCritic(), softmax.Config().build(), n=5, seed=3)
    found = replay(LoggedRobot(log, batch_size=2, n_obs_steps=2), changed, progress=False)
    assert len(found.unequal) == found.compared
    assert f"{log.names()[0]} step 0: candidates[0, 0, 0, 0]: logged " in found.unequal[0]


def test_another_seed_and_other_parts_are_named_where_decisions_differ(recorded):
    log, *_ = recorded
    found = replay(
        LoggedRobot(log, batch_size=2, n_obs_steps=2), steerer(seed=4, selector=softmax_average), progress=False
    )
    assert "(recorded with selector Softmax, now SoftmaxAverage; seed 3, now 4)" in found.unequal[0]


def test_equal_decisions_stay_equal_whatever_their_parts_were_called(recorded):
    log, *_ = recorded
    decision = log.read(log.names()[0]).decisions[0]
    assert differences(decision, replace(decision, versions={"policy": "renamed"}, seed=9)) == ""
    shorter = replace(decision, candidates=decision.candidates[:, 1:])
    assert differences(decision, shorter).startswith("candidates: logged [1, 5, 8, 2], now [1, 4, 8, 2]")
    assert differences(decision, replace(decision, reason=("base",))).startswith("reason: logged 'chosen', now 'base'")


@pytest.mark.parametrize("delay", [2, (0, 3)])
def test_a_robot_that_decides_while_it_moves_is_reproduced_too(tmp_path, delay):
    # mutation: Playing.made of start_step; pending of zeros; `promised` one step late
    store = EpisodeStore.create(tmp_path / "store", PointMass().spec)
    run_episodes(PointMass(batch_size=2, delay=delay), steerer(), watchers=(Recorder(store),), seeds=SEEDS[:2])
    assert any(decision.committed is not None for decision in store.read(store.names()[1]).decisions)
    found = replay(LoggedRobot(store, batch_size=2, n_obs_steps=2), steerer(), progress=False)
    assert found.compared == len(found) > 4 and not found.unequal


def test_decisions_of_a_thread_that_thinks_ahead_are_reproduced(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", PointMass().spec)
    thinker = ThinkAhead(steerer(), lag=2, lockstep=True)
    run_episodes(PointMass(batch_size=2), thinker, splice.Config().build(), (Recorder(store),), seeds=SEEDS[:2])
    thinker.close()
    found = replay(LoggedRobot(store, batch_size=2, n_obs_steps=2), steerer(), progress=False)
    assert found.compared == len(found) > 4 and not found.unequal


def test_what_an_older_store_does_not_say_was_nothing(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", PointMass().spec)
    run_episodes(PointMass(batch_size=2), steerer(), watchers=(Recorder(store),), seeds=SEEDS[:1])
    assert all(decision.committed is None for decision in store.read(store.names()[0]).decisions)


# -- what a log may look like -----------------------------------------------------------------------------------------


def without_decisions(*lengths: int, **changes) -> Memory:
    return memory(*(make_episode(make_spec(), steps=t, seed=i, **changes) for i, t in enumerate(lengths)))


def walk(robot: LoggedRobot, execute: int = 3) -> list[tuple[np.ndarray, Observation, object]]:
    """(step, observation, outcome) of every call of one wave with a decision that wants `execute` steps."""
    observation, found, active = robot.reset(["x"] * robot.batch_size, range(robot.batch_size)), [], True
    while np.any(active):
        wanted = np.full(robot.batch_size, execute) * active
        outcome = robot.execute(replace(BLANK, execute=wanted), None)
        found.append((observation.step, observation, outcome))
        observation, active = outcome.observation, active & ~outcome.done
    return found


BLANK = make_episode(make_spec(), decisions=1).decisions[0]


def test_time_goes_on_by_what_the_steerer_wants_where_the_log_has_no_decisions():
    # mutation: an ended row goes on; the last step is cut off
    calls = walk(LoggedRobot(without_decisions(7, 4), batch_size=2))
    assert [step.tolist() for step, _, _ in calls] == [[0, 0], [3, 3], [6, 4]]
    assert [outcome.executed_valid.sum(1).tolist() for *_, outcome in calls] == [[3, 3], [3, 1], [1, 0]]


def test_every_decides_every_k_steps_whatever_the_log_decided():
    episode = make_episode(make_spec(), steps=9, decisions=3)  # decisions at 0, 2 and 4
    assert [int(s[0]) for s, *_ in walk(LoggedRobot(memory(episode)))] == [0, 2, 4]
    assert [int(s[0]) for s, *_ in walk(LoggedRobot(memory(episode), every=4))] == [0, 4, 8]


def test_what_was_executed_is_the_log_s_and_not_what_was_decided():
    # mutation: executed actions shifted by a step
    log = without_decisions(7)
    calls, episode = walk(LoggedRobot(log)), log.episodes["e0"]
    for name, was in (("executed", episode.actions), ("rewards", episode.rewards), ("states", episode.states[1:])):
        now = np.concatenate([getattr(outcome, name)[0][outcome.executed_valid[0]] for *_, outcome in calls])
        assert_same(now, was)


def test_a_missing_last_frame_is_not_invented_the_one_before_is_met_again():
    log = without_decisions(6, final_observed=False)
    *_, last = walk(LoggedRobot(log))
    assert_same(last[-1].states[0, -1], log.episodes["e0"].states[-1])
    assert last[-1].observation.step[0] == 6 and len(log.episodes["e0"].states) == 6


def test_before_the_start_of_an_episode_its_first_frame_is_repeated():
    # mutation: negative frames wrap around to the episode's end
    log = without_decisions(9, final_observed=True)
    state = log.episodes["e0"].states
    calls = walk(LoggedRobot(log, n_obs_steps=3), execute=1)
    assert_same(calls[0][1].state[0], state[[0, 0, 0]])
    assert_same(calls[1][1].state[0], state[[0, 0, 1]])
    assert_same(calls[5][1].state[0], state[[3, 4, 5]])


def test_images_follow_the_state():
    spec = make_spec(cameras=("top",))
    log = memory(make_episode(spec, steps=5))
    for step, observation, _ in walk(LoggedRobot(log, n_obs_steps=2), execute=1)[1:]:
        assert_same(observation.images["top"][0], log.episodes["e0"].images["top"][step[0] - 1 : step[0] + 1])


def test_an_end_is_terminated_or_truncated_as_the_log_says():
    log = memory(*(make_episode(make_spec(), steps=3, terminated=t, success=t or None) for t in (True, False)))
    ((*_, outcome),) = walk(LoggedRobot(log, batch_size=2))
    assert outcome.terminated.tolist() == outcome.success.tolist() == [True, False]
    assert outcome.truncated.tolist() == [False, True]


def test_a_batch_bigger_than_the_log_rests_in_its_spare_rows(recorded):
    # mutation: spare rows are booked as decisions
    log, *_ = recorded
    small = replay(LoggedRobot(log, batch_size=2, n_obs_steps=2), steerer(), progress=False)
    large = replay(LoggedRobot(log, batch_size=8, n_obs_steps=2), steerer(), progress=False)
    assert len(large) == len(small) and [e.name for e in large.episodes] == log.names()
    np.testing.assert_allclose(large.candidates, small.candidates, atol=1e-6)


def test_a_number_asked_for_twice_is_the_same_episode():
    # mutation: episodes are paired with all numbers instead of the different ones
    log = without_decisions(4, 5, 6)
    robot = LoggedRobot(log, batch_size=3)
    robot.reset([""] * 3, [1, 1, 2])
    assert [len(row.episode) for row in robot.rows] == [5, 5, 6]


def test_the_next_wave_is_read_while_this_one_plays_and_nothing_is_read_twice():
    # mutation: nothing is begun before it is asked for; what was taken is read again
    log = without_decisions(*[4] * 7)
    robot = LoggedRobot(log, batch_size=3)
    robot.reset([""] * 3, [0, 1, 2])
    assert list(robot.log.reading) == ["e3", "e4", "e5"]
    for wave in ([3, 4, 5], [6, 6, 6]):
        robot.reset([""] * 3, wave)
    robot.close()
    assert log.reads == log.names()


def test_episodes_that_nobody_will_ask_for_are_not_kept():
    # mutation: jumping about fills the memory
    ahead = Ahead.of(log := without_decisions(*[4] * 9), log.names(), depth=2)
    for name in ("e0", "e5", "e1"):
        assert_same(ahead.read(name), log.episodes[name])
    assert list(ahead.reading) == ["e2", "e3"]
    ahead.close()


class Busy:
    """An Executor that never gets to anything."""

    def submit(self, *_):
        return Future()


def test_what_no_process_has_begun_to_read_is_read_by_whoever_asks():
    # mutation: waiting for a future that is only queued
    log = without_decisions(4, 5)
    ahead = Ahead(log, tuple(log.names()), 1, Busy(), log.read, lends_a_hand=True)
    assert_same(ahead.read("e0"), log.episodes["e0"])
    ahead.reading["e1"].set_running_or_notify_cancel()
    ahead.reading["e1"].set_result("read elsewhere")
    assert ahead.read("e1") == "read elsewhere"


@pytest.mark.parametrize("seeds", [[0, 5], [-1, 0]])
def test_numbers_of_no_episode_are_refused(seeds):
    with pytest.raises(ValueError, match="expected numbers of episodes below 2, got"):
        LoggedRobot(without_decisions(3, 3), batch_size=2).reset(["", ""], seeds)


# -- other logs, other processes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A converter's Config, and its Source."""

    episodes: int = 3

    def build(self, path):
        return self

    @property
    def survey(self) -> Survey:
        keys = tuple(f"row {i}" for i in range(self.episodes))
        return Survey("table", make_spec(), keys, (4,) * self.episodes, identity=f"table of {self.episodes}")

    def read(self, index: int) -> Episode:
        return make_episode(make_spec(), steps=4 + index, seed=index)

    def close(self) -> None:
        pass


def test_any_source_of_a_converter_is_a_log_without_being_converted(tmp_path):
    # mutation: the first episode whatever the name
    log = Opener(str(tmp_path), Table())()
    assert isinstance(log, SourceLog) and log.names() == ["row 0", "row 1", "row 2"]
    assert_same(log.read("row 2"), Table().read(2))
    assert len(walk(LoggedRobot(log))) == 2


def lerobot_set(folder):
    sets = pytest.importorskip("lerobot_sets")
    return sets.write_set(folder / "set", lengths=(5, 7), camera="image"), []


def ros_bag(folder):
    bags = pytest.importorskip("ros_bags")
    (folder / "topics.yaml").write_text(bags.TOPICS)
    sent = bags.recording(1.0, drop={"/wrist": (0.4, 0.6)})
    return bags.write_bag(folder / "bag", sent), [f"--source.topics={folder}/topics.yaml"]


@pytest.mark.parametrize("made", [lerobot_set, ros_bag])
def test_a_lerobot_set_or_a_bag_is_played_as_what_converting_makes_of_it(made, tmp_path):
    # mutation: episodes are read by another order than they are named; pictures of the next episode
    path, words = made(tmp_path)
    assert cli.main(["data", "convert", str(path), f"{tmp_path}/store", "--progress=false", *words]) == 0
    source = flags.parse(Replay, words, {"source": _source([str(path)], words), **PARTS}, "").values.source
    logs = Opener(str(path), source)(), Opener(f"{tmp_path}/store")()
    assert len(logs[0].names()) == len(logs[1].names()) == 2
    plays = [walk(LoggedRobot(log, batch_size=2, n_obs_steps=2)) for log in logs]
    for (step, seen, outcome), (step_again, seen_again, outcome_again) in zip(*plays, strict=True):
        assert_same(step, step_again)
        assert_same(vars(seen), vars(seen_again))
        assert_same({**vars(outcome), "observation": None}, {**vars(outcome_again), "observation": None})


def test_a_process_reads_what_this_one_reads(recorded):
    log, _, store = recorded
    opener = Opener(str(store.path))
    ahead = Ahead.of(opener(), log.names(), 2, opener, workers=1)
    assert [each.provenance["seed"] for each in map(ahead.read, log.names())] == [
        log.episodes[name].provenance["seed"] for name in log.names()
    ]
    assert_same(ahead.read(log.names()[-1]), log.episodes[log.names()[-1]])
    ahead.close()
