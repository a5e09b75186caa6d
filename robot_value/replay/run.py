"""`robot-value replay`, whole: the pass in parts that survive an interruption, every diagnosis, tables and the page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..arms import MAIN
from ..episodes.manifest import canonical, sha256
from ..evaluate import Arm
from ..playing import Models, Trained, load
from ..protocols import Watcher
from ..provenance import command, provenance
from ..steering.steerer import Steerer
from . import diagnoses, results, tables
from .alternatives import Alternatives, comparable
from .diagnoses import Diagnosis
from .logged_robot import LoggedRobot
from .logs import Ahead, Log, Opener
from .outliers import States
from .page import write_page
from .replayed import Replayed, join
from .report import Report
from .rerun_export import worth_a_look, write_rrd
from .scribe import Onlooker, replay
from .sensitivity import Shuffle

PART = 50  # episodes, at least, that one file of `.parts` holds
GAMMA = 0.99  # per control step, where a critic does not say
TEMPERATURE = 0.5  # of the arms that need one and are only compared
SHUFFLED_EVERY = 4  # batches of decisions of which one is asked about every input: that costs a score per input


@dataclass(frozen=True)
class Job:
    """What is replayed. Everything that changes an answer is in here or in the checkpoints' versions."""

    opener: Opener
    names: tuple[str, ...]  # episodes, in order
    models: Models  # its critic "main" steers
    arm: Arm
    execute: int | None = None  # k, steps that a decision is for; None: the critic's scope
    every: int | None = None  # control steps between decisions; None: where the log decided, else `execute`
    gamma: float | None = None  # per control step; None: the critic's
    seed: int | None = None  # key of the candidates' noise; None: the one the log was recorded with, else 0
    batch_size: int = 50  # episodes replayed side by side
    workers: int = 1  # processes that read episodes; 0: a thread of this one


@dataclass(frozen=True)
class Pass:
    """A pass and what made it."""

    replayed: Replayed
    steerer: Steerer
    trained: Trained


def write(
    job: Job,
    out: Path,
    with_tables: bool = True,
    evaluation: bool = True,
    progress: bool = True,
    rerun: int = 0,  # episodes that become .rrd files
    display: Any = None,  # Config of a displays component that shows the pass
) -> list[Path]:
    """Everything into the folder `out`; returns the files to look at, the page first."""
    began = time.monotonic()
    if rerun and find_spec("rerun") is None:
        raise ValueError("rerun: expected rerun-sdk, got none; `pip install 'robot_value[view]'`, or go without it")
    if with_tables and find_spec("pyarrow") is None:
        raise ValueError("tables: expected pyarrow, got none; `pip install pyarrow`, or go without by --tables=false")
    log = Ahead.of(job.opener(), job.names, job.batch_size, job.opener, job.workers)
    with closing(log):
        log.begin(job.names[0])  # while the models are loaded
        with nullcontext() if display is None else display.build(log.spec, "replay") as shown:
            found = play(job, log, out / ".parts", onlookers, progress, () if shown is None else (shown,))
        said = diagnoses.all_of(found.replayed, log, evaluation)
        about = report(job, log, found, said)
        made = [write_page(out, about, progress=progress)]
        if rerun:
            made += write_rrd(out / "rerun", replace(about, log=log.log), worth_a_look(about, rerun))
    made.append(results.write(out / "results.json", figures(job, found, said, provenance(began))))
    if with_tables:
        made.append(tables.write(tables.decisions(found.replayed), out / "decisions.parquet"))
        made.append(tables.write(tables.episodes(found.replayed), out / "episodes.parquet"))
    return made


def onlookers(steerer: Steerer, trained: Trained) -> list[Onlooker]:
    """Who looks at every moment, fresh ones for every part."""
    arms = comparable(steerer.n, TEMPERATURE, list(trained.critics))
    return [
        States(),
        Shuffle(steerer.policy, every=SHUFFLED_EVERY),
        Alternatives.of(arms, steerer.policy, trained.critics, steerer.execute, steerer.seed),
    ]


def report(job: Job, log: Log, found: Pass, said: Sequence[Diagnosis]) -> Report:
    return Report(
        replayed=found.replayed,
        log=log,
        title=f"Replay of {Path(job.opener.path).name}",
        command=command(),
        findings=[finding for each in said for finding in each.findings],
        marks=[mark for each in said for mark in each.marks],
        sections=[section for each in said for section in each.sections],
        limits={critic: limit for each in said for critic, limit in each.limits.items()},
    )


def figures(job: Job, found: Pass, said: Sequence[Diagnosis], origin: Mapping[str, Any]) -> dict[str, Any]:
    return results.to_results(
        found.replayed,
        path=job.opener.path,
        policy=_version(found.trained.policy),
        critics={name: _version(critic) for name, critic in found.trained.critics.items()},
        arm=job.arm,
        settings={"every": job.every, "seed": found.steerer.seed, "batch_size": job.batch_size},
        diagnoses={each.name: each.figures for each in said},
        findings=[finding for each in said for finding in each.findings],
        provenance=origin,
    )


def play(
    job: Job,
    log: Ahead,
    folder: Path,
    watching: Callable[[Steerer, Trained], Sequence[Onlooker]] = lambda *_: (),
    progress: bool = True,
    watchers: Sequence[Watcher] = (),
) -> Pass:
    """Replay what `folder` does not hold yet; `watching` makes fresh onlookers for every part."""
    trained = load(job.models)
    steerer = steerer_of(job, trained, log)
    others = {name: critic for name, critic in trained.critics.items() if name != MAIN}
    robot = LoggedRobot(log, job.names, job.batch_size, trained.policy.spec.n_obs_steps, job.every)
    gamma = job.gamma or getattr(trained.critics[MAIN], "gamma", GAMMA)
    files = {numbers: folder / f"{_key(job, log, steerer, trained, gamma, numbers)}.npz" for numbers in parts(job)}
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(job.names), desc="replaying", unit="ep", disable=not progress) as bar:
        for numbers, file in files.items():
            if not file.exists():
                seen = watching(steerer, trained)
                words = {"progress": False, "numbers": numbers, "watchers": watchers}
                tables.save(replay(robot, steerer, others, gamma, seen, **words), file)
            bar.update(len(numbers))
    for old in set(folder.glob("*.npz")) - set(files.values()):
        old.unlink()  # of another command
    return Pass(join([tables.load(file) for file in files.values()]), steerer, trained)


def parts(job: Job) -> list[range]:
    """Whole waves, so that a part does not depend on where an earlier one was interrupted."""
    size = job.batch_size * -(-PART // job.batch_size)
    return [range(start, min(start + size, len(job.names))) for start in range(0, len(job.names), size)]


def steerer_of(job: Job, trained: Trained, log: Log) -> Steerer:
    critic = trained.critics[MAIN]
    seed = logged_seed(log, job.names) if job.seed is None else job.seed
    return job.arm.steerer(trained.policy, trained.critics, job.execute or critic.scope, seed)


def logged_seed(log: Log, names: Sequence[str]) -> int:
    """Key of the noise that the first episode's decisions were made with; 0 where nothing was decided."""
    decisions = log.read(names[0]).decisions if names else ()
    return decisions[0].seed if decisions else 0


def _key(job: Job, log: Ahead, steerer: Steerer, trained: Trained, gamma: float, numbers: range) -> str:
    """Names all that a part's content depends on."""
    versions = {name: _version(critic) for name, critic in trained.critics.items()}
    names = [job.names[number] for number in numbers]  # a store's say what is in them
    about = [repr(job.opener), log.identity, names, _version(trained.policy)]
    settings = [json.loads(json.dumps(asdict(job.arm))), job.every, steerer.execute, steerer.seed, gamma]
    return sha256(canonical([about, list(versions.items()), settings, job.batch_size]))[:32]


def _version(model: Any) -> str:
    return getattr(model, "version", type(model).__name__)
