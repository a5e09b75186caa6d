"""The Steerer: candidate 0 is the plain policy, non-finite never wins, slow robots are spliced, mismatches refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import learning_fakes
import numpy as np
import pytest
import torch
from contracts import TOLERANCE
from fakes import FixedCritic, FixedPolicy, HomingCritic, HomingPolicy, observation, point_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value import components, randomness
from robot_value.steering.followers import plain
from robot_value.steering.steerer import NoFiniteChunk, Steerer
from robot_value.types import Scores, Selection, SpecMismatch

SPEC = point_spec(horizon=4)
SELECTORS = components.names("selectors")
BAD = (math.nan, math.inf, -math.inf)


def selector(name: str):
    return components.load("selectors", name).Config().build()


def chunks(batch: int = 2, n: int = 3, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(-0.9, 0.9, (batch, n, SPEC.horizon, 2)).astype(np.float32))


def steered(proposed, value, name="argmax", spread=None, scored=None, gate=None):
    """One decision among fixed candidates with fixed scores, and the critic that gave them."""
    critic = FixedCritic(SPEC, 2, torch.as_tensor(value, dtype=torch.float32), spread, scored)
    built = Steerer(FixedPolicy(SPEC, proposed), critic, selector(name), gate, n=proposed.shape[1])
    return built(observation(SPEC, len(proposed))), critic


# The plain policy is candidate 0 -------------------------------------------------------------------------------------


def test_the_plain_policy_is_exactly_candidate_0_whatever_n_is():
    policy = HomingPolicy()
    seen = observation(policy.spec, 4)
    alone, many = Steerer(policy, seed=3)(seen), Steerer(policy, seed=3, n=16)(seen)
    np.testing.assert_array_equal(alone.candidates[:, 0], many.candidates[:, 0])
    np.testing.assert_array_equal(alone.chunk, many.chunk)  # selector `first` by default
    assert alone.reason == many.reason == ("base",) * 4
    assert np.ptp(many.candidates, axis=1).mean() > 0.5


def test_noise_is_keyed_bit_for_bit_by_seed_episode_step_and_candidate():
    seen = observation(SPEC, 3)
    few = randomness.normal(0, seen.episode, seen.step, (2, 4, 2))
    many = randomness.normal(0, seen.episode[1:], seen.step[1:], (16, 4, 2))
    np.testing.assert_array_equal(few[1:], many[:, :2])
    policy = HomingPolicy(SPEC)
    base = Steerer(policy)(seen).chunk
    assert not np.allclose(Steerer(policy, seed=1)(seen).chunk, base)
    assert not np.allclose(Steerer(policy)(replace(seen, episode=seen.episode + 1)).chunk, base)
    assert not np.allclose(Steerer(policy)(replace(seen, step=seen.step + 1)).chunk, base)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_robots_decision_does_not_depend_on_the_other_robots_or_on_what_was_decided_before(name):
    seen = observation(point_spec(), 4)
    steerer = Steerer(HomingPolicy(), HomingCritic(), selector(name), n=8)
    whole, again = steerer(seen), steerer(seen)
    np.testing.assert_array_equal(whole.chunk, again.chunk)
    for row in range(4):
        alone = steerer(seen.rows([row]))
        np.testing.assert_allclose(alone.chunk[0], whole.chunk[row], atol=TOLERANCE)
        assert alone.index[0] == whole.index[row]


def test_the_observation_is_encoded_once_and_all_candidates_are_one_batch():
    policy = HomingPolicy()
    Steerer(policy, n=32)(observation(policy.spec, 3))
    assert policy.calls == ["encode", "sample 3 x 32, prefix 0"]


# Non-finite never wins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["candidate", "value", "spread", "unscored"])
def test_a_broken_candidate_or_score_is_never_selected_nor_averaged_in(name, bad, where):
    # mutation: Situation(finite=all True) in the Steerer, or `scored` without spread.isfinite()
    for keep in range(3):
        broken = [i for i in range(3) if i != keep]
        proposed, value, spread = chunks(), torch.randn(2, 3), torch.zeros(2, 3)
        scored = torch.ones(2, 3, dtype=torch.bool)
        if where == "candidate":
            proposed[:, broken, 2, 1] = bad
        elif where == "unscored":
            scored[:, broken] = False
        else:
            {"value": value, "spread": spread}[where][:, broken] = bad
        decision, _ = steered(proposed, value, name, spread, scored)
        assert np.isfinite(decision.chunk).all()
        if where == "candidate" or selector(name).uses_critic:
            np.testing.assert_allclose(decision.chunk, proposed[:, keep], atol=1e-6)
            assert set(decision.index) <= {keep, -1} and "selector_fallback" not in decision.reason


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["value", "spread", "unscored"])
def test_where_no_score_is_finite_candidate_0_is_executed_with_its_reason(name, bad, where):
    # mutation: `usable = proposal.finite` for critic selectors in the Steerer
    proposed = chunks()
    value, spread, scored = torch.randn(2, 3), torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    if where == "unscored":
        scored[0] = False
    else:
        {"value": value, "spread": spread}[where][0] = bad  # robot 0 only
    decision, _ = steered(proposed, value, name, spread, scored)
    if selector(name).uses_critic:
        assert decision.reason == ("critic_fallback", "chosen") and decision.index[0] == 0
        np.testing.assert_array_equal(decision.chunk[0], proposed[0, 0])
    else:
        assert decision.reason == (("base",) if name == "first" else ("chosen",)) * 2


@pytest.mark.parametrize("name", SELECTORS)
def test_where_candidate_0_and_all_scores_are_broken_the_first_finite_candidate_is_executed(name):
    proposed = chunks()
    proposed[:, 0] = math.nan
    decision, _ = steered(proposed, torch.full((2, 3), math.nan), name)
    assert np.isfinite(decision.chunk).all()
    if selector(name).uses_critic:
        assert decision.reason == ("critic_fallback",) * 2 and decision.index.tolist() == [1, 1]
    if name == "first":
        assert decision.reason == ("policy_fallback",) * 2 and decision.index.tolist() == [1, 1]


@settings(max_examples=150)
@given(data=st.data(), name=st.sampled_from(SELECTORS))
def test_no_pattern_of_nan_and_infinity_reaches_a_robot(data, name):
    # mutation: clip() alone instead of refusing (clamp keeps NaN and turns an infinity into a full-scale command)
    numbers = st.sampled_from([0.5, -0.25, *BAD])
    proposed, value = chunks(1, 3), torch.tensor([[data.draw(numbers) for _ in range(3)]])
    spread = torch.tensor([[data.draw(st.sampled_from([0.1, *BAD])) for _ in range(3)]])
    poison = [data.draw(numbers) for _ in range(3)]
    proposed[0, :, 1, 0] = torch.tensor(poison)
    finite = np.isfinite(poison)
    if not finite.any():
        with pytest.raises(NoFiniteChunk):
            steered(proposed, value, name, spread)
        return
    decision, _ = steered(proposed, value, name, spread)
    usable = finite & np.isfinite(value.numpy()[0]) & np.isfinite(spread.numpy()[0])
    allowed = usable if selector(name).uses_critic and usable.any() else finite
    assert np.isfinite(decision.chunk).all() and np.abs(decision.chunk).max() <= 1
    index, low, high = decision.index[0], proposed[0, allowed].amin(0), proposed[0, allowed].amax(0)
    assert allowed[index] if index >= 0 else True
    assert (decision.chunk[0] >= low.numpy() - 1e-6).all() and (decision.chunk[0] <= high.numpy() + 1e-6).all()


def test_a_critic_never_sees_a_non_finite_number_and_its_word_on_a_refused_candidate_is_not_kept():
    proposed = chunks()
    proposed[:, 1, 0, 0] = math.inf
    decision, critic = steered(proposed, [[1.0, 9.0, 0.0]] * 2)
    assert critic.seen[0].isfinite().all()
    assert np.isnan(decision.value[:, 1]).all() and np.isnan(decision.candidates[:, 1]).all()
    assert decision.value[:, [0, 2]].tolist() == [[1.0, 0.0]] * 2


def test_a_robot_without_any_finite_chunk_stops_everything_unless_it_is_done_already():
    proposed = chunks()
    proposed[1] = math.nan
    steerer = Steerer(FixedPolicy(SPEC, proposed), n=3)
    seen = observation(SPEC, 2, step=np.array([5, 7]))
    with pytest.raises(NoFiniteChunk, match=r"robots \[1\] at step \[7\]: expected a finite chunk among 3 candidates"):
        steerer(seen)
    decision = steerer(seen, np.array([True, False]))
    assert np.isfinite(decision.chunk).all() and decision.reason[0] == "base"


@pytest.mark.parametrize("answer", ["refused candidate", "nan chunk"])
def test_a_selector_that_breaks_its_contract_is_overruled(answer):
    class Broken:
        uses_critic = False

        def __call__(self, chunks, scores, situation):
            index = torch.tensor([1, 1] if answer == "refused candidate" else [-1, -1])
            return Selection(index, torch.full_like(chunks[:, 0], math.nan), torch.ones(2, 3))

    proposed = chunks()
    proposed[:, 1] = math.nan
    decision = Steerer(FixedPolicy(SPEC, proposed), selector=Broken(), n=3)(observation(SPEC, 2))
    assert decision.reason == ("selector_fallback",) * 2
    np.testing.assert_array_equal(decision.chunk, proposed[:, 0])


# Limits, gates, lengths ----------------------------------------------------------------------------------------------


def test_chunks_are_clipped_to_the_limits_before_the_critic_scores_them():
    proposed = chunks() * 5
    decision, critic = steered(proposed, [[0.0, 1.0, 0.0]] * 2)
    torch.testing.assert_close(critic.seen[0], proposed.clamp(-1, 1))
    np.testing.assert_array_equal(decision.chunk, proposed[:, 1].clamp(-1, 1))


def test_a_new_chunk_outside_the_limits_is_clipped_too():
    class Bold:
        uses_critic = False

        def __call__(self, chunks, scores, situation):
            return Selection(torch.full((2,), -1), chunks[:, 0] * 100, torch.ones(2, 3) / 3)

    decision = Steerer(FixedPolicy(SPEC, chunks()), selector=Bold(), n=3)(observation(SPEC, 2))
    assert np.abs(decision.chunk).max() == 1 and decision.index.tolist() == [-1, -1]


def test_a_gate_decides_per_robot_and_names_its_reason():
    def only_robot_1(chunks, scores, selection, situation):
        return np.array([False, True]), "abstained"

    proposed = chunks()
    decision, _ = steered(proposed, [[0.0, 1.0, 0.0]] * 2, gate=only_robot_1)
    assert decision.reason == ("abstained", "chosen") and decision.index.tolist() == [0, 1]
    np.testing.assert_array_equal(decision.chunk, np.stack([proposed[0, 0], proposed[1, 1]]))


def test_no_more_steps_are_executed_than_the_chosen_chunk_has():
    lengths = torch.tensor([[4, 3, 1], [4, 2, 4]])
    policy = FixedPolicy(SPEC, chunks(), lengths)
    seen, critic = observation(SPEC, 2), FixedCritic(SPEC, 3, torch.tensor([[0.0, 1.0, 0.0]] * 2))
    assert Steerer(policy, n=3, execute=3)(seen).execute.tolist() == [3, 3]
    assert Steerer(policy, critic, selector("argmax"), n=3)(seen).execute.tolist() == [3, 2]
    assert Steerer(policy, selector=selector("mean"), n=3, execute=3)(seen).execute.tolist() == [1, 2]


# Robots that delay decisions -----------------------------------------------------------------------------------------


def test_a_decision_begins_after_the_committed_steps_and_the_critic_scores_from_the_observation_on():
    # mutation: passing the shifted chunks to the critic, or leaving `+ committed` out of start_step
    pending = np.array([[[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]] * 2, np.float32)
    seen = observation(SPEC, 2, step=np.array([6, 9]), pending=pending, committed=np.array([1, 2]))
    proposed = chunks()
    critic = FixedCritic(SPEC, 3, torch.tensor([[0.0, 1.0, 0.0]] * 2))
    rows = RowWise(SPEC, proposed)
    decision = Steerer(rows, critic, selector("argmax"), n=3)(seen)
    assert decision.start_step.tolist() == [7, 11]
    assert decision.execute.tolist() == [3, 2]  # what is left of 4 steps
    for row, committed in enumerate([1, 2]):
        begun = np.broadcast_to(pending[row, :committed], (3, committed, 2))
        np.testing.assert_array_equal(critic.seen[0][row, :, :committed], begun)
        np.testing.assert_array_equal(critic.seen[0][row, :, committed:], proposed[row, :, committed:])
        left = SPEC.horizon - committed
        np.testing.assert_array_equal(decision.chunk[row, :left], proposed[row, 1, committed:])
        np.testing.assert_array_equal(decision.candidates[row, 1], decision.chunk[row])
    assert [prefix.shape[1] for prefix in rows.prefixes] == [1, 2]  # one call per distinct delay, the right rows in it
    np.testing.assert_array_equal(rows.prefixes[1][0], pending[1, :2])


class RowWise(FixedPolicy):
    """Finds its rows by the noise's key, ignores the prefix, and remembers which it was given."""

    def sample(self, context, n, noise, prefix=None, guide=None):
        self.prefixes = [*getattr(self, "prefixes", []), prefix]
        row = slice(None) if len(noise) == 2 else slice(prefix.shape[1] - 1, prefix.shape[1])
        return self.chunks[row].clone(), torch.full((len(noise), n), self.spec.horizon)


def test_robots_with_different_delays_get_what_each_would_get_alone():
    policy = HomingPolicy(SPEC)
    pending = np.full((3, 3, 2), 0.5, np.float32)
    seen = observation(SPEC, 3, pending=pending, committed=np.array([2, 0, 1]))
    steerer = Steerer(policy, HomingCritic(SPEC, 3), selector("argmax"), n=8)
    whole = steerer(seen)
    for row in range(3):
        alone = steerer(seen.rows([row]))
        np.testing.assert_allclose(alone.chunk[0], whole.chunk[row], atol=TOLERANCE)
        assert alone.execute[0] == whole.execute[row] and alone.start_step[0] == whole.start_step[row]


def test_a_robot_that_has_committed_to_more_than_a_chunk_is_refused():
    seen = observation(SPEC, 1, pending=np.zeros((1, 4, 2), np.float32), committed=np.array([4]))
    with pytest.raises(ValueError, match=r"committed: expected fewer steps than a chunk has \(4\), got 4"):
        Steerer(HomingPolicy(SPEC))(seen)


def test_the_previous_chunk_is_lined_up_with_the_new_steps_and_forgotten_with_its_episode():
    seen_by_selector = []

    class Curious:
        uses_critic = False

        def __call__(self, chunks, scores, situation):
            seen_by_selector.append(situation.previous)
            return selector("first")(chunks, scores, situation)

    steerer = Steerer(HomingPolicy(SPEC), selector=Curious(), execute=3)
    start = observation(SPEC, 2)
    first = steerer(start)
    steerer(replace(start, step=start.step + 3, episode=np.array([100, 7])))  # robot 1 has begun another episode
    steerer.reset([0])
    steerer(replace(start, step=start.step + 4, episode=np.array([100, 7])))
    before, later, reset = seen_by_selector
    assert before is None
    np.testing.assert_array_equal(later[0, 0], first.chunk[0, 3])
    assert later[0, 1:].isnan().all() and later[1].isnan().all()
    assert reset[0].isnan().all() and reset[1, :3].isfinite().all()
    steerer.reset()
    steerer(start)
    assert seen_by_selector[-1] is None


# Refusals, bookkeeping, new weights ----------------------------------------------------------------------------------


def test_a_critic_whose_scope_is_not_what_will_be_executed_is_refused():
    critic = HomingCritic(SPEC, 4)
    with pytest.raises(ValueError, match=r"critic scope: expected the 2 steps that will be executed, got 4"):
        Steerer(HomingPolicy(SPEC), critic, execute=2)
    assert Steerer(HomingPolicy(SPEC), critic).execute == 4
    assert Steerer(HomingPolicy(SPEC)).execute == SPEC.horizon


def test_parts_that_disagree_on_what_numbers_mean_are_refused_with_field_expected_and_got():
    wider = point_spec(horizon=4, limit=2.0)
    with pytest.raises(SpecMismatch, match=r"the critic does not match: velocity.high: expected .*1.0.*, got .*2.0"):
        Steerer(HomingPolicy(SPEC), HomingCritic(wider))
    with pytest.raises(SpecMismatch, match=r"the robot does not match: dt: expected 0.1, got 0.05"):
        Steerer(HomingPolicy(SPEC)).check(SPEC.choose(dt=0.05))
    with pytest.raises(ValueError, match=r"state: expected float32\[3, 2, 2\], got float32\[3, 1, 2\]"):
        Steerer(HomingPolicy(SPEC))(observation(SPEC.choose(n_obs_steps=1)))


def test_settings_that_cannot_work_are_refused_at_once():
    with pytest.raises(ValueError, match="selector Argmax chooses by score: expected a critic, got none"):
        Steerer(HomingPolicy(SPEC), selector=selector("argmax"), n=4)
    for options in ({"n": 0}, {"execute": 5}, {"execute": 0}):
        with pytest.raises(ValueError, match="expected n >= 1 and 1 <= execute <= 4"):
            Steerer(HomingPolicy(SPEC), **options)


def test_a_critic_is_asked_wherever_one_is_given_so_that_any_arm_can_be_logged():
    decision, _ = steered(chunks(), [[1.0, 2.0, 3.0]] * 2, "first")
    assert decision.value.tolist() == [[1.0, 2.0, 3.0]] * 2
    without = Steerer(FixedPolicy(SPEC, chunks()), n=3)(observation(SPEC, 2))
    assert np.isnan(without.value).all() and np.isnan(without.spread).all()


def test_seconds_are_booked_per_stage_on_the_clock_that_was_passed_in():
    ticks = itertools.count()
    decision = Steerer(HomingPolicy(SPEC), clock=lambda: float(next(ticks)))(observation(SPEC))
    assert decision.seconds == {"encode": 1.0, "sample": 1.0, "score": 1.0, "select": 1.0}
    assert decision.versions == {"policy": "HomingPolicy", "selector": "First", "gate": "Always", "proposer": "Samples"}


def test_loaded_weights_enter_at_an_episodes_boundary(monkeypatch, tmp_path):
    import robot_value.training as training

    old, new = FixedCritic(SPEC, 2, torch.zeros(1, 3)), FixedCritic(SPEC, 2, torch.ones(1, 3))
    new.version = "iql-0123abcd"
    monkeypatch.setattr(
        training, "load_model", lambda folder, device: {"new": new, "policy": HomingPolicy()}[folder.name]
    )
    steerer = Steerer(FixedPolicy(SPEC, chunks(1)), old, selector("argmax"), n=3)
    steerer.load(tmp_path / "new")
    assert not steerer(observation(SPEC, 1)).value.any()  # mutation: swapping at once
    steerer.reset([0])
    assert not steerer(observation(SPEC, 1)).value.any()
    steerer.reset()
    decision = steerer(observation(SPEC, 1))
    assert decision.value.all() and decision.versions["critic"] == "iql-0123abcd"
    with pytest.raises(ValueError, match=r"expected a critic, got HomingPolicy without score\(\)"):
        steerer.load(tmp_path / "policy")


def test_the_plain_follower_indexes_and_refuses_to_guess_beyond_the_chunk():
    follower, seen = plain.Config().build(), observation(SPEC, 2)
    decision = Steerer(HomingPolicy(SPEC))(seen)
    np.testing.assert_array_equal(
        follower.action(seen, decision, np.array([0, 3])), np.stack([decision.chunk[0, 0], decision.chunk[1, 3]])
    )
    for offset in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match="offset: expected 0 to 3 in a chunk of 4 steps"):
            follower.action(seen, decision, np.array(offset))


def test_scores_keep_their_extra_names():
    class Named(HomingCritic):
        def score(self, context, chunks, lengths):
            scores = super().score(context, chunks, lengths)
            return Scores(scores.value, scores.spread, scores.scored, {"feasible": scores.value > -1})

    class Reader:
        uses_critic = True

        def __call__(self, chunks, scores, situation):
            self.named = scores.named
            return selector("argmax")(chunks, scores, situation)

    reader = Reader()
    Steerer(HomingPolicy(SPEC), Named(SPEC, 2), reader, n=3)(observation(SPEC))
    assert reader.named["feasible"].shape == (3, 3)


# Packed arithmetic ---------------------------------------------------------------------------------------------------


def test_a_packed_steerer_decides_as_the_plain_one_and_packs_a_critic_that_enters_later():
    # mutation: the old critic left packed; packing that outlives the decision
    spec = learning_fakes.spec()
    known = learning_fakes.statistics(spec)
    policy = components.load("policies", "flow").Config(width=32, depth=2).build(spec, known).eval()
    build = components.load("critics", "iql").Config
    critic, other = (build(hidden=(32, 32), seed=seed).build(spec, known).eval() for seed in (0, 1))
    plain, packed = (
        Steerer(policy, critic, selector("argmax"), n=8, precision=precision) for precision in ("off", "float32")
    )
    seen = observation(policy.spec, 3)
    a, b = plain(seen), packed(seen)
    np.testing.assert_allclose(a.candidates, b.candidates, atol=1e-5)
    np.testing.assert_array_equal(a.index, b.index)
    assert all("forward" not in vars(module) for module in policy.modules())
    packed._next_critic = other
    packed.reset()
    expected = Steerer(policy, other, selector("argmax"), n=8)(seen).value
    np.testing.assert_allclose(packed(seen).value, expected, atol=1e-4)
    assert np.abs(expected - a.value).max() > 1e-3
