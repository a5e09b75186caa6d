"""The OGBench benchmark's books: failures stay, nothing stale is reused, figures are what the cells say."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ogbench", reason='needs the "ogbench" extra')
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import ogbench_cells as cells_module
from ogbench_cells import Bench, Cell, make_play, make_policy, make_task, run_cell
from ogbench_protocol import ALGORITHMS, MORE, PUBLISHED_ORDER, Algorithm, Data, Protocol, key
from ogbench_summary import ordering, outcomes, summarize
from ogbench_table import ogbench

from robot_value import components
from robot_value.recipe import SeedOverlap
from robot_value.scenarios import Part
from robot_value.statistics import wilson

TINY = Protocol(
    **{"policy_steps": 2, "critic_steps": 2, "hidden": (8,), "batch_size": 8, "candidates": (2, 3)},
    **{"validation_episodes": 1, "test_episodes": 2, "max_steps": 6},
)


def done(algorithm, task, success, seed=0, unstable=None, candidates=4):
    """A cell's result.json."""
    return {
        "algorithm": algorithm,
        "task": task,
        "seed": seed,
        "status": "done",
        "candidates": candidates,
        "success": success,
        "unstable": unstable or [0] * len(success),
        "wall_seconds": 10.0,
        "cpu_seconds": 9.0,
        "seconds": {"training": 6.0},
    }


def failed(algorithm, task):
    about = {"status": "failed", "error": "NonFinite: loss", "where": "curves.py, flush"} | {
        "wall_seconds": 2.0,
        "cpu_seconds": 1.0,
    }
    return {"algorithm": algorithm, "task": task, "seed": 0, **about}


# -- cells ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Play, rewards and a policy of a few steps."""
    bench = Bench(Data(episodes=2, steps=40), TINY, tmp_path_factory.mktemp("bench"))
    assert make_play(bench, workers=0)["steps"] == 80
    assert make_task(bench, 1).steps <= 80
    make_policy(bench, seed=0)
    return bench


def test_a_cell_trains_chooses_on_validation_seeds_and_is_judged_on_test_seeds(bench, monkeypatch):
    # mutation: test on protocol.validation; every N on test seeds
    played, real = [], cells_module._play

    def spy(cell, policy, critics, arms, seeds):
        played.append((list(seeds), [arm.n for arm in arms], set(critics)))
        return real(cell, policy, critics, arms, seeds)

    monkeypatch.setattr(cells_module, "_play", spy)
    cell = Cell(bench, next(a for a in ALGORITHMS if a.name == "iql"), number=1, seed=0)
    assert run_cell(cell)
    result = cell.read()
    assert result["status"] == "done" and len(result["success"]) == 2 and set(result["validation"]) == {"2", "3"}
    assert played == [([1000], [2, 3], {"main"}), ([3000, 3001], [result["candidates"]], {"main"})]


def test_what_goes_wrong_is_a_result_and_is_tried_again_only_when_asked(bench, monkeypatch):
    # mutation: re-raise; drop the failed cell; retry by default
    tried = []

    def broken(cell):
        tried.append(cell)
        raise FloatingPointError("loss is nan at step 7")

    monkeypatch.setattr(cells_module, "_measure", broken)
    cell = Cell(bench, Algorithm("broken", Part("iql")), number=1, seed=0)
    assert run_cell(cell) and run_cell(cell) and len(tried) == 1
    result = cell.read()
    assert result["status"] == "failed" and result["error"] == "FloatingPointError: loss is nan at step 7"
    assert run_cell(cell, retry=True) and len(tried) == 2


def test_an_unknown_critic_fails_its_own_cell_only(bench):
    # mutation: build all configs before the first cell
    cell = Cell(bench, Algorithm("typo", Part("iqll")), number=1, seed=0)
    assert run_cell(cell) and "did you mean 'iql'" in cell.read()["error"]


def test_ctrl_c_is_no_result(bench, monkeypatch):
    # mutation: except BaseException
    def stop(cell):
        raise SystemExit(130)

    monkeypatch.setattr(cells_module, "_measure", stop)
    cell = Cell(bench, Algorithm("stopped"), number=1, seed=0)
    with pytest.raises(SystemExit):
        run_cell(cell)
    assert cell.read() is None


def test_no_cell_is_begun_after_the_deadline_and_finished_ones_are_kept(bench, monkeypatch):
    # mutation: ignore the deadline; ask for the time before looking for a result
    monkeypatch.setattr(cells_module, "_measure", lambda cell: {"success": [1]})
    late, early = (Cell(bench, Algorithm(name), number=1, seed=0) for name in ("late", "early"))
    assert run_cell(early, deadline=time.time() + 60)
    assert not run_cell(late, deadline=time.time() - 1) and late.read() is None
    assert run_cell(early, deadline=time.time() - 1)


def test_another_protocol_or_algorithm_is_another_folder(bench):
    # mutation: name folders by the algorithm's name alone
    cell = Cell(bench, ALGORITHMS[-1], number=1, seed=0)
    longer = replace(cell.algorithm, steps=9)
    more = replace(bench, protocol=replace(TINY, test_episodes=3))
    other = replace(bench, data=replace(bench.data, play="uniform"))
    folders = {cell.folder, replace(cell, algorithm=longer).folder, replace(cell, bench=more).folder}
    folders |= {replace(cell, bench=other).folder, replace(cell, seed=1).folder, replace(cell, number=2).folder}
    assert len(folders) == 6
    assert more.policy(0) == bench.policy(0) and more.play == bench.play  # what does not depend on it is shared
    assert key(TINY, cell.algorithm) == key(replace(TINY), replace(cell.algorithm))


# -- the protocol -----------------------------------------------------------------------------------------------------


def test_validation_and_test_seeds_are_disjoint_and_far_from_the_data():
    # mutation: no refuse_overlap
    with pytest.raises(SeedOverlap):
        Protocol(test_seed=1010)
    data, protocol = Data(), Protocol()
    collected = range(data.first_seed, data.first_seed + data.episodes)
    assert not set(collected) & {*protocol.validation, *protocol.test}


def test_uniform_play_is_ogbenchs_and_both_kinds_go_on_after_goals():
    # mutation: slots=8 for both; endless=False
    uniform = Data(family="cube-double", play="uniform").robot()
    assert (uniform.slots, uniform.jitter, uniform.segment_dt, tuple(uniform.stack)) == (0, 0.0, 0.4, (0.0, 0.25))
    slots = Data().robot()
    assert slots.slots == 8 and slots.endless and uniform.endless and slots.mode == uniform.mode == "play"
    assert (uniform.noise, uniform.smoothing) == (slots.noise, slots.smoothing) == (0.1, 0.5)


def test_every_algorithm_is_a_component_with_the_protocols_discount_and_widths():
    # mutation: forget `shared` in critic_config; misspell a component
    algorithms = (*ALGORITHMS, *MORE)
    assert len({algorithm.name for algorithm in algorithms}) == len(algorithms)
    for algorithm in algorithms:
        if algorithm.critic is not None:
            assert algorithm.critic.name in components.names("critics")
            config = algorithm.critic_config(TINY, seed=3)
            assert (config.gamma, config.seed) == (algorithm.critic.values.get("gamma", TINY.gamma), 3)
            assert tuple(config.hidden) == tuple(algorithm.critic.values.get("hidden", TINY.hidden))


# -- figures ----------------------------------------------------------------------------------------------------------


def test_a_row_is_the_mean_over_tasks_and_every_training_seed():
    # mutation: mean over cells of the first seed; weight tasks by successes
    cells = [done("iql", 1, [1, 1, 0, 0]), done("iql", 1, [1, 1, 1, 1], seed=1)]
    cells += [done("iql", 2, [0, 0, 0, 0]), done("iql", 2, [0, 0, 0, 1], seed=1)]
    (row,) = summarize(cells, ["iql"], [1, 2])["rows"]
    assert row["tasks"]["1"]["success"] == 6 / 8 and row["tasks"]["1"]["ci95"] == wilson(6, 8).ci95
    assert row["tasks"]["2"]["success"] == 1 / 8 and row["mean"]["success"] == pytest.approx((6 / 8 + 1 / 8) / 2)
    assert row["mean"]["ci95"][0] <= row["mean"]["success"] <= row["mean"]["ci95"][1]


def test_differences_are_paired_by_task_training_seed_and_test_seed():
    # mutation: pair unsorted cells; compare with every base cell
    cells = [done("bc", 1, [1, 0, 0], seed=1), done("bc", 1, [0, 1, 1], seed=0), done("iql", 1, [1, 1, 1], seed=1)]
    row = summarize(cells, ["bc", "iql"], [1])["rows"][1]
    assert row["minus_base"]["mean"] == pytest.approx(2 / 3) and row["minus_base"]["cells"] == 1
    assert summarize(cells, ["bc", "iql"], [1])["rows"][0]["minus_base"] is None


def test_unstable_episodes_are_neither_successes_nor_failures():
    # mutation: count them as failures
    cells = [done("iql", 1, [1, 0, 1], unstable=[0, 1, 0])]
    assert np.isnan(outcomes(cells, "iql", 1)[0, 1])
    (row,) = summarize(cells, ["iql"], [1])["rows"]
    assert row["tasks"]["1"]["success"] == 1.0 and row["tasks"]["1"]["n"] == 2 and row["mean"]["n"] == 2


def test_a_failed_task_leaves_no_mean_and_a_row_with_its_reason():
    # mutation: average over the tasks that worked; skip rows without figures
    cells = [done("iql", 1, [1, 1]), failed("iql", 2), failed("floq", 1)]
    rows = {row["name"]: row for row in summarize(cells, ["iql", "floq", "never_run"], [1, 2])["rows"]}
    assert set(rows) == {"iql", "floq"}
    assert rows["iql"]["mean"] is None and rows["iql"]["failed"][0]["error"] == "NonFinite: loss"
    assert rows["floq"]["tasks"] == {} and len(rows["floq"]["failed"]) == 1


def test_our_order_is_compared_with_the_published_one():
    # mutation: sort ascending; call one shared algorithm an agreement
    def rows(**means):
        return [{"name": name, "mean": {"success": mean}} for name, mean in means.items()]

    names = [ours for _, ours in PUBLISHED_ORDER.values()]
    best_first = [success for success, _ in PUBLISHED_ORDER.values()]
    assert best_first == sorted(best_first, reverse=True)
    same = ordering(rows(**dict(zip(names, (0.9, 0.8, 0.2, 0.1), strict=True))))
    assert same["agree"] and same["measured"] == names
    assert ordering(rows(dqc=0.8, n_step=0.1))["measured"] == ["dqc", "n_step"]
    assert not ordering(rows(dqc=0.8, n_step=0.1))["agree"]
    assert ordering(rows(dqc=0.1))["agree"] is None


def test_the_table_shows_figures_published_ones_and_every_failure():
    # mutation: leave out rows without figures, or the published ones
    cells = [done("bc", 1, [0, 1]), done("bc", 2, [0, 0]), done("iql", 1, [1, 1]), failed("iql", 2)]
    found = {
        "family": "cube-single",
        "tasks": [1, 2],
        "training_seeds": [0],
        "data": {"play": "slots", "steps": 100_000, "per_task": [{"entered": 40}, {"entered": 50}]},
        "protocol": json.loads(json.dumps(vars(Protocol()))),
        **summarize(cells, ["bc", "iql"], [1, 2]),
        "published": {"FQL": 0.96},
        "published_order": [],
        "unfinished": 3,
        "cells": cells,
    }
    text = "\n".join(ogbench(found))
    assert "| bc | 0.50 [0.09, 0.91] | 0.00 [0.00, 0.66] | 0.25 [" in text
    assert "| iql | 1.00 [0.34, 1.00] | -- | -- | +0.50 [" in text and "| 1 of 2 |" in text
    assert "| *FQL, published* |  |  | *0.96* |" in text and "entered 40, 50 times" in text
    assert "- iql, task 2, seed 0: NonFinite: loss (curves.py, flush)" in text and "3 runs were not finished" in text
