"""The guard node without a process: what it refuses to begin with, and what it does not wait for."""

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")

from guard_rig import NAMES, TOPICS
from trajectory_msgs.msg import JointTrajectory

from robot_value.ros_nodes.guard_node import Config, GuardNode


# mutation: log in GuardNode._on_plan: 80 ms under the lock the first time, in which no command is made.
def test_nothing_is_logged_while_commands_wait():
    lines = []
    log = SimpleNamespace(warning=lines.append, error=lines.append)
    guard = GuardNode(SimpleNamespace(get_logger=lambda: log), Config())
    guard._names, guard._due = NAMES, 0
    guard._plans = SimpleNamespace(refused={"message": 0})
    guard._guard = SimpleNamespace(fault=lambda reason: None)
    for _ in range(3):
        guard._on_plan(JointTrajectory())  # no header
        guard._safely_tick()  # nothing that a tick needs is there
    assert guard._plans.refused == {"message": 3} and not lines
    guard._log.write()
    assert len(lines) == 2 and any("AttributeError" in line for line in lines)  # the newest of each
    guard._log.write()
    assert len(lines) == 2


# mutation: in GuardNode.configure drop a check.
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"sim_time": True}, "use_sim_time: expected false on a real arm"),
        ({"topics": ""}, "topics: expected the path of a topic YAML"),
        ({"jerk": (5.0, 6.0, 7.0)}, r"jerk: expected 1 number or one per arm joint \(2\), got 3"),
        ({"kinematics": "arm.urdf", "workspace_low": (0.0,)}, "workspace: expected 3 numbers low and high"),
        ({"acceleration": (0.5,)}, "a stop from full velocity within 1.0 s, got 2.01 s"),
    ],
)
def test_a_configuration_that_cannot_be_safe_is_refused(tmp_path, config, reason):
    (tmp_path / "topics.yaml").write_text(TOPICS)
    node = SimpleNamespace(get_parameter=lambda name, value=config.pop("sim_time", False): SimpleNamespace(value=value))
    with pytest.raises(ValueError, match=reason):
        GuardNode(node, Config(**{"topics": str(tmp_path / "topics.yaml"), **config})).configure()
