"""The intervention benchmark's books, and one tiny run of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from online_fakes import Here

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_interventions as bench
from interventions_table import interventions


def test_expert_steps_are_counted_until_the_first_evaluation_that_reaches_the_target():
    # mutation: count the steps of later rounds, or take the last evaluation that does
    progress = {
        "rounds": [{"human_steps": [3, 4], "steps": [10, 10]}, {"human_steps": [5, 0], "steps": [10, 9]}] * 2,
        "evaluations": [
            {"version": None, "env_steps": 0, "success": [True] * 10},  # the plain policy, before anything
            {"version": 0, "env_steps": 0, "success": [False] * 10},
            {"version": 2, "env_steps": 39, "success": [True] * 9 + [False]},
            {"version": 4, "env_steps": 78, "success": [True] * 10},
        ],
    }
    found = bench.curve(progress)
    assert found["expert_steps"] == 12 and found["expert_steps_in_all"] == 24 and found["env_steps"] == 78
    assert [each["expert_steps"] for each in found["evaluations"]] == [0, 12, 24]
    progress["evaluations"] = progress["evaluations"][:2]
    assert bench.curve(progress)["expert_steps"] is None


def test_a_method_that_never_gets_there_needs_more_than_one_that_does():
    # mutation: treat None as 0
    steps = {("rlif", 0): 100, ("dagger", 0): None, ("rlif", 1): 90, ("dagger", 1): 80, ("rlif", 2): None}
    cells = [
        {"method": name, "seed": seed, "expert_steps": steps.get((name, seed)), "evaluations": [{"success": 0.5}]}
        for seed in range(3)
        for name in ("rlif", "dagger")
    ]
    found = bench.summary(cells)
    assert [pair["fewer"] for pair in found["pairs"]] == ["rlif", "dagger", "unknown"]
    assert found["methods"]["rlif"]["reached"] == 2 and found["methods"]["rlif"]["median_of_those_that_reached"] == 95


def test_methods_start_alike_and_a_cell_that_is_there_is_not_run_again(tmp_path):
    # mutation: key a cell by its method alone; give the methods different environment seeds
    protocol, actor = bench.quick(), Here()
    methods = ["rlif_policy", "dagger"]
    cells = bench.run(protocol, [0], methods, tmp_path, actor)
    assert [each["method"] for each in cells] == methods
    assert all(each["env_steps"] and each["expert_steps_in_all"] for each in cells)
    asked = len(actor.calls)
    supervised = [(acting, round) for acting, round in actor.calls if acting.store is not None]
    seeds = {round.seeds for _, round in supervised}
    policies = {round.version.policy for _, round in supervised if round.version.number == 0}
    assert len(seeds) == 2 and len(policies) == 2  # rlif_policy trains a copy of the other one
    assert len({acting.supervisor for acting, _ in supervised}) == 1
    again = bench.run(protocol, [0], methods, tmp_path, actor)
    assert again == cells and len(actor.calls) == asked
    json.dumps(bench.described(protocol, 1) | bench.summary(cells))


def test_the_table_names_every_seed_and_who_needed_fewer():
    # mutations: the first evaluation's rate at the end; None as a number; pairs of one seed alone
    def cell(name: str, seed: int, needed: int | None, last: float) -> dict:
        begun, ended = ({"success": rate, "ci95": [rate, rate]} for rate in (0.4, last))
        steps = {"expert_steps": needed, "expert_steps_in_all": 300}
        return {"method": name, "seed": seed, "evaluations": [begun, ended], **steps}

    cells = [
        cell("rlif", 0, 120, 0.92),
        cell("rlif", 1, None, 0.7),
        cell("dagger", 0, None, 0.6),
        cell("dagger", 1, None, 0.5),
    ]
    *rows, _, said = interventions({**bench.described(bench.quick(), 2), **bench.summary(cells), "rows": cells})
    assert len({row.count("|") for row in rows}) == 1 and "90%" in rows[0]
    assert rows[2] == (
        "| `rlif` | 0, 1 | 0.40 [0.40, 0.40], 0.40 [0.40, 0.40] | 120, not | 300, 300 | "
        "0.92 [0.92, 0.92], 0.70 [0.70, 0.70] |"
    )
    assert said.endswith("`rlif`, seed 0: `rlif`; `rlif`, seed 1: neither got there.")


def test_what_is_compared_is_what_the_page_says():
    # mutation: rewards of the task for RLIF, or candidates for DAgger
    rlif, dagger = bench.METHODS["rlif"], bench.METHODS["dagger"]
    assert (rlif.interventions, rlif.learn, rlif.arm.n) == ("rlif", "critic", 16)
    assert (dagger.interventions, dagger.learn, dagger.arm.critic) == ("dagger", "policy", None)
