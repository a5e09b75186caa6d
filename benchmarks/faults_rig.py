"""The nodes a fault is tried on, between proxies, with a judge that has seen every command.

    arm ──/real/joint_states──► proxy ──/joint_states──► guard ──► controller topics ──► arm (and its log)
    scripted policy, or steering ──plan_made──► proxy ──plan──► guard ──executed──► judge

Kinds: "guard" (the policy is a script in the harness), "wall clock" (the same, with a clock that can be set),
"sim time" (the same, with use_sim_time).
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from bare_sleepers import BareSleepers
from faults_case import Disturbed, NotSurvived, expect
from faults_oracle import Bounds, strangers, violations
from faults_proxy import Proxy, passed
from faults_scripted import Scripted
from faults_wall_clock import WallClock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from ros_graph import NAMESPACE, Graph, Process, until

from robot_value import components, wire
from robot_value import topics as topics_file
from robot_value.deploy import topics_writer

T = 0.02  # s, period of the guard
SECOND = 1_000_000_000  # ns
STALE = 50_000_000  # ns, age of a state from which on it is stale
ARM = 7  # joints that are limited in more than position
LIMITS = {"velocity": [2.0], "acceleration": [8.0], "jerk": [300.0]}  # rad/s, rad/s^2, rad/s^3 of every joint
CONTROLLER = "/joint_trajectory_controller/joint_trajectory"
UNSAFE = "guard unsafe"  # control of faults_broken.py
BROKEN = str(Path(__file__).with_name("faults_broken.py"))
UNPROTECTED = str(Path(__file__).with_name("faults_unprotected.py"))
SHARED_MEMORY = str(Path(__file__).with_name("faults_shared_memory.py"))


@dataclass(frozen=True)
class Command:
    """What the guard published."""

    ns: int  # published
    seq: int
    source: str  # policy, human or stop
    position: np.ndarray  # float64[A]


@cache
def sleepers() -> BareSleepers:
    """Of all rigs of this process, with which they end: starting them takes seconds of both cores."""
    folder = TemporaryDirectory(prefix="sleepers_")
    found = BareSleepers(Path(folder.name), multiprocessing.get_context("forkserver"), T)
    atexit.register(folder.cleanup)
    return found


class Rig:
    cameras: tuple[str, ...] = ()
    reanchor = False  # whether a scene reset is expected

    def __init__(self, folder: Path, kind: str = "guard", unprotected: str | Mapping[str, Any] = "") -> None:
        self.folder, self.kind, self.unprotected = Path(folder), kind, unprotected
        self.topics_path, self.topics = self._topics()
        self.bounds = _bounds(self.topics.spec)
        self.commands: list[Command] = []  # of the guard that runs now
        self.lives: list[list[Command]] = []  # of those before
        self.state, self.said = "nothing", {}  # of the guard
        self.diagnostics: list[tuple[int, Any]] = []
        self.broken: tuple[str, ...] = ()
        self.shared_memory = ""  # of the guard: what is wrong with its /dev/shm, see faults_shared_memory.py
        self.killed = 0  # guards that were killed
        self.intruded = 0  # ns, when a stranger last commanded
        self.wall_clock = WallClock(self.folder) if kind == "wall clock" else None
        self.sleepers = sleepers()
        self.graph = Graph(self.folder).__enter__()
        try:
            self._connect()
            self.arm, self.guard = self.start_arm(), self.start_guard()
            self.start_others()
            for process in (self.arm, self.guard):
                self.graph.wait_state(process)
        except BaseException:
            self.close()
            raise

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def start_arm(self, **variables: str) -> Process:
        self.log = self.folder / "arm.jsonl"
        parameters = {"topics": str(self.topics_path), "model": "first_order", "log": str(self.log)}
        remap = {"/joint_states": "/real/joint_states", "/front/image_raw": "/real/front"}
        if isinstance(self.unprotected, str) and self.unprotected.startswith(("arm_", "both_")):
            named = {"name": "simulated_arm", "arguments": [self.unprotected, "simulated_arm"], "remap": remap}
            return self.graph.start(UNPROTECTED, parameters, variables=variables, **named)
        return self.graph.start("simulated_arm_node", parameters, remap=remap, variables=variables)

    def start_guard(self) -> Process:
        parameters = {"topics": str(self.topics_path), **LIMITS, "estop_topic": "/estop", "reanchor": self.reanchor}
        if self.kind == "sim time":
            parameters |= {"use_sim_time": True, "real": False}
        variables = self.wall_clock.variables if self.wall_clock else {}
        if self.wall_clock:  # the kernel keeps its own time: waits that end by ours spin, and must not take all cores
            parameters |= {"priority": 0}
        if self.broken:
            unsafe = ["unsafe"] if self.unprotected == UNSAFE else []
            return self.graph.start(BROKEN, parameters, name="guard", arguments=["guard", *self.broken, *unsafe])
        control = isinstance(self.unprotected, str) and self.unprotected.startswith(("guard_", "both_"))
        if self.shared_memory:
            words = [self.shared_memory, self.unprotected if control else "-", "guard"]
            return self.graph.start(SHARED_MEMORY, parameters, name="guard", arguments=words)
        if control:
            named = {"name": "guard", "arguments": [self.unprotected, "guard"]}
            return self.graph.start(UNPROTECTED, parameters, variables=variables, **named)
        return self.graph.start("guard_node", parameters, variables=variables)

    def start_others(self) -> None:
        """More nodes, of richer rigs."""

    def renew_arm(self) -> None:
        """After it was killed."""
        self.arm = self.start_arm()
        self.graph.wait_state(self.arm)

    def renew_guard(self, broken: Sequence[str] = (), shared_memory: str = "") -> None:
        """After it was ended; `broken`: with a callback that fails, see faults_broken.py."""
        self.lives.append(self.commands)
        self.commands, self.state = [], "nothing"
        self.killed += self.guard.popen.poll() in (-signal.SIGKILL, 130)  # at once; 130: Ctrl-C twice
        self.broken, self.shared_memory = tuple(broken), shared_memory
        self.guard = self.start_guard()

    def another_guard(self, **parameters: Any) -> Process:
        """One more, that is expected not to come up; a wrapper takes its check away as well."""
        given = {"topics": str(self.topics_path), **parameters}
        if isinstance(self.unprotected, str) and self.unprotected:
            return self.graph.start(UNPROTECTED, given, name="another", arguments=[self.unprotected, "guard"])
        return self.graph.start("guard_node", given, name="another")

    def intruder(self, commands: bool) -> Any:
        """A foreign participant on the controller's topic; `commands`: it also sends, where the arm is."""
        import rclpy
        from trajectory_msgs.msg import JointTrajectory

        context = rclpy.Context()
        rclpy.init(args=[], context=context, domain_id=self.graph.domain)
        node = rclpy.create_node("intruder", namespace=NAMESPACE, context=context)
        publisher = node.create_publisher(JointTrajectory, CONTROLLER, 1)
        if commands:
            from faults_scripted import plan_message

            about = wire.About(1, 0, 0, 0, 0, 0, "")
            names = self.topics.action[0].joints
            publisher.publish(plan_message(about, self.measured()[None], T, names))
        return context, node

    def expel(self, intruder: Any) -> None:
        context, node = intruder
        node.destroy_node()
        context.try_shutdown()
        self.intruded = time.monotonic_ns()

    # -- verbs ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """All rules off, the arm in motion under a policy."""
        self.states.rule = self.plans.rule = passed
        self.scripted.edit = None
        self.run()

    def run(self, timeout: float = 10.0) -> None:
        """To RUN, whatever the state; the operator's reset included."""
        from std_msgs.msg import Bool
        from std_srvs.srv import SetBool, Trigger

        self.scripted.stop()
        self.human.stop()  # a takeover that failed leaves a hand on the arm
        self.intervention.publish(Bool(data=False))
        until(lambda: self.fresh() and self.commands, timeout, lambda: f"states and commands; {self.guard.said}")
        end = time.monotonic() + timeout
        while True:
            self.graph.call(Trigger, "guard/reset", timeout=1.0)  # refused where there is nothing to reset
            time.sleep(0.15)
            self.still()
            self.scripted.anchor(self.commands[-1].position)
            self.scripted.start()
            self.graph.call(SetBool, "guard/enable", SetBool.Request(data=True), timeout=1.0)
            now = time.monotonic_ns()
            try:
                return until(lambda now=now: self.moving(now), 1.0, "motion")
            except AssertionError:
                self.scripted.stop()
                said = f"{self.said}; {self.guard.said[-600:]}"
                expect(time.monotonic() < end, f"no motion within {timeout} s: {said}")

    def fresh(self) -> bool:
        return time.monotonic_ns() - self.states.last < SECOND // 10

    def measured(self) -> np.ndarray:
        """float64[7], as the arm itself says."""
        return self._joints(self.states.newest)

    def measured_at(self, ns: int) -> np.ndarray:
        """float64[7], what the guard could know at `ns`."""
        return self._joints(next(message for at, message in reversed(self.states.recent) if at <= ns))

    def _joints(self, message: Any) -> np.ndarray:
        return np.array([message.position[list(message.name).index(name)] for name in self.topics.action[0].joints])

    def moving(self, since: int) -> bool:
        """Ten commands of the policy in a row."""
        last = self.commands[-10:]
        return len(last) == 10 and last[0].ns > since and all(command.source == wire.POLICY for command in last)

    def phase(self, rng: np.random.Generator) -> None:
        """Wait for a random moment of the guard's period and of the chunk."""
        time.sleep(float(rng.uniform(0.0, 0.25)))

    def first(self, source: str, since: int, timeout: float = 2.0) -> Command:
        """The guard's first command of this source since `since` (ns)."""

        def found() -> Command | None:
            return next((c for c in list(self.commands) if c.ns >= since and c.source == source), None)

        until(lambda: found() is not None, timeout, lambda: f"a command by {source}, got {self.said}")
        return found()

    def stopped(self, since: int, timeout: float = 2.0) -> float:
        """ms from `since` (ns) to the guard's first stopping command."""
        return (self.first(wire.STOP, since, timeout).ns - since) * 1e-6

    def by(self, source: str, since: int, until: int | None = None) -> list[Command]:
        return [c for c in list(self.commands) if c.source == source and since <= c.ns < (until or c.ns + 1)]

    def still(self, timeout: float = 3.0) -> None:
        """Until the published command rests."""

        def resting() -> bool:
            last = self.commands[-5:]
            return len(last) == 5 and np.abs(np.diff([c.position for c in last], axis=0)).max() < 1e-9

        until(resting, timeout, lambda: f"rest, got {self.said}")

    def undisturbed(self, since: int) -> None:
        """No stop since `since` (ns). A harness that stalled itself proves nothing: Disturbed."""
        if stops := self.by(wire.STOP, since):
            self.calm(since)
            raise NotSurvived(f"stopped at {(stops[0].ns - since) * 1e-6:.0f} ms, now {self.said}")

    def calm(self, since: int) -> None:
        """Disturbed where harness or machine stalled since `since` (ns), or others want all the cores."""
        if stalled := self.stalled(since):
            raise Disturbed(stalled)
        if (load := os.getloadavg()[0]) > 2 * (os.cpu_count() or 1):
            raise Disturbed(f"the machine is overloaded: {load:.0f} processes want {os.cpu_count()} cores")

    def stalled(self, since: int) -> str:
        """Why a guard's stop since `since` (ns) may have been right: nobody could run; "" where there is no reason."""
        if (gap := self.states.longest_gap(since)) > 0.8 * STALE:
            return f"the harness stalled for {gap * 1e-6:.0f} ms"
        stood = self.sleepers.stood_still(np.array([[since, time.monotonic_ns()]])).any()
        return "a process that only sleeps woke more than a period late" if stood else ""

    def latched(self, timeout: float = 2.0) -> None:
        until(lambda: self.state == "FAULT", timeout, lambda: f"guard state FAULT, got {self.said}")

    def warned(self, since: int, word: str, timeout: float = 5.0) -> str:
        """The first diagnostics since `since` (ns) that are not OK and hold `word`."""

        def found() -> str:
            texts = [
                f"{status.name}: {status.message} {[(v.key, v.value) for v in status.values]}"
                for ns, status in list(self.diagnostics)
                if ns >= since and status.level != b"\x00"
            ]
            return next((text for text in texts if word in text), "")

        until(lambda: bool(found()), timeout, f"diagnostics that say {word!r}")
        return found()

    def judge(self) -> None:
        """Every command within limits and finite, and nothing else reached the arm."""
        for life in [*self.lives, self.commands]:
            for piece in pieces(list(life)):
                found = violations(np.array([c.position for c in piece]), T, self.bounds)
                expect(not found, f"limits: {found[:3]}")
        log = [(ns, position) for ns, position in self.arm_log() if ns > self.intruded]
        self._hear_of(log[-1][0] if log else 0)
        arrived = [position for _, position in log]
        known = [c.position[:ARM] for life in [*self.lives, self.commands] for c in list(life)]
        foreign = max(0, strangers(arrived, known) - self.killed)  # one may be killed between arm and judge
        expect(not foreign, f"{foreign} commands at the arm that the guard never published")

    def _hear_of(self, ns: int) -> None:
        """What reached the arm before `ns` reaches the judge, too, if later on a busy machine."""
        end = time.monotonic() + 3.0
        time.sleep(0.05)
        while self.guard.popen.poll() is None and time.monotonic() < end and self._last < ns:
            time.sleep(0.02)

    @property
    def _last(self) -> int:
        """ns of the newest command that the judge has heard of; 0: none."""
        return self.commands[-1].ns if self.commands else 0

    def arm_log(self, since: int = 0) -> list[tuple[int, np.ndarray]]:
        """(ns received, float64[7]) of every command that the arm obeyed."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return [
            (row["time"], np.array(point, np.float64))
            for row in rows
            for point in row["points"]
            if row["topic"] == CONTROLLER and row["time"] >= since and row["obeyed"]
        ]

    def close(self) -> None:
        self.scripted.stop()
        self.human.stop()
        self.states.close()
        self.plans.close()
        self.graph.__exit__(None, None, None)

    # -- what comes in -------------------------------------------------------------------------------------------------

    def _topics(self) -> tuple[Path, Any]:
        robot = components.load("robots", "first_order").Config(cameras=self.cameras)
        path = self.folder / "topics.yaml"
        path.write_text(topics_writer.text(topics_writer.arm_topics(robot.simulator().spec)))
        return path, topics_file.load(path)

    def _connect(self) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import JointState
        from std_msgs.msg import Bool, String
        from trajectory_msgs.msg import JointTrajectory

        from robot_value.ros_nodes.managed import COMMAND, LATCHED, RECORD

        graph = self.graph
        graph.listen(JointTrajectory, "executed", RECORD, self._executed)
        graph.listen(String, "guard_state", LATCHED, self._stated)
        graph.listen(DiagnosticArray, "/diagnostics", 10, self._diagnosed)
        self.states = Proxy(graph, JointState, "/real/joint_states", "/joint_states", COMMAND)
        self.plans = Proxy(graph, JointTrajectory, "plan_made", "plan", COMMAND)
        self.estop = graph.publisher(Bool, "/estop", COMMAND)
        self.intervention = graph.publisher(Bool, "intervention", RECORD)
        self.scripted = self._scripted("plan_made", wire.POLICY)
        self.human = self._scripted("takeover", wire.HUMAN)

    def _scripted(self, topic: str, source: str) -> Scripted:
        from trajectory_msgs.msg import JointTrajectory

        from robot_value.ros_nodes.managed import COMMAND

        publisher = self.graph.publisher(JointTrajectory, topic, COMMAND)
        names = [name for entry in self.topics.action for name in entry.names]
        made = Scripted(publisher, names, wire.schema(self.topics.spec), np.zeros(len(names)), source)
        made.observed = lambda: self.states.last
        return made

    def _executed(self, message: Any) -> None:
        about = wire.parse_header(message.header.frame_id)
        position = np.array(message.points[0].positions)
        life = self.lives[-1] if self.lives and self._older(about.start) else self.commands
        life.append(Command(about.start, about.seq, about.source, position))

    def _older(self, start: int) -> bool:
        """Of a guard that was ended, on its way until now."""
        return not self.commands and self.lives[-1] and start - self.lives[-1][-1].ns < SECOND // 20

    def _stated(self, message: Any) -> None:
        self.said = json.loads(message.data)
        self.state = self.said["state"]

    def _diagnosed(self, message: Any) -> None:
        now = time.monotonic_ns()
        self.diagnostics += [(now, status) for status in message.status]


def pieces(life: Sequence[Command]) -> list[list[Command]]:
    """Stretches without a gap: where the guard began anew its numbers jump, or begin anew."""
    found: list[list[Command]] = []
    for command in life:
        if not found or not 0 < command.seq - found[-1][-1].seq < 1000:
            found.append([])
        elif command.seq != found[-1][-1].seq + 1:
            raise AssertionError(f"command {found[-1][-1].seq + 1} was lost on its way to the judge")
        found[-1].append(command)
    return found


def _bounds(spec: Any) -> Bounds:
    rated = np.arange(spec.action_dim) < ARM  # grippers move as they like
    limits = (np.where(rated, LIMITS[name][0], np.inf) for name in ("velocity", "acceleration", "jerk"))
    return Bounds(spec.low.astype(np.float64), spec.high.astype(np.float64), *limits)
