"""OGBench as a simulator: honest numbers, one start per (task, seed), and restored rollouts equal to the last bit."""

import ctypes.util
import hashlib
import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
import pytest

from robot_value.collect import collect
from robot_value.components import UnknownComponent
from robot_value.episodes.store import EpisodeStore
from robot_value.sim import ogbench_env as og
from robot_value.sim.ogbench_expert import slots
from robot_value.sim.ogbench_robot import Config

pytest.importorskip("ogbench", reason='needs the "ogbench" extra')
FAMILIES = ("cube-single", "cube-double", "scene", "puzzle-3x3")


@cache
def simulator(family="cube-single", mode="play"):
    return Config(task=f"{family}-task1", mode=mode).simulator()


@cache
def second(family):
    return Config(task=f"{family}-task1", mode="play").simulator()


def play(sim, steps):
    """Expert actions and the frames they lead to."""
    expert = sim._expert
    played = []
    for _ in range(steps):
        action = expert.action()
        played.append((action, sim.step(action)))
    return played


def bits(played):
    """Every bit of a rollout, so that 0.0 and -0.0 differ."""
    words = [(action.tobytes(), f.state.tobytes(), f.reward, f.terminated, f.time) for action, f in played]
    return hashlib.sha256(repr(words).encode()).hexdigest()


def whole(state):
    """Every bit of a saved state."""
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else repr(state)


def begin(sim, seed, task=0):
    frame = sim.reset(sim.tasks[task], seed)
    sim.expert(seed)
    return frame


# -- what the numbers mean -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_state_is_ogbenchs_observation_in_si_units(family):
    # mutation: swap drawer and window, or joint_pos and joint_vel, in `read`
    sim = simulator(family)
    begin(sim, 3)
    play(sim, 20)
    centre, scale = {"x": 0.425}, {"drawer": 18, "window": 15, "gripper_closed": 3}
    expected = sim._env.compute_observation()
    mine = og.read(sim._env).astype(float)
    assert len(mine) == sim.spec.state_dim == len(expected)
    for value, ogbench, (name, unit) in zip(mine, expected, og.fields(sim._env), strict=True):
        if unit == "m" and not name.startswith(("button", "drawer", "window")):
            value = (value - centre.get(name[-1], 0.0)) * 10
        elif unit == "m":
            value *= scale.get(name, 120)
        else:
            value *= scale.get(name, 1)
        assert value == pytest.approx(ogbench, abs=2e-5 * max(1, abs(ogbench))), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_ogbenchs_step_bit_for_bit(family):
    # mutation: drop mj_rnePostConstraint, or post_step, from `step`
    sim = simulator(family)
    begin(sim, 4)
    start = sim.save_state()
    played = play(sim, 40)
    sim.load_state(start)
    for action, frame in played:
        sim._env.step(np.clip(action / og.SCALE, -1, 1))
        assert np.array_equal(og.read(sim._env), frame.state)


def test_an_action_is_metres_radians_and_gripper_and_is_clipped_to_the_spec():
    # mutation: SCALE[0] = 0.06, or no clip in `step`
    sim = simulator()
    names = list(sim.spec.state_names)
    begin(sim, 0)
    before = og.read(sim._env)[names.index("effector_z")]
    far = np.array([0, 0, 5.0, 0, 0], np.float32)  # 5 m asked for, 5 cm allowed
    sim.step(far)
    target = sim._env._target_effector_pose.translation()[2]
    assert target - before <= 0.05 + 1e-6
    assert np.array_equal(sim.spec.high, np.float32([0.05, 0.05, 0.05, 0.3, 1.0]))
    begin(sim, 0)
    before = sim._env._data.site_xpos[sim._env._pinch_site_id].copy()
    sim.step(np.array([0.01, -0.01, 0.02, 0, 0], np.float32))
    moved = sim._env._target_effector_pose.translation() - before
    assert np.allclose(moved, [0.01, -0.01, 0.02], atol=1e-6)
    begin(sim, 0)
    frames = [sim.step(np.array([0, 0, 0, 0, 1], np.float32)) for _ in range(15)]
    closed = [frame.state[names.index("gripper_closed")] for frame in frames]
    assert sim.spec.parts[2].sign == 1 and closed[-1] > 0.5 > closed[0]


def put(sim, positions):
    for i, xyz in enumerate(positions):
        sim._env._data.joint(f"object_joint_{i}").qpos[:3] = xyz


def test_reward_looks_at_the_state_reached_and_success_terminates():
    # mutation: compute the reward before the step; or terminated=False
    still = np.zeros(5, np.float32)
    for reward, unsolved, solved in (("objects", -1.0, 0.0), ("step", -1.0, 0.0), ("success", 0.0, 1.0)):
        sim = simulator()
        sim.config = Config(mode="play", reward=reward)
        begin(sim, 1)
        frame = sim.step(still)
        assert (frame.reward, frame.terminated, frame.success) == (unsolved, False, False)
        put(sim, sim._env.task_infos[0]["goal_xyzs"])
        frame = sim.step(still)
        assert (frame.reward, frame.terminated, frame.success) == (solved, True, True)
    sim.config = Config(mode="play")


def test_with_many_objects_the_reward_counts_those_not_at_their_goal():
    # mutation: divide by len(done)
    sim = simulator("cube-double")
    begin(sim, 0, task=1)
    put(sim, sim._env.task_infos[1]["init_xyzs"])
    goals = sim._env.task_infos[1]["goal_xyzs"]
    assert sim.step(np.zeros(5, np.float32)).reward == -2.0
    put(sim, goals[:1])
    assert sim.step(np.zeros(5, np.float32)).reward == -1.0
    put(sim, goals)
    frame = sim.step(np.zeros(5, np.float32))
    assert frame.reward == 0.0 and frame.terminated


def test_task_mode_starts_where_ogbenchs_task_starts():
    # mutation: return task_infos[0] whatever the task
    sim = simulator("cube-single", "task")
    for number, task in enumerate(sim.tasks):
        assert sim.reset(task, 7).time == 0.0
        start = sim._env.task_infos[number]["init_xyzs"][0]
        cube = sim._env._data.joint("object_joint_0").qpos[:3]
        assert np.all(np.abs(cube[:2] - start[:2]) <= 0.01 + 1e-9)


def test_a_diverged_simulation_says_so():
    # mutation: return False from `step`
    sim = simulator()
    begin(sim, 0)
    assert not sim.step(np.zeros(5, np.float32)).unstable
    sim._env._data.qvel[:] = 1e12
    assert sim.step(np.zeros(5, np.float32)).unstable


# -- the same (task, seed) is the same episode -----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reset_does_not_depend_on_what_was_played_before(family):
    # mutation: remove action_space.seed from `start`
    sim = simulator(family)
    begin(sim, 11)
    first, played = whole(sim.save_state()), bits(play(sim, 15))
    for seed in (1, 2):
        begin(sim, seed, task=2)
        play(sim, 25)
    assert whole(sim.save_state()) != first
    begin(sim, 11)
    assert whole(sim.save_state()) == first
    assert bits(play(sim, 15)) == played


CHILD = """
import numpy as np, test_ogbench_robot as t
from robot_value.sim.ogbench_robot import Config
sim = Config(task="scene-task2", mode="play").simulator()
t.begin(sim, 5); t.play(sim, 7); t.begin(sim, 21)
print("bits", t.bits(t.play(sim, 12)), flush=True)
sim = Config(image_size=32, mode="play").simulator()
first = sim.reset(sim.tasks[0], 1)
state = sim.save_state()
down = np.array([0, 0, -0.05, 0, 0], np.float32)
image = sim.step(down).images["front_pixels"]
assert image.shape == (32, 32, 3) and image.dtype == np.uint8 and image.std() > 5, image.std()
assert sim.spec.cameras[0].height == 32
assert np.array_equal(sim.load_state(state).images["front_pixels"], first.images["front_pixels"])
assert np.array_equal(sim.step(down).images["front_pixels"], image)
sim.close()
print("rendered")
"""


@pytest.fixture(scope="module")
def child():
    """A process of its own with a headless renderer."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    variables = {**os.environ, "PYTHONPATH": path, "MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl"}
    return subprocess.run([sys.executable, "-c", CHILD], env=variables, capture_output=True, text=True, timeout=120)


def test_another_process_gets_the_same_bits(child):
    # mutation: np.random.default_rng() instead of [seed, 1] in `begin`
    sim = simulator("scene")
    begin(sim, 21, task=1)
    assert f"bits {bits(play(sim, 12))}" in child.stdout, child.stderr


def test_images_are_rendered_when_asked_for_and_restored(child):
    # mutation: leave the frame out of save_state
    if ctypes.util.find_library("EGL") is None:
        pytest.skip("no EGL library on this machine")
    assert "rendered" in child.stdout, child.stderr


def test_images_need_no_environment_variable_and_no_display():
    # mutation: do not hand our GL context to mujoco.Renderer; free it after its module's exit handler (EGLError)
    if ctypes.util.find_library("EGL") is None:
        pytest.skip("no EGL library on this machine")
    script = (
        "from robot_value.sim.ogbench_robot import Config\n"
        "robot = Config(task='cube-single-task1', image_size=32).build(1)\n"  # nobody closes it
        "print(robot.reset(['cube-single-task1'], [0]).images['front_pixels'].std() > 1)"
    )
    hidden = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True" and "EGLError" not in done.stderr, done.stderr


def test_the_global_random_state_is_left_alone():
    # mutation: do not restore it in `_global_numpy`
    sim = simulator()
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    begin(sim, 3)
    play(sim, 5)
    assert np.array_equal(np.random.get_state()[1], before)


# -- save and load ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_restored_rollout_is_bit_identical_to_the_uninterrupted_one(family):
    # mutation: drop site_xpos, cfrc_ext, _cur_button_states, the warm start or _t_init from what is saved
    sim = simulator(family)
    other = second(family) if family in ("cube-single", "scene") else sim
    for seed in range(2):  # 4 families x 26 states, in the middle of plans, grasps and presses
        begin(sim, 100 + seed)
        saved, played = [], []
        for _ in range(13):
            saved.append(pickle.loads(pickle.dumps(sim.save_state())))
            played += play(sim, 6)
        begin(sim, 999)
        play(sim, 5)
        for i in np.random.default_rng(seed).permutation(13):
            restored = (sim, other)[i % 2]
            frame = restored.load_state(saved[i])
            assert whole(restored.save_state()) == whole(saved[i])
            assert np.array_equal(og.read(restored._env), frame.state)
            assert bits(play(restored, 6)) == bits(played[6 * i : 6 * i + 6])


def test_a_drawer_restored_in_motion_keeps_its_lock():
    # mutation: drop dof_damping from what is saved
    sim = simulator("scene")
    begin(sim, 0)
    env, still = sim._env, np.zeros(5, np.float32)
    env._cur_button_states[:] = 1
    env._apply_button_states()
    env._data.joint("drawer_slide").qvel[0] = -0.3
    state = sim.save_state()
    straight = sim.step(still).state
    env._cur_button_states[:] = 0
    env._apply_button_states()
    sim.load_state(state)
    assert np.array_equal(sim.step(still).state, straight)


def test_a_state_saved_without_an_expert_restores_one_without():
    # mutation: set _playing = True in load_state
    sim = simulator()
    sim.reset(sim.tasks[0], 0)
    state = sim.save_state()
    assert state["expert"] is None
    sim.load_state(state)
    assert sim.save_state()["expert"] is None


# -- play ------------------------------------------------------------------------------------------------------------


def test_slots_are_the_tasks_own_start_and_goal_first_then_the_others():
    # mutation: iterate task_infos only
    infos = simulator()._env.task_infos
    expected = [[0.425, 0.1], [0.425, -0.1], [0.35, 0.0], [0.5, 0.0], [0.35, -0.2]]
    assert np.allclose(slots(infos, 0, 5), expected)
    assert np.allclose(slots(infos, 4, 3), [[0.35, 0.2], [0.5, -0.2], [0.425, 0.1]])
    assert len(slots(infos, 0, 99)) == 8


def test_play_aims_at_slots_other_than_the_one_the_cube_lies_on():
    # mutation: ignore `taken` in `_free`, or jitter 0.02
    sim = simulator()
    places = slots(sim._env.task_infos, 0, 5)
    for seed in range(40):
        begin(sim, seed)
        cube = sim._env._data.joint("object_joint_0").qpos[:3].copy()
        sim._expert.action()
        target = sim._expert._target["privileged/target_block_pos"][:2]
        assert np.min(np.max(np.abs(places - target), axis=1)) <= 0.01 + 1e-3
        assert np.linalg.norm(target - cube[:2]) > 0.04


@pytest.mark.parametrize("family", FAMILIES)
def test_a_play_episode_never_starts_solved(family):
    # mutation: return at once from the loop in `play_start`
    sim = simulator(family)
    assert not any(begin(sim, seed, seed % 5).success for seed in range(40))


def test_play_enters_the_goal_often_and_ends_there():
    # mutation: SCALE halved in the expert
    sim = simulator()
    entered = 0
    for seed in range(8):
        begin(sim, seed)
        for _ in range(120):
            (_, frame), *_ = play(sim, 1)
            if frame.terminated:
                entered += 1
                break
    assert 2 <= entered < 8


def test_full_goal_bias_demonstrates():
    # mutation: drop the goal_bias branch of `_cube`
    sim, solved = simulator("cube-single", "task"), 0
    sim._expert._config = Config(mode="task", goal_bias=1.0)
    for seed in range(4):
        begin(sim, seed)
        solved += any(frame.success for _, frame in play(sim, 70))
    sim._expert._config = sim.config
    assert solved >= 3


def test_the_scene_and_the_double_play_with_everything_they_have():
    # mutation: weight 0 for the drawer
    sim, kinds = simulator("scene"), set()
    for seed in range(30):
        begin(sim, seed)
        kinds.add(sim._expert._aim()[0])
    assert kinds == {"cube", "button", "drawer", "window"}
    sim, heights = simulator("cube-double"), set()
    for seed in range(20):
        begin(sim, seed)
        heights.add(round(float(sim._expert._cube()["privileged/target_block_pos"][2]), 2))
    assert heights == {0.02, 0.06}


def test_a_cube_under_another_is_not_moved():
    # mutation: `buried` always False
    sim = simulator("cube-double")
    begin(sim, 0)
    put(sim, [[0.4, 0.0, 0.02], [0.4, 0.0, 0.06]])
    assert sim._expert._movable() == [1]


def test_play_is_collected_as_episodes_that_end_where_the_task_is_solved(tmp_path):
    # mutation: terminated=False in `_look`
    done = collect(Config(mode="play", max_steps=120), tmp_path / "play", episodes=4, batch_size=2, progress=False)
    store = EpisodeStore.open(tmp_path / "play")
    assert len(store) == done.recorded == 4 and 1 <= done.successes <= 4
    for name in store.names():
        episode = store.read(name)
        goal = sum(episode.rewards == 0.0)
        assert goal == int(episode.success) == int(episode.terminated) and episode.final_observed
        assert set(episode.rewards[:-1]) == {-1.0}
        assert episode.provenance["latents"]["expert"] == "slot play"
        assert (episode.actions >= episode.spec.low).all() and (episode.actions <= episode.spec.high).all()


# -- words for the person who typed it -------------------------------------------------------------------------------


def test_an_unknown_task_names_the_closest():
    with pytest.raises(UnknownComponent, match=r"did you mean 'cube-single-task1'.*scene-task5"):
        Config(task="cube-singel-task1")
    with pytest.raises(UnknownComponent, match="no task of this simulator called 'scene-task1'"):
        simulator().reset("scene-task1", 0)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"mode": "plya"}, "mode: expected one of task, play, got 'plya'"),
        ({"reward": "dense"}, "reward: expected one of objects, step, success, got 'dense'"),
        ({"dt": 0.0333}, "dt: expected a multiple of OGBench's physics step 0.002 s, got 0.0333"),
        ({"task": "puzzle-3x3-task1", "goal_bias": 0.5}, "goal_bias: expected 0 for puzzle-3x3"),
    ],
)
def test_a_wrong_config_says_what_was_expected(wrong, line):
    with pytest.raises(ValueError, match=line):
        Config(**wrong)


def test_without_ogbench_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "robot_value\[ogbench\]"'):
        og.make_env("cube-single", 0.05, 0)


def test_mujoco_is_the_version_whose_state_we_save():
    """A newer MuJoCo that adds integration state is covered by mj_stateSize; this pins what the spec must contain."""
    state = mujoco.mjtState
    assert state.mjSTATE_INTEGRATION & state.mjSTATE_WARMSTART and state.mjSTATE_INTEGRATION & state.mjSTATE_MOCAP_POS
