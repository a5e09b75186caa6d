"""Frames per second of converting a LeRobotDataset with video, against its own decoder going through the same files.

The decoder's arm decodes every mp4 in order to RGB, in one thread as the converter does, and drops the frames;
"decoder_threads" is the same with as many threads as FFmpeg likes, for comparison. The converter's arm does everything:
reading parquet, checking, decoding, compressing, hashing and syncing into a new store. "append" is the store alone,
given decoded episodes: what decoding must hide. Arms take turns, in one process. The gate is the lower end of the
ratio's interval: at least 0.9.

    python benchmarks/bench_conversion.py            # 10,000 frames, about 5 minutes
    python benchmarks/bench_conversion.py --quick    # 800 frames, about 1 minute
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blocks import Arm, interleave, median_ms, ratio

from robot_value.convert import convert
from robot_value.datasets import lerobot_converter, lerobot_exporter
from robot_value.episodes import EpisodeStore
from robot_value.types import ActionPart, Camera, Episode, Spec

GATE = 0.9
STEPS, SIZE, FPS, STATE, ACTION = 200, 128, 20, 14, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer frames, fewer blocks")
    parser.add_argument("--folder", type=Path, help="where set and stores are written; a temporary folder if not given")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/conversion.json"), help="result file")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = compare(Path(folder), 4 if options.quick else 50, 20 if options.quick else 180)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    verdict = {True: "PASS", False: "FAIL", None: "NO VERDICT, the machine was busy"}[result["passed"]]
    print(f"{verdict} (gate: ratio >= {GATE} on clean blocks); written to {options.out}")


def compare(folder: Path, episodes: int, seconds: float) -> dict:
    path = make_set(folder, episodes)
    arms = {
        "decoder": Arm(lambda: decode(path)),
        "decoder_threads": Arm(lambda: decode(path, threads=0)),
        "convert": Arm(converter(path, folder)),
        "append": Arm(appender(path, folder)),
    }
    interleave(arms, seconds, block=0)
    frames = decode(path)
    middle, low, high = ratio(arms["decoder"], arms["convert"])
    trusted = arms["decoder"].trusted and arms["convert"].trusted
    rates = {name: frames / float(np.median(arm.seconds)) for name, arm in arms.items()}
    print(f"convert {rates['convert']:,.0f} frames/s, {middle:.3f} [{low:.3f}, {high:.3f}] of the decoder's own speed")
    print("    " + ", ".join(f"{name} {rate:,.0f} frames/s" for name, rate in rates.items()))
    return {
        "gate": GATE,
        "passed": low >= GATE if trusted else None,
        "cores": os.cpu_count(),
        "frames": frames,
        "pixels": [SIZE, SIZE],
        "video_bytes": sum(file.stat().st_size for file in path.rglob("*.mp4")),
        "store_bytes": sum(file.stat().st_size for file in next(folder.glob("store-*")).rglob("*") if file.is_file()),
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
        "frames_per_s": rates,
        "ms": {name: median_ms(arm) for name, arm in arms.items()},
    }


def make_set(folder: Path, episodes: int) -> Path:
    """A set as LeRobot writes it: AV1, 128 x 128."""
    spec, rng = make_spec(), np.random.default_rng(0)
    with EpisodeStore.create(folder / "recorded", spec) as store:
        for _ in range(episodes):
            store.append(scene(spec, rng))
        lerobot_exporter.Config(use_videos=True).build().export(store, folder / "set", progress=False)
    return folder / "set"


def make_spec() -> Spec:
    part = ActionPart("arm", 0, ACTION, "joint", "rad", (-9.0,) * ACTION, (9.0,) * ACTION)
    names = tuple(f"s{i}" for i in range(STATE))
    return Spec((part,), names, ("rad",) * STATE, 1 / FPS, (Camera("front", SIZE, SIZE),))


def scene(spec: Spec, rng: np.random.Generator) -> Episode:
    """A camera that pans over a surface with detail at every scale, as a wrist camera does."""
    surface = rng.normal(0, 25, (SIZE + STEPS, SIZE + STEPS, 3)).astype(np.float32)
    for scale in (2, 8, 32):
        coarse = rng.normal(0, 25, (-(-len(surface) // scale), -(-len(surface) // scale), 3))
        surface += np.kron(coarse, np.ones((scale, scale, 1)))[: len(surface), : len(surface)]
    surface = np.clip(127 + surface, 0, 255).astype(np.uint8)
    images = np.stack([surface[t // 2 : t // 2 + SIZE, t : t + SIZE] for t in range(STEPS)])
    return Episode(
        spec=spec,
        states=rng.standard_normal((STEPS, STATE), np.float32),
        images={"front": images},
        actions=rng.standard_normal((STEPS, ACTION), np.float32),
        rewards=np.zeros(STEPS, np.float32),
        terminated=False,
        truncated=True,
        success=None,
        task="bench",
    )


def decode(path: Path, threads: int = 1) -> int:
    """The decoder's own speed: same files, same RGB, nothing else. 0 threads: FFmpeg chooses. Returns the frames."""
    import av

    frames = 0
    for file in sorted(path.rglob("*.mp4")):
        with av.open(str(file)) as container:
            codec = container.streams.video[0].codec_context
            codec.thread_type, codec.thread_count = "AUTO", threads
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")
                frames += 1
    return frames


def converter(path: Path, folder: Path) -> Callable[[], None]:
    """Every call converts the whole set into a new store."""
    numbers = count()

    def call() -> None:
        source = lerobot_converter.Config().build(path)
        with EpisodeStore.create(folder / f"store-{next(numbers)}", source.survey.spec) as store:
            convert(source, store, progress=False)
        source.close()

    return call


def appender(path: Path, folder: Path) -> Callable[[], None]:
    """Every call appends as many episodes as the set has; the same few, decoded beforehand."""
    source, numbers = lerobot_converter.Config().build(path), count()
    steps = len(source.survey.keys)
    ready = [source.read(i) for i in range(min(steps, 4))]
    source.close()

    def call() -> None:
        with EpisodeStore.create(folder / f"appended-{next(numbers)}", source.survey.spec) as store:
            for i in range(steps):
                store.append(ready[i % len(ready)])

    return call


if __name__ == "__main__":
    main()
