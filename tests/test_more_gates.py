"""Gates that abstain on a measure of the moment: by hand on small cases, row by row, and through the Steerer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contracts import candidates, check_gate
from fakes import FixedCritic, FixedPolicy, HomingCritic, HomingPolicy, observation, point_spec

from robot_value import components
from robot_value.steering.alarm import Alarm
from robot_value.steering.confidence import deviation
from robot_value.steering.gates.conformal import Conformal
from robot_value.steering.gates.disagreement import disagreement
from robot_value.steering.selection import average, pick
from robot_value.steering.setups import Setup
from robot_value.steering.steerer import Steerer
from robot_value.types import Scores, Situation

SPEC = point_spec()
LIMIT = float(SPEC.high[0] - SPEC.low[0])


def gate(name: str, **options):
    return components.load("gates", name).Config(**options).build()


def given(value: list[list[float]], spread: list[list[float]] | None = None, **about):
    """Candidates of zeros with these scores, and the situation of robots 0, 1, ... in their first episode."""
    values = torch.tensor(value)
    chunks = torch.zeros(*values.shape, SPEC.horizon, 2)
    known = torch.ones_like(values, dtype=torch.bool)
    scores = Scores(values, torch.zeros_like(values) if spread is None else torch.tensor(spread), known)
    about = {"episode": np.arange(len(values)), "spec": SPEC, "execute": 4} | about
    return chunks, scores, Situation((), known, **about)


def used(part, chunks, scores, at, index: int = 0) -> list[bool]:
    selection = pick(chunks, torch.full((len(chunks),), index))
    use, why_not = part(chunks, scores, selection, at)
    assert why_not
    return use.tolist()


def alarm(threshold: float = 1.0, score: str = "value") -> Alarm:
    return Alarm((0.0,), (1.0,), threshold, 0.1, 40, score)


@pytest.mark.parametrize("name", ["conformal", "calibrated"])
def test_gates_that_need_a_file_keep_the_contract_too(name, tmp_path):
    path = alarm().save(tmp_path / "alarm.json")
    check_gate(gate(name, **({"path": str(path)} if name == "conformal" else {"threshold": 0.0})), SPEC)


def test_never_keeps_the_plain_policys_exact_chunk():
    argmax = components.load("selectors", "argmax").Config().build()
    decision = Steerer(HomingPolicy(), HomingCritic(), argmax, gate("never"), n=8)(observation(SPEC))
    assert decision.reason == ("never",) * 3 and not decision.index.any()
    np.testing.assert_array_equal(decision.chunk, decision.candidates[:, 0])


# Disagreement -------------------------------------------------------------------------------------------------------


def test_disagreement_is_0_between_equals_and_1_a_whole_range_apart():
    chunks, _, at = given([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    chunks[1, 1] = LIMIT
    chunks[2, 1, 4:] = LIMIT  # beyond what will be executed: mutation: whole chunks
    np.testing.assert_allclose(disagreement(chunks, at), [0.0, 1.0, 0.0])


def test_disagreement_is_the_mean_over_pairs_of_finite_candidates():
    chunks, _, at = candidates(SPEC, 4, 6, seed=1, bad=0.3)
    expected = []
    for row in range(4):
        prefix = chunks[row, at.finite[row], : at.execute] / LIMIT
        count = len(prefix)
        pairs = [(prefix[i] - prefix[j]).square().mean().sqrt() for i in range(count) for j in range(i)]
        expected.append(float(torch.stack(pairs).mean()))
    assert not at.finite.all()
    np.testing.assert_allclose(disagreement(chunks, at), expected, rtol=1e-5)  # mutation: NaN candidates as zeros
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    shuffled = disagreement(chunks[:, order], replace(at, finite=at.finite[:, order]))
    np.testing.assert_allclose(shuffled, expected, rtol=1e-5)


def test_the_critic_acts_only_where_candidates_disagree():
    chunks, scores, at = given([[0.0, 1.0], [0.0, 1.0]])
    chunks[1, 1] = 0.2 * LIMIT
    assert used(gate("disagreement", threshold=0.1), chunks, scores, at, 1) == [False, True]
    assert used(gate("disagreement", threshold=0.3), chunks, scores, at, 1) == [False, False]


# Spread -------------------------------------------------------------------------------------------------------------


def test_spread_is_that_of_the_chosen_candidate_in_units_of_the_candidates_deviation():
    given_ = given([[0.0, 2.0], [0.0, 2.0], [0.0, 0.2]], [[9.0, 0.9], [9.0, 1.1], [9.0, 0.9]])
    assert used(gate("spread", threshold=1.0), *given_, 1) == [True, False, False]  # std 1, 1 and 0.1
    assert used(gate("spread", threshold=1.0, relative=False), *given_, 1) == [True, False, True]
    assert used(gate("spread", threshold=8.0), *given_, 0) == [False] * 3  # mutation: spread of the best candidate


def test_the_spread_of_an_average_is_its_candidates_spread_by_weight():
    chunks, scores, at = given([[0.0, 2.0]], [[1.0, 3.0]])
    selection = average(chunks, torch.tensor([[0.25, 0.75]]), at)  # 2.5
    assert gate("spread", threshold=2.6, relative=False)(chunks, scores, selection, at)[0].tolist() == [True]
    assert gate("spread", threshold=2.4, relative=False)(chunks, scores, selection, at)[0].tolist() == [False]


@pytest.mark.parametrize("which", ["value", "spread"])
def test_without_a_finite_score_of_the_chosen_candidate_the_critic_does_not_act(which):
    chunks, scores, at = given([[0.0, 2.0], [0.0, 2.0]])
    score = getattr(scores, which).clone()
    score[0, 1] = torch.nan
    assert used(gate("spread", threshold=5.0), chunks, replace(scores, **{which: score}), at, 1) == [False, True]


def test_deviation_ignores_what_is_not_scored_and_what_is_rounding():
    value = torch.tensor([[1.0, 3.0, 50.0], [7.0, 7.0 + 1e-6, 7.0]])
    usable = torch.tensor([[True, True, False], [True, True, True]])
    assert deviation(value, usable).tolist() == [1.0, 0.0]


# Jump ---------------------------------------------------------------------------------------------------------------


def play(part, *values: list[float], episode: list[int] | None = None) -> list[list[bool]]:
    """Decisions one after the other; `values` are the robots' mean values (of candidates 1 below and 1 above it)."""
    found = []
    for value in values:
        chunks, scores, at = given([[v - 1, v + 1] for v in value])
        found.append(used(part, chunks, scores, replace(at, episode=np.array(episode or range(len(value))))))
    return found


def test_a_jump_is_a_value_outside_its_own_recent_past():
    steady = [[1.0, 1.0], [2.0, 2.0], [1.0, 1.0], [2.0, 2.0]]  # mean 1.5, std 0.5
    found = play(gate("jump", threshold=2.0), *steady, [2.4, 2.6])
    assert found == [[False] * 2] * 4 + [[False, True]]  # mutation: value, not |value|; std of candidates
    assert play(gate("jump", threshold=2.0), *steady, [0.6, 0.4])[-1] == [False, True]  # a fall is a jump as well


def test_only_the_last_window_counts():
    past = [[100.0], [-100.0], [1.0], [2.0], [1.0], [2.0]]
    assert play(gate("jump", threshold=2.0, window=4), *past, [3.0])[-1] == [True]
    assert play(gate("jump", threshold=2.0, window=6), *past, [3.0])[-1] == [False]  # mutation: window ignored


def test_a_new_episode_has_no_past():
    steady = [[1.0, 1.0], [2.0, 2.0], [1.0, 1.0], [2.0, 2.0]]
    part = gate("jump")
    play(part, *steady)
    assert play(part, [9.0, 9.0], episode=[0, 77])[-1] == [True, False]  # mutation: episode not compared
    for rows, expected in (([0], [False, True]), (None, [False, False])):
        part = gate("jump")
        play(part, *steady)
        part.reset(rows)
        assert play(part, [9.0, 9.0])[-1] == expected


def test_a_decision_without_scores_is_no_jump_and_leaves_no_trace():
    part, hole = gate("jump"), float("nan")
    assert play(part, [1.0], [2.0], [1.0], [hole], [2.0], [hole], [2.4], [2.9])[3:] == [[False]] * 4 + [[True]]


# Conformal ----------------------------------------------------------------------------------------------------------


def test_the_critic_rescues_after_the_alarm_or_acts_until_it():
    rescue, calm = gate_of("alarmed"), gate_of("calm")
    values = [[0.0, 0.0], [0.0, -2.0], [0.0, 0.0]]  # robot 1 alarms at its second decision, and stays alarmed
    found = [[used(part, *given([[v, 5.0] for v in row])) for row in values] for part in (rescue, calm)]
    assert found[0] == [[False, False], [False, True], [False, True]]  # mutation: best candidate's value, or no latch
    assert found[1] == [[True, True], [True, False], [True, False]]
    rescue.reset([1])
    assert used(rescue, *given([[0.0, 5.0], [0.0, 5.0]])) == [False, False]


def gate_of(act: str, score: str = "value"):
    return components.load("gates", "conformal").Conformal(alarm(score=score), act)


def test_a_spread_or_a_disagreement_can_alarm_as_well():
    assert used(gate_of("alarmed", "spread"), *given([[0.0, 0.0]] * 2, [[0.5, 9.0], [1.5, 0.0]])) == [False, True]
    chunks, scores, at = given([[0.0, 0.0]] * 2)
    chunks[1, 1] = 1.5 * LIMIT
    assert used(gate_of("alarmed", "disagreement"), chunks, scores, at) == [False, True]


def test_the_reason_says_what_kept_the_critic_out():
    value = torch.tensor([[0.0, 1.0], [-2.0, 1.0]])  # minus value 0 and 2 against a band of 1
    critic = FixedCritic(SPEC, 4, value)
    policy = FixedPolicy(SPEC, torch.rand(2, 2, 8, 2, generator=torch.Generator().manual_seed(0)))
    argmax = components.load("selectors", "argmax").Config().build()
    for act, reasons in (("alarmed", ("calm", "chosen")), ("calm", ("chosen", "alarmed"))):
        decision = Steerer(policy, critic, argmax, gate_of(act), n=2)(observation(SPEC, 2))
        assert decision.reason == reasons
        row = reasons.index("chosen") ^ 1
        np.testing.assert_array_equal(decision.chunk[row], decision.candidates[row, 0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("disagreement", {"threshold": -1.0}, "from 0 on"),
        ("spread", {"threshold": -1.0}, "from 0 on"),
        ("jump", {"window": 1}, "window >= 2"),
        ("conformal", {}, "expected an alarm's path"),
    ],
)
def test_options_that_mean_nothing_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        gate(name, **options)


def test_a_conformal_gate_refuses_an_alarm_on_what_it_cannot_score():
    with pytest.raises(ValueError, match="alarmed or calm"):
        gate_of("sometimes")
    with pytest.raises(ValueError, match="among value, spread, disagreement, got 'photons'"):
        gate_of("alarmed", "photons")


@pytest.mark.parametrize(
    ("score", "refused", "accepted"),
    [
        ("value", {"policy", "critic", "execute"}, {"selector", "proposer", "guide", "n"}),
        ("disagreement", {"policy", "proposer", "guide", "n", "execute"}, {"critic", "selector"}),
    ],
)
def test_a_conformal_gate_refuses_parts_for_which_nobody_knows_what_is_normal(score, refused, accepted):
    # mutation: no `check`, or one that compares everything
    def steerer(**other):
        parts = {name: SimpleNamespace(version="a") for name in ("policy", "critic", "selector", "proposer", "guide")}
        return SimpleNamespace(**{**parts, "n": 4, "execute": 2, **other})

    plain = steerer()
    conformal = Conformal(replace(alarm(score=score), setup=Setup.of(plain, plain.critic)))
    for name in refused | accepted:
        other = steerer(**{name: 3 if name in ("n", "execute") else SimpleNamespace(version="b")})
        if name in accepted:
            conformal.check(other, other.critic)
        else:
            with pytest.raises(ValueError, match=f"{name}: expected .*, got .*calibrate. again"):
                conformal.check(other, other.critic)
    Conformal(alarm(score=score)).check(plain, plain.critic)  # an alarm that does not say is taken as it is
