"""A process for bench_guard to kill: the arm (joint states at 100 Hz, where it was told to be) or the policy (plans).

It finds its peers, says so, and waits for its turn: the next trial need not wait for discovery. A file of int64[4] is
between it and who started it: when its last publication was and until when that is valid (both ns of CLOCK_MONOTONIC),
that it is ready, and that it is its turn.
"""

from __future__ import annotations

import time

import numpy as np
import rclpy
from rclpy.duration import Duration
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_value import wire
from robot_value.ros_nodes.managed import COMMAND, SENSOR
from robot_value.workers import end_with_parent

JOINTS = 7
NAMES = [f"joint{i}" for i in range(JOINTS)]
STATE_PERIOD, PLAN_PERIOD = 0.01, 0.04  # s
STEP, STEPS = 0.02, 4  # s, per plan
HEIGHT, WAVE = 0.15, 1.6  # rad, s
SAID, UNTIL, READY, TURN = range(4)


def main(role: str, file: str, schema: str) -> None:
    end_with_parent()
    said = np.memmap(file, np.int64, "r+", shape=(4,))
    rclpy.init()
    node = rclpy.create_node(f"{role}_{time.monotonic_ns()}", namespace="/robot_value")
    (arm if role == "arm" else policy)(node, said, schema)


def arm(node: rclpy.node.Node, said: np.ndarray, _: str) -> None:
    where = [0.0] * JOINTS

    def obey(message: JointTrajectory) -> None:
        where[:] = message.points[0].positions

    node.create_subscription(JointTrajectory, "/arm/joint_trajectory", obey, COMMAND)
    publisher = node.create_publisher(JointState, "/joint_states", SENSOR)
    wait_for(node, lambda: node.count_publishers("/arm/joint_trajectory"))
    turn(said)
    rclpy.spin_once(node, timeout_sec=4 * STEP)  # where a killed arm was told to be, its successor is
    due = time.monotonic()
    while True:
        due += STATE_PERIOD
        while (left := due - time.monotonic()) > 0:
            rclpy.spin_once(node, timeout_sec=left)
        publisher.publish(JointState(name=NAMES, position=where))
        said[:2] = time.monotonic_ns()


def policy(node: rclpy.node.Node, said: np.ndarray, schema: str) -> None:
    heard: list[JointState] = []
    node.create_subscription(JointState, "/joint_states", heard.append, SENSOR)
    publisher = node.create_publisher(JointTrajectory, "plan", COMMAND)
    wait_for(node, lambda: heard and publisher.get_subscription_count())
    turn(said)
    heard.clear()
    wait_for(node, lambda: heard)
    base = np.array(heard[-1].position)
    height = np.where(base > 0, -HEIGHT, HEIGHT)
    began, seq = time.monotonic_ns() + 50_000_000, 0
    while True:
        start = time.monotonic_ns()
        seconds = (start - began) * 1e-9 + STEP * np.arange(1, STEPS + 1)[:, None]
        phase = 2 * np.pi * np.maximum(seconds, 0.0) / WAVE
        positions = base + height / 2 * (1 - np.cos(phase))
        velocities = height * np.pi / WAVE * np.sin(phase)
        seq += 1
        message = JointTrajectory(joint_names=NAMES)
        message.header.frame_id = wire.header(wire.About(seq, 1, 0, start, start, start, schema))
        for i in range(STEPS):
            due = Duration(seconds=(i + 1) * STEP).to_msg()
            point = JointTrajectoryPoint(positions=positions[i].tolist(), velocities=velocities[i].tolist())
            point.time_from_start = due
            message.points.append(point)
        publisher.publish(message)
        said[:2] = time.monotonic_ns(), start + round(STEPS * STEP * 1e9)
        time.sleep(max(0.0, PLAN_PERIOD - (time.monotonic_ns() - start) * 1e-9))


def wait_for(node: rclpy.node.Node, true: object) -> None:
    while not true():
        rclpy.spin_once(node, timeout_sec=0.01)


def turn(said: np.ndarray) -> None:
    said[READY] = 1
    while not said[TURN]:
        time.sleep(0.05)  # a score of them wait: none may cost the machine anything
