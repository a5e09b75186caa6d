"""The only commander: follows plans within limits, stops well, says what it published. Starts without torch.

A thread on the steady clock publishes one command per period; callbacks only leave what they heard. What is decided is
in guard.py, plans.py and braking.py. In lock-step there is no clock: a command answers a state, step by step.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_value import wire
from robot_value.braking import Motion
from robot_value.deploy.lockstep import LockStep, action
from robot_value.deploy.measured import Measured
from robot_value.deploy.plans import SECOND, Course, Plans, Rules
from robot_value.guard import FAULT, HOLD, RUN, Guard, Inside
from robot_value.safety import ROUNDING, Limits, is_twist
from robot_value.topics import load

from .guard_words import Executed, Log, States
from .health import ERROR, OK, WARN, Finding
from .managed import COMMAND, LATCHED, RECORD, SENSOR, ManagedNode, run
from .outputs import Outputs
from .parameters import number
from .raw import message_type
from .scheduling import real_time
from .transport import udp_only
from .watching import Commanders, Intervals

RELIABLE = QoSProfile(depth=10)
STALL = 0.1  # s between two periods, from which on plans are dropped
ALONE = "expected one commander,"
LONGEST_STOP = 1.0  # s, that deactivating waits for rest


@dataclass(frozen=True)
class Config:
    topics: str = ""  # Topic YAML: what the arm's state and action topics mean, and its position limits.
    rate: float = number(50.0, 5.0, 125.0)  # Hz, commands per second; in lock-step the topic YAML's rate.
    enabled: bool = False  # Whether motion is wanted from activation on; else by the service ~/enable.
    real: bool = True  # A real arm: use_sim_time is refused.
    # Real-time priority (SCHED_FIFO) of its threads, below ros2_control's 50; 0, or no right to it: as started.
    priority: int = number(40, 0, 98)
    lockstep: bool = False  # Answer state k with command k, without a clock: simulated arms and tests only.
    velocity: tuple[float, ...] = number((1.0,), 1e-3, 1e5)  # rad/s or m/s, one for all of arm or twist or one each.
    acceleration: tuple[float, ...] = number((5.0,), 1e-3, 1e7)  # rad/s^2 or m/s^2, one for all or one each.
    jerk: tuple[float, ...] = number((100.0,), 1e-3, 1e9)  # rad/s^3 or m/s^3, one for all or one each.
    max_state_age: float = number(0.05, 1e-3, 10.0)  # s since a measured state was received; older ones stop the arm.
    max_plan_age: float = number(0.5, 1e-3, 60.0)  # s since a plan was made; older ones are refused.
    max_observed_age: float = number(0.5, 1e-3, 60.0)  # s since a plan's oldest input was received.
    max_horizon: float = number(2.0, 1e-2, 60.0)  # s from now to a plan's end; longer ones are refused.
    tolerance: float = number(0.1, 1e-4, 10.0)  # rad or m, command to measured state when motion begins.
    tracking: float = number(0.5, 1e-3, 10.0)  # rad or m, command to measured state while moving; more stops the arm
    max_blend: float = number(0.5, 1e-2, 10.0)  # s to catch up with a plan before lagging counts as clamping.
    # Commands within 1 s that are more than a period at full speed off the plan; more of them stop the arm and latch.
    max_clamps_per_second: int = number(25, 0, 1000)
    absurd_speed: float = number(3.0, 1.0, 1e6)  # Times the velocity limit: faster plans are refused whole.
    reanchor: bool = False  # Simulated arms: a jump of the state in HOLD is a scene reset, hold where the arm is.
    estop_topic: str = ""  # std_msgs/Bool, true stops and latches; empty: none.
    estop_heartbeat: float = number(0.0, 0.0, 60.0)  # s, longest silence of estop_topic; 0: it may be silent.
    kinematics: str = ""  # MJCF (.xml) or URDF (.urdf) file that says where the tool is; empty: no workspace box.
    workspace_low: tuple[float, ...] = number((-10.0, -10.0, -10.0), -100.0, 100.0)  # m, x y z the tool stays above.
    workspace_high: tuple[float, ...] = number((10.0, 10.0, 10.0), -100.0, 100.0)  # m, x y z the tool stays below.
    tool: str = ""  # Site or body of the MJCF, link of the URDF.
    gripper_action: str = ""  # GripperCommand action instead of the gripper's topic; needs control_msgs.
    trajectory_action: str = ""  # FollowJointTrajectory action instead of the joints' topic; needs control_msgs.
    twist_frame: str = ""  # tf frame that twists are said in; empty: the `frame` of the topic YAML's action.


class GuardNode:
    def __init__(self, node: ManagedNode, config: Config) -> None:
        self._node, self._config = node, config
        self._lock = threading.RLock()  # whoever holds it may publish
        self._entities: list[tuple[Callable[[Any], Any], Any]] = []
        self._thread: threading.Thread | None = None
        self._outputs: Outputs | None = None
        self._log = Log(node)

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        node, config = self._node, self._config
        if config.real and node.get_parameter("use_sim_time").value:
            raise ValueError("use_sim_time: expected false on a real arm, got true; set real: false if it is simulated")
        if not config.topics:
            raise ValueError("topics: expected the path of a topic YAML, got none; docs/topics.md explains it")
        self._topics = topics = load(config.topics)
        self._period = 1 / (topics.rate if config.lockstep else config.rate)
        self._names = tuple(name for entry in topics.action for name in entry.names)
        self._schema = wire.schema(topics.spec)
        limits = self._limits()
        self._guard = Guard(limits, self._period, self._workspace(), config.reanchor)
        ages = (config.max_plan_age, config.max_observed_age, config.max_horizon)
        self._plans = Plans(Rules(self._schema, *ages), limits)
        self._measured = Measured(topics, limits)
        self._scheduling = "as it was started" if config.lockstep else real_time(config.priority)
        self._intervals = Intervals(self._period)
        self._create()
        self._clear()

    def activate(self) -> None:
        with self._lock:
            self._guard.restart()
            self._guard.enabled = self._config.enabled and self._guard.state != FAULT
            self._plans.clear()
            self._clear()
            self._executed.skip()
            self._ending, self._due = False, time.monotonic_ns() + self._ns
        if not self._config.lockstep:
            self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
            self._thread.start()

    def deactivate(self) -> None:
        """The limited stop comes to its end; nothing is published afterwards."""
        thread, self._thread = self._thread, None
        with self._lock:
            self._guard.enabled = False
            self._ending, self._last = True, self._due + round(LONGEST_STOP * SECOND)
        if thread:
            thread.join()
        self._intervals.forget()

    def cleanup(self) -> None:
        if self._thread:
            self.deactivate()
        for destroy, entity in self._entities:
            destroy(entity)
        self._entities.clear()
        if self._outputs:
            self._outputs.destroy()
        self._log.write()

    def findings(self) -> list[Finding]:
        with self._lock:
            guard, ages = self._guard, self._measured.age(time.monotonic_ns())
            refused = ", ".join(f"{why} {n}" for why, n in self._plans.refused.items())
            values = {"enabled": str(guard.enabled), "clamps": str(guard.clamps), "faults": str(self._states.faults)}
            values |= {"refused_plans": refused or "none", "refused_states": str(self._measured.refused)}
            values |= {f"refused_goals {goals.action}": str(goals.refused) for goals in self._outputs.goals}
            values |= {"state_age_ms": f"{ages * 1e3:.0f}", "commands": str(self._executed.seq)}
            values |= self._intervals.values()
            state, reason = guard.state, guard.reason
        level = ERROR if state == FAULT else OK if state == RUN or not self._config.enabled else WARN
        name, odd = self._node.get_name(), self._measured.odd_stamps
        refused = self._config.real and self._scheduling.startswith("no ")
        turns = Finding(f"{name}: scheduling", WARN if refused else OK, self._scheduling)
        stamps = Finding(f"{name}: stamps", WARN if odd else OK, odd or "of this computer's clock")
        return [Finding(f"{name}: guard", level, f"{state}: {reason}" if reason else state, values), stamps, turns]

    # -- building ------------------------------------------------------------------------------------------------------

    @property
    def _ns(self) -> int:
        return round(self._period * SECOND)

    def _limits(self) -> Limits:
        c = self._config
        ages = {"max_age": c.max_state_age, "tolerance": c.tolerance, "tracking": c.tracking, "max_blend": c.max_blend}
        counts = {"max_clamps": c.max_clamps_per_second, "absurd_speed": c.absurd_speed}
        return Limits.from_spec(self._topics.spec, c.velocity, c.acceleration, c.jerk, **ages, **counts)

    def _workspace(self) -> Inside | None:
        c = self._config
        if not c.kinematics:
            return None
        if any(is_twist(part) for part in self._topics.parts):
            raise ValueError("kinematics: expected none for a twist, got one; MoveIt Servo checks the scene itself")
        from robot_value.deploy import forward_kinematics

        if len(c.workspace_low) != 3 or len(c.workspace_high) != 3:
            raise ValueError(f"workspace: expected 3 numbers low and high, got {c.workspace_low}, {c.workspace_high}")
        low, high = np.array(c.workspace_low), np.array(c.workspace_high)
        dims = [i for part in self._topics.parts if part.kind == "joint" for i in range(part.start, part.stop)]
        tool = forward_kinematics.load(c.kinematics, c.tool, [self._names[i] for i in dims])
        return forward_kinematics.Workspace(low, high, tool, np.array(dims))

    def _clear(self) -> None:
        self._states.clear()
        self._followed: Course | None = None
        self._gripping = False  # grippers are told where to be; until then nobody knows where they are
        self._estop, self._estop_heard = False, time.monotonic()
        self._lockstep = LockStep(self._schema, self._measured.topics)

    def _create(self) -> None:
        node, config = self._node, self._config
        record = config.lockstep
        others = (config.gripper_action, config.trajectory_action, config.twist_frame)
        self._outputs = Outputs(node, self._topics, self._period, *others)
        self._commanders = Commanders(node, self._outputs.topics)
        self._executed = Executed(node, self._names, self._schema, self._period)
        self._states = States(node, self._guard)
        self._entities += [(node.destroy_publisher, said.publisher) for said in (self._executed, self._states)]
        plan, qos = RECORD if record else COMMAND, RECORD if record else SENSOR
        self._listen(JointTrajectory, "plan", self._on_plan, plan)
        self._listen(JointTrajectory, "takeover", self._on_plan, plan)
        self._listen(Bool, "intervention", self._on_intervention, RELIABLE)
        self._listen(String, "guard_state", self._on_guard_state, LATCHED)
        for topic, kind in self._measured.topics.items():
            self._listen(message_type(kind), topic, lambda message, topic=topic: self._on_state(topic, message), qos)
        if config.estop_topic:
            self._listen(Bool, config.estop_topic, self._on_estop, RELIABLE)
        for kind, name, answer in (
            (SetBool, "~/enable", lambda request: self._enable(request.data)),
            (Trigger, "~/estop", lambda request: self._emergency("emergency stop by service")),
            (Trigger, "~/reset", lambda request: self._reset()),
        ):
            service = node.serve(kind, name, lambda request, answer=answer: self._when_active(answer, request))
            self._entities.append((node.destroy_service, service))
        for period, callback in (
            (0.2, self._watch),
            (1.0, self._states.tell),
            (1.0, self._log.write),
            (0.05, self._states.say),
        ):
            self._entities.append((node.destroy_timer, node.every(period, callback)))

    def _listen(self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile) -> None:
        def locked(message: Any) -> None:
            with self._lock:
                callback(message)

        self._entities.append((self._node.destroy_subscription, self._node.listen(kind, topic, locked, qos)))

    # -- what is heard -------------------------------------------------------------------------------------------------

    def _on_state(self, topic: str, message: Any) -> None:
        wall = 0 if self._config.lockstep else self._node.get_clock().now().nanoseconds
        problem = self._measured.put(topic, message, time.monotonic_ns(), self._guard.state == HOLD, wall)
        if problem and problem.latches:
            self._guard.bad_state(problem.reason)
        elif not problem:
            self._guard.good_state()
            if self._config.lockstep:
                self._lockstep.state(topic, message.header.frame_id)
                self._answer()

    def _on_plan(self, message: JointTrajectory) -> None:
        try:
            plan = wire.parse_plan(message, self._names)
        except wire.WireError as error:
            self._plans.refused["message"] += 1
            self._log.note("message", str(error))
            return
        if self._config.lockstep:
            reason = self._lockstep.offer(plan)
            self._answer()
        else:
            reason = self._plans.offer(plan, time.monotonic_ns(), self._guard.motion)
        if reason:
            self._log.note("plan", f"plan refused: {reason}")

    def _on_intervention(self, message: Bool) -> None:
        self._plans.intervene(message.data, time.monotonic_ns())
        self._lockstep.intervene(message.data, time.monotonic_ns())
        self._answer() if self._config.lockstep else None

    def _on_estop(self, message: Bool) -> None:
        self._estop, self._estop_heard = message.data, time.monotonic()
        if message.data:
            self._emergency("emergency stop")

    def _on_guard_state(self, message: String) -> None:
        if json.loads(message.data)["pid"] != os.getpid():
            self._guard.fault(f"another guard called {self._node.get_fully_qualified_name()} is running")

    # -- what is asked for ---------------------------------------------------------------------------------------------

    def _when_active(self, answer: Callable[[Any], str], request: Any) -> str:
        if not self._node.active:
            return "expected the node to be active, got another state"
        with self._lock:
            return answer(request)

    def _enable(self, wanted: bool) -> str:
        """Motion begins with a plan that is made from now on."""
        if wanted and not self._guard.enabled:
            self._plans.clear()
        return self._guard.enable(wanted)

    def _emergency(self, reason: str) -> str:
        """Stops now: the command of the coming period is a braking one and is sent at once."""
        moving = self._guard.state == RUN
        self._guard.fault(reason)
        self._plans.clear()
        if moving and self._thread and self._due - time.monotonic_ns() <= self._ns:
            self._safely_tick()
        return ""

    def _reset(self) -> str:
        return "expected a released emergency stop, got a pressed one" if self._estop else self._guard.reset()

    def _watch(self) -> None:
        """Five times a second: are we alone, and is the emergency stop's sender alive?"""
        silence, allowed = time.monotonic() - self._estop_heard, self._config.estop_heartbeat
        with self._lock:
            if others := self._commanders.others():
                self._guard.fault(ALONE)
                if self._guard.reason.startswith(ALONE):  # who it is becomes known later than that it is there
                    self._guard.reason = f"{ALONE} {self._node.get_fully_qualified_name()}, got {', '.join(others)} too"
            if self._config.estop_topic and allowed and silence > allowed and self._node.active:
                self._emergency(f"{self._config.estop_topic}: expected a message every {allowed} s, got none")

    # -- what is published ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            wait = (min(self._due, self._stale_at()) - time.monotonic_ns()) / SECOND
            if wait > 0:
                time.sleep(wait)
            with self._lock:
                if self._ending and (self._at_rest() or self._due > self._last):
                    return
                if time.monotonic_ns() >= min(self._due, self._stale_at()):
                    self._safely_tick()

    def _stale_at(self) -> float:
        """ns of the steady clock at which a moving arm's measured state is too old: braking does not wait for the tick.

        Infinite where the command of the coming period has been sent already.
        """
        if self._guard.state != RUN or self._due - time.monotonic_ns() > self._ns:
            return math.inf
        return self._measured.valid_until(self._guard.limits.max_age)

    def _at_rest(self) -> bool:
        guard = self._guard
        return guard.motion is None or (guard.at_rest and guard.state in (HOLD, FAULT))

    def _safely_tick(self) -> None:
        try:
            self._tick()
        except Exception as error:  # nothing may end this thread but the node
            self._guard.fault(f"{type(error).__name__}: {error}")
            self._log.note("guard", f"guard: {error!r}", error=True)

    def _tick(self) -> None:
        """The command of the period that is due, which is where to be when the next one is."""
        now, due = time.monotonic_ns(), self._due
        late = max(0, now - due)
        periods = 1 + late // self._ns
        self._due += self._ns * periods
        if late > max(STALL, 5 * self._period) * SECOND:
            self._plans.clear()
        self._intervals.add(now)
        guard, measured, age = self._guard, self._measured.positions, self._measured.age(now)
        before = guard.motion
        found = self._plans.at(self._due, before, self._period, not self._gripping) if before else None
        tick = guard.tick(None if found is None else found[0], measured, age, periods)
        if tick.command is None:
            self._executed.skip()
            return
        course = found[1] if found and tick.state == RUN else None
        self._followed = last = course or self._followed
        self._gripping = self._gripping or (course is not None and self._grips(course, before, tick.command))
        sends = self._outputs.made(tick.command, grippers=self._gripping)
        source, step = course.about.source if course else wire.STOP, last.step(self._due) if last else 0
        record = self._executed.record(tick.command, last.about if last else None, source, step)
        if time.monotonic_ns() - now > STALL * SECOND:  # we were paused on the way here: this is old, decide again
            guard.motion = before
            self._plans.clear()
            return
        for send in sends:
            send()
        self._executed.publish(record)

    def _grips(self, course: Course, before: Motion, command: np.ndarray) -> bool:
        """A policy means its gripper's number. A hand takes over what it heard, and means it once it moves it."""
        moved = np.abs(command - before.position)[~self._guard.limits.rated]
        return course.about.source == wire.POLICY or moved.max(initial=0.0) > ROUNDING

    # -- lock-step -----------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """The commands that are due, if motion is wanted."""
        guard, lockstep = self._guard, self._lockstep
        if not self._node.active or not guard.enabled:
            return
        before = lockstep.answered[0]
        if due := lockstep.next():
            episode, step, plan = due
            if episode != before:
                guard.begin(self._measured.positions)
            command = guard.obey(action(plan, step)).command
            self._executed.publish(self._executed.record(command, plan.about, plan.about.source, step))


def main(args: list[str] | None = None) -> None:
    udp_only(rclpy.get_rmw_implementation_identifier())
    run("guard", Config, GuardNode, args)


if __name__ == "__main__":
    main()
