"""How fast the guard's process reacts: its sources are killed, its emergency stop pressed, its processor taken away.

Reactions are the guard's own times of publication (About.start of `executed`), CLOCK_MONOTONIC like those of the
sources, so that this observer may be slow.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from guard_source import JOINTS, NAMES
from ros_graph import Graph, Process, until
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_value import wire
from robot_value.ros_nodes.managed import LATCHED, RECORD
from robot_value.topics import load

SOURCE = Path(__file__).with_name("guard_source.py")
T = 0.02  # s
TOPICS = {
    "rate": 50,
    "max_skew": 0.05,
    "state": [{"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "max_age": 0.05}],
    "action": [{"name": "arm", "topic": "/arm/joint_trajectory", "type": "trajectory_msgs/msg/JointTrajectory"}],
    "cameras": [],
}
TOPICS["state"][0] |= {"joints": NAMES, "unit": "rad"}
TOPICS["action"][0] |= {"joints": NAMES, "unit": "rad", "kind": "joint", "low": -2.0, "high": 2.0, "max_age": 0.2}
LIMITS = {"velocity": [2.0], "acceleration": [10.0], "jerk": [500.0]}


@contextmanager
def burners(count: int, nice: int = 10) -> Any:
    """Processes that never rest."""
    command = ["nice", "-n", str(nice), sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


class Bench:
    def __init__(self, folder: Path, graph: Graph) -> None:
        self.folder, self.graph, self.count = folder, graph, 0
        topics = folder / "topics.yaml"
        topics.write_text(json.dumps(TOPICS))  # JSON is YAML
        self.schema = wire.schema(load(topics).spec)
        self.abouts: list[wire.About] = []
        self.commands: list[tuple[float, ...]] = []
        graph.listen(JointTrajectory, "executed", RECORD, self._keep)
        self.states = graph.listen(String, "guard_state", LATCHED)
        self.estop = graph.publisher(Bool, "/estop", 10)
        config = {"topics": str(topics), "estop_topic": "/estop", "enabled": True, **LIMITS}
        self.guard = graph.start("guard_node", config)
        graph.wait_state(self.guard, "active")
        graph.wait_for_subscriber(self.estop)
        self.stops_before = 0  # trials that were made again, for the arm had stopped before the kill
        self.sources: dict[str, tuple[Process, np.ndarray]] = {}
        self.spare: dict[str, tuple[Process, np.ndarray]] = {}
        for role in ("arm", "policy"):
            self.renew(role)

    def renew(self, role: str) -> None:
        self.count += 1
        file = self.folder / f"{role}_{self.count}"
        file.write_bytes(bytes(16))
        process = self.graph.start(str(SOURCE), name=f"{role}{self.count}", arguments=[role, str(file), self.schema])
        self.sources[role] = (process, np.memmap(file, np.int64, "r", shape=(2,)))

    def running(self) -> None:
        """Until both sources have spoken and the policy has been followed for a while, without a stop in between."""

        def followed() -> bool:
            since = time.monotonic_ns() - 300_000_000
            sources = {a.source for a in self.abouts[-50:] if a.start > since}
            return sources == {wire.POLICY} and all(said[0] > 0 for _, said in self.sources.values())

        until(followed, 60, "a policy that is followed")

    def killed(self, role: str, rng: np.random.Generator) -> float:
        """s, from the last valid input (a plan is valid until its end) to the first command of the stop."""
        while True:
            self.running()
            time.sleep(rng.uniform(0, 0.1))
            process, said = self.sources[role]
            at = time.monotonic_ns()
            stopped = any(a.source == wire.STOP and a.start > at - 200_000_000 for a in self.abouts[-50:])
            process.popen.kill()
            process.popen.wait()
            stop = self._first_stop(int(said[0]))
            self.renew(role)
            if stopped or stop < at:  # it stopped for another reason: this says nothing of the kill
                self.stops_before += 1
                continue
            return (stop - int(said[1])) * 1e-9

    def pressed(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """s from the emergency stop to the stop; from the reset to running; rad from the arm to the next command."""
        self.running()
        time.sleep(rng.uniform(0, 0.1))
        at = time.monotonic_ns()
        self.estop.publish(Bool(data=True))
        stop = self._first_stop(at)
        self.states.wait(lambda m: json.loads(m.data)["state"] == "FAULT", at)
        self.estop.publish(Bool(data=False))
        until(lambda: self.call(Trigger, "reset"), 10, "a reset")
        reset, before = time.monotonic_ns(), len(self.commands)
        time.sleep(0.05)
        step = np.abs(np.array(self.commands[before]) - self.commands[before - 1]).max()  # the arm is where it was told
        self.call(SetBool, "enable", SetBool.Request(data=True))
        until(lambda: any(a.source == wire.POLICY and a.start > reset for a in self.abouts[-5:]), 30, "RUN")
        again = next(a.start for a in self.abouts if a.source == wire.POLICY and a.start > reset)
        return (stop - at) * 1e-9, (again - reset) * 1e-9, float(step)

    def intervals(self, seconds: float) -> np.ndarray:
        """s, between commands, undisturbed."""
        self.running()
        before = len(self.abouts)
        time.sleep(seconds)
        return np.diff([about.start for about in self.abouts[before:]]) * 1e-9

    def processor(self) -> float:
        """s of processor time of the guard's process."""
        fields = Path(f"/proc/{self.guard.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def call(self, kind: type, name: str, request: Any = None) -> bool:
        answer = self.graph.call(kind, f"guard/{name}", request)
        return bool(answer and answer.success)

    def _first_stop(self, since: int) -> int:
        def stops() -> list[int]:
            return [a.start for a in self.abouts[-200:] if a.source == wire.STOP and a.start > since]

        until(stops, 10, "a stop")
        return stops()[0]

    def _keep(self, message: JointTrajectory) -> None:
        self.abouts.append(wire.parse_header(message.header.frame_id))
        self.commands.append(tuple(message.points[0].positions))


def measure(trials: int, seconds: float, saturated: bool, seed: int = 0) -> dict[str, Any]:
    """All figures of one load. Every command of the run also passes the limit checker, stops included."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, Graph(Path(folder)) as graph:
        bench = Bench(Path(folder), graph)
        bench.running()
        with burners(2 if saturated else 0):
            used, began = bench.processor(), time.monotonic()
            intervals = bench.intervals(seconds)
            share = (bench.processor() - used) / (time.monotonic() - began)
            states = [bench.killed("arm", rng) for _ in range(trials)]
            plans = [bench.killed("policy", rng) for _ in range(trials)]
            stops, restarts, steps = zip(*(bench.pressed(rng) for _ in range(trials)), strict=True)
        checked = judge_run(bench.abouts, bench.commands)
    return {
        "load": "both cores saturated" if saturated else "idle",
        "state_source_killed": spread(states),
        "plan_source_killed": spread(plans),
        "emergency_stop": spread(stops),
        "reset_to_running": spread(restarts),
        "first_command_after_reset_rad": max(steps),
        "stops_without_a_cause": bench.stops_before,
        "interval": spread(intervals) | {"over_two_periods": float(np.mean(intervals > 2 * T))},
        "processor_share": share,
        "commands": checked,
    }


def judge_run(abouts: Sequence[wire.About], commands: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    """Of the sequence of commands, one period apart, cut where the guard began anew."""
    cuts = np.flatnonzero(np.diff([about.seq for about in abouts]) != 1) + 1
    worst, violations = 0.0, 0
    for piece in np.split(np.array(commands).reshape(-1, JOINTS), cuts):
        rows = np.vstack([piece[:1]] * 3 + [piece])
        for most in (LIMITS["velocity"][0], LIMITS["acceleration"][0], LIMITS["jerk"][0]):
            rows = np.diff(rows, axis=0) / T
            used = np.abs(rows).max(1) / most
            worst, violations = max(worst, float(used.max())), violations + int((used > 1 + 1e-6).sum())
    return {"n": len(commands), "violations": violations, "worst_of_limit": worst, "pieces": len(cuts) + 1}


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    p50, p99, most = (np.percentile(seconds, [50, 99, 100]) * 1e3).round(2).tolist()
    return {"n": len(seconds), "p50_ms": p50, "p99_ms": p99, "max_ms": most}
