"""Faults of processes and of the node itself: killed, paused, intruded upon, ended. Its policy is a script."""

from __future__ import annotations

import dataclasses
import signal
import time

import faults_shared_memory
import numpy as np
from faults_case import Disturbed, Graph, expect
from faults_common import OLD, RUNNING, ns
from faults_proxy import dropped, passed
from faults_rig import ARM, SECOND, Rig
from ros_graph import claim_domain, until

from robot_value import wire


def guard_killed(rig: Rig, rng: np.random.Generator) -> float:
    """SIGKILL: the arm stops by its own timeout; the next guard holds, and begins where the arm is."""
    rig.phase(rng)
    rig.guard.popen.kill()
    rig.guard.popen.wait()
    dead = ns()
    time.sleep(0.3)
    expect(not [c for c in rig.commands if c.ns > dead], "somebody else publishes commands")
    measured = rig.measured()
    time.sleep(0.1)
    drift = np.abs(rig.measured() - measured).max()
    expect(drift < 1e-3, f"the arm moved on by {drift:.4f} rad")
    rig.renew_guard()
    until(lambda: len(rig.commands) > 0, 30.0, "a first command")
    first = rig.commands[0]
    expect(first.source == wire.STOP and rig.state != "RUN", f"first command {first}, state {rig.state}")
    off = np.abs(first.position[:ARM] - rig.measured_at(first.ns)).max()
    expect(off < 1e-3, f"the first command is {off:.4f} rad from where the arm is")
    time.sleep(0.2)
    expect(not rig.by(wire.POLICY, dead), "moved before it was enabled")
    return (first.ns - dead) * 1e-6


def paused(rig: Rig, rng: np.random.Generator) -> None:
    """SIGSTOP of guard or arm for 2 s: nothing that was queued is played when it goes on."""
    process = rig.guard if rng.random() < 0.5 else rig.arm
    rig.phase(rng)
    process.send(signal.SIGSTOP)
    try:
        time.sleep(2.0)
    finally:
        resumed = ns()
        process.send(signal.SIGCONT)
    time.sleep(0.5)
    rig.calm(resumed)
    published = {c.position[:ARM].tobytes(): c.ns for c in rig.commands}
    arrived = rig.arm_log(since=resumed)
    ages = [at - published[position.tobytes()] for at, position in arrived if position.tobytes() in published]
    oldest = max(ages, default=0)
    expect(oldest < SECOND // 20, f"after a pause of {process.name} the arm obeyed one {oldest * 1e-6:.0f} ms old")


def peer_lost(rig: Rig, rng: np.random.Generator) -> float:
    """The driver's process hangs (SIGSTOP) and comes back: stops as if dead; goes on without any restart."""
    rig.phase(rng)
    rig.arm.send(signal.SIGSTOP)
    try:
        time.sleep(0.02)
        last = rig.states.last
        reaction = rig.stopped(last)
        rig.still()
        time.sleep(0.3)
    finally:
        rig.arm.send(signal.SIGCONT)
    rig.run(timeout=5.0)
    return reaction


def domain_changed(rig: Rig, rng: np.random.Generator) -> float:
    """The driver is restarted in another domain: stops as if it was dead; back in ours the guard just goes on."""
    rig.phase(rng)
    rig.arm.popen.kill()
    rig.arm.popen.wait()
    time.sleep(0.02)
    reaction = rig.stopped(rig.states.last)
    rig.still()
    elsewhere, claim = claim_domain()
    try:
        rig.arm = rig.start_arm(ROS_DOMAIN_ID=str(elsewhere))
        heard_in(elsewhere, timeout=30.0)
        since = ns()
        time.sleep(0.5)
        expect(rig.states.last < since and not rig.by(wire.POLICY, since), "the arm is heard from another domain")
        rig.arm.end(signal.SIGKILL)
    finally:
        claim.close()
    rig.renew_arm()
    rig.run(timeout=5.0)
    return reaction


def heard_in(domain: int, timeout: float) -> None:
    """Until the arm's state is heard in that domain."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import JointState

    context, heard = rclpy.Context(), []
    rclpy.init(args=[], context=context, domain_id=domain)
    node, executor = rclpy.create_node("elsewhere", context=context), SingleThreadedExecutor(context=context)
    node.create_subscription(JointState, "/real/joint_states", heard.append, qos_profile_sensor_data)
    executor.add_node(node)
    end = time.monotonic() + timeout
    try:
        while not heard and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
    finally:
        node.destroy_node()
        context.try_shutdown()
    expect(heard, f"no state in domain {domain}")


def shared_memory_lost(rig: Rig, rng: np.random.Generator) -> None:
    """The guard's /dev/shm is filled up, read-only, or not the others' (a container): it works, and stops, as ever."""
    kind = str(rng.permutation(["filled", "unwritable", "another"])[0])
    rig.guard.end(signal.SIGKILL)
    rig.renew_guard(shared_memory=kind)
    try:
        if rig.guard.popen.poll() == faults_shared_memory.NOT_ALLOWED:
            raise Disturbed(rig.guard.said)
        rig.graph.wait_state(rig.guard)
        rig.run()
        since = ns()
        time.sleep(1.0)
        rig.undisturbed(since)
        rig.states.rule = dropped
        late = rig.stopped(ns())
        expect(late <= OLD, f"/dev/shm {kind}: stopped after {late:.0f} ms")
    finally:
        rig.states.rule = passed
        rig.guard.end(signal.SIGKILL)
        rig.renew_guard()
    rig.graph.wait_state(rig.guard)


def started_without_room(rig: Rig, rng: np.random.Generator) -> None:
    """/dev/shm is full before any process of ROS was there: the guard says so and ends; with room it comes up."""
    rig.phase(rng)
    rig.guard.end(signal.SIGKILL)
    rig.renew_guard(shared_memory="full")
    try:
        code = rig.guard.popen.wait(30)
        if code == faults_shared_memory.NOT_ALLOWED:
            raise Disturbed(rig.guard.said)
        expect(code == 1 and "/dev/shm is full" in rig.guard.said, f"guard ended ({code}): {rig.guard.said[-200:]}")
    finally:
        rig.guard.end(signal.SIGKILL)
        rig.renew_guard()
    rig.graph.wait_state(rig.guard)


def terminated(rig: Rig, rng: np.random.Generator) -> float:
    """SIGTERM, SIGINT or Ctrl-C twice: the limited stop completes, the exit code is right, within 5 s."""
    kind = int(rng.integers(3))
    rig.phase(rng)
    since = ns()
    rig.guard.send(signal.SIGTERM if kind == 0 else signal.SIGINT)
    if kind == 2:
        time.sleep(float(rng.uniform(0.0, 0.1)))
        rig.guard.send(signal.SIGINT)
    code = rig.guard.popen.wait(timeout=5.0)
    took = (ns() - since) * 1e-6
    expect(code in (0, 130), f"exit code {code}: {rig.guard.said[-500:]}")
    time.sleep(0.05)
    if code == 0:
        last = rig.commands[-3:]
        moving = np.abs(np.diff([c.position for c in last], axis=0)).max()
        expect(moving < 1e-9, f"ended {moving:.2g} rad per period before rest")
    rig.renew_guard()
    rig.graph.wait_state(rig.guard)
    return took


def second_commander(rig: Rig, rng: np.random.Generator) -> float:
    """A second publisher on the controller's topic, not a word said yet: latched stop that names both sides."""
    return intruded(rig, rng, commands=False)


def foreign_commands(rig: Rig, rng: np.random.Generator) -> float:
    """A foreign participant commands the arm."""
    return intruded(rig, rng, commands=True)


def intruded(rig: Rig, rng: np.random.Generator, commands: bool) -> float:
    rig.phase(rng)
    since = ns()
    intruder = rig.intruder(commands)
    try:
        rig.latched(timeout=3.0)
        reaction = rig.stopped(since)
        until(lambda: "intruder" in str(rig.said) and "guard" in str(rig.said), 2.5, lambda: f"both: {rig.said}")
    finally:
        rig.expel(intruder)
    time.sleep(1.0)  # until the graph has forgotten it
    return reaction


def deactivated(rig: Rig, rng: np.random.Generator) -> float:
    """Deactivate while the arm moves: the stop completes; no command of the policy afterwards."""
    rig.phase(rng)
    since = ns()
    expect(rig.graph.change("guard", "deactivate"), "deactivate was refused")
    done = ns()
    time.sleep(0.2)
    late = [c for c in rig.commands if c.ns > done + 5_000_000]
    expect(not late, f"{len(late)} commands outside ACTIVE, {len(rig.by(wire.POLICY, done))} of them the policy's")
    last = [c.position for c in rig.commands[-3:]]
    expect(np.abs(np.diff(last, axis=0)).max() < 1e-9, "did not come to rest")
    expect(rig.graph.change("guard", "activate"), "activate was refused")
    return (done - since) * 1e-6


BAD_VALUES = (float("nan"), float("inf"), -float("inf"), -1.0, 1e300, "a text", True, [1.0, float("nan")])


def bad_parameters(rig: Rig, rng: np.random.Generator) -> None:
    """Every parameter of an active guard, eight bad values each: rejected, and the old value stays."""
    from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
    from rclpy.parameter import Parameter

    from robot_value.ros_nodes.guard_node import Config

    known = {item.name for item in dataclasses.fields(Config)}
    names = [name for name in rig.graph.call(ListParameters, "guard/list_parameters").result.names if name in known]
    before = rig.graph.call(GetParameters, "guard/get_parameters", GetParameters.Request(names=names)).values
    for name in names:
        for value in BAD_VALUES:
            request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
            answer = rig.graph.call(SetParameters, "guard/set_parameters", request)
            expect(answer and not answer.results[0].successful, f"{name} = {value!r} was accepted while active")
    after = rig.graph.call(GetParameters, "guard/get_parameters", GetParameters.Request(names=names)).values
    expect(str(after) == str(before), "values changed")
    since = ns()
    time.sleep(0.1)
    expect(rig.by(wire.POLICY, since), f"stopped: {rig.said}")


def wrong_state(rig: Rig, rng: np.random.Generator) -> None:
    """Every service in every lifecycle state it does not belong to: refused with a reason, nothing moves."""
    from std_srvs.srv import SetBool, Trigger

    def ask_all(where: str) -> None:
        since = ns()
        for service in rng.permutation(["enable", "reset"]):
            kind = SetBool if service == "enable" else Trigger
            request = SetBool.Request(data=True) if service == "enable" else None
            answer = rig.graph.call(kind, f"guard/{service}", request, timeout=0.5)
            expect(answer is None or (not answer.success and answer.message), f"{service} succeeded {where}")
        time.sleep(0.05)
        expect(not [c for c in rig.commands if c.ns > since + 5_000_000], f"commands {where}")

    for transition in ("configure", "cleanup"):
        expect(not rig.graph.change("guard", transition), f"{transition} succeeded while active")
    rig.graph.wait_state(rig.guard)  # still
    expect(rig.graph.change("guard", "deactivate"), "deactivate was refused")
    ask_all("while inactive")
    expect(rig.graph.change("guard", "cleanup"), "cleanup was refused")
    ask_all("while unconfigured")
    expect(not rig.graph.change("guard", "activate"), "activate succeeded while unconfigured")
    expect(rig.graph.change("guard", "configure") and rig.graph.change("guard", "activate"), "did not come back")


CASES = (
    Graph("F27", "", "the guard is killed", RUNNING, "the arm stops; the next guard holds where the arm is",
          guard_killed, "it begins where it wants to", "guard_begins_anywhere"),
    Graph("F35", "", "guard or arm paused for 2 s", RUNNING, "nothing stale is played", paused,
          "controllers queue their commands", "both_queue_commands"),
    Graph("F34", "peer", "the driver hangs and comes back", RUNNING, "stops; goes on without a restart", peer_lost,
          "states never grow old", "guard_ageless_states", OLD),
    Graph("F34", "domain", "the driver comes back in another domain, then in ours", RUNNING,
          "stops; goes on without a restart", domain_changed, "states never grow old", "guard_ageless_states", OLD),
    Graph("F34", "shared memory", "the guard's /dev/shm is filled up, read-only or a container's", RUNNING,
          "works and stops as ever", shared_memory_lost, "Fast DDS as it comes", "guard_on_shared_memory"),
    Graph("F34", "no shared memory", "/dev/shm is full before the guard starts", RUNNING,
          "refused in words; starts once there is room", started_without_room, "nobody looks", "guard_sees_room"),
    Graph("F36", "", "SIGTERM, SIGINT, Ctrl-C twice", RUNNING, "stops, exit code 0 or 130", terminated,
          "signals end the process", "guard_dies_on_signals", 5000.0),
    Graph("F33", "", "a second publisher on the controller's topic", RUNNING, "latched stop that names both",
          second_commander, "publishers are not counted", "guard_any_commander", 1200.0),
    Graph("F54", "", "a foreign participant commands the arm", RUNNING, "latched stop that names both",
          foreign_commands, "publishers are not counted", "guard_any_commander", 1200.0),
    Graph("F31", "guard", "deactivated in motion", RUNNING, "the stop completes, nothing afterwards", deactivated,
          "deactivate does not wait for rest", "guard_stops_at_once"),
    Graph("F30", "guard", "services and transitions in the wrong state", "inactive and unconfigured", "refused",
          wrong_state, "services answer in any state", "guard_always_willing"),
    Graph("F32", "guard", "every parameter, eight bad values, while active", RUNNING, "rejected, old value stays",
          bad_parameters, "parameters may be set at any time", "guard_open_parameters"),
)  # fmt: skip
