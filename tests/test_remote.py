"""A store behind a URL reads as the one it was copied from, byte-proven, and trains through a local cache."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
from recorded import assert_same, make_episode, make_spec

from robot_value.episodes import EpisodeDamaged, EpisodeStore, StoreError
from robot_value.episodes.cache import open_cache


@pytest.fixture
def local(tmp_path):
    with EpisodeStore.create(tmp_path / "s", make_spec(cameras=("front",))) as store:
        for seed in range(3):
            store.append(make_episode(store.spec, seed=seed, decisions=seed))
    return EpisodeStore.open(tmp_path / "s")


@pytest.fixture
def url(local, tmp_path):
    upload(local.path, "memory://bucket/data")
    yield "memory://bucket/data"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def upload(path: Path, url: str) -> None:
    filesystem, head = fsspec.core.url_to_fs(url)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        filesystem.pipe_file(f"{head}/{file.relative_to(path).as_posix()}", file.read_bytes())


# mutation: `found.get(path)` only, without the listing's other spelling of names, in remote.read
@pytest.mark.parametrize("scheme", ["{url}", "simplecache::{url}", "file://{path}", "{url}/"])
def test_every_url_reads_the_same_episodes(local, url, scheme):
    store = EpisodeStore.open(scheme.format(url=url, path=local.path))
    assert store.names() == local.names() and len(store) == 3 and store.spec == local.spec
    assert store.size() == local.size() > 0
    for mine, theirs in zip(store, local, strict=True):
        assert_same(mine, theirs)
    name = local.names()[1]
    assert store.about(name) == local.about(name) and store.manifest_hash(name) == local.manifest_hash(name)
    assert store.read(name, images=False, decisions=False).images == {}
    assert store.verify() == []


def test_what_is_damaged_on_its_way_is_never_read(local, url):
    memory, name = fsspec.filesystem("memory"), local.names()[1]
    chunk = f"/bucket/data/episodes/{name}/actions/c/0/0"
    sound = memory.cat_file(chunk)
    memory.pipe_file(chunk, sound[:-1] + bytes([sound[-1] ^ 1]))
    store = EpisodeStore.open(url)
    with pytest.raises(EpisodeDamaged, match=rf"{name}/actions/c/0/0: expected sha256 \w+, got sha256"):
        store.read(name)
    memory.rm(chunk)
    assert [(p.episode, p.file) for p in store.verify()] == [(name, "actions/c/0/0")]
    memory.pipe_file(f"/bucket/data/episodes/{local.names()[0]}/more", b"x")
    assert len(store.verify()) == 2


def test_a_remote_store_is_cached_in_the_users_folder_and_an_appended_episode_is_noticed(
    local, url, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cache = open_cache(EpisodeStore.open(url), progress=False)
    assert cache.path.is_relative_to(tmp_path / "xdg" / "robot_value")
    np.testing.assert_array_equal(cache.action, np.concatenate([episode.actions for episode in local]))
    reader = EpisodeStore.open(url)
    with EpisodeStore.open(local.path, "a") as store:
        store.append(make_episode(store.spec, seed=7))
    upload(local.path, url)
    assert len(reader) == 4 and len(open_cache(reader, progress=False)) == 4


def test_what_a_url_cannot_do_is_said_in_one_line(url):
    for path, mode, message in [
        (url, "a", "can only be read; record to a local folder"),
        ("memory://nothing/here", "r", "no episode store at memory://nothing/here"),
        ("nosuch://x", "r", "expected a folder or a URL that fsspec can read"),
    ]:
        with pytest.raises(StoreError, match=message) as caught:
            EpisodeStore.open(path, mode)
        assert "\n" not in str(caught.value)
    with pytest.raises(KeyError, match="no episode"):
        EpisodeStore.open(url).read("00000009-00000000")
