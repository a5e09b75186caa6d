"""Planted events are found and little else is: surprises, onsets, near misses, wrong labels, duplicates."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replayed import synthetic

from robot_value.replay.label_errors import benjamini_hochberg, label_errors
from robot_value.replay.mining import mine
from robot_value.replay.moments import action_surprise, top, value_surprise
from robot_value.replay.onsets import last_excursion, onsets
from robot_value.replay.plots_mining import figures
from robot_value.replay.redundancy import distances, k_centre, redundancy


def with_value(replayed, value, **fields):
    """The same log, judged otherwise by its critic."""
    changed = replace(replayed.opinions["main"], logged_value=value.astype(np.float32), **fields)
    return replace(replayed, opinions={"main": changed})


def shaped(episodes=120, seed=0, noise=0.05, drop=4):
    """Successes rise from 0.5 to 1; failures do the same until decision `drop`, then stay at 0."""
    log = synthetic(episodes, seed, steps=(20, 24), success=0.5)
    first = np.searchsorted(log.episode, log.episode)
    t = np.arange(len(log)) - first
    value = 0.5 + 0.05 * t
    value[(log.success[log.episode] == 0) & (t >= drop)] = 0.0
    return with_value(log, value + np.random.default_rng(seed).normal(0, noise, len(log)))


def test_a_surprise_is_a_residual_in_the_spread_of_both_its_ends():
    log = synthetic(6, n=2)
    spread = np.arange(1, len(log) + 1, dtype=np.float32)
    log = with_value(log, log.returns, logged_spread=spread)
    value = log.opinions["main"].logged_value.copy()
    value[1] += 5  # the second decision of the first episode; all other residuals are 0, and so is their usual size
    found = value_surprise(with_value(log, value, logged_spread=spread), "main")
    discount = log.gamma**log.execute
    assert found[1] == pytest.approx(-5 / np.hypot(2, discount * 3), rel=1e-4)  # mutation: no spread of the next value
    assert found[0] == pytest.approx(5 * discount / np.hypot(1, discount * 2), rel=1e-4)
    assert np.abs(found[2:5]).max() < 1e-4  # mutation: sign or row of the next value


def test_the_last_decision_of_an_episode_that_was_cut_off_is_no_surprise():
    log = synthetic(20)
    last = np.append(log.episode[1:] != log.episode[:-1], True)
    cut = ~np.array([e.terminated for e in log.episodes])[log.episode]
    np.testing.assert_array_equal(np.isnan(value_surprise(log, "main")), last & cut)


def test_planted_surprises_are_the_top_moments():
    log, rng = synthetic(100, seed=1), np.random.default_rng(0)
    inner = np.flatnonzero(np.append(log.episode[1:] == log.episode[:-1], False))
    planted = rng.choice(inner, 10, replace=False)
    value = log.opinions["main"].logged_value.copy()
    value[planted] += 8.0
    found = top(log, "worse", -value_surprise(with_value(log, value), "main"), 10, apart=0.0)
    steps = {(log.episodes[log.episode[row]].name, log.step[row]) for row in planted}
    assert len({(mark.episode, mark.step) for mark in found} & steps) >= 9


def test_a_chunk_that_no_candidate_is_near_to_is_the_surprising_action():
    log = synthetic(40)
    usual = action_surprise(log)  # candidate 0 is the logged chunk and a little noise
    far = log.logged.copy()
    far[17] = log.spec.high - (far[17] - log.spec.low)  # mirrored
    odd = action_surprise(replace(log, logged=far))
    assert odd.argmax() == 17 and odd[17] > 5 * np.median(usual)
    np.testing.assert_allclose(np.delete(odd, 17), np.delete(usual, 17))


def test_action_surprise_is_the_nearest_distance_in_the_candidates_own():
    log = synthetic(2, n=3, horizon=1, execute=1)
    logged, candidates = np.zeros_like(log.logged), np.zeros_like(log.candidates)
    candidates[:, :, 0, 0] = [-0.2, 0.2, 1.0]  # of a range of 2; nearest neighbours at 0.2, 0.2, 0.4: median 0.2
    found = action_surprise(replace(log, logged=logged, candidates=candidates))
    np.testing.assert_allclose(found, 0.1 / np.hypot(0.2, 0.2), rtol=1e-5)  # mutation: the log is a candidate


@pytest.mark.parametrize("n", [0, 1])
def test_without_two_candidates_there_is_a_number_or_nan(n):
    log = synthetic(3, n=2)
    found = action_surprise(replace(log, candidates=log.candidates[:, 1 : 1 + n]))
    assert np.isnan(found).all() if n == 0 else np.isfinite(found).all()


def test_candidates_that_are_unknown_do_not_count():
    log = synthetic(3, n=3)
    holes = log.candidates.copy()
    holes[:, 2] = np.nan
    two = action_surprise(replace(log, candidates=log.candidates[:, :2]))
    np.testing.assert_allclose(action_surprise(replace(log, candidates=holes)), two)


def test_top_moments_of_an_episode_are_apart():
    log = synthetic(2, steps=(20, 24))
    score = np.zeros(len(log))
    score[:4] = [4, 3, 2, 1]  # decisions 0.1 s apart
    assert [mark.step for mark in top(log, "action", score, 10, apart=0.2)] == [0, 4]  # mutation: `<` to `<=`
    assert not top(log, "action", np.full(len(log), np.nan), 10)


def test_the_last_excursion_begins_after_the_last_return_to_zero():
    z = np.array([[0, -2, 3, -2, -2, -2, np.nan], [0, -2, 3, 3, 0, 0, 0]])
    begun, height = last_excursion(z)
    assert begun[0] == 3
    assert height[0] == pytest.approx(3.0)  # three times 2 - SLACK; mutation: height of all excursions
    assert height[1] == 0


def test_failures_begin_where_their_value_dropped():
    log = shaped(drop=4)
    found = onsets(log, "main")
    error = np.array([mark.step for mark in found.onsets]) - 4 * log.execute
    assert len(found.onsets) == found.failures == 60
    assert (np.abs(error) <= log.execute).mean() >= 0.9  # mutation: first for last zero
    assert found.onsets[0].seconds == found.onsets[0].step * log.spec.dt


def test_a_drop_that_recovers_is_a_near_miss_and_no_onset():
    log = shaped(drop=2)
    value, planted = log.opinions["main"].logged_value.copy(), np.flatnonzero(log.success == 1)[3:9]
    for e in planted:
        value[log.rows(e)][4:6] = -0.2
    found = onsets(with_value(log, value), "main")
    names = {log.episodes[e].name for e in planted}
    assert {mark.episode for mark in found.near_misses} == names  # mutation: the median of all times
    assert {mark.step for mark in found.near_misses} <= {8, 10}
    assert not {mark.episode for mark in found.onsets} & names


def test_a_success_that_ends_low_is_no_near_miss():
    log = shaped(drop=2)
    value, e = log.opinions["main"].logged_value.copy(), np.flatnonzero(log.success == 1)[3]
    value[log.rows(e)][4:] = -0.2
    assert not onsets(with_value(log, value), "main").near_misses


def test_successes_have_an_onset_with_chance_alpha():
    """Failures that are successes in all but name: the share with an onset is <= alpha on average over logs."""
    shares = []
    for seed in range(40):
        log = shaped(80, seed, drop=10**6)
        shares.append(len(onsets(log, "main", alpha=0.2).onsets) / 40)
    assert 0.08 < np.mean(shares) < 0.24  # 0.2, se 0.016; ties at height 0 make it smaller; mutation: rank + 1 of n


def test_too_few_successes_say_nothing():
    found = onsets(synthetic(6, success=0.5), "main")
    assert not found.onsets and found.to_json()["threshold"] is None


def test_swapped_labels_are_found_and_clean_ones_left_alone():
    hits = found = swapped = clean = 0
    for seed in range(10):
        log = shaped(200, seed)
        bad = np.random.default_rng(seed).choice(200, 10, replace=False)
        episodes = tuple(replace(e, success=not e.success) if i in bad else e for i, e in enumerate(log.episodes))
        names = {error.episode for error in label_errors(replace(log, episodes=episodes), "main")}
        hits, found, swapped = hits + len(names & {log.episodes[i].name for i in bad}), found + len(names), swapped + 10
        clean += len(label_errors(log, "main"))
    assert hits / found >= 0.9 and hits / swapped >= 0.9 and clean <= 2  # mutation: said for ~said


def test_a_critic_that_cannot_tell_the_classes_apart_accuses_nobody():
    for seed in range(5):
        assert not label_errors(synthetic(200, seed, critics={"main": np.inf}), "main")


def test_where_the_classes_overlap_a_tail_is_no_wrong_label():
    log, rng = synthetic(200, success=0.5), np.random.default_rng(0)
    late = rng.normal(1.5 * log.success, 1.0)
    late[np.flatnonzero(log.success == 0)[:3]] = 3.6  # far in the tail of failures, ordinary for a success
    assert not label_errors(with_value(log, late[log.episode]), "main")  # mutation: medians need not be apart


def test_an_odd_episode_of_either_class_is_no_wrong_label():
    log = shaped(200)
    value = log.opinions["main"].logged_value.copy()
    value[log.rows(int(np.flatnonzero(log.success == 1)[0]))] = 0.5  # in the middle between both
    value[log.rows(int(np.flatnonzero(log.success == 0)[0]))] = 9.0  # beyond the other class
    assert not label_errors(with_value(log, value), "main")  # mutation: no `member`


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_reject_as_the_step_up_procedure_does(p):
    p, q = np.array(p), 0.1
    passing = [k for k in range(1, len(p) + 1) if np.sort(p)[k - 1] <= q * k / len(p)]
    expected = p <= np.sort(p)[max(passing) - 1] if passing else np.zeros(len(p), bool)
    close = np.abs(benjamini_hochberg(p) - q) < 1e-12  # rounding decides there
    np.testing.assert_array_equal((benjamini_hochberg(p) <= q)[~close], expected[~close])


def copied(log, source, target, noise):
    """Episode `target` becomes a copy of `source`, its states but for `noise`."""
    rows = [log.rows(source if e == target else e) for e in range(len(log.episodes))]
    order = np.concatenate([np.arange(r.start, r.stop) for r in rows])
    episode = np.repeat(np.arange(len(rows)), [r.stop - r.start for r in rows])
    jitter = np.random.default_rng(0).normal(0, noise, (len(order), 1)) * (episode == target)[:, None]
    state = (log.columns["state"][order] + jitter).astype(np.float32)
    return replace(log, episode=episode, step=log.step[order], logged=log.logged[order], columns={"state": state})


def test_near_copies_are_one_group_and_come_last_among_the_diverse():
    found = redundancy(copied(copied(synthetic(40), 3, 11, 0.002), 3, 30, 0.002))
    assert found.groups == (("episode_0003", "episode_0011", "episode_0030"),)
    assert found.repeated == ("episode_0011", "episode_0030")  # mutation: the first of a group goes, too
    places = sorted(found.diverse.index(name) for name in found.groups[0])
    assert places[0] < 38 and places[1:] == [38, 39]
    assert not redundancy(synthetic(40)).groups


def test_episodes_of_one_and_of_constant_columns_are_compared():
    log = synthetic(1)
    found = redundancy(replace(log, columns={"state": np.ones((len(log), 2), np.float32)}))
    assert found.diverse == ("episode_0000",) and found.to_json()["nearest"] == [None]


def test_k_centre_is_at_most_twice_as_far_as_the_best():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.normal(size=(9, 2))
        order, radius = k_centre(x, 9)
        assert sorted(order) == list(range(9)) and radius[-1] < 1e-6 and (np.diff(radius) <= 1e-12).all()
        away = distances(x, x)
        best = min(away[:, list(chosen)].min(1).max() for chosen in itertools.combinations(range(9), 3))
        assert radius[2] == pytest.approx(away[:, order[:3]].min(1).max(), abs=1e-6)  # mutation: argmin, stale `left`
        assert radius[2] <= 2 * best + 1e-9


def test_everything_that_was_mined_is_json_and_says_what_would_hurt_training():
    log = shaped(200)
    swapped = tuple(replace(e, success=not e.success) if i < 4 else e for i, e in enumerate(log.episodes))
    found = mine(replace(log, episodes=swapped))
    json.dumps(found.to_json(), allow_nan=False)
    assert {error.episode for error in found.label_errors} == {e.name for e in swapped[:4]} and not found.findings()
    alone = mine(replace(log, opinions={}))
    assert alone.critic is None and alone.action and not alone.worse and json.dumps(alone.to_json(), allow_nan=False)


def test_what_was_found_is_drawn():
    drawn = figures(mine(shaped(40)))
    assert len(drawn) == 3 and all(drawing.startswith("<svg") and caption for _, drawing, caption in drawn)
    assert len(figures(mine(synthetic(1)))) == 1  # one episode: only its surprises
