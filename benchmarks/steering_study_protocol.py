"""What `bench_steering` compares and how: fixed before the figures are made, saved with the result.

A pair is a task and a policy. Per task one data set per training seed, two policies of different quality on it (a weak
one cloned from everything, a well-tuned one cloned longer from the successes), and three critics: one for the task, one
with shuffled rewards, one for another task. The recipe is the same everywhere: nothing is tuned per task but the gate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any

from robot_value.recipe import refuse_overlap
from robot_value.scenarios import Part

POLICIES = ("weak", "tuned")
CRITICS = ("main", "shuffled", "other")


@dataclass(frozen=True)
class Task:
    name: str  # of the pair's table
    robot: Part
    horizon: int  # H, control steps in a chunk; all of them are executed
    episodes: int  # per training seed
    # What the third critic is trained for: another task of the same robot (its values here), or, where the robot knows
    # only one, a side of the table to reach: the hand beyond the 90th percentile of the data along this state.
    other: Mapping[str, Any] = field(default_factory=dict)
    reach: str = ""
    test: Mapping[str, Any] = field(default_factory=dict)  # robot values that differ when policies are tested
    policy_steps: int = 6000
    tuned_steps: int = 9000
    critic_steps: int = 2500
    critic: Mapping[str, Any] = field(default_factory=lambda: {"members": 2, "target": "v"})
    designed_on: bool = False  # whether the recipe was chosen looking at this task

    def robot_config(self, values: Mapping[str, Any] | None = None) -> Any:
        return replace(self.robot, values={**self.robot.values, **(values or {})}).config("robots")


LIFT_FAULTS = {"preset": "biased_majority", "p_offset": 0.6, "p_premature": 0.1}
STACK_FAULTS = {"preset": "biased_majority", "p_offset": 0.45, "p_premature": 0.1, "p_early_release": 0.15}
CUBE = {"mode": "play", "goal_bias": 0.5, "max_steps": 120}
OGBENCH = {"expectile": 0.9, "gamma": 0.99, "members": 2, "target": "v"}

TASKS = (
    Task(
        "lift",
        Part("robosuite", {"task": "Lift", "quality": LIFT_FAULTS, "max_steps": 64}),
        horizon=8,
        episodes=300,
        reach="robot0_eef_pos_y",
        designed_on=True,
    ),
    Task(
        "stack",
        Part("robosuite", {"task": "Stack", "quality": STACK_FAULTS, "max_steps": 90}),
        horizon=8,
        episodes=300,
        reach="robot0_eef_pos_y",
    ),
    Task(
        "cube-single-task2",
        Part("ogbench", {"task": "cube-single-task2", **CUBE}),
        horizon=5,
        episodes=300,
        other={"task": "cube-single-task4"},
        test={"mode": "task", "max_steps": 90},
        critic=OGBENCH,
    ),
    Task(
        "cube-single-task4",
        Part("ogbench", {"task": "cube-single-task4", **CUBE}),
        horizon=5,
        episodes=300,
        other={"task": "cube-single-task2"},
        test={"mode": "task", "max_steps": 90},
        critic=OGBENCH,
    ),
)


@dataclass(frozen=True)
class Protocol:
    training_seeds: int = 1  # each with its own data, policies and critics
    selector: str = "softmax_average"  # the recommended default; chosen on Lift's validation seeds in issue 2's demo
    temperature: float = 0.5  # of it, in standard deviations of the candidates' values
    n: int = 16  # N, candidates per decision, of it and of every other arm of the table
    validation_seed: int = 1000  # first environment seed that the gate is calibrated on
    validation_episodes: int = 160  # per training seed
    shadow_episodes: int = 40  # of them, to learn what confidences there are
    quantiles: tuple[float, ...] = (0.5,)  # thresholds beside "always"
    alpha: float = 0.1  # chance that a critic which costs more than the margin is let through
    margin: float = 0.05  # of success, that the gate may cost at worst
    test_seed: int = 8000  # first environment seed of base, recipe and gates; the gate's rule was made without them
    test_episodes: int = 400  # per training seed
    table_seed: int = 4000  # first environment seed of every selector, proposer and guide
    table_episodes: int = 64  # per training seed
    verify_episodes: int = 20  # test seeds on which gates that never act are really played, to compare them to the bit
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # N of the success-by-N curves
    count_episodes: int = 24  # per training seed, of the curves: the first validation seeds
    headroom_episodes: int = 8  # per training seed, test seeds at whose decisions every candidate is tried
    headroom_points: tuple[int, ...] = (0, 2)
    headroom_rollouts: int = 4
    headroom_seconds: float = 300.0  # s per training seed; no block of episodes begins that would not fit
    noise_seed: int = 0  # key of the candidates' noise
    batch: int = 50  # robots that one process simulates at once
    scale: float = 1.0  # multiplies training steps and episodes of data, for a smoke test

    def __post_init__(self) -> None:
        refuse_overlap(self.validation, self.test)
        refuse_overlap(self.validation, self.table)

    @property
    def validation(self) -> range:
        return range(self.validation_seed, self.validation_seed + self.validation_episodes)

    @property
    def test(self) -> range:
        return range(self.test_seed, self.test_seed + self.test_episodes)

    @property
    def table(self) -> range:
        return range(self.table_seed, self.table_seed + self.table_episodes)


def key(*parts: Any) -> str:
    """Short hash of plain values and dataclasses: what was made of something else lies somewhere else."""
    plain = [asdict(part) if is_dataclass(part) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:10]
