"""Hears the topics of a robot for a while, without a word of its own. The one file of the library that asks rclpy."""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any

import numpy as np

from ..messages import MessageError, extract
from ..resampling import SECOND
from ..topics import Pictures, Topics
from .robot_check import Arrival, End, Heard

PATIENCE = 5.0  # s, for discovery and for a first message
KEPT = {True: 8, False: 4096}  # messages of a camera, of everything else


class Listener:
    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.heard = {topic: Heard() for topic in topics.types}
        self._cameras = {entry.topic for entry in topics.observed if isinstance(entry, Pictures)}

    def __enter__(self) -> Listener:
        try:
            import rclpy
        except ImportError as error:
            message = 'expected ROS (source its setup.bash, or pip install "robot_value[ros]"), got none'
            raise ValueError(message) from error
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("robot_check", context=self._context)
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)  # hears both kinds
        for topic, kind in self.topics.types.items():
            self._node.create_subscription(message_class(kind), topic, self._keeper(topic), best_effort)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._running = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._running = False
        self._executor.wake()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def hear(self, seconds: float) -> dict[str, Heard]:
        """What came within `seconds` from when everybody was found, or PATIENCE was over."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not all(self.heard[entry.topic].arrivals for entry in self.topics.observed):
            time.sleep(0.05)
        time.sleep(seconds)
        for topic, heard in self.heard.items():
            heard.publishers = self._ends(self._node.get_publishers_info_by_topic(topic))
            heard.subscribers = self._ends(self._node.get_subscriptions_info_by_topic(topic))
        return self.heard

    def state(self) -> np.ndarray:
        """float32[S], from now on: the newest message of every state topic that comes after this call."""
        before = {entry.topic: len(self.heard[entry.topic].arrivals) for entry in self.topics.state}
        end = time.monotonic() + PATIENCE
        while any(len(self.heard[topic].arrivals) == count for topic, count in before.items()):
            if time.monotonic() > end:
                raise MessageError(f"state: expected a message within {PATIENCE:g} s, got none")
            time.sleep(0.01)
        return np.concatenate([extract(entry, self.heard[entry.topic].messages[-1]) for entry in self.topics.state])

    def _spin(self) -> None:
        while self._running:
            self._executor.spin_once(timeout_sec=0.1)

    def _keeper(self, topic: str) -> Any:
        heard, most = self.heard[topic], KEPT[topic in self._cameras]

        def keep(message: Any) -> None:
            header = getattr(message, "header", None)
            wall, stamp = time.time_ns(), header.stamp.sec * SECOND + header.stamp.nanosec if header else 0
            heard.arrivals.append(Arrival(time.monotonic_ns(), stamp or wall, wall))
            heard.messages.append(message)
            del heard.messages[:-most]

        return keep

    def _ends(self, found: Any) -> list[End]:
        from rclpy.qos import ReliabilityPolicy

        ours = self._node.get_fully_qualified_name()
        names = [(f"{info.node_namespace.rstrip('/')}/{info.node_name}", info) for info in found]
        return [
            End(name, info.topic_type, info.qos_profile.reliability == ReliabilityPolicy.RELIABLE)
            for name, info in names
            if name != ours
        ]


def message_class(kind: str) -> type:
    """Of "sensor_msgs/msg/Image"."""
    package, _, name = kind.rpartition("/")
    try:
        return getattr(importlib.import_module(package.replace("/", ".")), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{kind}: expected an installed message type, got none; source its package") from error
