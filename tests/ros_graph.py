"""A ROS graph for tests: real node processes in a domain of their own, and a probe inside the test's process.

    with Graph(tmp_path) as graph:
        states = graph.listen(String, "guard_state", LATCHED)
        guard = graph.start("guard_node", {"rate": 50.0})
        graph.wait_state(guard, "active")
        states.wait(lambda message: "HOLD" in message.data)

Relative names lie under NAMESPACE. Every process is ended with the graph, also after a failure. Times are ns of
CLOCK_MONOTONIC, as in all messages between the nodes.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "/robot_value"
PATIENCE = 20.0  # s, for what takes a second where nothing else runs
UNMATCHED = 0.1  # s: one side knows of a match before the other does


@dataclass
class Process:
    """A started node; its output is in `log`."""

    name: str  # node name without namespace
    popen: subprocess.Popen
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def end(self, number: int = signal.SIGINT, timeout: float = 10.0) -> int:
        """The exit code; SIGKILL where the signal was not enough."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.send_signal(number)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


@dataclass
class Heard:
    """What came on one topic: (ns received, message), oldest first."""

    subscription: Any = None
    messages: list[tuple[int, Any]] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def put(self, message: Any) -> None:
        with self._news:
            self.messages.append((time.monotonic_ns(), message))
            self._news.notify_all()

    def since(self, start: int) -> list[tuple[int, Any]]:
        """Received at `start` (ns) or later."""
        return [item for item in list(self.messages) if item[0] >= start]

    def wait(
        self, wanted: Callable[[Any], bool] = lambda message: True, since: int = 0, timeout: float = PATIENCE
    ) -> tuple[int, Any]:
        """The first message received since `since` that is wanted; AssertionError after `timeout` s."""
        end, at = time.monotonic() + timeout, 0
        with self._news:
            while True:
                for received in self.messages[at:]:
                    at += 1
                    if received[0] >= since and wanted(received[1]):
                        return received
                left = end - time.monotonic()
                if left <= 0:
                    last = str(self.messages[-1][1])[:400] if self.messages else "nothing"
                    raise AssertionError(f"not heard within {timeout} s; the last of {at} messages: {last}")
                self._news.wait(left)

    def wait_for_publisher(self, timeout: float = PATIENCE) -> Heard:
        until(lambda: self.subscription.get_publisher_count() > 0, timeout, "a publisher")
        time.sleep(UNMATCHED)
        return self


class Graph:
    def __init__(self, folder: Path, domain: int | None = None) -> None:
        self.folder = Path(folder)
        self.domain, self._claim = claim_domain() if domain is None else (domain, None)
        self.variables = variables(self.domain)
        self.processes: list[Process] = []
        self._clients: dict[str, Any] = {}

    def __enter__(self) -> Graph:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"  # of the probe, in this process
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, domain_id=self.domain)
        self.probe = rclpy.create_node("probe", namespace=NAMESPACE, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.probe)
        self._running = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem: Any) -> None:
        for process in self.processes:
            process.popen.send_signal(signal.SIGCONT)
            process.popen.terminate()
        for process in self.processes:
            process.end(signal.SIGTERM, timeout=5.0)
            if problem[0] is not None:
                print(f"--- {process.name} ({process.popen.returncode})\n{process.said[-4000:]}")
        self._running = False
        self._executor.wake()
        self._thread.join()
        self.probe.destroy_node()
        self.context.try_shutdown()
        self.context.destroy()
        sweep_shared_memory(self.domain)
        if self._claim is not None:
            self._claim.close()

    # -- processes -----------------------------------------------------------------------------------------------------

    def start(
        self,
        module: str,  # "guard_node" of robot_value.ros_nodes, or the path of a script
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
        remap: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),  # before --ros-args
    ) -> Process:
        name = name or Path(module).stem.removesuffix("_node")
        number = len(self.processes)
        file, log = self.folder / f"{number}_{name}.yaml", self.folder / f"{number}_{name}.log"
        file.write_text(json.dumps({"/**": {"ros__parameters": dict(parameters or {})}}))  # JSON is YAML
        program = [module] if module.endswith(".py") else ["-m", f"robot_value.ros_nodes.{module}"]
        command = [sys.executable, *program, *arguments, "--ros-args", "-r", f"__ns:={NAMESPACE}"]
        command += ["-r", f"__node:={name}", "--params-file", str(file)] if parameters else ["-r", f"__node:={name}"]
        for old, new in (remap or {}).items():
            command += ["-r", f"{old}:={new}"]
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command, cwd=ROOT, env={**self.variables, **(variables or {})}, stdout=output, stderr=output
            )
        self.processes.append(Process(name, popen, log))
        return self.processes[-1]

    def wait_state(self, process: Process, wanted: str = "active", timeout: float = PATIENCE) -> None:
        """Until the node's lifecycle state is `wanted`; fails at once where the process has ended."""
        end = time.monotonic() + timeout
        state = "nothing"
        while state != wanted:
            assert process.popen.poll() is None, f"{process.name} ended ({process.popen.returncode}): {process.said}"
            assert time.monotonic() < end, f"{process.name}: expected {wanted}, got {state}: {process.said[-2000:]}"
            state = self.state(process.name)
            if state != wanted:
                time.sleep(0.02)

    def state(self, name: str) -> str:
        """Lifecycle state of a node; "nothing" where it does not answer."""
        from lifecycle_msgs.srv import GetState

        answer = self.call(GetState, f"{name}/get_state", GetState.Request(), timeout=2.0)
        return answer.current_state.label if answer else "nothing"

    def change(self, name: str, transition: str, timeout: float = PATIENCE) -> bool:
        """configure, activate, deactivate, cleanup or shutdown; whether it succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        numbers = {
            "configure": Transition.TRANSITION_CONFIGURE,
            "activate": Transition.TRANSITION_ACTIVATE,
            "deactivate": Transition.TRANSITION_DEACTIVATE,
            "cleanup": Transition.TRANSITION_CLEANUP,
        }
        states = {
            "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
            "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
            "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
        }
        number = numbers[transition] if transition in numbers else states.get(self.state(name), 7)
        request = ChangeState.Request(transition=Transition(id=number))
        answer = self.call(ChangeState, f"{name}/change_state", request, timeout)
        return bool(answer and answer.success)

    # -- the probe -----------------------------------------------------------------------------------------------------

    def listen(self, kind: type, topic: str, qos: Any = 10, answer: Callable[[Any], None] | None = None) -> Heard:
        """Everything on a topic; `answer(message)` is called in the probe's thread."""
        heard = Heard()

        def put(message: Any) -> None:
            heard.put(message)
            if answer is not None:
                answer(message)

        heard.subscription = self.probe.create_subscription(kind, topic, put, qos)
        return heard

    def publisher(self, kind: type, topic: str, qos: Any = 10) -> Any:
        return self.probe.create_publisher(kind, topic, qos)

    def withdraw(self, publisher: Any) -> None:
        """Destroys it between two waits of the probe's thread, which would end otherwise (InvalidHandle)."""
        task = self._executor.create_task(self.probe.destroy_publisher, publisher)
        until(task.done, PATIENCE, "the probe's thread to destroy a publisher")

    def wait_for_subscriber(self, publisher: Any, count: int = 1, timeout: float = PATIENCE) -> None:
        until(lambda: publisher.get_subscription_count() >= count, timeout, f"{count} subscribers of {publisher.topic}")
        time.sleep(UNMATCHED)

    def call(self, kind: type, name: str, request: Any = None, timeout: float = PATIENCE) -> Any:
        """The answer of a service; None where there is none within `timeout` s."""
        if name not in self._clients:
            self._clients[name] = self.probe.create_client(kind, name)
        client, end, done = self._clients[name], time.monotonic() + timeout, threading.Event()
        if not client.wait_for_service(timeout_sec=timeout):
            return None
        future = client.call_async(kind.Request() if request is None else request)
        future.add_done_callback(lambda _: done.set())
        return future.result() if done.wait(max(0.0, end - time.monotonic())) else None

    def _spin(self) -> None:
        while self._running and self.context.ok():
            self._executor.spin_once(timeout_sec=0.1)


def until(true: Callable[[], bool], timeout: float, what: str | Callable[[], str]) -> None:
    """`what` is expected; as a function it is called when it has not come."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"expected {what if isinstance(what, str) else what()} within {timeout} s"
        time.sleep(0.005)


def variables(domain: int) -> dict[str, str]:
    """The environment of a node's process."""
    ours = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **ours, "PYTHONUNBUFFERED": "1"}


def claim_domain() -> tuple[int, Any]:
    """A domain id that no other test process of this machine uses, and the lock that keeps it."""
    for offset in range(101):
        domain = 1 + (os.getpid() + offset) % 101
        lock = (Path(tempfile.gettempdir()) / f"robot_value_ros_domain_{domain}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return domain, lock
        except OSError:
            lock.close()
    raise RuntimeError("expected a free ROS domain, got 101 that are in use")


def sweep_shared_memory(domain: int) -> None:
    """Remove what killed participants left: the domain's ports, and segments whose owner's lock is free."""
    shared, first = Path("/dev/shm"), 7400 + 250 * domain
    for port in range(first, first + 250):
        for name in (f"fastdds_port{port}", f"fastdds_port{port}_el", f"sem.fastdds_port{port}_mutex"):
            (shared / name).unlink(missing_ok=True)
    for lock in shared.glob("fastdds_*_el"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Fast DDS holds it while the owner lives
            lock.unlink()
            lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
        except OSError:
            continue  # somebody lives, or somebody else was faster
