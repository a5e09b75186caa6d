"""The real steering node in the rig: a camera through a proxy, a policy and a critic that misbehave on order."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faults_models
import numpy as np
from faults_case import expect
from faults_proxy import Proxy, passed
from faults_rig import BROKEN, SECOND, UNPROTECTED, Rig
from ros_graph import ROOT, Process, until

from robot_value import components, wire
from robot_value.wire import unpack_decision

HORIZON, EXECUTE = 8, 4  # control steps of 50 ms


class SteeringRig(Rig):
    """A trial is an episode: `begin` starts one, and the arm stands where its seed says."""

    cameras = ("front",)
    slow_callback = ""  # number of one of steering's callbacks that takes 350 ms
    reanchor = True  # every trial begins at the same pose

    def start_others(self) -> None:
        self.orders = self.folder / "orders.json"
        self.order()
        start = components.load("robots", "first_order").Config().simulator().reset("", 0).state
        spec = self.topics.spec.choose(horizon=HORIZON, n_obs_steps=1)
        self.policy = faults_models.save(self.folder / "policy", spec, "policy", home=tuple(map(float, start)))
        self.critic = faults_models.save(self.folder / "critic", spec, "critic", scope=EXECUTE)
        self.steering = self.start_steering()
        self.graph.wait_state(self.steering, timeout=60.0)

    def start_steering(self, name: str = "steering", **changed: Any) -> Process:
        parameters = {
            "topics": str(self.topics_path),
            "policy": str(self.policy),
            "critic": str(self.critic),
            "mode": "ahead",
            "n": 4,
            "selector": "argmax",
            "lag": 1,
            "max_frozen": 1.0,
            **changed,
        }
        variables = {faults_models.ORDERS: str(self.orders), "PYTHONPATH": str(ROOT)}
        named: dict[str, Any] = {"name": name, "remap": {"plan": "plan_made"}, "variables": variables}
        if self.slow_callback:
            return self.graph.start(BROKEN, parameters, arguments=["steering", "sleep", self.slow_callback], **named)
        wrapper = self.unprotected
        if isinstance(wrapper, str) and wrapper.startswith("steering"):
            return self.graph.start(UNPROTECTED, parameters, arguments=[wrapper, "steering"], **named)
        if isinstance(wrapper, Mapping):
            parameters |= wrapper
        return self.graph.start("steering_node", parameters, **named)

    def order(self, **what: Any) -> None:
        faults_models.give_orders(self.orders, **what)

    def begin(self) -> None:
        from std_srvs.srv import SetBool, Trigger

        self.states.rule = self.plans.rule = self.images.rule = passed
        self.order()
        self.say("stop")
        if self.steering.popen.poll() is not None:
            self.steering = self.start_steering()
            self.graph.wait_state(self.steering, timeout=60.0)
        until(lambda: self.fresh() and self.commands, 10.0, lambda: f"states and commands; {self.guard.said}")
        self.graph.call(Trigger, "guard/reset", timeout=1.0)
        self.graph.call(SetBool, "guard/enable", SetBool.Request(data=True), timeout=1.0)
        self.begin_episode()
        until(lambda: self.moving(self.began), 10.0, lambda: f"motion, got {self.said}; {self.steering.said[-800:]}")

    def begin_episode(self) -> None:
        self.still()
        self.episode += 1
        self.began = time.monotonic_ns()
        self.say("start", seed=0)

    def say(self, event: str, **more: Any) -> None:
        """As the recorder would."""
        about = {"event": event, "episode": self.episode, "seed": 0, "task": "", "time": time.monotonic_ns(), **more}
        self.episodes.publish(self._string(data=json.dumps(about)))

    def chosen(self, since: int) -> list[tuple[int, Any]]:
        """(ns received, Decision) since `since`."""
        return [(ns, unpack_decision(message.data)) for ns, message in self.decisions.since(since)]

    def plan_ends(self, before: int | None = None) -> int:
        """ns, when the newest plan that the guard got (until `before`) is over."""
        plans = [m for ns, m in self.planned.messages if before is None or ns <= before]
        plan = wire.parse_plan(plans[-1], [name for entry in self.topics.action for name in entry.names])
        return plan.about.start + round(len(plan.actions) * plan.dt * SECOND)

    def _connect(self) -> None:
        from sensor_msgs.msg import Image
        from std_msgs.msg import String, UInt8MultiArray
        from trajectory_msgs.msg import JointTrajectory

        from robot_value.ros_nodes.managed import COMMAND, EPISODES, RECORD, SENSOR

        super()._connect()
        self.episode, self._string = 0, String
        self.images = Proxy(self.graph, Image, "/real/front", "/front/image_raw", SENSOR)
        self.episodes = self.graph.publisher(String, "episode", EPISODES)
        self.decisions = self.graph.listen(UInt8MultiArray, "decision", RECORD)
        self.planned = self.graph.listen(JointTrajectory, "plan", COMMAND)

    def close(self) -> None:
        if hasattr(self, "images"):
            self.images.close()
        super().close()


def copied(source: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(source, target, dirs_exist_ok=True)
    return target


def refused(rig: SteeringRig, rng: np.random.Generator, *words: str, **changed: Any) -> float:
    """A second steering node that must not come up: ms until it has said so, with these words."""
    since = time.monotonic_ns()
    process = rig.start_steering(name="another", **changed)
    try:
        code = process.popen.wait(timeout=60.0)
    except Exception:
        process.end(9)
        expect(False, f"came up with {changed}")
    expect(code == 1, f"exit code {code}: {process.said[-500:]}")
    for word in words:
        expect(word in process.said, f"does not say {word!r}: {process.said[-600:]}")
    return (time.monotonic_ns() - since) * 1e-6
