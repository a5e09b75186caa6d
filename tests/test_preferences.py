"""Rewards from comparisons: the judge's own ranking comes back, whatever the reward sees."""

from dataclasses import replace

import numpy as np
import pytest
from reward_models import episode, goodness, line, passes, wander
from scipy import stats

from robot_value.labelers.preferences import Config, draw_pairs, pixels, windows
from robot_value.labels.bradley_terry import BradleyTerry
from robot_value.labels.small_network import FitConfig

FIT = FitConfig(hidden=(32, 32), steps=150, batch=64, lr=3e-3)
CONFIG = Config(judge="reward_models:judge", segments=150, pairs=400, members=2, fit=FIT)
WALKS = [wander(seed) for seed in range(8)]


def fitted(config=CONFIG, *episodes):
    labeler = config.build()
    labeler.fit(passes(*(episodes or WALKS)))
    return labeler


@pytest.fixture(scope="module")
def plain():
    return fitted()


def rank(labeler, walk=None):
    """Spearman's correlation with how good the frames are that the actions led to."""
    walk = walk or wander(99, steps=200)
    return stats.spearmanr(labeler.label("", walk).rewards, goodness(walk.images["front"][1:])).statistic


def test_a_linear_ranking_is_recovered(plain):
    # mutation: rewards of frame t instead of t + 1; the sign of the preference
    assert rank(plain) > 0.97
    assert plain.about["agreement"] > 0.9 and plain.about["answered"] >= 399


@pytest.mark.parametrize("features, least", [("pixels", 0.9), ("reward_models:colours", 0.97)])
def test_the_reward_may_see_pixels_or_features_of_frames(features, least):
    # mutation: the state whatever was asked for; features of one frame for all
    nothing = [replace(walk, states=np.ones_like(walk.states)) for walk in WALKS]
    assert rank(fitted(replace(CONFIG, features=features), *nothing)) > least


def test_segments_are_compared_by_their_sums():
    # mutation: only the first frame of a segment counts
    labeler = fitted(replace(CONFIG, segment=4))
    assert rank(labeler) > 0.97 and labeler.about["agreement"] > 0.85


def test_pairs_the_judge_cannot_tell_apart_teach_nothing():
    # mutation: keep answer 0, a coin flip for the loss
    labeler = fitted(replace(CONFIG, judge="reward_models:unsure_judge"))
    assert 100 < labeler.about["answered"] < labeler.about["asked"] == 400
    assert rank(labeler) > 0.97


def test_rewards_have_mean_0_and_deviation_1_over_the_data(plain):
    # mutation: no standardisation
    rewards = np.concatenate([plain.label("", walk).rewards for walk in WALKS])
    assert abs(rewards.mean()) < 0.15 and rewards.std() == pytest.approx(1, abs=0.1)


def test_agreement_is_measured_on_answers_that_were_not_learned(monkeypatch):
    # mutation: agreement of the answers it was fitted to, which memorises the coin flips
    flips = np.random.default_rng(0)
    monkeypatch.setattr("reward_models.judge", lambda *pair: flips.choice([-1, 1]))
    about = fitted(replace(CONFIG, segments=300, fit=replace(FIT, steps=300))).about
    assert about["agreement"] == pytest.approx(0.5, abs=0.2)


def test_only_segments_of_one_task_are_compared():
    # mutation: peers of any task
    task = np.random.default_rng(0).integers(0, 3, 40)
    pairs = draw_pairs(np.append(task, 3), 500, seed=0)  # a task of one segment is never asked about
    tasks = np.append(task, 3)[pairs]
    assert pairs.shape == (500, 2) and (tasks[:, 0] == tasks[:, 1]).all() and (pairs[:, 0] != pairs[:, 1]).all()
    assert set(tasks.ravel()) == {0, 1, 2}
    with pytest.raises(ValueError, match="two segments of one task"):
        draw_pairs(np.arange(4), 5, seed=0)


def test_the_judge_hears_the_task():
    # mutation: an empty text
    left = fitted(replace(CONFIG, judge="reward_models:task_judge"), *(replace(w, task="left") for w in WALKS))
    right = fitted(replace(CONFIG, judge="reward_models:task_judge"), *(replace(w, task="right") for w in WALKS))
    assert rank(right) > 0.97 and rank(left) < -0.97


@pytest.mark.parametrize(
    "judge, message", [("indifferent", "a preference in 2 of 400 pairs"), ("enthusiastic", "-1 .*, got 2")]
)
def test_answers_that_are_no_preferences_are_refused(judge, message):
    with pytest.raises(ValueError, match=f"judge: expected {message}"):
        fitted(replace(CONFIG, judge=f"reward_models:{judge}_judge"))


def test_nonsense_is_refused_before_anyone_is_asked():
    with pytest.raises(ValueError, match="segments of at least 2"):
        replace(CONFIG, segments=1).build()
    with pytest.raises(ValueError, match="segment=50 frames"):
        fitted(replace(CONFIG, segment=50))


def test_an_unseen_last_frame_is_the_one_before(plain):
    # mutation: a reward less than actions
    rewards = plain.label("", line(5, steps=5)).rewards
    assert len(rewards) == 5 and rewards[4] == rewards[3]


def test_pixels_are_means_of_areas():
    # mutation: strides instead of areas
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    expected = frames.reshape(2, 16, 2, 16, 3, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(2, -1) / 255
    np.testing.assert_allclose(pixels(frames), expected, atol=1e-6)
    assert windows(frames, 2).shape == (1, 2, 32, 48, 3)


def test_bradley_terry_gives_the_odds_of_noisy_preferences():
    # mutation: softplus(sign * lead), or no sum over frames
    rng = np.random.default_rng(0)
    segments = rng.normal(size=(200, 1, 1)).astype(np.float32)
    pairs = rng.integers(0, 200, (4000, 2))
    lead = 2 * (segments[pairs[:, 1], 0, 0] - segments[pairs[:, 0], 0, 0])
    preferred = np.where(rng.random(4000) < 1 / (1 + np.exp(-lead)), 1, -1)
    model = BradleyTerry(segments, pairs, preferred, 1, replace(FIT, steps=200))
    grid = np.linspace(-1.5, 1.5, 20, dtype=np.float32)[:, None]
    found = model.network.predict(grid)[0, :, 0]  # r up to a constant, in log odds
    assert np.polyfit(grid[:, 0], found, 1)[0] == pytest.approx(2, rel=0.25)


def test_tasks_of_the_episodes_may_have_any_length():
    # mutation: a fixed-width text that cuts a longer task
    short, long = episode(WALKS[0].states, task="a"), episode(WALKS[1].states, task="a longer task")
    labeler = fitted(replace(CONFIG, fit=replace(FIT, steps=2)), short, long)
    assert labeler.about["asked"] == 400
