"""What `bench_online` compares and how: fixed before anything is run, saved with the result.

One cloned flow per task and training seed is where every algorithm starts. Its critic (and what it trains beside the
flow) gets `offline_steps` on the offline episodes, then the robot works: rounds, half offline and half own windows in
every batch, `ratio` gradient steps per control step. Nothing is tuned here: values that differ from the components'
defaults say what a CPU asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ogbench_protocol import key

from robot_value.recipe import refuse_overlap
from robot_value.scenarios import Part, Scenario, scenario

__all__ = ["ALGORITHMS", "TASKS", "Algorithm", "Protocol", "Task", "key"]


@dataclass(frozen=True)
class Protocol:
    offline_steps: int = 2000  # of what an algorithm adds to the flow, before the robot works
    batch_size: int = 128  # windows per gradient step, online and offline; RLPD 256, this is for two cores
    hidden: tuple[int, ...] = (256, 256, 256)  # of every critic; Q-chunking's published ones are (512,) * 4
    gamma: float = 0.99  # discount per control step; Q-chunking
    ratio: float = 0.5  # gradient steps per control step: 4 per chunk of 8; Q-chunking 1 per step
    share: float = 0.5  # of every batch that is offline data; RLPD
    per_round: int = 10  # episodes between two versions of the weights
    batch: int = 10  # robots simulated at once
    first_seed: int = 100_000  # of the environment, while learning
    evaluate_seed: int = 3000  # of the environment, for the figures: the same seeds at every evaluation
    evaluate_episodes: int = 50  # at the start and then every `evaluate_every` rounds
    evaluate_every: int = 5
    budget: int = 20_000  # control steps; figures beyond are not shown
    # Steps executed per decision, at which algorithms that act without choosing are played before and after (SRL).
    rates: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """Where the robot works: data and flow are those of the demonstration (`robot-value demo`)."""

    scenario: str
    episodes: int  # that the robot plays: about the protocol's budget
    scale: float = 1.0  # of the scenario's episodes and policy steps
    max_steps: int = 0  # control steps of an episode; 0 is the scenario's
    seeds: int = 10_000  # environment seeds of training seed s: from seeds * (s + 1)

    @property
    def made(self) -> Scenario:
        return scenario(self.scenario)

    def robot(self, test: bool) -> Any:
        values = dict(self.made.test) if test else {}
        return self.made.robot_config(values | ({"max_steps": self.max_steps} if self.max_steps else {}))

    def data_seeds(self, seed: int) -> range:
        first = self.seeds * (seed + 1)
        return range(first, first + max(4, round(self.made.episodes * self.scale)))

    def check(self, protocol: Protocol, seed: int) -> None:
        p = protocol
        figures = range(p.evaluate_seed, p.evaluate_seed + p.evaluate_episodes)
        refuse_overlap(self.data_seeds(seed), figures)
        refuse_overlap(range(p.first_seed, p.first_seed + self.episodes), figures)


TASKS = {
    "lift": Task("lift", episodes=400),  # 64 steps at most
    "can": Task("can", episodes=100),  # 220
    "cube": Task("cube", episodes=120),  # 200
}


@dataclass(frozen=True)
class Algorithm:
    """A critic, the policy that learns beside it, and how both act. `flags` is what `train online` is told."""

    name: str
    learn: str  # critic | policy | both
    critic: Part | None = None  # None: nothing judges
    policy: Part | None = None  # what stands on the cloned flow; None: the flow itself
    selector: str = "first"  # how one of the candidates is chosen
    n: int = 1  # candidates when acting
    source: str = ""
    joint: Mapping[str, int] = field(default_factory=dict)  # how a critic and a policy learn together
    options: Mapping[str, float] = field(default_factory=dict)  # of the selector

    def critic_config(self, protocol: Protocol, seed: int) -> Any:
        """The protocol's discount and widths; weights keyed by the training seed."""
        shared = {"gamma": protocol.gamma, "hidden": list(protocol.hidden), "seed": seed}
        return Part(self.critic.name, {**shared, **self.critic.values}).config("critics")

    def policy_config(self, seed: int) -> Any:
        values = dict(self.policy.values)
        seeded = values if self.policy.name == "advantage_weighted" else {"seed": seed} | values  # it adds no weights
        return Part(self.policy.name, seeded).config("policies")

    @property
    def offline_flags(self) -> str:
        """What is added to `robot-value train --data=DATA --base=POLICY`."""
        parts = [*self.critic.flags("critic"), *(self.policy.flags("policy") if self.policy else [])]
        return " ".join(parts + self._together)

    @property
    def online_flags(self) -> str:
        """What is added to `robot-value train online --robot... --data=DATA --policy=POLICY [--critic=CRITIC]`."""
        parts = [f"--schedule.learn={self.learn}"]
        if self.critic:
            chosen = [f"--selector.{name}={value}" for name, value in self.options.items()]
            parts += [f"--selector.type={self.selector}", *chosen, f"--n={self.n}"]
        return " ".join(parts + self._together)

    @property
    def _together(self) -> list[str]:
        return [f"--joint.{name}={value}" for name, value in self.joint.items()]


FEW = {"candidates": 8}  # N of a backup, Q-chunking 32, EXPO 16: what two cores can do
ALGORITHMS = (
    Algorithm("bc", "policy", source="baseline, cloning alone"),
    Algorithm(
        "rlpd_n_step",
        "critic",
        Part("n_step", {"backup": "best_of_n", "candidates": 4, "members": 10, "aggregate": "subset_min"}),
        selector="argmax",
        n=4,
        source="baseline, RLPD 2302.02948 of one action",
    ),
    Algorithm("rlpd", "both", Part("rlpd"), Part("one_step"), source="RLPD 2302.02948 on chunks, FQL's actor"),
    Algorithm("qc", "both", Part("qc", FEW), selector="argmax", n=8, source="Q-chunking 2507.07969"),
    Algorithm("qc_fql", "both", Part("qc_fql"), Part("one_step"), source="QC-FQL 2507.07969"),
    Algorithm("cal_ql", "critic", Part("cal_ql", {"samples": 2}), selector="argmax", n=8, source="Cal-QL 2303.05479"),
    Algorithm(
        "iql", "both", Part("iql", {"expectile": 0.9}), selector="argmax", n=8, source="IQL 2110.06169, IFQL's actor"
    ),
    Algorithm(
        "iql_average",
        "critic",
        Part("iql", {"members": 2, "target": "v", "gamma": 0.98}),
        selector="softmax_average",
        n=16,
        source="the recipe of `robot-value demo`; Q-Planning 2608.21204's average",
        options={"temperature": 0.5},
    ),
    Algorithm(
        "expo",
        "both",
        Part("expo", FEW),
        Part("edit"),
        selector="argmax",
        n=8,
        joint={"critic_updates": 2},
        source="EXPO 2507.07986",
    ),
    Algorithm("aloe", "both", Part("aloe"), Part("advantage_weighted"), source="ALOE 2602.12691"),
    Algorithm("dsrl", "both", Part("noise_critic", {"candidates": 1}), Part("noise"), source="DSRL-NA 2506.15799"),
    Algorithm("ro2o", "both", Part("ro2o"), Part("one_step"), source="RO2O 2309.16973, FQL's actor"),
)
