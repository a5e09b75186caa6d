"""UMI zips in: the action is the pose that follows, the last pose is the last observation, images decode to the bit."""

import sys

import numpy as np
import pytest
import zarr
from imagecodecs.numcodecs import Jpegxl, register_codecs
from zarr.storage import LocalStore, ZipStore

from robot_value import untrusted
from robot_value.convert import ConversionError, convert
from robot_value.datasets import diffusion_policy_converter
from robot_value.datasets.umi_converter import Config, recognises
from robot_value.episodes import EpisodeStore

ENDS = (4, 5, 11)  # the second has one row, so no action
SHAPES = {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1}


def rows(robots=1, seed=0, **more):
    rng, total = np.random.default_rng(seed), ENDS[-1]
    data = {"camera0_rgb": rng.integers(0, 256, (total, 16, 24, 3), np.uint8)}
    for robot in range(robots):
        data |= {
            f"robot{robot}_{key}": rng.normal(size=(total, dims)).astype(np.float32) for key, dims in SHAPES.items()
        }
        for key in ("demo_start_pose", "demo_end_pose"):
            poses = rng.normal(size=(len(ENDS), 6))
            data[f"robot{robot}_{key}"] = np.repeat(poses, np.diff(ENDS, prepend=0), axis=0)
    return data | more


def write(path, data):
    """As UMI's scripts do: zarr v2, a chunk per image, JPEG XL."""
    register_codecs(("imagecodecs_jpegxl",), verbose=False)
    store = ZipStore(path, mode="w") if path.suffix == ".zip" else LocalStore(path)
    root = zarr.create_group(store, zarr_format=2)
    groups = {"meta": {"episode_ends": np.array(ENDS)}, "data": data}
    for name, arrays in groups.items():
        group = root.create_group(name)
        for key, array in arrays.items():
            image = array.ndim == 4
            codec = Jpegxl(level=100, lossless=True) if image else None
            chunks = (1 if image else len(array), *array.shape[1:])
            made = group.create_array(key, shape=array.shape, dtype=array.dtype, chunks=chunks, compressors=codec)
            made[...] = array
    store.close()
    return path


@pytest.mark.parametrize("name", ["dataset.zarr.zip", "dataset.zarr"])
def test_the_action_of_a_step_is_the_next_pose_and_the_last_pose_is_the_final_observation(tmp_path, name):
    # mutation: actions = observed[:-1]; drop the last state; keep float64
    data = rows(robots=2)
    path = write(tmp_path / name, data)
    assert recognises(path) and not diffusion_policy_converter.recognises(path)
    source = Config().build(path)
    assert source.survey.keys == ("episode_0", "episode_2") and source.survey.steps == (3, 5)
    poses = np.concatenate([data[f"robot{robot}_{key}"] for robot in (0, 1) for key in SHAPES], axis=1)
    for index, (start, stop) in enumerate([(0, 4), (5, 11)]):
        episode = source.read(index)
        np.testing.assert_array_equal(episode.states, poses[start:stop])
        np.testing.assert_array_equal(episode.actions, poses[start + 1 : stop])
        np.testing.assert_array_equal(episode.images["camera0_rgb"], data["camera0_rgb"][start:stop])
        assert episode.final_observed and episode.truncated and not episode.terminated and episode.success is None
        assert episode.provenance["robot1_demo_end_pose"] == data["robot1_demo_end_pose"][start].tolist()


def test_poses_and_grippers_are_named_with_kind_and_unit(tmp_path):
    # mutation: swap rotation and width; limits over the first poses too
    data = rows(robots=2)
    data["robot1_gripper_width"][[0, 4, 5]] = 9.0  # first poses are nobody's action
    spec = Config().build(write(tmp_path / "dataset.zarr.zip", data)).survey.spec
    assert [(p.name, p.kind, p.rotation, p.unit, p.stop - p.start, p.reference) for p in spec.parts] == [
        ("robot0_pose", "pose", "axis_angle", "m+rad", 6, "absolute"),
        ("robot0_gripper", "gripper", "none", "m", 1, "absolute"),
        ("robot1_pose", "pose", "axis_angle", "m+rad", 6, "absolute"),
        ("robot1_gripper", "gripper", "none", "m", 1, "absolute"),
    ]
    names = dict(zip(spec.state_names, spec.state_units, strict=True))
    assert names["robot1_eef_pos_2"] == "m" and names["robot0_eef_rot_axis_angle_0"] == "rad"
    assert names["robot1_gripper_width_0"] == "m" and spec.dt == 1 / 60
    acted = np.delete(data["robot1_gripper_width"][:, 0], [0, 4, 5])
    assert spec.low[13] == acted.min() and spec.high[13] == acted.max()


def test_what_is_assumed_and_left_out_is_said(tmp_path):
    # mutation: forget one; "digits" for demo poses, which provenance holds in full
    more = {"action": np.zeros((11, 7), np.float32), "camera0_depth": np.zeros((11, 4, 4), np.float32)}
    more["robot0_eef_pos"] = np.ones((11, 3))
    survey = Config(hz=59.94).build(write(tmp_path / "dataset.zarr.zip", rows(**more))).survey
    for flag in ("--source.hz", "--source.spec", "'tag'", "data label"):
        assert any(flag in line for line in survey.assumed), flag
    assert len(survey.left_out) == 4
    for left in ("action: float32[11, 7]", "camera0_depth", "1 episodes with fewer than 2", "robot0_eef_pos: digits"):
        assert any(left in line for line in survey.left_out), left


def test_it_becomes_a_store_that_reads_back(tmp_path):
    source = Config().build(write(tmp_path / "dataset.zarr.zip", rows()))
    with EpisodeStore.create(tmp_path / "store", source.survey.spec) as store:
        assert len(convert(source, store, progress=False).appended) == 2
        np.testing.assert_array_equal(store.read(store.names()[1]).actions, source.read(1).actions)


def test_a_pose_without_its_rotation_or_gripper_is_refused(tmp_path):
    data = rows()
    del data["robot0_gripper_width"]
    with pytest.raises(ConversionError, match=r"robot0_gripper_width.*got nothing"):
        Config().build(write(tmp_path / "a.zarr.zip", data))
    wrong = rows(robot0_eef_rot_axis_angle=np.zeros((11, 4), np.float32))
    with pytest.raises(ConversionError, match=r"rot_axis_angle.*\[rows, 3\], got float32\[11, 4\]"):
        Config().build(write(tmp_path / "b.zarr.zip", wrong))


def test_a_demonstration_that_begins_in_two_places_is_refused(tmp_path):
    data = rows()
    data["robot0_demo_start_pose"][2] += 1
    source = Config().build(write(tmp_path / "a.zarr.zip", data))
    with pytest.raises(ConversionError, match=r"episode_0, data/robot0_demo_start_pose"):
        source.read(0)
    assert len(source.read(1)) == 5


def test_without_imagecodecs_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "dataset.zarr", rows())

    def refuse(path):
        raise untrusted.Refused("codec not available: 'imagecodecs_jpegxl'")

    monkeypatch.setattr(untrusted, "open_zarr", refuse)
    with pytest.raises(untrusted.Refused):  # the library is there: another reason
        Config().build(path)
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    with pytest.raises(ConversionError, match="pip install imagecodecs"):
        Config().build(path)
