"""An arm behind topics is a Robot of the one loop: bit by bit in lock-step; on the clock with pauses and humans."""

import threading
import time

import numpy as np
import pytest
import torch
from fakes import FixedPolicy
from steered import LiveArm, LockstepArm, arm_robot, first_order, joint_state, mapping, where_it_starts

from robot_value.deploy.ticking import Ended, Start, aging
from robot_value.loop import run_episodes
from robot_value.ros_nodes.arm_robot import Driving
from robot_value.steering.followers import blend, plain, splice
from robot_value.steering.steerer import Steerer
from robot_value.steering.two_speeds import ThinkAhead
from robot_value.types import HUMAN, POLICY


def policy_of(robot, horizon=6, seed=0):
    """The same random chunk whatever it sees."""
    spec = robot.spec.choose(horizon=horizon)
    chunks = torch.from_numpy(np.random.default_rng(seed).uniform(-0.5, 0.5, (1, 1, horizon, 2)).astype(np.float32))
    return FixedPolicy(spec, chunks)


class Seen:
    """A watcher that keeps what the loop saw."""

    wants_episodes = False

    def __init__(self):
        self.rounds = []

    def on_decision(self, observation, decision, outcome):
        self.rounds.append((observation, decision, outcome))


def play(robot, arm, steerer, follower=None, seed=3):
    seen, start = Seen(), Start(7, seed, "lift", time.monotonic_ns())
    robot.play(start)
    arm.begin(start)
    summary = run_episodes(robot, steerer, follower, [seen], tasks=["lift"], seeds=[seed])[0]
    return summary, seen.rounds


# -- lock-step ---------------------------------------------------------------------------------------------------------


def test_in_lockstep_the_loop_sees_and_executes_every_step_once_and_in_order():
    # mutation: history without the newest frame; a plan of the whole chunk; executed of another step
    arm = LockstepArm()
    robot = arm_robot(arm, lockstep=True, max_steps=12)
    policy = policy_of(robot)
    summary, rounds = play(robot, arm, Steerer(policy, execute=4))
    assert summary.steps == 12 and len(rounds) == 3
    position, chunk = where_it_starts(3), policy.chunks[0, 0].numpy()
    states = [position]
    for k in range(12):
        states.append(first_order(states[-1], chunk[k % 4]))
    for i, (observation, _, outcome) in enumerate(rounds):
        before = states[max(4 * i - 1, 0)]
        np.testing.assert_array_equal(observation.state[0], [before, states[4 * i]])
        assert observation.step[0] == 4 * i and observation.episode[0] == 3 and observation.task == ("lift",)
        assert observation.images["front"][0, :, 0, 0, 0].tolist() == [max(4 * i - 1, 0), 4 * i]
        np.testing.assert_array_equal(outcome.states[0], states[4 * i + 1 : 4 * i + 5])
        np.testing.assert_array_equal(outcome.executed[0], chunk[:4])
        np.testing.assert_array_equal(outcome.commanded[0], chunk[:4])
        assert outcome.images["front"][0, :, 0, 0, 0].tolist() == list(range(4 * i + 1, 4 * i + 5))
        assert (outcome.source == POLICY).all() and outcome.truncated[0] == (i == 2)
    assert [len(plan.actions) for plan in arm.heard("plan")] == [4, 4, 4]
    assert [about["step"] for about, _ in arm.heard("step")] == list(range(13))
    assert arm.heard("ended") == [(7, 12, "max_steps")]


def test_every_step_names_the_frames_and_the_bits_that_were_used():
    # mutation: the receive time in `used`
    arm = LockstepArm()
    robot = arm_robot(arm, lockstep=True, max_steps=4)
    _, rounds = play(robot, arm, Steerer(policy_of(robot), execute=4))
    about, state = arm.heard("step")[3]
    assert about["used"] == {"/joint_states": 60_000_000, "/front": 60_000_000} and about["time"] == 60_000_000
    assert about["frames"] == {"front": "7:3"} and about["episode"] == 7
    assert state.dtype == np.float32 and state.tobytes() == rounds[0][2].states[0, 2].tobytes()


@pytest.mark.parametrize(("follower", "plans"), [(plain, [4, 4, 4]), (splice, [1] * 12), (blend, [1] * 12)])
def test_a_follower_that_looks_is_asked_at_every_control_step(follower, plans):
    # mutation: treat every follower as open loop
    arm = LockstepArm()
    robot = arm_robot(arm, lockstep=True, max_steps=12)
    made = follower.Config().build()
    if hasattr(made, "check"):
        made.check(robot.spec)
    play(robot, arm, Steerer(policy_of(robot), execute=4), made)
    assert [len(plan.actions) for plan in arm.heard("plan")] == plans


def test_thinking_ahead_in_lockstep_decides_the_same_as_in_any_other_robot():
    # mutation: drop the observation's step from what a plan is about
    arm = LockstepArm()
    robot = arm_robot(arm, lockstep=True, max_steps=12, mode="ahead", lag=2)
    thinker = ThinkAhead(Steerer(policy_of(robot), execute=4), lag=2, lockstep=True)
    _, rounds = play(robot, arm, thinker, splice.Config().build())
    thinker.close()
    chunk = policy_of(robot).chunks[0, 0].numpy()
    starts = [int(decision.start_step[0]) for _, decision, _ in rounds]
    assert starts == [0, 6, 10]  # the first has nothing before it, later ones come `lag` steps after their observation
    executed = np.concatenate([outcome.executed[0] for _, _, outcome in rounds])
    # prefix of what is committed, then the new chunk from its own third step on
    np.testing.assert_array_equal(executed[:6], chunk[:6])
    np.testing.assert_array_equal(executed[6:10], chunk[2:6])


@pytest.mark.parametrize(("human", "starts"), [(range(5, 8), [0, 4, 8, 12]), (range(5, 6), [0, 4, 6, 10])])
def test_a_human_owns_exactly_the_steps_that_the_guard_says_and_then_is_decided_anew(human, starts):
    # mutation: go on with the block after the release; source of the plan instead of the command
    arm = LockstepArm(human=human)
    robot = arm_robot(arm, lockstep=True, max_steps=14)
    _, rounds = play(robot, arm, Steerer(policy_of(robot), execute=4))
    source = np.concatenate([outcome.source[0] for _, _, outcome in rounds])
    assert np.flatnonzero(source == HUMAN).tolist() == list(human)
    executed = np.concatenate([outcome.executed[0] for _, _, outcome in rounds])
    np.testing.assert_allclose(executed[human.start : human.stop], [arm.hand] * len(human), rtol=1e-6)
    assert [int(decision.start_step[0]) for _, decision, _ in rounds] == starts
    assert [about["step"] for about, _ in arm.heard("step")] == list(range(len(source) + 1))


@pytest.mark.parametrize(("why", "end"), [("success", "ts"), ("failure", "t"), ("stop", "x"), ("discard", "x")])
def test_an_episode_ends_as_the_recorder_says(why, end):
    # mutation: terminated for every end
    arm = LockstepArm()
    robot = arm_robot(arm, lockstep=True)
    real = arm.execute

    def execute(action, source):
        real(action, source)
        if arm.step_now == 6:
            robot.turn.end(why, 7)
            raise Ended(why)  # the fake is in the loop's own thread: nothing comes after the end

    arm.execute = execute
    _, rounds = play(robot, arm, Steerer(policy_of(robot), execute=4))
    last = rounds[-1][2]
    assert ("t" in end) == last.terminated[0] and ("s" in end) == last.success[0] and ("x" in end) == last.truncated[0]
    assert arm.heard("ended") == []  # whoever ended it knows


# -- on the clock ------------------------------------------------------------------------------------------------------


def test_on_the_clock_the_arm_rests_while_it_is_decided_and_no_step_is_lost():
    # mutation: keep the grid while deciding
    with LiveArm() as arm:
        robot = arm_robot(arm, max_steps=12, max_age=1.0)
        slow = Steerer(policy_of(robot), execute=4)

        def thinking(observation, active):
            time.sleep(0.05)
            return decide(observation, active)

        decide, slow._decide = slow._decide, thinking
        summary, rounds = play(robot, arm, slow)
    steps = [about["step"] for about, _ in arm.heard("step")]
    assert summary.steps == 12 and steps == list(range(13)) and robot.counts["stale"] == 0
    times = np.diff([about["time"] for about, _ in arm.heard("step")]) / 1e9
    assert (times[[0, 4, 8]] > 0.065).all() and (np.abs(np.delete(times, [0, 4, 8]) - 0.02) < 1e-6).all()
    for plan, (observation, _, _) in zip(arm.heard("plan"), rounds, strict=True):
        assert plan.about.step == observation.step[0] and plan.about.observed < plan.about.created <= plan.about.start
        assert plan.velocities[-1].tolist() == [0, 0]


def test_stale_inputs_end_the_steps_of_a_decision_and_leave_a_gap_that_is_not_filled():
    # mutation: decide on the last observation that was fresh; number the steps on without a gap
    with LiveArm() as arm:
        robot = arm_robot(arm, rate=10.0, max_steps=20, max_age=0.15)
        real = arm.plan

        def plan(message):
            real(message)
            if len(arm.heard("plan")) == 2:
                arm.silent.add("/joint_states")

        arm.plan = plan
        start = Start(1, 1, "", time.monotonic_ns())
        robot.play(start)
        arm.begin(start)
        seen = Seen()
        loop = threading.Thread(target=run_episodes, args=(robot, Steerer(policy_of(robot), execute=4), None, [seen]))
        loop.start()
        while not robot.counts["stale"] and loop.is_alive():
            time.sleep(0.005)
        time.sleep(0.5)
        assert len(arm.heard("decision")) == 2, "no decision without fresh inputs"
        assert "/joint_states" in robot.stale
        arm.silent.clear()
        loop.join(10)
    steps = [about["step"] for about, _ in arm.heard("step")]
    assert not loop.is_alive() and sorted(set(steps)) == steps and max(np.diff(steps)) >= 5
    assert len(arm.heard("ended")) == 1
    after = next(o for o, _, _ in seen.rounds if o.step[0] >= steps[int(np.argmax(np.diff(steps))) + 1])
    assert len(set(after.images["front"][0, :, 0, 0, 0].tolist())) == 1, "the history begins anew"


def test_nothing_fresh_for_long_ends_the_episode_with_the_topics_name():
    # mutation: wait for ever
    with LiveArm() as arm:
        robot = arm_robot(arm, patience=0.2)
        arm.silent.add("/front")
        with pytest.raises(Ended, match="/front nothing received"):
            play(robot, arm, Steerer(policy_of(robot)))


def test_a_decision_that_took_too_long_is_not_executed():
    # mutation: publish it anyway
    with LiveArm() as arm:
        robot = arm_robot(arm, max_age=1.0, max_steps=60)
        robot.driving = Driving(max_steps=60, max_age=0.4)
        steerer = Steerer(policy_of(robot), execute=4)
        decide, calls = steerer._decide, []

        def thinking(observation, active):
            calls.append(int(observation.step[0]))
            time.sleep(0.6 if len(calls) == 2 else 0.0)
            return decide(observation, active)

        steerer._decide = thinking
        play(robot, arm, steerer)
    assert robot.counts["late"] == 1 and len(arm.heard("plan")) == len(arm.heard("decision")) - 1
    assert calls[1] == 4 and calls[2] >= 4 + 30  # the clock went on


def test_shadow_decides_and_logs_and_never_sends_a_plan():
    # mutation: send in _tell
    with LiveArm() as arm:
        robot = arm_robot(arm, mode="shadow", rate=20.0, max_steps=12, max_age=1.0)
        _, rounds = play(robot, arm, Steerer(policy_of(robot), execute=4))
    assert arm.heard("plan") == [] and len(arm.heard("decision")) == len(rounds) == 3
    assert np.isnan(rounds[0][2].executed).all()  # nobody moved it


def test_ahead_the_arm_never_rests_and_plans_carry_the_chunks_rest():
    # mutation: plans of single steps; restart the grid at every decision
    with LiveArm() as arm:
        robot = arm_robot(arm, mode="ahead", rate=10.0, lag=1, max_steps=12, max_age=1.0)
        thinker = ThinkAhead(Steerer(policy_of(robot, horizon=8), execute=4), lag=1)
        summary, _ = play(robot, arm, thinker, splice.Config().build())
        thinker.close()
    times = np.diff([about["time"] for about, _ in arm.heard("step")]) / 1e9
    assert summary.steps == 12 and np.median(np.abs(times - 0.1)) < 1e-6
    assert np.median([len(plan.actions) for plan in arm.heard("plan")]) >= 6
    assert all(plan.about.observed <= plan.about.created for plan in arm.heard("plan"))


def test_ending_from_outside_wakes_the_loop_at_once():
    # mutation: look for the end at ticks only
    with LiveArm() as arm:
        robot = arm_robot(arm, rate=1.0, max_age=0.5, longest=5.0)
        start = Start(1, 1, "", time.monotonic_ns())
        robot.play(start)
        arm.begin(start)
        loop = threading.Thread(target=run_episodes, args=(robot, Steerer(policy_of(robot), execute=4)))
        loop.start()
        while not arm.heard("plan") and loop.is_alive():
            time.sleep(0.005)
        began = time.monotonic()
        robot.turn.end("stop", 1)
        loop.join(2)
    assert time.monotonic() - began < 0.5 and not loop.is_alive()


def test_a_wrong_mode_is_refused():
    # mutation: accept anything
    with pytest.raises(ValueError, match="mode: expected sync, ahead or shadow, got 'fast'"):
        Driving(mode="fast")


def test_ahead_a_plan_is_as_old_as_the_inputs_of_its_own_decision():
    # mutation: book a decision before its first step (its plan would carry the older one's age)
    observed = {}
    with LiveArm() as arm:
        robot = arm_robot(arm, mode="ahead", lag=2, max_steps=30, max_age=1.0)
        thinker = ThinkAhead(Steerer(policy_of(robot, horizon=8), execute=4), lag=2)
        real = arm.step

        def step(about, arrays):
            real(about, arrays)
            observed[about["step"]] = robot._observed[about["step"]]

        arm.step = step
        play(robot, arm, thinker, splice.Config().build())
        thinker.close()
    decisions = arm.heard("decision")
    starts, chunk = [int(decision.start_step[0]) for decision in decisions], decisions[0].chunk[0]
    for plan in arm.heard("plan"):
        start = max(each for each in starts if each <= plan.about.step)
        np.testing.assert_array_equal(plan.actions[0], chunk[min(plan.about.step - start + min(start, 2), 7)])
        assert len(plan.actions) == min(8 - (plan.about.step - start), 30 - plan.about.step)
        assert plan.about.observed == min(ns for k, ns in observed.items() if k >= start - 2)


@pytest.mark.parametrize("follower", [splice, blend])
def test_ahead_a_gap_in_the_inputs_is_survived(follower):
    # mutation: the chunk's rest is forgotten with the gap, its decision is not
    with LiveArm() as arm:
        robot = arm_robot(arm, mode="ahead", lag=1, max_steps=40, max_age=0.05)
        thinker = ThinkAhead(Steerer(policy_of(robot, horizon=8), execute=4), lag=1)
        real = arm.step

        def step(about, arrays):
            real(about, arrays)
            if about["step"] >= 8 and not arm.silent:
                arm.silent = {"/joint_states"}
                threading.Timer(0.15, arm.silent.discard, ["/joint_states"]).start()
                arm.step = real

        arm.step = step
        made = follower.Config().build()
        if hasattr(made, "check"):
            made.check(robot.spec)
        play(robot, arm, thinker, made)
        thinker.close()
    assert robot.counts["stale"] >= 1 and [why for _, _, why in arm.heard("ended")] == ["max_steps"]


@pytest.mark.parametrize(("driving", "fine"), [({}, 38), ({"longest": 5.0}, 100), ({"mode": "ahead"}, 1000)])
def test_a_decision_longer_than_any_plan_the_guard_takes_is_refused(driving, fine):
    # mutation: no check (the guard refuses every plan, and the arm never moves); 38 steps of 0.05 s are not 1.9 s
    Driving(**driving).check(fine, 0.05)
    Driving(lockstep=True).check(1000, 0.05)
    if "mode" not in driving:
        with pytest.raises(ValueError, match=f"execute: expected at most {fine} steps, .* got {fine + 1}"):
            Driving(**driving).check(fine + 1, 0.05)


def test_a_later_decision_that_is_too_long_ends_the_episode_before_anything_is_sent():
    # mutation: look at configure only; a version of an online run may execute more
    with LiveArm() as arm:
        robot = arm_robot(arm, longest=0.05)
        with pytest.raises(ValueError, match="expected at most 2 steps"):
            play(robot, arm, Steerer(policy_of(robot), execute=4))
    assert arm.heard("plan") == arm.heard("decision") == []


def test_what_holds_until_its_next_message_makes_no_plan_old():
    # mutation: the oldest of all inputs
    with LiveArm() as arm:
        arm.silent.add("/joint_states")
        robot = arm_robot(arm, max_age=".inf", max_steps=8)
        robot.receive("/joint_states", joint_state(np.zeros(2), time.time_ns()))
        time.sleep(0.6)  # more than Driving.max_age
        summary, _ = play(robot, arm, Steerer(policy_of(robot), execute=4))
    assert summary.steps == 8 and robot.counts["late"] == 0 and len(arm.heard("plan")) == 2
    assert all(plan.about.created - plan.about.observed < 500_000_000 for plan in arm.heard("plan"))
    assert aging(mapping(max_age=".inf")) == {"/front"}
    assert aging(mapping(max_age=".inf", camera=False)) == {"/joint_states"}  # something must tell how old a plan is
