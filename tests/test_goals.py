"""Relabelled goals against a walk along the episode, their values in closed form, and how a goal reaches a critic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import check_critic
from fakes import observation
from hypothesis import example, given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, random_batch, spec, statistics
from recorded import make_episode, make_spec, memory_cache

from robot_value.critics import iql
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.goals import NEVER, GoalConfig, choose_goals, goal_return_statistics, label
from robot_value.networks.observation import EncoderConfig
from robot_value.policies import flow
from robot_value.sampling import ChunkSampler, bootstrap, returns, to_tensors
from robot_value.training import TrainConfig, load_model
from robot_value.types import Episode, Features

SEES_GOALS = EncoderConfig(goal=True, image_features=8, image_channels=(16, 16), text_features=4)
SMALL = iql.Config(members=1, hidden=(32, 32), encoder=SEES_GOALS)


# What a window is worth ----------------------------------------------------------------------------------------------


def walked(config: GoalConfig, gamma: float, distance: int, left: int) -> tuple[list[float], int | None]:
    """Rewards of the steps until the goal or the episode's end, and the step that terminates: one step at a time."""
    if distance == 0:
        return [1.0 if config.reward == "success" else 0.0], 0
    rewards = []
    for step in range(left):
        arrives = step + 1 == distance
        rewards.append(gamma * arrives if config.reward == "success" else -1.0)
        if arrives:
            return rewards, step
    return rewards, None


@settings(max_examples=60, deadline=None)
@given(
    distance=st.one_of(st.integers(0, 12), st.just(NEVER)),
    spare=st.integers(0, 5),
    length=st.integers(1, 9),
    gamma=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    reward=st.sampled_from(["success", "cost"]),
)
@example(distance=NEVER, spare=0, length=4, gamma=1.0, reward="success")
@example(distance=NEVER, spare=0, length=4, gamma=1.0, reward="cost")
def test_labels_equal_a_walk_along_the_episode(distance, spare, length, gamma, reward):
    # mutation: rewards where(distance == 0, gamma, gamma); `step == distance` terminates; mc_return of goals behind
    config = GoalConfig(reward=reward)
    left = max(1, spare + (distance if distance < NEVER else 3))
    labels = label(config, gamma, length, torch.tensor([distance]), torch.tensor([left]))
    rewards, end = walked(config, gamma, distance, left)
    padded = (rewards + [0.0] * length)[:length]
    assert labels.rewards[0].tolist() == pytest.approx(padded)
    assert labels.terminated[0].tolist() == [step == end for step in range(length)]
    assert labels.mc_return.item() == pytest.approx(sum(gamma**i * r for i, r in enumerate(rewards)), rel=1e-5)
    assert labels.success.item() == (distance < NEVER)


def value(reward: str, gamma: float, distance: int) -> float:
    return gamma**distance if reward == "success" else -(1 - gamma**distance) / (1 - gamma)


def located(states: torch.Tensor, episodes: list[Episode]) -> list[tuple[int, int]]:
    """(episode, frame) of every state [B, 1, S]; random states are all different."""
    known = {e.states[t].tobytes(): (i, t) for i, e in enumerate(episodes) for t in range(len(e.states))}
    return [known[row.numpy().tobytes()] for row in states[:, -1]]


@pytest.mark.parametrize("reward", ["success", "cost"])
@pytest.mark.parametrize("final", [True, False])
def test_every_target_of_a_recorded_window_is_the_value_in_closed_form(reward, final):
    # mutation: leave recorded terminations in (endless=False); goal frame looked up by step instead of by frame
    gamma, offsets = 0.9, (1, 3, 5)
    episodes = [make_episode(make_spec(), n, n, final_observed=final, terminated=n % 2 == 0) for n in (3, 5, 8, 11)]
    config = GoalConfig(reward=reward)
    sampler = ChunkSampler(memory_cache(episodes), 3, 2, offsets, gamma, batch_size=256, goals=config)
    batch = sampler.sample()
    starts, goals = located(batch.observation.state, episodes), located(batch.goal.state, episodes)
    assert all(t + 1 < len(episodes[e].states) for e, t in starts)  # a step whose outcome nobody saw teaches nothing
    ahead = [e == f and t <= g for (e, t), (f, g) in zip(starts, goals, strict=True)]
    assert batch.goal.state.shape[1] == 1 and batch.success.tolist() == ahead and 50 < sum(ahead) < 256
    seen = {t for (e, t), goal in zip(starts, goals, strict=True) if goal == (e, len(episodes[e].states) - 1)}
    assert len(seen) > 5  # final frames are goals like any other
    for k in offsets:
        arrived = located(batch.next[k].state, episodes)
        target = returns(batch, gamma, k)
        for b, ((_, goal), (_, at)) in enumerate(zip(goals, arrived, strict=True)):
            if ahead[b]:
                beyond = value(reward, gamma, goal - at) if at < goal else 0.0
                got = target[b] + bootstrap(batch, gamma, k)[b] * beyond
                assert got.item() == pytest.approx(value(reward, gamma, goal - starts[b][1]), abs=1e-5)
            else:
                assert not batch.terminated[b].any() and (reward == "cost" or not batch.rewards[b].any())
        assert batch.next[k].goal is batch.goal
    assert batch.mc_return[torch.tensor(ahead)].tolist() == pytest.approx(
        [value(reward, gamma, g - t) for (_, t), (_, g), on in zip(starts, goals, ahead, strict=True) if on], abs=1e-5
    )


# Which frames become goals -------------------------------------------------------------------------------------------


def chosen(config: GoalConfig, gamma: float = 0.9, now: int = 10, last: int = 30) -> torch.Tensor:
    """Goals on a fine grid of chances, so that shares can be counted."""
    kind, which = torch.meshgrid(
        *(torch.linspace(0.5 / n, 1 - 0.5 / n, n).double() for n in (100, 2000)), indexing="ij"
    )
    chance = torch.stack([kind.flatten(), which.flatten()], 1)
    rows = torch.ones(len(chance), dtype=torch.int64)
    return choose_goals(config, gamma, chance, now * rows, last * rows, torch.arange(100, 200))


def test_goals_are_the_frame_itself_a_later_one_or_any_by_their_shares():
    # mutation: `kind < config.future`; frames in [now, last)
    goals = chosen(GoalConfig())
    share = [(goals == 10), (goals > 10) & (goals <= 30), goals >= 100]
    assert [each.double().mean().item() for each in share] == pytest.approx([0.2, 0.5, 0.3])
    assert torch.unique(goals[goals >= 100]).tolist() == list(range(100, 200))


def test_a_future_goal_is_uniform_to_the_end_or_geometric_in_gamma():
    # mutation: geometric starting at 0; uniform over last - now - 1
    uniform = chosen(GoalConfig(0, 1, 0)) - 10
    assert torch.bincount(uniform)[1:].double().div(len(uniform)).tolist() == pytest.approx([1 / 20] * 20)
    steps = chosen(GoalConfig(0, 1, 0, sampling="geometric")) - 10
    for j in (1, 2, 5, 19):
        assert (steps > j).double().mean().item() == pytest.approx(0.9**j, abs=1e-3)
    assert steps.min() == 1 and steps.max() == 20  # the tail is the episode's last frame
    with pytest.raises(ValueError, match="geometric: expected 0 < gamma < 1, got 1"):
        chosen(GoalConfig(0, 1, 0, sampling="geometric"), gamma=1.0)


def test_goals_change_no_window_come_from_the_chosen_episodes_and_resume_with_them():
    episodes = [make_episode(make_spec(cameras=("front",)), 12, s) for s in range(4)]
    cache = memory_cache(episodes)
    options = {"batch_size": 32, "episodes": [1, 3], "n_obs_steps": 2}
    sampler, plain = (ChunkSampler(cache, 4, **options, goals=goals) for goals in (GoalConfig(0, 0, 1), None))
    for _ in range(40):  # across two draws of starts
        batch, without = sampler.sample(), plain.sample()
        assert torch.equal(batch.index, without.index) and torch.equal(batch.chunks, without.chunks)
        goals = located(batch.goal.state, episodes)
        assert {e for e, _ in goals} <= {1, 3} and without.goal is None
        for image, (e, t) in zip(batch.goal.images["front"], goals, strict=True):
            assert np.array_equal(image[0], episodes[e].images["front"][t])
    again = ChunkSampler(cache, 4, **options, goals=GoalConfig(0, 0, 1))
    again.load_state(sampler.state())
    assert torch.equal(again.sample().goal.state, sampler.sample().goal.state)


def test_shares_and_choices_that_make_no_sense_are_refused():
    for wrong in ({"current": 0.5}, {"current": -0.2, "future": 0.9}, {"sampling": "linear"}, {"reward": "2"}):
        with pytest.raises(ValueError, match="goals"):
            GoalConfig(**wrong)
    with pytest.raises(ValueError, match="reward_shuffle_seed: expected None with goals"):
        ChunkSampler(memory_cache([make_episode(make_spec())]), 2, goals=GoalConfig(), reward_shuffle_seed=0)


def test_the_range_of_returns_is_what_a_window_can_be_worth():
    for reward, low, high in (("success", 0, 1), ("cost", -10, 0)):
        found = goal_return_statistics(GoalConfig(reward=reward), 0.9, 50)
        assert (found.low.item(), found.high.item()) == pytest.approx((low, high))
    assert goal_return_statistics(GoalConfig(reward="cost"), 1.0, 50).low.item() == -50


# Critics that see a goal ---------------------------------------------------------------------------------------------


def chain(length: int) -> Episode:
    """State t is the t-th unit vector; every action moves on by one."""
    s = spec(horizon=2, state=length + 1)
    actions = np.tile((s.low + s.high) / 2, (length, 1)).astype(np.float32)
    states = np.eye(length + 1, dtype=np.float32)
    return Episode(s, states, {}, actions, np.zeros(length, np.float32), False, True, None)


@pytest.mark.parametrize("k", [1, 2])
def test_on_a_chain_a_critic_learns_gamma_to_the_distance(k):
    # mutation: forget the goal in `next` observations; bootstrap where the goal was reached
    gamma, length = 0.8, 5
    episode = chain(length)
    s = episode.spec.choose(horizon=2, n_obs_steps=1)
    measured = statistics(s) | {"state": replace(statistics(s)["state"], mean=np.zeros(6), std=np.ones(6))}
    config = replace(SMALL, scope=k, gamma=gamma, expectile=0.5, lr=5e-3, tau=0.1, hidden=(64,), target="v")
    critic = config.build(s, measured)
    sampler = ChunkSampler(memory_cache([episode]), 2, offsets=(k,), gamma=gamma, batch_size=64, goals=GoalConfig())
    for _ in range(250):
        critic.update(sampler.sample())
    pairs = [(t, g) for t in range(length) for g in range(t, length + 1)]
    now, goal = (episode.states[list(frames)][:, None] for frames in zip(*pairs, strict=True))
    seen = observation(s, len(pairs), state=now, goal=observation(s, len(pairs), state=goal))
    chunks = torch.from_numpy(episode.actions[:2]).expand(len(pairs), 1, 2, -1)
    scores = critic.score(critic.encode(seen), chunks, torch.full((len(pairs), 1), 2)).value[:, 0]
    assert scores.tolist() == pytest.approx([gamma ** (g - t) for t, g in pairs], abs=0.05)


def test_a_goals_last_frame_is_seen_through_the_same_encoder():
    s = spec(n_obs_steps=2, images=True, language=True)
    critic = SMALL.build(s, statistics(s), TASKS).eval()
    seen, goal = observation(s, task=TASKS[:1] * 3), observation(s, seed=1)
    later = replace(goal, state=goal.state[:, -1:], images={k: v[:, -1:] for k, v in goal.images.items()})
    features = critic.encode(replace(seen, goal=goal)).value
    assert torch.equal(critic.encode(replace(seen, goal=later)).value, features)
    assert features.shape[1] == critic.encoder.features
    assert not torch.allclose(critic.encode(replace(seen, goal=observation(s, seed=2))).value, features)
    own = critic.encode(replace(seen, goal=seen)).value  # where it is, is where it should be
    frame, text = s.state_dim, 4
    assert torch.equal(own[:, -8:], own[:, 2 * frame + 8 : 2 * frame + 16])  # the image's features
    assert torch.equal(own[:, 2 * frame + 16 + text : -8], own[:, frame : 2 * frame])  # the state


def test_a_critic_with_goals_keeps_the_contract_and_refuses_to_guess_one():
    s = spec(n_obs_steps=2)
    critic = SMALL.build(s, statistics(s), TASKS).eval()
    check_critic(critic, observation(s, goal=observation(s, seed=1)))
    with pytest.raises(ValueError, match="goal: expected one with every observation"):
        critic.encode(observation(s))
    with pytest.raises(ValueError, match=r"goal: expected one per robot \(3\), got 2"):
        observation(s, goal=observation(s, 2)).check(s)
    assert to_tensors(observation(s)).goal is None


def test_images_of_goals_are_shifted_too_while_training():
    s = spec(images=True)
    critic, batch = SMALL.build(s, statistics(s), TASKS).train(), random_batch(s)
    seen = replace(batch.observation, goal=batch.next[4])
    shifted = critic.encoder.augment(seen, torch.Generator().manual_seed(0))
    assert not torch.equal(shifted.goal.images["front"], seen.goal.images["front"])
    assert torch.equal(shifted.goal.state, seen.goal.state)


@pytest.mark.parametrize("kind", ["critic", "policy"])
def test_one_flag_makes_a_model_that_is_trained_towards_goals_and_can_be_loaded(tmp_path, kind):
    s = spec(horizon=4, state=2)
    with EpisodeStore.create(tmp_path / "data", s) as store:
        for seed in range(4):
            rng = np.random.default_rng(seed)
            actions = rng.uniform(s.low, s.high, (9, 2)).astype(np.float32)
            states = rng.standard_normal((10, 2)).astype(np.float32)
            store.append(Episode(s, states, {}, actions, 7 * np.ones(9, np.float32), True, False, True))
    quiet = TrainConfig(str(tmp_path / "run"), 3, 16, validate_every=3, progress=False, tensorboard=False)
    config = SMALL if kind == "critic" else flow.Config(width=16, depth=1, encoder=SEES_GOALS)
    model = load_model(fit(Job(str(tmp_path / "data"), config, quiet, Windowing(horizon=4))))
    seen = observation(model.spec)
    assert model.statistics["return"].high.item() == 1  # not what rewards of 7 would add up to
    towards = [model.encode(replace(seen, goal=observation(model.spec, seed=n))) for n in (1, 2)]
    assert isinstance(towards[0], Features) and not torch.equal(towards[0].value, towards[1].value)
