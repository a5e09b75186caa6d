"""A policy without a network, in the harness: streams plans on a slow sine from wherever the arm holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from robot_value import wire

RETURN = 8.0  # s


def _eased(x: np.ndarray) -> np.ndarray:
    """From 0 to 1 while x goes from 0 to 1, at rest at both ends."""
    x = np.minimum(x, 1.0)
    return x**2 * (3 - 2 * x)


def plan_message(about: wire.About, actions: np.ndarray, dt: float, names: Sequence[str]) -> Any:
    """JointTrajectory of actions float64[K, A] at steps of dt."""
    from builtin_interfaces.msg import Duration
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    message = JointTrajectory(joint_names=list(names))
    message.header.frame_id = wire.header(about)
    for i, row in enumerate(actions):
        ns = round((i + 1) * dt * 1e9)
        due = Duration(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)
        message.points.append(JointTrajectoryPoint(positions=row.tolist(), time_from_start=due))
    return message


class Scripted:
    """`edit(actions, about)` may spoil what is sent next: it returns (actions, about), or None for nothing at all."""

    def __init__(self, publisher: Any, names: Sequence[str], schema: str, home: np.ndarray, source: str = wire.POLICY):
        self.publisher, self.names, self.schema, self.source = publisher, tuple(names), schema, source
        self.home, self.began = np.array(home, np.float64), time.monotonic_ns()  # float64[A], rad
        self.middle: np.ndarray | None = None  # float64[A], where it was anchored first
        self.amplitude, self.frequency = 0.15, 0.3  # rad, Hz
        self.period, self.steps, self.dt = 0.1, 10, 0.05  # s between plans, actions per plan, s per action
        self.observed = time.monotonic_ns  # ns, when the oldest input was received
        self.edit = None
        self.seq = 0
        self.sent: list[tuple[wire.About, np.ndarray]] = []
        self._running = threading.Event()
        self._thread: threading.Thread | None = None

    def at(self, ns: np.ndarray | int) -> np.ndarray:
        """float64[..., A], where it wants to be at times `ns`."""
        seconds = np.maximum(np.asarray(ns - self.began, np.float64) * 1e-9, 0.0)[..., None]
        back = 0.0 if self.middle is None else self.middle - self.home
        home = self.home + _eased(seconds / RETURN) * back
        return home + self.amplitude * _eased(seconds) * np.sin(2 * np.pi * self.frequency * seconds)

    def anchor(self, home: np.ndarray) -> None:
        """Begin anew from here, and go back to the middle: an hour of stops must not end at the joints' limits."""
        self.home, self.began = np.array(home, np.float64), time.monotonic_ns()
        self.middle = self.home if self.middle is None else self.middle

    def plan(self, now: int | None = None) -> tuple[wire.About, np.ndarray]:
        now = time.monotonic_ns() if now is None else now
        self.seq += 1
        about = wire.About(self.seq, 0, 0, now, min(now, self.observed()), now, self.schema, self.source)
        return about, self.at(now + np.round((1 + np.arange(self.steps)) * self.dt * 1e9).astype(np.int64))

    def send(self, about: wire.About, actions: np.ndarray) -> None:
        self.sent.append((about, actions))
        self.publisher.publish(plan_message(about, actions, self.dt, self.names))

    def start(self) -> None:
        if not self._running.is_set():
            self._running.set()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._running.clear()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._running.is_set():
            about, actions = self.plan()
            edited = (about, actions) if self.edit is None else self.edit(about, actions)
            if edited is not None:
                self.send(*edited)
            time.sleep(self.period)
