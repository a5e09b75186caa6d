"""The arm's place in the ROS graph: hears the observed topics, sends plans to the guard. The one file with rclpy."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from robot_value import wire
from robot_value.deploy.listening import message_class
from robot_value.deploy.ticking import aging
from robot_value.messages import extract
from robot_value.topics import Topics

from .config import Ros2GuardArmConfig
from .targets import Targets

REPEAT = 0.5  # s between two words on `intervention`, for nodes that start later


class Graph:
    def __init__(self, topics: Topics, config: Ros2GuardArmConfig) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from std_msgs.msg import Bool
        from std_srvs.srv import SetBool
        from trajectory_msgs.msg import JointTrajectory

        from robot_value.ros_nodes.managed import COMMAND, SENSOR

        self.topics, self.config = topics, config
        self.names = [name for entry in topics.action for name in entry.names]
        self.schema, self._seq, self._observed = wire.schema(topics.spec), 0, 0  # _observed: ns
        self._targets = Targets(topics.spec, config.hold)
        self._aging = aging(topics)
        self._heard: dict[str, tuple[int, Any]] = {}  # topic -> ns received, newest message
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("lerobot", namespace=config.namespace, context=self._context)
        for entry in topics.observed:
            self._node.create_subscription(message_class(entry.type), entry.topic, self._keeper(entry.topic), SENSOR)
        human = config.source == wire.HUMAN
        self._plan = self._node.create_publisher(JointTrajectory, "takeover" if human else "plan", COMMAND)
        self._intervention = self._node.create_publisher(Bool, "intervention", 10) if human else None
        if human:
            self._node.create_timer(REPEAT, self._claim)
        self._switch = self._node.create_client(SetBool, f"{config.guard}/enable")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._running = True
        self._thread = threading.Thread(target=self._spin, name="lerobot", daemon=True)
        self._thread.start()
        # LeRobot's commands disconnect nothing where they fail, and ROS' threads must end before the interpreter does.
        atexit.register(self.close)

    def enable(self, wanted: bool) -> None:
        """Motion is wanted, once everything is heard; or it is no longer."""
        from std_srvs.srv import SetBool

        if wanted:
            self.newest()
        self._wait(self._switch.service_is_ready, lambda: f"the guard's service {self._switch.srv_name}")
        answer, done = self._switch.call_async(SetBool.Request(data=wanted)), threading.Event()
        answer.add_done_callback(lambda _: done.set())
        if not done.wait(self.config.patience) or not answer.result().success:
            why = answer.result().message if answer.done() else "no answer"
            raise ConnectionError(f"{self._switch.srv_name}: expected motion {wanted}, got: {why}")
        if wanted:
            for publisher in filter(None, (self._plan, self._intervention)):
                self._wait(publisher.get_subscription_count, lambda end=publisher: f"a guard on {end.topic_name}")
            self._claim()

    def newest(self) -> dict[str, np.ndarray]:
        """topic -> float32[dims] or uint8[h, w, 3]; waits where one is stale, and meanwhile the guard stops the arm."""
        self._wait(lambda: not self._stale(), lambda: f"fresh messages of {self._stale()}")
        heard = {entry.topic: self._heard[entry.topic] for entry in self.topics.observed}
        self._observed = min(heard[topic][0] for topic in self._aging)
        return {entry.topic: extract(entry, heard[entry.topic][1]) for entry in self.topics.observed}

    def send(self, action: np.ndarray) -> None:
        """`action` float64[A] is to be reached one control step from now."""
        from builtin_interfaces.msg import Duration
        from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

        self._seq += 1
        now = time.monotonic_ns()
        positions, velocities = self._targets.plan(action, now * 1e-9)
        about = wire.About(self._seq, 0, self._seq - 1, 0, self._observed, now, self.schema, self.config.source)
        message = JointTrajectory(joint_names=self.names)
        message.header.frame_id = wire.header(about)
        for i, position in enumerate(positions.tolist()):
            sec, nanosec = divmod(round((i + 1) * self.topics.spec.dt * 1e9), 1_000_000_000)
            due = Duration(sec=sec, nanosec=nanosec)
            speed = [] if velocities is None else velocities[i].tolist()
            message.points.append(JointTrajectoryPoint(positions=position, velocities=speed, time_from_start=due))
        self._plan.publish(message)

    def close(self) -> None:
        """Once; the guard brings the arm to rest for want of plans."""
        from rclpy.duration import Duration
        from std_msgs.msg import Bool

        if not self._running:
            return
        self._running = False
        atexit.unregister(self.close)
        self._executor.wake()
        self._thread.join()  # nobody claims the arm once more after this
        if self._intervention is not None:
            self._intervention.publish(Bool(data=False))
            self._intervention.wait_for_all_acked(Duration(seconds=1))
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()
        self._context.destroy()

    def _claim(self) -> None:
        """A human who teleoperates owns the arm."""
        from std_msgs.msg import Bool

        if self._intervention is not None:
            self._intervention.publish(Bool(data=True))

    def _keeper(self, topic: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self._heard[topic] = time.monotonic_ns(), message

        return keep

    def _spin(self) -> None:
        while self._running:
            self._executor.spin_once(timeout_sec=0.1)

    def _stale(self) -> list[str]:
        now, heard = time.monotonic_ns(), self._heard
        fresh = [e for e in self.topics.observed if e.topic in heard and now - heard[e.topic][0] <= e.max_age * 1e9]
        return [entry.topic for entry in self.topics.observed if entry not in fresh]

    def _wait(self, true: Callable[[], Any], what: Callable[[], str]) -> None:
        end = time.monotonic() + self.config.patience
        while not true():
            if time.monotonic() > end:
                raise ConnectionError(f"expected {what()} within {self.config.patience:g} s, got none; is it running?")
            time.sleep(0.002)
