"""Proposers that bring candidates from elsewhere, or put others together: retrieval to partial denoising."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fakes import FixedPolicy, observation
from learning_fakes import spec as learning_spec
from learning_fakes import statistics
from proposer_fakes import SPEC, NoiseJudge, late, recorded, request, same
from recorded import make_episode, make_spec, memory_cache

from robot_value import actions, components, flags
from robot_value.critics import hume
from robot_value.critics.seeds import denoise
from robot_value.episodes.store import EpisodeStore
from robot_value.flow import interpolate
from robot_value.normalize import Normalizer
from robot_value.policies import flow
from robot_value.sampling import to_tensors
from robot_value.steering.panel import Panel
from robot_value.steering.proposal import propose
from robot_value.steering.proposers import (
    mixture,
    partial,
    primitives,
    retrieval,
    samples,
    tail,
    temperature,
)
from robot_value.types import ActionPart, SpecMismatch

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


@pytest.mark.parametrize("wrap", [lambda critic: critic, lambda critic: Panel(critic, {})], ids=["alone", "panel"])
def test_a_noisy_judge_sees_the_noisy_chunk_in_its_own_units_at_its_time(wrap):
    # mutation: estimate not normalized, or in the policy's units; (1 - t) and t exchanged
    seen = []

    class Listener(NoiseJudge):
        actions = Normalizer.of(statistics(SPEC), "action", "min_max")

        def score_noise(self, context, noise, time=None):
            seen.append((noise, time))
            return super().score_noise(context, noise, time)

    asked = request(n=3, batch=1, critic=wrap(Listener(SPEC, 2)))
    partial.Config(pool=2, low=0.5, high=0.9, judge="noisy").build()(asked)
    times, noise = 0.5 + torch.arange(4) / 4 * 0.4, asked.noise(4, "partial")
    data = Listener.actions.normalize(partial.stop_at(asked, noise, times).clamp(-1, 1))
    expected = interpolate(noise.flatten(0, 1), data.flatten(0, 1), times)
    torch.testing.assert_close(seen[0][0].flatten(0, 1), expected)
    torch.testing.assert_close(seen[0][1], times[None])


@torch.no_grad()
def test_hume_is_shown_the_same_noisy_chunks_in_use_as_in_training(monkeypatch):
    # mutation: the policy's units in one of the two, or unclipped chunks
    policy = flow.Config(width=16, depth=1, sample_steps=5, normalization="min_max").build(SPEC, statistics(SPEC))
    critic = hume.Config(scope=2, width=8, heads=2, hidden=(8,)).build(SPEC, statistics(SPEC)).eval()
    critic.attach(policy)
    asked, shown = request(n=3, policy=policy.eval(), critic=critic), []
    critic.q.register_forward_pre_hook(lambda _, given: shown.append(given[1]))
    monkeypatch.setattr(hume, "uniform", lambda shape, *_: torch.full(shape, 0.8))
    seeds, observed = asked.noise(4, "partial"), to_tensors(asked.observation, asked.device)
    hume.noisy(critic, critic.features(observed), seeds, denoise(critic, observed, seeds), None)
    partial.Config(pool=2, low=0.8, high=0.8, judge="noisy").build()(asked)  # at the last step x^ is the chunk
    torch.testing.assert_close(shown[0], shown[-1])


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
