"""What all nodes share: parameters that refuse nonsense, transitions that are refused with a reason, callbacks that
cannot end the process."""

import inspect
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("rclpy")  # an optional extra: everything else works without ROS

import rclpy
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from robot_value.ros_nodes import managed, parameters
from robot_value.ros_nodes.health import OK, Finding
from robot_value.ros_nodes.managed import ManagedNode
from robot_value.ros_nodes.parameters import number

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Config:
    rate: float = number(50.0, 1.0, 1000.0)  # Hz, ticks
    depth: int = number(3, 1, 10)  # messages
    velocity: tuple[float, ...] = number((1.0, 2.0), 0.01, 10.0)  # rad/s, one per joint
    joints: tuple[str, ...] = ("a", "b")  # names, in order
    store: str = ""  # folder

    def __post_init__(self):
        if len(self.joints) != len(self.velocity):
            raise ValueError(f"velocity: expected one per joint ({len(self.joints)}), got {len(self.velocity)}")


class Body:
    """Notes what was asked of it, and fails where it is told to."""

    failing: ClassVar = {}  # method -> exception

    def __init__(self, node, config):
        self.node, self.config, self.calls = node, config, []

    def __getattr__(self, name):
        if name not in ("configure", "activate", "deactivate", "cleanup"):
            raise AttributeError(name)

        def call():
            self.calls.append(name)
            if name in self.failing:
                raise self.failing[name]

        return call

    def findings(self):
        return [Finding("body", OK, "fine")]


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setattr(Body, "failing", {})
    rclpy.init(domain_id=1 + os.getpid() % 100)
    nodes = []

    def build(**overrides):
        values = [Parameter(key, value=value) for key, value in overrides.items()]
        nodes.append(ManagedNode("tested", Config, Body, parameter_overrides=values))
        return nodes[-1]

    yield build
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


def state(node):
    return node._state_machine.current_state[1]


def test_the_first_line_of_the_log_is_as_quick_as_any_other(make, monkeypatch):
    # mutation: no getframeinfo in on_configure: the first line stalls the callbacks for 40 to 80 ms
    monkeypatch.setattr(inspect, "modulesbyfile", {})
    monkeypatch.setattr(inspect, "_filesbymodname", {})
    make().start()
    assert os.path.realpath(managed.__file__) in inspect.modulesbyfile


# -- parameters --------------------------------------------------------------------------------------------------------


def test_a_config_is_declared_with_descriptions_and_ranges_and_read_back(make):
    # mutation: drop the range, or the tuple() in read
    node = make(velocity=[3.0, 4.0], rate=100.0)
    assert parameters.read(node, Config) == Config(rate=100.0, velocity=(3.0, 4.0))
    about = node.describe_parameter("rate")
    assert about.description == "Hz, ticks" and about.read_only
    assert (about.floating_point_range[0].from_value, about.floating_point_range[0].to_value) == (1.0, 1000.0)
    assert node.describe_parameter("depth").integer_range[0].to_value == 10


@pytest.mark.parametrize("bad", [0.5, 1001.0, float("nan"), float("inf"), "fast", 3, True, [1.0]])
def test_a_number_out_of_range_not_finite_or_of_another_type_is_refused(make, bad):
    # mutation: declare without the descriptor
    with pytest.raises(Exception, match="rate"):
        make(rate=bad)


@pytest.mark.parametrize("bad", [[1.0, 0.0], [1.0, float("nan")], [float("inf"), 1.0], [1.0, 11.0]])
def test_every_entry_of_an_array_is_checked(make, bad):
    # mutation: check the first entry only, or drop _arrays_in_range and the check in read
    node = None
    with pytest.raises(Exception, match="velocity"):
        node = make(velocity=bad)
        parameters.read(node, Config)


def test_what_the_config_itself_refuses_is_a_failed_configuration(make):
    # mutation: let the ValueError of __post_init__ escape from read as it is
    node = make(velocity=[1.0])
    with pytest.raises(parameters.ParameterError, match="one per joint"):
        parameters.read(node, Config)
    assert node.trigger_configure() != managed.TransitionCallbackReturn.SUCCESS
    assert state(node) == "unconfigured" and node.body is None


def test_parameters_cannot_be_changed_while_the_node_lives(make):
    # mutation: read_only=False
    node = make()
    (result,) = node.set_parameters([Parameter("rate", value=60.0)])
    assert not result.successful and node.get_parameter("rate").value == 50.0


# -- lifecycle ---------------------------------------------------------------------------------------------------------


def test_a_body_lives_from_configure_to_cleanup(make):
    # mutation: build the body in __init__, or keep it after cleanup
    node = make()
    assert node.body is None and node.start() and state(node) == "active"
    calls = node.body.calls
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert calls == ["configure", "activate", "deactivate", "cleanup"] and node.body is None


@pytest.mark.parametrize(("step", "expected"), [("configure", "unconfigured"), ("activate", "inactive")])
def test_a_refused_transition_leaves_the_state_and_says_why(make, step, expected):
    # mutation: return SUCCESS after a ValueError
    Body.failing[step] = ValueError("expected a camera, got none")
    node = make()
    assert not node.start() and state(node) == expected and "expected a camera" in node._last_error
    assert not node.active


@pytest.mark.parametrize("step", ["configure", "activate", "deactivate"])
def test_a_crash_in_a_transition_leaves_an_unconfigured_node_alive(make, step):
    # mutation: on_error returns FAILURE
    Body.failing[step] = RuntimeError("boom")
    node = make()
    node.start()
    if step == "deactivate":
        node.trigger_deactivate()
    assert state(node) == "unconfigured" and node.body is None and not node.active
    Body.failing.clear()
    assert node.start() and state(node) == "active"


def test_finish_ends_an_active_node_in_order(make):
    # mutation: forget to deactivate in on_shutdown
    node = make()
    node.start()
    calls = node.body.calls
    node.finish()
    assert calls[-2:] == ["deactivate", "cleanup"] and state(node) == "finalized"


# -- callbacks ---------------------------------------------------------------------------------------------------------


def failing(*_):
    raise RuntimeError("boom")


def test_an_exception_in_a_callback_is_said_and_not_raised(make):
    # mutation: do not wrap
    node = make()
    node.start()
    node.safe(failing)("message")
    assert "boom" in node._last_error and node.active


def test_three_exceptions_within_ten_seconds_deactivate(make):
    # mutation: TOO_MANY = 4, or look at the newest two only
    node = make()
    node.start()
    for _ in range(managed.TOO_MANY - 1):
        node.safe(failing)()
    assert node.active
    node.safe(failing)()
    assert not node.active and state(node) == "inactive"


def test_rare_exceptions_do_not_deactivate(make, monkeypatch):
    # mutation: never look at the time
    node = make()
    node.start()
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(5):
        node.safe(failing)()
        now[0] += managed.WITHIN * 0.6
    assert node.active


def test_a_service_answers_with_the_reason_even_when_it_crashes(make):
    # mutation: let the exception escape the service
    node = make()
    node.start()
    for answer, expected in ((lambda _: "", (True, "")), (lambda _: "not now", (False, "not now"))):
        response = node.serve(Trigger, "~/a", answer).callback(Trigger.Request(), Trigger.Response())
        assert (response.success, response.message) == expected
    response = node.serve(Trigger, "~/b", failing).callback(Trigger.Request(), Trigger.Response())
    assert not response.success and "boom" in response.message


PROGRAM = """
import sys, time
sys.path.insert(0, "tests")
from test_managed import Body, Config
from robot_value.ros_nodes.managed import run
if "refuse" in sys.argv:
    Body.failing["configure"] = ValueError("expected a camera, got none")
print("ready", flush=True)
run("tested", Config, Body, sys.argv[1:])
"""


def started(*arguments):
    variables = {**os.environ, "ROS_DOMAIN_ID": str(1 + os.getpid() % 100)}
    variables |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=variables, cwd=ROOT, text=True, **pipes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_in_order(number):
    # mutation: leave rclpy's own signal handlers in place
    process = started()
    assert process.stdout.readline().strip() == "ready"
    time.sleep(1.5)
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0, said


def test_a_node_that_refuses_its_configuration_ends_with_an_error():
    # mutation: spin on whatever start() says
    process = started("refuse")
    try:
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 1 and "expected a camera" in said
