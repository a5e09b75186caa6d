"""Every labeler against its formula, written out step by step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import make_episode, make_spec

from robot_value.labelers import (
    advantage_weights,
    intervention,
    minus_one,
    monte_carlo,
    return_weights,
    step_penalty,
    success_filter,
    terminal_success,
)
from robot_value.labels.outcomes import trajectory_weights
from robot_value.types import EXPERT, HUMAN, POLICY

SPEC = make_spec()
OUTCOMES = (terminal_success, minus_one, step_penalty, success_filter)


def label(config, episodes):
    """Labels of each episode, by a labeler that was fitted to all of them; they fit their episodes."""
    named = {str(i): episode for i, episode in enumerate(episodes)}
    labeler = config.build()
    labeler.fit(lambda: iter(named.items()))
    labels = [labeler.label(name, episode) for name, episode in named.items()]
    for each, episode in zip(labels, episodes, strict=True):
        each.check(len(episode))
    return labels


def episode(steps=5, success=True, terminated=None, seed=0, **changes):
    return make_episode(
        SPEC, steps, seed, terminated=success if terminated is None else terminated, success=success, **changes
    )


def test_terminal_success_rewards_the_last_step_of_a_success_and_terminates_there():
    won, lost = label(terminal_success.Config(), [episode(3, terminated=False), episode(3, False)])
    assert won.rewards.tolist() == [0, 0, 1] and won.terminated is True
    assert lost.rewards.tolist() == [0, 0, 0] and lost.terminated is None  # mutation: a time-out taken for the end


def test_minus_one_costs_every_step_but_the_last_H_of_a_success():
    won, lost, short = label(
        minus_one.Config(last_steps=2), [episode(5), episode(4, False, terminated=True), episode(1)]
    )
    assert won.rewards.tolist() == [-1, -1, -1, 0, 0] and won.terminated is True  # mutation: H + 1 steps
    assert lost.rewards.tolist() == [-1] * 4 and lost.terminated is False  # mutation: failing early is cheap
    assert short.rewards.tolist() == [0]  # mutation: an index before the episode's start


def test_minus_one_values_the_steps_to_go_as_v_gps_does():
    gamma, (won,) = 0.9, label(minus_one.Config(last_steps=3), [episode(8)])
    for t in range(8):
        value = sum(gamma**i * won.rewards[t + i] for i in range(8 - t))
        assert value == pytest.approx(-(1 - gamma ** max(0, 5 - t)) / (1 - gamma))


def test_the_slowest_episode_pays_the_whole_penalty_and_a_fast_success_is_worth_more():
    fast, slow, lost = label(step_penalty.Config(penalty=0.5), [episode(2), episode(10), episode(4, False)])
    assert slow.rewards.sum() == pytest.approx(1 - 0.5)
    assert fast.rewards.tolist() == pytest.approx([-0.05, 0.95])  # mutation: divided by the episode's own length
    assert lost.rewards.tolist() == pytest.approx([-0.05, -0.05, -0.05, -1.05]) and lost.terminated is True


def test_a_given_length_asks_for_no_pass_over_the_dataset():
    labeler = step_penalty.Config(length=20).build()
    labeler.fit(lambda: pytest.fail("the dataset was read"))
    assert labeler.label("0", episode(2)).rewards.tolist() == pytest.approx([-0.05, 0.95])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([POLICY, EXPERT, HUMAN]), min_size=1, max_size=12))
def test_the_step_before_a_human_takes_over_is_blamed_and_no_other(source):
    (labels,) = label(intervention.Config(), [episode(len(source), source=np.array(source, np.uint8))])
    for t, reward in enumerate(labels.rewards):
        begins = t + 1 < len(source) and source[t + 1] == HUMAN and source[t] != HUMAN  # mutation: blame its first step
        assert reward == (-1 if begins else 0)
    assert labels.about["interventions"] == -labels.rewards.sum() and labels.terminated is None


def test_an_episode_without_sources_had_no_intervention():
    (labels,) = label(intervention.Config(), [episode(4)])
    assert not labels.rewards.any() and labels.about == {"interventions": 0, "human": 0.0}


@pytest.mark.parametrize(("terminated", "forever"), [(True, True), (False, True), (False, False)])
def test_monte_carlo_is_the_discounted_sum_and_forever_goes_on_with_the_last_reward(terminated, forever):
    gamma, recorded = 0.9, episode(6, terminated=terminated)
    (labels,) = label(monte_carlo.Config(gamma, forever), [recorded])
    tail = [recorded.rewards[-1]] * (500 if forever and not terminated else 0)  # mutation: also after a termination
    rewards = np.concatenate([recorded.rewards, tail])
    expected = [sum(gamma**i * r for i, r in enumerate(rewards[t:])) for t in range(6)]
    assert labels.returns == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert labels.about["gamma"] == gamma and labels.rewards is None


def test_return_weights_are_the_papers_softmax_up_to_a_factor():
    episodes = [episode(n, seed=n) for n in (3, 5, 4, 6)]
    labels = label(return_weights.Config(alpha=0.3), episodes)
    returns = np.array([e.rewards.sum(dtype=np.float64) for e in episodes])
    scaled = (returns - returns.min()) / (returns.max() - returns.min())  # mutation: not scaled to [0, 1]
    softmax = np.exp(scaled / 0.3) / np.exp(scaled / 0.3).sum()
    found = np.array([each.weights[0] for each in labels])
    assert found / found.sum() == pytest.approx(softmax, rel=1e-5) and found.max() == 1
    assert all((each.weights == each.weights[0]).all() for each in labels)


def test_advantage_weights_take_out_what_the_first_state_explains():
    # An easy start is worth 10; from either start one episode did better than the other.
    starts, returns = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 10, 10, 10, 11]
    episodes = [whole(start, value) for start, value in zip(starts, returns, strict=True)]
    by_return = [each.weights[0] for each in label(return_weights.Config(), episodes)]
    by_advantage = [each.weights[0] for each in label(advantage_weights.Config(ridge=1e-3), episodes)]
    assert sorted(np.argsort(by_return)[-4:]) == [4, 5, 6, 7]
    assert sorted(np.argsort(by_advantage)[-2:]) == [3, 7]  # mutation: G in place of G - V


def test_the_task_is_part_of_where_an_episode_began():
    episodes = [replace(whole(0, value), task=task) for task, value in zip("aaabbb", [0, 0, 1, 9, 9, 10], strict=True)]
    weights = [each.weights[0] for each in label(advantage_weights.Config(ridge=1e-3), episodes)]
    assert sorted(np.argsort(weights)[-2:]) == [2, 5]  # mutation: one V for all tasks


def whole(start: float, value: float):
    """An episode from state (start, 0, 0) whose return is `value`."""
    states, rewards = np.zeros((4, 3), np.float32), np.zeros(3, np.float32)
    states[0, 0], rewards[-1] = start, value
    return episode(3, states=states, rewards=rewards)


@pytest.mark.parametrize("ridge", [0.01, 1.0, 30.0])
def test_an_advantage_is_the_residual_of_a_fit_without_that_episode(ridge):
    rng = np.random.default_rng(0)
    columns, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    found = advantage_weights.left_out(columns, y, ridge)
    x = (columns - columns.mean(0)) / columns.std(0)
    for e in range(12):  # mutation: the plain residual
        rest = np.arange(12) != e
        design = np.column_stack([np.ones(11), x[rest]])
        fitted = np.linalg.solve(design.T @ design + ridge * np.diag([0, 1, 1, 1]), design.T @ y[rest])
        assert found[e] == pytest.approx(y[e] - np.r_[1, x[e]] @ fitted)


def test_a_success_filter_never_starts_in_a_failure():
    won, lost = label(success_filter.Config(), [episode(2), episode(3, False)])
    assert won.weights.tolist() == [1, 1] and lost.weights.tolist() == [0, 0, 0] and won.rewards is None


@pytest.mark.parametrize("labeler", OUTCOMES)
def test_an_outcome_nobody_knows_is_refused_until_the_user_says_what_it_is(labeler):
    unknown = episode(3, success=None, terminated=False)
    with pytest.raises(ValueError, match=r"episode 0: expected a known success.*--labeler.unknown"):
        label(labeler.Config(), [unknown])
    for word, success in (("success", True), ("failure", False)):  # mutation: "unknown" always a failure
        (labels,) = label(labeler.Config(unknown=word), [unknown])
        assert labels.success is success
    (known,) = label(labeler.Config(unknown="failure"), [episode(3)])  # mutation: overrides what is known
    assert known.success is True
    with pytest.raises(ValueError, match="expected one of refuse, success, failure, got 'maybe'"):
        label(labeler.Config(unknown="maybe"), [unknown])


@pytest.mark.parametrize("labeler", [return_weights, advantage_weights])
def test_weights_of_episodes_that_are_all_worth_the_same_are_refused(labeler):
    with pytest.raises(ValueError, match=r"episodes of different worth.*--base"):
        label(labeler.Config(), [whole(0, 1), whole(0, 1)])


def test_a_temperature_that_is_no_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        trajectory_weights(np.array([0.0, 1.0]), 0)
    for wrong in (lambda: minus_one.Config(last_steps=0), lambda: step_penalty.Config(penalty=-1)):
        with pytest.raises(ValueError, match="expected at least"):
            wrong()
    with pytest.raises(ValueError, match="below 1 with forever"):
        monte_carlo.Config(gamma=1.0, forever=True)
