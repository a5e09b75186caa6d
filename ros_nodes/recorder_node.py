"""Numbers, starts and ends episodes, and records them: into the episode store, and as MCAP bags beside it.

Services ~/start ~/stop ~/success ~/failure ~/discard; what happens is said on `episode` to all nodes. No torch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from std_msgs.msg import Bool, String, UInt8MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_value import provenance, wire
from robot_value.deploy.album import Album
from robot_value.deploy.bag_writer import BagWriter
from robot_value.deploy.episode_master import EpisodeMaster, Settings
from robot_value.deploy.recording import LAST, parse_decision, parse_step
from robot_value.deploy.store_writer import StoreWriter, open_store
from robot_value.messages import MessageError, said
from robot_value.resampling import Received
from robot_value.topics import load

from .health import ERROR, OK, WARN, Finding
from .managed import EPISODES, LATCHED, RECORD, ManagedNode, run
from .parameters import number
from .raw import header, is_stamped, message_type

EVENTS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
BURSTS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)  # sensors: none is left out for a busy moment
LEFT = 3.0  # s for the disk when the node ends; a process is to be gone after 5
POLL = 0.01  # s

Handle = Callable[[int, Any, Callable[[], Any]], None]  # (ns received, raw bytes, gives the message)


@dataclass(frozen=True)
class Config:
    topics: str = ""  # YAML file: what the robot's topics mean (docs/topics.md)
    store: str = ""  # folder of the episode store to append to; created where there is none
    bags: str = ""  # folder for one MCAP bag per episode, of everything that was heard; empty: none
    steered: bool = True  # steps as steering saw them; false: ticks of our own, to record demonstrations
    guarded: bool = True  # actions as the guard executed them; false: as controllers were told, where no guard runs
    lockstep: bool = False  # steps by number instead of time; for tests with a lock-step arm only
    source: str = "human"  # whose actions are recorded without a guard: human, policy or expert
    task: str = ""  # text of the task, until the YAML's task topic says another
    seed: int = number(0, 0, 1 << 31)  # seed of episode 0; episode n has seed + n
    memory: float = number(2.0, 0.001, 1024.0)  # GiB of pictures that an episode may hold, and that may wait for disk
    free: float = number(1.0, 0.0, 1e6)  # GiB that must be free on the store's disk to go on
    buffer: float = number(5.0, 0.1, 60.0)  # s of pictures kept until steering says which ones it saw
    grace: float = number(1.0, 0.3, 30.0)  # s to wait for what belongs to an ended episode; 10 x in lock-step
    shortest: int = number(2, 1, 1 << 20)  # steps; of a recording with gaps, shorter stretches are left out
    keep: bool = True  # false: episodes begin and end, and nothing of them is stored

    def __post_init__(self) -> None:
        if self.source not in ("human", "policy", "expert"):
            raise ValueError(f"source: expected human, policy or expert, got {self.source!r}")
        if self.lockstep and self.steered and not self.guarded:
            raise ValueError("guarded: expected true in lock-step, got false; only a guard says of which step one is")


class Recorder:
    def __init__(self, node: ManagedNode, config: Config) -> None:
        self.node, self.config = node, config
        self.writer: StoreWriter | None = None
        self.bags: dict[int, BagWriter] = {}  # episode -> its bag
        self.bag_error = ""
        self._made: list[tuple[Callable[[Any], Any], Any]] = []  # (how to destroy it, subscription, service ...)

    def configure(self) -> None:
        for name in ("topics", "store"):
            if not getattr(self.config, name):
                raise ValueError(f"{name}: expected a path, got none")
        config, self.topics = self.config, load(self.config.topics)
        types = {topic: message_type(kind) for topic, kind in self.topics.types.items()}
        self.names = [name for entry in self.topics.action for name in entry.names]
        about = self._about()
        if config.bags and find_spec("rosbags") is None:
            raise ValueError("bags: expected rosbags to be installed, or no folder: then the store alone is written")
        self.writer = StoreWriter(open_store(config.store, self.topics.spec))
        settings = Settings(**{name: getattr(config, name) for name in Settings.__dataclass_fields__})
        album = Album(self.topics.cameras, config.buffer)
        self.master = EpisodeMaster(self.topics, self.writer, album, settings, about, self._announce, self._closed)
        self._connect(types)

    def activate(self) -> None:
        pass

    def deactivate(self) -> None:
        self.master.finish()
        self.writer.flush(LEFT)
        self._report()

    def cleanup(self) -> None:
        for destroy, made in self._made:
            destroy(made)
        self._made.clear()
        for bag in self.bags.values():
            bag.close()
        if self.writer is not None:
            if unwritten := self.writer.close(LEFT):
                self.node.get_logger().error(f"{unwritten} episodes are lost: {self.writer.error}")
            self.writer.store.close()

    def findings(self) -> list[Finding]:
        name, master = "recorder", getattr(self, "master", None)
        if master is None:
            return []
        running = "" if master.take is None else f"episode {master.take.number}, {len(master.take.steps)} steps"
        errors = [*self.writer.refused, *filter(None, (self.writer.error, self.bag_error))]
        if master.free() < self.config.free:
            errors.append(f"{master.free():.2f} GiB free, expected {self.config.free:g} (parameter `free`)")
        values = {
            "next episode": str(master.number),
            "waiting for the disk": str(self.writer.waiting),
            "messages refused": str(master.refused),
            "last refused": master.last_refused,
            "free GiB": f"{master.free():.2f}",
        }
        level = ERROR if errors else WARN if master.refused else OK
        return [Finding(name, level, "; ".join(errors) or running or "no episode is running", values)]

    # -- connections ---------------------------------------------------------------------------------------------------

    def _connect(self, types: dict[str, Any]) -> None:
        """What comes first in the order of subscriptions is heard first where several wait: steps before rewards."""
        node, master = self.node, self.master
        self._publisher = node.create_publisher(String, "episode", EPISODES)
        self._made.append((node.destroy_publisher, self._publisher))
        self._hear("episode", String, EPISODES, self._on_episode)
        if self.config.steered:
            self._hear("step", UInt8MultiArray, RECORD, self._on_step)
            self._hear("decision", UInt8MultiArray, RECORD, self._on_decision)
        self._hear("executed", JointTrajectory, RECORD, lambda _, __, opened: master.put_command(self._plan(opened())))
        self._hear("plan", JointTrajectory, RECORD, lambda _, __, opened: master.put_plan(self._plan(opened())))
        self._hear("intervention", Bool, RECORD, self._on_intervention)
        self._hear("takeover", JointTrajectory, RECORD, _nothing)
        if self.config.bags:
            self._hear("guard_state", String, LATCHED, _nothing)
            self._hear("/diagnostics", DiagnosticArray, EVENTS, _nothing)
        for topic in self._sensors():
            qos = RECORD if self.config.lockstep else BURSTS
            self._hear(topic, types[topic], qos, partial(self._on_input, topic, is_stamped(types[topic])))
        self._hear_events(types)
        for event in ("start", "stop", "success", "failure", "discard"):
            self._made.append((node.destroy_service, node.serve(Trigger, f"~/{event}", partial(self._asked, event))))
        for period, callback in ((POLL, self._poll), (1.0, self._report)):
            self._made.append((node.destroy_timer, node.every(period, callback)))

    def _sensors(self) -> list[str]:
        """Topics that are resampled or go into a bag; steered, guarded and without bags, only the cameras."""
        if self.config.bags:
            return list(self.topics.inputs)
        observed = self.topics.cameras if self.config.steered else self.topics.observed
        commanded = () if self.config.guarded else self.topics.action
        return list(dict.fromkeys(entry.topic for entry in (*observed, *commanded)))

    def _hear_events(self, types: dict[str, Any]) -> None:
        """One topic may say several things."""
        by_topic: dict[str, list[str]] = {}
        for key, event in self.topics.events.items():
            by_topic.setdefault(event.topic, []).append(key)
        for topic, keys in by_topic.items():
            self._hear(topic, types[topic], RECORD, partial(self._on_event, tuple(keys)))

    def _hear(self, topic: str, kind: Any, qos: QoSProfile, handle: Handle) -> None:
        name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        full = self.node.resolve_topic_name(topic)

        def hear(raw: bytes) -> None:
            now = time.monotonic_ns()
            for bag in self.bags.values():
                bag.put(full, name, now, raw)
            try:
                handle(now, raw, lambda: deserialize_message(raw, kind))
            except (wire.WireError, MessageError) as error:
                self.master.refuse(error)

        self._made.append((self.node.destroy_subscription, self.node.listen(kind, topic, hear, qos, raw=True)))

    # -- what comes ----------------------------------------------------------------------------------------------------

    def _on_step(self, now: int, raw: bytes, opened: Callable) -> None:
        self.master.put_step(parse_step(opened().data, self.topics, self.config.lockstep))

    def _on_decision(self, now: int, raw: bytes, opened: Callable) -> None:
        self.master.put_decision(parse_decision(opened().data))

    def _on_input(self, topic: str, stamped: bool, now: int, raw: bytes, opened: Callable) -> None:
        stamp, frame_id = header(raw) if stamped else (0, "")
        received = Received(now, stamp or time.time_ns(), opened)  # stamps are made with the wall's clock
        if self.config.steered and any(entry.topic == topic for entry in self.topics.cameras):
            self.master.put_image(topic, received, frame_id)
        else:
            self.master.put_input(topic, received)

    def _on_episode(self, now: int, raw: bytes, opened: Callable) -> None:
        about = _parse_event(opened().data)
        if about["event"] == "ended":
            self.master.ended(about["episode"], about["steps"], about["why"])

    def _on_intervention(self, now: int, raw: bytes, opened: Callable) -> None:
        self.master.human = opened().data

    def _on_event(self, keys: tuple[str, ...], now: int, raw: bytes, opened: Callable) -> None:
        for key in keys:
            value = said(self.topics.events[key], opened())
            if key == "reward":
                self.master.put_reward(now, value)
            elif key == "success":
                self.master.put_success(now, value)
            elif key == "task":
                self.master.task = value
            elif key == "intervention":
                self.master.human = value
            elif value is (key == "start" or len(keys) == 1):  # one Bool for both: false stops
                self._mark(key)

    def _mark(self, key: str) -> None:
        """An operator's button; it may be published again and again."""
        wanted = self.node.active and (key == "start") == (self.master.take is None)
        if wanted and (reason := self._do(key)):
            self.node.get_logger().error(reason)

    def _asked(self, event: str, request: Any) -> str:
        if not self.node.active:
            return "the recorder is not active; activate it first"
        return self._do(event)

    def _do(self, event: str) -> str:
        return self.master.start() if event == "start" else self.master.stop(event)

    def _plan(self, message: Any) -> wire.Plan:
        return wire.parse_plan(message, self.names)

    # -- what goes out -------------------------------------------------------------------------------------------------

    def _announce(self, about: dict[str, Any]) -> None:
        if about["event"] == "start":
            self._open_bag(about["episode"])
        self._publisher.publish(String(data=json.dumps(about)))
        self.node.get_logger().info(f"episode {about['episode']}: {about['event']}")

    def _open_bag(self, episode: int) -> None:
        if not self.config.bags:
            return
        folder = Path(self.config.bags) / f"episode_{episode:08d}"
        try:
            self.bags[episode] = BagWriter(_free_name(folder))
            self.bag_error = ""
        except Exception as error:  # the store is what counts
            self.bag_error = f"{folder}: no bag of this episode: {error}"

    def _closed(self, episode: int, kept: bool) -> None:
        if (bag := self.bags.pop(episode, None)) is not None:
            bag.close(keep=kept)
            self.bag_error = bag.error

    def _poll(self) -> None:
        self.master.poll()

    def _report(self) -> None:
        self.master.check_disk()
        log, master = self.node.get_logger(), self.master
        while master.notes:
            log.warning(master.notes.pop(0))
        while self.writer.written:
            steps, name = self.writer.written.popleft()
            log.info(f"{steps} steps are stored as {name}")

    def _about(self) -> dict[str, Any]:
        """Provenance of every episode of this node."""
        return {
            "recorder": "ros2",
            "versions": provenance.versions(),
            "git": provenance.commit(),
            "topics": hashlib.sha256(Path(self.config.topics).read_bytes()).hexdigest(),
            "schema": wire.schema(self.topics.spec),
            "parameters": asdict(self.config),
        }


def _nothing(now: int, raw: bytes, opened: Callable) -> None:
    """Only for the bag."""


def _parse_event(text: str) -> dict[str, Any]:
    """Raises WireError."""
    try:
        about = {"steps": 0, "why": "", **json.loads(text)}
        numbers = (about["episode"], about["steps"])
        if type(about["event"]) is str and all(type(n) is int and 0 <= n <= LAST for n in numbers):
            return {**about, "why": str(about["why"])}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise wire.WireError(f"episode: expected event, episode and steps as JSON, got {text[:80]!r}")


def _free_name(folder: Path) -> Path:
    """Numbers may come again, e.g. after a discard; a bag is never written over."""
    names = (folder, *(folder.with_name(f"{folder.name}_{i}") for i in range(1, 10_000)))
    return next(name for name in names if not name.exists())


def main(args: list[str] | None = None) -> None:
    run("recorder", Config, Recorder, args)


if __name__ == "__main__":
    main()
