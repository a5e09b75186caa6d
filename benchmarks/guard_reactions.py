"""How fast the guard's process reacts: its sources are killed, its emergency stop pressed, its processor taken away.

Reactions are the guard's own times of publication (About.start of `executed`), CLOCK_MONOTONIC like those of the
sources, so that this observer may be slow.
"""

from __future__ import annotations

import itertools
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
from bare_sleepers import BareSleepers
from guard_source import JOINTS, NAMES, READY, SAID, TURN, UNTIL
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
SPARES = 10  # sources that are made at once and wait for their turn
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


Source = tuple[BaseProcess, np.ndarray]  # and the int64[4] of guard_source


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
        self.processes = _ready(graph.variables)
        self.sleepers = BareSleepers(folder, self.processes, T)
        self.sources: dict[str, Source] = {}
        self.spares: dict[str, list[Source]] = {"arm": [], "policy": []}
        for role in self.spares:
            self.renew(role)

    def renew(self, role: str) -> None:
        """The next source takes over. Where there is none, several are made: nothing is discovered during a trial."""
        if not self.spares[role]:
            self.spares[role] = self._discovered([self._source(role) for _ in range(SPARES)])
        self.sources[role] = self.spares[role].pop()
        self.sources[role][1][TURN] = 1

    def _discovered(self, made: list[Source]) -> list[Source]:
        """Those that found their peers within 10 s; now and then one of hundreds never does."""
        end = time.monotonic() + 10
        while not all(said[READY] for _, said in made) and time.monotonic() < end:
            time.sleep(0.01)
        for process, said in made:
            if not said[READY]:
                process.kill()
        ready = [source for source in made if source[1][READY]]
        if not ready:
            raise RuntimeError(f"expected sources that find the guard, got none of {len(made)} within 10 s")
        return ready

    def _source(self, role: str) -> Source:
        self.count += 1
        file = self.folder / f"{role}_{self.count}"
        file.write_bytes(bytes(32))
        process = self.processes.Process(target=guard_source.main, args=(role, str(file), self.schema), daemon=True)
        process.start()
        return process, np.memmap(file, np.int64, "r+", shape=(4,))

    def running(self) -> None:
        """Until both sources have spoken and the policy has been followed for a while, without a stop in between."""

        def followed() -> bool:
            since = time.monotonic_ns() - 300_000_000
            sources = {a.source for a in self.abouts[-50:] if a.start > since}
            return sources == {wire.POLICY} and all(said[SAID] > 0 for _, said in self.sources.values())

        until(followed, 60, "a policy that is followed")

    def killed(self, role: str, rng: np.random.Generator) -> tuple[int, int]:
        """ns: the last valid input (a plan is valid until its end), the first command of the stop."""
        while True:
            self.running()
            time.sleep(rng.uniform(0, 0.1))
            process, said = self.sources[role]
            at = time.monotonic_ns()
            stopped = any(a.source == wire.STOP and a.start > at - 200_000_000 for a in self.abouts[-50:])
            process.kill()
            stop = self._first_stop(int(said[SAID]))
            process.join()  # now and then seconds, where all cores are taken
            self.renew(role)
            if stopped or stop < at:  # it stopped for another reason: this says nothing of the kill
                self.stops_before += 1
                continue
            return int(said[UNTIL]), stop

    def pressed(self, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int], float]:
        """ns: emergency stop and stop; reset and running again. rad from the arm to the first command after it."""
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
        return (at, stop), (reset, again), float(step)

    def intervals(self, seconds: float) -> np.ndarray:
        """int64[N, 2] ns, of consecutive commands, undisturbed."""
        self.running()
        before = len(self.abouts)
        time.sleep(seconds)
        starts = [about.start for about in self.abouts[before:]]
        return np.stack([starts[:-1], starts[1:]], 1)

    def checked(self) -> dict[str, Any]:
        """What the limit checker says of all commands so far."""
        known = min(len(self.abouts), len(self.commands))
        return judge_run(self.abouts[:known], self.commands[:known])

    def processor(self) -> float:
        """s of processor time of the guard's process."""
        fields = Path(f"/proc/{self.guard.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def call(self, kind: type, name: str, request: Any = None) -> bool:
        answer = self.graph.call(kind, f"guard/{name}", request)
        return bool(answer and answer.success)

    def close(self) -> None:
        self.sleepers.close()
        for process, _ in itertools.chain(self.sources.values(), *self.spares.values()):
            process.kill()
            process.join()

    def _first_stop(self, since: int) -> int:
        def stops() -> list[int]:
            later = itertools.takewhile(lambda about: about.start > since, reversed(self.abouts))
            return [about.start for about in later if about.source == wire.STOP][::-1]

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
                    found["commands"] = _both(known.get("commands"), bench.checked())
                    found["stops_without_a_cause"] = found.get("stops_without_a_cause", 0) + bench.stops_before
                    bench.stops_before = 0
                    keep(found)
        bench.close()
    return found


def _interval(bench: Bench, trials: int, seconds: float, rng: np.random.Generator) -> dict[str, Any]:
    used, began = bench.processor(), time.monotonic()
    spans = bench.intervals(seconds)
    share = (bench.processor() - used) / (time.monotonic() - began)
    return {"interval": summary(bench, spans, 2 * T), "processor_share": share}


def _killed(bench: Bench, name: str, role: str, trials: int, rng: np.random.Generator) -> dict[str, Any]:
    return {name: summary(bench, [bench.killed(role, rng) for _ in tqdm(range(trials), name)], 0.1)}


def _pressed(bench: Bench, trials: int, seconds: float, rng: np.random.Generator) -> dict[str, Any]:
    pressed = (bench.pressed(rng) for _ in tqdm(range(trials), "emergency_stop"))
    stops, restarts, steps = zip(*pressed, strict=True)
    found = {"emergency_stop": summary(bench, stops, 0.06), "reset_to_running": summary(bench, restarts, 5.0)}
    return found | {"first_command_after_reset_rad": max(steps)}


PARTS = {
    "interval": _interval,
    "state_source_killed": lambda bench, n, _, rng: _killed(bench, "state_source_killed", "arm", n, rng),
    "plan_source_killed": lambda bench, n, _, rng: _killed(bench, "plan_source_killed", "policy", n, rng),
    "emergency_stop": _pressed,
}


def _both(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """What the limit checker said of two runs."""
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


def summary(bench: Bench, spans: Sequence[tuple[int, int]], bound: float) -> dict[str, Any]:
    """Of spans of time (begin, end; ns): all of them, those at which the machine did not stand still, and the machine.

    `bound` in s: the share beyond it is given.
    """
    spans = np.array(spans)
    seconds, still = np.diff(spans, axis=1)[:, 0] * 1e-9, bench.sleepers.stood_still(spans)
    alone = bench.sleepers.intervals(spans.min(), spans.max())
    running = spread(seconds[~still], bound) if not still.all() else None
    found = {"bound_ms": bound * 1e3, **spread(seconds, bound), "machine_stood_still": int(still.sum())}
    return found | {"otherwise": running, "bare_sleeper": spread(alone, 2 * T)}


def spread(seconds: np.ndarray, bound: float) -> dict[str, Any]:
    p50, p99, most = (np.percentile(seconds, [50, 99, 100]) * 1e3).round(2).tolist()
    beyond = float(np.mean(seconds > bound))
    return {"n": len(seconds), "p50_ms": p50, "p99_ms": p99, "max_ms": most, "beyond": beyond}
