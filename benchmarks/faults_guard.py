"""Faults of inputs, plans, operators and processes around the guard, whose policy is a script."""

from __future__ import annotations

import dataclasses
import signal
import time
from typing import Any

import numpy as np
from faults_case import Graph, expect
from faults_proxy import changed, delayed, doubled, dropped, lost
from faults_rig import ARM, SECOND, Rig, T
from ros_graph import until

from robot_value import wire

OLD = 100.0  # ms, the last valid input may be this old when the arm begins to stop: S_state + T = 70, and some slack


def ns() -> int:
    return time.monotonic_ns()


# -- inputs ------------------------------------------------------------------------------------------------------------


def short_of_a_joint(rig: Rig, rng: np.random.Generator) -> float:
    """One of: a joint missing, one twice, fewer numbers than names."""
    kind, at = int(rng.integers(3)), int(rng.integers(7))

    def spoil(message: Any) -> None:
        names, positions = list(message.name), list(message.position)
        if kind == 0:
            del names[at], positions[at]
        elif kind == 1:
            names[at] = names[(at + 1) % 7]
        else:
            del positions[at]
        message.name, message.position, message.velocity, message.effort = names, positions, [], []

    rig.phase(rng)
    since = rig.states.last
    rig.states.rule = changed(spoil)
    return rig.stopped(since) - (rig.states.last - since) * 1e-6


def reordered_and_extra(rig: Rig, rng: np.random.Generator) -> None:
    """Another order in every message, and a joint nobody asked for: nothing changes."""

    def shuffle(message: Any) -> None:
        order = rng.permutation(len(message.name))
        message.position = [float(message.position[i]) for i in order] + [99.0]
        message.name = [message.name[i] for i in order] + ["finger"]
        message.velocity, message.effort = [], []

    rig.states.rule = changed(shuffle)
    since = ns()
    time.sleep(0.6)
    rig.undisturbed(since)


def not_a_number(rig: Rig, rng: np.random.Generator) -> float:
    """NaN, infinity or 1e30 in a row: stops and latches."""
    value, at = float(rng.choice([np.nan, np.inf, -np.inf, 1e30])), int(rng.integers(7))

    def spoil(message: Any) -> None:
        positions = list(message.position)
        positions[at] = value
        message.position = positions

    rig.phase(rng)
    since = ns()
    rig.states.rule = changed(spoil)
    reaction = rig.stopped(since)
    rig.latched()
    return reaction


def one_bad_number(rig: Rig, rng: np.random.Generator) -> None:
    """A single NaN among good states is dropped and nothing else happens."""
    left = [1]

    def spoil(message: Any) -> None:
        if left[0]:
            left[0] = 0
            message.position = [float("nan")] * len(message.position)

    since = ns()
    rig.states.rule = changed(spoil)
    time.sleep(0.4)
    rig.undisturbed(since)


def state_jumps(rig: Rig, rng: np.random.Generator) -> float:
    """A joint is suddenly 1 rad elsewhere, faster than any arm moves: stops and latches."""
    at, by = int(rng.integers(7)), float(rng.choice([-1.0, 1.0]))

    def spoil(message: Any) -> None:
        positions = list(message.position)
        positions[at] += by
        message.position = positions

    rig.phase(rng)
    since = ns()
    rig.states.rule = changed(spoil)
    return rig.stopped(since)


def driver_killed(rig: Rig, rng: np.random.Generator) -> float:
    """SIGKILL of the process that publishes the state."""
    rig.phase(rng)
    rig.arm.popen.kill()
    rig.arm.popen.wait()
    time.sleep(0.02)
    reaction = rig.stopped(rig.states.last)
    rig.still()
    rig.renew_arm()
    return reaction


def future_stamps(rig: Rig, rng: np.random.Generator) -> float:
    """Headers from the future, the past and zero; then silence: a stamp never keeps an old state fresh."""
    offset = int(rng.choice([3600, 1, -3600, -10_000_000_000]))

    def spoil(message: Any) -> None:
        message.header.stamp.sec = max(0, message.header.stamp.sec + offset)

    rig.states.rule = changed(spoil)
    time.sleep(0.2 + float(rng.uniform(0, 0.05)))
    expect(not rig.by(wire.STOP, ns() - SECOND // 10) or offset > 0, f"stopped: {rig.said}")
    rig.states.rule = dropped
    silent = ns()
    if offset > 0:  # may be refused at once
        until(lambda: rig.state != "RUN", 0.15, "a stop")
        return 0.0
    return rig.stopped(silent)


def clock_jumps(rig: Rig, rng: np.random.Generator) -> None:
    """The wall clock goes an hour ahead or back while the arm moves: no decision changes."""
    since = ns()
    for jump in rng.permutation([3600.0, -3600.0, 1.0, 0.0]):
        rig.wall_clock.jump(float(jump))
        time.sleep(0.15)
    rig.undisturbed(since)
    expect(np.diff([c.ns for c in rig.commands if c.ns > since]).max() < 0.1 * SECOND, "the guard paused")


def no_clock(rig: Rig, rng: np.random.Generator) -> None:
    """use_sim_time without /clock, then a /clock that stands still or starts anew: the guard ticks on."""
    from rosgraph_msgs.msg import Clock

    since = ns()
    time.sleep(1.0)
    ticks = len([c for c in rig.commands if since <= c.ns < since + SECOND])
    if ticks < 45:
        rig.calm(since)
    expect(ticks >= 45, f"{ticks} commands in 1 s without /clock")
    publisher = rig.graph.publisher(Clock, "/clock", 10)
    for second in (100, 100, 5, 0):
        message = Clock()
        message.clock.sec = second
        publisher.publish(message)
        time.sleep(0.05)
    rig.graph.probe.destroy_publisher(publisher)
    rig.undisturbed(since)


def sim_time_refused(rig: Rig, rng: np.random.Generator) -> None:
    """A guard of a real robot does not configure with use_sim_time."""
    refused_configuration(rig, use_sim_time=True, real=True)


def burst(rig: Rig, rng: np.random.Generator) -> float:
    """1,000 states at once, then as fast as can be for 2 s: newest used, memory flat, the guard on time."""
    message = rig.states.newest
    before, since = rss(rig.guard.pid), ns()
    rig.states.burst(message, 1000)
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        rig.states.burst(rig.states.newest, 20)
        time.sleep(0.002)
    gaps = np.diff([c.ns for c in rig.commands if c.ns > since]) * 1e-6
    grown = rss(rig.guard.pid) - before
    expect(grown < 20 << 20, f"grown by {grown >> 20} MiB")
    rig.undisturbed(since)
    return float(np.percentile(gaps, 99))


# -- plans -------------------------------------------------------------------------------------------------------------


def old_plans(rig: Rig, rng: np.random.Generator) -> None:
    """Older and repeated numbers that ask for something else: never followed."""

    def again(about: wire.About, actions: np.ndarray):
        rig.scripted.send(about, actions)
        time.sleep(0.03)
        old, said = rig.scripted.sent[-min(len(rig.scripted.sent), int(rng.integers(1, 5)))]
        return (old, said + 0.05) if rng.random() < 0.5 else (dataclasses.replace(about, seq=old.seq), said + 0.05)

    since = ns()
    rig.scripted.edit = again
    time.sleep(0.8)
    follows(rig, since)


def rough_transport(rig: Rig, rng: np.random.Generator) -> None:
    """Late, reordered, doubled, 10 % lost: bridged within the horizon, and the motion stays the same."""
    since = ns()
    for rule in (delayed(0.0, 0.08, rng), doubled(0.15), lost(0.1, rng)):
        rig.plans.rule = rule
        time.sleep(0.4)
    follows(rig, since)


def follows(rig: Rig, since: int, slack: float = 0.02) -> None:
    """No stop, and every command where the script wanted to be then."""
    rig.undisturbed(since)
    commands = [c for c in rig.commands if c.ns > since]
    wanted = rig.scripted.at(np.array([c.ns for c in commands]) + round(T * 1e9))
    off = np.abs(np.array([c.position for c in commands]) - wanted)[:, :7].max()
    expect(off < slack, f"{off:.3f} rad off the plan")


def plans_end(rig: Rig, rng: np.random.Generator) -> float:
    """No further plan: stops when the last one ends, not later than T."""
    rig.phase(rng)
    rig.scripted.stop()
    about, actions = rig.scripted.sent[-1]
    end = about.start + round(len(actions) * rig.scripted.dt * 1e9)
    return max(0.0, (rig.first(wire.STOP, about.start).ns - end) * 1e-6)


def late_plan(rig: Rig, rng: np.random.Generator) -> None:
    """A plan that was created long ago, or from an old observation, is not followed."""
    rig.scripted.stop()
    rig.still()
    since = ns()
    for _ in range(5):
        about, actions = rig.scripted.plan()
        age = round(float(rng.uniform(1.5, 10.0)) * SECOND)
        old = {"created": about.created - age} if rng.random() < 0.5 else {"observed": about.observed - age}
        rig.scripted.send(dataclasses.replace(about, **old), actions + 0.05)
        time.sleep(0.05)
    time.sleep(0.1)
    expect(not rig.by(wire.POLICY, since), "an old plan was followed")


def one_bad_plan(rig: Rig, rng: np.random.Generator) -> None:
    """One plan with a number that is none, among good ones: bridged, never published."""
    value, due = float(rng.choice([np.nan, np.inf, -np.inf])), [True]

    def spoil(about: wire.About, actions: np.ndarray):
        if due[0]:
            due[0], actions = False, actions.copy()
            actions[rng.integers(len(actions)), rng.integers(7)] = value
        return about, actions

    since = ns()
    rig.scripted.edit = spoil
    time.sleep(0.5)
    follows(rig, since)


def bad_plans(rig: Rig, rng: np.random.Generator) -> None:
    """Nothing but NaN: stops when the last good plan has ended; nothing else comes out."""
    rig.scripted.edit = lambda about, actions: (about, np.full_like(actions, np.nan))
    rig.stopped(ns())


def too_fast(rig: Rig, rng: np.random.Generator) -> None:
    """A motion beyond velocity and acceleration limits: within them, clamped, and stopped where it goes on."""
    rig.scripted.anchor(rig.commands[-1].position)
    rig.scripted.amplitude, rig.scripted.frequency = 0.8, 0.8  # 4 rad/s, 20 rad/s^2
    since = ns()
    try:
        rig.stopped(since, timeout=4.0)
    finally:
        rig.scripted.amplitude, rig.scripted.frequency = 0.15, 0.3


def absurd_plan(rig: Rig, rng: np.random.Generator) -> None:
    """Degrees for radians, or beyond the joints' limits: refused or followed within them."""
    factor, at = float(rng.choice([57.3, 1000.0, -57.3])), int(rng.integers(7))

    def spoil(about: wire.About, actions: np.ndarray):
        actions = actions.copy()
        actions[:, at] = actions[:, at] * factor + np.sign(factor) * 3.0
        return about, actions

    since = ns()
    before = rig.commands[-1].position
    rig.scripted.edit = spoil
    time.sleep(0.8)
    moved = np.abs(np.array([c.position[at] for c in rig.commands if c.ns > since]) - before[at]).max()
    expect(moved < 0.4, f"moved {moved:.2f} rad towards an absurd target")


def seam(rig: Rig, rng: np.random.Generator) -> None:
    """Every plan is a little elsewhere than the last one: limits hold across the seams."""
    rig.scripted.edit = lambda about, actions: (about, actions + rng.uniform(-0.02, 0.02, 8))
    since = ns()
    time.sleep(1.0)
    expect(len(rig.by(wire.POLICY, since)) > 10, f"did not move: {rig.said}")


# -- operators ---------------------------------------------------------------------------------------------------------


def emergency_stop(rig: Rig, rng: np.random.Generator) -> float:
    """By topic or by service, at a random phase: latched; letting go of the button alone moves nothing."""
    from std_msgs.msg import Bool
    from std_srvs.srv import SetBool, Trigger

    rig.phase(rng)
    by_topic = rng.random() < 0.5
    since = ns()
    if by_topic:
        rig.estop.publish(Bool(data=True))
    else:
        rig.graph.call(Trigger, "guard/estop")
    reaction = rig.stopped(since)
    rig.still()
    rig.latched()
    rig.estop.publish(Bool(data=False))
    time.sleep(0.1)
    after = ns()
    rig.graph.call(SetBool, "guard/enable", SetBool.Request(data=True))
    time.sleep(0.2)
    expect(not rig.by(wire.POLICY, after), "moved without a reset")
    return reaction


def takeover(rig: Rig, rng: np.random.Generator) -> float:
    """A human wins within a period, owns exactly those commands, and gives the arm back without a jump."""
    from std_msgs.msg import Bool

    rig.phase(rng)
    rig.human.period, rig.human.steps = 0.05, 6
    rig.human.anchor(rig.commands[-1].position)
    since = ns()
    rig.intervention.publish(Bool(data=True))
    rig.human.start()
    owned = rig.first(wire.HUMAN, since).ns
    time.sleep(0.3 + float(rng.uniform(0, 0.1)))
    given_back = ns()
    others = {c.source for c in list(rig.commands) if owned <= c.ns < given_back}
    if others != {wire.HUMAN}:
        rig.calm(since)
    expect(others == {wire.HUMAN}, f"while the human owned the arm: {others}")
    rig.human.stop()
    rig.scripted.stop()
    rig.intervention.publish(Bool(data=False))
    rig.still()
    rig.scripted.anchor(rig.commands[-1].position)
    rig.scripted.start()
    until(lambda: rig.moving(given_back), 3.0, f"the policy to go on: {rig.said}")
    return (owned - since) * 1e-6


# -- processes ---------------------------------------------------------------------------------------------------------


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
    published = {c.position[:ARM].tobytes(): c.ns for c in rig.commands}
    arrived = rig.arm_log(since=resumed)
    ages = [at - published[position.tobytes()] for at, position in arrived if position.tobytes() in published]
    expect(max(ages, default=0) < SECOND // 20, f"a command {max(ages, default=0) * 1e-6:.0f} ms old reached the arm")


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
        until(lambda: "intruder" in str(rig.said) and "guard" in str(rig.said), 2.5, f"both names, got {rig.said}")
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


def callback_fails(rig: Rig, rng: np.random.Generator) -> None:
    """Any callback of the guard raises whenever it is called: said, three times deactivate it, the process lives."""
    from std_msgs.msg import Bool
    from std_srvs.srv import SetBool, Trigger

    rig.guard.end(signal.SIGKILL)
    rig.renew_guard(broken=("raise", str(int(rng.integers(12)))))
    until(lambda: rig.graph.state("guard") in ("active", "inactive"), 30.0, f"a guard, got {rig.guard.said}")
    rig.scripted.start()
    rig.human.start()
    end = time.monotonic() + 8.0
    while time.monotonic() < end and rig.guard.popen.poll() is None and "deactivating" not in rig.guard.said:
        rig.estop.publish(Bool(data=False))
        rig.intervention.publish(Bool(data=False))
        for service in ("enable", "estop", "reset"):
            rig.graph.call(SetBool if service == "enable" else Trigger, f"guard/{service}", timeout=0.3)
    rig.human.stop()
    said = rig.guard.said
    expect(rig.guard.popen.poll() is None, f"the process ended: {said[-600:]}")
    expect("Ordered" in said, f"the callback was never called: {said[:200]}")
    if said.count("Ordered: ordered") >= 3:
        expect(rig.graph.state("guard") == "inactive", "three errors, and still active")
        late = ns()
        time.sleep(0.2)
        expect(not rig.by(wire.POLICY, late), "moves on")
    rig.guard.end(signal.SIGKILL)
    rig.renew_guard()
    rig.graph.wait_state(rig.guard, timeout=30.0)


# -- helpers -----------------------------------------------------------------------------------------------------------


def refused_configuration(rig: Rig, **parameters: Any) -> None:
    """A guard (beside the one that runs) that must not come up: exit code 1, and not a command."""
    process = rig.another_guard(**parameters)
    try:
        code = process.popen.wait(timeout=30.0)
    except Exception:
        process.end(signal.SIGKILL)
        expect(False, f"came up with {parameters}")
    expect(code == 1, f"exit code {code}: {process.said[-500:]}")


def rss(pid: int) -> int:
    """bytes"""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


RUNNING, CONFIGURING = "in motion, at a random moment", "at configure"
CASES = (
    Graph("F5", "states", "joint missing, twice, or without a number", RUNNING, "dropped; stops as if none came",
          short_of_a_joint, "states are taken as they come", "guard_trusts_states", OLD),
    Graph("F4", "states", "joints in another order, and one too many", RUNNING, "nothing changes",
          reordered_and_extra, "states are taken as they come", "guard_trusts_states"),
    Graph("F6", "states", "NaN, infinity or 1e30 in every state", RUNNING, "stops and latches",
          not_a_number, "bad states are not counted", "guard_counts_no_bad_states", OLD),
    Graph("F6", "once", "a single NaN state", RUNNING, "dropped, nothing else",
          one_bad_number, "one bad state is enough", "guard_faults_at_once"),
    Graph("F6", "jump", "a joint is 1 rad elsewhere at once", RUNNING, "stops",
          state_jumps, "neither jumps nor the way to the command are looked at", "guard_believes_any_state", OLD),
    Graph("F7", "", "the driver is killed", RUNNING, "stops", driver_killed,
          "states never grow old", "guard_ageless_states", OLD),
    Graph("F8", "", "stamps from the future, the past, zero; then silence", RUNNING, "age by receive time: stops",
          future_stamps, "states never grow old", "guard_ageless_states", OLD),
    Graph("F9", "", "the wall clock jumps by an hour", RUNNING, "nothing changes", clock_jumps,
          "the guard reads the wall clock", "guard_on_wall_clock", rig="wall clock"),
    Graph("F10", "ticks", "use_sim_time without /clock, and one that stands or starts anew", RUNNING, "ticks on",
          no_clock, "the guard reads ROS time", "guard_on_ros_time", rig="sim time"),
    Graph("F10", "real", "use_sim_time on a real robot", CONFIGURING, "refused", sim_time_refused,
          "the check is gone", "guard_any_time"),
    Graph("F11", "", "1,000 states at once, then as many as possible for 2 s", RUNNING, "newest used, on time",
          burst, "every message is kept and read", "guard_keeps_all", 2000 * T),
    Graph("F12", "old plans", "older and repeated sequence numbers", RUNNING, "dropped", old_plans,
          "sequence numbers are not looked at", "guard_any_sequence"),
    Graph("F12", "transport", "late, reordered, doubled, 10 % lost", RUNNING, "bridged", rough_transport,
          "only two steps of a plan are kept", "guard_short_plans"),
    Graph("F12", "none", "no further plan", RUNNING, "stops when the last plan ends", plans_end,
          "the last action is held for ever", "guard_endless_plans", 1000 * T + 20),
    Graph("F17", "late plans", "a plan created, or observed, long ago", "at rest", "refused", late_plan,
          "plans never grow old", "guard_ageless_plans"),
    Graph("F13", "one", "one plan with NaN", RUNNING, "refused whole, bridged", one_bad_plan,
          "numbers are not looked at", "guard_trusts_numbers"),
    Graph("F13", "all", "every plan is NaN", RUNNING, "stops when the last good one ends", bad_plans,
          "numbers are not looked at", "guard_trusts_numbers"),
    Graph("F20", "fast", "a motion beyond velocity and acceleration", RUNNING, "within limits, then stops",
          too_fast, "commands are not limited", "guard_unlimited"),
    Graph("F20", "absurd", "a joint in degrees, or far away", RUNNING, "refused, or within limits", absurd_plan,
          "commands are not limited", "guard_unlimited"),
    Graph("F21", "", "every plan is a little elsewhere", RUNNING, "limits hold across seams", seam,
          "commands are not limited", "guard_unlimited"),
    Graph("F28", "", "e-stop by topic or service", RUNNING, "stops, latches, never moves by itself",
          emergency_stop, "the e-stop is not heard", "guard_no_estop", 60.0),
    Graph("F29", "", "a human takes over and gives back", RUNNING, "wins within a period, exact labels, no jump",
          takeover, "interventions are not heard", "guard_no_takeover", 2000 * T),
    Graph("F27", "", "the guard is killed", RUNNING, "the arm stops; the next guard holds where the arm is",
          guard_killed, "it begins where it wants to", "guard_begins_anywhere"),
    Graph("F35", "", "guard or arm paused for 2 s", RUNNING, "nothing stale is played", paused,
          "controllers queue their commands", "both_queue_commands"),
    Graph("F34", "peer", "the driver hangs and comes back", RUNNING, "stops; goes on without a restart", peer_lost,
          "states never grow old", "guard_ageless_states", OLD),
    Graph("F36", "", "SIGTERM, SIGINT, Ctrl-C twice", RUNNING, "stops, exit code 0 or 130", terminated,
          "signals end the process", "guard_dies_on_signals", 5000.0),
    Graph("F33", "", "a second publisher on the controller's topic", RUNNING, "latched stop that names both",
          second_commander, "publishers are not counted", "guard_any_commander", 1200.0),
    Graph("F54", "", "a foreign participant commands the arm", RUNNING, "latched stop that names both",
          foreign_commands, "publishers are not counted", "guard_any_commander", 1200.0),
    Graph("F31", "guard", "deactivated in motion", RUNNING, "the stop completes, nothing afterwards", deactivated,
          "deactivate does not wait for rest", "guard_stops_at_once"),
    Graph("F26", "guard", "a callback raises whenever it is called", "active", "said; three deactivate it",
          callback_fails, "exceptions are not caught", "guard unsafe"),
    Graph("F30", "guard", "services and transitions in the wrong state", "inactive and unconfigured", "refused",
          wrong_state, "services answer in any state", "guard_always_willing"),
    Graph("F32", "guard", "every parameter, eight bad values, while active", RUNNING, "rejected, old value stays",
          bad_parameters, "parameters may be set at any time", "guard_open_parameters"),
)  # fmt: skip
