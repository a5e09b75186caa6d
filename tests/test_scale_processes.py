"""Two processes, started as torchrun or `accelerate launch` would, train what one trains; a death of one is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from scale_runs import assert_the_same_run, setup
from test_joint_training import QUIET, record

from robot_value import checkpoint
from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.training import train_offline

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "store"
    record(path, 12)
    return path


def launch(data, folder, index: int, port: int, steps: int, save_every: int) -> subprocess.Popen:
    """As torchrun or `accelerate launch` starts the index-th of two."""
    pytest.importorskip("accelerate")
    variables = {"WORLD_SIZE": "2", "RANK": str(index), "LOCAL_RANK": str(index), "LOCAL_WORLD_SIZE": "2"}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    values = {"training.steps": steps, "training.save_every": save_every, "training.folder": folder, "data": data}
    values |= {"training.batch_size": 16, "training.validate_every": 6, "training.log_every": 5}
    values |= {"training.progress": "false", "training.tensorboard": "false", "training.device": "cpu"}
    values |= {"training.validation_fraction": 0.25, "training.matmul": "default", "windowing.horizon": 4}
    values |= {"policy.type": "flow", "policy.width": 16, "policy.depth": 2, "policy.sample_steps": 2}
    values |= {"critic.type": "qc", "critic.candidates": 3, "critic.hidden": "[16]", "critic.members": 2}
    values |= {"optimization.warmup": 0}
    command = [sys.executable, "-m", "robot_value", "train", *(f"--{key}={value}" for key, value in values.items())]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_processes_train_what_one_trains(data, tmp_path, port):
    # mutation: average over gloo with the wrong divisor; print or write in both
    ranks = [launch(data, tmp_path / "two", i, port, QUIET.steps, QUIET.save_every) for i in range(2)]
    cache = open_cache(EpisodeStore.open(data), progress=False)
    train_offline(*setup(cache, replace(QUIET, folder=str(tmp_path / "one"))))
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert [out.strip() for out, _ in said] == [str(tmp_path / "two"), ""]
    assert_the_same_run(tmp_path / "two", tmp_path / "one")


def test_when_a_process_is_killed_the_other_ends_and_says_so_and_the_checkpoint_is_whole(data, tmp_path, port):
    # mutation: wait for the dead one; a traceback of torch's instead of a line
    ranks = [launch(data, tmp_path, i, port, 10**6, 20) for i in range(2)]
    try:
        while not list(tmp_path.glob("critic/step_*")):
            assert ranks[0].poll() is None, ranks[0].communicate()
            with suppress(subprocess.TimeoutExpired):
                ranks[0].wait(0.05)
        ranks[1].kill()
        _, said = ranks[0].communicate(timeout=120)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 2
    assert "robot-value: process 0 of 2: expected the others to answer" in said and "Traceback" not in said
    for part in ("critic", "policy"):
        assert checkpoint.load(checkpoint.newest(tmp_path / part), learner=True).step % 20 == 0
