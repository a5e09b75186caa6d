"""The scripted expert in absolute joint positions: it lifts gently and restores to the bit; and `look`."""

import numpy as np
import pytest

from robot_value.sim.robosuite_robot import Config

VELOCITY = [2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61]  # rad/s, a Panda's
ACCELERATION = [15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]  # rad/s^2, a Panda's


@pytest.fixture(scope="module")
def sim():
    simulator = Config(control="joint_absolute").simulator()
    yield simulator
    simulator.close()


def play(sim, expert, steps=80):
    actions, frames = [], []
    while len(frames) < steps and not (frames and frames[-1].terminated):
        actions.append(expert.action())
        frames.append(sim.step(actions[-1]))
    return np.array(actions), frames


def test_it_lifts_from_every_start_as_fast_as_a_panda_may(sim):
    # mutation: RATE = 6, no posture in the null space, or targets from the measured joints instead of the last targets
    for seed in range(6):
        start = sim.reset(sim.tasks[0], seed).state[:7]
        actions, frames = play(sim, sim.expert(seed))
        assert frames[-1].success and not any(frame.unstable for frame in frames), seed
        assert (actions >= sim.spec.low).all() and (actions <= sim.spec.high).all()
        speed = np.diff(np.vstack([start, actions[:, :7]]), axis=0) / sim.spec.dt
        assert (np.abs(speed).max(0) < VELOCITY).all()
        assert (np.abs(np.diff(speed, axis=0)).max(0) / sim.spec.dt < 1.1 * np.array(ACCELERATION)).all()


def test_a_restored_expert_goes_on_to_the_bit(sim):
    # mutation: leave "_rates" out of KEPT
    sim.reset(sim.tasks[0], 3)
    expert = sim.expert(3)
    play(sim, expert, steps=9)
    state = sim.save_state()
    first = play(sim, expert, steps=12)
    sim.load_state(state)
    again = play(sim, expert, steps=12)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal([f.state for f in first[1]], [f.state for f in again[1]])


def test_another_simulator_with_cameras_sees_the_state_that_one_without_has_saved(sim):
    # mutation: look() returns the restored frame, which has no pictures
    settings = {"control": "joint_absolute", "cameras": ("agentview",), "camera_size": 24}
    eye, whole = Config(**settings).simulator(), Config(**settings).simulator()
    eye.reset(eye.tasks[0], 0)
    start = sim.reset(sim.tasks[0], 4).state[:7]
    whole.reset(whole.tasks[0], 4)
    for _ in range(3):
        target = np.append(start + 0.2, -1.0)
        sim.step(target)
        wanted = whole.step(target)
        assert eye.load_state(sim.save_state()).images == {}
        np.testing.assert_array_equal(eye.look().images["agentview"], wanted.images["agentview"])
    eye.close(), whole.close()
