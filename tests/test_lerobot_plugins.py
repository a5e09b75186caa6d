"""What LeRobot is given by our packages: the same robots, the same decisions, the same guard.

The commands themselves, from pip to a steered lerobot-eval, are run by `python plugins/check_commands.py`.
"""

import json
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import draccus
import numpy as np
import pytest
import tiny_lerobot
import torch
from fakes import observation
from ros_graph import Graph

from robot_value import checkpoint, components, topics
from robot_value.deploy.ticking import aging
from robot_value.normalize import Statistics
from robot_value.policies import lerobot_vla
from robot_value.sim import ogbench_robot, robosuite_robot
from robot_value.types import ActionPart, Camera, Spec

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = [f"lerobot_{kind}_robot_value" for kind in ("env", "policy", "robot")]


@pytest.fixture(scope="module")
def plugins():
    """They can be imported, as installed ones can."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name in PLUGINS:
            patch.syspath_prepend(str(ROOT / "plugins" / name))
        yield


@pytest.mark.parametrize("name", PLUGINS)
def test_lerobot_finds_a_package_by_its_name(name):
    # mutation: a hyphen in the project's name, or a package of another name
    project = tomllib.loads((ROOT / "plugins" / name / "pyproject.toml").read_text())
    assert project["project"]["name"] == name and project["tool"]["setuptools"]["packages"] == [name]
    assert name.startswith(("lerobot_env_", "lerobot_policy_", "lerobot_robot_"))
    assert (ROOT / "plugins" / name / name / "__init__.py").is_file()


# -- environments ------------------------------------------------------------------------------------------------------


def played(robot, actions, seeds, single):
    """What our own robot shows: (state [B, S], images, rewards [B], done [B]) after the reset and after each action."""
    observation = robot.reset([""] * len(seeds), seeds)
    yield observation.state[:, -1], {k: v[:, -1] for k, v in observation.images.items()}, None, None
    for action in actions:
        outcome = robot.execute(single(action, observation))
        observation = outcome.observation
        images = {name: image[:, -1] for name, image in observation.images.items()}
        yield observation.state[:, -1], images, outcome.rewards.sum(1), outcome.done


def decided(actions, now):
    """`actions` float32[B, A] as a decision of one step."""
    from lerobot_env_robot_value.robot_env import single

    alone = single(actions[0], now.rows([0]))
    batch = {"chunk": actions[:, None], "execute": np.ones(len(actions), np.int64), "start_step": now.step}
    return type(alone)(**{**vars(alone), **batch})


@pytest.mark.parametrize("kind", ["robosuite", "ogbench"])
def test_an_environment_of_lerobot_is_our_robot_bit_for_bit(plugins, kind):
    # mutation: no clipping, seed + 1, max_steps of the task, is_success of the step before, state of float64
    from lerobot.envs import make_env
    from lerobot.envs.utils import NEW_ROLLOUT_OPTION
    from lerobot_env_robot_value.environments import OgbenchEnv, RobosuiteEnv

    if kind == "robosuite":
        config, seeds = RobosuiteEnv(robot=robosuite_robot.Config(camera_size=24, max_steps=4)), [7, 8]
    else:
        config, seeds = OgbenchEnv(robot=ogbench_robot.Config(image_size=24, max_steps=4)), [7]
    (vector,) = make_env(config, n_envs=len(seeds))[config.type].values()
    robot, size = config.robots[0].build(len(seeds)), vector.single_action_space.shape[0]
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (4, len(seeds), size)).astype(np.float32)
    try:
        assert vector.call("_max_episode_steps")[0] == 4 and vector.call("task_description")[0] == robot.tasks[0]
        shown, _ = vector.reset(seed=seeds, options={NEW_ROLLOUT_OPTION: True})
        for step, (state, images, rewards, done) in enumerate(played(robot, actions, seeds, decided)):
            if step:
                shown, given, terminated, truncated, _ = vector.step(actions[step - 1])
                assert np.array_equal(given, rewards) and np.array_equal(terminated | truncated, done)
            assert np.array_equal(shown["agent_pos"], state)
            assert all(np.array_equal(shown["pixels"][name], images[name]) for name in images)
            assert np.array_equal(vector.envs[0].render(), next(iter(images.values()))[0])
        assert truncated.all()
    finally:
        vector.close()
        robot.close()


def test_an_environment_that_cannot_be_meant_is_refused_when_it_is_configured(plugins):
    # mutation: leave the check of fps, of the tasks' specs or of robot.task out
    from lerobot_env_robot_value.environments import RobosuiteEnv

    small = robosuite_robot.Config(camera_size=24)
    with pytest.raises(ValueError, match=r"env\.fps: expected the robot's 20 Hz, got 30"):
        RobosuiteEnv(fps=30, robot=small)
    with pytest.raises(ValueError, match=r"task Stack.*state_names"):
        RobosuiteEnv(task="Lift,Stack", robot=small)
    with pytest.raises(ValueError, match=r"say it as env\.task"):
        RobosuiteEnv(robot=robosuite_robot.Config(task="Stack"))


# -- the policy --------------------------------------------------------------------------------------------------------

ARM = ActionPart("arm", 0, 2, "joint", "rad", (-1.0, -1.0), (1.0, 1.0))
SPEC = Spec((ARM,), ("a", "b"), ("rad", "rad"), 0.1, (Camera("top", 16, 16),), n_obs_steps=3)


def test_what_lerobot_shows_becomes_an_observation_without_losing_a_bit(plugins):
    # mutation: round left out, history padded with zeros, episode keys that stay at 0, step counted from 1
    from lerobot_policy_robot_value.observing import Observer

    pixels = np.arange(2 * 16 * 16 * 3).reshape(2, 16, 16, 3).astype(np.uint8)
    observer = Observer(SPEC)

    def see(value):
        state = torch.full((2, 2), value)
        picture = torch.from_numpy(pixels).movedim(-1, 1).float() / 255  # as lerobot.envs.preprocess_observation
        observer.see({"observation.state": state, "observation.images.top": picture, "task": ["x", "y"]})
        return observer.observation()

    seen = see(1.0)
    seen.check(SPEC)
    assert np.array_equal(seen.images["top"], np.repeat(pixels[:, None], 3, 1)) and seen.task == ("x", "y")
    assert (seen.state == 1.0).all() and seen.step.tolist() == [0, 0] and seen.episode.tolist() == [0, 1]
    for value in (2.0, 3.0, 4.0):
        seen = see(value)
    assert seen.state[0, :, 0].tolist() == [2.0, 3.0, 4.0] and seen.step.tolist() == [3, 3]
    observer.reset()
    observer.reset()  # LeRobot resets before a rollout, and once more
    seen = see(5.0)
    assert (seen.state == 5.0).all() and seen.episode.tolist() == [2, 3] and seen.step.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"images.top: expected this camera, got \['observation.images.front'\]"):
        observer.see({"observation.state": torch.zeros(1, 2), "observation.images.front": torch.zeros(1, 3, 16, 16)})


def test_settings_are_read_as_lerobot_reads_them_and_what_cannot_be_is_refused(plugins):
    # mutation: num_candidates 0 accepted, options as text, train without a word
    import draccus
    from lerobot_policy_robot_value.configuration_robot_value import RobotValueConfig

    options = ["--selector_options={temperature: 0.5}", "--gate_options={path: gate.json}", "--device=cpu"]
    config = draccus.parse(RobotValueConfig, args=["--selector=softmax_average", *options])
    assert config.selector_options == {"temperature": 0.5} and config.gate_options == {"path": "gate.json"}
    assert config.steers and not RobotValueConfig(device="cpu").steers and config.type == "robot_value"
    with pytest.raises(ValueError, match="num_candidates >= 1"):
        RobotValueConfig(num_candidates=0, device="cpu")
    with pytest.raises(NotImplementedError, match="train the base by lerobot-train"):
        config.get_optimizer_preset()


SCOPE = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a tiny diffusion policy of LeRobot's, adopted for a robot of five numbers, and of a random critic."""
    folder, spec = tmp_path_factory.mktemp("models"), tiny_lerobot.spec(environment=2)
    base = tiny_lerobot.diffusion(folder / "base")
    inputs = {"observation.state": spec.state_names[:3], "observation.environment_state": spec.state_names[3:]}
    spec = lerobot_vla.adopt(base, spec, inputs).spec
    ones = {"state": np.ones(spec.state_dim, np.float32), "action": np.ones(spec.action_dim, np.float32)}
    scale = {key: Statistics(0 * one, one, -one, one, 9) for key, one in ones.items()}
    config = components.load("critics", "iql").Config(scope=SCOPE)
    about = {"config": draccus.encode(config), "spec": spec, "statistics": scale, "extra": {"tasks": [""]}, "step": 0}
    tensors = config.build(spec, scale).state_dict()
    checkpoint.save(folder / "critic", kind="critics", name="iql", tensors=tensors, **about)
    return str(base), str(folder / "critic")


def test_steered_step_by_step_it_does_what_the_steerer_decides(plugins, models, tmp_path):
    # mutation: history of one frame, a decision at every step, episodes that are 0 again after a reset
    from lerobot_policy_robot_value.configuration_robot_value import RobotValueConfig
    from lerobot_policy_robot_value.modeling_robot_value import RobotValuePolicy
    from lerobot_policy_robot_value.steering import make_steerer

    log, n, rollouts, steps = tmp_path / "decisions.jsonl", 3, 2, 6
    config = RobotValueConfig(base_path=models[0], critic_path=models[1], num_candidates=n, selector="argmax")
    RobotValuePolicy(replace(config, decisions_path=str(log))).save_pretrained(tmp_path / "saved")
    policy, steerer = RobotValuePolicy.from_pretrained(tmp_path / "saved"), make_steerer(config)
    states = np.random.default_rng(0).normal(size=(rollouts, 2, steps, 5)).astype(np.float32)
    for rollout, state in enumerate(states):
        policy.reset()
        steerer.reset()
        for t in range(steps):
            with torch.inference_mode():  # as lerobot-eval does
                action = policy.select_action({"observation.state": torch.from_numpy(state[:, t]), "task": ["", ""]})
            if t % SCOPE == 0:
                now = {"state": state[:, [max(t - 1, 0), t]], "step": np.full(2, t)}
                seen = observation(steerer.policy.spec, 2, **now, episode=2 * rollout + np.arange(2))
                decision = steerer(seen)
            assert np.array_equal(action.numpy(), decision.chunk[:, t % SCOPE])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    expected = [(2 * rollout + row, t) for rollout in range(rollouts) for t in (0, SCOPE) for row in range(2)]
    assert [(line["episode"], line["step"]) for line in lines] == expected
    assert all(len(line["value"]) == n and line["index"] == int(np.argmax(line["value"])) for line in lines)


def test_a_chunk_that_was_returned_counts_as_executed_when_the_next_one_is_asked_for(plugins, models, tmp_path):
    # mutation: a step per call: noise and times of decisions that were never made
    from lerobot_policy_robot_value.configuration_robot_value import RobotValueConfig
    from lerobot_policy_robot_value.modeling_robot_value import RobotValuePolicy

    log, batch = tmp_path / "decisions.jsonl", {"observation.state": torch.zeros(1, 5), "task": [""]}
    config = RobotValueConfig(base_path=models[0], critic_path=models[1], num_candidates=2, selector="argmax")
    policy = RobotValuePolicy(replace(config, decisions_path=str(log)))
    for _ in range(2):
        policy.reset()
        for _ in range(3):
            assert policy.predict_action_chunk(batch).shape == (1, SCOPE, 2)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == 2 * [0, SCOPE, 2 * SCOPE]


def test_without_critic_and_selector_it_is_the_base_policy_to_the_bit(plugins, models):
    # mutation: normalise twice, or draw candidates where nothing was asked for
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot_policy_robot_value.configuration_robot_value import RobotValueConfig
    from lerobot_policy_robot_value.modeling_robot_value import RobotValuePolicy

    plain = DiffusionPolicy.from_pretrained(models[0])
    before, after = make_pre_post_processors(plain.config, models[0])
    policy = RobotValuePolicy(RobotValueConfig(base_path=models[0], device="cpu"))
    rng = np.random.default_rng(1)
    sizes = {"observation.state": 3, "observation.environment_state": 2}
    batches = [{k: torch.from_numpy(rng.normal(size=(2, n))).float() for k, n in sizes.items()} for _ in range(7)]

    def played(reset, act):
        torch.manual_seed(5)
        reset()
        return torch.stack([act(dict(batch)) for batch in batches])

    expected = played(plain.reset, lambda batch: after(plain.select_action(before(batch))))
    assert torch.equal(played(policy.reset, policy.select_action), expected)


# -- the arm -----------------------------------------------------------------------------------------------------------


def test_targets_are_met_at_the_speed_of_a_steady_stream_and_held_from_rest(plugins):
    # mutation: velocities of zero, hold of one point, increments held
    from lerobot_robot_robot_value.targets import Targets

    targets, step = Targets(SPEC, hold=0.35), np.array([0.02, -0.01])
    for i in range(4):
        points, velocities = targets.plan(step * i, 0.1 * i)
        assert points.shape == (4, 2) and (points == step * i).all() and not velocities[1:].any()
        assert np.allclose(velocities[0], step / 0.1 if i > 1 else 0.0)
    assert not targets.plan(step * 9, 5.0)[1].any()  # after a pause the arm begins at rest
    part = ActionPart("arm", 0, 2, "joint", "rad", (-1.0, -1.0), (1.0, 1.0), reference="previous")
    points, velocities = Targets(Spec((part,), ("a", "b"), ("rad", "rad"), 0.1), hold=0.35).plan(step, 0.0)
    assert points.shape == (1, 2) and velocities is None


def test_what_holds_until_its_next_message_makes_no_plan_old_and_must_have_come_once(plugins):
    # mutation: the oldest of all topics; a topic that was never heard is fresh, because .inf <= .inf
    from lerobot_robot_robot_value.graph import Graph as Arm

    one = {"type": "std_msgs/msg/Float32", "unit": "rad"}
    states = [{**one, "topic": f"/{n}", "names": [n], "max_age": age} for n, age in (("joint", 60.0), ("goal", np.inf))]
    action = {**one, "name": "u", "topic": "/u", "names": ["u"], "kind": "other", "low": 0, "high": 1, "max_age": 0.1}
    arm = Arm.__new__(Arm)
    arm.topics = topics.parse({"rate": 10.0, "max_skew": np.inf, "state": states, "action": [action]})
    arm.config, arm._aging, now = SimpleNamespace(patience=0.01), aging(arm.topics), time.monotonic_ns()
    arm._heard = {"/joint": (now, SimpleNamespace(data=1.0))}
    with pytest.raises(ConnectionError, match=r"fresh messages of \['/goal'\]"):
        arm.newest()
    arm._heard["/goal"] = (now - 10**12, SimpleNamespace(data=2.0))
    assert arm.newest()["/goal"].tolist() == [2.0] and arm._observed == now


TOPICS = Path(__file__).resolve().parents[1] / "launch" / "params" / "simulated_panda_first_order_topics.yaml"


FORGETFUL = """
import sys
from pathlib import Path
topics, folder, *sys.path[:0] = sys.argv[1:]
from lerobot.robots.utils import make_robot_from_config
from lerobot_robot_robot_value import Ros2GuardArmConfig
robot = make_robot_from_config(Ros2GuardArmConfig(topics=topics, calibration_dir=Path(folder), patience=20.0))
robot.connect()
robot.get_observation()
raise SystemExit(3)
"""


def test_an_arm_goes_where_lerobot_sends_it_through_the_guard_taught_or_by_a_policy(plugins, tmp_path, monkeypatch):
    # mutation: plans on the other topic, joint order reversed, no `enable`, intervention never said or never taken back
    pytest.importorskip("rclpy")
    from lerobot.robots.utils import make_robot_from_config
    from lerobot_robot_robot_value import Ros2GuardArmConfig
    from trajectory_msgs.msg import JointTrajectory

    from robot_value import wire
    from robot_value.ros_nodes.managed import RECORD

    # as wide as a machine that stands still now and then needs
    limits = {"velocity": [2.175], "acceleration": [15.0], "jerk": [7500.0]}
    limits |= {"max_state_age": 2.0, "max_clamps_per_second": 1000}
    with Graph(tmp_path) as graph:
        for name, value in graph.variables.items():
            monkeypatch.setenv(name, value)
        executed = graph.listen(JointTrajectory, "executed", RECORD)
        nodes = [graph.start("simulated_arm_node", {"topics": str(TOPICS), "command_timeout": 0.5})]
        nodes += [graph.start("guard_node", {"topics": str(TOPICS), "real": False, **limits})]
        for node in nodes:
            graph.wait_state(node)
        for source, move in ((wire.HUMAN, 0.1), (wire.POLICY, -0.1)):
            config = Ros2GuardArmConfig(topics=str(TOPICS), source=source, calibration_dir=tmp_path, patience=20.0)
            robot = make_robot_from_config(config)
            assert not robot.is_connected
            robot.connect()
            since, seen = time.monotonic_ns(), robot.get_observation()
            assert set(seen) == set(robot.observation_features) and seen["front"].shape == (32, 32, 3)
            goal = {name: seen[name] for name in robot.action_features}
            reached, end = 0.0, time.monotonic() + 20
            while abs(seen["panda_joint2.pos"] - goal["panda_joint2.pos"] - move) > 0.005 and time.monotonic() < end:
                reached = np.sign(move) * min(abs(move), abs(reached) + 0.005)
                robot.send_action(goal | {"panda_joint2.pos": goal["panda_joint2.pos"] + reached})
                time.sleep(0.05)
                seen = robot.get_observation()
            assert seen["panda_joint2.pos"] - goal["panda_joint2.pos"] == pytest.approx(move, abs=0.005)
            others = [name for name in goal if name not in ("panda_joint2.pos", "gripper.pos")]
            assert all(abs(seen[name] - goal[name]) < 0.005 for name in others)
            robot.disconnect()
            sources = {wire.parse_header(m.header.frame_id).source for _, m in executed.since(since)}
            assert source in sources and sources <= {source, wire.STOP}
        # mutation: no atexit
        words = [
            sys.executable,
            "-c",
            FORGETFUL,
            str(TOPICS),
            str(tmp_path),
            *(str(ROOT / "plugins" / n) for n in PLUGINS),
        ]
        ended = subprocess.run(words, env=graph.variables, timeout=60, capture_output=True, text=True, cwd=ROOT)
        assert ended.returncode == 3 and "Traceback" not in ended.stderr, ended.stderr
    with pytest.raises(ValueError, match="is the policy another robot's"):
        robot._graph = object()
        robot.send_action({"panda_joint1.pos": 0.0})
    robot._graph = None
