"""A LeRobot robot whose every action is a short plan for the guard, which alone commands the arm.

LeRobot gives policies only what ends in `.pos`, so that is what state and action dims are called: `<name>.pos`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from lerobot.robots.robot import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from robot_value.topics import load

from .config import Ros2GuardArmConfig
from .graph import Graph

POS = ".pos"


class Ros2GuardArm(Robot):
    config_class = Ros2GuardArmConfig
    name = "ros2_guard"

    def __init__(self, config: Ros2GuardArmConfig) -> None:
        self._graph: Graph | None = None
        super().__init__(config)
        self.config, self.topics = config, load(config.topics)
        self.spec = self.topics.spec
        self.cameras = {camera.name: camera for camera in self.spec.cameras}  # LeRobot counts them

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        pictures = {name: (camera.height, camera.width, 3) for name, camera in self.cameras.items()}
        return {f"{name}{POS}": float for name in self.spec.state_names} | pictures

    @cached_property
    def action_features(self) -> dict[str, Any]:
        return {f"{name}{POS}": float for entry in self.topics.action for name in entry.names}

    @property
    def is_connected(self) -> bool:
        return self._graph is not None

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """Nothing: the arm's driver knows its joints."""

    def configure(self) -> None:
        """Nothing: limits and modes are the guard's."""

    def connect(self, calibrate: bool = True) -> None:
        """Waits for every observed topic, then asks the guard for motion."""
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is already connected")
        graph = Graph(self.topics, self.config)
        try:
            graph.enable(True)
        except BaseException:
            graph.close()
            raise
        self._graph = graph

    def get_observation(self) -> dict[str, Any]:
        """Floats in the topics' units and uint8[h, w, 3]; ConnectionError where a topic went quiet."""
        found = self._connected().newest()
        state = np.concatenate([found[entry.topic] for entry in self.topics.state]) if self.topics.state else ()
        numbers = {f"{name}{POS}": float(value) for name, value in zip(self.spec.state_names, state, strict=True)}
        return numbers | {entry.camera.name: found[entry.topic] for entry in self.topics.cameras}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """What was sent: `action` within the limits. The guard may still slow it down or stop the arm."""
        graph, names = self._connected(), list(self.action_features)
        if set(action) != set(names):
            raise ValueError(f"action: expected {names}, got {list(action)}; is the policy another robot's?")
        wanted = np.array([float(action[name]) for name in names])
        if not np.isfinite(wanted).all():
            raise ValueError(f"action: expected finite numbers, got {dict(zip(names, wanted, strict=True))}")
        sent = np.clip(wanted, self.spec.low, self.spec.high)
        graph.send(sent)
        return dict(zip(names, sent.tolist(), strict=True))

    def disconnect(self) -> None:
        """The guard brings the arm to rest."""
        graph, self._graph = self._connected(), None
        try:
            graph.enable(False)
        finally:
            graph.close()

    def _connected(self) -> Graph:
        if self._graph is None:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect() first")
        return self._graph
