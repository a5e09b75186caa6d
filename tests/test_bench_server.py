"""The server's benchmark measures what it says: on a small scale, the real process, real bytes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_server

from robot_value.wire import pack


@pytest.mark.timeout(120)
def test_a_small_run_survives_and_says_what_came_back(tmp_path, capsys):
    # mutation: a server that answers strangers' decide requests, or unpickles
    code = bench_server.main(["--requests=60", "--kills=1", f"--out={tmp_path / 'r.json'}"])
    report = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and report["hostile"]["survived"] and report["kills"]["survived"]
    assert sum(report["hostile"]["answers"].values()) == 60 and report["hostile"]["answers"]["refused"] > 20
    assert report["kills"]["held_seconds"]["max"] > 0.1 and report["git"]


def test_the_canary_is_alive(tmp_path):
    # mutation: a canary that nothing could trigger proves nothing
    import pickle

    sent = bench_server.pickled(np.random.default_rng(0), pack({}, {}), tmp_path / "canary")
    pickle.loads(sent[sent.index(b"\x80\x04") :]).close()
    assert (tmp_path / "canary").exists()
