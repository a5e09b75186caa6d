"""The episode-pool reader: every legal start equally often, the same batches after a resume, within its bytes."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from recorded import make_episode, make_spec

from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.labels.cached import CacheLabels
from robot_value.pool import PoolSampler, decode, outline
from robot_value.sampling import ChunkSampler

BATCH = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """12 episodes of 3 to 8 steps, of every kind of ending; the first state says which (episode, step) a frame is."""
    spec = make_spec(cameras=("front",))
    with EpisodeStore.create(tmp_path_factory.mktemp("pool") / "store", spec) as store:
        for e in range(12):
            episode = make_episode(
                spec, steps=3 + e % 6, seed=e, final_observed=e % 3 > 0, terminated=e % 2 == 0, success=e % 2 == 0
            )
            episode.states[:, 0] = 100 * e + np.arange(len(episode.states))
            store.append(episode)
    store = EpisodeStore.open(store.path)
    store.read = lru_cache(None)(store.read)  # decoding takes most of the time here
    return store


@pytest.fixture(scope="module")
def known(store):
    return outline(store)


def sampler(store, known, pool_bytes=20_000, **options):
    return PoolSampler(store, known, pool_bytes, **{"batch_size": BATCH, "horizon": 3} | options)


def starts(batch):
    """Which frame each window starts at."""
    return batch.observation.state[:, -1, 0].int().tolist()


def legal(store):
    return {
        100 * e + t
        for e, episode in enumerate(store)
        for t in range(len(episode) - (not episode.final_observed and not episode.terminated))
    }


def assert_same_batch(a, b):
    assert torch.equal(a.observation.state, b.observation.state) and torch.equal(a.chunks, b.chunks)
    assert torch.equal(a.rewards, b.rewards) and torch.equal(a.valid, b.valid)
    assert torch.equal(a.observation.images["front"], b.observation.images["front"])


def test_the_outline_has_the_tables_of_the_decoded_cache(store, known, tmp_path):
    # mutation: success False where nobody knows; tasks in another order
    cache = open_cache(store, tmp_path, progress=False)
    assert (known.names, known.hashes, known.tasks) == (cache.names, cache.hashes, cache.tasks)
    for name in ("steps", "frames", "terminated", "truncated", "success", "task", "reward"):
        np.testing.assert_array_equal(getattr(known, name), getattr(cache, name))


def test_a_pool_of_all_episodes_is_the_decoded_cache(store, known, tmp_path):
    # mutation: frames written at the episodes' steps; images of the episode before
    cache, pool = open_cache(store, tmp_path, progress=False), decode(store, known, np.arange(len(known)))
    for name in ("state", "action", "reward", "source", "steps", "frames", "task"):
        np.testing.assert_array_equal(getattr(pool, name), getattr(cache, name))
    np.testing.assert_array_equal(pool.images["front"], cache.images["front"])


def test_windows_are_those_of_the_whole_dataset(store, known, tmp_path):
    # mutation: episodes of a pool in another order than their tables
    drawn = sampler(store, known, n_obs_steps=2)
    cache = open_cache(store, tmp_path, progress=False)
    whole = ChunkSampler(cache, 3, 2, batch_size=2000)
    reference = whole.sample()
    where = {frame: i for i, frame in enumerate(starts(reference))}
    assert set(where) == legal(store)
    for _ in range(40):
        batch = drawn.sample()
        rows = [where[frame] for frame in starts(batch)]
        for name in ("chunks", "rewards", "valid", "terminated", "mc_return", "success"):
            assert torch.equal(getattr(batch, name).nan_to_num(7), getattr(reference, name)[rows].nan_to_num(7)), name
        assert torch.equal(batch.observation.images["front"], reference.observation.images["front"][rows])
        assert torch.equal(batch.next[3].state, reference.next[3].state[rows])
        assert torch.equal(batch.observation.task, reference.observation.task[rows])


def test_every_legal_start_is_drawn_equally_often(store, known):
    # mutation: as many batches for every pool, whatever it holds; the order of episodes the same in every epoch
    epochs, drawn = 120, sampler(store, known)
    expected = legal(store)
    counts = dict.fromkeys(expected, 0)
    for _ in range(epochs * len(expected) // BATCH):
        for frame in starts(drawn.sample()):
            counts[frame] += 1
    found = np.array(list(counts.values())) / epochs
    assert len(drawn) == len(expected) and found.min() > 0
    assert abs(found.mean() - 1) < 0.01 and abs(found - 1).max() < 6 / np.sqrt(epochs)


def test_a_pools_batches_are_its_share_and_follow_each_other_without_a_gap(store, known):
    # mutation: `round` per pool; forget the rest of an epoch; u drawn anew per epoch
    drawn = sampler(store, known)
    plans = [plan for epoch in range(30) for plan in drawn._plans(epoch)]
    assert plans[0].first == 0 and all(a.last == b.first for a, b in pairwise(plans))
    assert plans[-1].last == int(30 * len(drawn) / BATCH + drawn._offset)
    share = dict(zip(drawn._episodes.tolist(), drawn._share, strict=True))
    exact = np.cumsum([sum(share[e] for e in plan.episodes) for plan in plans]) / BATCH
    assert abs(np.cumsum([plan.last - plan.first for plan in plans]) - exact).max() <= 1
    assert all(sorted(e for p in drawn._plans(epoch) for e in p.episodes) == list(range(12)) for epoch in range(5))


@pytest.mark.parametrize("position", [0, 1, 7, 33, 60])
def test_a_saved_position_resumes_with_the_same_batches(store, known, position):
    # mutation: draws of a pool restart at its first batch; the pool's seed without the epoch
    first, second = sampler(store, known), sampler(store, known)
    for _ in range(position):
        first.sample()
    second.sample()
    second.load_state(first.state())
    for _ in range(25):
        assert_same_batch(first.sample(), second.sample())


def test_going_back_gives_the_same_batches_again(store, known):
    # mutation: load_state that leaves the pool in use where it was
    drawn = sampler(store, known)
    for back in (1, 30):
        state = drawn.state()
        seen = [drawn.sample() for _ in range(back)]
        drawn.load_state(state)
        for batch in seen:
            assert_same_batch(batch, drawn.sample())


def test_another_seed_is_another_sequence_and_another_configuration_is_refused(store, known):
    # mutation: the seed used for the order alone; identity without pool_bytes
    drawn = sampler(store, known)
    assert [starts(drawn.sample()) for _ in range(5)] != [
        starts(other.sample()) for other in [sampler(store, known, seed=1)] for _ in range(5)
    ]
    with pytest.raises(ValueError, match="sampler state: expected"):
        sampler(store, known, pool_bytes=30_000).load_state(drawn.state())


def test_only_chosen_and_successful_episodes_are_decoded(store, known, monkeypatch):
    # mutation: numbers within the chosen episodes taken for numbers in the store
    read, whole = [], store.read
    monkeypatch.setattr(store, "read", lambda name, **options: read.append(name) or whole(name))
    drawn = sampler(store, known, episodes=[1, 2, 5, 6, 8], success_only=True)
    frames = {frame for _ in range(60) for frame in starts(drawn.sample())}
    assert {frame // 100 for frame in frames} == {2, 6, 8} == {known.names.index(name) for name in read}


def test_labels_replace_rewards_and_weigh_what_is_drawn(store, known):
    # mutation: shares by steps, not by weights; labels of the pool in the order of the store
    weight = np.repeat(np.arange(12) % 4, known.steps).astype(np.float32)  # every fourth episode never
    number = np.arange(len(known.reward), dtype=np.float32)
    labels = CacheLabels("x", "", number, known.terminated, known.success, weight, None, None, True)
    drawn, counts, epochs = sampler(store, known, labels=labels), np.zeros(12), 100
    first_row = dict(enumerate(known.step_start.tolist()))
    for _ in range(epochs * len(drawn) // BATCH):
        batch = drawn.sample()
        frames = np.array(starts(batch))
        counts += np.bincount(frames // 100, minlength=12)
        assert batch.rewards[:, 0].tolist() == [first_row[f // 100] + f % 100 for f in frames.tolist()]
    usable = np.bincount([frame // 100 for frame in legal(store)], minlength=12)
    expected = usable * (np.arange(12) % 4) / (usable * (np.arange(12) % 4)).sum()
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.025)


def test_no_more_than_the_budget_is_held(tmp_path):
    # mutation: a budget for each of the two pools; a third pool when a state is loaded; images not counted
    spec = make_spec(cameras=("front",))
    spec = replace(spec, cameras=(replace(spec.cameras[0], height=64, width=64),))
    with EpisodeStore.create(tmp_path / "store", spec) as store:
        for e in range(16):
            store.append(make_episode(spec, steps=20, seed=e))
    store, budget = EpisodeStore.open(tmp_path / "store"), 5 << 19  # of 4.2 MB
    known = outline(store)
    gc.collect()
    tracemalloc.start()
    drawn = PoolSampler(store, known, budget, batch_size=2, horizon=3)
    for _ in range(90):
        drawn.sample()
    drawn.load_state(drawn.state() | {"position": 3})
    drawn.sample()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert budget / 2 < peak < budget


def test_a_budget_that_holds_no_two_pools_is_refused(store, known):
    # mutation: a pool of one episode whatever it takes
    with pytest.raises(ValueError, match="pool_bytes: expected at least"):
        sampler(store, known, pool_bytes=4_000)


def test_what_the_decoder_raises_comes_out_of_sample(store, known, monkeypatch):
    # mutation: errors of the thread swallowed
    drawn = sampler(store, known)
    monkeypatch.setattr("robot_value.pool.decode", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        for _ in range(100):
            drawn.sample()
