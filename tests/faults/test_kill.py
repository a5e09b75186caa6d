"""SIGKILL at random moments: nothing acknowledged is lost, nothing half-committed is seen, the store stays writable."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

import robot_value
from robot_value.episodes import EpisodeStore

KILLS = 50
WRITER = Path(__file__).with_name("append_until_killed.py")
sys.path.insert(0, str(WRITER.parent))
from append_until_killed import make_episode, make_spec  # noqa: E402


# mutation: in EpisodeStore.append, `shutil.copytree(staged, ...)` instead of `publish(staged, ...)`
def test_fifty_kills_lose_nothing_that_was_acknowledged(tmp_path):
    path = tmp_path / "store"
    EpisodeStore.create(path, make_spec()).close()
    acknowledged, cut_short = kill_writers(path, random.Random(0))

    reader = EpisodeStore.open(path)
    present = {name: reader.manifest_hash(name) for name in reader.names()}
    assert {name: present.get(name) for name in acknowledged} == acknowledged
    assert reader.verify() == []
    assert len(present) <= len(acknowledged) + KILLS  # at most one commit per kill died before its acknowledgement
    assert len(acknowledged) > KILLS // 3 and cut_short > KILLS // 10, "the kills must hit writers at work"

    with EpisodeStore.open(path, "a") as store:
        name = store.append(make_episode(store.spec, np.random.default_rng(0)))
        assert store.names() == [*present, name]
        assert not any((path / ".staging").iterdir())


def kill_writers(path: Path, rng: random.Random) -> tuple[dict[str, str], int]:
    """What the killed writers acknowledged (name -> hash), and how many left an unfinished episode behind."""
    environment = os.environ | {"PYTHONPATH": str(Path(robot_value.__file__).parents[1])}
    command = [sys.executable, str(WRITER), str(path)]
    acknowledged, cut_short, duration = {}, 0, 0.05  # s of one append, as last seen
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        for seed in range(KILLS):
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
            EpisodeStore.open(path).names()  # a reader is never disturbed
        server.stdin.close()
    return acknowledged, cut_short
