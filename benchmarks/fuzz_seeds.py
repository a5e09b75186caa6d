"""Small sound files of every kind that a loader reads, to mutate. Each converter needs one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import lerobot_sets
import ros_bags
from recorded import make_episode, make_spec

from robot_value import checkpoint
from robot_value.episodes import EpisodeStore
from robot_value.episodes.cache import open_cache
from robot_value.normalize import fit_statistics
from robot_value.steering.abstention import Calibration, Setup, choose
from robot_value.steering.alarm import Alarm

STORE = ("store", "data verify", "data inspect")
TOPICS = Path(__file__).resolve().parents[1] / "launch" / "params" / "topics.yaml"


def seeds() -> dict[str, tuple[Callable[[Path], object], tuple[str, ...]]]:
    """File or folder name -> (makes it at a path, loaders that read it)."""
    return {
        "store": (store, STORE),
        "cached": (cached, ("cache",)),
        "checkpoint": (trained, ("checkpoint",)),
        "calibration.json": (calibration, ("calibration",)),
        "alarm.json": (lambda path: Alarm.fit(np.random.default_rng(0).normal(size=(40, 6))).save(path), ("alarm",)),
        "spec.json": (lambda path: path.write_text(json.dumps(make_spec().to_json())), ("spec",)),
        "topics.yaml": (lambda path: path.write_bytes(TOPICS.read_bytes()), ("topics",)),
        "buffer.zarr": (replay_buffer, ("convert diffusion_policy", "recognise")),
        "buffer.zarr.zip": (replay_buffer, ("convert diffusion_policy",)),
        "umi.zarr.zip": (umi, ("convert umi", "recognise")),
        "lerobot": (lerobot_sets.write_set, ("convert lerobot", "recognise")),
        "video": (lambda path: lerobot_sets.write_set(path, camera="video"), ("convert lerobot",)),
        "robomimic.hdf5": (robomimic, ("convert robomimic", "recognise")),
        "minari": (minari, ("convert minari", "recognise")),
        "mcap": (lambda path: bag(path, "mcap"), ("convert rosbag", "recognise")),
        "sqlite": (lambda path: bag(path, "sqlite3"), ("convert rosbag",)),
    }


def store(path: Path) -> None:
    spec = make_spec(cameras=("wrist",))
    with EpisodeStore.create(path, spec) as made:
        for seed in range(2):
            made.append(make_episode(spec, seed=seed, decisions=3))


def cached(path: Path) -> None:
    store(path)
    open_cache(EpisodeStore.open(path), progress=False)


def trained(path: Path) -> None:
    rng, spec = np.random.default_rng(0), make_spec()
    statistics = fit_statistics({"state": rng.normal(size=(9, 3)), "action": rng.normal(size=(9, 3))})
    learner = {"step": 3, "moments": [torch.ones(3)], 5: (1.0, float("nan"))}
    named = {"kind": "critics", "name": "iql", "config": {}, "spec": spec, "statistics": statistics}
    checkpoint.save(path, tensors={"w": torch.ones(2, 3)}, learner=learner, **named)


def calibration(path: Path) -> None:
    base = np.zeros(30, bool)
    setup = Setup("flow", "iql", "best", "plain", "none", 8, 4)
    Calibration(choose(base, {0.0: ~base, 1.0: base}), 0.0, (0.1, 0.2), setup, (1, 2), (0.5,)).save(path)


def replay_buffer(path: Path) -> None:
    rng = np.random.default_rng(0)
    floats = {key: rng.normal(size=(12, n)).astype(np.float32) for key, n in (("action", 2), ("state", 3))}
    images = rng.integers(0, 256, (12, 4, 6, 3), np.uint8)
    zarr_group(path, {"data": floats | {"img": images}, "meta": {"episode_ends": np.array([5, 12])}})


def umi(path: Path) -> None:
    rng = np.random.default_rng(0)
    widths = {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1, "demo_start_pose": 6, "demo_end_pose": 6}
    data = {f"robot0_{key}": rng.normal(size=(12, n)).astype(np.float32) for key, n in widths.items()}
    for key in ("robot0_demo_start_pose", "robot0_demo_end_pose"):
        data[key][:5], data[key][5:] = data[key][0], data[key][5]  # one pose in all rows of an episode
    data["camera0_rgb"] = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    zarr_group(path, {"data": data, "meta": {"episode_ends": np.array([5, 12])}}, jpegxl="camera0_rgb")


def zarr_group(path: Path, groups: dict[str, dict[str, np.ndarray]], jpegxl: str = "") -> None:
    """Version 2, as ReplayBuffer writes it."""
    import numcodecs
    import zarr
    from imagecodecs.numcodecs import Jpegxl
    from zarr.storage import LocalStore, ZipStore

    opened = ZipStore(path, mode="w") if path.suffix == ".zip" else LocalStore(path)
    numcodecs.register_codec(Jpegxl)
    root = zarr.create_group(opened, zarr_format=2)
    for name, arrays in groups.items():
        group = root.create_group(name)
        for key, rows in arrays.items():
            codec, length = (Jpegxl(level=90), 1) if key == jpegxl else (numcodecs.Blosc("lz4", 5, 0), 4)
            chunks = (min(length, len(rows)), *rows.shape[1:])
            kept = {"compressors": codec, "config": {"write_empty_chunks": True}}
            group.create_array(key, shape=rows.shape, dtype=rows.dtype, chunks=chunks, **kept)[...] = rows
    opened.close()


def robomimic(path: Path) -> None:
    import h5py

    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "env_kwargs": {"control_freq": 20}}
        )
        for i in range(2):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = 6
            seen = rng.normal(size=(7, 3))
            packed = {"actions": rng.uniform(-1, 1, (6, 7)), "obs/eef": seen[:-1], "next_obs/eef": seen[1:]}
            for key, rows in packed.items():
                demo.create_dataset(key, data=rows, compression="gzip", chunks=(3, rows.shape[1]))
            for key in ("rewards", "dones"):
                demo[key] = np.arange(6) == 5
            images = rng.integers(0, 256, (7, 4, 5, 3), np.uint8)
            demo["obs/view_image"], demo["next_obs/view_image"] = images[:-1], images[1:]


def minari(path: Path) -> None:
    import h5py

    rng, data = np.random.default_rng(0), path / "data"
    data.mkdir(parents=True)
    about = {"dataset_id": "door-v0", "total_episodes": 2, "total_steps": 12, "data_format": "hdf5"}
    (data / "metadata.json").write_text(json.dumps(about))
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for i in range(2):
            episode = file.create_group(f"episode_{i}")
            episode.attrs.update({"id": i, "total_steps": 6, "seed": i})
            episode["observations"] = rng.normal(size=(7, 3))
            episode["actions"] = rng.uniform(-1, 1, (6, 2))
            episode["rewards"] = rng.normal(size=6)
            for key in ("terminations", "truncations"):
                episode[key] = np.arange(6) == 5


def bag(path: Path, plugin: str) -> None:
    ros_bags.write_bag(path, ros_bags.recording(0.5), plugin)
    (path.parent / "topics.yaml").write_text(ros_bags.TOPICS)
