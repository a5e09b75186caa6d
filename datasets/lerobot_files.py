"""The files of a LeRobotDataset v3.0: what meta/ promises, checked, and the rows of its parquet files, read in order.

Layout: meta/info.json, meta/tasks.parquet, meta/episodes/**.parquet (where each episode lies), data/**.parquet (many
episodes per file, one row per frame), videos/<key>/**.mp4. Nothing is allocated before the sizes it claims are checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robot_value import untrusted
from robot_value.convert import ConversionError
from robot_value.datasets.parquet_rows import (
    LARGEST_BATCH,
    LARGEST_FRAME,
    Feature,
    guarded,
    leaf,
    numbers,
    open_parquet,
)

MOST_EPISODES = 1 << 20
TEXTS = ("task", "__index_level_0__")  # columns that hold the task; the second is how pandas calls its index
OFFSETS = ("episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")


@dataclass(frozen=True)
class Place:
    """Where an episode lies."""

    index: int
    length: int  # T, frames
    start: int  # number of its first frame in the whole dataset
    file: str  # parquet file, relative to the root
    row: int  # of its first frame in that file
    videos: Mapping[str, tuple[str, float, float]] = field(default_factory=dict)  # key -> (file, from s, to s)


@dataclass(frozen=True)
class Metadata:
    root: Path
    fps: float
    robot: str  # robot_type, "" where unknown
    features: Mapping[str, Feature]
    tasks: Mapping[int, str]
    places: tuple[Place, ...]
    rows: Mapping[str, int]  # parquet file -> rows that its episodes need
    info: Mapping[str, Any]  # meta/info.json as it is


def open_metadata(root: Path) -> Metadata:
    """Raises ConversionError where meta/ contradicts itself, untrusted.Refused where it is hostile."""
    info = _info(root)
    features = {key: _feature(root, key, value) for key, value in info["features"].items()}
    places = _places(root, info, [key for key, feature in features.items() if feature.dtype == "video"])
    rows: dict[str, int] = {}
    for place in places:
        rows[place.file] = rows.get(place.file, 0) + place.length
    robot = str(info.get("robot_type") or "")
    return Metadata(root, float(info["fps"]), robot, features, _tasks(root), places, rows, info)


def _info(root: Path) -> dict[str, Any]:
    path = root / "meta/info.json"
    try:
        info = untrusted.read_json(path)
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: expected the JSON of a LeRobotDataset, got {error}") from error
    if not isinstance(info, dict):
        raise ConversionError(f"{path}: expected a JSON object, got {type(info).__name__}")
    version = str(info.get("codebase_version"))
    if not version.startswith("v3."):
        raise ConversionError(
            f"{path}: expected codebase_version v3.0, got {version}; lift older sets with LeRobot's own "
            "`python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=...`"
        )
    kinds = {"features": dict, "fps": int | float, "total_episodes": int, "total_frames": int, "data_path": str}
    for key, kind in kinds.items():
        if not isinstance(info.get(key), kind) or isinstance(info[key], bool):
            raise ConversionError(f"{path}: expected {key}, got {info.get(key)!r}")
    if not 0 < info["fps"] <= 1e6:
        raise ConversionError(f"{path}: expected fps above 0 frames/s, got {info['fps']}")
    if not 0 < info["total_episodes"] <= MOST_EPISODES:
        raise ConversionError(f"{path}: expected 1 to {MOST_EPISODES} episodes, got {info['total_episodes']}")
    return info


def _feature(root: Path, key: str, value: Any) -> Feature:
    try:
        shape = tuple(int(length) for length in value["shape"])
        about = value.get("info") or {}
        depth = bool(about.get("is_depth_map") or about.get("video.is_depth_map"))
        feature = Feature(key, str(value["dtype"]), shape, _names(value.get("names")), depth)
        sound = shape and min(shape) > 0 and math.prod(shape) * 8 <= LARGEST_FRAME
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        sound = False
    if not sound:
        raise ConversionError(
            f"{root / 'meta/info.json'}: feature {key}: expected dtype and a shape, got {value!r:.200}"
        )
    return feature


def _names(names: Any) -> tuple[str, ...]:
    """LeRobot writes a list, or lists by group: {"motors": [...]}."""
    if isinstance(names, Mapping):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _tasks(root: Path) -> dict[int, str]:
    path = root / "meta/tasks.parquet"
    if not path.exists():
        return {}
    columns = open_parquet(root, "meta/tasks.parquet").schema_arrow.names
    texts = [name for name in TEXTS if name in columns]
    if "task_index" not in columns or not texts:
        raise ConversionError(f"{path}: expected columns task_index and task, got {columns}")
    parquet = open_parquet(root, "meta/tasks.parquet", texts)  # as a dictionary, a text stays one in however many rows
    size = sum(parquet.metadata.row_group(g).total_byte_size for g in range(parquet.metadata.num_row_groups))
    if parquet.metadata.num_rows > MOST_EPISODES or size > LARGEST_BATCH:
        raise ConversionError(
            f"{path}: expected a table of tasks, got {parquet.metadata.num_rows} rows of {size} bytes"
        )
    table = guarded("meta/tasks.parquet", parquet.read, columns=["task_index", texts[0]])
    words = guarded("meta/tasks.parquet", _words, table[texts[0]].chunks)
    return dict(zip(table["task_index"].to_pylist(), words, strict=True))


def _words(chunks: Any) -> list[str]:
    return [str(chunk.dictionary[i].as_py()) for chunk in chunks for i in chunk.indices.to_pylist()]


def _places(root: Path, info: Mapping[str, Any], videos: Sequence[str]) -> tuple[Place, ...]:
    where = root / "meta/episodes"
    parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns = [*OFFSETS, *(f"videos/{key}/{part}" for key in videos for part in parts)]
    table = {name: np.concatenate(found) for name, found in _episode_columns(root, columns).items()}
    order = np.argsort(table["episode_index"], kind="stable")
    table = {name: values[order] for name, values in table.items()}
    total = info["total_episodes"]
    if len(order) != total or (table["episode_index"] != np.arange(total)).any():
        raise ConversionError(
            f"{where}: expected episodes 0 to {total - 1}, once each, got {_odd(table['episode_index'])}"
        )
    ends = np.cumsum(table["length"])
    wrong = (table["length"] <= 0) | (table["dataset_to_index"] != ends)
    wrong |= table["dataset_from_index"] != ends - table["length"]
    if wrong.any():
        at = int(wrong.argmax())
        got = [int(table[f"dataset_{end}_index"][at]) for end in ("from", "to")]
        first, last = int(ends[at] - table["length"][at]), int(ends[at])
        raise ConversionError(
            f"{where}: episode {at}: expected frames [{first}, {last}), got {got}; a gap in the index"
        )
    if ends[-1] != info["total_frames"]:
        raise ConversionError(
            f"{root / 'meta/info.json'}: expected total_frames {ends[-1]}, got {info['total_frames']}"
        )
    return tuple(_walk(info, table, videos))


def _walk(info: Mapping[str, Any], table: Mapping[str, np.ndarray], videos: Sequence[str]) -> Iterator[Place]:
    filled: dict[str, int] = {}  # rows of each file that earlier episodes take
    for i, (length, start) in enumerate(
        zip(table["length"].tolist(), table["dataset_from_index"].tolist(), strict=True)
    ):
        file = _fill(info["data_path"], table["data/chunk_index"][i], table["data/file_index"][i])
        shown = {}
        for key in videos:
            chunk, number, begin, end = (
                table[f"videos/{key}/{part}"][i]
                for part in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
            )
            shown[key] = (_fill(info.get("video_path"), chunk, number, key), float(begin), float(end))
        yield Place(i, length, start, file, filled.get(file, 0), shown)
        filled[file] = filled.get(file, 0) + length


def _episode_columns(root: Path, columns: Sequence[str]) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise ConversionError(f"{root / 'meta/episodes'}: expected parquet files, got none; fetch meta/ again")
    for path in files:
        name = str(path.relative_to(root))
        parquet = open_parquet(root, name)
        features = [Feature(key, "float64" if key.endswith("timestamp") else "int64", (1,)) for key in columns]
        names = [leaf(parquet, feature, name) for feature in features]
        if parquet.metadata.num_rows > MOST_EPISODES:
            raise ConversionError(f"{path}: expected at most {MOST_EPISODES} episodes, got {parquet.metadata.num_rows}")
        table = guarded(name, parquet.read, columns=names)
        for feature in features:
            found[feature.key].append(numbers(table, feature, name)[:, 0].astype(feature.dtype))
    return found


def _odd(indices: np.ndarray) -> str:
    """What is not 0, 1, 2, ... about sorted indices."""
    missing = sorted(set(range(len(indices))) - set(indices.tolist()))
    return f"{len(indices)}" + (f", without {missing[:3]}" if missing else "")


FIELD = re.compile(r"\{(chunk_index|file_index|video_key)(?::0(\d)d)?\}")


def _fill(template: Any, chunk: int, file: int, video_key: str = "") -> str:
    """A path template of info.json, filled in by us: `str.format` would let it reach into attributes."""
    values = {"chunk_index": int(chunk), "file_index": int(file), "video_key": video_key}
    if not isinstance(template, str) or set("{}") & set(FIELD.sub("", template)):
        raise ConversionError(
            f"meta/info.json: expected a path of chunk_index, file_index and video_key, got {template!r}"
        )
    return FIELD.sub(lambda found: str(values[found[1]]).zfill(int(found[2] or 0)), template)
