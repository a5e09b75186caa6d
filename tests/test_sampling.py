"""ChunkSampler, returns and bootstrap against a brute force over recorded episodes, at every kind of episode end."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import make_episode, make_spec, memory_cache

from robot_value.episodes import EpisodeStore
from robot_value.episodes.cache import open_cache
from robot_value.sampling import ChunkSampler, bootstrap, returns, split_episodes, to_tensors
from robot_value.types import Episode, Observation
from robot_value.windows import Outcomes, returns_to_go, shuffled

ENDS = [(True, True), (True, False), (False, True), (False, False)]  # terminated, final_observed


@pytest.fixture(scope="module")
def make_cache(tmp_path_factory):
    def build(episodes):
        with EpisodeStore.create(tmp_path_factory.mktemp("store") / "s", episodes[0].spec) as store:
            for episode in episodes:
                store.append(episode)
            return open_cache(store, progress=False)

    return build


def usable_steps(episode: Episode) -> int:
    """What follows the last action is unknown without a final observation, unless the task ended with it."""
    return len(episode) - (not episode.final_observed and not episode.terminated)


def as_numpy(batch, gamma: float) -> dict:
    """Every tensor of the batch and its TD targets as arrays: indexing torch element by element is slow."""
    seen = {0: batch.observation, **batch.next}
    columns = {name: value.numpy() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return columns | {
        "state": {k: o.state.numpy() for k, o in seen.items()},
        "images": {k: {name: image.numpy() for name, image in o.images.items()} for k, o in seen.items()},
        "task": {k: [o.tasks[i] for i in o.task] for k, o in seen.items()},
        "returns": {k: returns(batch, gamma, k).numpy() for k in batch.next},
        "bootstrap": {k: bootstrap(batch, gamma, k).numpy() for k in batch.next},
        "next_chunks": {k: chunks.numpy() for k, chunks in batch.next_chunks.items()},
    }


def check_window(got: dict, b: int, episode: Episode, t: int, history: int, gamma: float) -> None:
    """One row of a batch, recomputed step by step from the episode."""
    steps, last = usable_steps(episode), len(episode.states) - 1
    horizon, length = got["chunks"].shape[1], got["rewards"].shape[1]
    assert np.array_equal(got["chunks"][b], episode.actions[[min(t + i, steps - 1) for i in range(horizon)]])
    for i in range(length):
        real = t + i < steps
        assert got["valid"][b, i] == real
        assert got["rewards"][b, i] == (episode.rewards[t + i] if real else 0)
        assert got["terminated"][b, i] == (episode.terminated and t + i == len(episode) - 1)
    go = sum(gamma**i * float(r) for i, r in enumerate(episode.rewards[t:steps]))
    assert abs(got["mc_return"][b] - go) < 1e-5
    for k in got["state"]:
        frames = [max(0, min(t + k, last) - back) for back in range(history - 1, -1, -1)]
        assert np.array_equal(got["state"][k][b], episode.states[frames])
        assert all(np.array_equal(got["images"][k][name][b], image[frames]) for name, image in episode.images.items())
        assert got["task"][k][b] == episode.task
    for k, chunks in got["next_chunks"].items():
        assert np.array_equal(chunks[b], episode.actions[[min(t + k + i, steps - 1) for i in range(horizon)]])
    for k in got["returns"]:
        taken = min(k, steps - t)
        total = sum(gamma**i * float(episode.rewards[t + i]) for i in range(taken))
        ended = episode.terminated and t + k >= len(episode)
        assert abs(got["returns"][k][b] - total) < 1e-5
        assert abs(got["bootstrap"][k][b] - (0.0 if ended else gamma**taken)) < 1e-6


# mutation: `unknown_end` all False in windows.py; `now + k` without the minimum; `left - 1` -> `left` in _ends;
# `padded + k` -> `padded`, or no room for the next chunk in `padding`
@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.sampled_from(ENDS)), min_size=1, max_size=5),
    horizon=st.integers(1, 6),
    history=st.integers(1, 3),
    offsets=st.lists(st.integers(1, 8), max_size=2, unique=True),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
)
def test_every_window_equals_a_brute_force_over_its_episode(shapes, horizon, history, offsets, gamma):
    spec = make_spec()
    episodes = [
        make_episode(spec, steps, seed, final_observed=final, terminated=terminated)
        for seed, (steps, (terminated, final)) in enumerate(shapes)
    ]
    if not sum(map(usable_steps, episodes)):
        with pytest.raises(ValueError, match="usable step"):
            ChunkSampler(memory_cache(episodes), horizon)
        return
    check_everything(memory_cache(episodes), episodes, horizon, history, offsets, gamma)


def check_everything(cache, episodes, horizon, history, offsets, gamma) -> None:
    sampler = ChunkSampler(cache, horizon, history, offsets, gamma, batch_size=64, seed=1, next_chunks=True)
    where = [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode))]
    legal = {row for row, (e, t) in enumerate(where) if t < usable_steps(episodes[e])}
    seen = set()
    for _ in range(3):
        batch = as_numpy(sampler.sample(), gamma)
        assert set(batch["returns"]) == set(batch["next_chunks"]) == set(sampler.offsets)
        assert batch["chunks"].shape[1] == horizon
        for b, row in enumerate(batch["index"].tolist()):
            seen.add(row)
            e, t = where[row]
            check_window(batch, b, episodes[e], t, history, gamma)
    assert len(sampler) == len(legal)
    assert seen <= legal
    assert seen == legal or len(legal) > 20  # 192 draws over few starts reach them all


@pytest.mark.parametrize(("terminated", "final"), ENDS)
def test_each_kind_of_ending_inside_beyond_and_at_the_edge_of_the_chunk(make_cache, terminated, final):
    spec = make_spec(cameras=("front", "wrist"))
    episodes = [
        make_episode(spec, steps, steps, final_observed=final, terminated=terminated) for steps in (1, 2, 4, 5, 9)
    ]
    check_everything(make_cache(episodes), episodes, horizon=4, history=2, offsets=(1, 4, 6), gamma=0.9)


def test_chunks_that_come_next_are_read_only_where_somebody_asks():
    assert ChunkSampler(memory_cache([make_episode(make_spec(), 3)]), horizon=2).sample().next_chunks == {}


def test_a_hand_computed_chunk_return_and_bootstrap():
    episode = make_episode(make_spec(), 3, rewards=np.array([1, 2, 4], np.float32), terminated=False)
    sampler = ChunkSampler(memory_cache([episode]), horizon=2, offsets=(2, 5), gamma=0.5)
    batch = sampler.sample()
    first, last = batch.index == 0, batch.index == 2
    assert set(returns(batch, 0.5, 2)[first].tolist()) == {2.0}  # 1 + 0.5 * 2
    assert set(bootstrap(batch, 0.5, 2)[first].tolist()) == {0.25}
    assert set(returns(batch, 0.5, 5)[first].tolist()) == {3.0}  # 1 + 0.5 * 2 + 0.25 * 4, then time ran out
    assert set(bootstrap(batch, 0.5, 5)[first].tolist()) == {0.125}  # three steps were taken
    assert set(bootstrap(batch, 0.5, 2)[last].tolist()) == {0.5}
    with pytest.raises(ValueError, match="expected 1 to 5"):
        returns(batch, 0.5, 6)


# mutation: key [self.seed, draw] -> [self.seed, 0] in _starts, or `_position` set to 0 in load_state
def test_a_restored_sampler_continues_bit_identically_from_any_position(make_cache):
    cache = make_cache([make_episode(make_spec(cameras=("front",)), 20, seed) for seed in range(3)])
    for stop in (0, 1, 31, 32, 45):
        first, second = (ChunkSampler(cache, 4, batch_size=8, seed=3) for _ in range(2))
        for _ in range(stop):
            first.sample()
        second.load_state(first.state())
        for _ in range(40):
            assert_batches_equal(first.sample(), second.sample())
    with pytest.raises(ValueError, match=r"expected .* got .*; go on with the data"):
        ChunkSampler(cache, 4, batch_size=9, seed=3).load_state(first.state())


def test_batches_differ_from_each_other_and_between_seeds_and_own_their_memory():
    cache = memory_cache([make_episode(make_spec(cameras=("front",)), 50, seed) for seed in range(3)])
    sampler = ChunkSampler(cache, 4, batch_size=8, seed=0)
    batches = [sampler.sample() for _ in range(70)]
    assert len({tuple(batch.index.tolist()) for batch in batches}) == 70
    assert tuple(ChunkSampler(cache, 4, batch_size=8, seed=1).sample().index) != tuple(batches[0].index)
    copies = [batch.chunks.clone() for batch in batches]
    for tensor in tensors_of(batches[3]):
        tensor.zero_()
    assert all(
        torch.equal(batch.chunks, copy) for i, (batch, copy) in enumerate(zip(batches, copies, strict=True)) if i != 3
    )
    assert_batches_equal(ChunkSampler(cache, 4, batch_size=8, seed=0).sample(), batches[0])


# mutation: `success == 1` -> `success != 0`, or `chosen = np.arange(len(cache))` whatever was asked for
def test_a_subset_of_episodes_and_success_only_restrict_what_is_drawn():
    outcomes = [True, False, None, True]
    cache = memory_cache([make_episode(make_spec(), 10, s, success=outcome) for s, outcome in enumerate(outcomes)])

    def drawn(**options) -> set[int]:
        return {int(row) // 10 for row in ChunkSampler(cache, 2, batch_size=256, **options).sample().index}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(episodes=[1, 2]) == {1, 2}
    assert drawn(success_only=True) == {0, 3}
    assert drawn(episodes=[0, 1], success_only=True) == {0}
    batch = ChunkSampler(cache, 2, batch_size=256, episodes=[2, 1]).sample()
    assert torch.equal(batch.success.isnan(), batch.index // 10 == 2)
    assert (batch.success[batch.index // 10 == 1] == 0).all()
    with pytest.raises(ValueError, match="no episodes"):
        ChunkSampler(cache, 2, episodes=[1], success_only=True)
    with pytest.raises(ValueError, match=r"expected numbers in \[0, 4\)"):
        ChunkSampler(cache, 2, episodes=[4])
    with pytest.raises(ValueError, match="expected >= 1"):
        ChunkSampler(cache, 0)


def test_shuffled_rewards_keep_their_sum_and_the_episodes_lengths_and_nothing_terminates():
    rewards = [np.array(r, np.float32) for r in ([0, 0, 1], [0, 0, 0, 0, 0], [-1, -1, 0], [-1] * 4)]
    outcomes = Outcomes(rewards, np.array([True, False, True, False]), np.array([1, 0, 1, 0], np.float32))
    mixed = shuffled(outcomes, np.random.default_rng(2))
    assert [len(r) for r in mixed.rewards] == [3, 5, 3, 4]
    assert sorted(np.concatenate(mixed.rewards)) == sorted(np.concatenate(rewards))
    assert not mixed.terminated.any() and sorted(mixed.success) == sorted(outcomes.success)


def test_shuffled_rewards_come_no_sooner_in_short_episodes_than_in_long_ones():
    # mutation: permute whole episodes' rewards, aligned at the end: short episodes are then worth more per step
    short, long = [np.eye(5, dtype=np.float32)[4]] * 200, [np.zeros(20, np.float32)] * 200
    outcomes = Outcomes(short + long, np.array([True] * 200 + [False] * 200), np.ones(400, np.float32))
    mixed = shuffled(outcomes, np.random.default_rng(0))
    last = np.mean([r[-1] for r in mixed.rewards[:200]])  # 200 rewards over 5000 steps: 0.04 wherever one looks
    assert abs(last - 0.04) < 0.04 and abs(np.mean(mixed.rewards[:200]) - np.mean(mixed.rewards[200:])) < 0.03


def test_a_shuffled_sampler_changes_outcomes_and_nothing_else():
    episodes = [
        make_episode(make_spec(), 8, s, success=s < 3, rewards=np.eye(8, dtype=np.float32)[7] * (s < 3))
        for s in range(6)
    ]
    cache = memory_cache(episodes)
    true, shuffle = (ChunkSampler(cache, 8, batch_size=256, reward_shuffle_seed=s).sample() for s in (None, 0))
    assert torch.equal(true.index, shuffle.index) and torch.equal(true.chunks, shuffle.chunks)
    assert torch.equal(true.observation.state, shuffle.observation.state)
    first = {int(row): float(r[0]) for row, r in zip(shuffle.index, shuffle.rewards, strict=True)}
    assert sum(first.values()) == 3 and {row for row, r in first.items() if r} != {7, 15, 23}
    assert not shuffle.terminated.any()


def test_returns_to_go_is_the_discounted_sum_of_what_comes():
    np.testing.assert_allclose(returns_to_go(np.array([1, 0, 2], np.float32), 0.5), [1.5, 1.0, 2.0])


# mutation: `np.sort(order[held_out:])` -> `np.sort(order)`
@given(n=st.integers(0, 50), fraction=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_split_is_a_partition_of_the_stated_size(n, fraction, seed):
    train, validation = split_episodes(n, fraction, seed)
    assert sorted([*train, *validation]) == list(range(n))
    assert len(validation) == round(n * fraction)
    assert all(
        np.array_equal(a, b) for a, b in zip((train, validation), split_episodes(n, fraction, seed), strict=True)
    )


def test_a_robots_observation_becomes_tensors_with_task_indices():
    rng = np.random.default_rng(0)
    observation = Observation(
        state=rng.normal(size=(3, 2, 4)).astype(np.float32),
        images={"front": rng.integers(0, 256, (3, 2, 4, 5, 3), np.uint8)},
        task=("lift", "stack", "lift"),
        time=np.zeros(3),
        step=np.zeros(3, np.int64),
        episode=np.zeros(3, np.int64),
        pending=np.zeros((3, 0, 3), np.float32),
        committed=np.zeros(3, np.int64),
    )
    tensors = to_tensors(observation).to("cpu")
    assert tensors.tasks == ("lift", "stack") and tensors.task.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(tensors.state, observation.state)
    np.testing.assert_array_equal(tensors.images["front"], observation.images["front"])
    assert tensors.state.dtype == torch.float32 and tensors.images["front"].dtype == torch.uint8


def tensors_of(batch):
    for observation in (batch.observation, *batch.next.values()):
        yield from (observation.state, *observation.images.values())
    yield from (value for value in vars(batch).values() if isinstance(value, torch.Tensor))


def assert_batches_equal(a, b) -> None:
    assert dataclasses.fields(a) == dataclasses.fields(b)
    for x, y in zip(tensors_of(a), tensors_of(b), strict=True):
        assert x.dtype == y.dtype and torch.equal(x.nan_to_num(-1), y.nan_to_num(-1))
