"""A fleet plays B episodes as one simulator would play each of them alone, on any number of processes."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import fields, replace
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
from fleet_simulators import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.sim import fleet_link
from robot_value.sim.fleet import Fleet, FleetError
from robot_value.sim.fleet_worker import serve
from robot_value.types import EXPERT, POLICY, Decision

ROOT = Path(__file__).resolve().parent.parent
H, A = 8, 2


def decision(observation, chunk=None, execute=4):
    """What a steerer would hand over; chunks beyond the limits, so that clipping shows."""
    batch = observation.batch_size
    if chunk is None:
        chunk = np.stack([draw(e, s, H) for e, s in zip(observation.episode, observation.step, strict=True)])
    return Decision(
        chunk=chunk,
        execute=np.broadcast_to(np.asarray(execute), batch).astype(np.int64),
        start_step=observation.step.copy(),
        reason=("base",) * batch,
        index=np.zeros(batch, np.int64),
        candidates=np.zeros((batch, 0, H, A), np.float32),
        value=np.zeros((batch, 0), np.float32),
        spread=np.zeros((batch, 0), np.float32),
    )


def draw(episode, step, steps):
    return np.random.default_rng([episode, step, 5]).uniform(-1.5, 1.5, (steps, A)).astype(np.float32)


def seeds(batch):
    return list(range(100, 100 + batch))


def begun(config=None, batch=3, workers=0, n_obs_steps=1, driver="policy"):
    fleet = Fleet(config or Config(), batch, workers, n_obs_steps, driver)
    return fleet, fleet.reset([""] * batch, seeds(batch))


def outcomes(fleet, observation, execute=4, follower=None):
    """Decide and execute until every robot is done."""
    found = []
    while not found or not found[-1].done.all():
        found.append(fleet.execute(decision(observation, execute=execute), follower))
        observation = found[-1].observation
    return found


def flat(outcome):
    """Every array of an outcome, observation included, by name."""
    named = {f.name: getattr(outcome, f.name) for f in fields(outcome)}
    observation = named.pop("observation")
    named |= {f"observation.{f.name}": getattr(observation, f.name) for f in fields(observation) if f.name != "goal"}
    return {key: value["top"] if isinstance(value, dict) else np.asarray(value) for key, value in named.items()}


def assert_same(ours, theirs):
    for key, value in flat(ours).items():
        np.testing.assert_array_equal(value, flat(theirs)[key], err_msg=key)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def gone_within(seconds, pids):
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


class Watching:
    """A follower without `open_loop`: it is asked at every control step, and remembers."""

    def __init__(self):
        self.seen, self.offsets = [], []

    def action(self, observation, decision, offset):
        self.seen.append(observation)
        self.offsets.append(offset.copy())
        return decision.chunk[np.arange(len(offset)), offset]


class OpenLoop(Watching):
    open_loop = True

    def action(self, observation, decision, offset):
        raise AssertionError("an open-loop follower must not be asked")


# mutation: in Rows._wake, drop `self._rest()` (the row that was live is forgotten)
@settings(max_examples=30, deadline=None)
@given(data=st.data(), batch=st.integers(1, 4), n_obs_steps=st.integers(1, 3))
def test_every_row_is_played_as_one_simulator_alone_would_play_it(data, batch, n_obs_steps):
    with Fleet(Config(), batch, 0, n_obs_steps) as fleet:
        observation = fleet.reset([""] * batch, seeds(batch))
        alone = [Config().simulator() for _ in range(batch)]
        frames = [[simulator.reset("walk", seed)] for simulator, seed in zip(alone, seeds(batch), strict=True)]
        ended, ever = np.zeros(batch, bool), np.zeros(batch, bool)
        while not ended.all():
            execute = np.array(data.draw(st.lists(st.integers(1, H), min_size=batch, max_size=batch)))
            asked = decision(observation, execute=execute)
            outcome = fleet.execute(asked, OpenLoop())
            for row, simulator in enumerate(alone):
                played = []
                for action in asked.chunk[row, : execute[row]]:
                    if ended[row]:
                        break
                    played.append(simulator.step(np.clip(action, -1, 1)))
                    frames[row].append(played[-1])
                    ever[row] |= played[-1].success
                    ended[row] = played[-1].terminated or len(frames[row]) > 20
                k = len(played)
                assert outcome.executed_valid[row].tolist() == [True] * k + [False] * (outcome.states.shape[1] - k)
                np.testing.assert_array_equal(
                    outcome.states[row, :k], [f.state for f in played] if k else np.zeros((0, 3))
                )
                np.testing.assert_array_equal(outcome.rewards[row, :k], [f.reward for f in played])
                np.testing.assert_array_equal(outcome.commanded[row, :k], asked.chunk[row, :k])
                np.testing.assert_array_equal(outcome.executed[row, :k], np.clip(asked.chunk[row, :k], -1, 1))
                history = [frames[row][max(i, 0)] for i in range(len(frames[row]) - n_obs_steps, len(frames[row]))]
                np.testing.assert_array_equal(outcome.observation.state[row], [f.state for f in history])
                np.testing.assert_array_equal(
                    outcome.observation.images["top"][row], [f.images["top"] for f in history]
                )
                assert outcome.terminated[row] == (ended[row] and frames[row][-1].terminated)
                assert outcome.truncated[row] == (ended[row] and not frames[row][-1].terminated)
                assert outcome.observation.step[row] == len(frames[row]) - 1
                assert outcome.observation.time[row] == frames[row][-1].time
            np.testing.assert_array_equal(outcome.success, ever)
            outcome.observation.check(fleet.spec)
            observation = outcome.observation


@pytest.mark.parametrize("driver", ["policy", "expert"])
def test_the_number_of_processes_changes_nothing(driver):
    results = []
    for workers in (0, 1, 2):
        fleet, observation = begun(batch=3, workers=workers, n_obs_steps=2, driver=driver)
        with fleet:
            results.append(outcomes(fleet, observation, execute=5))
            results[-1].append(fleet.latents)
    for others in results[1:]:
        assert others[-1] == results[0][-1]
        for ours, theirs in zip(results[0][:-1], others[:-1], strict=True):
            assert_same(ours, theirs)


def test_a_history_starts_with_the_first_frame_repeated():
    fleet, observation = begun(n_obs_steps=3)
    for row in observation.state:
        np.testing.assert_array_equal(row, np.repeat(row[:1], 3, 0))
    assert fleet.spec.n_obs_steps == 3
    assert observation.task == ("walk",) * 3
    assert observation.episode.tolist() == seeds(3)


def test_a_follower_that_looks_is_asked_at_every_control_step_and_changes_nothing_else():
    fleet, observation = begun(batch=2)
    watching, asked = Watching(), decision(observation, execute=np.array([2, 4]))
    outcome = fleet.execute(asked, watching)
    assert [offset.tolist() for offset in watching.offsets] == [[0, 0], [1, 1], [2, 2], [2, 3]]
    np.testing.assert_array_equal(watching.seen[2].state[1, 0], outcome.states[1, 1])
    other, observation = begun(batch=2)
    assert_same(other.execute(asked, OpenLoop()), outcome)


def test_a_chunk_that_began_earlier_is_entered_where_the_robot_is():
    fleet, observation = begun(batch=1)
    asked = decision(observation, execute=2)
    fleet.execute(asked)
    outcome = fleet.execute(asked)  # its start_step is now two steps ago
    np.testing.assert_array_equal(outcome.commanded[0], asked.chunk[0, 2:4])


def test_padding_repeats_the_latest_state_and_counts_for_nothing():
    fleet, observation = begun(batch=2)
    outcome = fleet.execute(decision(observation, execute=np.array([1, 3])))
    np.testing.assert_array_equal(outcome.states[0], np.repeat(outcome.states[0, :1], 3, 0))
    np.testing.assert_array_equal(outcome.images["top"][0], np.ones((3, 2, 3, 3)))
    assert outcome.executed_valid.tolist() == [[True, False, False], [True, True, True]]
    assert not outcome.executed[0, 1:].any()
    assert set(outcome.source.ravel()) == {POLICY}


# mutation: in Rows.play, picture the first steps instead of the last
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("n_obs_steps", [1, 3])
def test_where_nobody_wants_every_picture_only_those_that_are_seen_are_drawn_and_nothing_else_changes(
    n_obs_steps, workers
):
    whole, first = begun(n_obs_steps=n_obs_steps)
    sparing, again = begun(n_obs_steps=n_obs_steps, workers=workers)
    sparing.every_picture = False
    with sparing:
        everything, seen = outcomes(whole, first), outcomes(sparing, again)
        drawn = [] if workers else [fleet._links[0]._rows._simulator.drawn for fleet in (sparing, whole)]
    for ours, theirs in zip(seen, everything, strict=True):
        going = ~theirs.done
        pictures = [outcome.observation.images["top"][going] for outcome in (ours, theirs)]
        np.testing.assert_array_equal(*pictures)
        assert ours.images == {} and theirs.images["top"].any()
        blank = {"images": {"top": None}}
        assert_same(replace(ours, **blank, observation=first), replace(theirs, **blank, observation=first))
    if not workers:
        assert drawn[0] < 0.6 * drawn[1] if n_obs_steps == 1 else drawn[0] < drawn[1]


def test_a_follower_that_looks_sees_every_picture_also_where_no_episode_is_wanted():
    fleet, observation = begun(batch=1)
    fleet.every_picture, watching = False, Watching()
    fleet.execute(decision(observation, execute=4), watching)
    assert [int(seen.images["top"][0, -1, 0, 0, 0]) for seen in watching.seen] == [0, 1, 2, 3]


def test_a_robot_asked_for_no_step_stays_as_it_is():
    fleet, observation = begun(batch=2)
    outcome = fleet.execute(decision(observation, execute=np.array([0, 2])))
    assert outcome.observation.step.tolist() == [0, 2]
    np.testing.assert_array_equal(outcome.observation.state[0], observation.state[0])


def test_robots_that_are_done_or_were_never_reset_stay_as_they_are():
    fleet = Fleet(Config(max_steps=3), 2)
    observation = fleet.reset(["run"], [4], rows=[1])
    assert observation.task == ("", "run")
    first = fleet.execute(decision(observation, execute=5))
    assert first.truncated.tolist() == [True, True] and not first.terminated.any()
    assert first.executed_valid.sum(1).tolist() == [0, 3]
    again = fleet.execute(decision(first.observation))
    assert again.states.shape == (2, 0, 3) and again.done.all()
    np.testing.assert_array_equal(again.observation.state, first.observation.state)
    restarted = fleet.reset(["run"], [4], rows=[1])
    np.testing.assert_array_equal(restarted.state[1], observation.state[1])
    assert not fleet.execute(decision(restarted, execute=1)).done[1]


def test_success_is_latched_where_it_does_not_end_the_episode():
    fleet, observation = begun(Config(goal=0.3, linger=True), batch=4)
    found = outcomes(fleet, observation, execute=1)
    ever = np.cumsum([outcome.rewards[:, 0] > 0 for outcome in found], 0) > 0
    np.testing.assert_array_equal([outcome.success for outcome in found], ever)
    assert found[-1].truncated.all() and found[-1].success.all()


def test_an_unstable_step_marks_and_truncates_the_episode_and_is_no_success():
    fleet, observation = begun(Config(goal=0.0, linger=True, unstable_at=1), batch=2)
    outcome = fleet.execute(decision(observation))
    assert outcome.unstable.all() and outcome.truncated.all()
    assert not outcome.terminated.any() and not outcome.success.any()
    assert outcome.executed_valid.sum(1).tolist() == [1, 1]
    assert not fleet.reset([""] * 2, [1, 2]).step.any()
    assert fleet.execute(decision(fleet.reset([""] * 2, [1, 2]))).unstable.all()


def test_the_expert_drives_every_step_whatever_the_chunk_says():
    results = []
    for scale in (0, np.nan):
        fleet, observation = begun(driver="expert", batch=2)
        results.append(fleet.execute(decision(observation, np.full((2, H, A), scale, np.float32), execute=6)))
    assert_same(*results)
    assert set(results[0].source.ravel()) == {EXPERT}
    assert (np.abs(results[0].executed) <= 1).all() and (np.abs(results[0].commanded) > 1).any()
    assert fleet.latents[0] != fleet.latents[1] and set(fleet.latents[0]) == {"gain"}


# mutation: in Ledger.save, drop "success" from _PER_ROW; in Walk-like simulators: do not save the driver
@pytest.mark.parametrize("driver", ["policy", "expert"])
def test_a_restored_rollout_is_the_same_in_any_row_and_any_process(driver):
    fleet, observation = begun(Config(goal=0.5, linger=True), 3, n_obs_steps=3, driver=driver)
    middle = fleet.execute(decision(observation, execute=np.array([3, 5, 7])))
    saved, latents = fleet.save_state(), list(fleet.latents)
    first = fleet.execute(decision(middle.observation))
    outcomes(fleet, first.observation)
    np.testing.assert_array_equal(fleet.load_state(saved).state, middle.observation.state)
    assert_same(fleet.execute(decision(middle.observation)), first)
    with Fleet(Config(goal=0.5, linger=True), 2, 2, 3, driver) as other:  # fresh processes, two of the three
        crossed = other.load_state([pickle.loads(pickle.dumps(saved[i])) for i in (2, 0)])
        again = other.execute(decision(crossed))
        assert other.latents == [latents[2], latents[0]]
    for key, value in flat(again).items():
        np.testing.assert_array_equal(value, flat(first)[key][[2, 0]], err_msg=key)


def test_one_state_can_be_loaded_into_many_rows():
    fleet, observation = begun(batch=4)
    after = fleet.execute(decision(observation, execute=2)).observation
    state = fleet.save_state()[1]
    observation = fleet.load_state([state, state], rows=[0, 3])
    outcome = fleet.execute(decision(observation))
    np.testing.assert_array_equal(outcome.states[0], outcome.states[1])
    np.testing.assert_array_equal(outcome.states[3], outcome.states[1])
    np.testing.assert_array_equal(observation.state[2], after.state[2])
    assert Fleet(Config(), 2).save_state() == [None, None]


def test_a_worker_with_a_single_row_never_switches():
    fleet, observation = begun(batch=1)
    outcomes(fleet, observation)
    assert fleet._links[0]._rows._simulator.switches == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch_size >= 1"),
        ({"workers": -1}, "workers >= 0"),
        ({"n_obs_steps": 0}, "n_obs_steps >= 1"),
        ({"driver": "human"}, "expected one of policy, expert, shared, got 'human'"),
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        begun(**change)


def test_calls_that_make_no_sense_are_refused_in_one_line_and_the_fleet_lives_on():
    fleet, observation = begun(batch=2)
    good = decision(observation)
    with pytest.raises(ValueError, match="expected 2 tasks and seeds, got 1 and 2"):
        fleet.reset(["walk"], [1, 2])
    with pytest.raises(ValueError, match=r"rows: expected distinct numbers in \[0, 2\), got \[0, 0\]"):
        fleet.reset(["", ""], [1, 2], rows=[0, 0])
    with pytest.raises(ValueError, match="expected 2 states for rows"):
        fleet.load_state(fleet.save_state()[:1])
    with pytest.raises(ValueError, match="no negative number of steps"):
        fleet.execute(decision(observation, execute=-1))
    with pytest.raises(ValueError, match="robot 1: expected 2 finite numbers"):
        bad = good.chunk.copy()
        bad[1, 2, 0] = np.nan
        fleet.execute(decision(observation, bad))
    with pytest.raises(ValueError, match="expected 2 finite numbers"):
        fleet.execute(decision(observation, np.zeros((2, H, 3), np.float32)))
    with pytest.raises(ValueError, match="is to execute 9 actions, but its chunk of 8 begins at step 0"):
        fleet.execute(decision(observation, execute=9))
    other, _ = begun(batch=2)
    assert_same(fleet.execute(good), other.execute(good))


def test_an_exception_in_the_simulator_reaches_the_caller_and_leaves_no_process():
    fleet, observation = begun(Config(raise_at=2), batch=2, workers=2)
    pids = [link.process.pid for link in fleet._links]
    with pytest.raises(FleetError, match="fleet worker 0: ArithmeticError: the walk fell over"):
        fleet.execute(decision(observation))
    assert gone_within(1, pids)
    with pytest.raises(FleetError, match="this fleet is closed"):
        fleet.execute(decision(observation))
    fleet.close()


def test_a_simulator_that_cannot_be_built_says_so_and_leaves_no_process():
    with pytest.raises(FleetError, match="RuntimeError: no such gripper"):
        Fleet(Config(broken="no such gripper"), 2, 2)
    with pytest.raises(RuntimeError, match="no such gripper"):
        Fleet(Config(broken="no such gripper"), 2, 0)


def test_a_worker_that_dies_is_named_at_once():
    fleet, observation = begun(Config(die_at=3), batch=2, workers=2)
    pids = [link.process.pid for link in fleet._links]
    start = time.monotonic()
    with pytest.raises(FleetError, match=r"fleet worker 0 .* died: killed by signal 9"):
        fleet.execute(decision(observation))
    assert time.monotonic() - start < 5
    assert gone_within(1, pids)


def test_a_worker_that_died_between_calls_is_named_too():
    fleet, observation = begun(batch=1, workers=1)
    os.kill(fleet._links[0].process.pid, signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(FleetError, match="died: killed by signal 9"):
        fleet.execute(decision(observation))


def test_a_silent_worker_is_given_up_and_ended(monkeypatch):
    monkeypatch.setattr(fleet_link, "SILENCE", 1.0)
    monkeypatch.setattr(fleet_link, "PATIENCE", 0.2)
    fleet, observation = begun(Config(hang_at=1), batch=1, workers=1)
    pids = [fleet._links[0].process.pid]
    with pytest.raises(FleetError, match="no answer for 1 s"):
        fleet.execute(decision(observation))
    assert gone_within(1, pids)


def test_a_fleet_nobody_holds_any_more_ends_its_workers():
    fleet, _ = begun(batch=2, workers=2)
    pids = [link.process.pid for link in fleet._links]
    assert all(map(alive, pids)) and not fleet.provenance["torch"] and fleet.provenance["pid"] == pids[0]
    del fleet
    gc.collect()
    assert gone_within(3, pids)


@pytest.mark.parametrize("holder", ["", "os.fork() or time.sleep(30)"])
def test_workers_leave_when_their_parent_is_killed(holder):
    """Also while a forked child of the parent still holds the parent's end of the socket."""
    script = (
        "import os, sys, time; from fleet_simulators import Config\n"
        "fleet = Config(hang_at=2).build(2, 2)\n"
        "fleet.reset(['', ''], [1, 2])\n"
        "print(*[link.process.pid for link in fleet._links], flush=True)\n"
        f"{holder or 'pass'}\n"
        "time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    parent.kill()
    parent.wait()
    try:
        assert gone_within(5, pids)
    finally:
        if holder:
            os.killpg(parent.pid, signal.SIGKILL)  # the forked child
        parent.stdout.close()


def test_a_worker_answers_calls_in_order_and_reports_what_failed():
    ours, theirs = Pipe()
    thread = threading.Thread(target=serve, args=(theirs,))
    thread.start()
    ours.send(list(sys.path))
    ours.send((Config(raise_at=2), "policy"))
    kind, (hello,) = ours.recv()
    assert kind == "done" and hello.tasks == ("walk", "run") and hello.max_steps == 20
    ours.send([("reset", 0, "walk", 3), ("reset", 1, "walk", 4)])
    kind, answers = ours.recv()
    assert kind == "done" and len(answers) == 2
    ours.send([("play", 1, 5, np.zeros((5, A), np.float32))])
    kind, message, trace = ours.recv()
    assert (kind, message) == ("failed", "ArithmeticError: the walk fell over") and "Traceback" in trace
    thread.join(5)
    assert not thread.is_alive()
