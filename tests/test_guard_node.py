"""The guard node over real topics: what it follows, how it stops, whom it obeys. The probe is everybody else."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from guard_rig import START, Rig, T, excess
from ros_graph import Graph, until
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_value import wire


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


# mutation: in GuardNode._grips return True -> the human's first word drives the gripper to where it was believed to be.
def test_a_hand_that_takes_over_first_leaves_the_gripper_alone_until_it_moves_it(rig):
    rig.ready()
    assert rig.graph.change("guard", "deactivate") and rig.graph.change("guard", "activate")  # who knows what it holds
    since = rig.ready()
    rig.intervention.publish(Bool(data=True))
    *_, believed = rig.commanded(since, wire.STOP)
    for _ in range(6):
        rig.plan([[rig.where[0] + 0.005, rig.where[1], believed[2]]] * 6, source=wire.HUMAN)
        time.sleep(0.05)
    rig.commanded(since, wire.HUMAN)
    assert not rig.gripper.since(since)
    for _ in range(6):
        rig.plan([[rig.where[0], rig.where[1], 0.5]] * 6, source=wire.HUMAN)
        time.sleep(0.05)
    rig.gripper.wait(lambda message: list(message.data) == [0.5], since)
    rig.intervention.publish(Bool(data=False))


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
