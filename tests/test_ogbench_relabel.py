"""Relabelling: the rewards and ends that OGBench's own environment would have given, for every task of a play store."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.collect import collect
from robot_value.episodes.store import EpisodeStore
from robot_value.sim import ogbench_env as og
from robot_value.sim.ogbench_relabel import Relabelled, at_goal, cut, relabel
from robot_value.sim.ogbench_robot import Config
from robot_value.types import EXPERT, ActionPart, Episode, Spec

pytest.importorskip("ogbench", reason='needs the "ogbench" extra')
GOAL = {"goal_xyzs": np.array([[0.0, 0.0, 0.0]])}  # of a world with one cube and nothing else
PART = ActionPart("x", 0, 1, "position", "m", (-1.0,), (1.0,), "current")
SPEC = Spec((PART,), ("cube_0_x", "cube_0_y", "cube_0_z"), ("m",) * 3, 0.05)


def world(solved):
    """A play episode whose state t is solved where `solved[t]`; its actions count the steps."""
    states = np.array([[0.0 if s else 1.0, 0.0, 0.0] for s in solved], np.float32)
    steps = len(solved) - 1
    actions = np.arange(steps, dtype=np.float32)[:, None]
    source = np.full(steps, EXPERT, np.uint8)
    return Episode(SPEC, states, {}, actions, np.zeros(steps, np.float32), False, True, None, source=source)


def pieces(solved, reward="objects"):
    return list(cut(world(solved), GOAL, reward))


# -- the success test is OGBench's own --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["cube-single", "cube-double", "scene", "puzzle-3x3"])
def test_objects_at_their_goal_are_those_that_ogbench_counts(family):
    # mutation: _NEAR 0.03; window before drawer; button_off for button_on; goals of another task
    sim = Config(task=f"{family}-task1", mode="play", endless=True).simulator()
    seen, infos = [], og.task_infos(family)
    for number, task in enumerate(sim.tasks):
        sim.reset(task, number)
        expert = sim.expert(number)
        for step in range(24):
            if step % 3 == 0:
                _disturb(sim._env, sim._env.task_infos[number], np.random.default_rng([number, step]))
            frame = sim.step(expert.action())
            expected = og.successes(sim._env)
            got = at_goal(frame.state[None], sim.spec.state_names, infos[number])
            assert np.array_equal(got[0], expected), (task, step)
            seen.append(expected)
    assert np.any(seen, 0).all() and not np.all(seen, 0).any()  # every object was seen on both sides


def _disturb(env, info, rng):
    """Objects at, just inside, just outside and far from their goals."""
    goal = info.get("goal", info)
    for i, xyz in enumerate(goal.get("block_xyzs", info.get("goal_xyzs", ()))):
        joint = env._data.joint(f"object_joint_{i}")
        joint.qpos[:3] = xyz
        joint.qpos[1] += rng.choice([0.0, 0.037, -0.043, 0.1])
        joint.qvel[:] = 0.0
    for name in ("drawer", "window"):
        if f"{name}_pos" in goal:
            env._data.joint(f"{name}_slide").qpos[0] = goal[f"{name}_pos"] * rng.choice([1.0, 0.82, 0.7, 0.0])
    if hasattr(env, "_cur_button_states"):
        env._cur_button_states[:] = rng.integers(0, 2, env._num_buttons)


# -- cutting ----------------------------------------------------------------------------------------------------------


def test_an_episode_ends_where_the_task_is_solved_and_the_next_begins_where_it_no_longer_is():
    # mutation: keep the steps that begin solved; begin the next episode at the solved state
    found = pieces([0, 0, 1, 1, 0, 0, 1, 0, 0])
    assert [episode.actions[:, 0].tolist() for episode in found] == [[0, 1], [4, 5], [7]]
    assert [episode.provenance["play_steps"] for episode in found] == [[0, 2], [4, 6], [7, 8]]
    assert [episode.terminated for episode in found] == [True, True, False]
    assert [episode.truncated for episode in found] == [False, False, True]
    assert [episode.success for episode in found] == [True, True, False]
    assert [episode.rewards.tolist() for episode in found] == [[-1, 0], [-1, 0], [-1]]
    assert all(episode.final_observed and (episode.source == EXPERT).all() for episode in found)


@given(st.lists(st.booleans(), min_size=2, max_size=14), st.sampled_from(["objects", "step"]))
@settings(max_examples=60, deadline=None)
def test_cutting_is_what_a_step_by_step_walk_finds(solved, reward):
    # mutation: drop the first or last step; reward of the state left instead of the state reached
    walked, current = [], []
    for t in range(len(solved) - 1):
        if not solved[t]:
            current.append((t, float(solved[t + 1]) - 1.0))
        if current and (solved[t + 1] or t == len(solved) - 2):
            walked.append((current, solved[t + 1]))
            current = []
    found = pieces(solved, reward)
    assert [(list(zip(e.actions[:, 0], e.rewards, strict=True)), e.terminated) for e in found] == walked


def test_a_play_that_is_solved_throughout_teaches_nothing():
    # mutation: yield the slice without asking whether its first state is solved
    assert pieces([1, 1, 1]) == [] and pieces([1, 1, 0]) == []


def test_several_objects_are_counted_one_by_one_and_sparse_rewards_only_at_the_end():
    # mutation: the step reward for both; all() instead of the count
    names = tuple(f"cube_{i}_{axis}" for i in range(2) for axis in "xyz")
    spec = Spec((PART,), names, ("m",) * 6, 0.05)
    states = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    play = Episode(spec, states, {}, np.zeros((2, 1), np.float32), np.zeros(2, np.float32), False, True, None)
    goal = {"goal_xyzs": np.zeros((2, 3))}
    assert [e.rewards.tolist() for e in cut(play, goal, "objects")] == [[-1, 0]]
    assert [e.rewards.tolist() for e in cut(play, goal, "step")] == [[-1, 0]]
    states[1] = 1.0
    assert [e.rewards.tolist() for e in cut(play, goal, "objects")] == [[-2, 0]]
    assert [e.rewards.tolist() for e in cut(play, goal, "step")] == [[-1, 0]]


# -- from a play store to a task's store ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """Endless play between two slots, labelled by the simulator itself for its own task 1."""
    path = tmp_path_factory.mktemp("ogbench") / "play"
    config = Config(mode="play", endless=True, slots=2, max_steps=220)
    collect(config, path, episodes=2, first_seed=3, batch_size=1, progress=False)
    return path


def test_play_without_an_end_goes_on_after_its_task_is_solved(play):
    # mutation: terminated=solved whatever `endless` says
    for episode in EpisodeStore.open(play):
        assert len(episode) == 220 and episode.truncated and not episode.terminated
        solved = np.flatnonzero(episode.rewards == 0.0)
        assert len(solved) and solved[0] < 200 and episode.success


def test_relabelled_rewards_are_those_the_environment_gave(play, tmp_path):
    # mutation: reward of the state left; any other goal
    found = relabel(play, "cube-single-task1", tmp_path / "task1", progress=False)
    recorded = {name: EpisodeStore.open(play).read(name) for name in EpisodeStore.open(play).names()}
    episodes = list(EpisodeStore.open(tmp_path / "task1"))
    for episode in episodes:
        origin = recorded[episode.provenance["relabelled"]["play_episode"]]
        begin, end = episode.provenance["play_steps"]
        assert np.array_equal(episode.rewards, origin.rewards[begin:end])
        assert np.array_equal(episode.actions, origin.actions[begin:end])
        assert np.array_equal(episode.states, origin.states[begin : end + 1])
        assert episode.task == "cube-single-task1" and episode.provenance["seed"] == origin.provenance["seed"]
    entered = sum(episode.terminated for episode in episodes)
    assert found == Relabelled("cube-single-task1", len(episodes), sum(map(len, episodes)), entered) and entered >= 2


def test_a_store_that_is_there_stays_and_what_an_interrupted_call_left_is_made_anew(play, tmp_path):
    # mutation: write into `out` directly; the goal of task 1, which is entered here, for every task
    (tmp_path / "task2.partial" / "episodes").mkdir(parents=True)
    first = relabel(play, "cube-single-task2", tmp_path / "task2", progress=False)
    assert first.entered == 0 and first.steps == 2 * 220
    hashes = [path.stat().st_mtime_ns for path in sorted((tmp_path / "task2" / "episodes").iterdir())]
    assert relabel(play, "cube-single-task2", tmp_path / "task2", progress=False) == first
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "task2" / "episodes").iterdir())] == hashes
    assert not (tmp_path / "task2.partial").exists() and EpisodeStore.open(tmp_path / "task2").verify() == []


def test_a_reward_that_needs_more_than_states_is_refused(play, tmp_path):
    with pytest.raises(ValueError, match="reward: expected one of objects, step, got 'dense'"):
        relabel(play, "cube-single-task1", tmp_path / "x", reward="dense")


def test_uniform_play_aims_anywhere_and_slot_play_at_slots():
    # mutation: `_free` whatever `slots` says: among the slots, or never near the cube
    sim = Config(mode="play", endless=True, slots=0, jitter=0.0).simulator()
    sim.reset(sim.tasks[0], 0)
    expert = sim.expert(0)
    cube = sim._env._data.joint("object_joint_0").qpos[:2]
    targets = np.array([expert._cube()["privileged/target_block_pos"] for _ in range(100)])
    low, high = sim._env._target_sampling_bounds
    assert np.linalg.norm(targets[:, :2] - cube, axis=1).min() < 0.06
    assert (targets[:, :2] >= low).all() and (targets[:, :2] <= high).all() and (targets[:, 2] == 0.02).all()
    assert len(np.unique(targets[:, 0].round(6))) > 95 and expert.latents["expert"] == "uniform play"


def test_the_chance_of_stacking_is_drawn_per_episode_from_the_range_given():
    # mutation: _STACK as a constant
    sim = Config(task="cube-double-task1", mode="play", stack=(0.0, 0.0)).simulator()
    heights = []
    for seed in range(12):
        sim.reset(sim.tasks[0], seed)
        heights.append(float(sim.expert(seed)._cube()["privileged/target_block_pos"][2]))
    assert max(heights) < 0.03
    sim._expert._config = Config(task="cube-double-task1", mode="play", stack=(0.2, 0.4))
    drawn = [sim.expert(seed).latents["stack"] for seed in range(12)]
    assert 0.2 <= min(drawn) < max(drawn) <= 0.4
