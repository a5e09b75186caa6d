"""Followers: splices by executed steps whatever the delays, averages in closed form, switches without a jolt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contracts import check_follower
from fakes import observation
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.steering.followers import blend, ensemble, plain, splice
from robot_value.types import ActionPart, Decision, Observation, Spec

H, A = 6, 4
SPEC = Spec(
    parts=(
        ActionPart("arm", 0, 2, "joint", "rad", (-9.0,) * 2, (9.0,) * 2),
        ActionPart("wrist", 2, 3, "joint", "rad", (-9.0,), (9.0,), reference="previous"),
        ActionPart("gripper", 3, 4, "gripper", "1", (-9.0,), (9.0,)),
    ),
    state_names=("x",),
    state_units=("m",),
    dt=0.05,
    horizon=H,
    n_obs_steps=1,
)
FOLLOWERS = {"splice": splice.Config(), "ensemble": ensemble.Config(m=0.3), "blend": blend.Config(m=3)}


def built(name_or_config, spec: Spec = SPEC):
    follower = FOLLOWERS.get(name_or_config, name_or_config).build() if isinstance(name_or_config, str) else None
    follower = follower or name_or_config.build()
    if hasattr(follower, "check"):
        follower.check(spec)
    return follower


def at(step, spec: Spec = SPEC, episode: int = 100) -> Observation:
    step = np.asarray(step)
    return observation(spec, len(step), step=step, episode=np.full(len(step), episode))


def told(chunk, start, execute: int = 1) -> Decision:
    """chunk [B, H, A], in force from `start` int64[B] on."""
    chunk, start = np.asarray(chunk, np.float32), np.asarray(start)
    none = np.zeros((len(chunk), 0), np.float32)
    return Decision(
        chunk=chunk,
        execute=np.full(len(chunk), execute),
        start_step=start,
        reason=("chosen",) * len(chunk),
        index=np.zeros(len(chunk), np.int64),
        candidates=np.zeros((len(chunk), 0, *chunk.shape[1:]), np.float32),
        value=none,
        spread=none,
    )


def ask(follower, step, decision, episode: int = 100, spec: Spec = SPEC) -> np.ndarray:
    seen = at(step, spec, episode)
    offset = np.clip(seen.step - decision.start_step, 0, decision.chunk.shape[1] - 1)  # as robots compute it
    return follower.action(seen, decision, offset)


def random_chunk(seed: int, batch: int = 1, horizon: int = H) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (batch, horizon, A)).astype(np.float32)


# Splice -------------------------------------------------------------------------------------------------------------


def labelled(number: int, batch: int) -> np.ndarray:
    """chunk[b, h] = (number, b, h, 0): an executed action says where it came from."""
    chunk = np.zeros((batch, H, A), np.float32)
    chunk[:, :, 0], chunk[:, :, 1], chunk[:, :, 2] = number, np.arange(batch)[:, None], np.arange(H)
    return chunk


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), arrivals=st.lists(st.booleans(), min_size=25, max_size=25))
def test_under_random_delays_every_step_executes_the_newest_decision_that_has_started_at_its_own_index(seed, arrivals):
    # mutation: index by `offset`; take the newest decision whether it has started or not; count from arrival
    rng = np.random.default_rng(seed)
    batch, follower, arrived = 3, built("splice"), []
    for step, new in enumerate(arrivals):
        if new or step == 0:
            start = np.zeros(batch, np.int64) if step == 0 else step + rng.integers(-4, 5, batch)  # late and early
            arrived.append((start, told(labelled(len(arrived), batch), start)))
        expected = []
        for b in range(batch):
            started = [(i, step - s[b]) for i, (s, _) in enumerate(arrived) if 0 <= step - s[b] < H]
            expected.append((*max((i, b, index) for i, index in started), 0) if started else None)
        if None in expected:
            with pytest.raises(ValueError, match="expected a decision that covers this step"):
                ask(follower, [step] * batch, arrived[-1][1])
            return
        np.testing.assert_array_equal(ask(follower, [step] * batch, arrived[-1][1]), np.array(expected, np.float32))


def test_a_late_decision_repeats_nothing_and_skips_what_the_old_chunk_has_executed():
    follower, old, late = built("splice"), told(labelled(0, 1), [0]), told(labelled(1, 1), [2])
    played = [ask(follower, [step], old if step < 4 else late)[0, [0, 2]].tolist() for step in range(7)]
    assert played == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [1, 4]]


def test_a_decision_for_later_waits_until_its_step():
    follower, old, early = built("splice"), told(labelled(0, 1), [0]), told(labelled(1, 1), [3])
    played = [ask(follower, [step], old if step < 1 else early)[0, [0, 2]].tolist() for step in range(5)]
    assert played == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]


def test_on_a_robot_that_waits_splicing_is_plain_indexing():
    spliced, indexed, starts = built("splice"), plain.Config().build(), np.array([[0, 0], [4, 2], [8, 7]])
    for number, (start, until) in enumerate(zip(starts, [*starts[1:], starts[-1] + 4], strict=True)):
        decision, seen = told(random_chunk(number, 2), start), start.copy()
        while (seen < until).any():
            expected = indexed.action(at(seen), decision, seen - start)
            np.testing.assert_array_equal(ask(spliced, seen, decision), expected)
            seen = np.minimum(seen + 1, until)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_robot_that_outlives_its_chunk_is_stopped_and_one_that_rests_is_not_asked(name):
    follower, decision = built(name), told(random_chunk(0, 2), [0, 0])
    for step in range(H):
        ask(follower, [step, 0], decision)
    resting = replace(decision, execute=np.array([0, 1]))
    ask(follower, [H, 0], resting)
    with pytest.raises(ValueError, match=rf"robots \[0\] at step \[{H}\]: expected a decision .* must stop, not guess"):
        ask(follower, [H, 0], decision)


@pytest.mark.parametrize("name", FOLLOWERS)
@pytest.mark.parametrize("episode", [100, 101], ids=["same key", "new key"])
def test_an_episode_that_starts_again_knows_nothing_of_the_last_one(name, episode):
    # mutation: drop `memory.forget(restarted)` in Recent.step_to -> the same key remembers
    follower, chunk = built(name), random_chunk(1)
    for step, decision in [(3, told(random_chunk(0), [3])), (4, told(random_chunk(2), [4]))]:
        ask(follower, [step], decision)
    np.testing.assert_array_equal(ask(follower, [3], told(chunk, [3]), episode), chunk[:, 0])


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_robot_does_not_notice_the_others(name):
    together, alone = built(name), built(name)
    for step in range(9):
        chunks, start = random_chunk(step // 2, 3), np.array([step // 2 * 2, 0, step // 2 * 2])
        steps = [step, step % 5, step]
        both = ask(together, steps, told(chunks, np.minimum(start, steps)))
        one = ask(alone, steps[2:], told(chunks[2:], start[2:]))
        np.testing.assert_allclose(both[2:], one, atol=1e-6)


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_fresh_follower_keeps_the_contract(name):
    check_follower(built(name), SPEC, observation(SPEC))


def test_a_fleet_of_another_size_starts_afresh():
    follower = built("ensemble")
    ask(follower, [0, 0], told(random_chunk(0, 2), [0, 0]))
    np.testing.assert_array_equal(ask(follower, [1], told(random_chunk(1), [1])), random_chunk(1)[:, 0])


# Temporal ensembling -------------------------------------------------------------------------------------------------


def test_act_weights_are_those_of_the_paper_where_every_step_decides():
    # w_i = exp(-0.01 i), i = 0 the oldest of the chunks that reach this step
    follower, chunks = built(ensemble.Config()), [random_chunk(i) for i in range(9)]
    for step, chunk in enumerate(chunks):
        action = ask(follower, [step], told(chunk, [step]))
        alive = range(max(0, step - H + 1), step + 1)
        w = np.exp(-0.01 * np.arange(len(alive)))
        expected = sum(wi * chunks[i][0, step - i] for wi, i in zip(w / w.sum(), alive, strict=True))
        np.testing.assert_allclose(action[0], expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(m=st.floats(-2, 2), gaps=st.lists(st.integers(1, 4), min_size=2, max_size=5), ahead=st.integers(0, 2))
def test_the_ensemble_is_the_average_weighted_by_age_of_all_chunks_that_have_started(m, gaps, ahead):
    # mutation: age in decisions; a chunk counted again at every control step; unstarted chunks averaged in
    follower, spoken, step = built(ensemble.Config(m=m)), [], 0
    for number, gap in enumerate(gaps):
        start = step + (ahead if number else 0)
        decision = told(random_chunk(number), [start])
        spoken.append((start, decision.chunk))
        for _ in range(gap):
            action = ask(follower, [step], replace(decision, chunk=decision.chunk.copy()))
            said = [(np.exp(-m * (step - s)), c[0, step - s]) for s, c in spoken if 0 <= step - s < H]
            expected = sum(w * a for w, a in said) / sum(w for w, _ in said)
            np.testing.assert_allclose(action[0], expected, atol=1e-5)
            step += 1


def test_a_very_large_m_is_the_splice_and_nothing_overflows():
    follower, spliced = built(ensemble.Config(m=500.0)), built("splice")
    for step in range(5):
        decision = told(random_chunk(step), [step])
        np.testing.assert_allclose(ask(follower, [step], decision), ask(spliced, [step], decision), atol=1e-6)


def rotating(rotation: str, size: int, reference: str = "absolute") -> Spec:
    limit = (4.0,) * size
    part = ActionPart("hand", 0, size, "rotation", "rad", tuple(-x for x in limit), limit, reference, rotation)
    return Spec((part,), ("x",), ("m",), dt=0.05, horizon=2, n_obs_steps=1)


def switch_between(config, spec: Spec, old, new, at_step: int = 1) -> np.ndarray:
    """The action at `at_step`, where a constant chunk `new` follows a constant chunk `old`."""
    follower = built(config, spec)
    old, new = (np.tile(np.asarray(x, np.float32), (1, spec.horizon, 1)) for x in (old, new))
    for step in range(at_step):
        ask(follower, [step], told(old, [0]), spec=spec)
    return ask(follower, [at_step], told(new, [at_step]), spec=spec)[0]


@pytest.mark.parametrize("config", [ensemble.Config(m=0.0), blend.Config(m=1)], ids=["ensemble", "blend"])
def test_rotations_go_the_short_way_whatever_the_writing(config):
    # mutation: leave out align_signs, _align_turns or to_rotations in mix; both weights are 1/2 here
    a, b = 0.5 * np.array([0.1, 1.0]), 0.5  # half angles about z
    quaternion = [np.array([0, 0, np.sin(x), np.cos(x)]) for x in (a[0], b)]
    middle = switch_between(config, rotating("quaternion", 4), quaternion[0], -quaternion[1])
    half = (a[0] + b) / 2
    np.testing.assert_allclose(np.abs(middle), np.abs([0, 0, np.sin(half), np.cos(half)]), atol=1e-6)
    near_pi = switch_between(config, rotating("axis_angle", 3), [0, 0, np.pi - 0.1], [0, 0, -np.pi + 0.1])
    np.testing.assert_allclose(np.abs(near_pi), [0, 0, np.pi], atol=1e-5)
    columns = [np.array([np.cos(x), np.sin(x), 0, -np.sin(x), np.cos(x), 0]) for x in (0.2, 1.0)]
    np.testing.assert_allclose(
        switch_between(config, rotating("6d", 6), *columns),
        [np.cos(0.6), np.sin(0.6), 0, -np.sin(0.6), np.cos(0.6), 0],
        atol=1e-6,
    )


def test_numbers_relative_to_a_chunks_start_are_never_averaged():
    # mutation: drop the np.where(alone, ...) in Ensemble._per_dim
    spec = rotating("none", 2, reference="chunk_start")
    assert switch_between(ensemble.Config(), spec, [1, 1], [3, 3]).tolist() == [3, 3]
    assert switch_between(ensemble.Config(m=0.0), rotating("none", 2), [1, 1], [3, 3]).tolist() == [2, 2]


@pytest.mark.parametrize("config", [ensemble.Config(), blend.Config()], ids=["ensemble", "blend"])
def test_chunks_are_not_mixed_by_one_who_does_not_know_what_they_mean(config):
    follower = config.build()
    ask(follower, [0], told(random_chunk(0), [0]))
    with pytest.raises(ValueError, match=r"expected to know what actions mean .* call check\(spec\) first"):
        ask(follower, [1], told(random_chunk(1), [1]))


# Blending -----------------------------------------------------------------------------------------------------------


def quintic(u):
    return 1 - 10 * u**3 + 15 * u**4 - 6 * u**5


def test_a_constant_gap_closes_along_the_quintic_and_is_gone_after_m_steps():
    # mutation: u = i / m (a jump at the first step), w linear
    follower, m = built(blend.Config(m=3)), 3
    old, new = np.zeros((1, H, A), np.float32), np.ones((1, H, A), np.float32)
    ask(follower, [0], told(old, [0]))
    played = [ask(follower, [step], told(new, [1]))[0, 0] for step in range(1, H + 1)]
    expected = [1 - quintic(min((i + 1) / (m + 1), 1)) for i in range(H)]
    np.testing.assert_allclose(played, expected, atol=1e-6)


def test_increments_and_grippers_pass_through_and_absolute_targets_do_not():
    # mutation: blend every part
    follower, old, new = built("blend"), told(random_chunk(0), [0]), told(random_chunk(1), [1])
    ask(follower, [0], old)
    action = ask(follower, [1], new)
    np.testing.assert_allclose(action[0, 2:], new.chunk[0, 0, 2:], atol=1e-7)
    w = quintic(1 / 4)
    np.testing.assert_allclose(action[0, :2], (w * old.chunk[0, 1] + (1 - w) * new.chunk[0, 0])[:2], atol=1e-6)


def sines(start: int, phase: float, horizon: int) -> np.ndarray:
    """A smooth plan for steps start.. in every dim; velocities up to 0.1, accelerations up to 0.01 per step."""
    t = np.arange(start, start + horizon)
    return np.tile(np.sin(0.1 * t + phase)[None, :, None], (1, 1, A)).astype(np.float32)


@pytest.mark.parametrize("k", [12, 5, 3, 16], ids=["after the blend", "at its end", "inside the last blend", "k = H"])
def test_switches_add_no_jump_of_position_or_velocity_beyond_the_quintics_own(k):
    # mutation: hold the old chunk's last action instead of continuing its velocity -> k = H jumps in velocity
    # mutation: blend from the old chunk, not from what was being executed -> a switch inside a blend jumps
    m, horizon = 5, 16
    spec = SPEC.choose(horizon=horizon)
    follower, played = built(blend.Config(m=m), spec), []
    for step in range(6 * k):
        start = step // k * k
        decision = told(sines(start, 0.4 * (step // k % 2), horizon), [start])
        played.append(float(ask(follower, [step], decision, spec=spec)[0, 0]))
    position, gap = np.array(played), 0.6  # 2 sin(0.2), and what the old plan drifts past its end
    velocity, acceleration = np.diff(position), np.diff(position, 2)
    unblended = np.concatenate([sines(i * k, 0.4 * (i % 2), horizon)[0, :k, 0] for i in range(6)])
    assert np.abs(velocity).max() < 0.1 + 1.875 * gap / (m + 1) < np.abs(np.diff(unblended)).max()
    assert np.abs(acceleration).max() < 0.02 + 2 * 5.78 * gap / (m + 1) ** 2
    at_switch = acceleration[k - 2 :: k]  # between the last old step and the first new one
    assert np.abs(at_switch).max() < 0.35 * np.abs(np.diff(unblended, 2)).max()


def test_two_plans_that_agree_are_followed_as_if_nothing_happened():
    follower, whole = built(blend.Config(m=H - 4)), sines(0, 0.0, 20)  # no longer than the old chunk's rest
    for step in range(12):
        start = step // 4 * 4
        action = ask(follower, [step], told(whole[:, start : start + H], [start]))
        np.testing.assert_allclose(action[0], whole[0, step], atol=1e-6)


def test_a_chunk_that_has_ended_goes_on_at_its_last_velocity():
    # mutation: continue it by its last action -> the straight line sags behind the switch
    follower, line = built("blend"), np.tile(np.arange(2 * H, dtype=np.float32)[None, :, None] / 2, (1, 1, A))
    for step in range(2 * H):
        start = step // H * H
        action = ask(follower, [step], told(line[:, start : start + H], [start]))
        np.testing.assert_allclose(action[0], line[0, step], atol=1e-6)


def test_blending_over_no_steps_is_refused():
    with pytest.raises(ValueError, match="m: expected at least 1 step, got 0"):
        blend.Config(m=0).build()
