"""The packed ReplayBuffer: what their constructor asserts holds, our converter reads the same numbers back."""

import json
import math
import zipfile

import numpy as np
import pytest
import zarr
from recorded import make_episode, make_spec
from zarr.storage import ZipStore

from robot_value.convert import ConversionError
from robot_value.datasets import diffusion_policy_converter, diffusion_policy_exporter
from robot_value.datasets.diffusion_policy_exporter import Config
from robot_value.episodes import EpisodeStore

STEPS = (7, 3, 5)


def store_of(path, spec=None, steps=STEPS, **changes):
    spec = spec or make_spec(cameras=("front", "wrist"))
    with EpisodeStore.create(path, spec) as store:
        for seed, length in enumerate(steps):
            store.append(make_episode(spec, length, seed, **changes))
    return EpisodeStore.open(path)


def open_as_they_do(path):
    """What diffusion_policy's ReplayBuffer asks of a root group, with zarr's v2 reader."""
    root = zarr.open_group(ZipStore(path, mode="r") if path.suffix == ".zip" else path, mode="r", zarr_format=2)
    assert sorted(root.group_keys()) == ["data", "meta"] and not list(root.array_keys())
    ends = root["meta"]["episode_ends"]
    assert ends.ndim == 1 and ends.dtype == np.int64
    for _, array in root["data"].arrays():
        assert array.shape[0] == ends[-1]
    return root, ends[...]


@pytest.mark.parametrize("name", ["out.zarr", "out.zarr.zip"])
def test_their_reader_finds_every_row_before_the_last_observation(tmp_path, monkeypatch, name):
    # mutation: ends with frames instead of steps; a partly filled chunk lost at the end; T+1 rows of states
    monkeypatch.setattr(
        diffusion_policy_exporter, "CHUNK_BYTES", 40
    )  # several chunks, and some that end inside episodes
    store = store_of(tmp_path / "store")
    Config().build().export(store, tmp_path / name, progress=False)
    root, ends = open_as_they_do(tmp_path / name)
    np.testing.assert_array_equal(ends, np.cumsum(STEPS))
    assert sorted(root["data"].array_keys()) == ["action", "front", "reward", "state", "wrist"]
    wanted = {"action": "actions", "state": "states", "reward": "rewards"}
    for key, field in wanted.items():
        rows = np.concatenate([getattr(episode, field)[: len(episode)] for episode in store])
        np.testing.assert_array_equal(root["data"][key][...], rows)
        assert root["data"][key].dtype == np.float32
    front = np.concatenate([episode.images["front"][: len(episode)] for episode in store])
    np.testing.assert_array_equal(root["data"]["front"][...], front)


def test_our_converter_reads_the_same_numbers_back(tmp_path):
    store = store_of(tmp_path / "store", final_observed=False)
    Config().build().export(store, tmp_path / "out.zarr.zip", progress=False)
    (tmp_path / "spec.json").write_text(json.dumps(store.spec.to_json()))
    source = diffusion_policy_converter.Config(spec=str(tmp_path / "spec.json")).build(tmp_path / "out.zarr.zip")
    assert source.survey.spec == store.spec and source.survey.left_out == ()
    for index, episode in enumerate(store):
        back = source.read(index)
        for field in ("states", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(back, field), getattr(episode, field))
        for camera, images in episode.images.items():
            np.testing.assert_array_equal(back.images[camera], images)


def test_chunks_are_theirs_two_megabytes_along_time_with_their_compressor(tmp_path):
    # mutation: floor for ceil, shuffle, compressed ends
    store = store_of(tmp_path / "store", steps=(400,), final_observed=False)
    Config().build().export(store, tmp_path / "out.zarr", progress=False)
    about = {
        key: json.loads((tmp_path / "out.zarr" / key / ".zarray").read_text())
        for key in ("data/front", "meta/episode_ends")
    }
    codec = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 0, "blocksize": 0}
    assert about["data/front"]["compressor"] == codec and about["data/front"]["zarr_format"] == 2
    assert about["data/front"]["chunks"] == [400, 4, 5, 3] and about["meta/episode_ends"]["compressor"] is None
    assert diffusion_policy_exporter.chunk_rows(10**6, (96, 96, 3), np.uint8) == 73 == math.ceil(2e6 / 96 / 96 / 3)
    assert diffusion_policy_exporter.chunk_rows(10**6, (50,), np.float32) == 10_000


def test_a_zip_holds_every_member_once_and_stored_without_another_compression(tmp_path, monkeypatch):
    # mutation: write per episode instead of per chunk
    monkeypatch.setattr(diffusion_policy_exporter, "CHUNK_BYTES", 40)
    Config().build().export(store_of(tmp_path / "store"), tmp_path / "out.zarr.zip", progress=False)
    members = zipfile.ZipFile(tmp_path / "out.zarr.zip").infolist()
    names = [member.filename for member in members]
    assert len(names) == len(set(names)) > 10 and {member.compress_type for member in members} == {zipfile.ZIP_STORED}


def test_what_the_format_cannot_hold_is_said(tmp_path):
    # mutation: drop a line of _lost
    full = {"commanded": np.zeros((7, 3), np.float32), "source": np.zeros(7, np.uint8), "decisions": 1}
    store = store_of(tmp_path / "a", steps=(7,), provenance={"seed": 1}, success=False, **full)
    lines = Config().build().export(store, tmp_path / "a.zarr", progress=False)
    for what in (
        "after the last",
        "task text",
        "ended",
        "success",
        "commanded",
        "decided",
        "decisions",
        "provenance",
        "dt",
    ):
        assert any(what in line for line in lines), what
    bare = {"task": "", "success": None, "terminated": False, "final_observed": False}
    lines = Config().build().export(store_of(tmp_path / "b", **bare), tmp_path / "b.zarr", progress=False)
    assert len(lines) == 1 and "--source.spec" in lines[0]


@pytest.mark.parametrize("name", ["out.zarr", "out.zarr.zip"])
def test_an_export_appears_whole_or_not_at_all(tmp_path, monkeypatch, name):
    # mutation: write to the final name; leave the partial one behind
    store, exporter = store_of(tmp_path / "store"), Config().build()
    with monkeypatch.context() as broken:
        broken.setattr(
            EpisodeStore, "read", lambda self, name: 1 / 0 if name == self.names()[1] else store_read(self, name)
        )
        with pytest.raises(ZeroDivisionError):
            exporter.export(store, tmp_path / name, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    exporter.export(store, tmp_path / name, progress=False)
    open_as_they_do(tmp_path / name)
    with pytest.raises(ConversionError, match="exists"):
        exporter.export(store, tmp_path / name, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "store"]


store_read = EpisodeStore.read


def test_zeros_are_written_because_a_missing_chunk_is_damage(tmp_path):
    # mutation: zarr's default, which leaves chunks of zeros out
    store = store_of(tmp_path / "store", make_spec(), steps=(7,), rewards=np.zeros(7, np.float32))
    Config().build().export(store, tmp_path / "out.zarr", progress=False)
    assert not diffusion_policy_converter.Config().build(tmp_path / "out.zarr").read(0).rewards.any()


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path):
    clash = store_of(tmp_path / "clash", make_spec(cameras=("state",)))
    for store, what in ((clash, "state"), (store_of(tmp_path / "empty", steps=()), "at least one")):
        with pytest.raises(ConversionError, match=what):
            Config().build().export(store, tmp_path / "out.zarr", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clash", "empty"]


def test_a_store_without_state_is_exported_without_that_key(tmp_path):
    store = store_of(tmp_path / "store", make_spec(0, ("front",)))
    Config().build().export(store, tmp_path / "out.zarr", progress=False)
    root, _ = open_as_they_do(tmp_path / "out.zarr")
    assert sorted(root["data"].array_keys()) == ["action", "front", "reward"]
