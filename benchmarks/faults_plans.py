"""Faults of the plans, and what operators do: emergency stops, takeovers. The guard runs; its policy is a script."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from faults_case import Graph, expect
from faults_common import RUNNING, follows, ns
from faults_proxy import delayed, doubled, lost
from faults_rig import SECOND, Rig, T
from ros_graph import until

from robot_value import wire


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
    others = [c for c in list(rig.commands) if owned <= c.ns < given_back and c.source != wire.HUMAN]
    if others:
        rig.calm(since)
    told = [f"{c.source} at {(c.ns - owned) * 1e-6:.0f} ms" for c in others]
    expect(
        not others, f"while the human owned the arm: {told}, states' gap {rig.states.longest_gap(owned) * 1e-6:.0f} ms"
    )
    rig.human.stop()
    rig.scripted.stop()
    rig.intervention.publish(Bool(data=False))
    rig.still()
    rig.scripted.anchor(rig.commands[-1].position)
    rig.scripted.start()
    until(lambda: rig.moving(given_back), 3.0, lambda: f"the policy to go on: {rig.said}; {rig.guard.said[-300:]}")
    return (owned - since) * 1e-6


CASES = (
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
)  # fmt: skip
