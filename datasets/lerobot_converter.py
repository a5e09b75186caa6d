"""LeRobotDataset v3.0 -> episode store: parquet row group by row group, videos decoded in order, one episode ahead."""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robot_value import untrusted
from robot_value.convert import ConversionError, Survey, spec_from
from robot_value.datasets.lerobot_files import Metadata, Place, open_metadata
from robot_value.datasets.lerobot_survey import INDICES, Columns, Span, assumed_spec, checked, own_spec, survey_of
from robot_value.datasets.parquet_rows import Feature, Rows, images, numbers
from robot_value.datasets.video_frames import VideoFrames
from robot_value.types import Episode

AHEAD = 1 << 29  # bytes; the episode after the one that was asked for is decoded ahead where it is no larger
DONE = ("terminated", "ended", "ignored")


def recognises(path: Path) -> bool:
    """Older versions too: their error says what to do."""
    return (path / "meta/info.json").is_file()


@dataclass(frozen=True)
class Config:
    spec: str = ""  # JSON file with the Spec, where the set does not say what its numbers mean (units, limits, kinds)
    state: tuple[str, ...] = ()  # features that make the state, in this order; all vectors among observation.* if empty
    # What `next.done` on the last frame means: the task "terminated" there, the recording "ended" (it terminated only
    # where it succeeded), or "ignored": nothing.
    done: str = "terminated"

    def build(self, path: Path) -> LeRobotSource:
        """Raises ConversionError where meta/ contradicts itself or an older version is found."""
        if self.done not in DONE:
            raise ConversionError(f"--source.done: expected one of {', '.join(DONE)}, got {self.done!r}")
        metadata = open_metadata(path)
        action = metadata.features.get("action")
        if action is None or not action.is_vector:
            raise ConversionError(f"{path / 'meta/info.json'}: expected a feature 'action' of numbers, got {action}")
        columns = Columns.of(metadata, self.state)
        span = Span.over(metadata, columns)
        given = spec_from(self.spec) or own_spec(path)
        spec = checked(given, metadata, columns, path) if given else assumed_spec(metadata, columns, span)
        return LeRobotSource(
            metadata, columns, self.done, survey_of(metadata, columns, spec, span, not given, self.done)
        )


class LeRobotSource:
    """Reading episodes in order decodes every video once; the next episode is decoded while this one is stored."""

    def __init__(self, metadata: Metadata, columns: Columns, done: str, survey: Survey):
        self.survey, self._metadata, self._columns, self._done = survey, metadata, columns, done
        self._indices = [metadata.features[key] for key in INDICES if key in metadata.features]
        stored = [feature for feature in (*columns.used, *self._indices) if feature.dtype != "video"]
        self._rows = Rows(metadata.root, metadata.rows, stored)
        videos = {name: feature for name, feature in columns.cameras.items() if feature.dtype == "video"}
        self._videos = {name: VideoFrames(feature.size, 1 / metadata.fps) for name, feature in videos.items()}
        self._thread = ThreadPoolExecutor(1, "decoding")
        self._next: tuple[int, Future[Episode]] | None = None

    def read(self, index: int) -> Episode:
        """Decoding happens in one thread, in order, so that a decoder belongs to nobody else."""
        future = self._next[1] if self._next and self._next[0] == index else self._thread.submit(self._read, index)
        self._next = None
        episode = future.result()
        if index + 1 < len(self.survey.keys) and self._size(index + 1) <= AHEAD:
            self._next = index + 1, self._thread.submit(self._read, index + 1)
        return episode

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        for video in self._videos.values():
            video.close()

    def _size(self, index: int) -> int:
        frame = sum(3 * math.prod(feature.size) for feature in self._columns.cameras.values())
        return self._metadata.places[index].length * frame

    def _read(self, index: int) -> Episode:
        place = self._metadata.places[index]
        where = f"{place.file} episode {index}"
        table = self._rows.take(place.file, place.row, place.row + place.length)
        times = self._checked_times(table, place, where)
        states = [_column(table, feature, where) for feature in self._columns.state]
        outcome = _Outcome.of(table, self._columns.outcomes, self._done, place.length, where)
        return Episode(
            spec=self.survey.spec,
            states=np.concatenate(states, 1) if states else np.zeros((place.length, 0), np.float32),
            images={name: self._images(name, table, place, times, where) for name in self._columns.cameras},
            actions=_column(table, self._columns.action, where),
            rewards=outcome.rewards,
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            success=outcome.success,
            task=self._task(table, where),
            provenance={"robot": self._metadata.robot} if self._metadata.robot else {},
        )

    def _checked_times(self, table: Any, place: Place, where: str) -> np.ndarray:
        """float64[T], s since the episode's start. The index columns must count without gap, repetition or disorder."""
        steps = np.arange(place.length)
        promised = {
            "frame_index": steps,
            "episode_index": np.full(place.length, place.index),
            "index": place.start + steps,
            "timestamp": steps / self._metadata.fps,
        }
        for feature in self._indices:
            if feature.key not in promised:
                continue
            got, expected = numbers(table, feature, where)[:, 0].astype(np.float64), promised[feature.key]
            slack = 0.25 / self._metadata.fps if feature.key == "timestamp" else 0
            if (wrong := ~(np.abs(got - expected) <= slack)).any():
                at = int(wrong.argmax())
                raise ConversionError(
                    f"{where}: expected {feature.key} {expected[at]:g} in frame {at}, got {got[at]:g}; frames are "
                    "missing, doubled or out of order, fetch the file again or leave the episode out"
                )
        return promised["timestamp"]

    def _images(self, name: str, table: Any, place: Place, times: np.ndarray, where: str) -> np.ndarray:
        feature = self._columns.cameras[name]
        if feature.dtype == "image":
            return images(table, feature, where)
        file, begin, end = place.videos[feature.key]
        if not abs(end - begin - place.length / self._metadata.fps) <= 0.5 / self._metadata.fps:
            raise ConversionError(
                f"meta/episodes: episode {place.index}: expected {place.length} frames of {feature.key}, got {begin:g} "
                f"to {end:g} s at {self._metadata.fps:g} frames/s; fetch meta/ again or leave the episode out"
            )
        path = untrusted.inside(self._metadata.root, file)
        shape = (place.length, *feature.size, 3)
        if not path.is_file():
            raise ConversionError(f"{path}: expected a video, got none; fetch videos/ again")
        untrusted.check_array(f"{where}: {feature.key}", shape, np.uint8, path.stat().st_size)
        return self._videos[name].take(path, begin + times)

    def _task(self, table: Any, where: str) -> str:
        task = self._metadata.features.get("task_index")
        if task is None or not self._metadata.tasks:
            return ""
        index = int(numbers(table, task, where)[0, 0])
        if index not in self._metadata.tasks:
            raise ConversionError(
                f"{where}: expected a task of meta/tasks.parquet, got task_index {index}; fetch it again"
            )
        return self._metadata.tasks[index]


@dataclass(frozen=True)
class _Outcome:
    rewards: np.ndarray  # float32[T]
    terminated: bool
    truncated: bool
    success: bool | None

    @classmethod
    def of(cls, table: Any, features: dict[str, Feature], meaning: str, steps: int, where: str) -> _Outcome:
        column = {name: numbers(table, feature, where)[:, 0] for name, feature in features.items()}
        success = bool(np.any(column["success"])) if "success" in column else None
        done = np.asarray(column.get("done", np.zeros(steps)), bool) & (meaning != "ignored")
        if done[:-1].any():
            raise ConversionError(
                f"{where}: expected next.done on the last frame only, got it in frame {int(done.argmax())} of {steps}; "
                "--source.done=ignored converts without it"
            )
        cut = bool(column["truncated"][-1]) if "truncated" in column else None
        terminated = bool(done[-1]) and (meaning == "terminated" or bool(success))
        rewards = column.get("reward", np.zeros(steps)).astype(np.float32)
        return cls(rewards, terminated, not terminated if cut is None else cut, success)


def _column(table: Any, feature: Feature, where: str) -> np.ndarray:
    """float32[T, n]; what float32 cannot hold becomes infinite, and the store refuses it by key and row."""
    with np.errstate(over="ignore"):
        return numbers(table, feature, where).astype(np.float32)
