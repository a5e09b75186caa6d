"""Paired comparison: every arm plays the same environment seeds with the same candidate noise.

Candidate noise is keyed by (seed, episode, step), so that arms differ by their choice alone until their paths part.
An episode that was unstable under any arm leaves every arm, and is reported. Shape letters: R training seeds, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from . import components
from .calibration import DecisionLog, DecisionTable, calibration, join
from .loop import run_episodes
from .protocols import ChunkPolicy, Critic, Robot, Watcher
from .statistics import bootstrap, mcnemar, paired_difference, wilson
from .steering.panel import Panel
from .steering.steerer import Steerer
from .steering.two_speeds import ThinkAhead

ACTED = (
    "chosen",
    "anytime",
    "base",
)  # Decision.reason where the arm did what it was asked to; anything else counts as abstained


@dataclass(frozen=True)
class Arm:
    """One way to decide; everything else is shared between the arms of a comparison."""

    name: str
    selector: str = "first"
    options: Mapping[str, Any] = field(default_factory=dict)  # the selector's Config fields
    n: int = 1  # N, candidates per decision
    gate: str = "always"
    critic: str | None = None  # key into the critics of the comparison; None for critic-free arms
    gate_options: Mapping[str, Any] = field(default_factory=dict)  # the gate's Config fields
    proposer: str = "samples"
    proposer_options: Mapping[str, Any] = field(default_factory=dict)  # the proposer's Config fields
    guide: str | None = None
    guide_options: Mapping[str, Any] = field(default_factory=dict)  # the guide's Config fields
    also: Mapping[str, str] = field(default_factory=dict)  # named score -> key into the critics
    deadline: float | None = None  # s per decision
    exact: bool = False  # the plain candidate to the bit, for one more call of the policy
    precision: str = "off"  # arithmetic of policy and critic
    follower: str = "plain"
    follower_options: Mapping[str, Any] = field(default_factory=dict)  # the follower's Config fields
    lag: int | None = None  # think ahead: decisions take effect this many steps late; None: the robot waits for them

    def steerer(
        self, policy: ChunkPolicy, critics: Mapping[str, Critic], execute: int, seed: int, device: str = "cpu"
    ) -> Steerer:
        for name in filter(None, (self.critic, *self.also.values())):
            if name not in critics:
                raise ValueError(f"arm {self.name!r}: {components.unknown('critic', name, sorted(critics))}")
        critic = None if self.critic is None else critics[self.critic]
        if self.also:
            critic = Panel(critic, {name: critics[key] for name, key in self.also.items()})
        return Steerer(
            policy,
            critic=critic,
            selector=_part("selectors", self.selector, self.options),
            gate=_part("gates", self.gate, self.gate_options),
            n=self.n,
            execute=execute,
            seed=seed,
            device=device,
            proposer=_part("proposers", self.proposer, self.proposer_options),
            guide=None if self.guide is None else _part("guides", self.guide, self.guide_options),
            deadline=self.deadline,
            exact=self.exact,
            precision=self.precision,
        )


@contextmanager
def _thinking(steerer: Steerer, lag: int | None) -> Iterator[Steerer | ThinkAhead]:
    if lag is None:
        yield steerer
        return
    with closing(ThinkAhead(steerer, lag=lag, lockstep=True)) as thinker:
        yield thinker


def _part(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    return components.load(kind, name).Config(**options).build()


@dataclass(frozen=True)
class ArmResult:
    """What one arm did on every seed."""

    arm: Arm
    success: np.ndarray  # bool[R, S]
    steps: np.ndarray  # int64[R, S], control steps
    reward: np.ndarray  # float64[R, S], undiscounted
    unstable: np.ndarray  # bool[R, S]
    reasons: Mapping[str, int]  # Decision.reason -> decisions
    seconds: Mapping[str, np.ndarray]  # stage -> float64[decision batches], s
    decisions: DecisionTable

    @property
    def abstained(self) -> float:
        """Share of decisions in which the gate or a failure kept the selection from being used."""
        total = sum(self.reasons.values())
        return sum(count for reason, count in self.reasons.items() if reason not in ACTED) / total if total else 0.0

    @property
    def latency_ms(self) -> dict[str, float]:
        """Median per stage and batch of decisions, ms."""
        return {stage: float(np.median(seconds) * 1e3) for stage, seconds in self.seconds.items() if len(seconds)}


@dataclass(frozen=True)
class Comparison:
    """Arms on the same environment seeds, for one training seed or several pooled ones."""

    seeds: tuple[int, ...]  # S environment seeds
    training: tuple[int, ...]  # R training seeds
    arms: Mapping[str, ArmResult]
    gamma: float
    batch_size: int  # rows that latencies were measured with

    @property
    def kept(self) -> np.ndarray:
        """bool[S]: environment seeds that stayed stable under every arm and training seed."""
        return ~np.any([result.unstable.any(0) for result in self.arms.values()], axis=0)

    @property
    def excluded(self) -> list[int]:
        return [seed for seed, kept in zip(self.seeds, self.kept, strict=True) if not kept]

    def result(self, name: str) -> ArmResult:
        if name not in self.arms:
            raise ValueError(components.unknown("arm", name, sorted(self.arms)))
        return self.arms[name]

    def success(self, name: str) -> np.ndarray:
        """bool[R, S'] on the kept seeds."""
        return self.result(name).success[:, self.kept]

    def row(self, name: str) -> dict[str, Any]:
        """The arm's line in results.json."""
        result, success = self.result(name), self.success(name)
        rate = wilson(int(success.sum()), success.size)
        line = {
            "success": rate.mean,
            "n": int(success.size),
            "ci95": rate.ci95,
            "selector": result.arm.selector,
            "options": dict(result.arm.options),
            "candidates": result.arm.n,
            "critic": result.arm.critic,
            "gate": result.arm.gate,
            "proposer": result.arm.proposer,
            "guide": result.arm.guide,
            "abstained": result.abstained,
            "mean_steps": float(result.steps[:, self.kept].mean()),
            "unstable": int(result.unstable.sum()),
            "latency_ms": result.latency_ms,
        }
        if len(self.training) > 1:
            line["per_training_seed"] = success.mean(1).tolist()
            line["ci95_training_seeds"] = bootstrap(success, training=True).ci95
        return line

    def difference(self, arm: str, against: str) -> dict[str, Any]:
        """Paired: mean, bootstrap interval over environment seeds, exact McNemar over all pairs."""
        mine, theirs, result = self.success(arm), self.success(against), self.result(arm)
        interval = paired_difference(mine, theirs)
        line = {
            "arm": arm,
            "against": against,
            "mean": interval.mean,
            "ci95": interval.ci95,
            "p_mcnemar": mcnemar(mine, theirs),
            "gate": result.arm.gate,
            "abstained": result.abstained,
        }
        if len(self.training) > 1:
            line["per_training_seed"] = (mine.mean(1) - theirs.mean(1)).tolist()
            line["p_mcnemar_per_training_seed"] = [mcnemar(*pair) for pair in zip(mine, theirs, strict=True)]
            line["ci95_training_seeds"] = paired_difference(mine, theirs, training=True).ci95
        return line

    def calibration(self, name: str) -> dict[str, Any] | None:
        """Critic value against what happened under this arm; None where the executed chunks were not scored."""
        result = self.result(name)
        column = {seed: i for i, seed in enumerate(self.seeds)}
        row = {training: i for i, training in enumerate(self.training)}
        kept = np.isin(result.decisions.episode, np.array(self.seeds)[self.kept])
        table = result.decisions.where(kept)
        first = table.first()
        keys = zip(table.training[first], table.episode[first], strict=True)
        success = np.array([result.success[row[int(t)], column[int(e)]] for t, e in keys], bool)
        return calibration(table, success, self.gamma)


def compare(
    robot: Robot,
    policy: ChunkPolicy,
    critics: Mapping[str, Critic],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    *,
    execute: int | None = None,
    seed: int = 0,
    training_seed: int = 0,
    gamma: float = 0.98,
    device: str = "cpu",
    watchers: Callable[[Arm], Sequence[Watcher]] = lambda arm: (),
    progress: bool = True,
) -> Comparison:
    """Run every arm on `seeds`. `seed` keys the candidate noise; `gamma` discounts what calibration compares with."""
    _unique("arm names", [arm.name for arm in arms])
    _unique("seeds", list(seeds))
    execute = executed_steps(execute, policy, critics)
    # All are built first: a wrong arm fails before any has run.
    steerers = [arm.steerer(policy, critics, execute, seed, device) for arm in arms]
    results = {}
    for arm, steerer in tqdm(list(zip(arms, steerers, strict=True)), "arms", disable=not progress):
        log = DecisionLog(gamma, training_seed)
        follower = _part("followers", arm.follower, arm.follower_options)
        with _thinking(steerer, arm.lag) as thinker:
            summaries = run_episodes(robot, thinker, follower, (log, *watchers(arm)), seeds=tuple(seeds))
        results[arm.name] = _result(arm, summaries, seeds, log)
    return Comparison(tuple(int(s) for s in seeds), (training_seed,), results, gamma, robot.batch_size)


def pool(comparisons: Sequence[Comparison]) -> Comparison:
    """Several training seeds on the same environment seeds and arms as one comparison."""
    first = comparisons[0]
    for other in comparisons[1:]:
        if other.seeds != first.seeds:
            raise ValueError("pooled comparisons need the same environment seeds; run them on one list of seeds")
        if {n: r.arm for n, r in other.arms.items()} != {n: r.arm for n, r in first.arms.items()}:
            raise ValueError(
                f"pooled comparisons need the same arms, got {sorted(first.arms)} and {sorted(other.arms)}"
            )
    training = tuple(t for comparison in comparisons for t in comparison.training)
    _unique("training seeds", list(training))
    arms = {name: _stack([comparison.arms[name] for comparison in comparisons]) for name in first.arms}
    return replace(first, training=training, arms=arms)


def in_a_row(comparisons: Sequence[Comparison]) -> Comparison:
    """Stretches of environment seeds that the same arms were played on as one comparison."""
    first = comparisons[0]
    seeds = tuple(seed for comparison in comparisons for seed in comparison.seeds)
    _unique("environment seeds", list(seeds))
    arms = {name: _stack([comparison.arms[name] for comparison in comparisons], axis=1) for name in first.arms}
    return replace(first, seeds=seeds, arms=arms)


def executed_steps(execute: int | None, policy: ChunkPolicy, critics: Mapping[str, Critic]) -> int:
    """k, the same for every arm with or without a critic: as told, else what the critics judge, else the horizon."""
    scopes = {critic.scope for critic in critics.values()}
    if execute is None and len(scopes) > 1:
        raise ValueError(f"critics that are compared must judge the same number of steps, got scopes {sorted(scopes)}")
    return execute if execute is not None else scopes.pop() if scopes else policy.spec.horizon


def by_n(arm: Arm, counts: Sequence[int]) -> list[Arm]:
    """The same arm at several N, named "argmax_4" and so on."""
    return [replace(arm, name=f"{arm.name}_{n}", n=n) for n in counts]


def success_by_n(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Selector (and critic, where not the main one) -> points sorted by N: the curve a page shows."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, result in comparison.arms.items():
        success = comparison.success(name)
        rate = wilson(int(success.sum()), success.size)
        point = {"candidates": result.arm.n, "success": rate.mean, "n": int(success.size), "ci95": rate.ci95}
        curves.setdefault(name.removesuffix(f"_{result.arm.n}"), []).append(point)
    return {name: sorted(points, key=lambda point: point["candidates"]) for name, points in curves.items()}


def _result(arm: Arm, summaries: Sequence[Any], seeds: Sequence[int], log: DecisionLog) -> ArmResult:
    found = {int(summary.seed): summary for summary in summaries}
    if missing := [seed for seed in seeds if int(seed) not in found]:
        raise RuntimeError(f"arm {arm.name!r}: the loop returned no episode for seeds {missing[:5]}")
    ordered = [found[int(seed)] for seed in seeds]
    return ArmResult(
        arm=arm,
        success=np.array([[bool(summary.success) for summary in ordered]]),
        steps=np.array([[summary.steps for summary in ordered]], np.int64),
        reward=np.array([[summary.reward for summary in ordered]], float),
        unstable=np.array([[bool(summary.unstable) for summary in ordered]]),
        reasons=dict(log.reasons),
        seconds={stage: np.array(seconds) for stage, seconds in log.seconds.items()},
        decisions=log.table(),
    )


def _stack(results: Sequence[ArmResult], axis: int = 0) -> ArmResult:
    """axis 0: training seeds below each other; 1: environment seeds beside each other."""
    stages = {stage for result in results for stage in result.seconds}
    reasons = {reason for result in results for reason in result.reasons}
    return ArmResult(
        arm=results[0].arm,
        success=np.concatenate([result.success for result in results], axis),
        steps=np.concatenate([result.steps for result in results], axis),
        reward=np.concatenate([result.reward for result in results], axis),
        unstable=np.concatenate([result.unstable for result in results], axis),
        reasons={reason: sum(result.reasons.get(reason, 0) for result in results) for reason in sorted(reasons)},
        seconds={
            stage: np.concatenate([result.seconds.get(stage, np.zeros(0)) for result in results])
            for stage in sorted(stages)
        },
        decisions=join([result.decisions for result in results]),
    )


def _unique(what: str, items: list[Any]) -> None:
    if not items:
        raise ValueError(f"{what}: expected at least one, got none")
    if repeated := sorted({item for item in items if items.count(item) > 1}):
        raise ValueError(f"{what} must differ, got {repeated[:5]} more than once")
