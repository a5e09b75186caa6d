"""robosuite as a simulator: plain robosuite's physics to the last bit, one start per seed, exact restores."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import draccus
import mujoco
import numpy as np
import pytest

from robot_value.components import UnknownComponent
from robot_value.sim.fast_osc import joint_torque, osc_torque
from robot_value.sim.fleet import Fleet
from robot_value.sim.robosuite_render import Renderer
from robot_value.sim.robosuite_robot import TASKS, Config, Quality
from robot_value.types import Decision

if importlib.util.find_spec("robosuite") is None:  # importing it here would print its warnings
    pytest.skip("needs robosuite", allow_module_level=True)
ROOT = Path(__file__).resolve().parent.parent
NOISY = Quality(noise_sigma=(0.3,))
VARIANTS = [*((task, "osc_delta") for task in TASKS), ("Lift", "joint_absolute"), ("PickPlaceCan", "joint_absolute")]


@cache
def simulator(task="Lift", control="osc_delta", copy=0):
    return Config(task=task, control=control, quality=NOISY).simulator()


@cache
def clean_simulator():
    """The scripted expert makes no mistakes."""
    return Config().simulator()


def begin(sim, seed):
    return sim.reset(sim.tasks[0], seed)


def actions(sim, seed, steps):
    """Random actions within the limits; joint targets stay near where the arm starts."""
    low, high = sim.spec.low.copy(), sim.spec.high.copy()
    if sim.spec.parts[0].kind == "joint":
        low[:7], high[:7] = sim._data.qpos[:7] - 0.3, sim._data.qpos[:7] + 0.3
    return np.random.default_rng(seed).uniform(low, high, (steps, len(low))).astype(np.float32)


def disturb(sim, seed):
    """Leave the simulator somewhere else: another start, some motion."""
    begin(sim, seed)
    for action in actions(sim, seed, 3):
        sim.step(action)


def digest(value):
    """Every bit of a saved state or a frame, so that 0.0 and -0.0 differ."""
    if isinstance(value, dict):
        return {key: digest(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return repr(value) if not hasattr(value, "state") else [digest(vars(value))]


def short(value):
    return hashlib.sha256(repr(digest(value)).encode()).hexdigest()


def physics(sim):
    return sim.save_state()["env"]["physics"]


# mutation: in osc_torque, drop the last addend of `tau` (no null space); in ControlStep._set_goals, drop `half *`
@pytest.mark.parametrize(("task", "control"), VARIANTS)
def test_a_control_step_is_plain_robosuites_to_the_last_bit(task, control):
    sim = simulator(task, control)
    begin(sim, 11)
    for index, action in enumerate(actions(sim, 1, 15)):
        state = sim.save_state()
        sim.env.step(action.astype(np.float64))
        plain, gripper = physics(sim), np.array(sim.env.robots[0].gripper["right"].current_action)
        sim.load_state(state)
        sim.step(action)
        np.testing.assert_array_equal(physics(sim), plain, err_msg=f"step {index}")
        np.testing.assert_array_equal(sim.env.robots[0].gripper["right"].current_action, gripper)
        assert sim.env.timestep == index + 1


def test_fifty_steps_with_a_grasp_are_plain_robosuites_to_the_last_bit():
    sim, lifted = clean_simulator(), False
    begin(sim, 3)
    start, expert, played = sim.save_state(), sim.expert(3), []
    for _ in range(50):
        played.append(expert.action())
        lifted = sim.step(played[-1]).success or lifted
    ours = physics(sim)
    sim.load_state(start)
    for action in played:
        sim.env.step(action.astype(np.float64))
    np.testing.assert_array_equal(physics(sim), ours)
    assert lifted  # there was contact worth the comparison


# mutation: in make_env, take seeded_globals away (Lift fails); in seeded_globals, do not seed
@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_the_same_start_in_any_instance_and_order(task):
    one, other = simulator(task), simulator(task, copy=1)
    starts = {}
    for sim, order in ((one, [0, 1, 2, 3]), (other, [3, 1, 0, 2]), (one, [2, 2, 0, 3, 1])):
        for seed in order:
            frame = begin(sim, seed)
            state = {"env": sim.save_state()["env"], "frame": frame}
            assert starts.setdefault(seed, digest(state)) == digest(state), f"seed {seed}"
            for action in actions(sim, seed + 50, 2):
                sim.step(action)
    assert len({repr(start) for start in starts.values()}) == 4


def test_a_seed_gives_the_same_episode_in_another_process():
    script = (
        "import sys, test_robosuite_robot as t, numpy\n"
        "numpy.random.seed(int(sys.argv[1]))\n"
        "for task in ('Lift', 'Door'):\n"
        "    sim = t.simulator(task)\n"
        "    t.begin(sim, 5); [sim.step(a) for a in t.actions(sim, 5, 10)]\n"
        "    print(t.short(dict(sim.save_state())))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", script, "77"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    here = []
    for task in ("Lift", "Door"):
        sim = simulator(task, copy=2)
        begin(sim, 5)
        for action in actions(sim, 5, 10):
            sim.step(action)
        here.append(short(dict(sim.save_state())))
    assert done.stdout.split() == here
    assert done.stderr == ""  # robosuite's harmless import warnings are not for our users


def test_a_reset_leaves_numpys_global_generator_alone():
    np.random.seed(3)
    begin(simulator(), 8)
    drawn = np.random.rand()
    np.random.seed(3)
    assert drawn == np.random.rand()


# mutation: in snapshot.save, save mjSTATE_FULLPHYSICS (no warm start); in _MODEL, drop "body_pos" (Door fails)
@pytest.mark.parametrize(("task", "control", "states"), [("Lift", "osc_delta", 100), *((*v, 4) for v in VARIANTS[1:])])
def test_a_restored_rollout_is_bit_identical(task, control, states):
    sim, other = simulator(task, control), simulator(task, control, copy=1)
    scripted = control == "osc_delta"
    for index in range(states):
        if index % 20 == 0:
            begin(sim, index)
            driver = sim.expert(index) if scripted else None
            begin(other, index + 1)
            if scripted:
                other.expert(0)
        for action in actions(sim, index, 2):
            sim.step(driver.action() if driver else action)
        state, frame = sim.save_state(), sim._frame
        coming = actions(sim, 1000 + index, 3)

        def rollout(sim, coming=coming):
            found = [sim.step(action) for action in coming]
            found += [sim.step(sim._expert.action()) for _ in range(2)] if scripted else []
            return short({"frames": dict(enumerate(found)), "end": dict(sim.save_state())})

        first = rollout(sim)
        disturb(sim, index + 7)
        assert digest(sim.load_state(state)) == digest(frame)
        assert short(dict(sim.save_state())) == short(dict(state))
        assert rollout(sim) == first, f"state {index}"
        sim.load_state(state)
        if index % 10 == 0:
            other.load_state(state)
            assert rollout(other) == first, f"state {index} in another instance"


def test_plain_robosuite_goes_on_from_a_restored_state_with_the_same_observations():
    sim = simulator()
    begin(sim, 2)
    sim.env.step(np.zeros(7))
    state, action = sim.save_state(), np.array([1.0, -1, 0.5, 0, 0, 1, 1])
    first = [sim.env.step(action)[0] for _ in range(3)]
    disturb(sim, 4)
    sim.load_state(state)
    for expected in first:
        observed = sim.env.step(action)[0]
        for name, value in expected.items():
            np.testing.assert_array_equal(observed[name], value, err_msg=name)


def test_rows_that_share_one_process_or_have_their_own_are_played_alike():
    config, batch, found = Config(task="Door", quality=NOISY), 3, []
    for workers in (0, 2):  # three rows on one model, and two and one
        with Fleet(config, batch, workers, 2, "expert") as fleet:
            observation = fleet.reset(["open the door"] * batch, [5, 6, 7])
            for _ in range(3):
                outcome = fleet.execute(decision(observation, np.zeros((batch, 4, 7), np.float32)))
                observation = outcome.observation
            found.append((outcome.states, observation.state, outcome.executed))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    alone = simulator("Door")
    alone.reset("open the door", 6)
    expert = alone.expert(6)
    for _ in range(12):
        frame = alone.step(expert.action())
    np.testing.assert_array_equal(found[0][1][1, -1], frame.state)


def decision(observation, chunk):
    batch, none = len(chunk), np.zeros((len(chunk), 0), np.float32)
    start, execute, index = observation.step.copy(), np.full(batch, chunk.shape[1]), np.zeros(batch, np.int64)
    return Decision(chunk, execute, start, ("base",) * batch, index, chunk[:, None][:, :0], none, none)


# mutation: in StateReader, do not sort the sensors (Can fails: its relative pose lags a step)
@pytest.mark.parametrize("task", TASKS)
def test_the_state_is_robosuites_own_observation_of_the_present(task):
    sim = simulator(task)
    begin(sim, 4)
    for action in actions(sim, 4, 3):
        frame = sim.step(action)
    for _ in range(2):  # robosuite's relative poses lag one sample
        observed = sim.env._get_observations(force_update=True)
    keys = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object-state")
    expected = np.concatenate([np.atleast_1d(observed[key]) for key in keys])
    np.testing.assert_allclose(frame.state, expected, atol=1e-7)
    assert frame.state.shape == (sim.spec.state_dim,) and frame.state.dtype == np.float32
    assert sim.spec.state_names[:4] == ("robot0_eef_pos_x", "robot0_eef_pos_y", "robot0_eef_pos_z", "robot0_eef_quat_x")
    assert set(sim.spec.state_units) <= {"m", "1", "rad"} and sim.spec.dt == 0.05


def test_without_privileged_state_only_the_robot_itself_is_seen():
    sim = Config(state=False, control="joint_absolute").simulator()
    frame = begin(sim, 0)
    assert not any("cube" in name for name in sim.spec.state_names)
    assert sim.spec.state_units[:7] == ("rad",) * 7
    np.testing.assert_allclose(frame.state[:7], sim._data.qpos[:7], atol=1e-6)


def test_osc_actions_move_the_gripper_the_way_the_spec_says():
    sim = simulator()
    arm, gripper = sim.spec.parts
    assert (arm.unit, arm.reference, arm.rotation, arm.frame) == ("0.05 m+0.5 rad", "current", "axis_angle", "base")
    assert gripper.sign == 1 and gripper.kind == "gripper"
    for axis in range(3):
        begin(sim, 0)
        before, action = sim._look().state, np.zeros(7)
        action[axis] = 1
        after = sim.step(action).state
        assert np.argmax(np.abs(after - before)[:3]) == axis and after[axis] > before[axis]
    opening = []
    for close in (-1.0, 1.0):
        begin(sim, 0)
        for _ in range(10):
            frame = sim.step(np.array([0, 0, 0, 0, 0, 0, close]))
        opening.append(frame.state[7] - frame.state[8])
    assert opening[0] == pytest.approx(gripper.width, abs=5e-3) and opening[1] < 5e-3


def test_joint_targets_are_reached_and_their_limits_are_the_models():
    sim = simulator("Lift", "joint_absolute")
    begin(sim, 0)
    arm = sim.spec.parts[0]
    assert (arm.unit, arm.reference) == ("rad", "absolute")
    np.testing.assert_allclose(np.array([arm.low, arm.high]).T, sim._model.jnt_range[:7])
    target = sim._data.qpos[:7] + np.array([0.2, -0.1, 0.1, 0.1, -0.2, 0.1, 0.3])
    for _ in range(40):
        frame = sim.step(np.append(target, -1))
    np.testing.assert_allclose(frame.state[:7], target, atol=0.02)


def test_success_ends_the_episode_with_the_only_reward():
    sim = clean_simulator()
    begin(sim, 1)
    expert, frames = sim.expert(1), []
    while not frames or not frames[-1].terminated:
        frames.append(sim.step(expert.action()))
        assert len(frames) < sim.max_steps == 80
    assert [f.reward for f in frames] == [0.0] * (len(frames) - 1) + [1.0]
    assert frames[-1].success and sim.env._check_success() and not any(f.unstable for f in frames)
    assert frames[-1].time == pytest.approx(0.05 * len(frames))


def test_an_unstable_simulation_is_marked_until_a_reset_or_restore(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file into the current directory
    sim = simulator()
    begin(sim, 0)
    state = sim.save_state()
    for forget in (lambda: begin(sim, 0), lambda: sim.load_state(state)):
        sim._data.qvel[10] = 1e12
        assert sim.step(np.zeros(7)).unstable and sim.step(np.zeros(7)).unstable
        forget()
        assert not sim.step(np.zeros(7)).unstable
    sim._drive, drive = lambda action: setattr(sim._data, "time", 0.0), sim._drive
    try:
        assert sim.step(np.zeros(7)).unstable  # a clock that went backwards
    finally:
        sim._drive = drive


@cache
def camera_simulator():
    try:
        return Config(cameras=("agentview", "robot0_eye_in_hand"), camera_size=96).simulator()
    except RuntimeError as error:
        pytest.skip(str(error))


def test_pictures_are_upright_and_show_the_cube_where_it_is():
    sim = camera_simulator()
    image = begin(sim, 0).images["agentview"].astype(int)
    assert image.shape == (96, 96, 3)
    redness = image[..., 0] - image[..., 1:].max(-1)
    rows, columns = np.nonzero(redness > 0.6 * redness.max())
    camera = sim._data.camera("agentview")
    seen = camera.xmat.reshape(3, 3).T @ (sim._data.body("cube_main").xpos - camera.xpos)
    focal = 48 / np.tan(np.deg2rad(sim._model.camera("agentview").fovy[0]) / 2)
    assert columns.mean() == pytest.approx(48 + focal * seen[0] / -seen[2], abs=4)
    assert rows.mean() == pytest.approx(48 - focal * seen[1] / -seen[2], abs=4)


def test_restored_pictures_are_the_same_and_move_with_the_robot():
    sim = camera_simulator()
    first = begin(sim, 1)
    state, moves = sim.save_state(), actions(sim, 1, 4)
    frames = [sim.step(action) for action in moves]
    assert digest(sim.load_state(state)) == digest(first)
    assert [digest(sim.step(action)) for action in moves] == [digest(frame) for frame in frames]
    assert (frames[-1].images["robot0_eye_in_hand"] != first.images["robot0_eye_in_hand"]).any()
    assert [camera.name for camera in sim.spec.cameras] == ["agentview", "robot0_eye_in_hand"]
    assert Config(cameras=("agentview",)).render_samples == 0


def test_closing_frees_the_pictures_context():
    camera_simulator()  # or skip
    sim = Config(cameras=("agentview",), camera_size=8, render_shadows=True).simulator()
    assert begin(sim, 0).images["agentview"].shape == (8, 8, 3)
    sim.close()


def test_a_rendering_backend_nobody_has_is_refused(monkeypatch):
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    monkeypatch.setenv("MUJOCO_GL", "crayons")
    with pytest.raises(ValueError, match="cameras need egl, osmesa, glfw or cgl, got 'crayons'"):
        Renderer(model, mujoco.MjData(model), (8, 8), 0, False)
    monkeypatch.setenv("MUJOCO_GL", "cgl")
    if sys.platform != "darwin":
        with pytest.raises(RuntimeError, match="no cgl rendering here"):
            Renderer(model, mujoco.MjData(model), (8, 8), 0, False)


def test_unknown_names_are_answered_with_the_closest():
    for change, closest in (
        ({"task": "lift"}, "did you mean 'Lift'"),
        ({"control": "osc"}, "did you mean 'osc_delta'"),
        ({"camera_size": 0}, "camera_size and control_freq must be at least 1"),
    ):
        with pytest.raises(ValueError, match=closest):
            Config(**change)
    with pytest.raises(ValueError, match="did you mean 'lift the cube'"):
        simulator().reset("lift a cube", 0)
    with pytest.raises(ValueError, match="did you mean 'agentview'"):
        Config(cameras=("agent_view",)).simulator()
    assert issubclass(UnknownComponent, ValueError)


def test_the_configuration_is_made_of_flags():
    flags = ["--task", "Stack", "--cameras", "[agentview]", "--quality.preset", "mixed", "--max_steps", "7"]
    config = draccus.parse(Config, args=flags)
    assert config == Config(task="Stack", cameras=("agentview",), quality=Quality("mixed"), max_steps=7)
    assert config.steps == 7 and Config(task="Stack").steps == 200
    assert draccus.decode(Config, draccus.encode(config)) == config


def test_a_robot_of_any_size_is_built_from_the_configuration():
    with Config(max_steps=3).build(2, n_obs_steps=2) as fleet:
        observation = fleet.reset(["", ""], [1, 2])
        assert observation.task == ("lift the cube",) * 2 and fleet.provenance["robosuite"]
        outcome = fleet.execute(decision(observation, np.zeros((2, 5, 7), np.float32)))
        assert outcome.truncated.all() and outcome.observation.step.tolist() == [3, 3]
        outcome.observation.check(fleet.spec)


def test_compiled_torques_are_the_written_formulas():
    sim = simulator()
    begin(sim, 6)
    sim.step(actions(sim, 6, 1)[0])
    rng, drive, data = np.random.default_rng(0), sim._drive, sim._data
    drive._osc_torque()  # fills the Jacobian and the mass matrix
    jacobian, mass, arm = drive._jacobian, drive._full_mass, drive._arm
    poses = (data.site_xpos[drive._site], data.site_xmat[drive._site], jacobian, mass, data.qpos, data.qvel)
    goal = (data.site_xpos[drive._site] + 0.02, arm.ref_ori_mat, drive._kp, drive._kd, arm.initial_joint, drive._limits)
    targets = (data.qpos[:7] + rng.uniform(-0.2, 0.2, 7), np.full(7, 150.0), np.full(7, 24.0), drive._limits)
    for torque, arguments in (
        (osc_torque, (*poses, data.qfrc_bias, *goal)),
        (joint_torque, (mass, data.qpos, data.qvel, data.qfrc_bias, *targets)),
    ):
        compiled, written = np.zeros(9), np.zeros(9)
        torque(*arguments, compiled)
        torque.py_func(*arguments, written)
        np.testing.assert_allclose(compiled, written, rtol=1e-9, atol=1e-9)
        assert (np.abs(compiled[:7]) > 0.01).all() and not compiled[7:].any()


def test_a_model_whose_arm_is_not_first_is_refused(monkeypatch):
    sim = simulator()
    monkeypatch.setattr(sim._drive._arm, "qpos_index", [3, 4, 5, 6, 7, 8, 9])
    with pytest.raises(ValueError, match="expected the arm's joints to be the model's first 7, got"):
        sim._drive.bind()
