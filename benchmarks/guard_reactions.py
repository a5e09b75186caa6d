"""How fast the guard's process reacts: its sources are killed, its emergency stop pressed, its processor taken away.

Reactions are the guard's own times of publication (About.start of `executed`), CLOCK_MONOTONIC like those of the
sources, so that this observer may be slow.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import guard_source
from guard_source import JOINTS, NAMES
from ros_graph import Graph, until
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_value import wire
from robot_value.ros_nodes.managed import LATCHED, RECORD
from robot_value.topics import load

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
        self.judged = 0  # commands that have passed the limit checker
        self.processes = _ready(graph.variables)
        self.sources: dict[str, tuple[BaseProcess, np.ndarray]] = {}
        for role in ("arm", "policy"):
            self.renew(role)

    def renew(self, role: str) -> None:
        self.count += 1
        file = self.folder / f"{role}_{self.count}"
        file.write_bytes(bytes(16))
        process = self.processes.Process(target=guard_source.main, args=(role, str(file), self.schema), daemon=True)
        process.start()
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
            process.kill()
            process.join()
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
        until(lambda: len(self.commands) > before, 5, "a command after the reset")
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

    def checked(self) -> dict[str, Any]:
        """What the limit checker says of the commands since it was asked last."""
        first, self.judged = self.judged, min(len(self.abouts), len(self.commands))
        return judge_run(self.abouts[first : self.judged], self.commands[first : self.judged])

    def processor(self) -> float:
        """s of processor time of the guard's process."""
        fields = Path(f"/proc/{self.guard.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def call(self, kind: type, name: str, request: Any = None) -> bool:
        answer = self.graph.call(kind, f"guard/{name}", request)
        return bool(answer and answer.success)

    def close(self) -> None:
        for process, _ in self.sources.values():
            process.kill()
            process.join()

    def _first_stop(self, since: int) -> int:
        def stops() -> list[int]:
            return [a.start for a in self.abouts[-200:] if a.source == wire.STOP and a.start > since]

        until(stops, 10, "a stop")
        return stops()[0]

    def _keep(self, message: JointTrajectory) -> None:
        self.abouts.append(wire.parse_header(message.header.frame_id))
        self.commands.append(tuple(message.points[0].positions))


def measure(
    trials: int, seconds: float, saturated: bool, seed: int, known: dict[str, Any], keep: Callable[[dict], None]
) -> dict[str, Any]:
    """All figures of one load, each part kept when it is done; parts that `known` has are not measured again.

    Every command of the run also passes the limit checker, stops included.
    """
    found = {"load": "both cores saturated" if saturated else "idle", **known}
    with tempfile.TemporaryDirectory() as folder, Graph(Path(folder)) as graph:
        bench = Bench(Path(folder), graph)
        bench.running()
        with burners(2 if saturated else 0):
            for number, (name, part) in enumerate(PARTS.items()):
                if name not in found:
                    found |= {name: None, **part(bench, trials, seconds, np.random.default_rng([seed, number]))}
                    found["commands"] = _both(found.get("commands"), bench.checked())
                    found["stops_without_a_cause"] = found.get("stops_without_a_cause", 0) + bench.stops_before
                    bench.stops_before = 0
                    keep(found)
        bench.close()
    return found


def _interval(bench: Bench, trials: int, seconds: float, rng: np.random.Generator) -> dict[str, Any]:
    used, began = bench.processor(), time.monotonic()
    intervals = bench.intervals(seconds)
    share = (bench.processor() - used) / (time.monotonic() - began)
    late = float(np.mean(intervals > 2 * T))
    return {"interval": spread(intervals) | {"over_two_periods": late}, "processor_share": share}


def _killed(bench: Bench, name: str, role: str, trials: int, rng: np.random.Generator) -> dict[str, Any]:
    return {name: spread([bench.killed(role, rng) for _ in tqdm(range(trials), name)])}


def _pressed(bench: Bench, trials: int, seconds: float, rng: np.random.Generator) -> dict[str, Any]:
    pressed = (bench.pressed(rng) for _ in tqdm(range(trials), "emergency_stop"))
    stops, restarts, steps = zip(*pressed, strict=True)
    found = {"emergency_stop": spread(stops), "reset_to_running": spread(restarts)}
    return found | {"first_command_after_reset_rad": max(steps)}


PARTS = {
    "interval": _interval,
    "state_source_killed": lambda bench, n, _, rng: _killed(bench, "state_source_killed", "arm", n, rng),
    "plan_source_killed": lambda bench, n, _, rng: _killed(bench, "plan_source_killed", "policy", n, rng),
    "emergency_stop": _pressed,
}


def _both(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """What the limit checker said of two parts of a run."""
    if before is None:
        return now
    worst = max(before["worst_of_limit"], now["worst_of_limit"])
    return {key: before[key] + now[key] for key in ("n", "violations", "pieces")} | {"worst_of_limit": worst}


def _ready(variables: Mapping[str, str]) -> multiprocessing.context.ForkServerContext:
    """Sources are forked from a process that has imported rclpy: a trial does not wait for imports."""
    os.environ.update(variables)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["guard_source"])
    return context


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
