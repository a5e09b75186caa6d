"""Chunks of a log as a decision process, and fitted Q evaluation of them, on problems with known values."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from replayed import synthetic

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from ope_toys import DRIFT, LADDER, drift, drift_value, ladder, ladder_value

from robot_value.ope import fqe, importance
from robot_value.ope.chunks import Target, chunks
from robot_value.replay.replayed import TABLE, LoggedEpisode, Replayed

SMALL = fqe.Config(members=3, hidden=(32,), steps=500, batch_size=128, lr=3e-3, tau=0.05)


def by_hand(rewards: list[float], every: int = 2, k: int = 2, **facts) -> Replayed:
    """One episode with these rewards, a decision at every so many steps."""
    steps = np.arange(0, len(rewards), every)
    facts = {"success": True, "terminated": True, "unstable": False} | facts
    episode = LoggedEpisode("e", len(rewards), task="", rewards=np.array(rewards, np.float32), **facts)
    base = ladder(1).replayed
    zero = np.zeros((len(steps), k, 1), np.float32)
    return replace(
        *(base,), execute=k, horizon=k, episodes=(episode,), episode=np.zeros(len(steps), np.int64), step=steps,
        logged=zero, chosen=zero, candidates=zero[:, None], length=np.minimum(k, len(rewards) - steps),
        columns={"state": np.zeros((len(steps), 1), np.float32)},
    )  # fmt: skip


def test_a_chunk_earns_its_own_discounted_rewards_and_passes_the_rest_on() -> None:
    found = chunks(by_hand([1, 2, 3, 4, 5]), Target("reward", gamma=0.5))
    np.testing.assert_allclose(found.reward, [1 + 0.5 * 2, 3 + 0.5 * 4, 5])  # mutation: discount from step 0
    np.testing.assert_allclose(found.discount, [0.25, 0.25, 0.0])  # mutation: gamma instead of gamma^k
    np.testing.assert_array_equal(found.following, [1, 2, -1])
    np.testing.assert_allclose(found.returns, [1 + 1 + 0.75 + 0.5 + 5 / 16])


def test_the_chunk_that_ends_with_the_episode_has_no_future() -> None:
    found = chunks(by_hand([0, 0, 0, 1]), Target())
    np.testing.assert_allclose(found.reward, [0, 1])
    np.testing.assert_allclose(found.discount, [1, 0])  # mutation: bootstrap past a termination


def test_decisions_more_often_than_chunks_are_followed_by_the_one_a_chunk_later() -> None:
    found = chunks(by_hand([0, 0, 0, 0, 0, 1], every=1), Target())
    np.testing.assert_array_equal(found.following, [2, 3, 4, 5, -1, -1])  # mutation: the next row
    np.testing.assert_array_equal(found.paths, [[0, 2, 4]])


def test_a_cut_episode_teaches_up_to_the_cut_and_a_time_out_is_a_failure() -> None:
    cut = by_hand([0, 0, 0, 0], success=False, terminated=False)
    np.testing.assert_array_equal(chunks(cut, Target()).usable, [True, False])
    assert np.isnan(chunks(cut, Target()).returns).all()
    timed_out = chunks(cut, Target(limit=4))
    np.testing.assert_array_equal(timed_out.usable, [True, True])  # mutation: never over
    np.testing.assert_allclose(timed_out.returns, [0])


def test_with_a_limit_a_recorded_failure_is_over_before_its_time() -> None:
    stopped = by_hand([0, 0, 0, 0], success=False, terminated=False)
    found = chunks(stopped, Target(limit=8))
    np.testing.assert_array_equal(found.usable, [True, True])  # mutation: only a time-out is one
    np.testing.assert_allclose(found.returns, [0])
    rewards = chunks(stopped, Target("reward", limit=8))
    np.testing.assert_array_equal(rewards.usable, [True, False])  # mutation: rewards end with a verdict


def stopped_early(replayed: Replayed) -> Replayed:
    """Failures end after 1, 2, 3 or 4 chunks instead of at the limit."""
    lengths = np.array([e.steps if e.success else 2 + 2 * (i % 4) for i, e in enumerate(replayed.episodes)])
    kept = replayed.step < lengths[replayed.episode]
    return replace(
        replayed,
        episodes=tuple(
            replace(e, steps=int(n), rewards=e.rewards[:n]) for e, n in zip(replayed.episodes, lengths, strict=True)
        ),
        columns={name: column[kept] for name, column in replayed.columns.items()},
        **{name: getattr(replayed, name)[kept] for name in ("episode", *TABLE)},
    )


def test_failures_that_were_stopped_at_different_times_stay_in_the_estimate() -> None:
    log = stopped_early(ladder(200).replayed)
    found = chunks(log, LADDER)
    assert importance.complete(found).all()  # mutation: the mean of successes and time-outs alone
    assert importance.weighted(found, np.zeros(len(log))).mean == pytest.approx(log.success.mean())


def test_what_happens_after_the_limit_does_not_count() -> None:
    found = chunks(by_hand([0, 0, 0, 0, 0, 1]), Target(limit=4))
    np.testing.assert_allclose(found.returns, [0])  # mutation: a late success is one
    np.testing.assert_array_equal(found.usable, [True, True, False])


@pytest.mark.parametrize("facts", [{"success": None}, {"unstable": True}])
def test_an_episode_of_which_nobody_knows_the_outcome_is_left_out(facts: dict) -> None:
    with pytest.raises(ValueError, match="0 usable chunks"):
        chunks(by_hand([0, 0], **facts), Target())


def test_a_log_whose_decisions_do_not_follow_one_another_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="replay with every=k"):
        odd = by_hand([0] * 8, every=3, success=False, terminated=False)
        chunks(replace(odd, step=odd.step + 1), Target())


def test_a_target_that_means_nothing_is_refused() -> None:
    for wrong in ({"outcome": "joy"}, {"gamma": 0.0}, {"limit": -1}):
        with pytest.raises(ValueError, match="target: expected"):
            Target(**wrong)


@pytest.fixture(scope="module")
def fitted() -> fqe.Fitted:
    """A log of a poor policy (success 0.5), asked about a better one (0.9)."""
    toy = ladder(400, mu=(0.5, 0.5), pi=(0.8, 0.8), seed=1)
    return fqe.fit(toy.replayed, chunks(toy.replayed, LADDER), SMALL)


def test_fitted_q_finds_the_value_of_a_policy_that_did_not_make_the_log(fitted: fqe.Fitted) -> None:
    logged, asked = ladder_value((0.5, 0.5)), ladder_value((0.8, 0.8))
    assert abs(fitted.values.mean() - asked) < 0.06 < asked - logged - 0.06  # mutation: bootstrap on the logged chunk


def test_q_of_a_state_and_a_chunk_is_what_dynamic_programming_says(fitted: fqe.Fitted) -> None:
    """With one decision left a good chunk on the second rung is a success, and nothing else is."""
    toy = ladder(400, mu=(0.5, 0.5), pi=(0.8, 0.8), seed=1).replayed
    last = toy.step == LADDER.limit - 2
    good = toy.logged[:, 0, 0] > 0
    won = last & good & (toy.columns["state"][:, 0] == 1)
    q = fitted.q.mean(0)
    assert q[won].min() > 0.85
    assert q[last & ~won].max() < 0.15  # mutation: time is no part of the state


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    toy = ladder(30)
    found = chunks(toy.replayed, LADDER)
    short = replace(SMALL, steps=10)
    first, again = (fqe.fit(toy.replayed, found, short) for _ in range(2))
    other = fqe.fit(toy.replayed, found, replace(short, seed=1))
    np.testing.assert_array_equal(first.q, again.q)
    assert (first.q != other.q).any()


def test_members_learn_from_their_own_resample_alone() -> None:
    """An episode that a member did not draw may say anything: its values stay the same."""
    toy = ladder(12, seed=3)
    found, config = chunks(toy.replayed, LADDER), replace(SMALL, members=2, steps=30)
    fit = fqe.fit(toy.replayed, found, config)
    missed = int(np.flatnonzero((fit.drawn[0] == 0) & (fit.drawn[1] > 0))[0])
    reward = np.where(found.episode == missed, 1 - found.reward, found.reward)
    changed = fqe.fit(toy.replayed, replace(found, reward=reward), config)
    np.testing.assert_array_equal(fit.q[0], changed.q[0])  # mutation: weights of another member
    assert (fit.q[1] != changed.q[1]).any()


def test_values_stay_between_the_least_and_the_largest_there_can_be(fitted: fqe.Fitted) -> None:
    assert fitted.q.min() >= 0 and fitted.v.max() <= 1  # mutation: no clamp
    interval = fitted.interval
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_rewards_are_bounded_by_what_whole_episodes_returned() -> None:
    assert chunks(by_hand([2, 0, 1, 3]), Target("reward")).bounds == (0, 6)
    cut = by_hand([2, 0, 1, 3], success=None, terminated=False)
    assert chunks(cut, Target("reward")).bounds == (-np.inf, np.inf)
    with pytest.raises(ValueError, match="at least 2"):
        fqe.Config(members=1)


def test_unseen_values_come_from_members_that_did_not_train_on_the_episode() -> None:
    toy = ladder(3)
    found = chunks(toy.replayed, LADDER)
    d = len(toy.replayed)
    drawn = np.array([[1, 1, 1], [0, 2, 1]])
    fit = fqe.Fitted(np.array([[1.0] * d, [3.0] * d]), np.zeros((2, d)), drawn, np.zeros(2), found)
    q, _ = fit.unseen()
    np.testing.assert_allclose(q, np.where(found.episode == 0, 3.0, 2.0))  # mutation: those that did


def test_features_are_what_the_policy_saw_before_the_state_and_time_comes_last() -> None:
    replayed = synthetic(episodes=3)
    seen = fqe.features(replayed, 48)
    assert seen.shape == (len(replayed), replayed.spec.state_dim + 1)
    np.testing.assert_allclose(seen[:, -1], replayed.step / 24 - 1, atol=1e-6)
    wide = replace(replayed, columns=dict(replayed.columns) | {"features": np.zeros((len(replayed), 9))})
    assert fqe.features(wide, 0).shape == (len(replayed), 9)
    with pytest.raises(ValueError, match="expected features or state"):
        fqe.features(replace(replayed, columns={}), 0)


def test_rewards_of_a_linear_problem_are_evaluated_too() -> None:
    toy = drift(400, pi=0.4, seed=2)
    fit = fqe.fit(toy.replayed, chunks(toy.replayed, DRIFT), SMALL)
    assert abs(fit.values.mean() - toy.truth) < 0.35 < toy.truth - drift_value(0.0)
