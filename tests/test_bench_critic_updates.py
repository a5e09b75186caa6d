"""The books of the update benchmark: no verdict on a busy machine, regret as defined, a reference that answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_critic_updates as bench
import critic_cases
import critic_fidelity
import jax_process
from blocks import Arm

from robot_value.networks import packed as packed_module
from robot_value.policies import flow

FQL = critic_cases.CASES[2]


@pytest.fixture
def tiny(monkeypatch):
    for name, value in {"BATCH": 16, "WIDTH": 16, "DEPTH": 2, "FLOW": flow.Config(width=16, depth=2)}.items():
        monkeypatch.setattr(critic_cases, name, value)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return critic_fidelity.structured_cache(tmp_path_factory.mktemp("cache"), episodes=3, steps=12)


def arm(seconds: float, clean: int = 5, disturbed: int = 0) -> Arm:
    return Arm(lambda: None, clean=[seconds] * clean, disturbed=[seconds] * disturbed)


def test_a_goal_is_judged_on_clean_blocks_by_the_intervals_lower_end():
    # mutation: judge by the middle / judge what is not trusted
    noisy = Arm(lambda: None, clean=[1.0, 1.0, 1.0, 2.0, 2.0])
    assert bench.verdict(arm(2.0), arm(1.0), 2.0)["passed"] is True
    assert bench.verdict(arm(2.0), noisy, 1.5)["ratio"] == 2.0
    assert bench.verdict(arm(2.0), noisy, 1.5)["passed"] is False
    assert bench.verdict(arm(2.0), arm(1.0, clean=4, disturbed=9), 2.0)["passed"] is None
    assert bench.verdict(arm(2.0), arm(1.0), None)["passed"] is None


def test_shares_of_the_peak_are_void_where_the_machine_changed_or_was_busy():
    # mutation: ignore `valid`
    def rows(trusted: bool) -> list[dict]:
        arms = {precision: {"ms": 10.0, "trusted": trusted} for precision in critic_cases.PRECISIONS}
        return [{"name": "QC best-of-32", "flop_per_update": 8e9, "arms": arms}]

    for trusted, valid, expected in ((True, True, 0.8), (False, True, None), (True, False, None)):
        made = rows(trusted)
        bench.add_shares(made, {"float32": 1000.0, "bfloat16": 2000.0}, valid)
        arms = made[0]["arms"]
        assert arms["float32"]["share_of_peak"] == arms["off"]["share_of_peak"] == expected
        assert arms["float32"]["passed"] == (expected and True)


def test_regret_is_what_the_choice_lacks_in_standard_deviations_of_the_plain_values(monkeypatch):
    # mutation: value the choice by the packed critic
    plain, other = torch.tensor([[0.0, 1.0, 2.0], [5.0, 3.0, 1.0]]), torch.tensor([[0.0, 9.0, 2.0], [5.0, 3.0, 1.0]])
    chunks = torch.zeros(2, 3, 1, 1)
    answers = {"off": (chunks, plain), "float32": (chunks + 0.5, other)}
    monkeypatch.setattr(critic_fidelity, "judged", lambda policy, critic, batch, precision: answers[precision])
    got = critic_fidelity.fidelity(None, None, None, "float32")
    spread = (2 / 3) ** 0.5
    assert got == pytest.approx(
        {
            "max_dx": 0.5,
            "max_dq": 8 / spread,
            "argmax_agreement": 0.5,
            "mean_regret": 0.5 / spread,
            "max_regret": 1 / spread,
        }
    )


def test_packed_candidates_make_the_same_choice_on_trained_networks(tiny, cache):
    changes = critic_cases.trained_fidelity(cache, 3)
    assert changes["float32"]["max_dx"] < 1e-5 and changes["float32"]["argmax_agreement"] == 1
    assert 1e-5 < changes["bfloat16"]["max_dx"] < 0.1


def test_in_a_qc_fql_update_the_teaching_flow_alone_is_packed_and_once(tiny, cache, monkeypatch):
    # mutation: pack the actor too / pack per flow step
    update = critic_cases.update_of(FQL, cache, "float32")
    update()  # probes, once per process
    calls, pack = [], packed_module.pack
    monkeypatch.setattr(packed_module, "pack", lambda part, dtype: calls.append(part) or pack(part, dtype))
    update()
    assert len(calls) == 1


WORKER = """
import sys
print("1.2.3", flush=True)
for line in sys.stdin:
    if sys.argv[2] == "fails":
        sys.exit(1)
    print(float(line), flush=True)
"""


def test_the_reference_answers_update_by_update_and_its_end_is_an_error(tmp_path, monkeypatch):
    # mutation: take an empty answer for an update
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(jax_process, "WORKER", worker)
    reference = jax_process.JaxProcess(sys.executable, tmp_path, "works", 2, threads=1)
    assert reference.version == "1.2.3"
    reference.update()
    assert reference.cpu_seconds() >= 0
    reference.close()
    failing = jax_process.JaxProcess(sys.executable, tmp_path, "fails", 2, threads=1)
    with pytest.raises(RuntimeError, match="expected an answer, got the end of the process"):
        failing.update()
    failing.close()
