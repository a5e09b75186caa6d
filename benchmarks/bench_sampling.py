"""Samples per second of ChunkSampler against `torch.index_select` of the very same rows, held ready in RAM.

index_select is given finished row numbers and does nothing but gather every tensor that the batch holds; the sampler
also draws, computes the rows and handles episode ends. "windows" is the leaner baseline that gathers only observation,
chunk and next observation. Beside them: reading per sample from zarr, tensorstore (where it is installed), h5py
(robomimic's layout) and LeRobotDataset v3, and PoolSampler, which keeps a third of the data in RAM and is charged for
decoding the rest. Arms take turns, in one process. The gate is the lower end of the ratio's interval: at least 0.8.

    python benchmarks/bench_sampling.py            # about 4 minutes
    python benchmarks/bench_sampling.py --quick    # about 1 minute
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import h5py
import numpy as np
import torch
import zarr

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blocks import Arm, interleave, median_ms, ratio

from robot_value.episodes.cache import Cache, open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.pool import PoolSampler, outline
from robot_value.sampling import ChunkBatch, ChunkSampler
from robot_value.types import ActionPart, Camera, Episode, Spec

GATE = 0.8
BATCH, HORIZON, STATE, ACTION, STEPS, SIZE, FPS = 256, 10, 50, 7, 200, 96, 20
PER_SAMPLE = 16  # samples per call of the slow readers
READY = 400  # batches whose row numbers are made before timing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data, fewer blocks")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/sampling.json"), help="result file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    logging.disable(logging.WARNING)  # LeRobot reports at length that it decodes no videos here
    rows = [
        compare("low-dimensional", 200 if options.quick else 1000, False, 10 if options.quick else 60),
        compare("images 96x96", 15 if options.quick else 100, True, 10 if options.quick else 60),
    ]
    trusted = all(row["trusted"] for row in rows)
    passed = all(row["ratio_low"] >= GATE for row in rows) if trusted else None
    result = {"gate": GATE, "passed": passed, "cores": os.cpu_count(), "threads": options.threads, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    verdict = {True: "PASS", False: "FAIL", None: "NO VERDICT, the machine was busy"}[passed]
    print(f"{verdict} (gate: ratio >= {GATE} on clean blocks); written to {options.out}")


def compare(name: str, episodes: int, images: bool, seconds: float) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        store = record(Path(folder) / "store", episodes, images)
        cache = open_cache(store)
        ram = in_ram(cache)
        pool, batches = pool_reader(store)
        arms = {
            "sampler": (ChunkSampler(cache, HORIZON, batch_size=BATCH).sample, BATCH),
            "index_select": (gather_all(cache, *ram), BATCH),
            "windows": (gather_windows(cache, *ram), BATCH),
            "pool": (pool, batches * BATCH),
            "zarr": (zarr_reader(store), PER_SAMPLE),
            "h5py": (h5py_reader(store, Path(folder) / "demo.hdf5"), PER_SAMPLE),
            "lerobot": (lerobot_reader(store, Path(folder) / "lerobot", episodes=2 if images else 10), PER_SAMPLE),
        }
        try:
            arms["tensorstore"] = tensorstore_reader(store), PER_SAMPLE
        except ImportError:
            print(f"{name}: tensorstore is not installed: skipped")
        timed = {arm: Arm(run) for arm, (run, _) in arms.items()}
        interleave(timed, seconds, block=0.1)
    return row(name, timed, {arm: samples for arm, (_, samples) in arms.items()})


def row(name: str, arms: dict[str, Arm], samples: dict[str, int]) -> dict:
    """samples: of one call of each arm."""
    rates = {arm: samples[arm] / float(np.median(found.seconds)) for arm, found in arms.items()}
    ratios = {arm: per_sample_ratio(arms, samples, arm) for arm in arms if arm != "index_select"}
    middle, low, high = ratios["sampler"]
    trusted = arms["sampler"].trusted and arms["index_select"].trusted
    windows = ratio(arms["windows"], arms["sampler"])
    print(
        f"{name}: sampler {rates['sampler']:,.0f} samples/s, {middle:.2f} [{low:.2f}, {high:.2f}] of index_select of "
        f"all tensors, {windows[0]:.2f} [{windows[1]:.2f}, {windows[2]:.2f}] of windows only"
        + ("" if trusted else " (too few clean blocks: no verdict)")
    )
    for other in sorted(ratios.keys() - {"sampler", "windows"}, key=lambda arm: -rates[arm]):
        middle_of, low_of, high_of = ratios[other]
        print(
            f"    {other}: {rates[other]:,.0f} samples/s, {middle_of:.5f} [{low_of:.5f}, {high_of:.5f}] of index_select"
        )
    return {
        "name": name,
        "trusted": trusted,
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
        "windows_ratio": windows,
        "ratios": ratios,
        "samples_per_s": rates,
        "ms": {arm: median_ms(found) for arm, found in arms.items()},
    }


def per_sample_ratio(arms: dict[str, Arm], samples: dict[str, int], arm: str) -> tuple[float, float, float]:
    """Samples per second of an arm over those of index_select: (ratio, low, high)."""
    scale = samples[arm] / samples["index_select"]
    middle, low, high = ratio(arms["index_select"], arms[arm])
    return scale * middle, scale * low, scale * high


def gather_all(
    cache: Cache, state: torch.Tensor, action: torch.Tensor, images: list[torch.Tensor]
) -> Callable[[], object]:
    """index_select of every tensor in a ChunkBatch, from contiguous tensors in RAM, with rows known beforehand."""
    steps = len(action)
    reward, ones, numbers = torch.zeros(steps), torch.ones(steps, dtype=torch.bool), torch.zeros(steps)
    integers = torch.arange(steps)

    def gather(first, window, now, after):
        return [
            state.index_select(0, now),
            state.index_select(0, after),
            action.index_select(0, window),
            *(image.index_select(0, now) for image in images),
            *(image.index_select(0, after) for image in images),
            reward.index_select(0, window),
            ones.index_select(0, window),  # valid
            ones.index_select(0, window),  # terminated
            *(numbers.index_select(0, first) for _ in range(3)),  # mc_return, weight, success
            *(integers.index_select(0, first) for _ in range(2)),  # task, index
        ]

    rows = ready_rows(cache)
    return lambda: gather(*next(rows))


def gather_windows(
    cache: Cache, state: torch.Tensor, action: torch.Tensor, images: list[torch.Tensor]
) -> Callable[[], object]:
    """index_select of observation, chunk and next observation only."""

    def gather(_, window, now, after):
        return [
            state.index_select(0, now),
            state.index_select(0, after),
            action.index_select(0, window),
            *(image.index_select(0, now) for image in images),
            *(image.index_select(0, after) for image in images),
        ]

    rows = ready_rows(cache)
    return lambda: gather(*next(rows))


def in_ram(cache: Cache) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    images = [torch.from_numpy(np.array(image)) for image in cache.images.values()]
    return torch.from_numpy(np.array(cache.state)), torch.from_numpy(np.array(cache.action)), images


def ready_rows(cache: Cache) -> Iterator[tuple[torch.Tensor, ...]]:
    """(first action, window of actions, frame now, frame after) of the batches that the sampler draws."""
    sampler = ChunkSampler(cache, HORIZON, batch_size=BATCH)
    rows = []
    for _ in range(READY if not cache.images else 20):
        first: ChunkBatch = sampler.sample().index
        episode = torch.div(first, STEPS, rounding_mode="floor")  # every episode has STEPS steps, STEPS + 1 frames
        step, end = first - episode * STEPS, (episode + 1) * STEPS - 1
        window = torch.minimum(first[:, None] + torch.arange(HORIZON), end[:, None]).reshape(-1)
        after = episode * (STEPS + 1) + torch.clamp(step + HORIZON, max=STEPS)
        rows.append((first, window, first + episode, after))
    return cycle(rows)


def pool_reader(store: EpisodeStore) -> tuple[Callable[[], object], int]:
    """An average pool's batches, and waiting until the next pool is decoded (it would run into other arms' blocks).

    Also how many batches that is.
    """
    known = outline(store)
    spec, frames = store.spec, int(known.frames.sum())
    size = frames * (4 * spec.state_dim + 8 * spec.action_dim + 128 + sum(3 * c.height * c.width for c in spec.cameras))
    sampler = PoolSampler(store, known, max(size // 3, size * 6 // len(known)), batch_size=BATCH, horizon=HORIZON)
    batches = max(1, len(sampler) // BATCH // sampler.pools)

    def call():
        for _ in range(batches):
            sampler.sample()
        sampler.settle()

    return call, batches


def zarr_reader(store: EpisodeStore) -> Callable[[], object]:
    """The stock zarr library on our store, three reads per sample, groups already open."""
    groups = [zarr.open_group(store.path / "episodes" / name, mode="r") for name in store.names()[:50]]
    keys = ["states", *(f"images/{camera.name}" for camera in store.spec.cameras)]
    opened = [([group[key] for key in keys], group["actions"]) for group in groups]
    return reader(lambda e, t: read_slices(*opened[e], t), len(opened))


def tensorstore_reader(store: EpisodeStore) -> Callable[[], object]:
    """The same reads through tensorstore, arrays already open."""
    import tensorstore

    def opened(name: str, key: str):
        path = str(store.path / "episodes" / name / key)
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
        return tensorstore.open(spec, read=True).result()

    names = store.names()[:50]
    keys = ["states", *(f"images/{camera.name}" for camera in store.spec.cameras)]
    arrays = [([opened(name, key) for key in keys], opened(name, "actions")) for name in names]

    def read(e: int, t: int) -> list[np.ndarray]:
        observed, actions = arrays[e]
        pending = [array[at].read() for array in observed for at in (t, t + HORIZON)]
        return [each.result() for each in (*pending, actions[t : t + HORIZON].read())]

    return reader(read, len(arrays))


def h5py_reader(store: EpisodeStore, path: Path) -> Callable[[], object]:
    """data/demo_i/{obs/<key>, actions}: robomimic's layout, contiguous datasets."""
    file = h5py.File(path, "w")
    opened = []
    for i, episode in enumerate(store):
        group = file.create_group(f"data/demo_{i}")
        arrays = {"state": episode.states, **episode.images}
        observed = [group.create_dataset(f"obs/{key}", data=array) for key, array in arrays.items()]
        opened.append((observed, group.create_dataset("actions", data=episode.actions)))
        if i == 49:
            break
    file.flush()
    return reader(lambda e, t: read_slices(*opened[e], t), len(opened))


def read_slices(observed: list, actions, t: int) -> list[np.ndarray]:
    seen = [array[at] for array in observed for at in (t, t + HORIZON)]
    return [*seen, actions[t : t + HORIZON]]


def lerobot_reader(store: EpisodeStore, root: Path, episodes: int) -> Callable[[], object]:
    """LeRobotDataset v3 with images as PNG in parquet; `dataset[i]` with delta_timestamps."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        "observation.state": {"dtype": "float32", "shape": (STATE,), "names": None},
        "action": {"dtype": "float32", "shape": (ACTION,), "names": None},
    }
    for camera in store.spec.cameras:
        shape = (camera.height, camera.width, 3)
        features[f"observation.images.{camera.name}"] = {"dtype": "image", "shape": shape, "names": ["h", "w", "c"]}
    writer = LeRobotDataset.create("bench/sampling", FPS, features, root=root, use_videos=False)
    for name in store.names()[:episodes]:
        add_episode(writer, store.read(name))
    writer.finalize()
    seen = [0.0, HORIZON / FPS]
    deltas = {key: [i / FPS for i in range(HORIZON)] if key == "action" else seen for key in features}
    dataset = LeRobotDataset("bench/sampling", root=root, delta_timestamps=deltas)
    return reader(lambda e, t: dataset[e * STEPS + t], episodes)


def add_episode(writer, episode: Episode) -> None:
    for t in range(len(episode)):
        images = {f"observation.images.{name}": image[t] for name, image in episode.images.items()}
        writer.add_frame(
            {"observation.state": episode.states[t], "action": episode.actions[t], "task": episode.task, **images}
        )
    writer.save_episode()


def reader(read: Callable[[int, int], object], episodes: int) -> Callable[[], object]:
    """PER_SAMPLE random samples, one after the other."""
    rng = np.random.default_rng(0)

    def call():
        where = zip(rng.integers(0, episodes, PER_SAMPLE), rng.integers(0, STEPS - HORIZON, PER_SAMPLE), strict=True)
        return [read(int(e), int(t)) for e, t in where]

    return call


def record(path: Path, episodes: int, images: bool) -> EpisodeStore:
    arm = ActionPart("arm", 0, ACTION, "joint", "rad", (-9.0,) * ACTION, (9.0,) * ACTION)
    spec = Spec(
        parts=(arm,),
        state_names=tuple(f"s{i}" for i in range(STATE)),
        state_units=("m",) * STATE,
        dt=1 / FPS,
        cameras=(Camera("front", SIZE, SIZE),) if images else (),
    )
    rng = np.random.default_rng(0)
    store = EpisodeStore.create(path, spec)
    for _ in range(episodes):
        store.append(
            Episode(
                spec=spec,
                states=rng.standard_normal((STEPS + 1, STATE), np.float32),
                images={c.name: rng.integers(0, 64, (STEPS + 1, SIZE, SIZE, 3), np.uint8) for c in spec.cameras},
                actions=rng.standard_normal((STEPS, ACTION), np.float32),
                rewards=np.zeros(STEPS, np.float32),
                terminated=False,
                truncated=True,
                success=False,
                task="bench",
            )
        )
    return store


if __name__ == "__main__":
    main()
