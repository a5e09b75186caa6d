"""The policy beside the log: distances that mean something, coverage, rank, modes, phases and action errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import make_spec
from replayed import synthetic
from scipy import stats
from scipy.spatial.transform import Rotation

from robot_value import rotations
from robot_value.replay import modes, policies
from robot_value.replay.action_error import action_error
from robot_value.replay.by_episode import draws
from robot_value.replay.chunk_space import axes, between, points
from robot_value.replay.phases import phases
from robot_value.replay.plots_policies import figures
from robot_value.steering.gates.disagreement import disagreement
from robot_value.types import ActionPart, Situation, Spec

N = 8


def exchangeable(seed: int = 0, episodes: int = 40, n: int = N, **changes):
    """The logged chunk and the candidates are draws of one law, another one at every decision."""
    plain = synthetic(episodes=episodes, seed=seed, n=n)
    rng, spec = np.random.default_rng(seed + 1), plain.spec
    shape = (len(plain), n + 1, plain.horizon, spec.action_dim)
    centre = rng.uniform(0.1, 0.5, (len(plain), 1, 1, spec.action_dim))
    chunks = np.clip(rng.normal(centre, 0.2, shape), spec.low, spec.high).astype(np.float32)
    value = rng.normal(size=(len(plain), n + 1)).astype(np.float32)
    opinion = replace(plain.opinions["main"], value=value[:, 1:], logged_value=value[:, 0])
    drawn = {"logged": chunks[:, 0], "candidates": chunks[:, 1:], "opinions": {"main": opinion}}
    return replace(plain, **(drawn | changes))


def pose_spec(rotation: str, unit: str = "m+rad", limit: float = 2.0) -> Spec:
    size = 3 + rotations.SIZES[rotation]
    part = ActionPart("arm", 0, size, "pose", unit, (-limit,) * size, (limit,) * size, rotation=rotation)
    return Spec((part,), ("s",), ("m",), 0.1)


def poses(rotation: str, turns: list) -> np.ndarray:
    """float32[1, N, 1, A] at one place, turned by rotation vectors."""
    quaternion = Rotation.from_rotvec(turns).as_quat()
    written = rotations.encode(quaternion, rotation)
    return np.concatenate([np.zeros((len(turns), 3)), written], 1)[None, :, None].astype(np.float32)


# --- distances


def test_two_candidates_are_as_far_apart_as_the_gate_disagreement_says():
    replayed = exchangeable(episodes=3)
    chunks = torch.from_numpy(replayed.candidates)
    situation = Situation((), chunks.isfinite().all(3).all(2), spec=replayed.spec, execute=2)
    whole = replace(replayed, length=np.full(len(replayed), 4))
    np.testing.assert_allclose(policies.crowd(whole).disagreement, disagreement(chunks, situation), rtol=1e-5)


def test_steps_after_the_episodes_end_do_not_count():
    spec, chunks = make_spec(), np.zeros((1, 2, 4, 3), np.float32)
    chunks[0, 1, :, 0] = [1, 0, 2, 2]  # range 2: half a range in the first step, nothing in the second
    near, whole = (between(*[points(chunks, spec, 4, np.array([length]))] * 2)[0, 0, 1] for length in (2, 4))
    assert near == pytest.approx(np.sqrt(0.25 / 6)) and whole == pytest.approx(np.sqrt(2.25 / 12))
    # mutation: the weight without `counts`, or without `steps`


def test_a_quaternion_and_its_negative_are_one_rotation():
    chunks = poses("quaternion", [[0.3, 0, 0], [0.3, 0, 0]])
    chunks[0, 1, 0, 3:] *= -1
    found = points(chunks, pose_spec("quaternion"), 1, np.array([1]))
    assert between(found, found).max() < 1e-7


@pytest.mark.parametrize("rotation", sorted(rotations.SIZES))
def test_small_turns_are_as_far_as_their_angle_however_they_are_written(rotation):
    spec, chunks = pose_spec(rotation), poses(rotation, [[0, 0, 0.1], [0, 0, 0.2]])
    (*_, axis) = axes(spec)
    assert (axis.name, axis.unit) == ("arm rotation", "rad")
    first, second = axis.coordinates(chunks)[0, :, 0]
    assert axis.difference(first, second) == pytest.approx(0.1, abs=1e-4)  # float32 in 6D
    found = points(chunks, spec, 1, np.array([1]))
    assert between(found, found)[0, 0, 1] == pytest.approx(0.1 / axis.range / np.sqrt(6), rel=2e-3)


def test_a_turn_past_half_a_circle_is_near_the_one_before():
    chunks = poses("axis_angle", [[0, 0, np.pi - 0.05], [0, 0, np.pi + 0.05]])  # written as +3.09 and -3.09 rad
    (*_, axis) = axes(pose_spec("axis_angle"))
    assert axis.difference(*axis.coordinates(chunks)[0, :, 0]) == pytest.approx(0.1, abs=1e-3)
    # mutation: axis-angle compared as plain numbers


def test_numbers_that_are_no_rotation_in_rad_are_compared_as_numbers():
    scaled = axes(pose_spec("axis_angle", unit="0.05 m+0.5 rad"))
    yaw = ActionPart("yaw", 0, 1, "rotation", "rad", (-0.3,), (0.3,), rotation="axis_angle")
    assert [a.name for a in scaled] == [f"arm[{i}]" for i in range(6)] and {a.rotation for a in scaled} == {"none"}
    assert [(a.name, a.range) for a in axes(Spec((yaw,), ("s",), ("m",), 0.1))] == [("yaw", pytest.approx(0.6))]


# --- coverage


def test_a_log_of_the_policy_is_covered_as_often_as_it_should_be():
    found = policies.diagnose(exchangeable(episodes=100))
    assert found.coverage.share.high >= found.coverage.expected == pytest.approx(N / (N + 1))
    assert found.coverage.share.mean < 0.97  # it does miss: covered is a claim that can fail
    assert found.coverage.ratio == pytest.approx(1, abs=0.1) and found.coverage.uncovered == ()
    # mutation: neighbours of candidates looked for among the candidates only, or max -> min


def test_episodes_that_the_policy_would_not_have_produced_are_named():
    replayed = exchangeable()
    foreign = np.isin(replayed.episode, [3, 17])
    replayed = replace(replayed, logged=np.where(foreign[:, None, None], np.float32(0.9), replayed.logged))
    found = policies.diagnose(replayed).coverage
    assert set(found.uncovered) == {3, 17} and found.by_episode[3] == 0
    # mutation: binom.cdf(hits - 1), 1 / (N + 1)


def test_a_refused_candidate_is_nobodys_neighbour():
    replayed = exchangeable(episodes=5)
    hole = replayed.candidates.copy()
    hole[:, 2] = np.nan
    found, without = (
        policies.crowd(replace(replayed, candidates=c)) for c in (hole, np.delete(replayed.candidates, 2, axis=1))
    )
    for name in ("nearest", "neighbour", "covered", "disagreement"):
        np.testing.assert_allclose(getattr(found, name), getattr(without, name), err_msg=name)
    assert np.isnan(found.split.p).all()


def test_decisions_without_candidates_among_others_say_nothing():
    """As in a log whose recorder kept candidates for a part of the decisions."""
    replayed = exchangeable(episodes=5)
    hole, gone = replayed.candidates.copy(), np.arange(len(replayed)) % 3 == 0
    hole[gone] = np.nan
    found, whole = policies.crowd(replace(replayed, candidates=hole)), policies.crowd(replayed)
    for name in ("nearest", "neighbour", "covered", "disagreement"):
        expected = np.where(gone, np.nan, getattr(whole, name))
        np.testing.assert_array_equal(getattr(found, name), expected, err_msg=name)
    diagnosis = policies.diagnose(replace(replayed, candidates=hole))
    assert np.isfinite(diagnosis.coverage.share.mean) and np.isfinite(diagnosis.error.axes[0].error.mean)


def test_one_candidate_has_a_distance_and_nothing_else():
    found = policies.diagnose(exchangeable(n=1))
    assert found.coverage.nearest.mean > 0 and np.isnan(found.coverage.share.mean)
    assert np.isnan(found.disagreement.mean.mean) and np.isnan(found.modes.share.mean)
    assert found.error.axes[0].error.mean > 0 and np.isnan(found.error.axes[0].spread.mean)


# --- rank


def test_ranks_of_the_policys_own_chunks_are_uniform():
    found = policies.diagnose(exchangeable(episodes=200)).rank
    assert found.ks_p > 0.01 and found.chi2_p > 0.01
    assert found.mean.low < 0.5 < found.mean.high and found.counts.sum() == found.decisions
    # mutation: the divisor n instead of n + 1


def test_ranks_agree_with_counting():
    plain = exchangeable(episodes=6)
    value = np.tile(np.arange(N, dtype=np.float32), (len(plain), 1))
    u = {}
    for logged in (-1.0, 3.5, 3.0, 99.0):
        opinion = replace(plain.opinions["main"], value=value, logged_value=np.full(len(plain), logged, np.float32))
        replayed = replace(plain, opinions={"main": opinion})
        found = policies.pit(replayed, policies.crowd(replayed), np.random.default_rng(0)) * (N + 1)
        whole = plain.length >= plain.execute
        assert np.isnan(found[~whole]).all()  # cut short: another question than the candidates' answer
        u[logged] = found[whole]
    assert (np.floor(u[-1.0]) == 0).all() and (np.floor(u[3.5]) == 4).all() and (np.floor(u[99.0]) == N).all()
    assert set(np.floor(u[3.0])) == {3, 4}  # a tie is broken either way


def test_a_recorder_that_drew_the_same_noise_ranks_uniformly_too():
    plain = exchangeable(episodes=300)
    rng, rows = np.random.default_rng(5), np.arange(len(plain))
    own, opinion = rng.integers(0, N, len(plain)), plain.opinions["main"]
    opinion = replace(opinion, logged_value=opinion.value[rows, own])
    found = policies.diagnose(replace(plain, logged=plain.candidates[rows, own], opinions={"main": opinion}))
    assert found.rank.chi2_p > 0.01 and found.coverage.nearest.mean < 1e-6
    # mutation: `same` left out (the tie with itself is counted twice)


# --- modes


@pytest.mark.parametrize("n", [5, 16])
def test_one_gaussian_of_any_shape_gives_uniform_p_values(n):
    rng = np.random.default_rng(n)
    long = np.diag([5.0, 2.0, *[0.3] * 10]) @ rng.normal(size=(12, 12))  # dims > candidates as well as <
    p = modes.split(rng.normal(size=(2000, n, 12)) @ long).p
    assert stats.kstest(p, "uniform").pvalue > 0.01
    # mutation: LEAST in the data but not in the null, or scores of a single axis chosen by how it splits


def test_two_groups_are_found_with_their_gap():
    rng = np.random.default_rng(0)
    side = np.where(np.arange(16) < 5, 1.0, 0.0)[:, None] * np.array([0.3, 0.4])
    found = modes.split(rng.normal(0, 0.02, (200, 16, 2)) + side)
    assert (found.p < 0.01).all() and (found.minor == 5 / 16).all()
    np.testing.assert_allclose(found.gap, 0.5, atol=0.05)


def test_a_single_stray_is_no_second_mode():
    rng, chunks = np.random.default_rng(0), None
    chunks = rng.normal(0, 1, (300, 16, 3))
    chunks[:, 0] += 12.0
    assert (modes.split(chunks).p <= 0.05).mean() < 0.1
    # mutation: LEAST = 1


def test_candidates_that_are_all_equal_have_one_mode():
    found = modes.split(np.ones((2, 8, 3)))
    assert (found.p == 1).all() and (found.explained == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=4, max_size=9).filter(lambda x: len(set(x)) > 1))
def test_the_best_cut_on_a_line_is_that_of_brute_force(numbers):
    x = np.sort(np.array(numbers, float))
    total = ((x - x.mean()) ** 2).sum()
    within = [((x[:c] - x[:c].mean()) ** 2).sum() + ((x[c:] - x[c:].mean()) ** 2).sum() for c in range(2, len(x) - 1)]
    found = modes.split(np.array(numbers, float)[None, :, None])
    assert found.explained[0] == pytest.approx(1 - min(within) / total)


# --- phases


def gripping(closing: list[float], sign: int = 1, **changes):
    """One episode, a decision per step, a moving arm and a gripper that is told `closing` of its travel."""
    steps, plain = len(closing), synthetic(episodes=1, execute=1, horizon=2, steps=(len(closing), len(closing) + 1))
    plain = replace(plain, episodes=(replace(plain.episodes[0], steps=steps),))
    arm, gripper = plain.spec.parts
    spec = replace(plain.spec, parts=(arm, replace(gripper, sign=sign)))
    told = np.array([*closing, closing[-1]], np.float32)
    actions = np.stack([np.full_like(told, 0.5), np.full_like(told, -0.5), told if sign > 0 else 1 - told], 1)
    logged = np.stack([actions[t : t + 2] for t in range(steps)])
    rows = {
        name: getattr(plain, name)[:steps] for name in ("episode", "step", "candidates", "chosen", "index", "reason")
    }
    return replace(plain, spec=spec, logged=logged, length=np.full(steps, 2), **(rows | changes))


@pytest.mark.parametrize("sign", [1, -1])
def test_phases_follow_the_gripper(sign):
    found = phases(gripping([0, 0.1, 0.6, 0.9, 0.4, 1, 0, 1, 0.2], sign))
    names = [found.names[i] for i in found.label]
    assert names == ["open"] * 3 + ["closed"] * 3 + ["open again", "closed again", "open again"]
    # 0.6 and 0.4 are not clear enough to change anything; mutation: one threshold of 0.5, or the sign ignored


def test_an_arm_that_stands_still_is_in_a_phase_of_its_own():
    replayed = gripping([0, 0, 1, 1])
    replayed.logged[2, :, :2] = 0.01  # of a range of 2 m
    assert [phases(replayed).names[i] for i in phases(replayed).label] == ["open", "open", "still", "closed"]


def test_without_a_gripper_phases_are_thirds_of_the_time():
    plain = synthetic(episodes=2)
    arm = replace(plain.spec.parts[0], stop=3, low=(-1.0,) * 3, high=(1.0,) * 3)
    found = phases(replace(plain, spec=replace(plain.spec, parts=(arm,))))
    time = plain.step / np.array([e.steps for e in plain.episodes])[plain.episode]
    np.testing.assert_array_equal(found.label, (time >= 1 / 3).astype(int) + (time >= 2 / 3))


# --- action errors


def test_an_error_is_in_the_joints_own_unit_and_only_where_it_was_made():
    plain = exchangeable(episodes=6)
    candidates = np.repeat(plain.logged[:, None], N, 1) * np.float32(1)
    candidates[..., 1] += 0.25
    found = action_error(replace(plain, candidates=candidates), phases(plain), draws(6, 50)).axes
    assert [(a.name, a.unit) for a in found] == [("arm[0]", "m"), ("arm[1]", "m"), ("gripper", "1")]
    assert [a.error.mean for a in found] == pytest.approx([0, 0.25, 0], abs=1e-6)
    assert [a.nearest.mean for a in found] == pytest.approx([0, 0.25, 0], abs=1e-6)
    assert [a.spread.mean for a in found] == pytest.approx([0, 0, 0], abs=1e-6)
    assert all(part.mean.mean == pytest.approx(0.25) for part in found[1].by_phase)
    # mutation: execute -> horizon is invisible here, the next test sees it


def test_only_steps_that_were_executed_count_in_an_error():
    plain = exchangeable(episodes=12)
    candidates = np.repeat(plain.logged[:, None], N, 1) * np.float32(1)
    candidates[:, :, 2:] += 0.5  # after the k = 2 steps that are executed
    cut = plain.length == 1
    candidates[cut, :, 1] += 0.5  # after the episode's end
    assert cut.any()
    assert action_error(replace(plain, candidates=candidates), phases(plain), draws(12, 50)).error.max() == 0


def test_a_policy_that_made_the_log_errs_as_much_as_it_varies():
    found = action_error(replayed := exchangeable(episodes=100), phases(replayed), draws(100, 200)).axes
    assert all(axis.excess.low < 0 < axis.excess.high and axis.nearest.mean < axis.error.mean for axis in found)
    foreign = replace(replayed, logged=-replayed.logged)
    assert action_error(foreign, phases(foreign), draws(100, 200)).axes[0].excess.low > 0.3
    # mutation: pairs of candidates from different decisions (roll along axis 0)


# --- the whole


def test_disagreement_over_time_sees_where_the_policy_hesitates():
    plain = exchangeable()
    late = plain.step >= 0.7 * np.array([e.steps for e in plain.episodes])[plain.episode]
    calm = np.where(late[:, None, None, None], plain.candidates, plain.candidates[:, :1])
    found = policies.diagnose(replace(plain, candidates=calm)).disagreement
    assert found.by_time[0].mean.mean < 1e-6 < 0.05 < found.by_time[-1].mean.low
    assert [part.name for part in found.by_time][:2] == ["0 %", "10 %"]


def test_a_diagnosis_is_json_and_draws_its_figures():
    import json

    found = policies.diagnose(exchangeable())
    text = json.dumps(found.to_json(), allow_nan=False)
    assert '"expected"' in text and "crowd" not in text
    drawn = figures(found)
    assert len(drawn) >= 4 and all(svg.startswith("<svg") and title and caption for title, svg, caption in drawn)


def test_a_replay_without_candidates_is_refused():
    plain = synthetic(episodes=2)
    with pytest.raises(ValueError, match="expected candidates of a policy"):
        policies.diagnose(replace(plain, candidates=plain.candidates[:, :0]))
