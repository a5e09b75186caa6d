"""The steering node: what it refuses at configure, and what it says over topics, bit by bit."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FixedPolicy, HomingCritic
from recorded import assert_same
from steered import arm_robot, first_order, mapping, save_models, topics_file, where_it_starts

from robot_value import wire
from robot_value.deploy import steering_setup
from robot_value.deploy.cautious import Cautious, Implausible
from robot_value.deploy.steering_setup import Setup, prepare
from robot_value.normalize import Statistics
from robot_value.steering.steerer import NoFiniteChunk, Steerer
from robot_value.types import Scores

# -- what decides on a robot, without ROS ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"), mapping().spec)


def setup(models, **changes):
    return replace(Setup("topics.yaml", str(models[0]), str(models[1])), **changes)


def test_everything_is_loaded_compared_warmed_up_and_measured(models):
    # mutation: execute = the horizon whatever the critic's scope is
    thinking = prepare(setup(models), mapping().spec)
    assert thinking.steerer.execute == 4 and thinking.steerer.steerer.n == 16 and thinking.lag == 0
    assert 0 < thinking.latency[0] <= thinking.latency[1] < 5 and thinking.warnings == ()
    assert thinking.versions["critic"].startswith("sarsa ") and thinking.versions["policy"].startswith("flow ")


def test_the_arm_that_moves_on_gets_a_lag_of_the_measured_latency_and_a_splicing_follower(models, monkeypatch):
    # mutation: floor instead of ceil
    monkeypatch.setattr(steering_setup, "warm_up", lambda *_: (0.03, 0.041))
    thinking = prepare(setup(models, ahead=True), mapping().spec)
    assert thinking.lag == 3 and type(thinking.follower()).__name__ == "Splice"
    thinking.close()
    with pytest.raises(ValueError, match="expected one that splices"):
        prepare(setup(models, ahead=True, parts={"follower": "plain"}), mapping().spec)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("how", ["missing", "damaged", "another robot's", "another scope"])
def test_a_critic_that_cannot_be_used_is_refused_or_left_out_with_a_warning(models, tmp_path, how, required):
    # mutation: random weights; no warning
    critic = tmp_path / "critic"
    changes = {"execute": 3} if how == "another scope" else {}
    if how == "damaged":
        shutil.copytree(models[1], critic)
        (critic / "model.safetensors").write_bytes(b"x" + (critic / "model.safetensors").read_bytes()[1:])
    elif how == "another robot's":
        (tmp_path / "other").mkdir()
        critic = save_models(tmp_path / "other", mapping(rate=20.0).spec)[1]
    elif how == "another scope":
        critic = models[1]
    asked = setup((models[0], critic), critic_required=required, **changes)
    if required:
        with pytest.raises(ValueError, match="critic"):
            prepare(asked, mapping().spec)
    else:
        thinking = prepare(asked, mapping().spec)
        assert thinking.steerer.steerer.critic is None and thinking.steerer.steerer.n == 1
        assert len(thinking.warnings) == 1 and thinking.warnings[0].endswith("; the policy acts alone")


def test_a_policy_for_another_robot_is_refused_with_both_names_and_the_field(models):
    # mutation: compare parts only
    with pytest.raises(ValueError, match=r"policy .*flow and the robot of topics.yaml do not match: dt: expected 0.02"):
        prepare(setup(models), mapping(rate=20.0).spec)
    with pytest.raises(ValueError, match="cameras: expected"):
        prepare(setup(models), mapping(camera=False).spec)
    with pytest.raises(ValueError, match="expected a policy, got ChunkCritic"):
        prepare(setup((models[1], models[1])), mapping().spec)


class Failing:
    """A policy whose first calls raise."""

    def __init__(self, policy, times):
        self.policy, self.times, self.spec = policy, times, policy.spec

    def encode(self, observation):
        return self.policy.encode(observation)

    def sample(self, *arguments):
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError("CUDA out of memory")
        return self.policy.sample(*arguments)


def chunks(value=0.1, n=4):
    return torch.full((1, n, 6, 2), value) * torch.arange(1, n + 1)[None, :, None, None]


def cautious(policy, std=1.0, **words):
    one = np.ones(2, np.float32)
    return Cautious(Steerer(policy, **words), Statistics(0 * one, std * one, -one, one, 9))


def seen(robot_spec):
    from fakes import observation

    return observation(robot_spec, batch=1)


def test_a_failing_network_is_asked_again_with_one_candidate_and_then_given_up():
    # mutation: no retry; endless retries
    spec = mapping(camera=False).spec.choose(horizon=6, n_obs_steps=2)
    policy = FixedPolicy(spec, chunks(n=1))
    steerer = cautious(Failing(policy, 1), n=1, execute=4)
    decision = steerer(seen(spec))
    assert decision.reason == ("error_fallback",) and steerer.books.errors == 1
    np.testing.assert_array_equal(decision.chunk, policy.chunks[:, 0])
    with pytest.raises(RuntimeError, match="out of memory"):
        cautious(Failing(policy, 2), n=1, execute=4)(seen(spec))


def test_no_finite_chunk_is_not_asked_for_twice():
    # mutation: catch every exception
    spec = mapping(camera=False).spec.choose(horizon=6, n_obs_steps=2)
    policy = FixedPolicy(spec, torch.full((1, 1, 6, 2), torch.nan))
    steerer = cautious(policy, execute=4)
    with pytest.raises(NoFiniteChunk):
        steerer(seen(spec))
    assert steerer.books.errors == 0


@pytest.mark.parametrize(("std", "fine"), [(0.021, True), (0.019, False)])
def test_a_chunk_far_outside_the_data_is_refused(std, fine):
    # mutation: 3 standard deviations; look at steps that are not executed
    spec = mapping(camera=False).spec.choose(horizon=6, n_obs_steps=2)
    values = chunks(0.1, n=1)
    values[:, :, 4:] = 99.0  # never executed
    steerer = cautious(FixedPolicy(spec, values), std=std, execute=4)
    if fine:
        steerer(seen(spec))
    else:
        with pytest.raises(Implausible, match="100% of the dims"):
            steerer(seen(spec))


def test_a_critic_without_a_preference_leaves_the_plain_candidate():
    # mutation: let the selector have its way
    from robot_value.steering.selectors import argmax

    spec = mapping(camera=False).spec.choose(horizon=6, n_obs_steps=2)

    class Flat(HomingCritic):
        def score(self, context, candidates, lengths):
            flat = torch.full(candidates.shape[:2], 2.0)
            return Scores(flat, 0 * flat, flat > 0)

    words = {"selector": argmax.Config().build(), "n": 4, "execute": 4}
    policy = FixedPolicy(spec, chunks())
    assert cautious(policy, critic=HomingCritic(spec), **words)(seen(spec)).reason == ("chosen",)
    assert cautious(policy, critic=Flat(spec), **words)(seen(spec)).reason == ("low_spread",)


# -- the node, with ROS ------------------------------------------------------------------------------------------------


@pytest.fixture
def ros():
    pytest.importorskip("rclpy")
    import ros_graph

    return ros_graph


class ProbeArm:
    """Arm and guard of a lock-step graph inside the test's process, on the real topics."""

    def __init__(self, graph, camera=True):
        from rclpy.serialization import serialize_message  # noqa: F401  rclpy is there
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import String, UInt8MultiArray
        from trajectory_msgs.msg import JointTrajectory

        from robot_value.ros_nodes.managed import COMMAND, EPISODES, RECORD

        self.camera, self.JointState, self.Image = camera, JointState, Image
        self.kind, self.text = JointTrajectory, String
        self.states = graph.publisher(JointState, "/joint_states", RECORD)
        self.pictures = graph.publisher(Image, "/front", RECORD)
        self.commands = graph.publisher(JointTrajectory, "executed", RECORD)
        self.events = graph.publisher(String, "episode", EPISODES)
        self.steps = graph.listen(UInt8MultiArray, "step", RECORD)
        self.decisions = graph.listen(UInt8MultiArray, "decision", RECORD)
        self.ended = graph.listen(String, "episode", 50)
        self.plans = graph.listen(JointTrajectory, "plan", COMMAND, answer=self.follow)
        for publisher in (self.states, self.pictures, self.commands, self.events):
            graph.wait_for_subscriber(publisher, 2 if publisher is self.events else 1)

    def begin(self, episode, seed):
        self.episode, self.k, self.position = episode, 0, where_it_starts(seed)
        event = {"event": "start", "episode": episode, "seed": seed, "task": "", "time": time.monotonic_ns()}
        self.events.publish(self.text(data=json.dumps(event)))
        self.publish()

    def follow(self, message):
        plan = wire.parse_plan(message, ["j1", "j2"])
        if (plan.about.episode, plan.about.step) != (self.episode, self.k):
            return
        for action in plan.actions:
            from robot_value.ros_nodes.steering_node import as_trajectory

            about = replace(plan.about, seq=self.k, step=self.k, start=1)
            self.commands.publish(as_trajectory(wire.Plan(about, action[None], None, plan.dt), ["j1", "j2"]))
            self.position = first_order(self.position, action.astype(np.float32))
            self.k += 1
            self.publish()

    def publish(self):
        import array

        stamp = round(self.k * 0.02 * 1e9)
        state = self.JointState(name=["j2", "j1"], position=[float(self.position[1]), float(self.position[0])])
        image = self.Image(height=6, width=8, encoding="rgb8", step=24)
        image.data = array.array("B", [self.k % 256] * 144)
        for message in (state, image):
            message.header.frame_id = f"{self.episode}:{self.k}"
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        self.states.publish(state)
        self.pictures.publish(image)


def direct(models, seeds, max_steps, **changes):
    """The decisions of the same models in the same loop, without ROS."""
    from steered import LockstepArm

    from robot_value.deploy.ticking import Start
    from robot_value.loop import run_episodes

    thinking, found = prepare(setup(models, **changes), mapping().spec), []
    for episode, seed in enumerate(seeds):
        arm = LockstepArm()
        robot, start = arm_robot(arm, lockstep=True, max_steps=max_steps), Start(episode, seed, "", 1)
        robot.play(start)
        arm.begin(start)
        run_episodes(robot, thinking.thinker, thinking.follower(), seeds=[seed], tasks=[""])
        found += arm.heard("decision")
    return found


def same_but_for_time(a, b):
    assert_same(replace(a, seconds={}), replace(b, seconds={}))


def test_over_topics_the_node_decides_bit_by_bit_what_the_loop_decides_and_stops_when_told(models, tmp_path, ros):
    # mutation: one more torch thread; publish after close(); the episode's counter as the key of its randomness
    from std_srvs.srv import Trigger

    parameters = {"topics": str(topics_file(tmp_path)), "policy": str(models[0]), "critic": str(models[1])}
    parameters |= {"lockstep": True, "max_steps": 40, "n": 8}
    with ros.Graph(tmp_path) as graph:
        node = graph.start("steering_node", parameters)
        graph.wait_state(node, timeout=90)
        arm = ProbeArm(graph)
        for episode, seed in ((0, 5), (1, 99)):
            arm.begin(episode, seed)
            arm.ended.wait(
                lambda m, e=episode: json.loads(m.data) | {"event": "ended", "episode": e} == json.loads(m.data)
            )
        expected = direct(models, (5, 99), 40, n=8)
        got = [wire.unpack_decision(message.data) for _, message in arm.decisions.messages]
        assert len(got) == len(expected) == 20
        for ours, theirs in zip(got, expected, strict=True):
            same_but_for_time(ours, theirs)
        steps = [wire.unpack(message.data)[0] for _, message in arm.steps.messages]
        assert [(each["episode"], each["step"]) for each in steps] == [(e, k) for e in (0, 1) for k in range(41)]
        # deactivated while it decides and publishes: nothing after the answer
        arm.begin(2, 7)
        arm.plans.wait(lambda m: wire.parse_header(m.header.frame_id).episode == 2)
        assert graph.call(Trigger, "steering/reload").success  # it waits for the next episode
        arm.begin(3, 7)
        assert graph.change("steering", "deactivate")
        answered = time.monotonic_ns()
        time.sleep(0.3)
        late = [t for heard in (arm.plans, arm.decisions, arm.steps) for t, _ in heard.messages if t > answered + 5e6]
        assert late == []
        assert graph.change("steering", "cleanup") and graph.state("steering") == "unconfigured"
        assert "Traceback" not in node.said


def test_the_node_begins_with_the_newest_version_of_an_online_run_and_takes_later_ones_between_episodes(
    models, tmp_path, ros
):
    # mutation: begin with the parameters' checkpoints; swap while an episode runs; take a damaged one
    from robot_value.online.publication import publish

    run, policy = tmp_path / "run", models[0]
    for step in (1, 2, 3):
        shutil.copytree(models[1], run / f"step_{step}")
    publish(run, 2, {"policy": policy, "critic": run / "step_1"})
    parameters = {"topics": str(topics_file(tmp_path)), "policy": str(policy), "critic": str(models[1])}
    parameters |= {"lockstep": True, "max_steps": 12, "n": 4, "online": str(run)}
    with ros.Graph(tmp_path) as graph:
        node = graph.start("steering_node", parameters)
        graph.wait_state(node, timeout=90)
        arm = ProbeArm(graph)

        def acted(episode):
            """Versions that decided in an episode."""
            since = time.monotonic_ns()
            arm.begin(episode, 5)
            arm.ended.wait(lambda m: (said := json.loads(m.data))["event"] == "ended" and said["episode"] == episode)
            return {wire.unpack_decision(m.data).versions["online"] for _, m in arm.decisions.since(since)}

        assert acted(0) == {"2"}
        publish(run, 3, {"policy": policy, "critic": run / "step_2"})
        ros.until(lambda: "'online': '3'" in node.said, 60, "version 3")
        assert acted(1) == {"3"}
        publish(run, 4, {"policy": policy, "critic": run / "step_3"})
        (run / "step_3" / "config.json").write_text("{}")
        ros.until(lambda: "refused" in node.said, 60, "a refusal")
        assert acted(2) == {"3"} and "Traceback" not in node.said


def test_the_node_ends_with_1_and_the_reason_where_a_checkpoint_is_missing(tmp_path, ros):
    # mutation: go on without a policy
    with ros.Graph(tmp_path) as graph:
        node = graph.start("steering_node", {"topics": str(topics_file(tmp_path)), "policy": str(tmp_path / "none")})
        assert node.popen.wait(90) == 1
        assert "policy: expected the folder of a checkpoint" in node.said and "Traceback" not in node.said


def test_the_node_ends_with_1_and_the_reason_where_the_guard_would_refuse_every_plan(models, tmp_path, ros):
    # mutation: begin, and never move
    parameters = {"topics": str(topics_file(tmp_path)), "policy": str(models[0]), "critic": str(models[1])}
    with ros.Graph(tmp_path) as graph:
        node = graph.start("steering_node", {**parameters, "longest": 0.05})
        assert node.popen.wait(90) == 1
        assert "execute: expected at most 2 steps" in node.said and "Traceback" not in node.said


def test_its_parameters_are_known_without_torch(ros):
    # mutation: import steering_setup or loop at the top
    code = "import sys, robot_value.ros_nodes.steering_node as s; print(s.Config.__name__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["Config", "False"]
