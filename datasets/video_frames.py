"""Frames of video files in order: one decoder stays open from episode to episode, frames are matched by their time."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from robot_value.convert import ConversionError

SKIP = 2.0  # s; a longer way to the next wanted frame is a jump to the key frame before it
TOLERANCE = 0.25  # of a frame's period; a frame that is dropped or doubled is one period off


class VideoFrames:
    """One camera's videos, decoded to RGB. Reading on where the last read stopped decodes every frame once."""

    def __init__(self, size: tuple[int, int], period: float):
        self._size, self._period = size, period  # (height, width) in pixels; s
        self._path: Path | None = None
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._last = float("inf")  # s, time of the frame decoded last

    def take(self, path: Path, times: np.ndarray) -> np.ndarray:
        """uint8[T, h, w, 3], the frames at `times` (float64[T], s in the file), which must follow each other.

        Raises ConversionError where a frame is missing, doubled, damaged or of another size.
        """
        try:
            return self._take(path, times)
        except ConversionError:
            self.close()
            raise
        except Exception as error:  # FFmpeg's errors are of many types
            self.close()
            raise ConversionError(
                f"{path}: expected a readable video, got {type(error).__name__}: {error}; fetch it again"
            ) from error

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._path, self._container, self._frames, self._last = None, None, iter(()), float("inf")

    def _take(self, path: Path, times: np.ndarray) -> np.ndarray:
        if path != self._path:
            self._open(path)
        slack = TOLERANCE * self._period
        if not self._last < times[0] <= self._last + SKIP:
            self._seek(times[0])
        result = np.empty((len(times), *self._size, 3), np.uint8)
        for t, wanted in enumerate(times.tolist()):
            frame, self._last = self._next(wanted - slack if t == 0 else -np.inf)
            if frame is None or abs(self._last - wanted) > slack:
                got = "the end of the video" if frame is None else f"{self._last:.4f} s"
                raise ConversionError(
                    f"{path}: expected frame {t} of {len(times)} at {wanted:.4f} s, got {got}; the video does not fit "
                    "its timestamps, fetch it again or leave the episode out"
                )
            result[t] = self._pixels(frame)
        return result

    def _next(self, earliest: float) -> tuple[Any, float]:
        """The next frame that is not before `earliest` and its time; None at the end."""
        for frame in self._frames:
            if frame.pts is not None and (time := float(frame.pts * frame.time_base)) >= earliest:
                return frame, time
        return None, float("inf")

    def _pixels(self, frame: Any) -> np.ndarray:
        if (frame.height, frame.width) != self._size:
            raise ConversionError(self._odd_size(frame.height, frame.width))
        return frame.to_ndarray(format="rgb24")

    def _open(self, path: Path) -> None:
        """Only as MP4 and only as this file: other formats can name further files to read."""
        import av

        self.close()
        self._container = av.open(str(path), format="mp4", options={"protocol_whitelist": "file"})
        self._path = path
        if not self._container.streams.video:
            raise ConversionError(f"{path}: expected a video stream, got none; fetch it again")
        codec = self._container.streams.video[0].codec_context
        if (codec.height, codec.width) != self._size:
            raise ConversionError(self._odd_size(codec.height, codec.width))
        codec.options = {"max_pixels": str(max(self._size[0], 128) * max(self._size[1], 128) * 4)}
        codec.thread_count = 1  # the other cores compress and hash; small frames do not gain from more
        self._frames = self._container.decode(video=0)
        self._last = -self._period

    def _seek(self, time: float) -> None:
        stream = self._container.streams.video[0]
        self._container.seek(max(0, int(Fraction(time - self._period) / stream.time_base)), stream=stream)
        self._frames = self._container.decode(stream)

    def _odd_size(self, height: int, width: int) -> str:
        return (
            f"{self._path}: expected {self._size[0]} x {self._size[1]} pixels as meta/info.json says, got "
            f"{height} x {width}; fetch meta/ and videos/ of one version"
        )
