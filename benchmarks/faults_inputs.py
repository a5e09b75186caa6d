"""Faults of what the guard is told about the arm and the time. The guard runs; its policy is a script."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from faults_case import Graph, expect
from faults_common import CONFIGURING, OLD, RUNNING, ns, refused_configuration, rss
from faults_proxy import changed, dropped
from faults_rig import SECOND, Rig, T
from ros_graph import until

from robot_value import wire


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
    """1,000 states at once, then as fast as can be for 2 s: on time, memory flat; then silence: no old one is read."""
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
    rig.states.rule = dropped
    late = rig.stopped(ns())
    expect(late <= OLD, f"went on for {late:.0f} ms after the last state, expected {OLD:g} ms: it reads old ones")
    return float(np.percentile(gaps, 99))


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
    Graph("F11", "", "1,000 states at once, as many as possible for 2 s, none", RUNNING, "newest used, on time; stops",
          burst, "every message is kept and read", "guard_keeps_all", 2000 * T),
)  # fmt: skip
