"""For every test: Hypothesis sets no deadline per example, because a busy machine is not a failing test.

Tests that hold real processes against a real clock get a second try, which the summary shows (R): a shared machine that
stands still for a moment spoils one, while what is wrong fails twice.
"""

import pytest
from hypothesis import settings

settings.register_profile("robot_value", deadline=None)
settings.load_profile("robot_value")

TIMED = {
    "test_backends",
    "test_display_node",
    "test_display_rerun",
    "test_fleet",
    "test_guard_node",
    "test_launch",
    "test_learning_on_an_arm",
    "test_lerobot_plugins",
    "test_one_loop",
    "test_online_kills",
    "test_recorder_node",
    "test_replay_node",
    "test_robot_check",
    "test_ros_faults",
    "test_scale_playing",
    "test_scale_processes",
    "test_serving",
    "test_simulated_arm",
    "test_steering_node",
    "test_teleop",
    "test_twist",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in TIMED:
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))
