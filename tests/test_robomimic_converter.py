"""robomimic HDF5 in: every row where it belongs, the last frame from next_obs, and HDF5 that is a trap refused."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from recorded import assert_same

from robot_value.convert import ConversionError, convert, recognise
from robot_value.datasets import hdf5_files
from robot_value.datasets.robomimic_converter import Config, recognises
from robot_value.episodes.store import EpisodeStore
from robot_value.untrusted import Refused

ENV = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 25}}
STEPS = {"demo_0": 5, "demo_2": 3, "demo_10": 4}


def write(path, next_obs=True, change=None, **options):
    """Random demos whose names sort otherwise than their numbers; `change(file)` breaks something."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(ENV)
        for name, steps in STEPS.items():
            demo = data.create_group(name)
            demo.attrs["num_samples"], demo.attrs["model_file"] = steps, "<mujoco/>"
            pos, image = rng.normal(size=(steps + 1, 3)), rng.integers(0, 256, (steps + 1, 4, 5, 3), np.uint8)
            grip = rng.normal(size=(steps + 1, 1)).astype(np.float32)
            for key, rows in {"pos": pos, "grip": grip, "front": image}.items():
                demo.create_dataset(f"obs/{key}", data=rows[:-1], **options)
                if next_obs:
                    demo.create_dataset(f"next_obs/{key}", data=rows[1:], **options)
            demo["obs/depth"] = rng.random((steps, 4, 5, 1))
            demo["actions"] = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
            demo["rewards"] = np.eye(steps)[-1] * (name != "demo_2")
            demo["dones"] = np.eye(steps, dtype=int)[-1] * (name != "demo_2")
            demo["states"] = rng.random((steps, 6))
        file["mask/train"] = np.array(["demo_10", "demo_0"], "S")
        if change:
            change(file)
    return path


def source(path, **options):
    return Config(**options).build(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("robomimic") / "low_dim.hdf5")


def test_every_row_is_where_it_belongs(path, tmp_path):
    # mutation: next_obs shifted by one; obs in the file's order; names sorted as texts
    opened = source(path)
    assert opened.survey.keys == ("demo_0", "demo_2", "demo_10") and opened.survey.steps == (5, 3, 4)
    assert opened.survey.spec.state_names == ("grip_0", "pos_0", "pos_1", "pos_2") and opened.survey.spec.dt == 1 / 25
    with h5py.File(path) as file, EpisodeStore.create(tmp_path / "store", opened.survey.spec) as store:
        convert(opened, store, progress=False)
        for name, episode in zip(opened.survey.keys, store, strict=True):
            demo = file[f"data/{name}"]
            assert episode.final_observed and episode.task == "Lift"
            for part, rows in {"obs": episode.states[:-1], "next_obs": episode.states[1:]}.items():
                assert_same(np.hstack([demo[f"{part}/grip"], demo[f"{part}/pos"]]).astype(np.float32), rows)
            assert_same(demo["next_obs/front"][()], episode.images["front"][1:])
            assert_same(demo["obs/front"][0], episode.images["front"][0])
            assert_same(demo["actions"][()], episode.actions)
            assert_same(demo["rewards"][()].astype(np.float32), episode.rewards)
            solved = name != "demo_2"
            assert (episode.success, episode.terminated, episode.truncated) == (solved or None, solved, not solved)


def test_without_next_obs_no_frame_is_invented(tmp_path):
    # mutation: the last frame repeated
    opened = source(write(tmp_path / "x.hdf5", next_obs=False))
    assert [len(opened.read(i).states) for i in range(3)] == [5, 3, 4]


def test_limits_are_the_datas_own_and_what_is_not_said_is_listed(path):
    # mutation: limits of the first demo alone; a silent guess
    opened = source(path)
    actions = np.concatenate([opened.read(i).actions for i in range(3)])
    assert_same(actions.min(0), opened.survey.spec.low)
    assert_same(actions.max(0), opened.survey.spec.high)
    left = "\n".join(opened.survey.left_out)
    assert all(word in left for word in ("obs/depth", "states", "model_file", "float32 does not hold of obs/pos"))
    assumed = "\n".join(opened.survey.assumed)
    assert "--source.spec" in assumed and "--source.success_from_reward" in assumed and "control rate" not in assumed


def test_filter_and_state_choose(path):
    # mutation: the mask's order instead of the demos'; state sorted
    chosen = source(path, filter="train", state=("pos",))
    assert chosen.survey.keys == ("demo_0", "demo_10") and chosen.read(0).states.shape == (6, 3)
    with pytest.raises(ConversionError, match=r"expected one of \['train'\], got 'test'"):
        source(path, filter="test")
    with pytest.raises(ConversionError, match=r"--source.state: expected keys of"):
        source(path, state=("nothing",))


def test_success_is_only_read_from_rewards_where_that_is_wanted(path):
    # mutation: success False where no reward came
    assert [source(path).read(i).success for i in range(3)] == [True, None, True]
    assert source(path, success_from_reward=False).read(0).success is None


def test_a_told_spec_must_fit_the_data(path, tmp_path):
    # mutation: the told Spec ignored / taken unchecked
    spec = source(path).survey.spec
    told = tmp_path / "spec.json"
    told.write_text(json.dumps(spec.choose(state_units=("m", "m", "m", "m")).to_json()))
    assert source(path, spec=str(told)).read(0).spec.state_units == ("m",) * 4
    told.write_text(json.dumps(spec.choose(state_names=("a",), state_units=("m",)).to_json()))
    with pytest.raises(ConversionError, match="state_dim: expected 4 as in the data, got 1"):
        source(path, spec=str(told))


def shift(file):
    file["data/demo_2/next_obs/pos"][0, 1] += 1


def shorten(file):
    del file["data/demo_2/rewards"]
    file["data/demo_2/rewards"] = np.zeros(2)


def lose(file):
    del file["data/demo_2/obs/grip"]


def widen(file):
    del file["data/demo_2/actions"]
    file["data/demo_2/actions"] = np.zeros((3, 5), np.float32)


def count(file):
    file["data/demo_2"].attrs["num_samples"] = 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shift, "demo_2/next_obs/pos row 0: expected what row 1 sees"),
        (shorten, "demo_2/rewards: expected 3 rows as in actions, got 2"),
        (lose, "demo_2/obs/grip: expected an array, got nothing"),
        (widen, "demo_2: .*actions"),
        (count, r"demo_2: expected 9 actions \(num_samples\), got 3"),
    ],
)
def test_a_bad_demo_is_named_and_the_others_are_read(tmp_path, change, said):
    # mutation: the check left out; the whole file refused
    opened = source(write(tmp_path / "x.hdf5", change=change))
    with pytest.raises(ConversionError, match=said):
        opened.read(1)
    assert len(opened.read(0)) == 5 and len(opened.read(2)) == 4


def test_bytes_that_are_no_hdf5_are_our_error(path, tmp_path):
    # mutation: h5py's OSError passes; recognises raises
    content = path.read_bytes()
    for name, damaged in {
        "empty": b"",
        "text": b"hello",
        "cut": content[:3000],
        "head": content[:8] + b"\0" * 99,
    }.items():
        bad = tmp_path / f"{name}.hdf5"
        bad.write_bytes(damaged)
        assert not recognises(bad)
        with pytest.raises(ConversionError, match="expected readable HDF5"):
            source(bad)
    assert recognises(path) and not recognises(tmp_path) and not recognises(tmp_path / "nothing")


def test_flipped_bytes_never_raise_anything_but_our_errors(path, tmp_path):
    # mutation: an exception of h5py that `sound` does not know
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for i in range(25):
        broken = bytearray(content)
        for at in rng.integers(0, len(content), 20):
            broken[at] = rng.integers(256)
        bad = tmp_path / f"{i}.hdf5"
        bad.write_bytes(broken)
        try:
            opened = source(bad)
            [opened.read(k) for k in range(len(opened.survey.keys))]
        except (ConversionError, Refused):
            pass


# -- traps ------------------------------------------------------------------------------------------------------------


def trap(tmp_path, make):
    with h5py.File(tmp_path / "trap.hdf5", "w") as file:
        make(file)
    return tmp_path / "trap.hdf5"


def test_links_that_leave_the_file_are_refused(tmp_path):
    # mutation: links checked at the root only
    outside = trap(tmp_path, lambda f: f.create_group("a").__setitem__("b", h5py.ExternalLink("/etc/passwd", "/x")))
    with pytest.raises(Refused, match=r"expected links inside the file, got 'a/b', which leaves it"):
        hdf5_files.open_hdf5(outside)


def test_a_soft_link_inside_the_file_is_followed_and_a_circle_is_an_error(tmp_path):
    # mutation: every soft link refused
    def make(file):
        file["x"] = np.arange(3.0)
        file["y"], file["z"] = h5py.SoftLink("/x"), h5py.SoftLink("/z")

    with hdf5_files.open_hdf5(trap(tmp_path, make)) as file:
        assert hdf5_files.rows(hdf5_files.array(file, "y")).tolist() == [0, 1, 2]
        with pytest.raises(ConversionError, match="/z"):
            hdf5_files.array(file, "z")


def test_too_many_names_are_refused(tmp_path, monkeypatch):
    # mutation: names counted per group
    monkeypatch.setattr(hdf5_files, "MOST_LINKS", 20)
    made = trap(tmp_path, lambda f: [f.create_group(f"{a}/{b}") for a in range(5) for b in range(5)])
    with pytest.raises(Refused, match=r"expected at most 20 names, got more.*ROBOT_VALUE_CAPS=10"):
        hdf5_files.open_hdf5(made)


def test_a_file_with_bad_links_is_recognised_so_that_opening_it_says_why(tmp_path, monkeypatch):
    # mutation: links checked in top_level; the limit of before, which 10,000 demos exceed
    assert hdf5_files.MOST_LINKS > 35 * 10_000
    outside = trap(tmp_path, lambda f: f.create_group("data").__setitem__("b", h5py.ExternalLink("/etc/passwd", "/x")))
    assert recognise(outside) == "robomimic"
    with pytest.raises(Refused, match="which leaves it"):
        source(outside)
    monkeypatch.setattr(hdf5_files, "MOST_LINKS", 1)
    assert recognise(write(tmp_path / "many.hdf5")) == "robomimic"


def test_no_more_names_are_kept_than_a_file_may_have(tmp_path, monkeypatch):
    # mutation: set(file)
    monkeypatch.setattr(hdf5_files, "MOST_LINKS", 20)
    assert len(hdf5_files.top_level(trap(tmp_path, lambda f: [f.create_group(str(i)) for i in range(50)]))) == 20


def elsewhere(file):
    file.create_dataset("x", (10,), "f4", external=[("/etc/passwd", 0, 40)])


def virtual(file):
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(10,))
    file.create_virtual_dataset("x", layout)


def absurd(file):
    file.create_dataset("x", (1 << 40,), "f4", chunks=(1 << 20,))


def plugin(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((10,))
    properties.set_filter(305, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((10,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, properties)


def wide_chunk(file):
    file.create_dataset("x", (10,), "f4", chunks=(1 << 27,), maxshape=(None,), compression="gzip")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (elsewhere, "data stored in other files"),
        (virtual, "data stored in other files"),
        (absurd, "bytes"),
        (plugin, r"got HDF5 filters \[305\]"),
        (wide_chunk, "expected chunks of at most"),
    ],
)
def test_datasets_that_lie_or_run_code_are_refused(tmp_path, make, said):
    # mutation: any one check of `array` left out
    with hdf5_files.open_hdf5(trap(tmp_path, make)) as file, pytest.raises(Refused, match=said):
        hdf5_files.array(file, "x")


@pytest.mark.parametrize(
    "dtype", [h5py.string_dtype(), h5py.vlen_dtype(np.float32), h5py.ref_dtype, [("a", "f4")], "S3"]
)
def test_objects_records_and_texts_are_no_numbers(tmp_path, dtype):
    # mutation: object dtypes handed to numpy
    with (
        hdf5_files.open_hdf5(trap(tmp_path, lambda f: f.create_dataset("x", (3,), dtype))) as file,
        pytest.raises(ConversionError, match="expected numbers"),
    ):
        hdf5_files.array(file, "x")


def test_a_gzip_bomb_in_a_small_chunk_is_measured_before_it_is_decoded(tmp_path, monkeypatch):
    # mutation: only the declared size checked
    import zlib

    def make(file):
        data = file.create_dataset("x", (1000,), "u1", chunks=(1000,), compression="gzip")
        data.id.write_direct_chunk((0,), zlib.compress(bytes(1_000_000)))

    monkeypatch.setattr(hdf5_files, "SURE", 1000)
    with hdf5_files.open_hdf5(trap(tmp_path, make)) as file, pytest.raises(Refused, match="may become 100"):
        hdf5_files.array(file, "x")


@pytest.mark.parametrize(
    "options", [{"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"}]
)
def test_honest_compression_passes_the_measurement(tmp_path, monkeypatch, options):
    # mutation: checksums counted as a bomb; incompressible chunks refused
    rng = np.random.default_rng(0)
    known = {"noise": rng.integers(0, 256, (50, 40), np.uint8), "steps": np.arange(2000.0).reshape(100, 20)}

    def make(file):
        for name, rows in known.items():
            file.create_dataset(name, data=rows, chunks=(10, 20), **options)

    monkeypatch.setattr(hdf5_files, "SURE", 1000 if options["compression"] == "gzip" else hdf5_files.SURE)
    with hdf5_files.open_hdf5(trap(tmp_path, make)) as file:
        for name, rows in known.items():
            assert_same(rows, hdf5_files.rows(hdf5_files.array(file, name)))


@pytest.mark.parametrize("chunks", [(2, 2), None])
def test_rows_that_were_never_written_are_an_error_and_not_zeros(tmp_path, chunks):
    # mutation: HDF5's fill value taken for data
    def make(file):
        data = file.create_dataset("x", (10, 2), "f4", chunks=chunks)
        if chunks:
            data[:6] = 1

    with (
        hdf5_files.open_hdf5(trap(tmp_path, make)) as file,
        pytest.raises(ConversionError, match="never written"),
    ):
        hdf5_files.array(file, "x")
