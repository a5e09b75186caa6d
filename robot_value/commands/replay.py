"""`robot-value replay DATA`: logged episodes in, an honest answer out; no simulator, no robot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import components, convert, flags
from ..arms import MAIN, SHUFFLED
from ..playing import Models
from ..replay.logs import Opener
from ._arm import DISPLAY, PARTS, asked_arm

RANGE = re.compile(r"(\d*)\.\.(\d*)")


@dataclass(frozen=True)
class Replay:
    """Would steering have chosen otherwise, and is the critic right? report.html, results.json and Parquet tables.

    Interrupt it and run it again: it goes on where it stopped.
    """

    source: Any = None  # what DATA is, unless it is an episode store; its type is recognised unless given
    policy: str = ""  # checkpoint of the policy (its folder, or the run's)
    critic: str = ""  # checkpoint of the critic that steers
    shuffled_critic: str | None = None  # checkpoint of a critic trained with --windowing.reward_shuffle_seed: a control
    critics: dict[str, str] = field(default_factory=dict)  # further critics to compare: '{other: RUN/critic}'
    selector: Any = None  # how scores become one chunk; softmax_average unless chosen
    proposer: Any = None  # where candidates come from; samples of the policy unless chosen
    guide: Any = None  # what steps into the policy's sampler
    gate: Any = None  # whether the selection is used; always unless chosen
    n: int = 16  # N, candidates per decision
    execute: int | None = None  # k, steps that a decision is for; the critic's scope unless given
    every: int | None = None  # control steps between decisions; where the log decided, or `execute`, unless given
    episodes: str = ""  # which: 0..100 (the first hundred), or names with commas between; all unless given
    gamma: float | None = None  # discount per control step; the critic's unless given
    seed: int | None = None  # key of the candidates' noise; the one the log was recorded with unless given
    batch_size: int = 50  # episodes replayed side by side
    workers: int = 1  # processes that read episodes; 0 reads in this one
    # CPU threads of torch; equal bits need the recorder's. More than one is slower where anything else runs: 16 times
    # for the small networks of the evaluation, measured on two cores of which one was busy.
    threads: int = 1
    evaluation: bool = True  # estimate the steered policy's success from the log alone
    tables: bool = True  # write decisions.parquet and episodes.parquet (needs pyarrow)
    display: Any = None  # shows decisions while the log is replayed; what an earlier command replayed is not shown
    rerun: int = 0  # episodes to write as .rrd files for the Rerun viewer: most warnings first, then largest detour
    progress: bool = True  # show a progress bar
    out: str = "outputs/replay"  # folder of the page, results.json and the tables


def run(argv: Sequence[str]) -> int:
    paths, rest = flags.positional(argv)
    parsed = flags.parse(Replay, rest, {"source": _source(paths, argv), **PARTS, **DISPLAY}, "robot-value replay DATA")
    config = parsed.values
    if len(paths) != 1:
        raise flags.FlagError(f"expected one dataset, got {len(paths)}: robot-value replay DATA --policy=P --critic=C")
    for name in ("policy", "critic"):
        if not getattr(config, name):
            raise flags.FlagError(f"--{name}: expected the folder of a checkpoint, got nothing")
    from ..replay import run as whole
    from ..training import torch_threads

    critics = {MAIN: config.critic, SHUFFLED: config.shuffled_critic, **config.critics}
    opener = Opener(paths[0], config.source)
    job = whole.Job(
        opener=opener,
        names=chosen(opener().names(), config.episodes),
        models=Models(0, Path(config.policy), {name: Path(path) for name, path in critics.items() if path}),
        arm=asked_arm(parsed, "steered"),
        execute=config.execute,
        every=config.every,
        gamma=config.gamma,
        seed=config.seed,
        batch_size=config.batch_size,
        workers=config.workers,
    )
    with torch_threads(config.threads):
        about = (config.tables, config.evaluation, config.progress, config.rerun, config.display)
        paths = whole.write(job, Path(config.out), *about)
    print(*paths, sep="\n")
    return 0


def chosen(names: Sequence[str], wanted: str) -> tuple[str, ...]:
    """Those of the dataset's episodes that were asked for, in its order."""
    if not wanted:
        return tuple(names)
    if found := RANGE.fullmatch(wanted):
        return tuple(names)[slice(*(int(end) if end else None for end in found.groups()))]
    asked = [name.strip() for name in wanted.split(",")]
    if missing := [name for name in asked if name not in set(names)]:
        raise flags.FlagError(f"--episodes: {components.unknown('episode', missing[0], list(names))}")
    return tuple(name for name in names if name in set(asked))


def _source(paths: Sequence[str], argv: Sequence[str]) -> flags.Choice:
    """None for an episode store, else the converter that knows DATA, unless the user names one."""
    named = any(word.startswith("--source.type") for word in argv)
    ours = len(paths) != 1 or "://" in paths[0] or (Path(paths[0]) / "episodes" / "zarr.json").exists()
    return flags.Choice("converters", None if named or ours else convert.recognise(Path(paths[0])))
