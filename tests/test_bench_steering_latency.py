"""What candidates cost, counted instead of timed: one encode per decision, and the rows that the arithmetic says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_steering_latency as bench
import steering_latency_models as models
from blocks import Arm
from steering_latency_checks import Counts, counted, regret

from robot_value import randomness
from robot_value.networks.packed import Packed
from robot_value.policies._chunks import sample_chunks
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer

STEPS = 10


@pytest.fixture(scope="module")
def built():
    return models.build(models.SMOKE)


@pytest.mark.parametrize("n", [1, 2, 8, 33])
def test_a_decision_encodes_once_and_runs_n_rows_per_step_whatever_n_is(built, n):
    # mutation: encode once more for the critic / sample candidate 0 apart from the others
    policy, critic, observation = built
    steerer = Steerer(policy, critic, argmax.Config().build(), n=n)
    assert counted(policy, lambda: steerer(observation)) == Counts(1, n * STEPS)


def test_halving_runs_the_candidate_steps_of_its_schedule_and_one_step_a_tenth(built):
    # mutation: compute pruned rows too / halve once more / ignore sample_steps
    policy, critic, observation = built
    steerers = bench.make_steerers(policy, critic, "off")
    halved = counted(policy, lambda: steerers["best of 32, halving"](observation))
    assert halved == Counts(1, 3 * 32 + 2 * 16 + 2 * 8 + 3 * 4)
    assert counted(policy, lambda: steerers["best of 32, one step"](observation)) == Counts(1, 32)


@pytest.mark.parametrize("precision", ["off", "float32"])
def test_best_of_1_is_the_policy_alone_to_the_bit(built, precision):
    # mutation: another noise than the keyed one / sample in another arithmetic
    policy, critic, observation = built
    steerer, fast = Steerer(policy, critic, argmax.Config().build()), Packed(policy, precision)
    shape = (1, policy.spec.horizon, policy.spec.action_dim)
    noise = torch.from_numpy(randomness.normal(0, observation.episode, observation.step, shape, "noise"))
    with torch.no_grad(), fast:
        alone = policy.sample(policy.encode(observation), 1, noise)[0]
        decided = steerer(observation)
    np.testing.assert_array_equal(decided.chunk, alone[:, 0].numpy())


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("robots", [1, 3])
def test_tiles_change_no_chunk_and_keep_each_candidate_with_its_robot(robots, tile):
    # mutation: drop dim=1 from the tiles of candidates / tiles of robots without their conditions or prefixes
    draw = torch.Generator().manual_seed(0)
    noise, condition = torch.randn(robots, 5, 4, 2, generator=draw), torch.randn(robots, 2, generator=draw)
    prefix = torch.randn(robots, 1, 2, generator=draw)
    calls = []

    def network(x, t, condition):
        calls.append(len(x))
        return x + condition.repeat_interleave(len(x) // len(condition), 0)[:, None]

    def integrate(predict, noise, guide, prefix):
        return predict(noise, 0.0) + prefix[:, None]

    got = sample_chunks(network, integrate, noise, condition, prefix, None, tile)
    assert torch.allclose(got, noise + condition[:, None, None] + prefix[:, None])
    assert sum(calls) == robots * 5 and max(calls) <= tile


def test_a_goal_is_reached_by_the_intervals_upper_end_and_never_on_a_busy_machine():
    # mutation: compare the ratio itself / pass where blocks were disturbed
    arms = {"base": Arm(None, clean=[1.0] * 9), "slow": Arm(None, clean=[2.0] * 9)}
    arms["noisy"], arms["busy"] = Arm(None, clean=[1.0, 4.0, 2.0] * 3), Arm(None, clean=[1.0] * 4)
    assert bench.verdict(arms, "slow", "base", 2.0)["passed"] is True
    noisy = bench.verdict(arms, "noisy", "base", 2.1)
    assert noisy["ratio"] == 2.0 and noisy["passed"] is False
    assert bench.verdict(arms, "busy", "base", 2.0)["passed"] is None


def test_regret_is_in_standard_deviations_over_the_candidates():
    # mutation: divide by nothing / take the halved decision's own values
    def says(index: int):
        values = np.array([[0.0, 1.0, 2.0, 3.0]])
        return lambda seen: SimpleNamespace(value=values * (1 + seen.step[0]), index=np.array([index]))

    observation = models.observe(models.make_spec(models.SMOKE), np.random.default_rng(0))
    steerers = {"best of 32": says(3), "best of 32, halving": says(1)}
    found = regret(steerers, observation, decisions=2)
    assert found["mean"] == found["max"] == pytest.approx(2 / np.std([0, 1, 2, 3]))
    assert found["same_choice"] == 0.0


def test_the_smoke_command_writes_every_arm_goal_and_count(monkeypatch, tmp_path, capsys):
    # mutation: drop an arm / write before measuring
    out, threads = tmp_path / "latency.json", torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["bench", "--smoke", f"--threads={threads}", f"--out={out}"])
    bench.main()
    found = json.loads(out.read_text())
    assert {row["arm"] for row in found["goals"]} <= set(found["latency"])
    assert {row["encodes"] for row in found["per_decision"].values()} == {1}
    assert set(found["precision"]) == {"head", "cameras"}
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in found["latency"])
