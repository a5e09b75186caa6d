"""The steering benchmark's books: pairing, non-inferiority, headroom, and arms that are the same computation."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from recorded import make_episode, make_spec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import steering_study_cells as cells
import steering_study_summary as summary
from steering_study_models import Made, until
from steering_study_protocol import CRITICS, TASKS, Protocol, Task
from steering_study_table import steering

from robot_value.arms import asked_for, every
from robot_value.components import UnknownComponent
from robot_value.evaluate import Arm
from robot_value.oracle import Tried
from robot_value.scenarios import Part


def part(**arms: list[int]) -> dict:
    about = {"selector": "s", "gate": "always", "n": 4}
    return {
        "arms": {
            name: {
                "success": success,
                "unstable": [0] * len(success),
                "mean_steps": 1.0,
                "abstained": 0.25,
                "arm": about,
            }
            for name, success in arms.items()
        }
    }


def test_a_seed_that_broke_under_one_arm_of_one_training_seed_leaves_all():
    # mutation: unstable seeds dropped per arm
    parts = [part(base=[1, 0, 1], arm=[1, 1, 0]), part(base=[0, 0, 1], arm=[1, 1, 1])]
    parts[1]["arms"]["arm"]["unstable"] = [0, 1, 0]
    found = summary.outcomes(parts)
    assert found["base"].astype(int).tolist() == [[1, 1], [0, 1]]
    assert found["arm"].astype(int).tolist() == [[1, 0], [1, 1]]


def test_differences_are_paired_by_seed():
    found = summary.outcomes([part(base=[0] * 50 + [1] * 50, arm=[1] * 10 + [0] * 40 + [1] * 50)])
    gap = summary.difference(found, "arm", "base")
    assert gap["mean"] == pytest.approx(0.10) and gap["p_mcnemar"] == pytest.approx(2 / 2**10)


def harm_of(gated: list[int]) -> dict:
    base = [0, 1] * 100
    arms = {f"recipe_{critic}": [1] * 200 for critic in CRITICS} | {f"gated_{critic}": gated for critic in CRITICS}
    trials = [{"threshold": "-inf", "gain": 0.2, "n": 40}]
    gate = {"critics": {critic: {"threshold": "0.5", "trials": trials} for critic in CRITICS}}
    return summary.no_harm("pair", "main", [gate], [part(base=base, **arms)])


def test_harm_is_judged_behind_the_gate_and_corrected_for_all_pairs():
    # mutation: the ungated arm judged; p not corrected; share of the gain inverted
    idle, half = harm_of([0, 1] * 100), harm_of([1, 1] * 50 + [0, 1] * 50)
    assert idle["gated"]["mean"] == 0 and idle["share_of_gain_kept"] == 0
    assert half["share_of_gain_kept"] == pytest.approx(0.5)
    rows = summary.corrected([idle, half])
    assert [row["noninferior"] for row in rows] == [True, True]
    worse = harm_of([0, 1] * 80 + [0, 0] * 20)
    assert not summary.corrected([worse])[0]["noninferior"]
    borderline = {**idle, "p_noninferior": 0.03}
    assert summary.corrected([borderline])[0]["noninferior"]
    assert not any(row["noninferior"] for row in summary.corrected([borderline] * 2))


def test_where_the_gate_never_acts_the_ungated_gain_is_the_validation_seeds():
    # mutation: recipe_main looked up all the same
    gate = {"critics": {"main": {"threshold": "inf", "trials": [{"threshold": "-inf", "gain": -0.1, "n": 40}]}}}
    base = [0, 1] * 200
    row = summary.no_harm("pair", "main", [gate], [part(base=base, gated_main=base)])
    assert row["ungated"] is None and row["share_of_gain_kept"] is None
    assert row["ungated_on_validation"] == [{"gain": -0.1, "n": 40}]
    assert summary.corrected([row])[0]["noninferior"]
    better = part(recipe_main=[1, 1] * 200)
    played = summary.with_ungated([part(base=base, gated_main=base)], [better])
    withheld = summary.no_harm("pair", "main", [gate], played)
    assert withheld["ungated"]["mean"] == pytest.approx(0.5) and withheld["share_of_gain_kept"] == 0
    assert summary.with_ungated([part(base=base)], [None]) == [part(base=base)]


def trials(selected: float, best: float, first: float, episodes: int = 20) -> dict:
    """Every candidate's success rate is the same in all rollouts, so that halves agree."""
    success = [[first] * 4, [selected] * 4, [best] * 4, [0.0] * 4]
    one = [
        {"seed": s, "decision": 0, "success": success, "value": [0, 1, 2, None], "selected": 1} for s in range(episodes)
    ]
    return {"trials": {"base": one, "steered": one}, "alone": [[1, 0, 0, 0]] * episodes, "seeds": list(range(episodes))}


def test_recovered_is_the_mean_share_over_pairs_with_headroom():
    # mutation: pairs without headroom averaged in; (selector - base) / oracle
    pairs = {
        "a": [trials(0.5, 0.75, 0.25)],  # half of 50 points
        "b": [trials(0.625, 0.75, 0.5)],  # half of 25 points
        "c": [trials(0.5, 0.55, 0.5)],  # 5 points: not asked
    }
    found = summary.recovered(pairs, designed_on=["a"], candidates=4)
    assert found["pairs"] == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}
    assert found["mean"] == pytest.approx(0.5) and found["ci95"] == pytest.approx([0.5, 0.5])
    assert found["not_used_to_design"] == ["b"] and not found["shown"]  # two new pairs are asked for
    assert summary.recovered(pairs, designed_on=[], candidates=4)["shown"]
    assert summary.recovered({"c": pairs["c"]}, [], 4)["mean"] is None
    single = summary.recovered({"d": [trials(0.5, 0.75, 0.25, episodes=4)]}, [], 4)
    assert single["mean"] is None and single["too_few_episodes"] == ["d"]  # four episodes say nothing


def test_episodes_of_another_training_seed_are_other_episodes():
    points = summary.tried([trials(0.5, 0.75, 0.25, 3)] * 2, "steered")
    assert len({point.seed for point in points}) == 6
    assert isinstance(points[0], Tried) and np.isnan(points[0].value[3])


def test_arms_that_differ_in_name_alone_are_played_once(monkeypatch):
    # mutation: a gate that always acts played again; two different arms merged
    played = []

    class Found:
        def result(self, name):
            return ArmLike(name)

    class ArmLike:
        def __init__(self, name):
            self.name = name

    def compare(robot, policy, critics, arms, seeds, **_):
        played.extend(arm.name for arm in arms)
        return Found()

    monkeypatch.setattr(cells, "compare", compare)
    monkeypatch.setattr(cells, "models", lambda cell: (None, {}))
    monkeypatch.setattr(cells, "robot", lambda cell: None)
    monkeypatch.setattr(
        cells, "replace", lambda item, **changes: item if isinstance(item, ArmLike) else real(item, **changes)
    )
    cell = cells.Cell(Made(TASKS[0], Protocol(), 0, Path("nowhere")), "weak")
    recipe = cells.recipe(cell)
    arms = [Arm("base"), recipe, cells.gated(real(recipe, name="all"), float("-inf"))]
    arms += [cells.gated(real(recipe, name="some"), 0.5), cells.gated(real(recipe, name="none"), float("inf"))]
    found = cells.play(cell, arms, [1])
    assert sorted(played) == ["base", "recipe", "some"]
    assert {arm.name: found[arm.name].name for arm in arms} == {
        "base": "base",
        "recipe": "recipe",
        "all": "recipe",
        "some": "some",
        "none": "base",
    }
    inexact = cells.gated(real(recipe, exact=False), float("inf"))
    assert cells.plainly(inexact) == inexact  # near the plain policy, but not to the bit


real = cells.replace


def test_every_part_that_pages_read_is_played():
    # mutation: a part without a place in PARTS
    assert set(cells.PARTS) == {"gates", "test", "table", "counts", "headroom", "ungated", "latency"}


def test_what_was_made_of_other_settings_lies_elsewhere():
    made = Made(TASKS[0], Protocol(), 0, Path("out"))
    other = real(made, task=real(TASKS[0], critic_steps=1))
    assert made.root != other.root
    assert made.root == real(made, protocol=Protocol(test_seed=9000)).root  # models do not depend on who tests them
    assert cells.Cell(made, "weak").folder != cells.Cell(real(made, protocol=Protocol(test_seed=9000)), "weak").folder


def test_seeds_of_data_validation_and_test_are_apart():
    p = Protocol()
    assert not set(p.validation) & set(p.test) and max(p.test) < 10_000
    assert p.test_episodes * p.training_seeds >= 400


def test_episodes_end_where_the_other_task_is_done():
    # mutation: reward one step late; success kept from the first task
    made = make_episode(make_spec(), steps=6)
    cut = until(made, np.array([False, False, True, False, True, False]))
    assert len(cut) == 3 and cut.rewards.tolist() == [0, 0, 1] and cut.success and cut.terminated
    whole = until(made, np.zeros(6, bool))
    assert len(whole) == 6 and not whole.rewards.any() and whole.success is False and whole.truncated


def test_every_arm_can_be_asked_for_by_name():
    arms = every(8, 0.5, ("main", "shuffled"))
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names)
    assert {"base", "random", "argmax", "climb", "guide_gradient", "guide_halving", "proposer_tail"} <= set(names)
    assert [arm.name for arm in asked_for(("argmax", "guide_gradient"), 8, 0.5, ("main",))] == [
        "argmax",
        "guide_gradient",
    ]
    assert asked_for((), 8, 0.5, ("main",)) == []
    with pytest.raises(UnknownComponent, match="no arm called 'argmx'; did you mean 'argmax'"):
        asked_for(("argmx",), 8, 0.5, ("main",))


def test_the_table_says_what_is_missing_and_what_is_not_shown():
    row = {"pair": "lift weak", "missing": ["table", "counts", "headroom", "latency"], "headroom": None}
    harm = summary.corrected([harm_of([0, 1] * 100)])
    found = {
        "protocol": {**Protocol().__dict__},
        "machine": {"cores": 2, "gpu": None},
        "rows": [row],
        "unfinished": ["stack weak"],
        "do_no_harm": {"margin": 0.05, "rows": harm},
        "recovered": {"mean": None, "least_headroom": 0.1, "too_few_episodes": ["lift weak"], "least_episodes": 5},
    }
    page = "\n".join(steering(found))
    assert "Not finished: lift weak: table, counts, headroom, latency; stack weak: all" in page
    assert (
        "1 pairs have fewer than 5 episodes: recovery is **not shown**" in page and "1 of 1 shown non-inferior" in page
    )


def test_a_row_says_first_what_the_gated_recipe_did():
    # mutation: the ungated arm; the base's share of abstentions
    found = summary.gated([part(base=[0, 1] * 50, gated_main=[1, 1] * 50)])
    assert found["difference"]["arm"] == "gated" and found["difference"]["mean"] == pytest.approx(0.5)
    assert found["difference"]["gate"] == "calibrated" and found["difference"]["abstained"] == 0.25
    assert found["arms"]["gated"]["success"] == 1.0 and found["arms"]["base"]["success"] == 0.5


def test_the_protocols_tasks_are_robots_that_exist():
    for task in TASKS:
        assert isinstance(task, Task) and isinstance(task.robot, Part)
        task.robot_config(task.test)
        task.robot_config(task.other)
