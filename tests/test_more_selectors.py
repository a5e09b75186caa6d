"""Selectors that ask more than "which value is highest": climb, coherent, pessimistic, lexicographic, blended."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from contracts import candidates, situation
from fakes import FixedPolicy, HomingCritic, HomingPolicy, observation, point_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value import components
from robot_value.normalize import Statistics
from robot_value.steering.selection import best, zscore
from robot_value.steering.selectors.coherent import best_share
from robot_value.steering.steerer import Steerer
from robot_value.types import ActionPart, Scores, Situation, Spec

SPEC = point_spec(horizon=4)  # limits -1 and 1: a range is 2
K = 2  # executed steps, as contracts.situation says for this horizon
EVERY = [
    ("climb", {}),
    ("climb", {"top": 2, "temperature": 0.5}),
    ("coherent", {}),
    ("coherent", {"top": 0.5}),
    ("pessimistic", {}),
    ("lexicographic", {}),
    ("blended", {}),
    ("blended", {"score": "risk", "weight": 1.0}),
]


def selector(name: str, **options):
    return components.load("selectors", name).Config(**options).build()


def scores(value, spread=None, **named) -> Scores:
    value = torch.as_tensor(value, dtype=torch.float32)
    spread = torch.zeros_like(value) if spread is None else torch.as_tensor(spread, dtype=torch.float32)
    others = {name: torch.as_tensor(other, dtype=torch.float32) for name, other in named.items()}
    return Scores(value, spread, torch.ones_like(value, dtype=torch.bool), others)


@dataclass
class Landscape:
    """A critic whose value is `height` of the executed steps [B, N, K, A]."""

    height: object
    spec: Spec = SPEC
    scope: int = K

    def score(self, context, chunks, lengths) -> Scores:
        value = self.height(chunks[:, :, : self.scope])
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))


def bowl(*goal: float) -> Landscape:
    """value = -|executed steps - goal|^2: the best executed step is the goal."""
    return Landscape(lambda x: -(x - torch.tensor(goal)).square().sum((2, 3)))


def climb(critic, chunks: torch.Tensor, **options):
    value = critic.score(None, chunks, None).value.detach()
    finite = chunks.isfinite().flatten(2).all(2)
    at = replace(situation(critic.spec, finite), critic=critic, execute=critic.scope)
    return selector("climb", **options)(chunks, scores(value), at)


def case(batch: int, n: int, seed: int = 0) -> tuple[torch.Tensor, Scores, Situation]:
    """Everything any selector asks for: a last decision, named scores and a critic with a slope."""
    chunks, given, at = candidates(SPEC, batch, n, seed)
    rng = torch.Generator().manual_seed(seed)
    named = {name: torch.randn(batch, n, generator=rng) for name in ("risk", "count")}
    previous = torch.rand(batch, SPEC.horizon, 2, generator=rng) * 2 - 1
    previous[:, 3] = math.nan  # the last chunk has ended
    critic = bowl(0.1, -0.2)
    if batch > 1:
        previous[1] = math.nan  # this robot has just begun
    value = critic.score(None, chunks, None).value
    return chunks, replace(given, value=value, named=named), replace(at, previous=previous, critic=critic)


# All of them


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("name", "options"), EVERY)
def test_permuting_the_candidates_permutes_the_choice_and_nothing_else(name, options, batch):
    # mutation: leaving `[rows[:, None], top]` out of climb's `usable` breaks its ties and its weights
    if "temperature" in options:
        options = {**options, "temperature": 0.01}  # a draw picks by place; nearly argmax does not
    chunks, given, at = case(batch, 6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    turned = replace(
        given,
        **{key: getattr(given, key)[:, order] for key in ("value", "spread", "scored")},
        named={key: score[:, order] for key, score in given.named.items()},
    )
    rows = slice(None) if name != "coherent" else [row for row in range(batch) if row != 1]  # no last decision: first
    here = selector(name, **options)(chunks, given, at)
    there = selector(name, **options)(chunks[:, order], turned, replace(at, generators=case(batch, 6)[2].generators))
    torch.testing.assert_close(there.chunk[rows], here.chunk[rows])
    torch.testing.assert_close(there.weights[rows], here.weights[:, order][rows])
    found = torch.where(there.index < 0, -1, order[there.index])
    assert found[rows].equal(here.index[rows])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["value", "spread", "risk", "count", "chunk"])
@pytest.mark.parametrize(("name", "options"), EVERY)
def test_a_non_finite_number_that_is_read_keeps_its_candidate_out(name, options, where, bad):
    # mutation: `& risk.isfinite()` left out of lexicographic lets a risk of -inf win
    read = {"lexicographic": {"risk"}, "blended": {options.get("score", "count")}}.get(name, set())
    built = selector(name, **options)
    read = read | {"chunk"} | ({"value", "spread"} if built.uses_critic else set())
    for keep in range(3):
        chunks, given, at = case(1, 3, seed=keep)
        broken = [i for i in range(3) if i != keep]
        if where == "chunk":
            chunks[0, broken, 0, 0] = bad
            at.finite[0, broken] = False
        else:
            score = given.named[where] if where in given.named else getattr(given, where)
            score[0, broken] = bad
        selection = built(chunks, given, at)
        if where in read:
            assert selection.weights[0].tolist() == [float(i == keep) for i in range(3)]
            assert selection.index.item() in (keep, -1) and selection.chunk.isfinite().all()


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("name", "options"), EVERY)
def test_a_single_candidate_is_the_answer(name, options, batch):
    chunks, given, at = case(batch, 1)
    selection = selector(name, **options)(chunks, given, at)
    assert (selection.weights == 1).all()
    if name != "climb":
        assert not selection.index.any() and selection.chunk.equal(chunks[:, 0])


@pytest.mark.parametrize(("name", "options"), [each for each in EVERY if "temperature" not in each[1]])
def test_ties_go_to_the_lowest_index(name, options):
    chunks, given, at = case(5, 4)
    chunks[:] = chunks[:, :1]  # mutation: `top` of climb left in the order of values takes candidate 2 below
    same = {key: torch.full((5, 4), 0.5) for key in ("value", "spread")}
    given = replace(given, **same, named=dict.fromkeys(given.named, same["value"]))
    for first in (0, 1):
        at.finite[:, :first] = False
        given.value[:, 2] += 1e-6 if name == "climb" else 0.0
        selection = selector(name, **options)(chunks, given, at)
        assert (selection.weights.argmax(1) == first).all()


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_a_row_without_a_usable_candidate_leaves_the_others_alone(name, options):
    chunks, given, at = case(5, 4)
    fine = selector(name, **options)(chunks, given, at)
    chunks, given, at = case(5, 4)
    chunks[2], at.finite[2] = math.nan, False
    selection = selector(name, **options)(chunks, given, at)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(selection.chunk[others], fine.chunk[others])
    assert selection.index[others].equal(fine.index[others])


def test_a_row_without_a_usable_candidate_gets_a_chunk_that_nobody_executes():
    chunks = candidates(SPEC, 2, 3, seed=0)[0]
    selection = best(chunks, torch.zeros(2, 3), torch.tensor([[False] * 3, [False, True, True]]))
    assert selection.index.tolist() == [-1, 1]
    assert selection.chunk[0].isnan().all() and selection.chunk[1].equal(chunks[1, 1])


class RiskUnknown(HomingCritic):
    def score(self, context, chunks, lengths) -> Scores:
        given = super().score(context, chunks, lengths)
        return replace(given, named={"risk": torch.full_like(given.value, torch.nan)})


def test_where_no_risk_is_known_the_robot_gets_the_plain_chunk_and_the_decision_says_so():
    # mutation: `best` returning candidate 0 there calls the decision "chosen"
    chunks = candidates(SPEC, 2, 3, seed=0)[0]
    steerer = Steerer(FixedPolicy(SPEC, chunks), RiskUnknown(SPEC), selector("lexicographic"), n=3)
    decision = steerer(observation(SPEC, 2))
    assert decision.reason == ("selector_fallback",) * 2 and not decision.index.any()
    np.testing.assert_array_equal(decision.chunk, chunks[:, 0].numpy())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("climb", {"top": 0}, "top >= 1"),
        ("climb", {"steps": 0}, "steps >= 1"),
        ("climb", {"step": math.inf}, "finite step > 0"),
        ("climb", {"temperature": -1.0}, "temperature: expected a finite number above 0"),
        ("coherent", {"decay": 0.0}, "decay: expected a number above 0"),
        ("coherent", {"top": 1.5}, "top: expected a share"),
        ("pessimistic", {"rho": math.nan}, "rho: expected a finite number"),
        ("lexicographic", {"limit": math.inf}, "limit: expected a finite risk"),
        ("blended", {"weight": 1.1}, "weight: expected 0"),
    ],
)
def test_an_option_that_means_nothing_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        selector(name, **options)


@pytest.mark.parametrize(("name", "missing"), [("lexicographic", "risk"), ("blended", "count")])
def test_a_score_that_no_critic_gives_is_asked_for_by_name(name, missing):
    chunks, given, at = candidates(SPEC, 2, 3, seed=0)
    with pytest.raises(ValueError, match=rf"named score '{missing}': expected a critic .* got \['speed'\]; put one"):
        selector(name)(chunks, replace(given, named={"speed": given.value}), at)


# Climb


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("goal", "reached"), [((0.3, -0.5), (0.3, -0.5)), ((3.0, -0.5), (1.0, -0.5))])
def test_on_a_bowl_climbing_arrives_at_the_optimum_inside_the_limits(goal, reached, batch):
    # mutation: without `clip` the second goal is reached at 3; without shrinking steps 0.3 is missed by a step
    chunks = candidates(SPEC, batch, 5, seed=0)[0]
    selection = climb(bowl(*goal), chunks, steps=100, step=0.1)
    torch.testing.assert_close(selection.chunk[:, :K], torch.tensor(reached).expand(batch, K, 2), atol=5e-3, rtol=0)
    assert (selection.index == -1).all()
    started = chunks[torch.arange(batch), selection.weights.argmax(1)]
    assert selection.chunk[:, K:].equal(started[:, K:]), "steps that are not executed have no value to climb"


def test_the_first_step_goes_straight_uphill_and_is_as_long_as_said_in_units_of_the_range():
    # mutation: leaving `* span` out of either place bends the step towards the wide dim or changes its length
    part = ActionPart("arm", 0, 2, "joint", "rad", (-50.0, -0.5), (50.0, 0.5))
    spec = Spec((part,), ("q",), ("rad",), dt=0.1, horizon=1, n_obs_steps=1)
    critic = Landscape(lambda x: (x[..., 0] / 100 + x[..., 1]).sum(2), spec, scope=1)  # both ranges rise alike
    selection = climb(critic, torch.zeros(1, 1, 1, 2), steps=1, step=0.02)
    torch.testing.assert_close(selection.chunk[0, 0], torch.tensor([2.0, 0.02]))


def test_the_critics_unit_and_offset_do_not_matter():
    # mutation: the plain gradient instead of its direction goes 1000 times as far
    chunks = candidates(SPEC, 3, 5, seed=1)[0]
    metre, millimetre = bowl(0.2, 0.1), bowl(0.2, 0.1)
    millimetre.height = lambda x: 1000 * metre.height(x) + 5
    torch.testing.assert_close(climb(metre, chunks).chunk, climb(millimetre, chunks).chunk)


def test_however_rough_the_landscape_the_arrival_is_not_below_the_start():
    # mutation: returning the last iterate instead of the best one lands lower in most rows
    rough = Landscape(lambda x: torch.sin(40 * x).sum((2, 3)))
    chunks = candidates(SPEC, 50, 4, seed=2)[0]
    selection = climb(rough, chunks, steps=5, step=0.2)
    start, arrival = rough.height(chunks[:, :, :K]).amax(1), rough.height(selection.chunk[:, None, :K])[:, 0]
    assert (arrival >= start - 1e-5).all() and (arrival > start + 0.1).any()


def test_only_the_top_candidates_climb_and_a_winner_that_stayed_is_still_a_candidate():
    hill = Landscape(lambda x: torch.where(x > 0, 0 * x + 1, x + 1.5).mean((2, 3)))  # below 0 it rises to 1.5
    chunks = torch.stack([torch.full((4, 2), -0.7), torch.full((4, 2), 0.5)])[None]  # values 0.8 and 1
    stayed = climb(hill, chunks, top=1, step=0.1)  # mutation: `top` ignored climbs the other one and wins
    assert stayed.index.item() == 1 and stayed.chunk[0].equal(chunks[0, 1])
    moved = climb(hill, chunks, top=2, step=0.1)
    assert moved.index.item() == -1 and moved.weights[0].tolist() == [1, 0]
    assert float(hill.height(moved.chunk[:, None, :K])) > 1.2


def test_a_value_that_turns_nan_on_the_way_stops_the_climb_before():
    cliff = Landscape(lambda x: torch.where((x > 0.2).any(3).any(2), torch.nan, x.sum((2, 3))))
    selection = climb(cliff, torch.zeros(1, 2, 4, 2), step=0.03)
    assert selection.chunk.isfinite().all() and 0 < float(selection.chunk.max()) <= 0.2


def test_a_start_that_the_critic_cannot_value_does_not_win_and_it_never_sees_a_non_finite_number():
    # mutation: `& value.isfinite()` or nan_to_num left out
    def height(x):
        assert x.isfinite().all()
        return torch.where((x > 0.2).any(3).any(2), torch.nan, x.sum((2, 3)))

    chunks = torch.tensor([0.5, -0.3, math.nan])[None, :, None, None].expand(1, 3, 4, 2).contiguous()
    at = replace(situation(SPEC, torch.tensor([[True, True, False]])), critic=Landscape(height))
    selection = selector("climb")(chunks, scores([[9.0, 0.0, 0.0]]), at)
    assert selection.weights[0].tolist() == [0, 1, 0] and selection.chunk.isfinite().all()


def test_arrivals_are_drawn_as_often_as_their_softmax_says():
    level = torch.tensor([0.0, 1.0, 5.0, -9.0])
    flat = Landscape(lambda x: level + 0 * x.sum((2, 3)))
    selection = climb(flat, candidates(SPEC, 2000, 4, seed=0)[0], top=4, temperature=0.5)
    z = (level - level.mean()) / level.std(correction=0)
    torch.testing.assert_close(selection.weights[0], (z / 0.5).softmax(0))
    frequency = torch.bincount(selection.index, minlength=4) / 2000  # mutation: argmax instead of a draw
    assert (frequency - selection.weights[0]).abs().max() < 0.04


def test_a_critic_that_gives_no_gradient_is_refused_with_a_way_out():
    chunks, weight = candidates(SPEC, 2, 3, seed=0)[0], torch.ones((), requires_grad=True)
    blind = Landscape(lambda x: x.detach().sum((2, 3)))
    trained = Landscape(lambda x: weight * x.detach().sum((2, 3)))  # it has a graph, but not to the chunk
    for critic in (blind, trained):
        with pytest.raises(ValueError, match="expected a critic whose value has a gradient by the chunk, got"):
            climb(critic, chunks)


def test_climbing_leaves_the_critics_own_gradients_and_the_candidates_alone():
    # mutation: `value.sum().backward()` instead of torch.autograd.grad fills weight.grad
    weight = torch.ones((), requires_grad=True)
    chunks = candidates(SPEC, 2, 3, seed=0)[0]
    before = chunks.clone()
    with torch.no_grad():  # as the Steerer calls it
        selection = climb(Landscape(lambda x: weight * x.sum((2, 3))), chunks)
    assert weight.grad is None and not selection.chunk.requires_grad and chunks.equal(before)


def test_rotations_are_still_rotations_after_the_climb():
    part = ActionPart("pose", 0, 7, "pose", "m+rad", (-1.0,) * 7, (1.0,) * 7, rotation="quaternion")
    spec = Spec((part,), ("x",), ("m",), dt=0.1, horizon=2, n_obs_steps=1)
    chunks = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0]).expand(1, 1, 2, 7).contiguous()
    goal = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.0, math.sin(0.5), math.cos(0.5)])
    critic = Landscape(lambda x: -(x - goal).square().sum((2, 3)), spec, scope=2)
    selection = climb(critic, chunks, steps=100, step=0.05)  # mutation: without to_rotations the norm is off
    torch.testing.assert_close(selection.chunk[0, :, 3:].norm(dim=1), torch.ones(2))
    torch.testing.assert_close(selection.chunk[0], goal.expand(2, 7), atol=5e-3, rtol=0)


def test_on_a_robot_that_delays_decisions_climbing_asks_about_what_will_be_executed():
    # mutation: `from_observation` left out of `_judge`: 0.2 m from the origin, which is the chunk's alone
    spec = point_spec(horizon=8)
    pending = np.array([[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [9.0, 9.0]], [[9.0, 9.0]] * 2], np.float32)
    committed = np.array([2, 1, 0])
    seen = observation(spec, 3, pending=pending, committed=committed)
    seen = replace(seen, state=np.full_like(seen.state, -0.1))
    critic = HomingCritic(spec, scope=4)
    decision = Steerer(HomingPolicy(spec), critic, selector("climb", steps=100, step=0.1), n=4)(seen)
    for row, c in enumerate(committed):
        whole = torch.from_numpy(np.concatenate([pending[row, :c], decision.chunk[row]])[:8])
        assert critic.score(critic.encode(seen.rows([row])), whole[None, None], None).value > -5e-3
        same = decision.candidates[row, :, 4 - c :] == decision.chunk[row, 4 - c :]
        assert same.all((1, 2)).any(), "what the critic does not see stays"


def test_a_dim_that_stood_still_in_the_critics_data_stays_and_the_others_climb():
    # mutation: without `* able` the second number takes the whole step
    critic = Landscape(lambda x: -((x - torch.tensor([0.3, 1e-3])) / torch.tensor([0.5, 1e-4])).square().sum((2, 3)))
    std, limit = np.array([0.5, 0.0], np.float32), np.ones(2, np.float32)
    critic.statistics = {"action": Statistics(0 * limit, std, -limit, limit, 9)}
    chunks = torch.zeros(1, 1, 4, 2)
    first = climb(critic, chunks, steps=1, step=0.02).chunk[0, :K]
    torch.testing.assert_close(first, torch.tensor([0.04, 0.0]).expand(K, 2))  # of the range 2: rms of what moves
    arrived = climb(critic, chunks, steps=100, step=0.05).chunk[0, :K]
    torch.testing.assert_close(arrived, torch.tensor([0.3, 0.0]).expand(K, 2), atol=5e-3, rtol=0)


# Coherent


def remembering(previous: torch.Tensor, n: int, spec: Spec = SPEC) -> Situation:
    return replace(situation(spec, torch.ones(len(previous), n, dtype=torch.bool)), previous=previous)


@pytest.mark.parametrize("decay", [0.3, 1.0])
def test_coherent_is_the_nearest_to_the_last_decision_by_brute_force(decay):
    # mutation: `decay * arange` instead of `decay ** arange`; the distance over all dims and steps at once
    chunks, given, at = case(40, 5, seed=3)
    selection = selector("coherent", decay=decay)(chunks, given, at)
    for row in range(40):
        total = [0.0] * 5
        for i, step in enumerate(at.previous[row].tolist()):
            if not math.isnan(step[0]):
                for c in range(5):
                    total[c] += decay**i * math.dist(chunks[row, c, i].tolist(), step)
        assert selection.index[row] == np.argmin(total)


def test_without_a_last_decision_coherent_is_the_plain_policy_whatever_the_values_say():
    chunks, given, at = case(3, 4)
    for options in ({}, {"top": 0.25}):
        first = selector("coherent", **options)(chunks, given, replace(at, previous=None))
        assert not first.index.any()
        begun = selector("coherent", **options)(chunks, given, at)  # case: robot 1 has no last decision
        assert begun.index[1] == 0  # mutation: without `| ~known.any` the best by value is taken there


def test_coherence_weighs_early_steps_more_and_dims_by_their_range():
    part = ActionPart("arm", 0, 2, "joint", "rad", (-50.0, -0.5), (50.0, 0.5))
    spec = Spec((part,), ("q",), ("rad",), dt=0.1, horizon=2, n_obs_steps=1)
    early, late = torch.tensor([[10.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.15]])  # 0.1, then 0.15
    at = remembering(torch.zeros(1, 2, 2), 2, spec)
    chunks = torch.stack([late, early])[None]
    assert selector("coherent", decay=0.5)(chunks, scores([[0.0, 0.0]]), at).index.item() == 0  # 0.075 < 0.1
    assert selector("coherent", decay=1.0)(chunks, scores([[0.0, 0.0]]), at).index.item() == 1  # 0.1 < 0.15


def test_coherence_knows_that_q_and_minus_q_are_one_rotation():
    part = ActionPart("pose", 0, 4, "pose", "rad", (-1.0,) * 4, (1.0,) * 4, rotation="quaternion")
    spec = Spec((part,), ("x",), ("rad",), dt=0.1, horizon=1, n_obs_steps=1)
    q = torch.tensor([0.0, 0.0, math.sin(0.3), math.cos(0.3)])
    other = torch.tensor([0.0, 0.0, math.sin(0.6), math.cos(0.6)])
    chunks = torch.stack([other, -q])[None, :, None]
    at = remembering(q[None, None], 2, spec)
    assert selector("coherent")(chunks, scores([[0.0, 0.0]]), at).index.item() == 1


def test_with_top_coherence_decides_among_the_best_by_value_only():
    previous = torch.zeros(1, 4, 2)
    distance = torch.tensor([0.0, 0.1, 0.2, 0.3])  # candidate 0 is the most coherent
    chunks = distance[None, :, None, None].expand(1, 4, 4, 2).contiguous()
    value = [[1.0, 2.0, 4.0, 3.0]]
    for top, expected in ((0.0, 0), (0.25, 2), (0.5, 2), (0.6, 1), (1.0, 0)):  # 0.6 of 4 is 3 candidates
        built = selector("coherent", top=top)
        assert built.uses_critic == (top > 0)
        assert built(chunks, scores(value), remembering(previous, 4)).index.item() == expected


def test_a_share_of_the_candidates_is_rounded_up_and_never_by_floating_point():
    # mutation: without `- 1e-9` a share of 0.07 keeps 8 of 100
    for n in (1, 7, 32, 100):
        for percent in range(1, 101):
            kept = best_share(torch.arange(float(n))[None], torch.ones(1, n, dtype=torch.bool), percent / 100)
            count = -(-percent * n // 100)
            assert int(kept.sum()) == count and kept[0, n - count :].all()


def test_coherence_without_top_does_not_ask_what_the_critic_says():
    # mutation: `scored` instead of situation.finite
    chunks, given, at = case(5, 4, seed=2)
    silent = replace(given, value=given.value * math.nan, scored=torch.zeros_like(given.scored))
    built = selector("coherent")
    assert built(chunks, silent, at).index.equal(built(chunks, given, at).index)


# Pessimistic, lexicographic, blended


def test_pessimistic_is_value_minus_rho_spread():
    # mutation: `+` instead of `-` takes candidate 1 at rho 1
    value, spread = [[1.0, 2.0, 1.9]], [[0.0, 1.5, 0.5]]
    chunks = candidates(SPEC, 1, 3, seed=0)[0]
    for rho, expected in ((0.0, 1), (0.4, 2), (1.0, 2), (2.0, 0)):
        at = situation(SPEC, torch.ones(1, 3, dtype=torch.bool))
        assert selector("pessimistic", rho=rho)(chunks, scores(value, spread), at).index.item() == expected


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=6), st.integers(-2, 2))
@settings(max_examples=100, deadline=None)
def test_lexicographic_is_safety_first_by_brute_force(pairs, limit):
    # mutation: `<` instead of `<=`; value where nothing is feasible; -value in place of -risk
    value, risk = zip(*pairs, strict=True)
    chunks, n = torch.zeros(1, len(pairs), 4, 2), len(pairs)
    feasible = [i for i in range(n) if risk[i] <= limit]
    expected = max(feasible, key=lambda i: (value[i], -i)) if feasible else min(range(n), key=lambda i: (risk[i], i))
    at = situation(SPEC, torch.ones(1, n, dtype=torch.bool))
    selection = selector("lexicographic", limit=float(limit))(chunks, scores([value], risk=[risk]), at)
    assert selection.index.item() == expected


def test_each_robot_has_its_own_feasible_candidates():
    given = scores([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], risk=[[-1.0, -1.0], [-1.0, 1.0], [3.0, 1.0]])
    chunks, at = torch.zeros(3, 2, 4, 2), situation(SPEC, torch.ones(3, 2, dtype=torch.bool))
    assert selector("lexicographic")(chunks, given, at).index.tolist() == [1, 0, 1]


def test_blended_goes_from_value_alone_to_the_other_score_alone():
    value, prior = [[3.0, 2.0, 0.0, math.nan]], [[-50.0, 0.0, 10.0, 1e6]]  # the last does not compete
    chunks, at = torch.zeros(1, 4, 4, 2), situation(SPEC, torch.ones(1, 4, dtype=torch.bool))
    picked = [
        selector("blended", score="prior", weight=weight)(chunks, scores(value, prior=prior), at).index.item()
        for weight in (0.0, 0.5, 1.0)
    ]
    assert picked == [0, 1, 2]  # mutation: raw scores instead of z-scores take candidate 2 already at one half


@given(st.floats(0.01, 1000), st.floats(-1000, 1000), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_neither_scores_unit_or_offset_changes_a_blend(scale, offset, seed):
    chunks, given, at = case(3, 5, seed)
    moved = replace(given, named={"count": scale * given.named["count"].double() + offset})
    again = replace(given, value=scale * given.value.double() + offset)
    built = selector("blended")
    expected = built(chunks, given, at).index
    assert built(chunks, moved, at).index.equal(expected) and built(chunks, again, at).index.equal(expected)


def test_zscores_have_mean_zero_and_deviation_one_over_the_usable_candidates_only():
    value = torch.tensor([[1.0, 2.0, 6.0, 1e9], [4.0, 4.0, 4.0, math.nan]])
    z = zscore(value, torch.tensor([[True, True, True, False]] * 2))
    assert float(z[0, :3].mean()) == pytest.approx(0) and float(z[0, :3].std(correction=0)) == pytest.approx(1)
    assert z[0, 3] == 0 and not z[1].any()
