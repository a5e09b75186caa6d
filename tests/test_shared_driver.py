"""A fleet whose scripted experts take some rows over: whose steps are whose, and that nothing else changes."""

import numpy as np
import pytest
import torch
from fakes import HomingPolicy

from robot_value.loop import run_episodes
from robot_value.online.supervised import Config, Supervised
from robot_value.sim import first_order_robot, robosuite_robot
from robot_value.sim.first_order_robot import FirstOrderArm
from robot_value.steering.steerer import Steerer
from robot_value.types import EXPERT, HUMAN, POLICY, Decision

ROBOT = first_order_robot.Config(max_steps=60)


def told(robot, observation, chunk, k):
    """Every row is told `k` steps of chunk float32[H, A]."""
    batch = robot.batch_size
    return Decision(
        chunk=np.broadcast_to(chunk, (batch, *chunk.shape)).astype(np.float32),
        execute=np.full(batch, k),
        start_step=observation.step,
        reason=("chosen",) * batch,
        index=np.zeros(batch, np.int64),
        candidates=np.zeros((batch, 0, *chunk.shape), np.float32),
        value=np.zeros((batch, 0), np.float32),
        spread=np.zeros((batch, 0), np.float32),
    )


def hold(state):
    """Stay where it is: float32[4, 8]."""
    return np.broadcast_to(state[-1], (4, 8))


class Follower:
    """Not open loop: asked at every control step."""

    def action(self, observation, decision, offset):
        return decision.chunk[np.arange(len(offset)), offset]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("follower", [None, Follower()])
def test_rows_that_were_handed_over_are_the_experts_and_the_others_follow_their_chunks(workers, follower):
    # mutation: `self._expert` for all rows, or the follower's steps on top of the expert's
    robot = ROBOT.build(3, workers, driver="shared")
    alone = ROBOT.build(3, 0, driver="expert")
    try:
        observation, same = robot.reset([""] * 3, [1, 2, 3]), alone.reset([""] * 3, [1, 2, 3])
        chunk = hold(observation.state[0])
        robot.hand_over(np.array([False, True, False]))
        outcome = robot.execute(told(robot, observation, chunk, 4), follower)
        expected = alone.execute(told(alone, same, chunk, 4))
        assert outcome.source.tolist() == [[POLICY] * 4, [HUMAN] * 4, [POLICY] * 4]
        np.testing.assert_array_equal(outcome.executed[1], expected.executed[1])
        np.testing.assert_array_equal(outcome.states[1], expected.states[1])
        np.testing.assert_array_equal(outcome.executed[0], chunk)
        assert outcome.executed_valid.all() and (expected.source == EXPERT).all()
        robot.hand_over(np.zeros(3, bool))
        back = robot.execute(told(robot, outcome.observation, chunk, 4), follower)
        assert (back.source == POLICY).all()
    finally:
        robot.close()
        alone.close()


def test_a_reset_gives_the_arm_back_and_only_shared_fleets_hand_over():
    # mutation: ownership outlives an episode
    robot = ROBOT.build(2, driver="shared")
    observation = robot.reset(["", ""], [1, 2])
    robot.hand_over(np.array([True, True]))
    observation = robot.reset([""], [3], rows=[0])
    source = robot.execute(told(robot, observation, hold(observation.state[0]), 2)).source
    assert source[:, 0].tolist() == [POLICY, HUMAN]
    policy = ROBOT.build(2)
    policy.reset(["", ""], [1, 2])
    with pytest.raises(ValueError, match="expected driver='shared'"):
        policy.hand_over(np.array([True, False]))


def test_a_shared_fleet_that_nobody_takes_over_plays_as_any_other():
    # mutation: the expert's presence moves the simulator
    episodes = []
    for driver in ("policy", "shared"):
        robot = ROBOT.build(2, driver=driver)
        observation = robot.reset(["", ""], [1, 2])
        episodes.append(robot.execute(told(robot, observation, hold(observation.state[1]), 4)))
    np.testing.assert_array_equal(episodes[0].states, episodes[1].states)


class Still(HomingPolicy):
    """Proposes to stay at home."""

    def sample(self, context, n, noise, prefix=None, guide=None):
        state = context.value[:, None, None, : self.spec.action_dim]
        return state + 0 * noise, torch.full((len(noise), n), self.spec.horizon)


def test_a_supervisor_brings_the_first_order_arm_home():
    # mutation: hand over the wrong rows
    robot = ROBOT.build(3, driver="shared")
    steerer = Steerer(Still(FirstOrderArm(ROBOT).spec.choose(horizon=8, n_obs_steps=1)))
    player = Supervised(Config(drop=0, probability=0.5, hold=4), steerer, robot, 0)
    summaries = run_episodes(robot, player, seeds=range(6))
    assert all(each.success and each.reasons["human"] for each in summaries)


def test_an_expert_takes_over_lift_in_the_middle_and_finishes_it():
    # mutation: go on with the plan of an earlier takeover; switch rows without saving the expert's memory
    config = robosuite_robot.Config(task="Lift")
    robot = config.build(2, driver="shared")
    try:
        observation = robot.reset(["", ""], [11, 12])
        away = np.tile(np.array([0.3, 0.3, 0.2, 0, 0, 0, 1], np.float32), (8, 1))
        observation = robot.execute(told(robot, observation, away, 8)).observation
        robot.hand_over(np.array([True, False]))
        for _ in range(2):  # rows take turns on one simulator, so that the expert's memory is saved and restored
            outcome = robot.execute(told(robot, observation, np.tile(away, (4, 1)), 4))
            observation = outcome.observation
        robot.hand_over(np.array([True, True]))
        for _ in range(14):
            outcome = robot.execute(told(robot, observation, np.tile(away, (4, 1)), 4))
            observation = outcome.observation
        assert outcome.success.all() and outcome.terminated.all()
    finally:
        robot.close()
