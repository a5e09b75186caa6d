"""The doctor: what it finds without ROS, and what arrives on /diagnostics from the real node."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_value import checkpoint
from robot_value.normalize import Statistics
from robot_value.ros_nodes import health
from robot_value.types import ActionPart, Camera, Spec

ROOT = Path(__file__).resolve().parent.parent
PART = ActionPart("arm", 0, 2, "joint", "rad", (-1, -1), (1, 1))
SPEC = Spec((PART,), ("q0", "q1"), ("rad", "rad"), 0.05, (Camera("wrist", 4, 6),), horizon=8, n_obs_steps=2)


@pytest.fixture
def folder(tmp_path):
    one = np.ones(2, np.float32)
    statistics = {key: Statistics(mean=one, std=one, low=-one, high=one, count=3) for key in ("state", "action")}
    words = {"kind": "critics", "name": "iql", "config": {}, "spec": SPEC, "step": 7}
    checkpoint.save(tmp_path / "c", **words, tensors={"w": torch.zeros(2)}, statistics=statistics)
    return tmp_path / "c"


def by_name(found):
    return {finding.name.removeprefix("robot_value: "): finding for finding in found}


# -- findings, without ROS ---------------------------------------------------------------------------------------------


def test_a_healthy_installation_names_its_versions():
    # mutation: leave numpy out of LIBRARIES
    found = by_name(health.examine(""))
    assert {finding.level for finding in found.values()} == {health.OK}
    assert found["versions"].values["numpy"] == np.__version__
    assert "no checkpoint asked for" in found["checkpoint"].message


def test_a_checkpoint_is_described_by_hash_and_spec(folder):
    # mutation: report spec.state_dim as the horizon
    found = by_name(health.examine(str(folder)))["checkpoint"]
    assert found.level == health.OK and found.values["hash"] == checkpoint.verify(folder)
    assert found.values["hash"][:12] in found.message and found.values["horizon"] == "8"
    assert found.values["action"] == "arm [2] rad, absolute" and found.values["cameras"] == "wrist 4x6"


def test_a_damaged_checkpoint_is_an_error_and_no_exception(folder):
    # mutation: let CheckpointError escape
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    found = by_name(health.examine(str(folder)))["checkpoint"]
    assert found.level == health.ERROR and "damaged" in found.message


def test_without_torch_the_doctor_still_answers(folder, monkeypatch):
    # mutation: import robot_value.checkpoint at the top of health.py
    known = importlib.util.find_spec
    monkeypatch.setattr(health, "find_spec", lambda name: None if name == "torch" else known(name))
    found = by_name(health.examine(str(folder)))
    assert found["torch"].level == found["checkpoint"].level == health.WARN
    assert "robot_value[learn]" in found["torch"].message


def test_a_library_of_a_ros_distribution_has_no_pip_version(monkeypatch):
    # mutation: return "not installed" for both
    def unknown(name):
        raise health.PackageNotFoundError(name)

    monkeypatch.setattr(health, "version", unknown)
    assert health._version("numpy") == "unknown version"
    assert health._version("ros-nothing_of_that_name") == "not installed"


# -- the node, with ROS ------------------------------------------------------------------------------------------------

LISTEN = """
import json, time, rclpy
from diagnostic_msgs.msg import DiagnosticArray
rclpy.init()
node, got = rclpy.create_node("listener"), []
node.create_subscription(DiagnosticArray, "/diagnostics", got.append, 10)
end = time.monotonic() + 30
while len(got) < 2 and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.1)
status = [[s.level[0], s.name, s.message, {v.key: v.value for v in s.values}] for s in got[-1].status]
print(json.dumps({"status": status, "stamp": got[-1].header.stamp.sec}))
"""


def variables():
    """A ROS domain of our own on the loopback interface."""
    domain = str(1 + os.getpid() % 100)
    return {**os.environ, "ROS_DOMAIN_ID": domain, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def start(*arguments):
    command = [sys.executable, "-m", "robot_value.ros_nodes.doctor_node", "--ros-args", *arguments]
    return subprocess.Popen(
        command, env=variables(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_node_publishes_its_findings_and_ends_on_ctrl_c(folder):
    # mutation: publish to "diagnostics_" or drop the timer
    pytest.importorskip("rclpy")
    parameters = ROOT / "launch" / "params" / "doctor.yaml"
    node = start("--params-file", str(parameters), "-p", f"checkpoint:={folder}", "-p", "period:=0.1")
    try:
        heard = subprocess.run(
            [sys.executable, "-c", LISTEN], env=variables(), capture_output=True, text=True, timeout=60
        )
        assert heard.returncode == 0, heard.stderr
        message = json.loads(heard.stdout.splitlines()[-1])
        found = {name: (level, text, values) for level, name, text, values in message["status"]}
        level, text, values = found["robot_value: checkpoint"]
        assert level == 0 and values["hash"] == checkpoint.verify(folder) and "critics/iql" in text
        assert message["stamp"] > 0 and "robot_value: versions" in found
    finally:
        node.send_signal(signal.SIGINT)
        _, errors = node.communicate(timeout=20)
    assert node.returncode == 0 and "Traceback" not in errors, errors


def test_a_parameter_out_of_range_is_one_clear_line():
    # mutation: no floating_point_range in the descriptor
    pytest.importorskip("rclpy")
    node = start("-p", "period:=0.0")
    _, errors = node.communicate(timeout=30)
    assert node.returncode == 1
    assert "out of range Min: 0.05, Max: 60.0" in errors.splitlines()[-1] and "Traceback" not in errors
