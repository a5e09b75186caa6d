"""How many steps an expert must correct until the robot works alone: RLIF against cloning the same kind of corrections.

A policy cloned from mediocre episodes works; a scripted expert takes over when a judge's value falls (a critic of the
task's reward that never learns on, the same for all), and gives the arm back. RLIF (Luo et al. 2024) rewards only not
being corrected: `rlif` learns a critic that chooses among the chunks of the policy as it is, `rlif_policy` a policy
too, cloning what has an advantage. DAgger (Kelly et al. 2019) clones the corrections. Paired by training seed: same
episodes to begin with, same policy, same judge, same environment seeds. Alone, on fixed seeds of their own, all are
evaluated every few rounds. Resumable; writes OUT/interventions.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from ogbench_protocol import key

from robot_value import checkpoint
from robot_value.arms import MAIN
from robot_value.collect import collect
from robot_value.evaluate import Arm
from robot_value.fit import Job, Windowing, fit
from robot_value.online.guard_rails import GuardRails
from robot_value.online.learning import OnlineJob, Schedule, train_online
from robot_value.online.supervised import Config as Supervisor
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic
from robot_value.scenarios import LIFT, Part, Scenario
from robot_value.statistics import wilson
from robot_value.training import TrainConfig

TARGET = 0.9  # of the evaluation's episodes


@dataclass(frozen=True)
class Method:
    learn: str
    interventions: str  # what human steps mean to the learner
    share: float  # of every batch that is offline data
    arm: Arm  # how it acts


METHODS = {
    # offline episodes were never supervised: "nobody corrected this" is not known of their mistakes
    "rlif": Method("critic", "rlif", 0.0, Arm("rlif", "argmax", n=16, critic=MAIN)),
    "rlif_policy": Method("both", "rlif", 0.0, Arm("rlif_policy", "argmax", n=16, critic=MAIN)),
    # 16 here too, of which the first is executed: what the judge sees is as little noise as with RLIF
    "dagger": Method("policy", "dagger", 0.5, Arm("dagger", n=16)),
}


@dataclass(frozen=True)
class Protocol:
    """Fixed before anything is run, and saved with the result."""

    made: Scenario = LIFT  # offline episodes, policy and judge as in `robot-value demo`
    expert: Mapping[str, Any] = field(default_factory=lambda: {"quality": {"preset": "clean"}})  # of the human
    # the judge's values lie in [0, 1]; of 20 Lift episodes of another clone it took over 9 in 10 of the failing ones
    supervisor: Supervisor = Supervisor(drop=0.2, hold=8)
    critic: Part = Part("rlpd", {"members": 4})  # RLIF's, on the policy's chunks; RLPD has 10 members
    actor: Part = Part("advantage_weighted")  # what RLIF trains where the policy learns too
    episodes: int = 300  # that the robot works, supervised
    per_round: int = 10
    ratio: float = 0.5  # gradient steps per control step
    batch_size: int = 128  # windows per gradient step
    evaluate_every: int = 3  # rounds
    evaluate_episodes: int = 50  # alone, always the same environment seeds
    seeds: int = 10_000  # environment seeds of training seed s: from seeds * (s + 1)

    def data_seeds(self, seed: int) -> range:
        return range(self.seeds * (seed + 1), self.seeds * (seed + 1) + self.made.episodes)


def main() -> None:
    arguments = parse()
    started, out = time.monotonic(), Path(arguments.out)
    protocol = quick() if arguments.quick else Protocol()
    cells = run(protocol, range(arguments.training_seeds), arguments.methods, out)
    report = {"format_version": 1, **provenance(started), **described(protocol, arguments.training_seeds)}
    report |= summary(cells) | {"rows": cells}
    write_atomic(out / "interventions.json", json.dumps(plain(report), indent=1) + "\n")
    for name, line in report["methods"].items():
        print(f"{name}: 90 % reached by {line['reached']} of {line['cells']}, expert steps {line['expert_steps']}")


def run(
    protocol: Protocol, seeds: Sequence[int], methods: Sequence[str], out: Path, actor: Executor | None = None
) -> list[dict[str, Any]]:
    """A cell per training seed and method; those that are there are read."""
    cells = []
    for seed in seeds:
        root = out / f"{protocol.made.robot.name}-{key(protocol)}" / f"seed_{seed}"
        for name in methods:
            path = root / f"{name}.json"
            if not path.exists():
                found = cell(protocol, seed, name, root, actor)
                write_atomic(path, json.dumps(plain(found), indent=1) + "\n")
            cells.append(json.loads(path.read_text()))
    return cells


def cell(protocol: Protocol, seed: int, name: str, root: Path, actor: Executor | None) -> dict[str, Any]:
    p, method, began = protocol, METHODS[name], time.monotonic()
    begin = start(p, seed, root)
    schedule = Schedule(
        folder=str(root / name),
        learn=method.learn,
        episodes=p.episodes,
        per_round=p.per_round,
        ratio=p.ratio,
        share=method.share,
        batch_size=p.batch_size,
        first_seed=100_000,
        seed=seed,
        evaluate_every=p.evaluate_every,
        evaluate_episodes=p.evaluate_episodes,
        evaluate_seed=5000,
        device="cpu",
        progress=False,
        tensorboard=False,
        interventions=method.interventions,
    )
    job = OnlineJob(
        robot=p.made.robot_config({**p.made.test, **p.expert}),
        policy=str(begin.actor if method.learn == "both" else begin.policy),
        critic="" if method.learn == "policy" else str(begin.critic),
        data=str(root / "episodes") if method.share else "",
        arm=method.arm,
        schedule=schedule,
        supervisor=replace(p.supervisor, judge=str(begin.judge)),
        rails=GuardRails(alpha=0.0),  # no roll-backs: what a method does shows
    )
    progress = json.loads((train_online(job, actor) / "progress.json").read_text())
    return {"method": name, "seed": seed, **curve(progress), "seconds": time.monotonic() - began}


@dataclass(frozen=True)
class Start:
    """Checkpoints that all methods of a training seed begin with."""

    policy: Path  # cloned
    judge: Path
    critic: Path  # knows nothing: one gradient step
    actor: Path  # the same policy, to be trained by that critic


def start(protocol: Protocol, seed: int, root: Path) -> Start:
    p, data = protocol, root / "episodes"
    collect(p.made.robot_config(), data, p.made.episodes, p.data_seeds(seed)[0], workers=2, batch_size=16)

    def train(name: str, config: Any, steps: int, **more: Any) -> Path:
        made = TrainConfig(folder=str(root / name), steps=steps, seed=seed, threads=1, device="cpu", progress=False)
        return fit(Job(str(data), config, made, Windowing(p.made.horizon), **more))

    policy = train("policy", p.made.model_config("policy", seed), p.made.policy_steps)
    judge = train("judge", p.made.model_config("critic", seed), p.made.critic_steps)
    critic = replace(p.critic, values={**p.critic.values, "seed": seed}).config("critics")
    train("fresh", critic, 1, base=str(policy), policy=p.actor.config("policies"))
    return Start(policy, judge, *(checkpoint.newest(root / "fresh" / name) for name in ("critic", "policy")))


def curve(progress: Mapping[str, Any]) -> dict[str, Any]:
    """Success alone against expert steps until then. `expert_steps` is where the target was first reached, or None."""
    spent, steps, points = 0, 0, {0: 0}  # control steps -> expert steps
    for each in progress["rounds"]:
        spent, steps = spent + sum(each["human_steps"]), steps + sum(each["steps"])
        points[steps] = spent
    evaluations = [
        {"env_steps": each["env_steps"], "expert_steps": points[each["env_steps"]], **rate(each["success"])}
        for each in progress["evaluations"]
        if each["version"] is not None  # None: the plain policy, where a critic steers
    ]
    reached = [each["expert_steps"] for each in evaluations if each["success"] >= TARGET]
    return {
        "expert_steps": reached[0] if reached else None,
        "expert_steps_in_all": spent,
        "env_steps": steps,
        "evaluations": evaluations,
    }


def rate(success: Sequence[bool]) -> dict[str, Any]:
    found = wilson(sum(success), len(success))
    return {"success": found.mean, "n": len(success), "ci95": found.ci95}


def summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By method; and by training seed which of RLIF and DAgger needed fewer expert steps."""
    names = list(dict.fromkeys(each["method"] for each in cells))
    methods = {name: of_method([each for each in cells if each["method"] == name]) for name in names}
    needed = {(each["method"], each["seed"]): each["expert_steps"] for each in cells}
    pairs = [
        {"seed": seed, "arm": name, name: steps, "dagger": needed["dagger", seed], "fewer": fewer(needed, name, seed)}
        for (name, seed), steps in needed.items()
        if name != "dagger" and ("dagger", seed) in needed
    ]
    return {"target": TARGET, "methods": methods, "pairs": pairs}


def of_method(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    reached = [each["expert_steps"] for each in cells if each["expert_steps"] is not None]
    return {
        "cells": len(cells),
        "reached": len(reached),
        "expert_steps": [each["expert_steps"] for each in cells],
        "median_of_those_that_reached": median(reached) if reached else None,
        "last_success": [each["evaluations"][-1]["success"] for each in cells],
    }


def fewer(needed: Mapping[tuple[str, int], int | None], name: str, seed: int) -> str:
    """A method that never got there needs more than one that did; "unknown" where neither did."""
    arm, dagger = (float("inf") if needed[each, seed] is None else needed[each, seed] for each in (name, "dagger"))
    if arm == dagger:
        return "unknown" if arm == float("inf") else "neither"
    return name if arm < dagger else "dagger"


def described(protocol: Protocol, seeds: int) -> dict[str, Any]:
    p = protocol
    return {
        "task": p.made.title,
        "policy": f"{p.made.policy.name}, {p.made.policy_steps} steps on {p.made.episodes} episodes",
        "critic": f"{p.critic.name}, from nothing",
        "seeds": {
            "training": list(range(seeds)),
            "supervised": [100_000, 100_000 + p.episodes - 1],
            "test": [5000, 5000 + p.evaluate_episodes - 1],
        },
        "protocol": asdict(p),
        "recipes": {name: asdict(method) for name, method in METHODS.items()},
    }


def quick() -> Protocol:
    """A smoke test without MuJoCo: tiny sizes, no meaning."""
    tiny = {"hidden": [16]}
    made = replace(
        LIFT,
        title="first-order arm",
        robot=Part("first_order", {"max_steps": 16}),
        episodes=4,
        policy=Part("flow", {"width": 16, "depth": 1}),
        policy_steps=4,
        critic=Part("iql", tiny),
        critic_steps=4,
    )
    return Protocol(
        made=made,
        expert={},
        supervisor=Supervisor(drop=0.0, probability=0.5, hold=1),
        critic=Part("rlpd", {**tiny, "members": 2}),
        actor=Part("advantage_weighted", {"samples": 1}),
        episodes=4,
        per_round=2,
        ratio=0.2,
        batch_size=16,
        evaluate_every=1,
        evaluate_episodes=2,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--training-seeds", type=int, default=3, help="each with its own data, policy and judge")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="cells to run")
    parser.add_argument("--out", default="outputs/interventions", help="folder of everything; cells there are kept")
    parser.add_argument("--quick", action="store_true", help="a smoke test on the first-order arm")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.training_seeds, arguments.out = 1, arguments.out + "_quick"
    return arguments


if __name__ == "__main__":
    main()
