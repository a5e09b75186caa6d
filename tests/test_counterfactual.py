"""What other arms would have done: the same choices as if they had steered, and honest numbers about the difference."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fakes import HomingCritic, HomingPolicy, Notebook, PointMass
from replayed import synthetic

from robot_value.evaluate import Arm
from robot_value.loop import run_episodes
from robot_value.replay import counterfactual
from robot_value.replay.alternatives import Alternatives, comparable
from robot_value.replay.logged_robot import LoggedRobot
from robot_value.replay.plots_policies import counterfactual_figures
from robot_value.replay.scribe import replay
from robot_value.types import Episode, Spec

N, K = 6, 4


@dataclass
class Backwards(HomingCritic):
    """Says the opposite: the farther from the origin, the better."""

    def score(self, context, chunks, lengths):
        scores = super().score(context, chunks, lengths)
        return replace(scores, value=-scores.value)


CRITICS = {"main": HomingCritic(scope=K), "shuffled": Backwards(scope=K)}
ARMS = comparable(N, 0.5, list(CRITICS), slow=True)
BY_NAME = {arm.name: arm for arm in ARMS}


@dataclass
class Log:
    episodes: list[Episode]
    spec: Spec

    def names(self) -> list[str]:
        return [f"episode_{i}" for i in range(len(self.episodes))]

    def read(self, name: str) -> Episode:
        return self.episodes[int(name.split("_")[1])]


def recorded(arm: Arm, episodes: int = 5) -> Log:
    """A log that this arm steered, with its decisions."""
    robot, notes = PointMass(batch_size=2, max_steps=14), Notebook()
    run_episodes(robot, arm.steerer(HomingPolicy(), CRITICS, K, seed=3), watchers=[notes], seeds=range(7, 7 + episodes))
    return Log(notes.episodes, notes.episodes[0].spec)


def replayed_with(arm: Arm, log: Log, arms: list[Arm] = ARMS):
    """Waves of 2, 2 and 1 episodes; `arm` steers, the others look on."""
    others = {name: critic for name, critic in CRITICS.items() if name != arm.critic}
    others = others if arm.critic == "main" else {k: v for k, v in others.items() if k != "main"}
    onlooker = Alternatives.of(arms, HomingPolicy(), CRITICS, K, seed=3)
    robot = LoggedRobot(log, batch_size=2, n_obs_steps=2)
    return replay(robot, arm.steerer(HomingPolicy(), CRITICS, K, seed=3), others, onlookers=[onlooker], progress=False)


@pytest.fixture(scope="module")
def whole():
    return replayed_with(BY_NAME["argmax"], recorded(BY_NAME["softmax_average"]))


@pytest.mark.parametrize("name", sorted({"climb", "coherent", "gate_jump", "random", "softmax", "softmax_average"}))
def test_the_arm_that_recorded_the_log_chooses_again_what_was_logged(name):
    """Drawing arms draw the same, arms with a memory remember their own, gates look back on the same values."""
    log = recorded(BY_NAME[name])
    chosen = counterfactual.choices(replayed := replayed_with(BY_NAME["argmax"], log), name)
    logged = [decision for episode in log.episodes for decision in episode.decisions]
    assert len(logged) == len(replayed) > 10
    np.testing.assert_array_equal(chosen.index, [d.index[0] for d in logged])
    np.testing.assert_array_equal(chosen.chunk, np.stack([d.chunk[0, :K] for d in logged]))
    np.testing.assert_array_equal(chosen.acted, [d.reason[0] == "chosen" for d in logged])
    # mutation: seed or stream of the generators, no memory.keep, no reset at a wave's start


def test_an_episode_that_is_played_again_is_met_as_if_for_the_first_time():
    log = recorded(BY_NAME["base"], episodes=1)
    twice = replace(log, episodes=log.episodes * 4)  # two waves of two robots, the same key in each row
    chosen = counterfactual.choices(
        replayed := replayed_with(BY_NAME["argmax"], twice, [BY_NAME["gate_jump"]]), "gate_jump"
    )
    first, last = (chosen.acted[replayed.rows(e)] for e in (0, 3))
    assert not first[:2].any() and len(first) > 2  # nothing to look back on yet
    np.testing.assert_array_equal(first, last)
    # mutation: no steerer.reset at a wave's start


def test_an_arm_is_equal_to_the_replays_own_steerer_where_it_is_the_same(whole):
    found = {arm.name: arm for arm in counterfactual.diagnose(whole).arms}
    assert found["argmax"].as_steered == 1 and found["softmax_average"].as_logged == 1
    assert found["argmax"].as_logged < 0.2 and found["mean"].as_steered < 0.2


def test_arms_that_need_no_new_samples_are_compared():
    names = {arm.name for arm in ARMS}
    assert {"base", "argmax", "argmin", "mean", "climb", "coherent", "gate_spread", "shuffled_critic"} <= names
    assert not any(name.startswith(("guide_", "proposer_")) for name in names)
    assert {arm.name for arm in comparable(N, 0.5, [])} == {"base", "coherent", "mean", "medoid", "random"}
    assert {arm.name for arm in ARMS} - {arm.name for arm in comparable(N, 0.5, list(CRITICS))} == {"climb"}


def test_arms_with_candidates_of_their_own_are_refused():
    with pytest.raises(ValueError, match=r"arms tail: expected proposer samples and no guide"):
        Alternatives.of([Arm("tail", proposer="tail")], HomingPolicy(), CRITICS, K)


def test_a_gate_that_never_opens_leaves_everything_to_the_plain_policy():
    shut = Arm("shut", "argmax", n=N, critic="main", gate="calibrated", gate_options={"threshold": float("inf")})
    found = counterfactual.diagnose(replayed_with(BY_NAME["argmax"], recorded(BY_NAME["base"]), [shut])).arms[0]
    assert found.acted.mean == found.changed.mean == found.gain.mean == found.moved.mean == 0


def test_values_are_the_main_critics_whichever_critic_an_arm_goes_by(whole):
    value = whole.opinions["main"].value
    assert (counterfactual.choices(whole, "argmax").gain >= 0).all()
    np.testing.assert_array_equal(counterfactual.choices(whole, "argmin").value, value.min(1))
    average = counterfactual.choices(whole, "shuffled_critic")  # goes by the opposite of the truth
    assert (average.index == -1).all() and average.gain.mean() < 0 < counterfactual.choices(whole, "climb").gain.min()
    new, full = counterfactual.choices(whole, "softmax_average"), whole.length >= K  # the arm that recorded the log
    np.testing.assert_allclose(new.value[full], whole.opinions["main"].logged_value[full], atol=1e-6)
    # mutation: the arm's own critic judges, new chunks of arms scored in the wrong column


def test_gains_distances_and_shares_are_what_was_put_in():
    """Two arms with known choices: candidate 0, and candidate 1 which lies 0.1 of a range further in one joint."""
    plain = synthetic(episodes=10, n=3)
    candidates = np.repeat(plain.logged[:, None], 3, 1)
    candidates[:, 1, :, 0] += 0.2  # of 2 m
    opinion = plain.opinions["main"]
    value = np.stack([opinion.logged_value, opinion.logged_value + 0.5, opinion.logged_value], 1)
    plain = replace(plain, candidates=candidates, opinions={"main": replace(opinion, value=value)})
    found = counterfactual.diagnose(with_choices(plain, base=0, other=1))
    base, other = found.arms
    assert (base.changed.mean, base.gain.mean, base.moved.mean, base.as_logged) == (0, 0, 0, 1)
    assert (other.changed.mean, other.as_logged) == (1, 0)
    assert other.gain.mean == pytest.approx(0.5) and other.gain_logged.mean == pytest.approx(0.5)
    assert other.distance.mean == other.moved.mean == pytest.approx(0.1 / np.sqrt(3), rel=1e-5)
    np.testing.assert_allclose(found.agreement, np.eye(2))
    np.testing.assert_allclose(found.apart, other.moved.mean * (1 - np.eye(2)), atol=1e-7)


def with_choices(replayed, **arms: int):
    """Arms that always take one candidate."""
    columns, rows, k = {}, np.arange(len(replayed)), replayed.execute
    for name, i in arms.items():
        columns[f"arm {name} index"] = np.full(len(replayed), i)
        columns[f"arm {name} acted"] = np.full(len(replayed), True)
        columns[f"arm {name} value"] = replayed.opinions["main"].value[:, i]
        columns[f"arm {name} chunk"] = replayed.candidates[rows, i, :k]
    return replace(replayed, columns=columns)


def test_a_critic_in_other_units_is_brought_back_to_returns():
    """V = 10 G - 3: a candidate that is better by 0.1 of return gains 1 in value and 0.1 in return."""
    plain = synthetic(episodes=200, n=2, steps=(12, 60), success=0.9)
    value = np.float32(10 * plain.returns - 3)
    better = np.stack([value, np.float32(10 * np.minimum(plain.returns + 0.1, 1) - 3)], 1)
    plain = replace(plain, opinions={"main": replace(plain.opinions["main"], logged_value=value, value=better)})
    found = counterfactual.diagnose(with_choices(plain, base=0, other=1))
    assert found.trust.trusted and found.trust.rank.low > 0.9
    expected = float((np.minimum(plain.returns + 0.1, 1) - plain.returns).mean())
    assert found.arms[1].gain_return.mean == pytest.approx(expected, abs=0.02)
    assert found.arms[1].gain.mean == pytest.approx(10 * expected, rel=1e-3)
    # mutation: a half calibrated on itself is invisible here, the next test sees it


def test_a_critic_that_knows_nothing_has_no_gain_in_returns():
    for seed in range(3):
        plain = synthetic(episodes=60, seed=seed, critics={"main": np.inf})
        found = counterfactual.diagnose(with_choices(plain, other=1))
        assert not found.trust.trusted and np.isnan(found.arms[0].gain_return.mean)
    # mutation: a half calibrated on itself (isotonic regression finds order in any noise), rank.high instead of low


def test_the_isotonic_map_is_the_closest_non_decreasing_one():
    fitted = counterfactual._isotonic(np.array([0.0, 1, 1, 2, 3]), np.array([1.0, 4, 2, 2, 5]))
    np.testing.assert_allclose(fitted, [1, 8 / 3, 8 / 3, 8 / 3, 5])  # the tie is one point of weight 2


def test_the_largest_differences_are_named_one_per_episode(whole):
    found = counterfactual.diagnose(whole, counterfactual.Config(top=3)).differences
    chosen = counterfactual.choices(whole, "argmin")
    mine = [d for d in found if d.arm == "argmin"]
    assert len(mine) == 3 == len({d.episode for d in mine})
    assert mine[0].distance == chosen.distance.max() and mine[0].distance >= mine[1].distance >= mine[2].distance
    d = mine[1]
    assert (d.step, d.gain) == (whole.step[d.decision], pytest.approx(chosen.gain[d.decision]))
    assert d.episode == whole.episodes[whole.episode[d.decision]].name
    assert not [d for d in found if d.arm == "softmax_average"]  # it recorded the log: there is no difference


def test_a_diagnosis_is_json_and_draws_its_figures(whole):
    found = counterfactual.diagnose(whole)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["arms"][0]["name"] == "base"
    drawn = counterfactual_figures(found)
    assert len(drawn) == 2 and all(svg.startswith("<svg") for _, svg, _ in drawn)
    assert "own opinion" in drawn[0][2]


def test_a_replay_without_arms_says_what_to_do():
    with pytest.raises(ValueError, match="Alternatives"):
        counterfactual.diagnose(synthetic(episodes=2))
