"""The work behind `bench_online`: data, the flow, what each algorithm adds offline, and one cell's online run.

A cell is (task, algorithm, training seed). Everything lies in a folder named by what it was made of, so that an
interrupted bench goes on where it was, in the middle of a cell too, and nothing stale is reused.
"""

from __future__ import annotations

import json
import time
import traceback
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from online_protocol import Algorithm, Protocol, Task, key

from robot_value.arms import MAIN
from robot_value.collect import collect
from robot_value.evaluate import Arm
from robot_value.fit import Job, Windowing, fit
from robot_value.learners import Joint
from robot_value.online.decision_rates import at_rates
from robot_value.online.guard_rails import GuardRails
from robot_value.online.learning import OnlineJob, Schedule, train_online
from robot_value.results import plain, write_atomic
from robot_value.scenarios import Scenario
from robot_value.training import TrainConfig, load_policy


@dataclass(frozen=True)
class Cell:
    task: Task
    algorithm: Algorithm
    seed: int  # of training
    protocol: Protocol
    out: Path

    @property
    def root(self) -> Path:
        """What all algorithms of a task and training seed share: the episodes and the flow."""
        return self.out / f"{self.task.scenario}-{key(self.task, about(self.task.made))}" / f"seed{self.seed}"

    @cached_property
    def folder(self) -> Path:
        return self.root / f"{self.algorithm.name}-{key(self.protocol, replace(self.algorithm, source=''))}"

    def read(self) -> dict[str, Any] | None:
        path = self.folder / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def about(scenario: Scenario) -> dict[str, Any]:
    return asdict(scenario)


def run_cell(cell: Cell, workers: int = 2, retry: bool = False, actor: Executor | None = None) -> dict[str, Any]:
    """Offline weights, then online; what goes wrong is the cell's result as well. Ctrl-C leaves it half done."""
    found = cell.read()
    if found and not (retry and found["status"] == "failed"):
        return found
    started = time.monotonic()
    try:
        result = {"status": "done", **_measure(cell, workers, actor)}
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, {last.name}"
        result = {"status": "failed", "error": f"{type(error).__name__}: {error}", "where": where}
    about = {"task": cell.task.scenario, "algorithm": cell.algorithm.name, "seed": cell.seed}
    result = {**about, **result, "wall_seconds": time.monotonic() - started, "config": asdict(cell.algorithm)}
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(cell.folder / "result.json", json.dumps(plain(result), indent=1) + "\n")
    return result


def _measure(cell: Cell, workers: int, actor: Executor | None) -> dict[str, Any]:
    cell.task.check(cell.protocol, cell.seed)
    data, flow = make_data(cell, workers), make_flow(cell)
    began = time.monotonic()
    policy, critic = make_offline(cell, flow)
    learning = time.monotonic()
    job = online_job(cell, data, policy, critic)
    folder = train_online(job, *([] if actor is None else [actor]))
    online = time.monotonic()
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    rounds, trials = progress["rounds"], {trial["version"]: trial for trial in progress["evaluations"]}
    evaluations = [{key: trial[key] for key in ("env_steps", "success")} for trial in trials.values()]
    return {
        "plain": trials.get(None, trials[0])["success"],  # of the policy alone, by evaluation seed
        "start": trials[0]["success"],  # of the offline weights
        "evaluations": [each for each in evaluations if each["env_steps"]],
        "episodes": {"success": [each["success"] for each in rounds], "steps": [each["steps"] for each in rounds]},
        "updates": rounds[-1]["update"],
        "refused": rounds[-1]["refused"],
        "seconds": {"offline": learning - began, "online": online - learning},
        "learning_seconds": [each["seconds"]["learning"] for each in rounds],
        "rates": _rates(cell, job, folder) if cell.protocol.rates and cell.algorithm.selector == "first" else None,
    }


def make_data(cell: Cell, workers: int) -> Path:
    """The scenario's episodes of mixed quality; what is there is not played again."""
    path, seeds = cell.root / "episodes", cell.task.data_seeds(cell.seed)
    done = collect(cell.task.robot(False), path, len(seeds), seeds[0], workers, cell.protocol.batch, progress=False)
    if done.interrupted:
        raise KeyboardInterrupt
    return path


def make_flow(cell: Cell) -> Path:
    """The cloned flow where every algorithm of this task and training seed starts."""
    scenario = cell.task.made
    steps = max(20, round(scenario.policy_steps * cell.task.scale))
    return fit(_job(cell, scenario.model_config("policy", cell.seed), cell.root / "flow", steps, 256))


def make_offline(cell: Cell, flow: Path) -> tuple[Path, Path | None]:
    """The algorithm's own policy (or the flow) and critic after `offline_steps` on the offline episodes."""
    algorithm, protocol = cell.algorithm, cell.protocol
    if algorithm.critic is None:
        return flow, None
    config, folder = algorithm.critic_config(protocol, cell.seed), cell.folder / "offline"
    job = replace(_job(cell, config, folder, protocol.offline_steps, protocol.batch_size), base=str(flow))
    if algorithm.policy is None:
        return flow, fit(job)
    fit(replace(job, policy=algorithm.policy_config(cell.seed), joint=Joint(**algorithm.joint)))
    return folder / "policy", folder / "critic"


def online_job(cell: Cell, data: Path, policy: Path, critic: Path | None) -> OnlineJob:
    p, algorithm = cell.protocol, cell.algorithm
    schedule = Schedule(
        folder=str(cell.folder / "online"),
        learn=algorithm.learn,
        episodes=cell.task.episodes,
        per_round=p.per_round,
        ratio=p.ratio,
        share=p.share,
        batch_size=p.batch_size,
        first_seed=p.first_seed,
        seed=cell.seed,
        evaluate_every=p.evaluate_every,
        evaluate_episodes=p.evaluate_episodes,
        evaluate_seed=p.evaluate_seed,
        device="cpu",
        progress=False,
        tensorboard=False,
    )
    judged = MAIN if critic else None
    arm = Arm(algorithm.name, algorithm.selector, dict(algorithm.options), algorithm.n, critic=judged)
    where = {"policy": str(policy), "critic": str(critic or ""), "data": str(data)}
    never = GuardRails(alpha=0)  # no version is rolled back: the dip is part of the figure
    told = {"schedule": schedule, "joint": Joint(**algorithm.joint), "batch_size": p.batch, "rails": never}
    return OnlineJob(cell.task.robot(True), **where, arm=arm, **told)


def _rates(cell: Cell, job: OnlineJob, folder: Path) -> dict[str, Any]:
    """The offline and the last policy at several decision rates."""
    seeds = range(cell.protocol.evaluate_seed, cell.protocol.evaluate_seed + cell.protocol.evaluate_episodes)
    last = folder / "policy" if cell.algorithm.learn == "both" else folder
    found = {}
    for name, path in (("start", Path(job.policy)), ("final", last)):
        policy = load_policy(path)
        with closing(job.robot.build(cell.protocol.batch, 0, policy.spec.n_obs_steps)) as robot:
            rates = at_rates(robot, policy, seeds, cell.protocol.rates, cell.seed)
        found[name] = {"success": rates.success.astype(int).tolist(), "averaged": rates.averaged}
    return {"hertz": rates.hertz, **found}


def _job(cell: Cell, config: Any, folder: Path, steps: int, batch_size: int) -> Job:
    training = TrainConfig(
        folder=str(folder),
        steps=steps,
        batch_size=batch_size,
        seed=cell.seed,
        threads=1,
        device="cpu",
        matmul="default",  # the same products on every machine of a kind
        validation_fraction=0.0,
        progress=False,
        tensorboard=False,
    )
    return Job(str(cell.root / "episodes"), config, training, Windowing(horizon=cell.task.made.horizon))
