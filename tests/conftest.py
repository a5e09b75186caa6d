"""For every test: Hypothesis sets no deadline per example, because a busy machine is not a failing test.

Tests that hold real processes against a real clock get a second try, which the summary shows (R): a shared machine that
stands still for a moment spoils one, while what is wrong fails twice.

No simulator outlives its module: each robosuite model reserves 1.3 GB of addresses, and from the machine's memory on in
neighbouring reservations, no process can be forked any more (Ray's).
"""

import gc
from pathlib import Path

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


@pytest.fixture(scope="module", autouse=True)
def no_simulator_outlives_its_module(request):
    before = reserved()
    yield
    for each in vars(request.module).values():
        if getattr(each, "__module__", None) == request.module.__name__ and hasattr(each, "cache_clear"):
            each.cache_clear()
    if reserved() > before + 2**30:
        gc.collect()


def reserved():
    """Bytes of addresses of this process; 0 where nobody says."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * 4096 if statm.exists() else 0
