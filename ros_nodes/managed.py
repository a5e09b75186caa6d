"""What all our nodes share: lifecycle, parameters, callbacks that cannot kill the process, diagnostics at 1 Hz, main.

A node is a Body, built from (ManagedNode, Config). Timers run on the steady clock: a dead /clock stops nobody.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from . import parameters
from .health import ERROR, OK, Finding

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST)
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)  # volatile: a late joiner gets no old command
RECORD = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)  # nothing is left out
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Late joiners learn what has just begun: who discovers whom first never decides whether an episode is played.
EPISODES = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
QOS = {"sensor": SENSOR, "command": COMMAND, "record": RECORD, "latched": LATCHED}

TOO_MANY, WITHIN = 3, 10.0  # exceptions of callbacks, s: then the node deactivates itself


class Body(Protocol):
    """What a node does. Every method runs in the executor's one thread; raising ValueError refuses the transition."""

    def configure(self) -> None: ...

    def activate(self) -> None: ...

    def deactivate(self) -> None: ...

    def cleanup(self) -> None:
        """Back to unconfigured; also before the process ends. Must not raise."""
        ...

    def findings(self) -> list[Finding]:
        """For /diagnostics, once a second in every state."""
        ...


class ManagedNode(LifecycleNode):
    def __init__(self, name: str, config: type, body: Callable[[ManagedNode, Any], Body], **options: Any) -> None:
        super().__init__(name, **options)
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.ended = False  # asked to end
        self.active = False
        self._config, self._build, self.body = config, body, None
        self._errors: deque[float] = deque(maxlen=TOO_MANY)
        self._last_error = ""
        self._publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        parameters.declare(self, config)
        self.every(1.0, self.diagnose)

    # -- what bodies use -----------------------------------------------------------------------------------------------

    def listen(self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile, **more: Any) -> Any:
        return self.create_subscription(kind, topic, self.safe(callback), qos, **more)

    def serve(self, kind: type, name: str, answer: Callable[[Any], str]) -> Any:
        """A Trigger or SetBool service: `answer(request)` gives "" for success or why not."""

        def handle(request: Any, response: Any) -> Any:
            try:
                reason = answer(request)
            except Exception as error:  # the caller must get an answer
                self._failed(error)
                reason = f"{type(error).__name__}: {error}"
            response.success, response.message = not reason, reason
            return response

        return self.create_service(kind, name, handle)

    def every(self, period: float, callback: Callable[[], None]) -> Any:
        """A timer on the steady clock; period in s."""
        return self.create_timer(period, self.safe(callback), clock=self.steady)

    def safe(self, callback: Callable) -> Callable:
        """The callback, whose exceptions are counted and said instead of ending the process."""

        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except Exception as error:
                self._failed(error)

        return guarded

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        def begin() -> None:
            config = parameters.read(self, self._config)
            self.body = self._build(self, config)
            self.body.configure()

        done = self._transition(begin)
        if done != TransitionCallbackReturn.SUCCESS:
            self._drop()
        # rclpy's logger looks for its caller in all modules: 40 to 80 ms for the first line, now and not in a callback
        inspect.getframeinfo(inspect.currentframe())
        return done

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        done = self._transition(self.body.activate)
        self.active = done == TransitionCallbackReturn.SUCCESS
        return super().on_activate(state) if self.active else done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        done = self._transition(self.body.deactivate)
        super().on_deactivate(state)
        return done

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._drop()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.active:
            self.active = False
            self._transition(self.body.deactivate)
        self._drop()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        self._drop()
        return TransitionCallbackReturn.SUCCESS  # unconfigured; the process lives

    def start(self) -> bool:
        """Configure and activate now (`autostart`)."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def finish(self) -> None:
        """Deactivate and clean up, whatever the state."""
        self.ended = True
        if self._state_machine.current_state[1] in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()

    def _transition(self, step: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            step()
        except ValueError as error:  # refused: the state stays
            self._last_error = str(error)
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._failed(error, count=False)
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _drop(self) -> None:
        body, self.body = self.body, None
        if body is not None:
            self.safe(body.cleanup)()

    # -- errors and diagnostics ----------------------------------------------------------------------------------------

    def _failed(self, error: Exception, count: bool = True) -> None:
        self._last_error = f"{type(error).__name__}: {error}"
        self.get_logger().error("".join(traceback.format_exception(error)))
        if not count:
            return
        now = time.monotonic()
        self._errors.append(now)
        if len(self._errors) == TOO_MANY and now - self._errors[0] <= WITHIN and self.active:
            self._errors.clear()
            self.get_logger().error(f"{TOO_MANY} errors within {WITHIN:g} s: deactivating")
            self.trigger_deactivate()

    def diagnose(self) -> None:
        """Also called by a body that has something to say at once."""
        name, state = self.get_name(), self._state_machine.current_state[1]
        found = [Finding(name, ERROR if self._last_error else OK, self._last_error or state, {"state": state})]
        found += self.body.findings() if self.body is not None else []
        message = DiagnosticArray(status=[as_status(finding) for finding in found])
        message.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(message)
        self._last_error = "" if self.active else self._last_error


def as_status(finding: Finding) -> DiagnosticStatus:
    values = [KeyValue(key=key, value=value) for key, value in finding.values.items()]
    level = bytes([finding.level])
    return DiagnosticStatus(
        level=level, name=finding.name, message=finding.message, hardware_id="robot_value", values=values
    )


def run(name: str, config: type, body: Callable[[ManagedNode, Any], Body], argv: Sequence[str] | None = None) -> None:
    """A node's main: parameter `autostart` (default true) configures and activates; Ctrl-C and SIGTERM end cleanly.

    Exits with 1 where an autostarted node refuses its configuration, so that a launch notices.
    """
    rclpy.init(args=argv, signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = ManagedNode(name, config, body)
    autostart = node.declare_parameter("autostart", True).value
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _end(node))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    code = 0 if not autostart or node.start() else 1
    while not code and not node.ended and rclpy.ok():
        executor.spin_once(timeout_sec=0.1)
    node.finish()
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything was ended in order; the interpreter's own end takes seconds with torch loaded


def _end(node: ManagedNode) -> None:
    """The second signal does not wait for an orderly end."""
    if node.ended:
        os._exit(130)
    node.ended = True
