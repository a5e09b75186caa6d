"""The decoded cache: equal to the episodes, built once, rebuilt when the store changed, never from damage."""

import json
import multiprocessing
import os

import numpy as np
import pytest
from recorded import make_episode, make_spec

from robot_value.episodes import EpisodeDamaged, EpisodeStore, StoreError
from robot_value.episodes import cache as module
from robot_value.episodes.cache import open_cache


@pytest.fixture
def store(tmp_path):
    with EpisodeStore.create(tmp_path / "store", make_spec(cameras=("front",))) as store:
        yield store


def fill(store, seeds=range(3)):
    kinds = [(True, True, True), (True, False, None), (False, False, False)]
    episodes = []
    for seed in seeds:
        terminated, final, success = kinds[seed % 3]
        source = np.full(seed + 1, 1, np.uint8) if seed % 2 else None
        episodes.append(
            make_episode(
                store.spec, seed + 1, seed, final_observed=final, terminated=terminated, success=success, source=source
            )
        )
        store.append(episodes[-1])
    return episodes


# mutation: `step + len(rows["state"])` in _build, or `frames` taken from manifest.steps
def assert_equal_to(cache, episodes) -> None:
    assert len(cache) == len(episodes)
    for e, episode in enumerate(episodes):
        steps = slice(cache.step_start[e], cache.step_start[e] + cache.steps[e])
        frames = slice(cache.frame_start[e], cache.frame_start[e] + cache.frames[e])
        np.testing.assert_array_equal(cache.action[steps], episode.actions)
        np.testing.assert_array_equal(cache.reward[steps], episode.rewards)
        np.testing.assert_array_equal(cache.state[frames], episode.states)
        np.testing.assert_array_equal(cache.images["front"][frames], episode.images["front"])
        np.testing.assert_array_equal(cache.source[steps], 0 if episode.source is None else episode.source)
        success = np.nan if episode.success is None else episode.success
        np.testing.assert_equal(cache.success[e], np.float32(success))
        assert (cache.terminated[e], cache.truncated[e]) == (episode.terminated, episode.truncated)
        assert cache.tasks[cache.task[e]] == episode.task
    assert len(cache.action) == cache.steps.sum() and len(cache.state) == cache.frames.sum()


def test_the_cache_holds_every_episode_end_to_end_and_memory_mapped(store):
    episodes = fill(store, range(6))
    cache = open_cache(store, progress=False)
    assert_equal_to(cache, episodes)
    assert cache.path.parent == store.path / ".cache"
    assert all(isinstance(array, np.memmap) for array in (cache.state, cache.action, cache.images["front"]))
    assert cache.names == tuple(store.names()) and cache.hashes[0] == store.manifest_hash(cache.names[0])
    assert store.names() == list(cache.names)  # the store is not disturbed by what lies in it


def test_a_second_open_decodes_nothing_and_an_append_decodes_only_the_new_episode(store, monkeypatch):
    episodes = fill(store)
    read = []
    decoded = module._decoded
    monkeypatch.setattr(module, "_decoded", lambda s, name: (read.append(name), decoded(s, name))[1])
    first = open_cache(store, progress=False)
    assert open_cache(store, progress=False).path == first.path
    assert read == store.names()
    episodes += fill(store, [5])
    second = open_cache(store, progress=False)
    assert second.path != first.path and read == store.names()
    assert_equal_to(second, episodes)
    assert [path.name for path in second.path.parent.iterdir() if path.is_dir()] == [second.path.name]
    assert_equal_to(first, episodes[:3])  # who had the old one mapped keeps it


def test_two_stores_may_share_a_cache_folder(store, tmp_path):
    episodes = fill(store)
    with EpisodeStore.create(tmp_path / "other", store.spec) as other:
        others = fill(other, [7])
        open_cache(store, tmp_path / "root", progress=False)
        assert_equal_to(open_cache(other, tmp_path / "root", progress=False), others)
        assert_equal_to(open_cache(store, tmp_path / "root", progress=False), episodes)
    assert len(list((tmp_path / "root").glob("*/cache.json"))) == 2


def test_damage_in_the_store_stops_the_build_and_leaves_no_cache(store):
    fill(store)
    path = store.path / "episodes" / store.names()[1] / "actions/c/0/0"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(EpisodeDamaged, match=r"actions/c/0/0: expected sha256 \w+, got sha256"):
        open_cache(store, progress=False)
    assert not list((store.path / ".cache").glob("*/cache.json"))
    path.write_bytes(sound)
    open_cache(store, progress=False)
    assert not list((store.path / ".cache").glob(".building-*"))  # the failed attempt is swept


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_a_broken_cache_is_rebuilt(store, damage):
    episodes = fill(store)
    state = open_cache(store, progress=False).path / "state.npy"
    os.truncate(state, 100) if damage == "truncated" else state.unlink()
    assert_equal_to(open_cache(store, progress=False), episodes)


def test_a_pickled_array_in_the_cache_is_refused(store):
    fill(store)
    cache = open_cache(store, progress=False)
    path = cache.path / "success.npy"
    np.save(path, np.array([object()] * 3), allow_pickle=True)
    about = json.loads((cache.path / "cache.json").read_text())
    about["sizes"]["success.npy"] = path.stat().st_size
    (cache.path / "cache.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"allow_pickle=False|Python objects"):
        open_cache(store, progress=False)


# mutation: no posix_fallocate in _create_arrays
def test_the_cache_s_space_is_taken_before_it_is_mapped_because_a_full_disk_is_sigbus_in_a_mapped_page(store, tmp_path):
    module._create_arrays(tmp_path, store.spec, 10_000, 10_000)
    sizes = [path.stat() for path in tmp_path.glob("*.npy")]
    assert len(sizes) == 5 and all(size.st_blocks * 512 >= size.st_size > 10_000 for size in sizes)


def test_an_empty_store_says_what_to_do(store):
    with pytest.raises(StoreError, match="holds no episodes yet"):
        open_cache(store)


def test_a_store_that_cannot_be_written_is_cached_in_the_users_folder(store, tmp_path, monkeypatch):
    episodes = fill(store)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cache = open_cache(store, progress=False)
    assert cache.path.is_relative_to(tmp_path / "xdg" / "robot_value")
    assert_equal_to(cache, episodes)


def test_trainings_that_start_together_build_one_cache(store):
    fill(store, range(6))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        paths = pool.map(_open, [str(store.path)] * 2)
    assert len(set(paths)) == 1 and not list((store.path / ".cache").glob(".building-*"))


def _open(path: str) -> str:
    return str(open_cache(EpisodeStore.open(path), progress=False).path)
