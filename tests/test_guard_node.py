"""The guard node over real topics: what it follows, how it stops, whom it obeys. The probe is everybody else."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from ros_graph import Graph, until
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_value import wire
from robot_value.ros_nodes.guard_node import Config, GuardNode
from robot_value.ros_nodes.managed import COMMAND, LATCHED, RECORD, SENSOR
from robot_value.topics import load

TOPICS = """
rate: 20
max_skew: 0.05
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, joints: [a, b], unit: rad, max_age: 0.1}
action:
  - {name: arm, topic: /arm/joint_trajectory, type: trajectory_msgs/msg/JointTrajectory, joints: [a, b], kind: joint,
     unit: rad, low: [-2, -2], high: [2, 2], max_age: 0.2}
  - {name: gripper, topic: /gripper/commands, type: std_msgs/msg/Float64MultiArray, names: [gripper], kind: gripper,
     unit: "1", low: 0, high: 1, max_age: .inf}
cameras: []
"""
NAMES, T, STEP = ("a", "b", "gripper"), 0.02, 0.05  # s, period of the guard and step of a plan
LIMITS = {"velocity": [1.0], "acceleration": [10.0], "jerk": [400.0]}
START = [0.3, -0.4]


class Rig:
    """An arm that is where it was told to be, and everybody else who speaks to the guard."""

    def __init__(self, folder, graph, lockstep=False):
        self.graph, self.lockstep = graph, lockstep
        self.topics = folder / "topics.yaml"
        self.topics.write_text(TOPICS)
        self.schema = wire.schema(load(self.topics).spec)
        self.where, self.alive, self.seq = list(START), True, 0
        self.ahead = None  # s, of the states' stamps; None: not stamped
        qos = RECORD if lockstep else SENSOR
        self.executed = graph.listen(JointTrajectory, "executed", RECORD)
        self.commands = graph.listen(JointTrajectory, "/arm/joint_trajectory", RECORD, self._obey)
        self.gripper = graph.listen(Float64MultiArray, "/gripper/commands", RECORD)
        self.states = graph.listen(String, "guard_state", LATCHED)
        self.state = graph.publisher(JointState, "/joint_states", qos)
        self.plans = graph.publisher(JointTrajectory, "plan", RECORD if lockstep else COMMAND)
        self.takeover = graph.publisher(JointTrajectory, "takeover", RECORD if lockstep else COMMAND)
        self.intervention = graph.publisher(Bool, "intervention", 10)
        self.estop = graph.publisher(Bool, "/estop", 10)

    def start(self, **more):
        config = {"topics": str(self.topics), "lockstep": self.lockstep, "estop_topic": "/estop", **LIMITS, **more}
        self.guard = self.graph.start("guard_node", config)
        if not self.lockstep:
            threading.Thread(target=self._live, daemon=True).start()
        self.graph.wait_state(self.guard, "active")
        for publisher in (self.state, self.plans, self.takeover, self.intervention, self.estop):
            self.graph.wait_for_subscriber(publisher)
        self.executed.wait_for_publisher()
        return self

    def say(self, positions, frame=""):
        message = JointState(name=["b", "a"], position=[float(x) for x in positions[::-1]])
        message.header.frame_id = frame
        if self.ahead is not None:
            stamp = message.header.stamp
            stamp.sec, stamp.nanosec = divmod(time.time_ns() + self.ahead * 10**9, 10**9)
        self.state.publish(message)

    def plan(self, actions, velocities=None, source=wire.POLICY, **about):
        """From now on; one row per 50 ms."""
        now, self.seq = time.monotonic_ns(), self.seq + 1
        said = {"episode": 1, "step": 0, "start": 0, "observed": now, "created": now} | about
        message = JointTrajectory(joint_names=list(NAMES))
        message.header.frame_id = wire.header(wire.About(seq=self.seq, schema=self.schema, source=source, **said))
        for i, row in enumerate(np.asarray(actions, float).tolist()):
            point = JointTrajectoryPoint(positions=row, time_from_start=Duration(seconds=(i + 1) * STEP).to_msg())
            point.velocities = [] if velocities is None else np.asarray(velocities, float)[i].tolist()
            message.points.append(point)
        (self.takeover if source == wire.HUMAN else self.plans).publish(message)
        return now

    def wave(self, steps=20, height=0.15, **about):
        """Joint a goes up and comes back, smoothly; the gripper closes."""
        t = np.arange(1, steps + 1) / steps
        actions, velocities = np.zeros((2, steps, 3))
        actions[:, 0] = self.where[0] + height / 2 * (1 - np.cos(2 * np.pi * t))
        velocities[:, 0] = height * np.pi * np.sin(2 * np.pi * t) / (steps * STEP)
        actions[:, 1], actions[:, 2] = self.where[1], 1.0
        return self.plan(actions, velocities, **about)

    def moving(self):
        """A wave under way, at full speed soon."""
        since = self.wave()
        while not any(about.source == wire.POLICY for about in self.path(since)[0]):
            if time.monotonic_ns() - since > 10**9:  # a guard that was stalled drops its plans
                since = self.wave()
            time.sleep(0.01)
        time.sleep(0.2)

    def ready(self):
        """Held without a fault, and motion is wanted."""
        self.alive = True
        self.estop.publish(Bool(data=False))
        self.intervention.publish(Bool(data=False))
        self.call(SetBool, "enable", SetBool.Request(data=False))
        until(lambda: self.call(Trigger, "reset") == "", 5, "rest and fresh states")
        assert self.call(SetBool, "enable", SetBool.Request(data=True)) == ""
        return time.monotonic_ns()

    def call(self, kind, name, request=None):
        answer = self.graph.call(kind, f"guard/{name}", request)
        return "" if answer.success else answer.message

    def said(self):
        return json.loads(self.states.messages[-1][1].data)

    def wait(self, state, since=0):
        return self.states.wait(lambda message: json.loads(message.data)["state"] == state, since)

    def commanded(self, since, source):
        """The first command of that source since: (ns received, About, positions)."""
        got, message = self.executed.wait(lambda m: wire.parse_header(m.header.frame_id).source == source, since)
        return got, wire.parse_header(message.header.frame_id), message.points[0].positions

    def path(self, since):
        """(abouts, float64[n, 3]) of what was published since."""
        found = [message for _, message in self.executed.since(since)]
        return [wire.parse_header(m.header.frame_id) for m in found], np.array([m.points[0].positions for m in found])

    def _obey(self, message):
        self.where = list(message.points[0].positions)

    def _live(self):
        while self.graph._running:
            if self.alive:
                self.say(self.where)
            time.sleep(0.01)


def excess(path, abouts):
    """Independent of the guard: worst of what is published, in units of the limits; steps are one period apart."""
    assert (np.diff([about.seq for about in abouts]) == 1).all()
    arm, worst = path[:, :2], 0.0
    for most in (1.0, 10.0, 400.0):
        arm = np.diff(arm, axis=0) / T
        worst = max(worst, np.abs(arm).max(initial=0.0) / most)
    return worst


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard")
    with Graph(folder) as graph:
        yield Rig(folder, graph).start()


# mutation: Config.enabled True; Outputs.send without `grippers`.
def test_it_begins_where_the_arm_is_holds_and_moves_only_when_that_is_wanted(rig):
    *_, first = rig.commanded(0, wire.STOP)
    np.testing.assert_allclose(first[:2], START, atol=1e-6)
    rig.wave()
    time.sleep(0.3)
    _, path = rig.path(0)
    assert (path == path[0]).all() and rig.said()["state"] == "HOLD" and not rig.gripper.messages
    assert list(rig.commands.messages[0][1].joint_names) == ["a", "b"]
    assert not rig.commands.messages[0][1].points[0].velocities  # a controller refuses a last point that moves


# mutation: leave out udp_only, or the profile where the discovery range is LOCALHOST.
def test_no_peer_can_hold_it_by_a_lock_in_shared_memory(rig):
    rig.ready()  # arm and plans are heard
    assert "/dev/shm/fastdds" not in Path(f"/proc/{rig.guard.pid}/maps").read_text()


# mutation: in scheduling.real_time the calling thread only
def test_all_its_threads_have_real_time_priority_where_that_is_allowed(rig):
    rig.ready()
    diagnostics = rig.graph.listen(DiagnosticArray, "/diagnostics", 10)
    attempt = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(40))"
    allowed = subprocess.run([sys.executable, "-c", attempt], stderr=subprocess.DEVNULL).returncode == 0
    threads = [int(task.name) for task in Path(f"/proc/{rig.guard.pid}/task").iterdir()]
    assert len(threads) > 3  # of Fast DDS, the clock's
    wanted = {(os.SCHED_FIFO, 40)} if allowed else {(os.SCHED_OTHER, 0)}
    assert {(os.sched_getscheduler(t), os.sched_getparam(t).sched_priority) for t in threads} == wanted
    _, message = diagnostics.wait(lambda m: any(status.name == "guard: scheduling" for status in m.status))
    (said,) = [status.message for status in message.status if status.name == "guard: scheduling"]
    assert said.startswith("real-time priority 40" if allowed else "no right")


# mutation: in GuardNode._tick evaluate the plan at `due` instead of one period later.
def test_it_follows_a_plan_within_limits_then_stops_and_holds(rig):
    for _ in range(3):  # a shared machine may stall the guard, which then stops
        since = rig.ready()
        sent = rig.wave(episode=4, step=30)
        rig.commanded(since, wire.POLICY)
        rig.wait("HOLD", sent + 10**9 // 2)
        abouts, path = rig.path(since)
        assert excess(path, abouts) <= 1 + 1e-6
        assert (path[-1] == path[-2]).all() and rig.gripper.messages[-1][1].data[0] == 1.0
        followed = [about for about in abouts if about.source == wire.POLICY]
        assert {about.episode for about in followed} == {4} and followed[0].step == 30
        steps = {about.step for about in followed}
        if len(steps) > 15 and max(steps) == 49:
            break
    assert steps <= set(range(30, 50)) and max(steps) == 49 and np.ptp(path[:, 0]) == pytest.approx(0.15, abs=0.05)


# mutation: in GuardNode._tick pass age 0.0.
def test_a_dead_state_source_stops_it_in_time_and_it_goes_on_by_itself(rig):
    for _ in range(3):  # a shared machine may stall us
        since = rig.ready()
        rig.moving()
        rig.alive, died = False, time.monotonic_ns()
        took = (rig.commanded(died, wire.STOP)[0] - died) * 1e-9
        rig.wait("HOLD", died)
        abouts, path = rig.path(since)
        assert excess(path, abouts) <= 1 + 1e-6 and "measured state" in rig.said()["reason"]
        if took <= 0.1:
            break
    assert took <= 0.1, f"{took} s"
    rig.alive = True
    rig.commanded(rig.wave(), wire.POLICY)


# mutation: in GuardNode._stale_at return math.inf.
def test_a_dead_state_source_stops_it_when_its_state_is_too_old_not_at_the_next_period(rig):
    spacings = []
    for i in range(8):
        since = rig.ready()
        rig.moving()
        time.sleep(0.003 * i)
        rig.alive, died = False, time.monotonic_ns()
        rig.executed.wait(lambda m, died=died: wire.parse_header(m.header.frame_id).start > died + 10**8)
        abouts, path = rig.path(since)
        assert excess(path, abouts) <= 1 + 1e-6
        before, after = zip(*[(a, b) for a, b in itertools.pairwise(abouts) if b.start > died], strict=True)
        stops = [k for k, b in enumerate(after) if b.source == wire.STOP]
        assert stops, "it goes on without a measured state"
        if before[stops[0]].source == wire.POLICY:  # a shared machine may have stopped it before
            spacings.append((after[stops[0]].start - before[stops[0]].start) * 1e-9)
    rig.alive = True
    assert min(spacings) < 0.7 * T, spacings


# mutation: in GuardNode._emergency leave the stop to the next tick.
def test_an_emergency_stop_is_at_once_and_latches_until_it_is_released_and_reset(rig):
    spacings = []
    for i in range(8):
        since = rig.ready()
        rig.moving()
        time.sleep(0.003 * i)
        pressed = time.monotonic_ns()
        rig.estop.publish(Bool(data=True))
        rig.commanded(pressed, wire.STOP)
        rig.wait("FAULT", pressed)
        abouts, path = rig.path(since)
        assert excess(path, abouts) <= 1 + 1e-6 and rig.said()["reason"] == "emergency stop"
        first = next(k for k, about in enumerate(abouts) if about.source == wire.STOP and about.start > pressed)
        spacings.append((abouts[first].start - abouts[first - 1].start) * 1e-9)
        assert rig.call(Trigger, "reset").startswith("expected a released emergency stop")
        assert "reset first" in rig.call(SetBool, "enable", SetBool.Request(data=True))
    assert min(spacings) < 0.7 * T, spacings  # not at the next period's begin
    rig.estop.publish(Bool(data=False))
    sent = rig.wave()
    time.sleep(0.2)
    assert rig.said()["state"] == "FAULT" and not any(a.source == wire.POLICY for a in rig.path(sent)[0])


# mutation: in Plans._why_not accept any source.
def test_the_human_wins_and_after_the_release_only_later_observations_count(rig):
    rig.ready()
    rig.moving()
    taken = time.monotonic_ns()
    rig.intervention.publish(Bool(data=True))
    for _ in range(6):
        rig.plan([[rig.where[0] + 0.005, rig.where[1] + 0.01, 0.0]] * 6, source=wire.HUMAN)
        rig.plan([[*rig.where, 1.0]] * 8)
        time.sleep(0.05)
    won = rig.commanded(taken, wire.HUMAN)[0]
    before = time.monotonic_ns()
    rig.intervention.publish(Bool(data=False))
    assert wire.POLICY not in [about.source for about in rig.path(won)[0] if about.start < before]
    rig.plan([[*rig.where, 1.0]] * 8, observed=before)
    time.sleep(0.15)
    assert not any(about.source == wire.POLICY for about in rig.path(won)[0])
    abouts, path = rig.path(taken)
    rig.commanded(rig.wave(), wire.POLICY)
    assert excess(path, abouts) <= 1 + 1e-6


# mutation: in Plans._absurd return "".
def test_nonsense_is_refused_whole_and_never_published(rig):
    since = rig.ready()
    rig.plan([[*(np.array(rig.where) * 57.3), 0.0]] * 8)  # degrees
    rig.plan([[np.nan, 0, 0]] * 8)
    rig.plan([[*rig.where, 0.0]] * 8, observed=time.monotonic_ns() - 10**9)
    rig.state.publish(JointState(name=["a", "b"], position=[np.nan, 0.0]))
    time.sleep(0.3)
    abouts, path = rig.path(since)
    assert {about.source for about in abouts} == {wire.STOP} and np.isfinite(path).all()
    for _ in range(3):  # in a row, nobody else says anything
        rig.alive = False
        time.sleep(0.02)
        rig.state.publish(JointState(name=["a", "b"], position=[np.nan, 0.0]))
    rig.wait("FAULT", since)
    assert "bad measured states in a row" in rig.said()["reason"]


# mutation: in GuardNode.deactivate do not wait for rest; in activate do not skip.
def test_deactivating_finishes_the_stop_and_nothing_is_published_afterwards(rig):
    since = rig.ready()
    rig.moving()
    assert rig.graph.change("guard", "deactivate")
    ended = time.monotonic_ns()
    rig.wave()
    time.sleep(0.2)
    abouts, path = rig.path(since)
    assert excess(path, abouts) <= 1 + 1e-6 and abouts[-1].source == wire.STOP
    assert abouts[-1].start < ended and (path[-1] == path[-2]).all()
    for name in ("estop", "reset"):
        assert rig.call(Trigger, name) == "expected the node to be active, got another state"
    rig.where = [0.1, 0.2]  # somebody moved the arm
    time.sleep(0.05)
    begun = time.monotonic_ns()
    assert rig.graph.change("guard", "activate")
    _, about, where = rig.commanded(begun, wire.STOP)
    np.testing.assert_allclose(where[:2], [0.1, 0.2], atol=1e-3)
    assert about.seq > abouts[-1].seq + 1  # goes on, and says that it begins anew


# mutation: in GuardNode._on_state no wall clock; in findings level OK.
def test_a_stamp_from_the_future_is_a_warning_in_diagnostics_and_stops_nothing(rig):
    diagnostics = rig.graph.listen(DiagnosticArray, "/diagnostics", 10)

    def stamps(message):
        return [(s.level, s.message) for s in message.status if s.name == "guard: stamps"]

    rig.ready()
    rig.ahead = 60
    _, message = diagnostics.wait(lambda m: any(level == b"\x01" for level, _ in stamps(m)))
    rig.ahead = 0
    ((_, said),) = stamps(message)
    assert re.fullmatch("/joint_states: stamped .* s in the future; do all computers' clocks agree\\?", said)
    diagnostics.wait(lambda m: any(level == b"\x00" for level, _ in stamps(m)), time.monotonic_ns())
    assert rig.said()["state"] != "FAULT"


# mutation: in Commanders.others return [].
def test_a_second_commander_latches_a_fault_that_names_it(rig):
    since = rig.ready()
    other = rig.graph.publisher(JointTrajectory, "/arm/joint_trajectory", 1)
    at, _ = rig.wait("FAULT", since)
    assert (at - since) * 1e-9 < 2.5 and rig.said()["state"] == "FAULT"
    rig.states.wait(lambda m: "/robot_value/guard, got /robot_value/probe on /arm" in m.data, since)
    rig.graph.withdraw(other)
    time.sleep(0.3)


# mutation: in Guard.tick never clear the plan -> jumps ahead after the pause.
def test_after_a_pause_of_the_process_no_old_command_is_played(rig):
    since = rig.ready()
    rig.wave(steps=39, height=0.3)
    time.sleep(0.4)
    rig.guard.send(signal.SIGSTOP)
    time.sleep(0.6)
    woken = time.monotonic_ns()
    rig.guard.send(signal.SIGCONT)
    time.sleep(0.3)
    abouts, path = rig.path(since)
    assert excess(path, abouts) <= 1 + 1e-6
    assert not any(about.source == wire.POLICY for about in abouts if about.start > woken)


# mutation: no timer of GuardNode calls Log.write.
def test_a_refused_plan_is_in_the_log(rig):
    rig.ready()
    rig.wave(created=0)
    until(lambda: "plan refused: created: expected an age" in rig.guard.said, 5, "the reason in the guard's log")


# mutation: in managed._end `os._exit` at the first signal.
def test_sigterm_ends_the_stop_first_and_the_process_in_time(rig):
    since = rig.ready()
    rig.moving()
    asked = time.monotonic()
    assert rig.guard.end(signal.SIGTERM, timeout=8) == 0
    assert time.monotonic() - asked < 5
    abouts, path = rig.path(since)
    assert excess(path, abouts) <= 1 + 1e-6 and (path[-1] == path[-2]).all()
    assert "Traceback" not in rig.guard.said


# mutation: log in GuardNode._on_plan: 80 ms under the lock the first time, in which no command is made.
def test_nothing_is_logged_while_commands_wait():
    lines = []
    log = SimpleNamespace(warning=lines.append, error=lines.append)
    guard = GuardNode(SimpleNamespace(get_logger=lambda: log), Config())
    guard._names, guard._due = NAMES, 0
    guard._plans = SimpleNamespace(refused={"message": 0})
    guard._guard = SimpleNamespace(fault=lambda reason: None)
    for _ in range(3):
        guard._on_plan(JointTrajectory())  # no header
        guard._safely_tick()  # nothing that a tick needs is there
    assert guard._plans.refused == {"message": 3} and not lines
    guard._log.write()
    assert len(lines) == 2 and any("AttributeError" in line for line in lines)  # the newest of each
    guard._log.write()
    assert len(lines) == 2


# mutation: in GuardNode.configure drop a check.
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"sim_time": True}, "use_sim_time: expected false on a real arm"),
        ({"topics": ""}, "topics: expected the path of a topic YAML"),
        ({"jerk": (5.0, 6.0, 7.0)}, r"jerk: expected 1 number or one per arm joint \(2\), got 3"),
        ({"kinematics": "arm.urdf", "workspace_low": (0.0,)}, "workspace: expected 3 numbers low and high"),
        ({"acceleration": (0.5,)}, "a stop from full velocity within 1.0 s, got 2.01 s"),
    ],
)
def test_a_configuration_that_cannot_be_safe_is_refused(tmp_path, config, reason):
    (tmp_path / "topics.yaml").write_text(TOPICS)
    node = SimpleNamespace(get_parameter=lambda name, value=config.pop("sim_time", False): SimpleNamespace(value=value))
    with pytest.raises(ValueError, match=reason):
        GuardNode(node, Config(**{"topics": str(tmp_path / "topics.yaml"), **config})).configure()


# mutation: in LockStep.next answer with the oldest plan.
def test_in_lock_step_every_state_is_answered_once_with_its_plans_action_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    with Graph(tmp_path) as graph:
        huge = {"velocity": [1e5], "acceleration": [1e7], "jerk": [1e9]}
        rig = Rig(tmp_path, graph, lockstep=True).start(enabled=True, real=False, **huge)
        for episode in range(2):
            actions = np.float32(rng.uniform(-1, 1, (24, 3)) * [1, 1, 0.5] + [0, 0, 0.5])
            human = np.float32([[0.5, 0.5, 0.0]] * 3)
            rig.plan(human, source=wire.HUMAN, episode=episode, step=9)
            actions[9:12] = human
            for step in range(24):
                if step % 8 == 0:
                    rig.plan(actions[step : step + 8], episode=episode, step=step)
                rig.say(START, f"{episode}:{step}")
                rig.executed.wait(lambda m, now=(episode, step): _step(m) == now)
            got = [m for _, m in rig.executed.messages if _step(m)[0] == episode]
            assert [_step(m)[1] for m in got] == list(range(24))
            np.testing.assert_array_equal(np.array([m.points[0].positions for m in got]), np.float64(actions))
            sources = [wire.parse_header(m.header.frame_id).source for m in got]
            assert [i for i, source in enumerate(sources) if source == wire.HUMAN] == [9, 10, 11]


def _step(message):
    about = wire.parse_header(message.header.frame_id)
    return about.episode, about.step


def test_the_node_starts_without_torch():
    code = "import sys, robot_value.ros_nodes.guard_node; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
