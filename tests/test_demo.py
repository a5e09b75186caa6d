"""The main job end to end on a tiny robot: collect, train, choose, test, page; and the rules that keep it honest."""

import json
from dataclasses import dataclass, replace

import fleet_simulators
import pytest

from robot_value import demo, study
from robot_value.components import UnknownComponent
from robot_value.demo import Setup
from robot_value.recipe import SeedOverlap
from robot_value.results_shape import missing_controls, validate_results
from robot_value.scenarios import SCENARIOS, Part, Scenario, scenario
from robot_value.study import Plan


@dataclass(frozen=True)
class WalkPart(Part):
    """A robot that lives in the tests."""

    def config(self, kind):
        return fleet_simulators.Config(**self.values)


TINY = Scenario(
    title="walk",
    robot=WalkPart("walk", {"max_steps": 12}),
    made="pushed at random",
    episodes=12,
    horizon=4,
    policy=Part("flow", {"width": 16, "depth": 1, "sample_steps": 2}),
    policy_steps=20,
    critic=Part("iql", {"members": 2, "hidden": [16]}),
    critic_steps=20,
)
PLAN = Plan(
    candidates=(2, 4),
    validation_episodes=3,
    test_episodes=4,
    headroom_episodes=1,
    headroom_points=(0,),
    videos=1,
    timelines=2,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    page = demo.run(TINY, Setup(training_seeds=2, workers=1, batch_size=4), PLAN, out)
    return out, page, json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_the_demo_ends_in_a_page_and_results_of_the_agreed_shape(finished):
    out, page, results = finished
    validate_results(results)
    assert page == out / "report.html" and "<video" in page.read_text(encoding="utf-8")
    assert missing_controls(results) == []
    assert {"argmax", "softmax_average", "success_only_critic"} <= set(results["arms"])


def test_the_decisions_of_the_first_test_seeds_lie_beside_the_page(finished):
    # mutation: filmed seeds only; the arms' episodes under one name
    out, page, results = finished
    assert 'href="episodes/report.html"' in page.read_text(encoding="utf-8")
    below = (out / "episodes" / "report.html").read_text(encoding="utf-8")
    for seed in range(2000, 2002):
        assert f"base, seed {seed}" in below and f"{results['recipe']['arm']}, seed {seed}" in below
    assert page.read_text(encoding="utf-8").count("<video") == 1  # as many as the plan says, not as many as were kept


def test_every_arm_plays_every_test_seed_for_every_training_seed(finished):
    _, _, results = finished
    assert results["seeds"] == {"training": [0, 1], "validation": [1000, 1002], "test": [2000, 2003]}
    excluded = len(results["excluded_unstable_seeds"])
    assert {arm["n"] for arm in results["arms"].values()} == {2 * (4 - excluded)}


def test_the_recipe_was_chosen_on_validation_and_is_the_arm_that_is_reported(finished):
    _, _, results = finished
    assert results["recipe"]["chosen_on"] == "validation"
    assert results["recipe"]["n"] in (2, 4)
    assert results["difference"]["arm"] == results["recipe"]["arm"] in results["arms"]
    assert "base" not in results["recipe"]["chosen_among"]


def test_a_second_run_collects_and_trains_nothing_and_finds_the_same(finished, capsys):
    out, _, results = finished
    demo.run(TINY, Setup(training_seeds=2, workers=1, batch_size=4), PLAN, out)
    again = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert "episodes," not in capsys.readouterr().out
    assert {n: a["success"] for n, a in again["arms"].items()} == {n: a["success"] for n, a in results["arms"].items()}
    assert again["policy"] == results["policy"]


def test_validation_seeds_may_not_be_test_seeds():
    with pytest.raises(SeedOverlap, match="disjoint"):
        Plan(validation_seed=1990, validation_episodes=20, test_seed=2000)


def test_data_seeds_are_neither_validation_nor_test_seeds():
    plan = Plan()
    for seed in range(3):
        first = demo.SEEDS * (seed + 1)
        longest = max(each.episodes for each in SCENARIOS.values())
        assert not set(range(first, first + longest)) & (set(plan.validation) | set(plan.test))
        assert longest < demo.SEEDS


def test_an_unknown_scenario_names_the_closest():
    with pytest.raises(UnknownComponent, match="did you mean 'lift'"):
        scenario("lfit")


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_s_parts_build_their_configs(name):
    chosen = scenario(name)
    assert chosen.robot_config(chosen.test).build
    assert chosen.robot_config({**chosen.test, **chosen.camera}) != chosen.robot_config(chosen.test)
    assert chosen.model_config("policy", 7).seed == 7 == chosen.model_config("critic", 7).seed


def test_the_commands_of_the_page_name_every_value_that_differs_from_a_default(tmp_path):
    lines = demo.commands(SCENARIOS["lift"], Setup(), tmp_path)
    assert "--robot.type=robosuite --robot.task=Lift --robot.quality.preset=biased_majority" in lines[0]
    assert "--episodes=300" in lines[0] and "--training.steps=6000" in lines[1]


def test_a_failing_model_stops_the_training_of_the_others(tmp_path):
    broken = replace(TINY, critic=Part("iql", {"members": 0}))
    demo._collect(TINY, Setup(workers=0, batch_size=4), 0, tmp_path)
    with pytest.raises(ValueError, match="at least 1 member"):
        demo.train_all({(0, "main"): demo._jobs(broken, Setup(), 0, tmp_path)["main"]}, workers=1)


def test_a_film_that_ends_differently_is_refused(finished):
    from robot_value.episodes.store import EpisodeStore
    from robot_value.video import film

    out, _, _ = finished
    with EpisodeStore.open(out / "seed_0" / "episodes") as store:
        episode = next(iter(store))
    simulator = TINY.robot_config().simulator()
    assert len(film(simulator, episode).frames) == len(episode) + 1
    with pytest.raises(RuntimeError, match="not reproducible"):
        film(simulator, replace(episode, success=not episode.success))


def test_latency_is_of_one_robot_and_has_every_stage(finished):
    _, _, results = finished
    assert set(results["latency_ms"]) == {"encode", "sample", "score", "select"}
    assert results["latency_batch"] == 1
    assert study.WARM_UP > 0
