"""Rewards and weights that a model gives: closed forms on a point whose place is the colour of the image."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_models import episode, line, passes, progress, spec, wander
from scipy import stats

from robot_value import checkpoint, components, flags
from robot_value.commands import train
from robot_value.commands._change import Label
from robot_value.episodes import EpisodeStore
from robot_value.labelers import callable_reward, explore, goal_similarity, preferences, value_filter
from robot_value.labelers import progress as progress_labeler
from robot_value.labels.callables import load_function
from robot_value.labels.frames import camera_frames, evenly
from robot_value.labels.reservoir import Reservoir
from robot_value.labels.run import label
from robot_value.labels.small_network import FitConfig, Regression
from robot_value.labels.state_value import critic_value
from robot_value.labels.store import LabelStore
from robot_value.normalize import fit_statistics

FIT = FitConfig(hidden=(32, 32), steps=250, batch=128, lr=3e-3)
BRIEF = replace(FIT, steps=5)  # where it does not matter what is learned


def auroc(better, worse):
    """Chance that a random one of `better` is above a random one of `worse`."""
    return stats.mannwhitneyu(better, worse).statistic / (len(better) * len(worse))


def told(config, *episodes, of=-1):
    """Labels of one of the episodes after fitting to all, checked."""
    labeler = config.build()
    labeler.fit(passes(*episodes))
    name, chosen = list(passes(*episodes)())[of]
    labels = labeler.label(name, chosen)
    labels.check(len(chosen))
    json.dumps(labels.about, allow_nan=False)
    return labels


# -- every labeler ----------------------------------------------------------------------------------------------------

KNOWN = [wander(i, task="right", success=bool(i % 2), rewards=np.arange(40, dtype=np.float32)) for i in range(4)]
CONFIGS = {
    "explore": explore.Config(fit=BRIEF),
    "value_filter": value_filter.Config(target=("right",), members=2, fit=BRIEF),
    "progress": progress_labeler.Config(model="reward_models:progress"),
    "preferences": preferences.Config(judge="reward_models:judge", pairs=50, fit=BRIEF),
    "goal_similarity": goal_similarity.Config(embed_images="reward_models:colours"),
    "callable_reward": callable_reward.Config(function="reward_models:to_the_right"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_data_and_seed_give_the_same_labels_and_leave_torchs_generator_alone(name):
    # mutation: drop seeded_weights; default_rng() without the seed
    assert type(CONFIGS[name]) is components.load("labelers", name).Config
    other = wander(9, task="left" if name == "value_filter" else "right")
    torch.manual_seed(5)
    first = told(CONFIGS[name], *KNOWN, other)
    torch.rand(3)
    before = torch.get_rng_state()
    again = told(CONFIGS[name], *KNOWN, other)
    assert first.arrays.keys() == again.arrays.keys() != set()
    for key, array in first.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[key])
    assert first.about == again.about
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", CONFIGS)
def test_images_are_asked_for_where_they_are_looked_at(name):
    # mutation: drop IMAGES = True from a labeler
    looks = name in ("progress", "preferences", "goal_similarity", "callable_reward")
    assert getattr(components.load("labelers", name), "IMAGES", False) == looks


@pytest.mark.parametrize(
    "path, message",
    [
        ("", "package.module:function"),
        ("reward_models", "package.module:function"),
        ("no_such_module:f", "PYTHONPATH"),
        ("reward_models:nothing", "expected a function 'nothing'"),
        ("reward_models:not_a_function", "got 7"),
    ],
)
def test_a_function_that_is_not_there_is_an_error_that_says_what_was_expected(path, message):
    with pytest.raises(ValueError, match=message):
        load_function("model", path)


@pytest.mark.parametrize("name", CONFIGS)
def test_labels_are_written_beside_a_store_and_come_back(name, tmp_path):
    # mutation: float64 rewards; numpy numbers in `about`
    with EpisodeStore.create(tmp_path / "store", spec()) as store:
        other = wander(9, task="left" if name == "value_filter" else "right")
        names = [store.append(each) for each in (*KNOWN[:2], other)]
        label(store, name, CONFIGS[name], "mine", progress=False)
        found = LabelStore.open(store, "mine")
        assert found.read(names[-1]).arrays.keys() == told(CONFIGS[name], *KNOWN[:2], other).arrays.keys()
        assert label(store, name, CONFIGS[name], "mine", progress=False).labelled == 0


def test_every_labeler_and_every_command_of_the_page_exists():
    # mutation: --labeler.voc in docs/reward_labels.md
    text = (Path(__file__).parents[1] / "docs" / "reward_labels.md").read_text(encoding="utf-8")
    assert [name for name in CONFIGS if f"`{name}`" not in text] == []
    commands = re.findall(r"^robot-value data label STORE (.*)$", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        flags.parse(Label, command.split("#")[0].split(), {"labeler": flags.Choice("labelers", None)})
    for command in re.findall(r"^robot-value train (.*)$", text, re.MULTILINE):
        flags.parse(train.Train, command.split(), train.CHOICES)


# -- progress ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(frames=st.integers(4, 60), shown=st.integers(3, 20), seed=st.integers(0, 1000))
def test_a_monotone_model_has_voc_1_whatever_the_shuffle_and_length(frames, shown, seed):
    # mutation: no argsort when putting answers back in order
    config = progress_labeler.Config(model="reward_models:cubed", frames=shown, seed=seed)
    backwards = told(config, line(frames, 1.0, 0.0)).about["voc"]
    assert (told(config, line(frames)).about["voc"], backwards) == (pytest.approx(1), pytest.approx(-1))


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), shown=st.integers(2, 50), gamma=st.sampled_from([1.0, 0.9]))
def test_rewards_are_discounted_differences_of_progress_and_telescope(seed, shown, gamma):
    # mutation: rewards[t] = p[t] - p[t - 1]; scale left out; no interpolation
    walk = wander(seed, steps=20)
    config = progress_labeler.Config(model="reward_models:progress", frames=shown, gamma=gamma, scale=3.0)
    at = evenly(21, shown)
    p = np.interp(np.arange(21), at, progress(walk.images["front"][at], ""))
    rewards = told(config, walk).rewards
    np.testing.assert_allclose(rewards, [3 * (gamma * p[t + 1] - p[t]) for t in range(20)], atol=1e-5)
    if gamma == 1:
        assert rewards.sum() == pytest.approx(3 * (p[-1] - p[0]), abs=1e-4)


def test_the_first_frame_leads_and_the_others_are_shuffled_differently_per_episode(monkeypatch):
    # mutation: no shuffle; the anchor shuffled too; the same order for every name
    orders = []
    monkeypatch.setattr(
        "reward_models.progress", lambda images, task: orders.append(images[:, 0, 0, 0]) or progress(images, task)
    )
    labeler = progress_labeler.Config(model="reward_models:progress", frames=10).build()
    for name in ("a", "b", "a"):
        labeler.label(name, line(10))
    assert all(order[0] == 0 and sorted(order) == sorted(orders[0]) for order in orders)
    assert list(orders[0]) == list(orders[2]) != list(orders[1]) != sorted(orders[1])


def test_a_model_that_does_not_look_is_found_out():
    # mutation: voc of the frames in the order they were shown
    vocs = [
        told(progress_labeler.Config(model="reward_models:by_position", seed=i), line(30)).about["voc"]
        for i in range(30)
    ]
    assert abs(np.mean(vocs)) < 0.15
    assert told(progress_labeler.Config(model="reward_models:blind"), line()).about["voc"] == 0


def test_episodes_of_low_voc_are_never_drawn():
    # mutation: weights where nothing was asked for; > instead of >=
    config = progress_labeler.Config(model="reward_models:progress", least_voc=1.0)
    assert told(config, line()).weights.tolist() == [1] * 11
    assert told(config, line(start=1, stop=0)).weights.tolist() == [0] * 11
    assert told(replace(config, least_voc=-1), line()).weights is None


def test_nothing_is_invented_where_the_last_frame_was_not_seen():
    # mutation: extrapolate the last frame
    rewards = told(progress_labeler.Config(model="reward_models:progress"), line(5, steps=5)).rewards
    np.testing.assert_allclose(rewards, [0.25] * 4 + [0], atol=5e-3)


@pytest.mark.parametrize(
    "model, message",
    [
        ("percent", "divide percent by 100"),
        ("one_short", r"shape \[12\], got \[11\]"),
        ("not_a_number", "finite"),
        ("words", "expected numbers"),
    ],
)
def test_answers_that_are_no_progress_are_refused(model, message):
    with pytest.raises(ValueError, match=f"model: expected.*{message}|model: {message}"):
        told(progress_labeler.Config(model=f"reward_models:{model}"), line())


def test_a_store_without_that_camera_is_refused():
    blind = line(spec=spec(()), images={})
    with pytest.raises(ValueError, match="without cameras"):
        camera_frames(blind)
    with pytest.raises(ValueError, match=r"expected 'wrist'.*front"):
        told(progress_labeler.Config(model="reward_models:progress", camera="wrist"), line())


# -- goal similarity --------------------------------------------------------------------------------------------------


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_rewards_are_differences_of_cosine_similarity_to_the_last_frames_of_successes(batch):
    # mutation: goals of failures, of first frames, of other tasks; unit() left out of embed
    right = [line(stop=s, success=True, task="right") for s in (1.0, 0.8)]
    others = [line(stop=0.1, success=False, task="right"), line(stop=0.0, success=True, task="left")]
    walk = wander(3, steps=11, task="right")
    config = goal_similarity.Config(embed_images="reward_models:colours", batch=batch)
    ends = [each.images["front"][-1, 0, 0] / 255 for each in right]
    goal = np.sum([end / np.linalg.norm(end) for end in ends], 0)
    near = np.array([cosine(image[0, 0] / 255, goal) for image in walk.images["front"]])
    np.testing.assert_allclose(told(config, *right, *others, walk).rewards, np.diff(near), atol=1e-6)
    itself = told(replace(config, potential=False), *right, *others, walk)
    np.testing.assert_allclose(itself.rewards, near[1:], atol=1e-6)
    discounted = told(replace(config, gamma=0.9), *right, *others, walk)
    np.testing.assert_allclose(discounted.rewards, 0.9 * near[1:] - near[:-1], atol=1e-6)


def test_a_goal_may_be_the_text_of_the_task():
    # mutation: the same goal for every task
    config = goal_similarity.Config("reward_models:colours", "reward_models:name_of_a_colour")
    red, green = (told(config, line(task=task)).rewards.sum() for task in ("red", "green"))
    assert red > 0 > green


def test_goals_that_are_not_known_or_have_no_direction_are_refused():
    config = goal_similarity.Config("reward_models:colours")
    with pytest.raises(ValueError, match="a success of task 'left'"):
        told(config, line(success=True, task="right"), line(task="left"))
    with pytest.raises(ValueError, match="batch"):
        replace(config, batch=0).build()
    with pytest.raises(ValueError, match="length 0"):
        told(goal_similarity.Config("reward_models:darkness"), line(success=True))
    with pytest.raises(ValueError, match="expected 3 numbers, as of embed_images, got 2"):
        told(replace(config, embed_text="reward_models:short_name"), line())


def test_a_reward_model_of_whole_episodes_is_taken_as_it_is():
    config = callable_reward.Config("reward_models:to_the_right")
    np.testing.assert_array_equal(told(config, line()).rewards, line().actions[:, 0])
    with pytest.raises(ValueError, match=r"function: expected numbers of shape \[11\], got \[12\]"):
        told(callable_reward.Config("reward_models:one_too_many"), line())


# -- explore ----------------------------------------------------------------------------------------------------------


def rewarded(seed, **changes):
    """In the left half; the reward is x - y."""
    walk = wander(seed, low=0.0, high=0.5, success=True, **changes)
    return replace(walk, rewards=(walk.states[:-1, 0] - walk.states[:-1, 1]).astype(np.float32))


LABELLED = [rewarded(seed) for seed in range(10)]


@pytest.fixture(scope="module")
def explorer():
    labeler = explore.Config(fit=replace(FIT, steps=400)).build()
    labeler.fit(passes(*LABELLED))
    return labeler


def test_what_was_labelled_keeps_its_rewards_and_what_was_not_gets_the_models_where_it_knows(explorer):
    # mutation: relabel labelled episodes too; rewards of the step before
    labels = explorer.label("", LABELLED[0])
    assert labels.arrays == {} and labels.about == {"labelled": True}
    walk = rewarded(99)
    predicted = explorer.reward.predict(explore._rows(walk))
    assert np.corrcoef(predicted, walk.rewards)[0, 1] > 0.97
    assert np.abs(predicted - walk.rewards).mean() < 0.1


def test_the_bonus_is_larger_where_labelled_data_never_were(explorer):
    # mutation: predictor and target of one seed; the target trained
    near, far = (wander(50, steps=200, low=low, high=low + 0.5) for low in (0.0, 0.5))
    bonus = [explorer.novelty.bonus(explore._rows(walk)) for walk in (far, near)]
    assert min(map(np.min, bonus)) >= 0
    assert auroc(*bonus) > 0.95
    known = explorer.novelty.bonus(np.concatenate([explore._rows(each) for each in LABELLED]))
    assert known.std() == pytest.approx(1, rel=1e-3)


def test_rewards_are_the_prediction_and_beta_bonuses(explorer):
    # mutation: beta ** 2, or minus
    walk, rows = wander(50), explore._rows(wander(50))
    half = explore.Explore(replace(explorer.config, beta=0.5))
    half.reward, half.novelty = explorer.reward, explorer.novelty
    expected = explorer.reward.predict(rows) + 0.5 * explorer.novelty.bonus(rows)
    np.testing.assert_allclose(half.label("", walk).rewards, expected, rtol=1e-6)


def test_tasks_may_say_what_counts_as_labelled():
    # mutation: ignore labelled_tasks
    labeler = explore.Config(labelled_tasks=("right",), fit=BRIEF).build()
    labeler.fit(passes(line(task="right"), line(task="left", success=True)))
    assert labeler.label("", line(task="right")).rewards is None
    assert labeler.label("", line(task="left", success=True)).rewards is not None
    with pytest.raises(ValueError, match=r"task 'right'.*got none"):
        labeler.fit(passes(line(task="left", success=True)))
    with pytest.raises(ValueError, match=r"success known.*got none"):
        explore.Config().build().fit(passes(line()))


# -- value filter -----------------------------------------------------------------------------------------------------

SIDEWAYS, ALONG = (0.0, 0.3), (0.3, 0.0)  # m per step that a source's robot slips; the value knows only x


def drive(seed, slip=(0.0, 0.0), robot="ours", steps=4, **changes):
    """Every step moves by the action, a little noise, and what the robot slips; the reward is x."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-0.3, 0.3, (steps, 2))
    states = np.cumsum(np.concatenate([rng.uniform(0, 1, (1, 2)), actions + slip + rng.normal(0, 0.02, (steps, 2))]), 0)
    return episode(
        states,
        actions=actions.astype(np.float32),
        rewards=states[:-1, 0].astype(np.float32),
        provenance={"robot": {"name": robot}},
        **changes,
    )


TARGET = [drive(seed) for seed in range(400)]
VALUE = value_filter.Config(target=("ours",), by="robot.name", gamma=0.0, members=3, share=0.5, fit=FIT)


@pytest.fixture(scope="module")
def filtered():
    source = [drive(100 + i, slip, robot="theirs") for i in range(40) for slip in ((0.0, 0.0), ALONG)]
    labeler = VALUE.build()
    labeler.fit(passes(*TARGET, *source))
    return labeler


def slipping(labeler, slip):
    return np.concatenate([labeler.likelihood(drive(200 + i, slip, "theirs")) for i in range(40)])


def test_steps_of_our_dynamics_are_kept_and_shifted_ones_are_dropped(filtered):
    # mutation: V(s) in place of V(s'); the sign of the likelihood
    same, along = slipping(filtered, (0, 0)), slipping(filtered, ALONG)
    assert auroc(same, along) > 0.9
    assert (same >= filtered.least).mean() > 0.8 > 0.2 > (along >= filtered.least).mean()


def test_dynamics_may_differ_where_the_value_does_not_care(filtered):
    # mutation: compare states instead of values
    same, aside, along = (slipping(filtered, slip) for slip in ((0, 0), SIDEWAYS, ALONG))
    assert auroc(same, aside) < 0.75 < 0.9 < auroc(aside, along)


def test_the_share_of_source_steps_is_kept_and_target_episodes_stay_as_they_are(filtered):
    # mutation: quantile(share) instead of 1 - share
    source = [drive(100 + i, slip, robot="theirs") for i in range(40) for slip in ((0.0, 0.0), ALONG)]
    weights = np.concatenate([filtered.label("", each).weights for each in source])
    assert set(weights) == {0, 1} and weights.mean() == pytest.approx(0.5, abs=0.01)
    assert filtered.label("", TARGET[0]).arrays == {}


def test_a_start_is_as_good_as_the_worst_step_of_its_scope(filtered):
    # mutation: the mean, or the steps before
    walk = drive(7, robot="theirs", steps=9)
    single = filtered.likelihood(walk)
    filtered.config = replace(VALUE, scope=4)
    np.testing.assert_array_equal(filtered.likelihood(walk), [single[t : t + 4].min() for t in range(9)])
    filtered.config = VALUE
    unseen = replace(walk, states=walk.states[:-1], images={"front": walk.images["front"][:-1]})
    np.testing.assert_array_equal(filtered.likelihood(unseen), [*single[:-1], -np.inf])
    assert filtered.label("", unseen).weights[-1] == 0


def test_an_unseen_step_that_ended_the_task_is_as_good_as_the_one_before(filtered):
    # mutation: -inf for the end of a success, or for every start whose scope reaches an unseen step
    walk = drive(7, robot="theirs", steps=9)
    *seen, _ = filtered.likelihood(walk)
    unseen = replace(walk, states=walk.states[:-1], images={"front": walk.images["front"][:-1]})
    ended = replace(unseen, terminated=True, truncated=False)
    for scope in (1, 4):
        filtered.config = replace(VALUE, scope=scope)
        expected = [min([*seen, seen[-1]][t : t + scope]) for t in range(9)]
        np.testing.assert_array_equal(filtered.likelihood(ended), expected)
        np.testing.assert_array_equal(filtered.likelihood(unseen), [*expected[:-1], -np.inf])
    filtered.config = VALUE


def test_a_filter_without_target_source_or_values_is_refused():
    with pytest.raises(ValueError, match="expected values of 'task'"):
        value_filter.Config().build()
    with pytest.raises(ValueError, match="share"):
        replace(VALUE, share=0).build()
    quick = replace(VALUE, fit=BRIEF)
    with pytest.raises(ValueError, match=r"robot\.name is in"):
        quick.build().fit(passes(drive(0, robot="theirs")))
    with pytest.raises(ValueError, match="source beside"):
        quick.build().fit(passes(drive(0)))
    with pytest.raises(ValueError, match="returns of the target that differ"):
        quick.build().fit(passes(replace(drive(0), rewards=np.zeros(4, np.float32))))


def test_the_value_may_be_a_trained_critics(tmp_path):
    # mutation: Q of a zero chunk instead of V; no check of the Spec
    plain = replace(spec(()), horizon=2, n_obs_steps=1)
    rng = np.random.default_rng(0)
    states, actions = (rng.uniform(0, 1, (64, 2)).astype(np.float32) for _ in range(2))
    statistics = fit_statistics({"state": states, "action": actions})
    critic = components.load("critics", "iql").Config(hidden=(8,), members=1).build(plain, statistics)
    save = {"kind": "critics", "name": "iql", "spec": plain, "statistics": statistics}
    config = {"hidden": [8], "members": 1}
    checkpoint.save(tmp_path / "iql", config=config, tensors=critic.state_dict(), **save)
    value = critic_value(str(tmp_path / "iql"), spec(()))(states)
    expected = critic.v(
        (torch.from_numpy(states) - torch.from_numpy(statistics["state"].mean))
        / torch.from_numpy(statistics["state"].std)
    )
    np.testing.assert_allclose(value, expected[0].detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the dataset"):
        critic_value(str(tmp_path / "iql"), replace(spec(()), state_units=("mm", "mm")))


def test_a_critic_without_a_value_network_is_refused(tmp_path):
    plain = replace(spec(()), horizon=2, n_obs_steps=1)
    statistics = fit_statistics({"state": np.eye(2, dtype=np.float32), "action": np.eye(2, dtype=np.float32)})
    critic = components.load("critics", "mc").Config(hidden=(8,), members=1).build(plain, statistics)
    save = {"kind": "critics", "name": "mc", "spec": plain, "statistics": statistics}
    checkpoint.save(tmp_path, config={"hidden": [8], "members": 1}, tensors=critic.state_dict(), **save)
    with pytest.raises(ValueError, match="expected one with a value network"):
        critic_value(str(tmp_path), spec(()))


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_reservoir_holds_whole_rows_in_order_and_every_row_equally_often():
    # mutation: keep the first rows; keys that are not renewed; columns permuted apart
    counts = np.zeros(60)
    for seed in range(400):
        reservoir = Reservoir(10, seed)
        for start in range(0, 60, 6):
            rows = np.arange(start, start + 6)
            reservoir.add(rows, -rows[:, None])
            assert reservoir._held < 20 + 6
        first, second = reservoir.sample()
        assert len(first) == 10 and (np.diff(first) > 0).all() and (second[:, 0] == -first).all()
        counts[first] += 1
    assert reservoir.seen == 60
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_regression_learns_a_plane():
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    targets = (1000 + rows @ [30.0, -20.0, 0.0]).astype(np.float32)  # mutation: targets that are not standardised
    found = Regression(rows, targets, FIT, "plane").predict(rows)
    assert np.abs(found - targets).mean() < 3


@given(frames=st.integers(1, 50), n=st.integers(2, 50))
def test_shown_frames_are_even_and_hold_both_ends(frames, n):
    # mutation: linspace without the endpoint
    at = evenly(frames, n)
    assert at[0] == 0 and at[-1] == frames - 1 and len(at) == min(n, frames)
    assert len(at) == 1 or np.ptp(np.diff(at)) <= 1
