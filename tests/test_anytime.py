"""A deadline per decision: what is scored in time competes; several critics as one; hands off candidate 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FixedCritic, FixedPolicy, HomingCritic, HomingPolicy, observation, point_spec

from robot_value import components
from robot_value.steering.panel import Panel
from robot_value.steering.proposal import Request, propose
from robot_value.steering.proposers.samples import Samples
from robot_value.steering.steerer import Steerer
from robot_value.types import Steering

ARGMAX = components.load("selectors", "argmax").Config().build()
SPEC = point_spec(horizon=4)


class Clock:
    """Time passes only while candidates are scored: `per_candidate` s each."""

    def __init__(self, per_candidate: float) -> None:
        self.now, self.per_candidate = 0.0, per_candidate

    def __call__(self) -> float:
        return self.now


class Slow(HomingCritic):
    def __init__(self, clock: Clock, spec) -> None:
        super().__init__(spec)
        self.clock, self.blocks = clock, []

    def score(self, context, chunks, lengths=None):
        self.clock.now += self.clock.per_candidate * chunks.shape[1]
        self.blocks.append(chunks.shape[1])
        return super().score(context, chunks, lengths)


def anytime(deadline: float, n: int = 16, per_candidate: float = 1.0):
    clock = Clock(per_candidate)
    policy = HomingPolicy(SPEC)
    critic = Slow(clock, SPEC)
    return Steerer(policy, critic, ARGMAX, n=n, clock=clock, deadline=deadline), critic


@pytest.mark.parametrize(
    ("deadline", "scored"), [(0.5, 2), (2.0, 2), (4.0, 4), (7.9, 4), (8.0, 8), (16.0, 16), (99.0, 16)]
)
def test_blocks_are_begun_as_long_as_they_are_expected_to_fit(deadline, scored):
    # mutation: the first block dropped when late; a block begun that cannot end in time
    steerer, critic = anytime(deadline)
    decision = steerer(observation(SPEC, 3))
    assert sum(critic.blocks) == scored
    assert np.isfinite(decision.value).sum(1).tolist() == [scored] * 3
    assert decision.candidates.shape[1] == 16 and np.isnan(decision.candidates[:, scored:]).all()
    assert set(decision.reason) == {"chosen" if scored == 16 else "anytime"}


def test_what_was_scored_in_time_is_decided_as_with_that_n():
    # mutation: blocks drawn from the beginning of the noise again
    late, _ = anytime(8.0)
    on_time, _ = anytime(99.0, n=8)
    seen = observation(SPEC, 3)
    a, b = late(seen), on_time(seen)
    np.testing.assert_array_equal(a.candidates[:, :8], b.candidates)
    np.testing.assert_array_equal(a.index, b.index)
    np.testing.assert_array_equal(a.chunk, b.chunk)


def test_the_seconds_of_all_blocks_count():
    # mutation: seconds[stage] = the last block's
    steerer, _ = anytime(99.0)
    assert steerer(observation(SPEC, 1)).seconds["score"] == pytest.approx(16.0)


def test_an_impossible_deadline_is_refused():
    with pytest.raises(ValueError, match=r"expected a time above 0 s, got 0"):
        anytime(0)

    class Whole(Samples):
        anytime = False

    with pytest.raises(ValueError, match="proposer Whole sees all candidates at once"):
        Steerer(HomingPolicy(SPEC), proposer=Whole(), deadline=1.0)


def test_a_panel_scores_as_its_main_critic_and_names_the_others():
    # mutation: value of another member; `scored` of the main one only
    chunks = torch.zeros(2, 3, 4, 2)
    unscored = torch.tensor([[True, False, True]] * 2)
    main = FixedCritic(SPEC, 2, torch.arange(6.0).view(2, 3))
    risk = FixedCritic(SPEC, 2, -torch.arange(6.0).view(2, 3), None, unscored)
    panel = Panel(main, {"risk": risk})
    scores = panel.score(panel.encode(observation(SPEC, 2)), chunks, torch.full((2, 3), 4))
    assert scores.value.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert scores.named["risk"].tolist() == [[0, -1, -2], [-3, -4, -5]]
    assert scores.scored.tolist() == unscored.tolist()


def test_a_panel_refuses_critics_that_judge_other_steps():
    main, other = FixedCritic(SPEC, 2, torch.zeros(1, 1)), FixedCritic(SPEC, 3, torch.zeros(1, 1))
    with pytest.raises(ValueError, match="critic for 'risk': expected scope 2 as the main critic's, got 3"):
        Panel(main, {"risk": other})


class Meddling:
    """Moves, prunes and replaces everything it can."""

    uses_critic = False

    def begin(self, request: Request):
        def steer(x_hat, t):
            ones = torch.ones_like(x_hat)
            drop = torch.zeros(x_hat.shape[:2], dtype=torch.bool)
            return Steering(
                gradient=ones, displacement=ones, keep=drop, resample=torch.ones_like(drop, dtype=torch.int64)
            )

        return steer


def test_no_guide_touches_candidate_0():
    # mutation: UNTOUCHED without one of its parts; spare_first on every candidate
    seen = {}

    class Probe(FixedPolicy):
        def sample(self, context, n, noise, prefix=None, guide=None):
            seen["steering"] = guide(noise, 0.0)
            return super().sample(context, n, noise, prefix)

    policy = Probe(SPEC, torch.zeros(2, 3, 4, 2))
    Steerer(policy, n=3, guide=Meddling())(observation(SPEC, 2))
    steering = seen["steering"]
    for name, first, rest in (("gradient", 0, 1), ("displacement", 0, 1), ("keep", 1, 0), ("resample", 0, 1)):
        part = getattr(steering, name)
        assert (part[:, 0] == first).all() and (part[:, 1:] == rest).all()


@pytest.mark.parametrize("guide", [None, Meddling()])
def test_exact_decisions_have_the_plain_policys_chunk_to_the_bit_whatever_n_is(guide):
    # mutation: the first row of the large batch kept; the guide's call for candidate 0
    class Rounding(FixedPolicy):
        """A large batch is computed in another order, and a guided one in yet another."""

        def sample(self, context, n, noise, prefix=None, guide=None):
            chunks = noise * (1 + 1e-6 * (n > 1) + 1e-6 * (guide is not None))
            return chunks, torch.full(noise.shape[:2], noise.shape[2])

    policy, seen = Rounding(SPEC, torch.zeros(2, 1, 4, 2)), observation(SPEC, 2)
    alone = Steerer(policy)(seen).chunk
    exact, usual = (Steerer(policy, n=5, guide=guide, exact=exact)(seen) for exact in (True, False))
    np.testing.assert_array_equal(exact.candidates[:, 0], alone[:])
    assert (usual.candidates[:, 0] != alone).any()
    np.testing.assert_array_equal(exact.candidates[:, 1:], usual.candidates[:, 1:])


def test_a_part_that_knows_what_it_was_made_for_is_asked_before_anything_moves():
    # mutation: check never called; called with another critic
    class Picky:
        def check(self, steerer, critic):
            raise ValueError(f"made for another critic than {type(critic).__name__}")

    with pytest.raises(ValueError, match="made for another critic than HomingCritic"):
        Steerer(HomingPolicy(SPEC), HomingCritic(SPEC), gate=Picky())


def test_parts_with_a_memory_are_told_when_episodes_begin():
    # mutation: reset of the memory only
    told = []

    class Remembering(Samples):
        def reset(self, rows):
            told.append(rows)

    steerer = Steerer(HomingPolicy(SPEC), proposer=Remembering())
    steerer.reset()
    steerer.reset([1])
    assert told == [None, [1]]


def test_a_proposer_with_the_wrong_number_of_candidates_is_refused():
    class Short(Samples):
        def __call__(self, request):
            return tuple(part[:, :1] for part in super().__call__(request))

    policy = HomingPolicy(SPEC)
    with pytest.raises(
        ValueError, match=r"proposer: expected chunks \[B, N, H, A\] = \[2, 3, 4, 2\], got \[2, 1, 4, 2\]"
    ):
        Steerer(policy, n=3, proposer=Short())(observation(SPEC, 2))


def test_noise_streams_differ_and_blocks_continue_the_same_stream():
    policy, seen = HomingPolicy(SPEC), observation(SPEC, 2)
    request = Request(policy, policy.encode(seen), seen, 6, 0, torch.device("cpu"), 4)
    whole, other = request.noise(), request.noise(stream="edit")
    assert not torch.equal(whole, other)
    assert torch.equal(replace(request, first=2, n=4).noise(), whole[:, 2:])
    assert torch.equal(propose(Samples(), request).chunks, request.sample(whole)[0].clamp(-1, 1))
