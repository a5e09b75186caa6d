"""Small LeRobotDatasets v3.0 for tests, written with pyarrow and av: LeRobot itself takes seconds to import."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS, HEIGHT, WIDTH = 20, 32, 48
DATA, EPISODES = "data/chunk-000/file-{:03d}.parquet", "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.top/chunk-000/file-{:03d}.mp4"
TASKS = ("lift", "place")


def picture(episode: int, t: int) -> np.ndarray:
    """uint8[h, w, 3], smooth, and different for every frame of every episode."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([4 * x + 5 * t, 6 * y + 0 * x, 0 * x + 60 * episode + 40], -1).astype(np.uint8)


def columns(episode: int, steps: int, start: int) -> dict[str, np.ndarray]:
    """Random numbers everywhere, so that a row in the wrong place is a wrong value."""
    rng = np.random.default_rng(episode)
    last = np.arange(steps) == steps - 1
    return {
        "observation.environment_state": rng.normal(size=(steps, 2)).astype(np.float32),
        "observation.state": rng.normal(size=(steps, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "next.reward": rng.normal(size=steps).astype(np.float32),
        "next.done": last & (episode % 2 == 0),
        "next.success": last & (episode % 2 == 0),
        "timestamp": (np.arange(steps) / FPS).astype(np.float32),
        "frame_index": np.arange(steps),
        "episode_index": np.full(steps, episode),
        "index": start + np.arange(steps),
        "task_index": np.full(steps, episode % 2),
    }


def write_set(
    root: Path,
    lengths: Sequence[int] = (5, 7, 6),
    camera: str = "",  # "image", "video" or none
    per_file: int = 2,  # episodes in a file
    group: int = 0,  # rows in a row group; 0: one group per episode, as LeRobot writes
    change: Callable[[int, dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda episode, table: table,
    info: dict[str, Any] | None = None,  # changes to info.json
) -> Path:
    starts = np.cumsum([0, *lengths])
    tables = [change(i, columns(i, steps, int(starts[i]))) for i, steps in enumerate(lengths)]
    files = [range(first, min(first + per_file, len(lengths))) for first in range(0, len(lengths), per_file)]
    for number, episodes in enumerate(files):
        rows = [arrow(tables[i], i, camera) for i in episodes]
        write_rows(root / DATA.format(number), rows if not group else split(pa.concat_tables(rows), group))
        if camera == "video":
            encode(root / VIDEO.format(number), [picture(i, t) for i in episodes for t in range(lengths[i])])
    write_meta(root, lengths, files, camera, features(tables[0], camera), info or {})
    return root


def arrow(table: dict[str, np.ndarray], episode: int, camera: str) -> pa.Table:
    found = {
        key: pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
        if values.ndim == 2
        else pa.array(values)
        for key, values in table.items()
    }
    if camera == "image":
        steps = len(table["index"])
        found["observation.images.top"] = pa.array(
            [{"bytes": png(picture(episode, t)), "path": ""} for t in range(steps)]
        )
    return pa.table(found)


def write_meta(root: Path, lengths, files, camera: str, about: dict[str, Any], changes: dict[str, Any]) -> None:
    starts = np.cumsum([0, *lengths])
    file = np.array([number for number, episodes in enumerate(files) for _ in episodes])
    inside = starts[:-1] - np.array([starts[files[number][0]] for number in file])  # rows before it in its file
    places = {
        "episode_index": np.arange(len(lengths)),
        "tasks": [[TASKS[i % 2]] for i in range(len(lengths))],
        "length": np.array(lengths),
        "data/chunk_index": 0 * file,
        "data/file_index": file,
        "dataset_from_index": starts[:-1],
        "dataset_to_index": starts[1:],
    }
    if camera == "video":
        key = "videos/observation.images.top"
        places |= {f"{key}/chunk_index": 0 * file, f"{key}/file_index": file}
        places |= {f"{key}/from_timestamp": inside / FPS, f"{key}/to_timestamp": (inside + lengths) / FPS}
    write_rows(root / EPISODES, [pa.table(places)])
    write_rows(root / "meta/tasks.parquet", [pa.table({"task_index": [0, 1], "task": TASKS})])
    info = {
        "codebase_version": "v3.0",
        "robot_type": "so100",
        "fps": FPS,
        "total_episodes": len(lengths),
        "total_frames": int(starts[-1]),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": about,
    }
    (root / "meta/info.json").write_text(json.dumps(info | changes))


def features(table: dict[str, np.ndarray], camera: str) -> dict[str, Any]:
    names = {"observation.state": ["x", "y", "z"], "observation.environment_state": {"block": ["bx", "by"]}}
    found: dict[str, Any] = {
        key: {"dtype": str(values.dtype), "shape": list(values.shape[1:] or (1,)), "names": names.get(key)}
        for key, values in table.items()
    }
    if camera:
        shape, axes = [HEIGHT, WIDTH, 3], ["height", "width", "channels"]
        found["observation.images.top"] = {"dtype": camera, "shape": shape, "names": axes}
    return found


def write_rows(path: Path, tables: Sequence[pa.Table]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, len(table)))


def split(table: pa.Table, rows: int) -> list[pa.Table]:
    return [table.slice(at, rows) for at in range(0, len(table), rows)]


def png(image: np.ndarray) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, "png")
    return content.getvalue()


def encode(path: Path, frames: Sequence[np.ndarray], ticks: Sequence[int] | None = None) -> None:
    """`ticks` are the frames' times in 1 / FPS s: 0, 1, 2, ... unless told."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=FPS, options={"g": "4", "crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for tick, pixels in zip(ticks or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_rows(root: Path, file: str, change: Callable[[pa.Table], pa.Table]) -> None:
    write_rows(root / file, [change(pq.read_table(root / file))])
