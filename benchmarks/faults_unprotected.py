"""Our nodes with one protection taken away, for controls only: `faults_unprotected.py guard_no_estop guard`.

Each function replaces one check in memory and says in its name which. The first word names the node it is for. There is
no such mode in the nodes themselves. A test that passes here too has not injected its fault.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from faults_shared_memory import guard_sees_room  # noqa: F401  a control like those below, before ROS is imported

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from robot_value import braking, guard, messages, resampling, safety, wire
from robot_value.deploy import measured, plans, simulated_arm
from robot_value.ros_nodes import managed, parameters

SECOND = 1_000_000_000  # ns


def _first_found(entry: Any, names: Any, values: np.ndarray) -> np.ndarray:
    return np.resize(values, len(entry.joints))


def _any_numbers(value: Any, size: int) -> np.ndarray:
    return np.resize(np.array(np.nan if value is None else value, np.float64), size)


def _unlike(*words: str) -> Callable:
    """Plans._why_not without the reasons that begin with these words."""
    asked = plans.Plans._why_not

    def why_not(self: Any, plan: Any, now: int, motion: Any) -> str:
        reason = asked(self, plan, now, motion)
        return "" if reason.split(":")[0] in words else reason

    return why_not


# -- guard: states -----------------------------------------------------------------------------------------------------


def guard_trusts_states() -> None:
    """Numbers are taken in the order they come, wherever that puts the arm."""
    messages._by_name = _first_found
    guard_ignores_jumps()


def guard_counts_no_bad_states() -> None:
    guard.Guard.bad_state = lambda self, reason: None


def guard_faults_at_once() -> None:
    guard.BAD_STATES = 1


def guard_believes_any_state() -> None:
    """Neither jumps nor distance to the command are looked at."""
    guard_ignores_jumps()
    guard.Guard._gap = lambda self, allowed: ""


def guard_ignores_jumps() -> None:
    measured.Measured._jump = lambda self, entry, values, now: ""


def guard_ageless_states() -> None:
    safety.fresh = guard.fresh = lambda age, limits: age is not None and age < math.inf


def guard_on_wall_clock() -> None:
    """Its steady clock moves with the wall clock."""
    apart = time.monotonic_ns() - time.time_ns()
    time.monotonic_ns = lambda: time.time_ns() + apart


def guard_on_ros_time() -> None:
    """Its steady clock is the node's."""
    begin = managed.ManagedNode.__init__

    def with_clock(self: Any, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        time.monotonic_ns = lambda: self.get_clock().now().nanoseconds

    managed.ManagedNode.__init__ = with_clock


def guard_any_time() -> None:
    node = importlib.import_module("robot_value.ros_nodes.guard_node")
    read = parameters.read
    parameters.read = lambda self, config: dataclasses.replace(read(self, config), real=False)
    node.parameters = parameters


def guard_on_shared_memory() -> None:
    """Fast DDS with all its transports, as it comes."""
    importlib.import_module("robot_value.ros_nodes.guard_node").udp_only = lambda middleware: None


def guard_keeps_all() -> None:
    """Every message waits to be read, and reading one costs 2 ms of the guard's process."""
    for qos in (managed.SENSOR, managed.COMMAND):
        qos.depth = 100_000
    put = measured.Measured.put

    def slow(self: Any, *arguments: Any, **named: Any) -> Any:
        time.sleep(0.002)
        return put(self, *arguments, **named)

    measured.Measured.put = slow


# -- guard: plans and limits -------------------------------------------------------------------------------------------


def guard_any_sequence() -> None:
    plans.Plans._why_not = _unlike("seq")


def guard_short_plans() -> None:
    """Only the first two steps of a plan are kept: nothing bridges a loss."""
    parse = wire.parse_plan

    def shortened(message: Any, names: Any) -> wire.Plan:
        plan = parse(message, names)
        return dataclasses.replace(plan, actions=plan.actions[:2])

    wire.parse_plan = shortened


def guard_endless_plans() -> None:
    at = plans.Course.at
    plans.Course.at = lambda self, time: at(self, min(time, int(self.times[-1])))


def guard_ageless_plans() -> None:
    plans.Plans._why_not = _unlike("created", "observed")


def guard_trusts_numbers() -> None:
    """Neither in a message nor before a command."""
    wire._rows = lambda what, rows, order: np.array([list(row) for row in rows], np.float64)[:, order]
    guard.vector = _any_numbers


def guard_unlimited() -> None:
    braking.Brakes.follow = lambda self, motion, target: motion.to(target.position, self.dt)
    plans.Plans._absurd = lambda self, *arguments: ""


# -- guard: operators and processes ------------------------------------------------------------------------------------


def guard_no_estop() -> None:
    guard.Guard.fault = lambda self, reason: None


def guard_no_takeover() -> None:
    plans.Plans.intervene = lambda self, human, now: None


def guard_begins_anywhere() -> None:
    begin = guard.Guard.begin
    guard.Guard.begin = lambda self, where: begin(self, np.asarray(where) + 0.05)


def guard_dies_on_signals() -> None:
    handle = signal.signal
    signal.signal = lambda number, handler: handle(number, signal.SIG_DFL)


def guard_any_commander() -> None:
    watching = importlib.import_module("robot_value.ros_nodes.watching")
    watching.Commanders.others = lambda self: []


def guard_stops_at_once() -> None:
    """Deactivating does not wait for rest."""
    importlib.import_module("robot_value.ros_nodes.guard_node").GuardNode._at_rest = lambda self: True


def guard_always_willing() -> None:
    node = importlib.import_module("robot_value.ros_nodes.guard_node").GuardNode
    node._when_active = lambda self, answer, request: answer(request)


def guard_open_parameters() -> None:
    describe = parameters._descriptor

    def open_to_all(config: type, item: Any) -> Any:
        descriptor = describe(config, item)
        descriptor.read_only, descriptor.dynamic_typing = False, True
        descriptor.floating_point_range, descriptor.integer_range = [], []
        return descriptor

    parameters._descriptor = open_to_all


def guard_in_one_process() -> None:
    """A state's callback holds the interpreter for 350 ms every second, as a network in the guard's process would."""
    hold, put, last = ctypes.PyDLL(None).usleep, measured.Measured.put, [time.monotonic()]

    def slow(self: Any, *arguments: Any, **named: Any) -> Any:
        if time.monotonic() - last[0] > 1.0:
            last[0] = time.monotonic()
            hold(350_000)
        return put(self, *arguments, **named)

    measured.Measured.put = slow


# -- arm ---------------------------------------------------------------------------------------------------------------


def both_queue_commands() -> None:
    """Guard and arm keep a thousand commands for each other, and do not notice that they were paused."""
    managed.COMMAND.depth = 1000
    importlib.import_module("robot_value.ros_nodes.guard_node").STALL = simulated_arm.PAUSE = 1e9


# -- steering ----------------------------------------------------------------------------------------------------------


def steering_ageless_inputs() -> None:
    resampling._old = lambda entry, used, now: "" if entry.topic in used else "nothing received"


def steering_trusts_frames() -> None:
    """Neither when they come nor when they are needed."""
    messages._check_raw = lambda entry, message: None
    messages._image = lambda entry, message: np.resize(
        np.frombuffer(message.data, np.uint8), (entry.camera.height, entry.camera.width, 3)
    )


def steering_trusts_chunks() -> None:
    """NaN may be selected, and sent."""
    from robot_value.steering import steerer

    steerer.Steerer._refuse = lambda self, *arguments: None


def steering_trusts_scores() -> None:
    """Every candidate competes, whatever its numbers and its value are."""
    import torch

    from robot_value.steering import steerer
    from robot_value.steering.selectors import argmax

    argmax.scored = steerer.scored = lambda scores, situation: torch.ones_like(situation.finite)


def steering_indifferent() -> None:
    """A critic without a preference acts all the same."""
    from robot_value.deploy import cautious

    cautious.Preference.__call__ = lambda self, *arguments: self.gate(*arguments)


def steering_dies_of_errors() -> None:
    """An exception in a network is not caught."""
    from robot_value.deploy import cautious

    node = importlib.import_module("robot_value.ros_nodes.steering_node").Steering
    cautious.Cautious.__call__ = lambda self, observation, active=None: self.steerer(observation, active)
    node._episode = lambda self, start: _play(self, start)


def _play(node: Any, start: Any) -> None:
    import os

    from robot_value.loop import run_episodes

    node.robot.play(start)
    thinking = node.thinking
    try:
        run_episodes(node.robot, thinking.thinker, thinking.follower(), tasks=[start.task], seeds=[start.seed])
    except RuntimeError:
        os._exit(1)


def steering_any_contract() -> None:
    from robot_value.types import Spec

    Spec.differences = lambda self, other: []


def steering_any_checkpoint() -> None:
    """Statistics of standard normal data stand in for what is missing or wrong."""
    from robot_value import checkpoint
    from robot_value.normalize import Statistics

    checkpoint.verify = lambda folder: "unverified"
    checkpoint._check_statistics = lambda *arguments: None
    read = Statistics.from_json

    def forgiving(data: Any) -> Statistics:
        size = len(data["mean"])
        try:
            return read(data)
        except ValueError:
            return Statistics(np.zeros(size), np.ones(size), -np.ones(size), np.ones(size), 1)

    Statistics.from_json = forgiving


def steering_any_chunk() -> None:
    from robot_value.deploy import cautious

    cautious.FAR = math.inf


def steering_says_all() -> None:
    """Deactivating changes nothing."""
    node = importlib.import_module("robot_value.ros_nodes.steering_node").Steering
    node.deactivate = lambda self: None
    managed.ManagedNode.create_lifecycle_publisher = managed.ManagedNode.create_publisher


def main() -> None:
    name, node = sys.argv.pop(1), sys.argv.pop(1)
    globals()[name]()
    importlib.import_module(f"robot_value.ros_nodes.{node}_node").main()


if __name__ == "__main__":
    main()
