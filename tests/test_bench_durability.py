"""The durability benchmark in small: it counts, its controls find what they must, and a loss is an exit code."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_durability

from robot_value.episodes import manifest

SMALL = ["--kills=2", "--mutations=20", "--cuts=3", "--variants=1", "--controls=16", "--folder=/dev/shm"]


def test_the_small_run_passes_and_its_numbers_add_up(tmp_path):
    assert bench_durability.main([*SMALL, f"--out={tmp_path / 'r.json'}"]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["passed"] and all(
        row["losses"] == 0 and row["rate_below"] == 3 / row["trials"] for row in result["rows"]
    )
    assert sum(row["trials"] for row in result["rows"] if row["what"].startswith("kill")) == 2
    assert len(result["controls"]) == 4 and all(row["losses"] for row in result["controls"])


def test_a_loss_makes_the_run_fail(tmp_path, monkeypatch):
    differs = manifest._differs
    monkeypatch.setattr(manifest, "_differs", lambda entry, size, content: differs(entry, size, None))
    assert bench_durability.mutations(tmp_path, 20, 0)["losses"] > 0
    monkeypatch.setattr(bench_durability, "kills", lambda *_: [])
    monkeypatch.setattr(bench_durability, "all_cuts", lambda *_: [])
    monkeypatch.setattr(bench_durability, "without_protection", lambda *_: [])
    assert bench_durability.main([*SMALL, f"--out={tmp_path / 'r.json'}"]) == 1
