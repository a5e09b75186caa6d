"""The logs that bugs are planted into, with their models: made once, kept, by seed.

Detectors and thresholds were made looking at the development logs; Can, Door and Square were held out in a first round.
The held-out ones are other robots and tasks; nothing but their success rate was looked at before the published run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steering_study_protocol import CUBE, LIFT_FAULTS, STACK_FAULTS, key

from robot_value.collect import collect
from robot_value.episodes import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.scenarios import Part
from robot_value.training import TrainConfig

CAMERA = {"cameras": ["agentview"], "camera_size": 64}
IQL = {"members": 2, "target": "v"}


@dataclass(frozen=True)
class Size:
    episodes: int = 200  # per log, at most
    seeds: int = 2  # of planting, per bug and log
    critics: int = 1  # of each kind per log, by seed
    critic_steps: int = 600
    policy_steps: int = 20  # its candidates are not what is asked about


@dataclass(frozen=True)
class Log:
    name: str
    robot: Part
    horizon: int  # H, control steps in a chunk; all of them are executed
    held_out: bool = False
    critic: Mapping[str, Any] = field(default_factory=dict)  # of the critics that are judged; empty: none
    first_seed: int = 900_000  # of the environments
    most: int = 200  # episodes
    solved: bool = True  # whether some episodes succeed; else there are no labels to swap

    @property
    def pictures(self) -> bool:
        return "cameras" in self.robot.values

    def folder(self, root: Path) -> Path:
        return root / f"{self.name}-{key(self.robot, self.first_seed)}"

    def episodes(self, size: Size) -> int:
        return min(self.most, size.episodes)

    def critics(self, size: Size) -> list[str]:
        """By name."""
        return [f"{kind}{seed}" for kind in ("main", "shuffled") for seed in range(size.critics) if self.critic]


def robosuite(task: str, faults: Mapping[str, Any], max_steps: int, **values: Any) -> Part:
    return Part("robosuite", {"task": task, "quality": faults, "max_steps": max_steps, **values})


def ogbench(task: str, **values: Any) -> Part:
    return Part("ogbench", {"task": task, **CUBE, **values})


LIFT = ("Lift", LIFT_FAULTS, 64)
STACK = ("Stack", STACK_FAULTS, 90)
CAN = ("PickPlaceCan", {"preset": "biased_majority", "p_offset": 0.3, "p_early_release": 0.2}, 170)
DOOR = ("Door", {"preset": "biased_majority", "p_offset": 0.5}, 120)
SQUARE = ("NutAssemblySquare", {"preset": "biased_majority", "p_offset": 0.3, "p_early_release": 0.2}, 130)
JOINT = {"control": "joint_absolute"}
PUZZLE = {"task": "puzzle-3x3-task1", "max_steps": 250, "reward": "success"}
SCENE = {"task": "scene-task1", "mode": "play", "max_steps": 100}
DOUBLE = {"goal_bias": 0.8, "max_steps": 180, "stack": (0.0, 0.25), "reward": "success"}

# Where every step costs the same until the task is solved, as in the cube-single logs, shuffled rewards are no bug: an
# episode's return is minus its length all the same, and that is what a critic learns from them.
LOGS = (
    Log("lift", robosuite(*LIFT), 8, critic=IQL),
    Log("stack", robosuite(*STACK), 8, critic=IQL),
    Log("cube-single-task2", ogbench("cube-single-task2"), 5),
    Log("cube-single-task4", ogbench("cube-single-task4"), 5),
    Log("can", robosuite(*CAN), 10, critic=IQL),
    Log("door", robosuite(*DOOR), 8, critic=IQL),
    Log("square", robosuite(*SQUARE), 10, critic=IQL),
    Log("cube-double-task1", ogbench("cube-double-task1", **DOUBLE), 5, True),
    Log("puzzle-3x3-task1", Part("ogbench", PUZZLE), 5, True, first_seed=920_000),
    Log("scene-task1", Part("ogbench", SCENE), 5, True, first_seed=920_000, solved=False),
    Log("lift_joint", robosuite(*LIFT, **JOINT, **CAMERA), 8, True, first_seed=920_000, most=100),
)


def make(log: Log, root: Path, size: Size, workers: int) -> None:
    """Its episodes."""
    path, episodes = log.folder(root) / "episodes", log.episodes(size)
    if (path / "zarr.json").exists() and len(EpisodeStore.open(path).names()) == episodes:
        return  # collect() reads all of them to know
    config, batch = log.robot.config("robots"), min(20, episodes)
    if collect(config, path, episodes, log.first_seed, workers, batch).interrupted:
        raise KeyboardInterrupt


def train(log: Log, root: Path, which: str, size: Size) -> Path:
    """ "policy", or a critic by name: "main0", "shuffled0", "main1", ..."""
    folder, seed = log.folder(root), int(which[-1]) if which[-1].isdigit() else 0
    steps = size.policy_steps if which == "policy" else size.critic_steps
    if (done := folder / which / f"step_{steps:08d}").exists():
        return done  # fit() reads the data to know
    part = Part("flow") if which == "policy" else Part("iql", {**log.critic, "seed": seed})
    training = TrainConfig(
        folder=str(folder / which),
        steps=steps,
        batch_size=128,
        seed=seed,
        threads=1,
        device="cpu",
        matmul="default",
        progress=False,
        tensorboard=False,
    )
    windowing = Windowing(horizon=log.horizon, reward_shuffle_seed=seed if which.startswith("shuffled") else None)
    config = part.config("policies" if which == "policy" else "critics")
    return fit(Job(str(folder / "episodes"), config, training, windowing))


def last(folder: Path) -> Path:
    return max(folder.glob("step_*"), key=lambda path: int(path.name.split("_")[1]))
