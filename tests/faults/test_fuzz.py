"""A small run of benchmarks/bench_fuzz.py: mutated files of every kind are loaded or refused, and nothing else."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from bench_fuzz import GOOD, Worker, run
from fuzz_mutations import mutate


# mutation: `except Exception` out of untrusted.rows; check_chunk returns at once; `_check_texts` out of decisions.py
def test_mutated_files_are_loaded_or_refused():
    cases = run(150, (5.0, 12.0), seed=1, workers=2)
    assert len(cases) == 150
    assert [case for case in cases if case.end not in GOOD] == []
    assert {case.end for case in cases} == set(GOOD), "both must happen, or the mutations are too weak or too strong"


def test_a_case_is_the_same_every_time(tmp_path):
    # mutation: random.random() instead of rng in a mutation
    said, contents = [], []
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(range(200)))
        said.append(
            [mutate(tmp_path / name, random.Random(i), tmp_path / "canary").split(" in ")[0] for i in range(30)]
        )
        contents.append((tmp_path / name).read_bytes())
    assert said[0] == said[1] and contents[0] == contents[1]


def test_a_worker_that_dies_or_hangs_is_noticed(tmp_path):
    # mutation: `_line` returns "{}" where nothing was said
    worker = Worker()
    try:
        worker.process.kill()
        assert worker.ask("alarm", tmp_path / "none", 5.0)[0] == "crash"
    finally:
        worker.close()
