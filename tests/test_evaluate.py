"""Paired comparison, pooling, the choice of a recipe, calibration and the shape of results.json."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_fakes import HORIZON, Counter, PushCritic, Wanderer

from robot_value import evaluate, randomness
from robot_value.calibration import DecisionTable, calibration
from robot_value.evaluate import Arm, by_n, compare, executed_steps, pool, success_by_n
from robot_value.recipe import SeedOverlap, choose, refuse_overlap
from robot_value.results import plain, to_results, write_atomic, write_results
from robot_value.results_shape import InvalidResults, missing_controls, validate_results
from robot_value.statistics import mcnemar, paired_difference, wilson

CRITICS = {"critic": PushCritic(), "shuffled": PushCritic(0.0)}
BASE, MEAN = Arm("base"), Arm("mean", "mean", n=8)
ARGMAX = Arm("argmax", "argmax", n=8, critic="critic")
AVERAGE = Arm("softmax_average", "softmax_average", {"temperature": 1.0}, n=8, critic="critic")
ARMS = [BASE, MEAN, ARGMAX, AVERAGE, Arm("argmin", "argmin", n=8, critic="critic")]


def run(arms=ARMS, seeds=range(30), robot=None, **options):
    return compare(robot or Counter(), Wanderer(), CRITICS, arms, list(seeds), progress=False, **options)


@pytest.fixture(scope="module")
def compared():
    return run()


@pytest.fixture(scope="module")
def pooled():
    return pool([run(seed=seed, training_seed=seed) for seed in (0, 1, 2)])


@pytest.fixture(scope="module")
def results():
    validation = run([BASE, *by_n(ARGMAX, [1, 4])], range(100, 120))
    recipe = choose(validation, ["base", "argmax_4"])
    test = run([BASE, MEAN, recipe.arm], range(200, 230))
    return plain(
        to_results(test, recipe, task="t", policy="p", critic="c", provenance=PROVENANCE, validation=validation)
    )


PROVENANCE = {"command": "x", "git": None, "versions": {}, "machine": {"cores": 2}, "wall_seconds": 1.0}


def test_an_arm_brings_its_follower_and_may_think_ahead(monkeypatch):
    # mutation: the plain follower always; lag ignored; the thread left running
    seen, ended = [], []
    real, close = evaluate.run_episodes, evaluate.ThinkAhead.close

    def spy(robot, steerer, follower, *rest, **named):
        seen.append((type(steerer).__name__, getattr(steerer, "lag", None), type(follower).__name__))
        return real(robot, steerer, follower, *rest, **named)

    monkeypatch.setattr(evaluate, "run_episodes", spy)
    monkeypatch.setattr(evaluate.ThinkAhead, "close", lambda self: (ended.append(self), close(self)))
    arms = [BASE, Arm("ahead", follower="splice", lag=0)]
    found = run(arms, range(6))
    assert seen == [("Steerer", None, "Plain"), ("ThinkAhead", 0, "Splice")] and len(ended) == 1
    assert found.success("ahead").tolist() == found.success("base").tolist()  # no lag: the same decisions


def test_arms_of_one_comparison_may_use_packed_arithmetic():
    # mutation: precision not handed to the Steerer
    assert Arm("base", precision="float32").steerer(Wanderer(), {}, HORIZON, 0).precision == "float32"
    with pytest.raises(ValueError, match="precision: expected one of off, auto, float32, bfloat16, got 'float8'"):
        run([Arm("base", precision="float8")])


def test_base_plays_exactly_candidate_zero_of_every_seed(compared):
    for column, seed in enumerate(compared.seeds):
        p, steps = seed % 3 / 10, 0
        for decision in range(4):
            noise = randomness.normal(0, [seed], [decision * HORIZON], (1, HORIZON, 1))[0, 0, :, 0]
            for action in np.clip(np.float32(0.6) * noise, -1, 1):
                if p < 3:
                    p, steps = p + action, steps + 1
        assert compared.arms["base"].success[0, column] == (p >= 3)
        assert compared.arms["base"].steps[0, column] == steps


def test_every_arm_sees_the_same_first_candidates():
    shadow = Arm("shadow", "argmax", n=8, gate="shadow", critic="critic")
    both = run([BASE, shadow])
    # mutation: `seed=seed` -> `seed=hash(self.name)` in Arm.steerer
    assert (both.arms["base"].success == both.arms["shadow"].success).all()
    assert (both.arms["base"].steps == both.arms["shadow"].steps).all()
    assert both.arms["shadow"].abstained == 1
    assert both.arms["base"].abstained == 0


def test_an_honest_critic_gains_and_its_opposite_loses(compared):
    rates = {name: compared.success(name).mean() for name in compared.arms}
    assert rates["argmin"] <= rates["base"] < rates["softmax_average"] <= rates["argmax"] == 1


def test_the_batch_size_does_not_change_any_episode(compared):
    other = run(robot=Counter(batch_size=7))
    for name in compared.arms:
        assert (other.arms[name].steps == compared.arms[name].steps).all()


def test_a_row_holds_the_rate_with_its_interval_and_what_the_arm_is(compared):
    row = compared.row("softmax_average")
    rate = wilson(int(compared.success("softmax_average").sum()), 30)
    assert (row["success"], row["n"], row["ci95"]) == (rate.mean, 30, rate.ci95)
    assert (row["selector"], row["options"], row["candidates"]) == ("softmax_average", {"temperature": 1.0}, 8)
    assert set(row["latency_ms"]) == {"encode", "sample", "score", "select"}
    assert "per_training_seed" not in row


def test_a_difference_is_paired(compared):
    mine, base = compared.success("argmax"), compared.success("base")
    difference = compared.difference("argmax", "base")
    assert difference["mean"] == pytest.approx(mine.mean() - base.mean())
    assert difference["ci95"] == paired_difference(mine, base).ci95
    assert difference["p_mcnemar"] == mcnemar(mine, base)
    assert (difference["gate"], difference["abstained"]) == ("always", 0)


def test_an_unstable_episode_leaves_every_arm_and_is_named():
    found = run([BASE, ARGMAX], robot=Counter(unstable_seeds=(3, 5)))
    assert found.excluded == [3, 5]
    # mutation: `success[:, self.kept]` -> `success`
    assert found.row("base")["n"] == found.row("argmax")["n"] == 28
    assert found.row("base")["unstable"] == 2
    assert found.calibration("argmax")["decisions"] < len(found.arms["argmax"].decisions.episode)


def test_a_comparison_without_any_stable_seed_is_refused():
    with pytest.raises(ValueError, match="0 of 0"):
        run([BASE], range(2), Counter(unstable_seeds=(0, 1))).row("base")


def test_pooling_keeps_training_seeds_apart(pooled):
    row, difference = pooled.row("base"), pooled.difference("softmax_average", "base")
    assert pooled.training == (0, 1, 2)
    assert row["n"] == 90
    assert row["per_training_seed"] == pooled.success("base").mean(1).tolist()
    assert np.mean(difference["per_training_seed"]) == pytest.approx(difference["mean"])
    assert len(difference["p_mcnemar_per_training_seed"]) == 3
    low, high = difference["ci95_training_seeds"]
    assert low <= difference["mean"] <= high
    assert sum(pooled.arms["base"].reasons.values()) == len(pooled.arms["base"].decisions.episode)


def test_pooling_refuses_what_does_not_belong_together(compared):
    with pytest.raises(ValueError, match="same environment seeds"):
        pool([compared, run(seeds=range(1, 31), training_seed=1)])
    with pytest.raises(ValueError, match="need the same arms"):
        pool([compared, run([BASE], training_seed=1)])
    with pytest.raises(ValueError, match="training seeds must differ"):
        pool([compared, compared])


@pytest.mark.parametrize(
    ("arms", "seeds", "message"),
    [
        ([BASE, BASE], [0], "arm names must differ"),
        ([BASE], [1, 1], r"seeds must differ, got \[1\]"),
        ([BASE], [], "seeds: expected at least one"),
        ([replace(ARGMAX, critic="critik")], [0], "did you mean 'critic'"),
        ([replace(ARGMAX, selector="argmx")], [0], "did you mean 'argmax'"),
        ([replace(ARGMAX, critic=None)], [0], "expected a critic"),
    ],
)
def test_a_comparison_that_cannot_mean_anything_is_refused_before_it_runs(arms, seeds, message):
    with pytest.raises(ValueError, match=message):
        run(arms, seeds)


def test_an_unknown_arm_is_answered_with_the_closest(compared):
    with pytest.raises(ValueError, match="did you mean 'argmax'"):
        compared.difference("argmaxx", "base")


def test_a_loop_that_loses_an_episode_is_not_believed(monkeypatch):
    monkeypatch.setattr(evaluate, "run_episodes", lambda *_, **__: [])
    with pytest.raises(RuntimeError, match=r"no episode for seeds \[0"):
        run()


def test_all_arms_execute_as_many_steps_as_the_critics_judge():
    assert executed_steps(None, Wanderer(), {}) == HORIZON
    assert executed_steps(None, Wanderer(), {"c": PushCritic(scope=1)}) == 1
    assert executed_steps(1, Wanderer(), {"c": PushCritic()}) == 1
    with pytest.raises(ValueError, match=r"same number of steps, got scopes \[1, 2\]"):
        executed_steps(None, Wanderer(), {"a": PushCritic(scope=1), "b": PushCritic()})


def test_watchers_are_made_per_arm():
    asked = []
    run([BASE, MEAN], range(2), watchers=lambda arm: asked.append(arm.name) or ())
    assert asked == ["base", "mean"]


def test_success_by_n_is_one_curve_per_selector_sorted_by_n():
    found = success_by_n(run([BASE, *by_n(ARGMAX, [4, 1]), *by_n(MEAN, [2])], range(10)))
    assert [point["candidates"] for point in found["argmax"]] == [1, 4]
    assert set(found) == {"base", "argmax", "mean"}
    assert found["argmax"][0]["success"] == found["base"][0]["success"]  # best of one is the plain policy


def test_the_recipe_is_the_best_on_validation(compared):
    recipe = choose(compared, ["base", "mean", "softmax_average", "argmax"])
    assert recipe.arm == ARGMAX
    assert recipe.validation_success == 1
    assert recipe.to_json()["chosen_on"] == "validation"


def test_a_tie_goes_to_the_simpler_arm():
    tied = [replace(ARGMAX, name="argmax_16", n=16), ARGMAX, Arm("first_8", "first", n=8), BASE]
    found = run([*tied, MEAN], range(12))
    assert found.success("argmax_16").sum() == found.success("argmax").sum()
    # mutation: drop the `key` of sorted()
    assert choose(found, ["argmax_16", "argmax"]).arm.name == "argmax"
    assert choose(found, ["first_8", "base"]).arm.name == "base"
    free = replace(
        found, arms={name: replace(r, success=found.arms["argmax"].success) for name, r in found.arms.items()}
    )
    assert choose(free, ["argmax", "mean"]).arm.name == "mean"


def test_a_recipe_needs_candidates(compared):
    with pytest.raises(ValueError, match="at least one candidate arm"):
        choose(compared, [])


def test_validation_seeds_can_never_judge(compared):
    recipe = choose(compared, ["argmax"])
    with pytest.raises(SeedOverlap, match=r"got 30 in both \(0, 1, 2, 3, 4, ...\)"):
        # mutation: drop `recipe.check(test.seeds)` in to_results
        to_results(compared, recipe, task="t", policy="p", critic="c", provenance=PROVENANCE)
    refuse_overlap(range(10), range(10, 20))


def test_results_hold_everything_a_page_reads(results):
    validate_results(results)
    assert results["seeds"] == {"training": [0], "validation": [100, 119], "test": [200, 229]}
    assert results["recipe"]["arm"] == results["difference"]["arm"] == "argmax_4"
    pairs = [(d["arm"], d["against"]) for d in results["differences"]]
    assert pairs == [("mean", "base"), ("argmax_4", "base"), ("argmax_4", "mean")]
    assert set(results["success_by_n"]) == {"base", "argmax"}
    assert results["calibration"]["argmax_4"]["decisions"] > 0
    assert results["latency_batch"] == 4
    assert missing_controls(results) == ["random", "medoid", "argmin", "shuffled_critic"]


def test_a_caller_may_say_what_is_compared_and_bring_the_latency_of_one_robot(compared):
    recipe = choose(run([ARGMAX], range(100, 110)), ["argmax"])
    given = {"task": "t", "policy": "p", "critic": None, "provenance": PROVENANCE}
    found = to_results(compared, recipe, **given, differences=[("argmax", "mean")], latency_ms={"sample": 1.5})
    assert [(d["arm"], d["against"]) for d in found["differences"]] == [("argmax", "mean")]
    assert (found["latency_ms"], found["latency_batch"]) == ({"sample": 1.5}, 1)


def test_plain_values_are_what_json_knows():
    mixed = {1: np.float32(0.5), "a": np.array([1.0, np.nan]), "b": (np.int64(3), np.bool_(True), "x", None)}
    assert plain(mixed) == {"1": 0.5, "a": [1.0, None], "b": [3, True, "x", None]}


def test_written_results_are_strict_utf8_json_without_nan(results, tmp_path):
    path = write_results(
        tmp_path / "deep" / "results.json", results | {"task": "Würfel", "extra": [math.nan, math.inf]}
    )
    text = path.read_bytes().decode("utf-8")
    read = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in results.json"))
    assert "Würfel" in text
    # mutation: `return None` -> `return value` in plain()
    assert read["extra"] == [None, None]
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(results, tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "a.txt", "old")
    monkeypatch.setattr("robot_value.results.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def without(results, *keys):
    copy = json.loads(json.dumps(results))
    inner = copy
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return copy


@pytest.mark.parametrize(
    "keys",
    [
        ("command",),
        ("arms",),
        ("seeds", "test"),
        ("recipe", "n"),
        ("arms", "base", "ci95"),
        ("difference", "p_mcnemar"),
    ],
)
def test_a_missing_key_is_named_with_its_place(results, keys):
    with pytest.raises(InvalidResults, match=rf"results\.{'.'.join(keys)}: expected .*, got nothing"):
        validate_results(without(results, *keys))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version: expected at most 1, got 2; upgrade"),
        ({"format_version": True}, "format_version: expected int, got True"),
        ({"wall_seconds": math.nan}, "wall_seconds: expected a finite number or null, got nan"),
        ({"arms": {"base": 3}}, "arms.base: expected an object, got int"),
        ({"arms": {"base": {"success": 1.2, "n": 5, "ci95": [0, 1]}}}, "expected 0 <= ci95"),
        ({"arms": {"base": {"success": 0.2, "n": 5, "ci95": [None, 1]}}}, "expected 0 <= ci95"),
        ({"headroom": {"n_episodes": 3}}, "headroom.oracle: expected int or float, got nothing"),
        ({"seeds": {"training": [0], "validation": [0, 9], "test": [9, 20]}}, "test seeds that chose nothing"),
        ({"arms": {}}, "difference.arm: expected one of the arms, got 'argmax_4'"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(results, change, message):
    with pytest.raises(InvalidResults, match=message):
        validate_results(results | change)


def test_a_table_of_rows_is_checked_row_by_row(results):
    validate_results(PROVENANCE | {"format_version": 1, "rows": [results, results]})
    with pytest.raises(InvalidResults, match=r"rows\[1\]\.task: expected str, got nothing"):
        validate_results(PROVENANCE | {"format_version": 1, "rows": [results, without(results, "task")]})


def table(**columns):
    length = len(columns["episode"])
    given = {"training": [0] * length, "executed": [2] * length} | columns
    kinds = {"value": float, "reward": float}
    return DecisionTable(**{name: np.array(column, kinds.get(name, np.int64)) for name, column in given.items()})


def test_a_realised_return_discounts_over_control_steps():
    found = table(episode=[7, 8, 7, 7], step=[0, 0, 2, 5], value=[0] * 4, reward=[1, 5, 10, 100], executed=[2, 2, 3, 1])
    # mutation: `gamma ** self.executed[row]` -> `gamma`
    assert found.returns(0.5).tolist() == [1 + 0.25 * (10 + 0.125 * 100), 5, 10 + 0.125 * 100, 100]


def test_returns_do_not_leak_between_training_seeds():
    found = table(training=[0, 1], episode=[7, 7], step=[0, 2], value=[0, 0], reward=[1, 10])
    assert found.returns(0.5).tolist() == [1, 10]
    assert found.first().tolist() == [0, 1]


def test_returns_match_the_rewards_of_the_episode(compared):
    decisions = compared.arms["argmax"].decisions
    first = decisions.first()
    for episode, realised in zip(decisions.episode[first], decisions.returns(0.98)[first], strict=True):
        column = compared.seeds.index(episode)
        steps = compared.arms["argmax"].steps[0, column]
        assert realised == pytest.approx(compared.arms["argmax"].success[0, column] * 0.98 ** (steps - 1))


def test_calibration_of_a_clairvoyant_critic_is_perfect():
    found = table(episode=[0, 0, 1, 2], step=[0, 2, 0, 0], value=[0.25, 1, 0, 1], reward=[0, 1, 0, 1])
    figures = calibration(found, np.array([True, False, True]), gamma=0.5)
    assert figures["ece"] == 0
    assert figures["auroc_first_value"] == 1
    assert figures["predicted"] == figures["realised"]


def test_calibration_is_unknown_where_the_executed_chunk_was_not_scored(compared):
    assert compared.calibration("base") is None
    assert compared.calibration("softmax_average") is None  # its chunk is none of the scored candidates
    assert compared.calibration("argmax")["decisions"] == len(compared.arms["argmax"].decisions.episode)


def test_calibration_needs_one_outcome_per_episode():
    with pytest.raises(ValueError, match=r"one per episode \(2\), got 1"):
        calibration(table(episode=[0, 1], step=[0, 0], value=[0, 0], reward=[0, 0]), np.ones(1, bool), 0.9)
