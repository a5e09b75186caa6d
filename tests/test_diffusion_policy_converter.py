"""diffusion_policy's ReplayBuffer in: every row, no other row, nothing assumed silently, each chunk decoded once."""

import json
import shutil

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore, ZipStore

from robot_value import untrusted
from robot_value.convert import ConversionError, convert
from robot_value.datasets import replay_buffer, umi_converter
from robot_value.datasets.diffusion_policy_converter import Config, pixels, recognises
from robot_value.episodes import EpisodeStore

ENDS = (3, 7, 12)


def rows(ends=ENDS, seed=0, **more):
    """key -> rows of all episodes, random, so that a row in the wrong place is a wrong value."""
    rng, total = np.random.default_rng(seed), ends[-1]
    return {
        "action": rng.normal(size=(total, 2)).astype(np.float32),
        "state": rng.normal(size=(total, 5)).astype(np.float32),
        "agent_pos": rng.normal(size=(total, 3)).astype(np.float32),
        "img": rng.integers(0, 256, (total, 4, 6, 3), np.uint8),
    } | more


def write(path, data, ends=ENDS, zarr_format=2, chunk=4, **meta):
    """A ReplayBuffer as zarr writes it."""
    store = ZipStore(path, mode="w") if path.suffix == ".zip" else LocalStore(path)
    root = zarr.create_group(store, zarr_format=zarr_format)
    groups = {"data": data, "meta": {"episode_ends": np.asarray(ends, np.int64)} | meta}
    for name, arrays in groups.items():
        group = root.create_group(name)
        for key, array in arrays.items():
            codec = {"compressors": numcodecs.Blosc("lz4", 5, 0)} if zarr_format == 2 else {}
            chunks = (min(chunk, max(1, len(array))), *array.shape[1:])
            made = group.create_array(
                key, shape=array.shape, dtype=array.dtype, chunks=chunks, config={"write_empty_chunks": True}, **codec
            )
            made[...] = array
    store.close()
    return path


def read_all(path, config=None):
    source = (config or Config()).build(path)
    episodes = [source.read(i) for i in range(len(source.survey.keys))]
    source.close()
    return source.survey, episodes


@pytest.mark.parametrize("name", ["a.zarr", "a.zarr.zip"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_every_row_arrives_in_the_episode_it_belongs_to(tmp_path, name, zarr_format):
    # mutation: inclusive ends, "agent_pos" before "state", final_observed by dropping the last action
    data = rows()
    path = write(tmp_path / name, data, zarr_format=zarr_format)
    assert recognises(path) and not umi_converter.recognises(path)
    survey, episodes = read_all(path)
    assert survey.keys == ("episode_0", "episode_1", "episode_2") and survey.steps == (3, 4, 5)
    assert survey.spec.state_names == (*(f"state_{i}" for i in range(5)), *(f"agent_pos_{i}" for i in range(3)))
    for episode, start, stop in zip(episodes, (0, *ENDS), ENDS, strict=False):
        np.testing.assert_array_equal(episode.actions, data["action"][start:stop])
        np.testing.assert_array_equal(episode.states[:, :5], data["state"][start:stop])
        np.testing.assert_array_equal(episode.states[:, 5:], data["agent_pos"][start:stop])
        np.testing.assert_array_equal(episode.images["img"], data["img"][start:stop])
        assert not episode.final_observed and not episode.terminated and episode.truncated and episode.success is None


def test_what_is_assumed_and_left_out_is_said_with_the_flag_that_tells_it(tmp_path):
    # mutation: forget a key, a meta array or an empty episode in left_out
    more = {"keypoint": np.zeros((12, 9, 2), np.float32), "n_contacts": np.zeros((12, 1), np.int64)}
    more["state"] = np.ones((12, 5))
    path = write(tmp_path / "a.zarr", rows(**more), ends=(3, 3, 12), tasks=np.zeros(2))
    survey, episodes = read_all(path)
    text = survey.to_text()
    for flag in ("--source.hz", "--source.spec", "data label"):
        assert any(flag in line for line in survey.assumed), flag
    for left in ("keypoint: float32[12, 9, 2]", "n_contacts", "meta/tasks", "1 episodes", "state: digits of float64"):
        assert any(left in line for line in survey.left_out), left
        assert left in text
    assert survey.keys == ("episode_0", "episode_2") and [len(episode) for episode in episodes] == [3, 9]


def test_limits_are_the_datas_range_and_a_still_dim_gets_room(tmp_path):
    # mutation: limits of the first episode, or over NaN
    data = rows()
    data["action"][:, 1] = 0.25
    data["action"][5, 0] = np.nan
    survey, _ = read_all(write(tmp_path / "a.zarr", data))
    sound = np.delete(data["action"][:, 0], 5)
    np.testing.assert_array_equal(survey.spec.low, np.array([sound.min(), -0.75], np.float32))
    np.testing.assert_array_equal(survey.spec.high, np.array([sound.max(), 1.25], np.float32))


def test_a_told_spec_replaces_what_was_assumed_and_must_fit(tmp_path):
    # mutation: return the told Spec unchecked
    path = write(tmp_path / "a.zarr", rows())
    assumed, _ = read_all(path)
    told = assumed.spec.choose(dt=0.02, state_units=("m",) * 8)
    (tmp_path / "spec.json").write_text(json.dumps(told.to_json()))
    config = Config(spec=str(tmp_path / "spec.json"))
    survey, episodes = read_all(path, config)
    assert survey.spec == told == episodes[0].spec
    assert not any("--source.hz" in line for line in survey.assumed)
    narrow = Config(spec=config.spec, state=("state",))
    with pytest.raises(ConversionError, match="state_dim: expected 5"):
        narrow.build(path)
    (tmp_path / "spec.json").write_text(json.dumps(told.choose(cameras=()).to_json()))
    with pytest.raises(ConversionError, match=r"cameras: expected .*img"):
        config.build(path)


def test_the_state_is_what_was_chosen_in_that_order(tmp_path):
    path = write(tmp_path / "a.zarr", rows())
    survey, episodes = read_all(path, Config(state=("agent_pos",), hz=20))
    assert survey.spec.state_dim == 3 and survey.spec.dt == 0.05 and episodes[0].states.shape == (3, 3)
    assert any(line.startswith("state: ") for line in survey.left_out)
    with pytest.raises(ConversionError, match=r"--source\.state.*speed"):
        Config(state=("speed",)).build(path)


def test_images_alone_are_a_dataset(tmp_path):
    data = {key: value for key, value in rows().items() if key in ("action", "img")}
    survey, episodes = read_all(write(tmp_path / "a.zarr", data))
    assert survey.spec.state_dim == 0 and episodes[1].states.shape == (4, 0)


def test_rewards_are_taken_where_they_are(tmp_path):
    # mutation: "reward" counted into the state, or zeros regardless
    reward = np.arange(12, dtype=np.float32)
    for shape in ((12,), (12, 1)):
        path = write(tmp_path / f"{len(shape)}.zarr", rows(reward=reward.reshape(shape)))
        survey, episodes = read_all(path)
        np.testing.assert_array_equal(np.concatenate([e.rewards for e in episodes]), reward)
        assert survey.spec.state_dim == 8 and not any("rewards" in line for line in survey.assumed)


def test_float_images_keep_their_value_or_are_refused():
    # mutation: astype(uint8) unchecked; accept 0..1 as nearly black
    whole = np.arange(0, 256, dtype=np.float32).reshape(1, 16, 16, 1).repeat(3, -1)
    np.testing.assert_array_equal(pixels(whole, "0..255", "x"), whole)
    np.testing.assert_array_equal(pixels(whole / 255, "0..1", "x"), whole)
    np.testing.assert_array_equal(pixels(whole.astype(np.float64) / 255, "0..1", "x"), whole)
    np.testing.assert_array_equal(pixels(np.nextafter(whole / 255, np.float32(0)), "0..1", "x"), whole)
    assert pixels(whole * 0, "0..255", "x").max() == 0
    for wrong in (whole + 0.5, whole - 1, whole + 1, whole * np.nan, whole / 255, (whole > 99).astype(np.float32)):
        with pytest.raises(ConversionError, match=r"--source\.float_images=0\.\.1"):
            pixels(wrong, "0..255", "x")
    for wrong in (whole, whole * np.nan, -whole / 255):
        with pytest.raises(ConversionError, match=r"--source\.float_images=0\.\.255"):
            pixels(wrong, "0..1", "x")


def test_float_images_are_converted_episode_by_episode(tmp_path):
    data = rows()
    wanted = data["img"].copy()
    data["img"] = data["img"].astype(np.float32)
    data["img"][8, 0, 0, 0] = 0.5  # in the last episode
    source = Config().build(write(tmp_path / "a.zarr", data))
    np.testing.assert_array_equal(source.read(1).images["img"], wanted[3:7])
    with pytest.raises(ConversionError, match=r"a\.zarr: episode_2, data/img: expected whole numbers.*0\.5"):
        source.read(2)


@pytest.mark.parametrize(
    ("ends", "what"),
    [
        ((3, 7, 11), "expected 11 rows"),
        ((3, 7, 13), "expected 13 rows"),
        ((7, 3, 12), "never decrease, got 3 for episode 1"),
        ((-1, 12), "never decrease, got -1 for episode 0"),
        ((), "episodes, got 0"),
    ],
)
def test_ends_that_do_not_cut_the_rows_are_refused(tmp_path, ends, what):
    path = write(tmp_path / "a.zarr", rows(), ends=ends)
    with pytest.raises(ConversionError, match=what):
        Config().build(path)


def test_a_buffer_without_action_or_with_fractional_ends_is_refused(tmp_path):
    data = rows()
    del data["action"]
    with pytest.raises(ConversionError, match=r"data/action.*agent_pos"):
        Config().build(write(tmp_path / "a.zarr", data))
    path = write(tmp_path / "b.zarr", rows(), **{"episode_ends": np.array(ENDS, float)})
    with pytest.raises(ConversionError, match="whole numbers"):
        Config().build(path)
    with pytest.raises(ConversionError, match="float_images"):
        Config(float_images="0-255").build(path)


def test_a_damaged_chunk_costs_its_episodes_only_and_is_named(tmp_path):
    # mutation: `readable` lets the error out, so that the survey already fails
    path = write(tmp_path / "a.zarr", rows())
    for key in ("action", "img"):
        (chunk,) = (path / "data" / key).glob("1.0*")
        chunk.unlink()  # rows 4..7: episodes 1 and 2
    with EpisodeStore.create(tmp_path / "store", (source := Config().build(path)).survey.spec) as store:
        with pytest.raises(ConversionError, match=r"episode_1.*data/img.*1\.0.*--skip_bad"):
            convert(source, store, progress=False)
        done = convert(source, store, skip_bad=True, progress=False)
        assert (len(store), done.there, len(done.skipped)) == (1, 1, 2)


def test_a_conversion_goes_on_where_it_stopped_and_knows_another_source(tmp_path):
    # mutation: identity without sizes of the chunks' full names
    path = write(tmp_path / "a.zarr", rows())
    source = Config().build(path)
    with EpisodeStore.create(tmp_path / "store", source.survey.spec) as store:
        assert len(convert(source, store, progress=False).appended) == 3
        again = convert(Config().build(path), store, progress=False)
        assert again.there == 3 and not again.appended
        assert store.about(store.names()[1])["provenance"]["converted"]["key"] == "episode_1"
    other = Config().build(write(tmp_path / "b.zarr", rows(seed=1)))
    assert other.survey.identity != source.survey.identity
    moved = shutil.copytree(path, tmp_path / "moved.zarr")
    assert Config().build(moved).survey.identity == source.survey.identity


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    chunk=st.integers(1, 30),
    piece=st.integers(1, 400),
    done=st.integers(0, 3),  # episodes that an earlier run converted
)
def test_rows_in_order_decode_every_chunk_once_and_hold_no_more_than_a_piece(
    tmp_path_factory, monkeypatch, lengths, chunk, piece, done
):
    # mutation: keep nothing; start decoding at row `at` instead of its chunk; decode to the array's end
    total = sum(lengths)
    if sum(lengths[done:]) == 0:
        return
    data = np.arange(total * 2, dtype=np.float32).reshape(total, 2)
    path = write(tmp_path_factory.mktemp("r") / "a.zarr", {"action": data}, ends=np.cumsum(lengths), chunk=chunk)
    read, decoded = untrusted.rows, []

    def counted(array, start, stop):
        decoded.append((start, stop))
        return read(array, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(replay_buffer, "PIECE", piece)
        buffer = replay_buffer.open_buffer(path)
        patch.setattr(replay_buffer.untrusted, "rows", counted)
        begin = at = sum(lengths[:done])
        for length in lengths[done:]:
            np.testing.assert_array_equal(buffer.keys["action"](at, at + length), data[at : at + length])
            at += length
    size = min(chunk, total)
    assert [start for start, _ in decoded] == [begin - begin % size, *(stop for _, stop in decoded[:-1])] and decoded[
        -1
    ][1] == total
    assert all((stop - start) * 8 <= max(piece, size * 8) and start % size == 0 for start, stop in decoded)


def test_a_file_that_is_no_buffer_is_not_recognised(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("data/action/.zarray")
    (tmp_path / "broken.zarr.zip").write_bytes(b"PK\x05\x06" + b"\xff" * 18)
    for name in ("folder", "text", "broken.zarr.zip", "nothing"):
        assert not recognises(tmp_path / name) and not umi_converter.recognises(tmp_path / name)
