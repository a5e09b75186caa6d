"""F26: any callback of a node raises whenever it is called. The policy is a script, the arm in motion."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from faults_case import Graph, expect
from faults_common import RUNNING, ns
from faults_rig import BROKEN, UNSAFE, Rig
from ros_graph import until

from robot_value import wire


def callback_fails(rig: Rig, rng: np.random.Generator) -> None:
    """Any callback of the guard raises whenever it is called: said, three times deactivate it, the process lives."""
    from std_msgs.msg import Bool
    from std_srvs.srv import SetBool, Trigger

    rig.guard.end(signal.SIGKILL)
    rig.renew_guard(broken=("raise", str(int(rng.integers(12)))))
    until(lambda: rig.graph.state("guard") in ("active", "inactive"), 30.0, lambda: f"a guard, got {rig.guard.said}")
    rig.scripted.start()
    rig.human.start()
    end = time.monotonic() + 8.0
    while time.monotonic() < end and rig.guard.popen.poll() is None and "deactivating" not in rig.guard.said:
        rig.estop.publish(Bool(data=False))
        rig.intervention.publish(Bool(data=False))
        for service in ("enable", "estop", "reset"):
            rig.graph.call(SetBool if service == "enable" else Trigger, f"guard/{service}", timeout=0.3)
    rig.human.stop()
    said = rig.guard.said
    expect(rig.guard.popen.poll() is None, f"the process ended: {said[-600:]}")
    expect("Ordered" in said, f"the callback was never called: {said[:200]}")
    if said.count("Ordered: ordered") >= 3:
        expect(rig.graph.state("guard") == "inactive", "three errors, and still active")
        late = ns()
        time.sleep(0.2)
        expect(not rig.by(wire.POLICY, late), "moves on")
    rig.guard.end(signal.SIGKILL)
    rig.renew_guard()
    rig.graph.wait_state(rig.guard, timeout=30.0)


def others_callback_fails(
    name: str, callbacks: int, services: Sequence[str], parameters: Callable[[Rig], dict[str, Any]]
) -> Callable[[Rig, np.random.Generator], None]:
    """The same of a node beside the guard, which goes on: the trial."""

    def trial(rig: Rig, rng: np.random.Generator) -> None:
        from sensor_msgs.msg import Joy
        from std_msgs.msg import Bool, Float32
        from std_srvs.srv import Trigger

        words = [name, "raise", str(int(rng.integers(callbacks))), *(["unsafe"] if rig.unprotected == UNSAFE else [])]
        given = {"topics": str(rig.topics_path), **parameters(rig)}
        said = {"/joy": Joy(axes=[0.0] * 8, buttons=[0] * 11), "/reward": Float32(), "/success": Bool()}
        publishers = {topic: rig.graph.publisher(type(message), topic) for topic, message in said.items()}
        node = rig.graph.start(BROKEN, given, name=name, arguments=words)
        rig.human.start()
        try:
            end = time.monotonic() + 40.0
            while time.monotonic() < end and node.popen.poll() is None and "deactivating" not in node.said:
                rig.intervention.publish(Bool(data=False))
                for topic, message in said.items():
                    publishers[topic].publish(message)
                for service in services:
                    rig.graph.call(Trigger, f"{name}/{service}", timeout=0.3)
                if node.said.count("Ordered: ordered") and time.monotonic() < end - 8.0:
                    end = time.monotonic() + 8.0
            expect(node.popen.poll() is None, f"the process ended: {node.said[-600:]}")
            expect("Ordered" in node.said, f"the callback was never called: {node.said[:200]}")
            if node.said.count("Ordered: ordered") >= 3:
                until(lambda: rig.graph.state(name) == "inactive", 5.0, "three errors to deactivate it")
            since = ns()
            time.sleep(0.2)
            expect([c for c in rig.commands if c.ns > since], f"the guard went silent: {rig.guard.said[-600:]}")
        finally:
            rig.human.stop()
            node.end(signal.SIGKILL)
            for publisher in publishers.values():
                rig.graph.withdraw(publisher)

    return trial


RECORDER = others_callback_fails(
    "recorder",
    13,
    ("start", "stop", "success", "failure", "discard"),
    lambda rig: {"store": str(rig.folder / f"store_{ns()}"), "steered": False, "source": "policy"},
)
TELEOP = others_callback_fails("teleop", 6, ("take", "give_back"), lambda rig: {"source": "joystick"})

CASES = (
    Graph("F26", "guard", "a callback raises whenever it is called", "active", "said; three deactivate it",
          callback_fails, "exceptions are not caught", UNSAFE),
    Graph("F26", "recorder", "a callback of the recorder raises whenever it is called", RUNNING,
          "said; three deactivate it", RECORDER, "exceptions are not caught", UNSAFE),
    Graph("F26", "teleop", "a callback of teleop raises whenever it is called", RUNNING, "said; three deactivate it",
          TELEOP, "exceptions are not caught", UNSAFE),
)  # fmt: skip
