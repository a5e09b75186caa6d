"""The online benchmark's books: the same start for everybody, nothing stale, failures stay, figures are the cells'."""

import json
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from online_fakes import Here, PointConfig

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import online_cells
import online_table
from online_cells import Cell, run_cell
from online_plot import draw
from online_protocol import ALGORITHMS, TASKS, Algorithm, Protocol, Task
from online_summary import summarize

from robot_value import checkpoint, components
from robot_value.recipe import SeedOverlap
from robot_value.scenarios import Part

TINY = Protocol(
    **{"offline_steps": 2, "batch_size": 8, "hidden": (8,), "ratio": 0.1, "per_round": 2, "batch": 2},
    **{"evaluate_episodes": 3, "evaluate_every": 1, "budget": 1000, "rates": (1, 4)},
)
BY_NAME = {algorithm.name: algorithm for algorithm in ALGORITHMS}


@dataclass(frozen=True)
class Points(Task):
    """The point robot in a scenario's place."""

    @cached_property
    def made(self):
        flow = lambda which, seed: Part("flow", {"width": 8, "depth": 1, "seed": seed}).config("policies")  # noqa: E731
        return SimpleNamespace(horizon=4, policy_steps=2, model_config=flow, made="points", episodes=4)

    def robot(self, test):
        return PointConfig(max_steps=8)


@pytest.fixture
def cell(tmp_path, monkeypatch):
    monkeypatch.setattr(online_cells, "about", lambda scenario: {"made": scenario.made})
    return Cell(Points("points", episodes=4), BY_NAME["qc_fql"], 0, TINY, tmp_path)


def measured(cell):
    result = run_cell(cell, workers=0, actor=Here())
    assert result["status"] == "done", result
    return result


def test_a_cell_starts_from_the_flow_learns_and_is_judged_on_the_same_seeds_all_along(cell):
    # mutation: the plain policy's figure for the start; guard rails on: a worse version is not played to the end
    result = measured(cell)
    own = result["evaluations"]
    assert [len(each) for each in (result["plain"], result["start"], *(e["success"] for e in own))] == [3, 3, 3, 3]
    assert own[-1]["env_steps"] == sum(map(sum, result["episodes"]["steps"])) and result["updates"] > 0
    assert set(result["rates"]) == {"hertz", "start", "final"} and len(result["rates"]["start"]["success"]) == 2
    assert run_cell(cell) == cell.read() == json.loads(json.dumps(result))


def test_all_algorithms_of_a_training_seed_share_data_and_flow(cell):
    # mutation: the flow in the cell's own folder
    measured(cell)
    flow = checkpoint.load(checkpoint.newest(cell.root / "flow"))
    other = replace(cell, algorithm=BY_NAME["bc"])
    measured(other)
    assert other.folder != cell.folder and other.root == cell.root
    assert checkpoint.load(checkpoint.newest(cell.root / "flow")).hash == flow.hash
    assert replace(cell, seed=1).root != cell.root


def test_a_cell_that_was_stopped_goes_on_and_one_that_failed_says_why(cell, monkeypatch):
    # mutation: catch BaseException; drop the failed cell; retry by default
    def stopped(*arguments):
        raise SystemExit(130)

    real = online_cells.train_online
    monkeypatch.setattr(online_cells, "train_online", stopped)
    with pytest.raises(SystemExit):
        run_cell(cell, workers=0)
    assert cell.read() is None and (cell.folder / "offline").exists()

    def broken(*arguments):
        raise FloatingPointError("loss is nan")

    monkeypatch.setattr(online_cells, "train_online", broken)
    assert run_cell(cell, workers=0)["error"] == "FloatingPointError: loss is nan"
    monkeypatch.setattr(online_cells, "train_online", real)
    assert run_cell(cell, workers=0)["status"] == "failed"
    assert run_cell(cell, workers=0, retry=True, actor=Here())["status"] == "done"


def test_another_protocol_or_algorithm_is_another_folder_and_another_source_is_not(cell):
    # mutation: name folders by the algorithm's name alone
    changed = replace(cell.algorithm, n=3)
    folders = {
        cell.folder,
        replace(cell, algorithm=changed).folder,
        replace(cell, protocol=replace(TINY, ratio=1)).folder,
    }
    assert len(folders) == 3
    assert replace(cell, algorithm=replace(cell.algorithm, source="elsewhere")).folder == cell.folder


def test_figures_come_from_seeds_that_nobody_learned_from():
    # mutation: drop Task.check
    for task in TASKS.values():
        for seed in range(5):
            task.check(Protocol(), seed)
    with pytest.raises(SeedOverlap):
        TASKS["lift"].check(Protocol(evaluate_seed=100_010), 0)
    with pytest.raises(SeedOverlap):
        TASKS["lift"].check(Protocol(evaluate_seed=10_299), 0)


def test_every_algorithm_names_components_and_at_most_half_of_them_are_baselines():
    assert len({algorithm.name for algorithm in ALGORITHMS}) == len(ALGORITHMS)
    for algorithm in ALGORITHMS:
        for kind, part in (("critics", algorithm.critic), ("policies", algorithm.policy)):
            assert part is None or part.name in components.names(kind)
        if algorithm.critic:
            config = algorithm.critic_config(TINY, seed=3)
            gamma = algorithm.critic.values.get("gamma", TINY.gamma)
            assert (config.gamma, config.seed, tuple(config.hidden)) == (gamma, 3, TINY.hidden)
    assert sum("baseline" in algorithm.source for algorithm in ALGORITHMS) == 2


# -- figures ----------------------------------------------------------------------------------------------------------


def done(name, start, *evaluations, seed=0, steps=100):
    return {
        **{
            "algorithm": name,
            "seed": seed,
            "status": "done",
            "start": start,
            "plain": start,
            "updates": 10,
            "wall_seconds": 5.0,
        },
        "evaluations": [{"env_steps": steps * (i + 1), "success": e} for i, e in enumerate(evaluations)],
        "learning_seconds": [1.0, 1.0],
    }


def test_a_curve_is_the_mean_over_training_seeds_and_ends_at_the_budget():
    # mutation: figures beyond the budget; the first seed alone
    cells = [done("qc", [0, 1], [0, 0], [1, 1], [1, 1]), done("qc", [1, 1], [1, 0], [1, 1], [0, 0], seed=1)]
    (row,) = summarize(cells, ["qc"], budget=200)["rows"]
    assert [(p["env_steps"], p["success"]) for p in row["curve"]] == [(0, 0.75), (100, 0.25), (200, 1.0)]
    assert (row["start"]["success"], row["final"]["success"], row["dip"]) == (0.75, 1.0, -0.5)
    assert row["gain"]["mean"] == pytest.approx(0.25) and row["solved_at"] == 200 and row["seeds"] == [0, 1]
    assert row["updates_per_second"] == 5.0


def test_the_better_half_that_fell_is_named_and_the_worse_half_is_not():
    # mutation: name everybody that fell; dip of one seed
    cells = [done("a", [1] * 10, [0] * 10, [1] * 10), done("b", [1] * 10, [1] * 10), done("c", [1] * 10, [0] * 10)]
    assert summarize(cells, ["a", "b", "c"], 1000)["fell"] == ["a"]


def test_failures_keep_their_row_and_what_was_not_run_has_none(tmp_path):
    failed = {"algorithm": "expo", "seed": 0, "status": "failed", "error": "NonFinite: loss", "where": "curves.py"}
    found = summarize([failed, done("bc", [0, 1], [0, 1])], ["bc", "expo", "qc"], 1000)
    assert [row["name"] for row in found["rows"]] == ["bc", "expo"]
    assert found["rows"][1]["failed"][0]["error"] == "NonFinite: loss" and found["rows"][0]["gain"]["mean"] == 0
    draw(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert np.isfinite(found["rows"][0]["final"]["ci95"]).all()


def test_the_table_has_a_row_for_everybody_and_says_who_fell():
    # mutation: leave failures out; `fell` of the first task for all
    failed = {"algorithm": "expo", "seed": 0, "status": "failed", "error": "NonFinite: loss", "where": "curves.py"}
    cells = [done("a", [1] * 10, [0] * 10, [1] * 10), done("b", [1] * 9 + [0], [1] * 10), failed]
    protocol = {"evaluate_episodes": 10, "evaluate_seed": 3000, "budget": 1000, "ratio": 0.5}
    tasks = {"lift": summarize(cells, ["a", "b", "expo"], 1000), "can": summarize(cells[1:2], ["b"], 1000)}
    report = {"tasks": tasks, "protocol": protocol, "command": "bench", "machine": {"cores": 2, "gpu": None}}
    lines = online_table.table(report)
    assert [line.count("|") for line in lines[:6]] == [11] * 6
    assert lines[2].split(" | ")[4:9] == ["1.00 [1.00, 1.00]"] * 2 + ["+0.00 [+0.00, +0.00]", "-1.00", "0"]
    assert "| (1 failed: NonFinite: loss) |" in lines[4] and lines[5].startswith("| can | b |")
    assert lines[-1].endswith("below their start: lift: a.")


def test_an_unknown_algorithm_fails_its_own_cell_only(cell):
    broken = replace(cell, algorithm=Algorithm("typo", "critic", Part("iqll")))
    assert "did you mean 'iql'" in run_cell(broken, workers=0)["error"]
