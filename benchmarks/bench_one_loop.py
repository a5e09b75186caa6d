"""One loop: the same decisions bit by bit in simulation, over ROS topics and from the recorded episode.

Untrained image policy and critic (any numbers do for comparing bits), the simulated seven-joint arm with a camera, real
guard, steering and recorder processes in lock-step. In some episodes a human takes the arm for a while. Interrupt it
and run it again: it plays the episodes that are missing. Writes outputs/bench/one_loop.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_value import checkpoint, components, wire
from robot_value.critics import sarsa
from robot_value.deploy import topics_writer
from robot_value.deploy.steering_setup import Setup, prepare
from robot_value.episodes import EpisodeStore
from robot_value.loop import run_episodes
from robot_value.normalize import Statistics
from robot_value.policies import flow
from robot_value.provenance import provenance
from robot_value.replay.logged_robot import LoggedRobot, differences
from robot_value.results import plain, write_atomic
from robot_value.topics import load
from robot_value.types import HUMAN, Decision, Episode, Observation, Outcome, Spec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from ros_graph import Graph, until

HORIZON, SCOPE, HISTORY, N = 8, 4, 2, 8
CAMERA, SIZE = "front", 32
OWNED = 7  # control steps per intervention
FIRST_SEED = 70_000
# rad/s, rad/s^2, rad/s^3: what an untrained policy asks for is executed nearly as it is
UNLIMITED = {"velocity": [1e2], "acceleration": [1e4], "jerk": [1e6]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=54, help="how many")
    parser.add_argument("--steps", type=int, default=80, help="control steps of each")
    parser.add_argument("--humans", type=int, default=4, help="episodes in which a human takes over")
    parser.add_argument("--work", default="outputs/one_loop", help="folder of the checkpoints and the recording")
    parser.add_argument("--out", default="outputs/bench/one_loop.json")
    asked = parser.parse_args()
    started, work = time.monotonic(), Path(asked.work)
    work.mkdir(parents=True, exist_ok=True)
    report = compare(work, asked.episodes, asked.steps, range(0, 2 * asked.humans, 2))
    text = json.dumps(plain({"format_version": 1, **provenance(started), **report}), indent=2)
    write_atomic(Path(asked.out), text + "\n")
    print(text)


def compare(work: Path, episodes: int, steps: int, humans: Sequence[int]) -> dict[str, Any]:
    """Play, record and play again; what differs. `humans` are the numbers of the episodes with an intervention."""
    site = Site.make(work, steps)
    recorded = play_over_ros(site, episodes, humans)
    simulated = in_simulation(site, list(recorded.values()))
    replayed = from_the_log(site, list(recorded))
    unequal = []
    for i, (name, episode) in enumerate(recorded.items()):
        for way, decisions in (("simulation", simulated[i]), ("log", replayed[i])):
            unequal += [f"{name} {way}: {line}" for line in lines_that_differ(episode.decisions, decisions)]
    source = [np.zeros(len(e)) if e.source is None else e.source for e in recorded.values()]
    return {
        "decisions": sum(len(episode.decisions) for episode in recorded.values()),
        "episodes": len(recorded),
        "episodes_with_interventions": sum(bool((each == HUMAN).any()) for each in source),
        "steps_changed_by_the_guard": sum(map(changed, recorded.values())),
        "human_steps": int(sum((each == HUMAN).sum() for each in source)),
        "steps": sum(len(episode) for episode in recorded.values()),
        "camera": [SIZE, SIZE],
        "candidates": N,
        "unequal": unequal,
    }


@dataclass(frozen=True)
class Site:
    work: Path
    topics: Path
    policy: Path
    critic: Path
    steps: int

    @classmethod
    def make(cls, work: Path, steps: int) -> Site:
        spec = arm(steps).simulator().spec
        topics = work / "topics.yaml"
        topics.write_text(topics_writer.text(topics_writer.arm_topics(spec)))
        spec = load(topics).spec.choose(horizon=HORIZON, n_obs_steps=HISTORY)
        policy = save(work, "policies", "flow", flow.Config(width=32, depth=1, sample_steps=2), spec)
        critic = save(work, "critics", "sarsa", sarsa.Config(scope=SCOPE, hidden=(32,)), spec)
        return cls(work, topics, policy, critic, steps)

    @property
    def setup(self) -> Setup:
        return Setup(str(self.topics), str(self.policy), str(self.critic), n=N)


def arm(steps: int) -> Any:
    return components.load("robots", "first_order").Config(cameras=(CAMERA,), camera_size=SIZE, max_steps=steps)


def save(work: Path, kind: str, name: str, config: Any, spec: Spec) -> Path:
    """A checkpoint with fresh weights, for actions around the arm's home."""
    statistics = {}
    for key, low, high in (("state", spec.low, spec.high), ("action", spec.low, spec.high)):
        middle = (low + high) / 2
        statistics[key] = Statistics(mean=middle, std=np.full_like(low, 0.1), low=low, high=high, count=9)
    model = config.build(spec, statistics)
    words = {"kind": kind, "name": name, "config": asdict(config), "spec": spec, "statistics": statistics}
    checkpoint.save(work / name, **words, tensors=model.state_dict())
    return work / name


# -- over ROS ----------------------------------------------------------------------------------------------------------


def play_over_ros(site: Site, episodes: int, humans: Sequence[int]) -> dict[str, Episode]:
    store = site.work / "episodes"
    first = len(EpisodeStore.open(store).names()) if store.exists() else 0
    if first < episodes:
        _play(site, range(first, episodes), humans)
    played = EpisodeStore.open(store)
    return {name: played.read(name) for name in played.names()}


def _play(site: Site, episodes: range, humans: Sequence[int]) -> None:
    lockstep = {"topics": str(site.topics), "lockstep": True}
    settings = json.dumps({"cameras": [CAMERA], "camera_size": SIZE, "max_steps": site.steps + 1})
    models = {"policy": str(site.policy), "critic": str(site.critic), "n": N, "max_steps": site.steps}
    store = site.work / "episodes"
    with Graph(site.work) as graph:
        graph.start("simulated_arm_node", {**lockstep, "model": "first_order", "settings": settings})
        graph.start("guard_node", {**lockstep, **UNLIMITED, "enabled": True, "real": False})
        graph.start("steering_node", {**lockstep, **models})
        graph.start("recorder_node", {**lockstep, "store": str(store), "seed": FIRST_SEED})
        for process in graph.processes:
            graph.wait_state(process, timeout=120)
        hand = Hand(graph, site)
        for episode in episodes:
            hand.play(graph, episode, episode in humans)


class Hand:
    """Starts episodes, and takes the arm in the middle of some."""

    def __init__(self, graph: Graph, site: Site) -> None:
        from std_msgs.msg import Bool, String
        from trajectory_msgs.msg import JointTrajectory

        from robot_value.ros_nodes.managed import RECORD

        self.site, self.mapping, self.flag, self.kind = site, load(site.topics), Bool, JointTrajectory
        self.names = [name for entry in self.mapping.action for name in entry.names]
        self.takeover = graph.publisher(JointTrajectory, "takeover", RECORD)
        self.intervention = graph.publisher(Bool, "intervention", 10)
        self.events = graph.listen(String, "episode", 50)
        self.executed = graph.listen(JointTrajectory, "executed", RECORD)
        graph.wait_for_subscriber(self.takeover, 2)  # guard and recorder
        graph.wait_for_subscriber(self.intervention, 3)  # and steering

    def play(self, graph: Graph, episode: int, human: bool) -> None:
        from std_srvs.srv import Trigger

        assert graph.call(Trigger, "recorder/start", timeout=60).success
        if human:
            self.own(episode, self.site.steps // 3)
        until(lambda: self.over(episode), 240, f"the end of episode {episode}")
        stored = EpisodeStore.open(self.site.work / "episodes")
        until(lambda: len(stored.names()) > episode, 120, f"episode {episode} in the store")

    def over(self, episode: int) -> bool:
        said = [json.loads(message.data) for _, message in list(self.events.messages)]
        return any(each["event"] == "ended" and each["episode"] == episode for each in said)

    def own(self, episode: int, step: int) -> None:
        """The arm from about `step` on, for OWNED steps that begin wherever it is when the hand arrives."""
        until(lambda: self.newest(episode).step >= step, 120, f"step {step}")
        self.intervention.publish(self.flag(data=True))
        time.sleep(0.3)  # the guard waits for the hand now
        begin = self.newest(episode).step + 1
        low, high = self.mapping.spec.low, self.mapping.spec.high
        actions = np.linspace(0.45, 0.55, OWNED)[:, None] * (high - low) + low
        self.takeover.publish(self.message(episode, begin, actions))
        until(lambda: self.newest(episode).step >= begin + OWNED - 1, 120, "the human's last step")
        self.intervention.publish(self.flag(data=False))

    def newest(self, episode: int) -> wire.About:
        for _, message in reversed(list(self.executed.messages)):
            about = wire.parse_header(message.header.frame_id)
            if about.episode == episode:
                return about
        return wire.About(0, episode, -1, 0, 0, 0, "")

    def message(self, episode: int, step: int, actions: np.ndarray) -> Any:
        from robot_value.ros_nodes.steering_node import as_trajectory

        now, schema = time.monotonic_ns(), wire.schema(self.mapping.spec)
        about = wire.About(now, episode, step, 0, now, now, schema, wire.HUMAN)
        return as_trajectory(wire.Plan(about, actions, None, 1 / self.mapping.rate), self.names)


# -- in simulation -----------------------------------------------------------------------------------------------------


class Kept:
    """A watcher that keeps decisions."""

    wants_episodes = False

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        self.decisions.append(decision)


class Handed:
    """The simulated robot; where a human moved the arm, or the guard changed a command, it is moved as recorded."""

    batch_size = 1

    def __init__(self, robot: Any, episode: Episode) -> None:
        self.robot, self.spec, self.episode = robot, robot.spec, episode
        starts = [int(decision.start_step[0]) for decision in episode.decisions]
        self.due = dict(zip(starts, [*starts[1:], len(episode)], strict=True))

    def reset(self, tasks: Sequence[str], seeds: Sequence[int], rows: Sequence[int] | None = None) -> Observation:
        return self.robot.reset(tasks, seeds, rows)

    def execute(self, decision: Decision, follower: Any) -> Outcome:
        step = int(decision.start_step[0])
        source = self.episode.source[step : self.due[step]]
        theirs = self.episode.actions[step : self.due[step]]
        same = np.zeros(len(theirs), bool)
        known = decision.chunk[0, : len(theirs)]
        same[: len(known)] = (theirs[: len(known)] == known).all(1)
        mine = int(((source != HUMAN) & same).cumprod().sum())
        if mine:
            outcome = self.robot.execute(replace(decision, execute=np.array([mine])), follower)
        if mine < len(source):
            theirs = theirs[mine:]
            words = {"chunk": theirs[None], "execute": np.array([len(theirs)]), "start_step": np.array([step + mine])}
            outcome = self.robot.execute(replace(decision, **words), follower)
        return outcome


def in_simulation(site: Site, episodes: Sequence[Episode]) -> list[list[Decision]]:
    """A Steerer and robots of their own; nothing of the recording but the seeds and the human's hand."""
    thinking, found = prepare(site.setup, load(site.topics).spec), []
    with arm(site.steps).build(1, n_obs_steps=HISTORY) as robot:
        for episode in episodes:
            kept, seed = Kept(), [episode.provenance["seed"]]
            follower = thinking.follower()
            run_episodes(Handed(robot, episode), thinking.thinker, follower, [kept], [episode.task], seed)
            found.append(kept.decisions)
    return found


# -- from the recording ------------------------------------------------------------------------------------------------


def from_the_log(site: Site, names: Sequence[str]) -> list[list[Decision]]:
    thinking, found = prepare(site.setup, load(site.topics).spec), []
    for number in range(len(names)):
        kept, robot = Kept(), LoggedRobot(EpisodeStore.open(site.work / "episodes"), names, 1, HISTORY)
        run_episodes(robot, thinking.thinker, thinking.follower(), [kept], seeds=[number])
        found.append(kept.decisions)
    return found


def changed(episode: Episode) -> int:
    """Steps of the policy in which the guard published another command than was decided, rounding included."""
    human = np.zeros(len(episode), bool) if episode.source is None else episode.source == HUMAN
    commanded = episode.actions if episode.commanded is None else episode.commanded
    return int(((episode.actions != commanded).any(1) & ~human).sum())


def lines_that_differ(recorded: Sequence[Decision], again: Sequence[Decision]) -> list[str]:
    lines = [] if len(recorded) == len(again) else [f"{len(recorded)} decisions, now {len(again)}"]
    for ours, theirs in zip(recorded, again, strict=False):
        where = f"step {int(ours.start_step[0])}"
        if (line := differences(ours, theirs)) or ours.versions != theirs.versions:
            lines.append(f"{where}: {line or 'versions'}")
        if int(ours.start_step[0]) != int(theirs.start_step[0]):
            lines.append(f"{where}: now step {int(theirs.start_step[0])}")
    return lines


if __name__ == "__main__":
    main()
