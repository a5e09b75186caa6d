"""Loads policy and critic, decides in the one loop and sends plans to the guard. Everything it decides is logged.

The executor's thread only fills mailboxes; episodes run in a thread of their own. Whatever goes wrong there ends the
episode: no further plan is sent, and the guard stops the arm when the last one has run out. The node stays.
"""

from __future__ import annotations

import array
import json
import math
import os
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Duration
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool, String, UInt8MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_value import components, topics, wire
from robot_value.deploy.ticking import Ended, parse_event
from robot_value.types import Decision

from .arm_robot import AHEAD, SYNC, ArmRobot, Driving
from .health import ERROR, OK, WARN, Finding
from .managed import COMMAND, EPISODES, RECORD, SENSOR, ManagedNode, run
from .parameters import number
from .raw import is_stamped, message_type

if TYPE_CHECKING:
    from robot_value.deploy.heir import Heir
    from robot_value.deploy.steering_setup import Setup, Thinking
    from robot_value.display.display import Display
    from robot_value.types import Spec

JOIN = 2.0  # s that cleanup waits for a decision that is being made
LOOK = 1.0  # s between two looks at what an online run has published


@dataclass(frozen=True)
class Config:
    topics: str = ""  # YAML file that says what the robot's topics mean (docs/topics.md); needed
    policy: str = ""  # checkpoint of the policy, a folder (or its run's); needed
    critic: str = ""  # checkpoint of the critic; empty: the policy acts alone, with one candidate
    critic_required: bool = True  # false: without a usable critic the policy acts alone, with a warning
    online: str = ""  # folder of `train online --follow`: its newest version decides from the next episode on
    mode: str = SYNC  # sync: the arm rests while deciding; ahead: it moves on; shadow: decide and log, never act
    lockstep: bool = False  # ticks by the frames' numbers of a simulated arm instead of the clock; never on a real arm
    n: int = number(16, 1, 4096)  # N, candidates per decision
    execute: int = number(0, 0, 4096)  # steps until the next decision; 0: the critic's scope, else the whole chunk
    selector: str = "softmax_average"  # how one of the candidates is picked
    selector_options: str = "{}"  # its Config's fields as JSON, e.g. {"temperature": 0.5}
    gate: str = "always"  # whether the selection is used
    gate_options: str = "{}"  # its Config's fields as JSON, e.g. {"path": "gate.json"}
    proposer: str = "samples"  # where the candidates come from
    proposer_options: str = "{}"  # its Config's fields as JSON
    guide: str = ""  # what steps into the policy's sampler; empty: nothing
    guide_options: str = "{}"  # its Config's fields as JSON
    follower: str = ""  # how a chunk is followed; empty: plain, or splice where the arm moves on
    follower_options: str = "{}"  # its Config's fields as JSON
    seed: int = number(0, 0, 2**62)  # key of the candidates' noise
    deadline: float = number(0.0, 0.0, 60.0)  # s per decision: what is scored by then competes; 0: all candidates
    exact: bool = False  # candidate 0 is the plain policy's to the bit, for one more call of the policy
    precision: str = "off"  # arithmetic of both networks: off, auto, float32 or bfloat16
    device: str = "cpu"  # where the networks run: cpu, cuda or auto
    threads: int = number(1, 1, 256)  # CPU threads of the networks; leave cores to the guard
    nice: int = number(5, 0, 19)  # of the deciding thread, below everything that moves the arm
    # ahead: steps at which decisions come late, in all shorter than the guard's max_observed_age; -1: as measured
    lag: int = number(-1, -1, 4096)
    lead: float = number(0.005, 0.0, 1.0)  # s from sending a plan to its beginning, after a pause
    max_age: float = number(
        0.5, 0.01, 60.0
    )  # s; a decision about older inputs is not executed, as the guard would refuse
    longest: float = number(1.9, 0.01, 60.0)  # s that a plan may last; below the guard's max_horizon
    patience: float = number(5.0, 0.1, 3600.0)  # s without fresh inputs until the episode is ended
    max_steps: int = number(0, 0, 2**31)  # control steps until an episode is ended; 0: never
    max_frozen: float = number(0.0, 0.0, 60.0)  # s that a camera may show the same picture; 0: for ever (simulators do)
    display: str = ""  # rerun or foxglove: shows decisions while they are made (docs/live_view.md); empty: nothing
    display_options: str = "{}"  # its Config's fields as JSON, e.g. {"address": "127.0.0.1:9876"}

    def __post_init__(self) -> None:
        for name in ("topics", "policy"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected a path, got nothing")


class Steering:
    def __init__(self, node: ManagedNode, config: Config) -> None:
        self.node, self.config = node, config
        self.robot: ArmRobot | None = None
        self.thinking: Thinking | None = None
        self.display: Display | None = None
        self.heir: Heir | None = None
        self.failed = ""  # why the newest episode was ended by us
        self.unread = ""  # why what an online run has published is not asked for
        self._closing, self._asking = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._ours: list[tuple[Callable, Any]] = []  # how each of our entities is destroyed

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        from robot_value.deploy.heir import Heir
        from robot_value.deploy.steering_setup import prepare  # torch, which nobody needs for the parameters

        config, node = self.config, self.node
        if not config.lockstep and node.get_parameter("use_sim_time").value:
            raise ValueError("use_sim_time: expected false on a robot, got true; a clock that stops would stop nobody")
        mapping = topics.load(config.topics)
        self.asked = _setup(config)
        self.thinking = prepare(self.asked, mapping.spec)
        self.heir = Heir(mapping.spec, node.get_logger().info)
        for line in self.thinking.warnings:
            node.get_logger().warning(line)
        driving = Driving(
            mode=config.mode,
            lockstep=config.lockstep,
            lead=config.lead,
            max_age=config.max_age,
            longest=config.longest,
            patience=config.patience,
            max_steps=config.max_steps,
            lag=self.thinking.lag,
            max_frozen=config.max_frozen,
        )
        driving.check(self.thinking.steerer.execute, mapping.spec.dt)
        self.outbox = RosOutbox(node, self._ours, mapping, RECORD if config.lockstep else COMMAND)
        self.robot = ArmRobot(mapping, self.outbox, driving, self.thinking.policy.spec.n_obs_steps)
        self.display = _display(config, mapping.spec)
        self._listen(mapping)
        self._thread = threading.Thread(target=self._run, name="episodes", daemon=True)
        self._thread.start()
        if config.online:  # beside the callbacks: a shared folder that hangs must not hold up what the arm says
            threading.Thread(target=self._follow, name="versions", daemon=True).start()

    def activate(self) -> None:
        self.robot.turn.end("activated")  # what was started before is not ours
        self.outbox.open()

    def deactivate(self) -> None:
        """At once: a decision that is being made is forgotten when it is there."""
        self.outbox.close()
        self.robot.turn.end("deactivated")

    def cleanup(self) -> None:
        self._closing.set()
        if self.robot is not None:
            self.outbox.close()
            self.robot.close()
        if self._thread is not None:
            self._thread.join(JOIN)
        if self.heir is not None:
            self.heir.close(JOIN)
        if self.thinking is not None:
            self.thinking.close()
        if self.display is not None:
            self.display.close()
        for destroy, entity in self._ours:
            destroy(entity)
        self._ours.clear()

    def _listen(self, mapping: topics.Topics) -> None:
        inputs = RECORD if self.config.lockstep else SENSOR
        for entry in mapping.observed:
            kind = message_type(entry.type)
            if self.config.lockstep and not is_stamped(kind):
                raise ValueError(f"{entry.topic}: expected messages with a header in lock-step, got {entry.type}")
            self._subscribe(kind, entry.topic, _to(self.robot.receive, entry.topic), inputs)
        self._subscribe(JointTrajectory, "executed", self.robot.executed, RECORD)
        self._subscribe(Bool, "intervention", lambda message: self.robot.intervention(message.data), 10)
        self._subscribe(String, "episode", self._on_episode, EPISODES)
        service = self.node.serve(Trigger, "~/reload", self._reload)
        self._ours.append((self.node.destroy_service, service))

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> None:
        subscription = self.node.listen(kind, topic, callback, qos)
        self._ours.append((self.node.destroy_subscription, subscription))

    # -- messages and services -----------------------------------------------------------------------------------------

    def _on_episode(self, message: String) -> None:
        try:
            event = parse_event(message.data)
        except ValueError as error:
            self.node.get_logger().warning(str(error))
            return
        if event.start is not None and event.start.late() and not self.config.lockstep:
            self.node.get_logger().warning(f"episode {event.episode} began too long ago to be played from its start")
        elif event.start is not None and self.node.active:
            self.robot.turn.begin(event.start)
        elif event.start is None:
            self.robot.turn.end(event.why, event.episode)

    def _reload(self, request: Any) -> str:
        """The newest checkpoints are read now, and decide from the next episode on; diagnostics say if they cannot."""
        return self._ask(_setup(self.config))

    def _ask(self, asked: Setup) -> str:
        with self._asking:
            last = self.asked.number
            if last is not None and (asked.number is None or asked.number < last):
                return (
                    f"expected version {last} or later, got {asked.number}; versions never go back: restart this node"
                )
            reason = self.heir.ask(replace(asked, lag=self.thinking.lag), self.thinking)
            self.asked = self.asked if reason else asked
            return reason

    def _follow(self) -> None:
        """What the online run has published since is asked for by itself."""
        while not self._closing.wait(LOOK):
            try:
                self.unread = self._look()
            except Exception as error:  # whatever a file says: what decides stays, and the next look may be better
                self.unread = f"{type(error).__name__}: {error}"

    def _look(self) -> str:
        """Why what was published last is not asked for; "" where it is."""
        asked = _setup(self.config)
        if asked.number != self.asked.number:
            return self._ask(asked)
        published = asked.number is not None
        return "" if published else f"{self.config.online}: no version yet, the parameters' checkpoints decide"

    # -- episodes, in a thread of their own ----------------------------------------------------------------------------

    def _run(self) -> None:
        if self.config.nice:
            os.nice(self.config.nice)  # Linux: of this thread
        while not self._closing.is_set():
            start = self.robot.turn.wait_for_start(0.2)
            if start is not None:
                self.thinking = self.heir.take(self.thinking)
                self._episode(start)

    def _episode(self, start: Any) -> None:
        from robot_value.loop import run_episodes

        self.failed = ""
        self.robot.play(start)
        thinking, watchers = self.thinking, () if self.display is None else (self.display,)
        asked = {"tasks": [start.task], "seeds": [start.seed]}
        try:
            run_episodes(self.robot, thinking.thinker, thinking.follower(), watchers, **asked)
        except Ended as ended:
            self.robot.give_up(str(ended))
        except Exception as error:  # no chunk, an implausible one, a failure in a network: the arm stops, we stay
            self.failed = f"{type(error).__name__}: {error}"
            self.node.get_logger().error("".join(traceback.format_exception(error)))
            self.robot.give_up(self.failed)

    # -- diagnostics ---------------------------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        if self.robot is None or self.thinking is None:
            return []
        return [self._decisions(), self._inputs()]

    def _decisions(self) -> Finding:
        books, thinking, counts = self.thinking.steerer.books, self.thinking, self.robot.counts
        values, reasons = list(books.values), dict(books.reasons)  # the other thread goes on
        p50, p99 = (books.latency(q) if books.seconds else thinking.latency[i] for i, q in enumerate((0.5, 0.99)))
        told = {
            "latency_p50_ms": f"{1e3 * p50:.2f}",
            "latency_p99_ms": f"{1e3 * p99:.2f}",
            "allowed_ms": f"{1e3 * self._allowed():.2f}",
            "decisions": str(books.decisions),
            "plans": str(counts["plans"]),
            "late": str(counts["late"]),
            "missed": str(counts["missed"]),
            "errors": str(books.errors),
            "last_error": books.last_error,
            "lowest_value": f"{min((low for low, _ in values), default=math.nan):.4g}",
            "highest_value": f"{max((high for _, high in values), default=math.nan):.4g}",
            **{f"reason {reason}": str(count) for reason, count in sorted(reasons.items())},
            **thinking.versions,
        }
        if self.display is not None:
            told |= {"shown": str(self.display.drawn), "not shown": str(self.display.dropped)}
        if self.failed:
            return Finding("steering: decisions", ERROR, self.failed, told)
        fallbacks = [reason for reason in reasons if reason.endswith("_fallback") or reason == "low_spread"]
        problems = list(thinking.warnings) + [f"{reason}: {reasons[reason]} times" for reason in fallbacks]
        problems += [f"reload: {why}" for why in (self.unread, self.heir.refused) if why]
        if p99 > self._allowed():
            problems.append(f"decisions take {1e3 * p99:.0f} ms (p99), allowed are {1e3 * self._allowed():.0f} ms")
        said = "; ".join(problems) or f"{self.config.mode}, {books.decisions} decisions"
        return Finding("steering: decisions", WARN if problems else OK, said, told)

    def _allowed(self) -> float:
        """s that a decision may take in this mode."""
        if self.config.mode == SYNC:
            return self.config.max_age
        return max(1, self.thinking.lag) * self.robot.spec.dt

    def _inputs(self) -> Finding:
        robot, doorman = self.robot, self.robot.doorman
        values = {f"age {topic}": f"{age:.3f}" for topic, age in robot.ages.items()}
        values |= {f"refused {topic}": str(count) for topic, count in doorman.refused.items()}
        values |= {f"equal pictures {topic}": str(count) for topic, count in doorman.equal.items()}
        values |= {"stale": str(robot.counts["stale"]), "unreadable": str(robot.counts["unreadable commands"])}
        problems = [f"{topic}: {why}" for topic, why in robot.stale.items()]
        problems += [f"{topic}: {n + 1} equal pictures in a row" for topic, n in doorman.equal.items() if n >= 9]
        problems += [doorman.last_reason] if doorman.refused else []
        return Finding("steering: inputs", WARN if problems else OK, "; ".join(problems) or "fresh", values)


class RosOutbox:
    """The publishers of the loop's thread. Once `close` has returned, nothing leaves any more."""

    def __init__(
        self, node: ManagedNode, ours: list[tuple[Callable, Any]], mapping: topics.Topics, commands: QoSProfile
    ) -> None:
        self._names = [name for entry in mapping.action for name in entry.names]
        self._lock, self._open = threading.Lock(), False
        qos = {"plan": commands, "step": RECORD, "decision": RECORD, "episode": EPISODES}
        kinds = {"plan": JointTrajectory, "episode": String}
        self._publishers = {
            topic: node.create_lifecycle_publisher(kinds.get(topic, UInt8MultiArray), topic, each)
            for topic, each in qos.items()
        }
        ours += [(node.destroy_lifecycle_publisher, publisher) for publisher in self._publishers.values()]

    def open(self) -> None:
        self._open = True

    def close(self) -> None:
        with self._lock:
            self._open = False

    def plan(self, plan: wire.Plan) -> None:
        self._publish("plan", as_trajectory(plan, self._names))

    def step(self, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self._publish("step", _bytes(wire.pack(about, arrays)))

    def decision(self, decision: Decision) -> None:
        self._publish("decision", _bytes(wire.pack_decision(decision)))

    def ended(self, episode: int, steps: int, why: str) -> None:
        event = {"event": "ended", "episode": episode, "steps": steps, "why": why}
        self._publish("episode", String(data=json.dumps(event)))

    def _publish(self, topic: str, message: Any) -> None:
        with self._lock:
            if self._open:
                self._publishers[topic].publish(message)


def as_trajectory(plan: wire.Plan, names: list[str]) -> JointTrajectory:
    message = JointTrajectory(joint_names=names)
    message.header.frame_id = wire.header(plan.about)
    rows = [[]] * len(plan.actions) if plan.velocities is None else plan.velocities.tolist()
    for i, (positions, velocities) in enumerate(zip(plan.actions.tolist(), rows, strict=True)):
        sec, nanosec = divmod(round((i + 1) * plan.dt * 1e9), 1_000_000_000)
        due = Duration(sec=sec, nanosec=nanosec)
        message.points.append(JointTrajectoryPoint(positions=positions, velocities=velocities, time_from_start=due))
    return message


def _bytes(data: bytes) -> UInt8MultiArray:
    return UInt8MultiArray(data=array.array("B", data))


def _to(receive: Callable[[str, Any], None], topic: str) -> Callable[[Any], None]:
    return lambda message: receive(topic, message)


def _setup(config: Config) -> Setup:
    """As the parameters say, with what an online run has published. Raises ValueError or OSError."""
    from robot_value.deploy.steering_setup import Setup, as_published
    from robot_value.online.publication import newest

    parts = ("selector", "gate", "proposer", "guide", "follower")
    options = {part: _options(part, getattr(config, f"{part}_options")) for part in parts}
    setup = Setup(
        robot=config.topics,
        policy=config.policy,
        critic=config.critic,
        critic_required=config.critic_required,
        ahead=config.mode == AHEAD,
        lockstep=config.lockstep,
        n=config.n,
        execute=config.execute,
        parts={part: getattr(config, part) for part in parts},
        options=options,
        seed=config.seed,
        deadline=config.deadline or None,
        exact=config.exact,
        precision=config.precision,
        device=config.device,
        threads=config.threads,
        lag=config.lag,
    )
    published = newest(Path(config.online)) if config.online else None
    return setup if published is None else as_published(setup, published)


def _display(config: Config, spec: Spec) -> Display | None:
    """The live view that was asked for, opened."""
    if not config.display:
        return None
    import draccus

    options = _options("display", config.display_options)
    return draccus.decode(components.load("displays", config.display).Config, options).build(spec, "steering")


def _options(part: str, text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{part}_options: expected JSON, got {text!r} ({error})") from error
    if not isinstance(options, dict):
        raise ValueError(f"{part}_options: expected a JSON object, got {text!r}")
    return options


def main(args: list[str] | None = None) -> None:
    run("steering", Config, Steering, args)


if __name__ == "__main__":
    main()
