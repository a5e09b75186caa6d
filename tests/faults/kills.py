"""SIGKILL of the recorder at random moments of an append, again and again, on one store."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from append_until_killed import make_spec

import robot_value
from robot_value.episodes import EpisodeStore

WRITER = Path(__file__).with_name("append_until_killed.py")


@dataclass
class Kills:
    trials: int
    acknowledged: int = 0  # episodes that a writer was told are safe
    cut_short: int = 0  # kills that left an unfinished episode behind
    losses: list[str] = field(default_factory=list)


def kill(
    path: Path,
    trials: int,
    seed: int = 0,
    commit: str = "rename",
    flag: str = "",
    bar: Callable[[range], Iterable] = iter,
) -> Kills:
    """`flag` "--unprotected" lets the writer copy its episode into place instead of renaming it."""
    EpisodeStore.create(path, make_spec(), commit).close()
    acknowledged, cut_short, losses = kill_writers(path, random.Random(seed), trials, flag, bar)
    reader = EpisodeStore.open(path)
    damage = {problem.episode: str(problem) for problem in reader.verify()}
    present = {name: reader.manifest_hash(name) for name in reader.names() if name not in damage}
    losses += [
        f"{name} was acknowledged: {damage.get(name, 'it is gone')}"
        for name, hash in acknowledged.items()
        if present.get(name) != hash
    ]
    losses += [f"never acknowledged, half there: {text}" for name, text in damage.items() if name not in acknowledged]
    if len(present) > len(acknowledged) + trials:
        losses.append(f"{len(present)} episodes of {len(acknowledged)} acknowledged and {trials} unfinished ones")
    return Kills(trials, len(acknowledged), cut_short, losses)


def kill_writers(
    path: Path, rng: random.Random, trials: int, flag: str, bar: Callable[[range], Iterable]
) -> tuple[dict[str, str], int, list[str]]:
    """What the killed writers acknowledged (name -> hash), how many left something unfinished, what readers met."""
    environment = os.environ | {"PYTHONPATH": str(Path(robot_value.__file__).parents[1])}
    command = [sys.executable, str(WRITER), str(path), *flag.split()]
    acknowledged, cut_short, losses, duration = {}, 0, [], 0.05  # s of one append, as last seen
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        for seed in bar(range(trials)):
            server.stdin.write(f"{seed}\n")
            server.stdin.flush()
            pid = int(server.stdout.readline().split()[1])
            patience, began = rng.randrange(3), time.perf_counter()  # kill somewhere in the next append after that many
            for line in server.stdout:
                word, *rest = line.split()
                if word == "dead":
                    break
                if word == "acknowledged":
                    acknowledged[rest[0]] = rest[1]
                    duration, began = time.perf_counter() - began, time.perf_counter()
                patience -= 1
                if patience == -1:
                    threading.Timer(rng.uniform(0, 1.2) * duration, os.kill, (pid, signal.SIGKILL)).start()
            cut_short += any((path / ".staging").glob("*"))
            if missing := acknowledged.keys() - set(EpisodeStore.open(path).names()):  # a reader is never disturbed
                losses += [f"{name} was gone after kill {seed}" for name in missing]
        server.stdin.close()
    return acknowledged, cut_short, losses
