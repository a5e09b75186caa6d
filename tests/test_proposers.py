"""Proposers: the contract all of them keep, and for each the chunks that its page promises."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import TOLERANCE
from fakes import FixedPolicy, HomingCritic, HomingPolicy, observation, point_spec
from learning_fakes import spec as learning_spec
from learning_fakes import statistics
from recorded import make_episode, make_spec, memory_cache

from robot_value import actions, checkpoint, components, flags
from robot_value.episodes.store import EpisodeStore
from robot_value.flow import interpolate
from robot_value.policies import flow
from robot_value.steering.proposal import Request, propose
from robot_value.steering.proposers import (
    actor,
    gaussian,
    mixture,
    partial,
    primitives,
    retrieval,
    samples,
    seeds,
    tail,
    temperature,
)
from robot_value.steering.steerer import Steerer
from robot_value.types import ActionPart, Features, Scores, SpecMismatch

SPEC = point_spec(horizon=4)
NAMES = components.names("proposers")


@dataclass
class NoiseJudge(HomingCritic):
    """A critic that also judges noise, by its first number; at a flow time by that time."""

    def score_noise(self, context, noise, time=None) -> Scores:
        value = noise[:, :, 0, 0] if time is None else time + 1e-3 * noise[:, :, 0, 0]
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))


@cache
def flow_policy(seed=0):
    return flow.Config(width=16, depth=1, sample_steps=5, seed=seed).build(SPEC, statistics(SPEC)).eval()


def recorded(count=6, state_dim=2):
    """Episodes of a robot that takes SPEC's actions."""
    rng = np.random.default_rng(0)
    data = SPEC.choose(horizon=0, n_obs_steps=0)
    return [
        make_episode(data, steps=5 + i, seed=i, states=rng.normal(size=(6 + i, state_dim)).astype(np.float32), task="")
        for i in range(count)
    ]


def build(name):
    """Each proposer with small parts; the two that need files get what the files hold."""
    if name == "actor":
        return actor.Actor(HomingPolicy(SPEC, scale=0.1), share=0.5)
    if name == "retrieval":
        return retrieval.Retrieval(memory_cache(recorded()), retrieval.Config(data="memory", neighbours=2))
    return components.load("proposers", name).Config().build()


def request(n=6, batch=3, policy=None, critic=None, seen=None, **changes) -> Request:
    policy = policy or flow_policy()
    seen = observation(policy.spec, batch) if seen is None else seen
    critic = critic or NoiseJudge(policy.spec, scope=2)
    made = Request(
        policy=policy,
        context=policy.encode(seen),
        observation=seen,
        n=n,
        seed=0,
        device=torch.device("cpu"),
        execute=2,
        critic=critic,
        critic_context=critic.encode(seen),
        previous=torch.linspace(-0.5, 0.5, seen.batch_size * 8).view(-1, 4, 2),
    )
    return replace(made, **changes)


def late(batch=3):
    """Robots that will execute 0, 1 and 2 more pending actions."""
    pending = np.random.default_rng(7).uniform(-0.9, 0.9, (batch, 3, 2)).astype(np.float32)
    return observation(SPEC, batch, pending=pending, committed=np.arange(batch) % 3)


def same(a, b, tolerance=TOLERANCE):
    return torch.allclose(a, b, atol=tolerance, rtol=0, equal_nan=True)


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


# Retrieval -----------------------------------------------------------------------------------------------------------


def nearest(episodes, state, k):
    """Brute force: per episode its nearest step, then the k nearest episodes."""
    everything = np.concatenate([e.states for e in episodes])
    scale = everything.std(0)
    found = []
    for number, e in enumerate(episodes):
        apart = np.linalg.norm((e.states[: len(e)] - state) / scale, axis=1)
        found.append((apart.min(), number, int(apart.argmin())))
    return sorted(found)[:k]


def test_retrieved_chunks_are_those_recorded_at_the_nearest_states_as_long_as_their_episode_went_on():
    # mutation: unnormalized distances, chunks from step + 1, lengths H everywhere
    episodes = recorded()
    for e in episodes:
        e.states[:, 1] *= 50  # one dim in another unit
    proposer = retrieval.Retrieval(memory_cache(episodes), retrieval.Config("memory", neighbours=3))
    seen = observation(SPEC, 8)
    seen.state[:, -1, 1] *= 50
    chunks, lengths = proposer(request(seen=seen))
    for row in range(8):
        for slot, (_, number, step) in enumerate(nearest(episodes, seen.state[row, -1], 3), start=1):
            e = episodes[number]
            left = min(4, len(e) - step)
            assert lengths[row, slot] == left
            np.testing.assert_array_equal(chunks[row, slot, :left], e.actions[step : step + left])
            np.testing.assert_array_equal(chunks[row, slot, left:], np.repeat(e.actions[-1:], 4 - left, 0))
    assert lengths.unique().numel() > 1


def test_retrieval_keeps_to_the_robots_task_and_to_episodes_that_ended_well():
    # mutation: _same_task all True, or success_only not handed on
    tasks = ("open", "close", "close", "open", "close", "close")
    episodes = [
        replace(e, task=task, success=i != 2) for i, (e, task) in enumerate(zip(recorded(), tasks, strict=True))
    ]
    proposer = retrieval.Retrieval(memory_cache(episodes), retrieval.Config("memory", neighbours=4))
    seen = observation(SPEC, 3, task=("open", "close", "dance"))
    chunks, _ = proposer(request(n=5, seen=seen))
    sources = [{number for number, e in enumerate(episodes) if recorded_in(e, c)} for c in chunks[:, 1:].flatten(0, 1)]
    assert [set().union(*sources[i : i + 4]) for i in (0, 4)] == [{0, 3}, {1, 4, 5}]
    assert len(set().union(*sources[8:])) == 4 and not any(2 in each for each in sources)
    finite = chunks[:, 1:].isfinite().flatten(2).all(2)
    assert finite.sum(1).tolist() == [2, 3, 4]  # with no episode left, the candidate is refused


def recorded_in(episode, chunk):
    return bool((episode.actions == chunk[0].numpy()).all(1).any())


def test_retrieval_reads_a_store_and_refuses_another_robots(tmp_path):
    with EpisodeStore.create(tmp_path / "ours", SPEC) as store:
        for e in recorded(3):
            store.append(e)
    built = retrieval.Config(data=str(tmp_path / "ours")).build()
    memory = retrieval.Retrieval(memory_cache(recorded(3)), retrieval.Config("memory"))
    assert same(built(request())[0], memory(request())[0])
    with EpisodeStore.create(tmp_path / "theirs", make_spec()) as store:
        store.append(make_episode(make_spec()))
    with pytest.raises(SpecMismatch, match="the recorded data does not match"):
        retrieval.Config(data=str(tmp_path / "theirs")).build()(request())


# Primitives ----------------------------------------------------------------------------------------------------------

POSE = ActionPart(
    "arm", 0, 6, "pose", "m+rad", (-1,) * 6, (1,) * 6, reference="previous", rotation="axis_angle", frame="base"
)
JOINTS = ActionPart("arm", 0, 2, "joint", "rad", (-3, -3), (3, 3))
GRIP = ActionPart("gripper", 2, 3, "gripper", "1", (-1,), (1,))


def arm_spec(*parts):
    return replace(learning_spec(horizon=4), parts=parts)


def moved(spec, past, seen=None):
    """(stop, retract) of one robot that was told `past` [h, A] of late."""
    known = torch.full((1, 4, spec.action_dim), torch.nan)
    known[0, 4 - len(past) :] = torch.as_tensor(past, dtype=torch.float32).view(len(past), spec.action_dim)
    policy = FixedPolicy(spec, torch.zeros(1, 1, 4, spec.action_dim))
    asked = request(n=3, batch=1, policy=policy, previous=None, past=known, seen=seen)
    chunks, lengths = primitives.Config().build()(asked)
    assert (lengths == 4).all()
    return chunks[0, 1], chunks[0, 2]


def test_retract_undoes_relative_poses_exactly_and_stop_stays_where_it_is():
    # mutation: -back -> back, or oldest first
    spec = arm_spec(POSE, replace(GRIP, start=6, stop=7))
    past = np.random.default_rng(0).uniform(-0.9, 0.9, (3, 7)).astype(np.float32)
    stop, retract = moved(spec, past)
    absolute = arm_spec(replace(POSE, reference="absolute"), spec.parts[1])
    start = np.zeros(7)
    there_and_back = actions.convert(np.concatenate([past, retract.numpy()]), spec, absolute, previous=start)
    np.testing.assert_allclose(there_and_back[5, :6], 0, atol=1e-6)  # after 3 steps there and 3 back
    np.testing.assert_allclose(there_and_back[3, :6], there_and_back[1, :6], atol=1e-6)
    assert not retract[3, :6].any() and not stop[:, :6].any()
    assert (stop[:, 6] == past[-1, 6]).all() and (retract[:, 6] == past[-1, 6]).all()


def test_absolute_targets_are_held_by_stop_and_walked_back_by_retract():
    # mutation: step from 0, so that retract begins with the present target
    past = [[0.1, 1.0, -1.0], [0.2, 2.0, -1.0], [0.3, 2.5, 1.0]]
    stop, retract = moved(arm_spec(JOINTS, GRIP), past)
    torch.testing.assert_close(stop, torch.tensor(past[-1:]).expand(4, 3))
    torch.testing.assert_close(retract[:, :2], torch.tensor([[0.2, 2.0], [0.1, 1.0], [0.1, 1.0], [0.1, 1.0]]))
    assert (retract[:, 2] == 1.0).all()


def test_primitives_that_need_what_nobody_told_yet_are_refused():
    # mutation: nan_to_num in stop
    stop, retract = moved(arm_spec(JOINTS, GRIP), [])
    assert stop.isnan().any() and retract.isnan().any()
    velocity = replace(JOINTS, unit="rad/s")
    stop, retract = moved(arm_spec(velocity), [])
    assert not stop.any() and retract.isnan().all()


def test_primitives_begin_after_the_committed_actions_and_count_them_as_told():
    # mutation: told without `pending`
    spec = arm_spec(JOINTS, GRIP)
    pending = np.array([[[0.5, 0.5, 0.0], [0.6, 0.6, 1.0], [9, 9, 9]]], np.float32)
    seen = observation(spec, 1, pending=pending, committed=np.array([2]))
    stop, retract = moved(spec, [[0.4, 0.4, 0.0]], seen)
    first = torch.tensor([0.5, 0.6])
    torch.testing.assert_close(stop[:, 0], torch.cat([first, torch.tensor([0.6, 0.6])]))
    torch.testing.assert_close(retract[:, 0], torch.cat([first, torch.tensor([0.5, 0.4])]))
    assert (stop[2:, 2] == 1).all() and (retract[2:, 2] == 1).all()


def test_stop_is_the_identity_of_every_rotation_and_retract_refuses_what_it_cannot_negate():
    quaternion = ActionPart(
        "arm", 0, 7, "pose", "m+rad", (-1,) * 7, (1,) * 7, reference="current", rotation="quaternion"
    )
    spec = arm_spec(quaternion)
    back = torch.zeros(1, 4, 7)
    assert primitives.stop(quaternion, back)[0, 0].tolist() == [0, 0, 0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match=r"retract: expected parts whose steps are undone .* use which=\[stop\]"):
        primitives.retract(quaternion, back)
    tool = replace(POSE, frame="tool")
    with pytest.raises(ValueError, match="got 'arm' with reference 'previous', rotation 'axis_angle' in frame 'tool'"):
        primitives.retract(tool, torch.zeros(1, 4, 6))
    asked = request(n=3, batch=1, policy=FixedPolicy(spec, torch.zeros(1, 2, 4, 7)), previous=None)
    assert primitives.Config(which=("stop",)).build()(asked)[0][0, 1, :, 6].tolist() == [1] * 4
    with pytest.raises(ValueError, match="expected which among stop, retract, got"):
        primitives.Config(which=("jump",)).build()


# Tail ----------------------------------------------------------------------------------------------------------------


def test_the_tail_is_the_rest_of_the_last_plan_as_far_as_it_goes_and_the_others_are_samples():
    # mutation: lengths H, the tail in slot 0, or known steps counted past a gap (no cumprod)
    previous = torch.rand(3, 4, 2)
    previous[0, 2:], previous[1], previous[2, 1] = torch.nan, torch.nan, torch.nan
    asked = request(previous=previous)
    chunks, lengths = tail.Config().build()(asked)
    assert chunks[0, 1].equal(previous[0, [0, 1, 1, 1]]) and chunks[2, 1].equal(previous[2, [0] * 4])
    assert chunks[1, 1].isnan().all() and lengths[:, 1].tolist() == [2, 1, 1]  # up to the first gap
    sampled, _ = samples.Config().build()(asked)
    assert same(chunks[:, [0, 2, 3, 4, 5]], sampled[:, [0, 2, 3, 4, 5]])


def test_a_tail_that_ends_within_the_committed_actions_says_nothing_new():
    # mutation: known > 0 instead of known > committed
    previous = torch.full((3, 4, 2), torch.nan)
    previous[:, 0] = 0.5
    chunks, _ = tail.Config().build()(request(seen=late(), previous=previous))
    assert chunks[:, 1].isfinite().flatten(1).all(1).tolist() == [True, False, False]


# Mixture -------------------------------------------------------------------------------------------------------------


def test_a_mixture_gives_every_part_its_share_and_has_one_plain_candidate():
    # mutation: each part asked with first=0
    asked = request(n=8)
    mixed = mixture.Config(("samples", "tail", "temperature:low=0:high=0"), (4, 2, 2)).build()
    chunks, lengths = mixed(asked)
    sampled, _ = samples.Config().build()(asked)
    assert same(chunks[:, [0, 1, 2, 3, 5]], sampled[:, [0, 1, 2, 3, 5]])
    assert chunks[:, 4].equal(asked.previous)
    assert same(chunks[:, 6], chunks[:, 7])  # no noise, no difference
    assert lengths.shape == (3, 8) and not mixed.uses_critic and mixture.Config(("seeds",)).build().uses_critic


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_shares_always_add_up_to_n_and_the_first_part_comes_first(n):
    asked = request(n=n)
    chunks, _ = mixture.Config(("tail", "samples", "gaussian")).build()(asked)
    assert chunks.shape[1] == n
    assert same(chunks[:, :1], samples.Config().build()(replace(asked, n=1))[0])


def test_a_mixture_is_written_on_the_command_line():
    @dataclass(frozen=True)
    class Command:
        proposer: object = None

    choices = {"proposer": flags.Choice("proposers", "samples")}
    argv = ["--proposer.type=mixture", "--proposer.parts=[samples, temperature:high=1.2]", "--proposer.shares=3,1"]
    config = flags.parse(Command, argv, choices).values.proposer
    assert config == mixture.Config(("samples", "temperature:high=1.2"), (3.0, 1.0))
    assert config.build().parts[1].config == temperature.Config(high=1.2)


def test_a_mixture_names_the_option_or_part_it_does_not_know():
    with pytest.raises(flags.FlagError, match="no flag called 'hihg'; did you mean 'high'"):
        mixture.Config(("temperature:hihg=2",)).build()
    with pytest.raises(components.UnknownComponent, match="did you mean 'samples'"):
        mixture.Config(("sample",)).build()
    with pytest.raises(ValueError, match="expected a share above 0 for each part"):
        mixture.Config(("samples", "tail"), (1.0,)).build()


# Partial -------------------------------------------------------------------------------------------------------------


def euler_estimates(policy, context, noise):
    """[steps, B, M, H, A]: the clean chunk in sight at t = 0, 1/5, ..., 4/5, by hand."""
    x, seen, m = noise.flatten(0, 1), [], noise.shape[1]
    condition = policy.head.condition(context.value).repeat_interleave(m, 0)
    for i in range(5):
        t = i / 5
        v = policy.head(x, torch.full((1,), t), condition)
        seen.append(policy.actions.unnormalize(x + (1 - t) * v).view_as(noise))
        x = x + v / 5
    return torch.stack(seen)


@torch.no_grad()
def test_every_candidate_stops_at_the_first_step_at_or_after_its_own_flow_time():
    # mutation: keep = times >= t, or the newest estimate for all
    asked = request(batch=2)
    times = torch.tensor([0.0, 0.2, 0.3, 0.8, 1.0])
    noise = asked.noise(5, "partial")
    stopped = partial.stop_at(asked, noise, times)
    estimates = euler_estimates(asked.policy, asked.context, noise)
    for i, step in enumerate([0, 1, 2, 4, 4]):
        assert same(stopped[:, i], estimates[step][:, i])


@torch.no_grad()
@pytest.mark.parametrize("judge", partial.JUDGES)
def test_the_best_judged_of_the_pool_are_finished_from_their_own_times(judge):
    # mutation: finish from one time for all, or the pool's first n kept
    asked = request(n=4, batch=2)
    chunks, lengths = partial.Config(pool=3, low=0.2, high=0.8, judge=judge).build()(asked)
    times, noise = 0.2 + torch.arange(9) / 9 * 0.6, asked.noise(9, "partial")
    estimate = partial.stop_at(asked, noise, times)
    if judge == "noisy":
        kept = torch.tensor([[8, 7, 6]] * 2)  # NoiseJudge likes late times
    else:
        clipped = estimate.clamp(-1, 1)
        kept = asked.critic.score(asked.critic_context, clipped, None).value.argsort(1, descending=True)[:, :3]
    rows = torch.arange(2)[:, None]
    expected = asked.policy.finish(asked.context, estimate[rows, kept], times[kept], noise[rows, kept])
    assert same(chunks[:, 1:], expected) and (lengths == 4).all()


def test_a_noisy_judge_sees_the_policys_own_noisy_chunk_at_its_time():
    # mutation: estimate not normalized, or (1 - t) and t exchanged
    seen = []

    class Listener(NoiseJudge):
        def score_noise(self, context, noise, time=None):
            seen.append((noise, time))
            return super().score_noise(context, noise, time)

    asked = request(n=3, batch=1, critic=Listener(SPEC, 2))
    partial.Config(pool=2, low=0.5, high=0.9, judge="noisy").build()(asked)
    times, noise = 0.5 + torch.arange(4) / 4 * 0.4, asked.noise(4, "partial")
    data = asked.policy.actions.normalize(partial.stop_at(asked, noise, times))
    expected = interpolate(noise.flatten(0, 1), data.flatten(0, 1), times)
    torch.testing.assert_close(seen[0][0].flatten(0, 1), expected)
    torch.testing.assert_close(seen[0][1], times[None])


def test_stopped_at_the_end_a_candidate_is_a_sample_and_finished_from_the_start_too():
    # mutation: finish without the candidate's own noise
    asked = request(n=3)
    plain, _ = asked.sample(asked.noise(2, "partial"))
    ended = partial.Config(pool=1, low=1.0, high=1.0, finish=False).build()
    begun = partial.Config(pool=1, low=0.0, high=0.0).build()
    for proposer in (ended, begun):
        assert not proposer.uses_critic
        assert same(propose(proposer, asked).chunks[:, 1:], plain)


def test_partial_refuses_a_guide_and_times_outside_the_flow():
    with pytest.raises(ValueError, match="proposer partial: expected no guide, got object"):
        partial.Config().build()(request(guide=object()))
    with pytest.raises(ValueError, match="expected pool >= 1 and 0 <= low <= high <= 1"):
        partial.Config(low=0.9, high=0.5).build()
    with pytest.raises(ValueError, match="judge: expected one of estimate, noisy, got 'best'"):
        partial.Config(judge="best").build()
