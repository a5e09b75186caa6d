"""Who numbers, starts and ends episodes; how they reach the disk; and what is done when the disk does not want them."""

from __future__ import annotations

import errno
import time
from types import SimpleNamespace

import numpy as np
import pytest
from recorded import assert_same, make_decision, make_episode
from recordings import SPEC, STEP, TOPICS, action, command, picture, pixels, state, step

from robot_value import wire
from robot_value.deploy.album import Album
from robot_value.deploy.bag_writer import BagWriter
from robot_value.deploy.episode_master import EpisodeMaster, Settings, next_number
from robot_value.deploy.store_writer import StoreWriter, open_store
from robot_value.episodes import EpisodeStore
from robot_value.messages import MessageError
from robot_value.resampling import Received
from robot_value.types import HUMAN, POLICY, SpecMismatch

PLAIN = {"steered": True, "guarded": True, "lockstep": False, "task": "lift", "seed": 100, "source": "human"}
PLAIN |= {"memory": 1.0, "free": 0.0, "grace": 1.0, "shortest": 1, "keep": True}


class Desk:
    """A master with a clock of its own, and everything it says."""

    def __init__(self, folder, **settings):
        self.now, self.events, self.over = 1_000_000_000, [], []
        self.store = open_store(folder, SPEC)
        self.writer = StoreWriter(self.store, retry=0.02)
        self.album = Album(TOPICS.cameras, 5.0)
        over = lambda number, kept: self.over.append((number, kept))  # noqa: E731
        words = (TOPICS, self.writer, self.album, Settings(**(PLAIN | settings)), {"robot": "test"})
        self.master = EpisodeMaster(*words, self.events.append, over, lambda: self.now)

    def play(self, steps, first=0, lockstep=False):
        """Ticks first..steps of the running episode, and commands between them."""
        number, began = self.master.take.number, self.master.take.start
        for k in range(first, steps + 1):
            time = began + 5 + k * STEP
            if k > first:
                self.master.put_command(command(k - 1, time - 2, episode=number))
            self.now = max(self.now, time)
            received, frame = picture(k, number, lockstep)
            self.master.put_image("/wrist", received, frame)
            self.master.put_step(step(k, number, time, lockstep))

    def say(self, topic, message):
        self.master.put_input(topic, Received(self.now, 7, lambda: message))

    def control(self, numbers):
        """What a controller is told."""
        point = SimpleNamespace(positions=list(numbers), time_from_start=SimpleNamespace(sec=0, nanosec=0))
        self.say("/command", SimpleNamespace(joint_names=["a", "b", "c"], points=[point]))

    def see(self, k):
        """Without steering: the sensors at tick k."""
        a, b, c = state(k).tolist()
        self.say("/joint_states", SimpleNamespace(name=["c", "a", "b"], position=[c, a, b]))
        self.say("/wrist", picture(k)[0].open())

    def demonstrate(self, steps, act):
        """Ticks 0..steps of the recorder's own, and `act(k)` in the middle of each step."""
        self.see(0)
        self.now += 1
        self.master.start()
        for k in range(steps):
            self.now += STEP // 2
            act(k)
            self.now += STEP // 2 - 1
            self.see(k + 1)
            self.now += 1
            self.master.poll()
        self.now += 1

    def wait(self, seconds=5.0):
        self.now += int(seconds * 1e9)
        self.master.poll()
        assert self.writer.flush(5.0)
        return [self.store.read(name) for name in self.store.names()]


@pytest.fixture
def desk(tmp_path):
    made = []

    def make(name="store", **settings):
        made.append(Desk(tmp_path / name, **settings))
        return made[-1]

    yield make
    for each in made:
        each.writer.close(0.1)
        each.store.close()


# -- episodes ----------------------------------------------------------------------------------------------------------


def test_an_episode_is_numbered_announced_recorded_and_stored(desk):
    # mutation: the same number twice; seed without the number; "ended" announced again
    d = desk()
    assert d.master.start() == "" and "episode 0 is running" in d.master.start()
    assert d.events == [{"event": "start", "episode": 0, "seed": 100, "task": "lift", "time": 1_000_000_000}]
    d.play(5)
    d.master.put_decision(make_decision(np.random.default_rng(0), 1))
    d.master.ended(1, 5, "another's")
    assert d.master.take is not None
    d.master.ended(0, 5, "max_steps")
    assert d.master.take is None and len(d.events) == 1
    assert "no episode is running" in d.master.stop("stop")
    (episode,) = d.wait()
    assert_same(episode.actions, np.stack([action(k) for k in range(5)]))
    assert_same(episode.images["wrist"], np.stack([pixels(k) for k in range(6)]))
    known = {"robot": "test", "seed": 100, "episode": 0, "ended_by": "ended: max_steps"}
    assert episode.provenance == known and len(episode.decisions) == 1 and d.over == [(0, True)]
    d.master.task = "stack"
    assert d.master.start() == "" and d.events[-1]["episode"] == 1 and d.events[-1]["seed"] == 101
    d.play(3)
    d.master.stop("discard")
    assert d.over == [(0, True), (1, False)] and len(d.wait()) == 1


def test_numbers_go_on_where_the_store_ends_however_many_parts_an_episode_became(desk):
    # mutation: count the store's entries; begin at 0
    d = desk()
    for _ in range(2):
        d.master.start()
        d.play(3)
        number = d.master.take.number
        d.play(9, first=5)  # step 4 never came
        d.master.ended(number, 9, "")
        d.wait()
    assert len(d.store.names()) == 4 and next_number(d.store) == 2 and "step 1 times" in d.master.notes[0]
    d.writer.close(0.1)
    d.store.close()
    assert desk().master.number == 2


def test_a_store_that_others_have_written_is_continued_behind_their_last_name(tmp_path):
    # mutation: KeyError without our provenance
    with EpisodeStore.create(tmp_path / "s", SPEC) as store:
        assert next_number(store) == 0
        for _ in range(3):
            store.append(make_episode(SPEC))
        assert next_number(store) == 3


def test_what_was_under_way_still_comes_and_the_next_episode_can_begin(desk):
    # mutation: commit at once; route late messages to the running episode
    d = desk()
    d.master.start()
    d.play(4)
    received, frame = picture(5)
    d.master.put_step(step(5, 0, d.now + STEP))
    d.master.ended(0, 5, "")
    assert d.master.start() == ""
    d.master.poll()
    assert d.over == []  # frame and command 4 are missing
    d.master.put_image("/wrist", received, frame)
    d.master.put_command(command(4, d.now + STEP - 1))
    d.now += 100_000_000
    d.master.poll()
    assert d.over == []  # whole, but decisions may be on their way
    d.now += 101_000_000
    d.master.poll()
    assert d.over == [(0, True)] and d.writer.flush(5.0) and len(d.store.read(d.store.names()[0])) == 5


def test_after_the_grace_the_episode_is_stored_without_what_never_came(desk):
    # mutation: wait for ever
    d = desk()
    d.master.start()
    d.play(4)
    d.master.ended(0, 6, "")
    d.now += 990_000_000
    d.master.poll()
    assert d.over == []
    (episode,) = d.wait()
    assert episode.success is None and episode.provenance["part"] == [0, 5, 6]  # command 3 was still in force


@pytest.mark.parametrize("lockstep", [False, True])
def test_success_is_announced_when_its_step_is_over(desk, lockstep):
    # mutation: announce when the topic says it; lock-step by time
    d = desk(lockstep=lockstep)
    d.master.start()
    d.play(3, lockstep=lockstep)
    for k in range(4):  # steps 0..3; the last one wins
        d.now += k == 3
        d.master.put_reward(d.now, float(k == 3))
        d.master.put_success(d.now, k == 3)
    d.master.poll()
    assert [e["event"] for e in d.events] == ["start"]
    d.play(4, first=4, lockstep=lockstep)
    d.master.put_command(command(3, d.now - 1))
    assert [e["event"] for e in d.events] == ["start", "success"]
    (episode,) = d.wait()
    assert episode.rewards.tolist() == [0, 0, 0, 1] and episode.terminated and episode.success is True
    assert episode.final_observed


def test_a_success_is_believed_after_the_grace_even_if_nothing_more_is_seen(desk):
    # mutation: wait for the tick for ever
    d = desk()
    d.master.start()
    d.play(3)
    d.now += 1
    d.master.put_success(d.now, True)
    d.master.put_command(command(3, d.now + 1))
    d.master.poll()
    assert d.master.take is not None
    (episode, *_) = d.wait() or d.wait()
    assert episode.success is True and len(episode) == 4 and not episode.final_observed


def test_an_operators_word_ends_it_at_once(desk):
    # mutation: defer it like the topic's
    d = desk()
    d.master.start()
    d.play(3)
    assert d.master.stop("failure") == "" and d.events[-1]["event"] == "failure"
    (episode,) = d.wait()
    assert episode.success is False and episode.terminated


def test_without_steering_ticks_are_our_own_and_without_a_guard_controllers_say_what_a_human_does(desk):
    # mutation: the action of the step before; ticks only when a message comes; source policy
    d = desk(steered=False, guarded=False)
    d.demonstrate(4, lambda k: d.control(action(k).tolist()))
    d.master.stop("success")
    (episode,) = d.wait()
    assert_same(episode.states, np.stack([state(k) for k in range(5)]))
    assert_same(episode.images["wrist"], np.stack([pixels(k) for k in range(5)]))
    assert_same(episode.actions, np.stack([action(k) for k in range(4)]))
    assert (episode.source == HUMAN).all() and episode.success is True and episode.terminated


def test_without_steering_a_guard_says_what_was_executed_and_whose_it_was(desk):
    # mutation: actions of the controllers' topics, all of them a human's; a plan whose steps are not our ticks
    d, sources = desk(steered=False), [wire.HUMAN, wire.STOP, wire.POLICY, wire.HUMAN]

    def act(k):
        d.master.put_plan(command(k, d.now, numbers=[1, 1, 1]))
        if k == 2:
            d.control([2.0, 2.0, 2.0])
        d.master.put_command(command(90 + k, d.now, sources[k], action(k), episode=7))

    d.demonstrate(4, act)
    d.master.stop("stop")
    (episode,) = d.wait()
    assert_same(episode.states, np.stack([state(k) for k in range(5)]))
    assert_same(episode.actions, np.stack([action(k) for k in range(4)]))
    assert episode.source.tolist() == [HUMAN, POLICY, POLICY, HUMAN] and episode.provenance["stopped"] == [1]
    assert episode.commanded is None and d.master.notes == []


def test_where_no_command_came_it_is_said_where_one_was_expected(desk):
    # mutation: say it of every loss; the controllers' topics where a guard runs
    for guarded, where in ((True, "executed; without a guard set guarded: false"), (False, "/command")):
        d = desk(f"store{guarded}", steered=False, guarded=guarded)
        d.demonstrate(3, lambda k: None)
        d.master.stop("stop")
        assert d.wait() == [] and d.master.notes[0].endswith(f"; no command came on {where}")


def test_somebody_elses_arm_has_steerings_steps_and_the_controllers_actions(desk):
    # mutation: actions by ticks of our own; commands of a guard; the command that came after the step
    d = desk(guarded=False)
    d.control(action(50).tolist())  # still in force when the episode begins
    d.master.start()
    began = d.now
    for k in range(6):
        d.now = began + 5 + k * STEP
        received, frame = picture(k)
        d.master.put_image("/wrist", received, frame)
        d.now += 2  # steering says its tick a little later, and somebody commands in between
        if k > 1:
            d.control(action(k).tolist())
        d.master.put_step(step(k, 0, d.now - 2))
        d.master.put_command(command(k - 1, d.now, numbers=[1, 1, 1]))  # an older guard's, of a step that is over
    d.master.ended(0, 5, "")
    (episode,) = d.wait()
    assert_same(episode.states, np.stack([state(k) for k in range(6)]))
    assert_same(episode.actions, np.stack([action(k) for k in (50, 50, 2, 3, 4)]))
    assert (episode.source == HUMAN).all()


def test_without_a_guard_actions_are_whose_the_parameter_says_unless_a_human_intervenes(desk):
    # mutation: a human's wherever no guard runs
    d = desk(guarded=False, source="policy")
    d.master.start()
    for k in range(5):
        d.master.human = k == 2
        d.control(action(k).tolist())
        d.master.put_image("/wrist", *picture(k))
        d.now += STEP
        d.master.put_step(step(k, 0, d.now))
    d.master.ended(0, 4, "")
    (episode,) = d.wait()
    assert episode.source.tolist() == [POLICY, HUMAN, POLICY, POLICY]


def test_where_nothing_is_kept_episodes_begin_and_end_all_the_same(desk):
    # mutation: write it; announce nothing; the same number again
    d = desk(keep=False)
    for number in range(2):
        assert d.master.start() == ""
        d.play(3)
        d.master.stop("success")
        assert d.events[-1] | {"event": "success", "episode": number} == d.events[-1]
    assert d.wait() == [] and d.over == [(0, False), (1, False)] and d.master.closing == []


def test_a_message_that_cannot_be_read_loses_its_tick_and_no_more(desk):
    # mutation: let MessageError end the poll
    d = desk(steered=False)
    bad = SimpleNamespace(name=["a"], position=[1.0])
    for topic in TOPICS.inputs:
        d.master.put_input(topic, Received(d.now, 0, lambda: bad))
    d.now += 1
    d.master.start()
    d.now += 3 * STEP
    d.master.poll()
    assert d.master.refused == 4 and "joint" in d.master.last_refused and d.master.take.steps == {}


def test_numbers_that_the_store_would_refuse_never_reach_an_episode(desk):
    # mutation: one NaN as a reward, and the whole episode is refused at its end
    d = desk()
    d.master.start()
    d.play(4)
    for reward in (np.nan, np.inf, 1e39):
        d.master.put_reward(d.now, reward)
    assert d.master.refused == 3 and "finite" in d.master.last_refused
    for put in (d.master.put_command, d.master.put_plan):
        with pytest.raises(wire.WireError, match="1e\\+39"):
            put(command(3, d.now - 1, numbers=[0, 1e39, 0]))
    d.master.stop("stop")
    assert len(d.wait()) == 1 and d.writer.refused == []


def test_a_picture_that_cannot_be_read_is_lost_and_said(desk):
    # mutation: try it again with every message
    d = desk()
    d.master.start()
    wrong = SimpleNamespace(encoding="rgb8", height=4, width=5, step=15, data=b"")
    d.master.put_image("/wrist", Received(d.now, 777, lambda: wrong), "")
    with pytest.raises(MessageError, match="encoding"):
        d.master.put_step(step(0))
    assert not d.master.take.missing and not d.master.take.whole(0)


# -- limits ------------------------------------------------------------------------------------------------------------


def test_an_episode_that_would_fill_the_memory_is_ended_and_kept(desk):
    # mutation: no cap; discard instead of stop
    d = desk(memory=300 / (1 << 30))
    d.master.start()
    d.play(5)
    d.master.poll()
    assert d.events[-1]["event"] == "stop" and "memory" in d.master.notes[0]
    (episode,) = d.wait()
    assert len(episode) == 5 and episode.truncated and "memory" in episode.provenance["ended_by"]


def test_without_room_on_the_disk_nothing_starts_and_what_runs_is_ended(desk, monkeypatch):
    # mutation: look only at the start; a disk that is gone ends the node
    d = desk(free=0.0)
    d.master.start()
    d.play(3)
    d.master.settings = Settings(**(PLAIN | {"free": 1e9}))
    d.master.check_disk()
    assert d.events[-1]["event"] == "stop" and len(d.wait()) == 1
    assert "expected 1e+09 GiB free" in d.master.start() and d.master.take is None
    monkeypatch.setattr("shutil.disk_usage", lambda path: (_ for _ in ()).throw(OSError("gone")))
    assert d.master.free() == 0.0


def test_an_episode_that_runs_when_the_node_ends_is_kept_as_cut_off(desk):
    # mutation: drop the running one, or the closing one
    d = desk()
    d.master.start()
    d.play(4)
    d.master.ended(0, 4, "")
    d.master.start()
    d.play(3)
    d.master.finish()
    assert d.writer.flush(5.0)
    first, second = (d.store.read(name) for name in d.store.names())
    assert (len(first), len(second)) == (4, 3) and second.truncated and second.success is None
    assert "recorder was stopped" in second.provenance["ended_by"] and d.master.closing == []


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_episodes_waiting_in_order_until_there_is_room(desk, monkeypatch):
    # mutation: give up after an OSError; write the second one first
    d = desk()
    full, real = [True], d.store.append

    def append(episode):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(episode)

    monkeypatch.setattr(d.store, "append", append)
    made = [make_episode(SPEC, seed=i) for i in range(3)]
    for episode in made:
        d.writer.put(episode)
    assert not d.writer.flush(0.1) and "No space left" in d.writer.error and d.writer.waiting == 3
    d.master.settings = Settings(**(PLAIN | {"memory": 1e-9}))
    assert "wait for the disk" in d.master.start()
    full[0] = False
    assert d.writer.flush(5.0) and d.writer.error == "" and d.writer.waiting == 0
    for name, episode in zip(d.store.names(), made, strict=True):
        assert_same(d.store.read(name), episode)
    assert [steps for steps, _ in d.writer.written] == [7, 7, 7]


def test_an_episode_that_the_store_refuses_is_said_and_those_behind_it_are_written(desk):
    # mutation: try it for ever; swallow the reason
    d = desk()
    bad = make_episode(SPEC, rewards=np.full(7, np.nan, np.float32))
    d.writer.put(bad)
    d.writer.put(make_episode(SPEC))
    assert d.writer.flush(5.0) and len(d.store.names()) == 1
    assert len(d.writer.refused) == 1 and "rewards: expected finite" in d.writer.refused[0]


def test_what_cannot_be_written_at_the_end_is_counted(desk, monkeypatch):
    # mutation: return 0
    d = desk()
    monkeypatch.setattr(d.store, "append", lambda episode: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
    d.writer.put(make_episode(SPEC))
    began = time.monotonic()
    assert d.writer.close(0.1) == 1 and time.monotonic() - began < 1.0


def test_a_store_of_another_robot_is_refused_and_not_left_locked(tmp_path):
    # mutation: no check; keep the lock
    open_store(tmp_path / "s", SPEC).close()
    with pytest.raises(SpecMismatch, match="dt") as refused:
        open_store(tmp_path / "s", SPEC.choose(dt=0.5))
    open_store(tmp_path / "s", SPEC).close()
    assert refused.traceback  # whoever keeps the error does not keep the lock


# -- bags --------------------------------------------------------------------------------------------------------------


def test_a_bag_gives_every_message_back_in_order_with_its_time_on_the_wall(tmp_path):
    # mutation: steady time as it is; no metadata.yaml
    from ros_bags import TYPES, std
    from rosbags.highlevel import AnyReader

    bag = BagWriter(tmp_path / "bags" / "e0")
    raw = [bytes(TYPES.serialize_cdr(std("Float32", float(i)), "std_msgs/msg/Float32")) for i in range(50)]
    began = time.monotonic_ns()
    for i, each in enumerate(raw):
        bag.put("/reward", "std_msgs/msg/Float32", began + i, each)
    bag.put("/mine", "my_msgs/msg/Own", began, b"")
    bag.close()
    with AnyReader([tmp_path / "bags" / "e0"]) as reader:
        found = [(when, bytes(data)) for _, when, data in reader.messages()]
    assert [data for _, data in found] == raw and found[7][0] == began + 7 + bag.offset
    assert abs(found[0][0] - time.time_ns()) < 10**10 and "my_msgs" in bag.error and bag.messages == 50


def test_a_discarded_episodes_bag_is_removed_and_a_broken_one_says_so(tmp_path, monkeypatch):
    # mutation: keep it; raise in the robot's thread
    bag = BagWriter(tmp_path / "e0")
    bag.close(keep=False)
    assert not (tmp_path / "e0").exists()
    bag = BagWriter(tmp_path / "e1", waiting=4)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bag._bag, "write", full)
    for i in range(50):
        bag.put("/reward", "std_msgs/msg/Float32", i, b"\0\1\0\0\0\0\0\0")
        time.sleep(0.001)
    bag.close()
    assert "No space left" in bag.error
