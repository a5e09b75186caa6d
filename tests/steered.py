"""What tests of steering over topics share: a two-joint arm, tiny checkpoints, arm and guard inside the process."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml

from robot_value import checkpoint, topics, wire
from robot_value.critics import sarsa
from robot_value.deploy.ticking import Start
from robot_value.normalize import Statistics
from robot_value.policies import flow
from robot_value.ros_nodes.arm_robot import ArmRobot, Driving
from robot_value.types import Spec

SECOND = 1_000_000_000
TOPICS = """
rate: {rate}
max_skew: .inf
state:
  - {{topic: /joint_states, type: sensor_msgs/msg/JointState, joints: [j1, j2], unit: rad, max_age: {max_age}}}
action:
  - name: arm
    topic: /arm/commands
    type: trajectory_msgs/msg/JointTrajectory
    joints: [j1, j2]
    kind: joint
    unit: rad
    low: [-1.0, -1.0]
    high: [1.0, 1.0]
    max_age: 0.5
cameras: {cameras}
"""
CAMERA = (
    "[{name: front, topic: /front, type: sensor_msgs/msg/Image, height: 6, width: 8, encoding: rgb8, max_age: 0.2}]"
)


def topics_file(folder: Path, rate: float = 50.0, camera: bool = True, max_age: float = 0.1) -> Path:
    path = folder / "topics.yaml"
    path.write_text(TOPICS.format(rate=rate, max_age=max_age, cameras=CAMERA if camera else "[]"))
    return path


@cache
def mapping(rate: float = 50.0, camera: bool = True, max_age: float = 0.1) -> topics.Topics:
    return topics.parse(yaml.safe_load(TOPICS.format(rate=rate, max_age=max_age, cameras=CAMERA if camera else "[]")))


def statistics(spec: Spec, std: float = 0.5) -> dict[str, Statistics]:
    def of(size: int) -> Statistics:
        one = np.ones(size, np.float32)
        return Statistics(mean=0 * one, std=std * one, low=-one, high=one, count=9)

    return {"state": of(spec.state_dim), "action": of(spec.action_dim)}


def save_models(folder: Path, spec: Spec, horizon: int = 8, scope: int = 4, n_obs_steps: int = 2) -> tuple[Path, Path]:
    """Untrained flow policy and critic of this contract: any numbers do for comparing bits."""
    chosen, found = spec.choose(horizon=horizon, n_obs_steps=n_obs_steps), []
    configs = {
        ("policies", "flow"): flow.Config(width=16, depth=1, sample_steps=2),
        ("critics", "sarsa"): sarsa.Config(scope=scope, hidden=(16,), members=2),
    }
    for (kind, name), config in configs.items():
        torch.manual_seed(0)
        model = config.build(chosen, statistics(chosen))
        folder_of = folder / name
        words = {"kind": kind, "name": name, "config": asdict(config), "spec": chosen, "statistics": statistics(chosen)}
        checkpoint.save(folder_of, **words, tensors=model.state_dict())
        found.append(folder_of)
    return tuple(found)


def stamp(ns: int) -> SimpleNamespace:
    return SimpleNamespace(sec=ns // SECOND, nanosec=ns % SECOND)


def joint_state(position, ns: int = 0, frame: str = "") -> SimpleNamespace:
    header = SimpleNamespace(stamp=stamp(ns), frame_id=frame)
    return SimpleNamespace(header=header, name=["j2", "j1"], position=[float(position[1]), float(position[0])])


def picture(number: int, ns: int = 0, frame: str = "") -> SimpleNamespace:
    """Its pixels say which one it is."""
    header = SimpleNamespace(stamp=stamp(ns), frame_id=frame)
    data = np.full((6, 8, 3), number % 256, np.uint8).tobytes()
    return SimpleNamespace(header=header, height=6, width=8, encoding="rgb8", step=24, data=data)


def command(action, about: wire.About, period: float) -> SimpleNamespace:
    point = SimpleNamespace(positions=list(map(float, action)), velocities=[], time_from_start=stamp(int(period * 1e9)))
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=wire.header(about)), joint_names=["j1", "j2"], points=[point]
    )


def first_order(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float32[2]: half of the way per control step."""
    return (position + np.float32(0.5) * (target - position)).astype(np.float32)


def where_it_starts(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, 2).astype(np.float32)


@dataclass
class LockstepArm:
    """Outbox, guard and arm in one: every planned step is executed at once and answered with the next state.

    `human` are the control steps that a human owns, who moves to `hand`; at a release plans made before it are dropped.
    """

    robot: ArmRobot | None = None
    human: range = range(0)
    hand: tuple[float, float] = (0.2, -0.2)
    camera: bool = True
    said: list[tuple[str, object]] = field(default_factory=list)  # everything that went out, in order

    def begin(self, start: Start) -> None:
        self.start, self.step_now, self.position = start, 0, where_it_starts(start.seed)
        self.robot.turn.begin(start)
        self.publish()

    def plan(self, plan: wire.Plan) -> None:
        self.said.append(("plan", plan))
        assert plan.about.step == self.step_now, "the steps of a plan begin where the arm is"
        for action in plan.actions:
            if self.step_now in self.human:
                self.take_over()
                return
            self.execute(action, wire.POLICY)

    def take_over(self) -> None:
        self.robot.intervention(True)
        for _ in self.human:
            self.execute(np.array(self.hand), wire.HUMAN)
        self.robot.intervention(False)

    def execute(self, action: np.ndarray, source: str) -> None:
        about = wire.About(self.step_now, self.start.episode, self.step_now, 1, 0, 0, "", source)
        self.robot.executed(command(action, about, self.robot.spec.dt))
        self.position = first_order(self.position, np.asarray(action, np.float32))
        self.step_now += 1
        self.publish()

    def publish(self) -> None:
        frame = f"{self.start.episode}:{self.step_now}"
        ns = round(self.step_now * self.robot.spec.dt * 1e9)
        self.robot.receive("/joint_states", joint_state(self.position, ns, frame))
        if self.camera:
            self.robot.receive("/front", picture(self.step_now, ns, frame))

    def step(self, about, arrays) -> None:
        self.said.append(("step", (about, arrays["state"])))

    def decision(self, decision) -> None:
        self.said.append(("decision", decision))

    def ended(self, episode: int, steps: int, why: str) -> None:
        self.said.append(("ended", (episode, steps, why)))

    def heard(self, what: str) -> list:
        return [value for kind, value in self.said if kind == what]


class LiveArm(LockstepArm):
    """The same in real time: a thread moves the arm to the newest plan's action that is due and publishes its state."""

    def __init__(self, camera: bool = True, period: float = 0.005) -> None:
        super().__init__(camera=camera)
        self.period, self.newest, self.position = period, None, np.zeros(2, np.float32)
        self.silent: set[str] = set()  # topics that say nothing
        self._stop, self._thread, self._count = threading.Event(), None, 0

    def __enter__(self):
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def begin(self, start: Start) -> None:
        self.start = start
        self.robot.turn.begin(start)

    def plan(self, plan: wire.Plan) -> None:
        self.said.append(("plan", plan))
        self.newest = plan

    def _run(self) -> None:
        while not self._stop.wait(self.period):
            if self.robot is None:
                continue
            self._count += 1
            now, plan = time.monotonic_ns(), self.newest
            if plan is not None:
                due = (now - plan.about.start) / 1e9 / plan.dt
                if 0 <= due < len(plan.actions):
                    action = plan.actions[int(due)]
                    about = wire.About(
                        self._count, plan.about.episode, plan.about.step + int(due), now, 0, 0, "", wire.POLICY
                    )
                    self.robot.executed(command(action, about, self.period))
                    self.position = first_order(self.position, action.astype(np.float32))
            if "/joint_states" not in self.silent:
                self.robot.receive("/joint_states", joint_state(self.position, time.time_ns()))
            if self.camera and "/front" not in self.silent:
                self.robot.receive("/front", picture(self._count, time.time_ns()))


def arm_robot(arm: LockstepArm, n_obs_steps: int = 2, rate: float = 50.0, max_age: float = 0.1, **driving) -> ArmRobot:
    arm.robot = ArmRobot(mapping(rate, arm.camera, max_age), arm, Driving(**driving), n_obs_steps)
    return arm.robot
