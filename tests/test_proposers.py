"""Proposers: the contract all of them keep, and those that change or choose what the policy samples."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FixedPolicy, HomingCritic, HomingPolicy, observation, point_spec
from learning_fakes import spec as learning_spec
from proposer_fakes import SPEC, build, flow_policy, late, request, same

from robot_value import checkpoint, components
from robot_value.steering.proposal import propose
from robot_value.steering.proposers import (
    actor,
    gaussian,
    mixture,
    samples,
    seeds,
    temperature,
)
from robot_value.steering.steerer import Steerer
from robot_value.types import ActionPart, Features, SpecMismatch

NAMES = components.names("proposers")


# The contract --------------------------------------------------------------------------------------------------------

every = pytest.mark.parametrize("name", NAMES)


@every
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 6])
def test_exactly_n_candidates_come_and_candidate_0_is_the_plain_policys(name, batch, n):
    # mutation: open_slots starting at 0, or scale[number == 0] left alone
    asked = request(n, batch)
    chunks, lengths = build(name)(asked)
    assert chunks.shape == (batch, n, 4, 2) and chunks.dtype == torch.float32 and not chunks.requires_grad
    assert lengths.shape == (batch, n) and lengths.dtype == torch.int64
    assert ((lengths >= 1) & (lengths <= 4)).all()
    plain, _ = samples.Config().build()(replace(asked, n=1))
    assert same(chunks[:, :1], plain)
    assert propose(build(name), asked).finite[:, 0].all()


@every
def test_candidate_0_is_bit_equal_where_the_policys_arithmetic_does_not_depend_on_the_batchs_shape(name):
    if name == "partial":
        with pytest.raises(ValueError, match="expected a flow policy, got HomingPolicy without finish"):
            build(name)(request(policy=HomingPolicy(SPEC)))
        return
    asked = request(policy=HomingPolicy(SPEC))
    assert build(name)(asked)[0][:, 0].equal(samples.Config().build()(asked)[0][:, 0])


@every
def test_the_same_decision_gets_the_same_candidates_and_another_one_others(name):
    asked, proposer = request(), build(name)
    chunks, lengths = proposer(asked)
    again, lengths_again = build(name)(asked)
    assert torch.equal(chunks.nan_to_num(9.0), again.nan_to_num(9.0)) and lengths.equal(lengths_again)
    seen = asked.observation
    for other in (replace(seen, step=seen.step + 1), replace(seen, episode=seen.episode + 1)):
        assert not same(proposer(replace(asked, observation=other))[0], chunks)
    assert not same(proposer(replace(asked, seed=1))[0], chunks)


@every
def test_a_robots_candidates_do_not_depend_on_the_other_robots(name):
    # mutation: gaussian's fit over dim (0, 1)
    asked = request()
    whole, alone = build(name)(asked), build(name)(asked.rows(np.array([False, True, False])))
    assert same(whole[0][1:2], alone[0]) and whole[1][1:2].equal(alone[1])


@every
def test_candidates_begin_with_what_the_robot_is_committed_to(name):
    # mutation: no with_committed in partial, retrieval or primitives
    asked = request(seen=late(), past=torch.full((3, 4, 2), 0.25))
    chunks, _ = build(name)(asked)
    pending = torch.from_numpy(asked.observation.pending)
    for row, count in enumerate(asked.observation.committed):
        known = chunks[row].isfinite().flatten(1).all(1)
        assert chunks[row, known, :count].equal(pending[row, :count].expand(int(known.sum()), -1, -1))


@every
def test_a_part_of_a_mixture_has_no_plain_candidate_and_repeats_nobodys_noise(name):
    # mutation: open_slots = range(1, n) whatever `first` is
    asked = request(n=4)
    sampled, _ = samples.Config().build()(asked)
    rest = build(name)(replace(asked, first=4, n=3))[0].nan_to_num(9.0)
    assert rest.shape == (3, 3, 4, 2)
    assert all((rest[:, [i]] - sampled).abs().amax((2, 3)).min() > 1e-3 for i in range(3))


@pytest.mark.parametrize("name", [name for name in NAMES if build(name).anytime])
def test_candidates_of_an_anytime_proposer_do_not_depend_on_the_blocks_they_are_asked_in(name):
    # mutation: temperatures by linspace(low, high, n)
    asked, proposer = request(n=6), build(name)
    blocks = [proposer(replace(asked, first=first, n=n))[0] for first, n in ((0, 2), (2, 4))]
    assert same(torch.cat(blocks, 1), proposer(asked)[0])


def test_the_steerer_tells_proposers_what_was_decided_before_and_after_the_observation():
    # mutation: past recalled from the observation's own step, or previous from the new decision's start
    steerer = Steerer(HomingPolicy(SPEC), n=5, execute=2, proposer=mixture.Config(("tail", "primitives")).build())
    seen = observation(SPEC, 2)
    told = steerer(seen).chunk
    after = steerer(replace(seen, step=seen.step + 2)).candidates
    np.testing.assert_array_equal(after[:, 1], told[:, [2, 3, 3, 3]])
    np.testing.assert_array_equal(after[:, 3], np.zeros_like(told))
    np.testing.assert_array_equal(after[:, 4, :2], -told[:, [1, 0]])
    assert not after[:, 4, 2:].any()


# Temperature ---------------------------------------------------------------------------------------------------------


def test_temperatures_scale_the_noise_spread_evenly_and_spare_the_plain_policy():
    # mutation: scale applied to the chunk, or candidate 0 scaled
    asked = request(n=64, batch=1, policy=HomingPolicy(SPEC, scale=1.0))
    mean = -torch.from_numpy(asked.observation.state[:, -1])[:, None, None]
    chunks, _ = temperature.Config(low=0.5, high=2.0).build()(asked)
    scale = ((chunks - mean) / asked.noise()).flatten(2).median(2).values[0].double()  # [64]
    assert scale[0] == pytest.approx(1.0, abs=1e-5)
    ordered = scale[1:].sort().values
    assert ordered[0] >= 0.5 and ordered[-1] <= 2.0
    assert ordered.diff().max() < 2.5 * 1.5 / 64  # no gap wider than 2.5 even ones


# Gaussian ------------------------------------------------------------------------------------------------------------


def test_gaussian_proposals_have_the_samples_mean_and_deviation_and_ask_the_policy_m_times():
    # mutation: sqrt left out, or deviation of m - 1
    policy = HomingPolicy(SPEC)
    asked = request(n=4001, batch=2, policy=policy)
    chunks, _ = gaussian.Config(samples=6).build()(asked)
    assert policy.calls[-1] == "sample 2 x 6, prefix 0"
    gaussian.Config(samples=6).build()(replace(asked, n=1))
    assert policy.calls[-1] == "sample 2 x 1, prefix 0"
    drawn, sampled = chunks[:, 1:], policy.sample(asked.context, 6, asked.noise(6))[0]
    deviation = sampled.std(1, correction=0)
    assert same(drawn.mean(1), sampled.mean(1), 5 * 0.3 / 4000**0.5)
    assert torch.allclose(drawn.std(1), deviation, rtol=0.06)


def test_a_gripper_takes_the_majority_vote_and_a_refused_sample_has_no_part_in_the_fit():
    # mutation: nanmedian -> nanmean, or `finite` all True
    spec = learning_spec(horizon=2)
    votes = torch.tensor([0.0, 8.0, 8.0, 0.0, 8.0])
    sampled = torch.stack([torch.tensor([-0.1, 0.1, 0.0, 0.0, 0.0]), votes], 1)[None, :, None].repeat(1, 1, 2, 1)
    broken = torch.full_like(sampled[:, :1], torch.inf)
    policy = FixedPolicy(spec, torch.cat([sampled, broken], 1), torch.tensor([[2, 2, 2, 2, 2, 1]]))
    chunks, lengths = gaussian.Config(samples=6).build()(request(n=9, batch=1, policy=policy))
    assert (chunks[:, 1:, :, 1] == 8.0).all() and (lengths == 2).all()
    mean, deviation = gaussian.fit(policy.chunks, spec)
    torch.testing.assert_close(mean[0, 0, :, 0], torch.zeros(2))
    torch.testing.assert_close(deviation[0, 0, :, 0], torch.full((2,), (0.02 / 5) ** 0.5))


def test_gaussian_proposals_of_rotations_are_rotations_whatever_the_samples_signs():
    # mutation: no align_signs, or no to_rotations
    halves = torch.tensor([[0.0, 0.0, 0.6, 0.8], [0.0, 0.6, 0.0, 0.8]])
    turn = ActionPart("turn", 0, 4, "rotation", "1", (-1,) * 4, (1,) * 4, rotation="quaternion")
    spec = replace(learning_spec(horizon=1), parts=(turn,))
    policy = FixedPolicy(spec, torch.cat([halves, -halves])[None, :, None])
    chunks, _ = gaussian.Config(samples=4).build()(request(n=9, batch=1, policy=policy))
    torch.testing.assert_close(chunks[0, 1:, 0].norm(dim=1), torch.ones(8))
    assert (chunks[0, 1:, 0] @ halves.sum(0) > 0.5).all()  # all on the samples' half sphere, none in between


# Seeds ---------------------------------------------------------------------------------------------------------------


def test_only_the_best_judged_seeds_of_the_pool_are_denoised():
    # mutation: `best` without descending, or all the pool sampled
    policy = HomingPolicy(SPEC, scale=1.0)
    asked = request(n=4, policy=policy)
    chunks, _ = seeds.Config(pool=5).build()(asked)
    assert policy.calls[-1] == "sample 3 x 4, prefix 0"
    pool = asked.noise(15, "pool")
    for row in range(3):
        winners = pool[row, pool[row, :, 0, 0].argsort(descending=True)[:3]]
        torch.testing.assert_close(chunks[row, 1:], winners - asked.context.value[row])


def test_seeds_need_a_critic_that_judges_noise():
    with pytest.raises(ValueError, match="expected a critic of noise, got HomingCritic without score_noise; train"):
        seeds.Config().build()(request(critic=HomingCritic(SPEC, 2)))


# Actor ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(0.5, [1, 3, 5]), (1.0, [1, 2, 3, 4, 5]), (0.1, [1])])
def test_an_actor_takes_its_share_in_turn_and_encodes_the_observation_once(share, expected):
    # mutation: context of the steered policy handed to the actor
    class Fleeing(HomingPolicy):
        def encode(self, observation):
            return Features(-super().encode(observation).value)

    other = Fleeing(SPEC, scale=0.0)
    asked = request(policy=HomingPolicy(SPEC, scale=1.0))
    chunks, _ = actor.Actor(other, share)(asked)
    fleeing = torch.from_numpy(asked.observation.state[:, -1])[:, None, None].expand(-1, 1, 4, 2)
    assert [i for i in range(6) if same(chunks[:, [i]], fleeing)] == expected
    assert other.calls == ["encode", f"sample 3 x {len(expected)}, prefix 0"]


def test_an_actor_of_another_robot_is_refused():
    other = actor.Actor(HomingPolicy(point_spec(horizon=8)), 0.5)
    with pytest.raises(SpecMismatch, match="the actor does not match: horizon: expected 4, got 8"):
        other(request())


def test_an_actor_comes_from_its_checkpoint(tmp_path):
    policy = flow_policy(seed=3)
    save(policy, tmp_path)
    built = actor.Config(checkpoint=str(tmp_path), share=1.0).build()
    asked = request()
    expected, _ = replace(asked, policy=policy, context=policy.encode(asked.observation)).sample(
        asked.noise(5, "actor")
    )
    assert same(built(asked)[0][:, 1:], expected) and built.version.startswith("actor flow ")
    with pytest.raises(ValueError, match="expected checkpoint=FOLDER of a policy, got none"):
        actor.Config().build()


def save(policy, folder: Path) -> None:
    checkpoint.save(
        folder / "step_1",
        kind="policies",
        name="flow",
        config=asdict(policy.config),
        spec=policy.spec,
        tensors=policy.state_dict(),
        statistics=policy.statistics,
    )
