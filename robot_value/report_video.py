"""Two episodes side by side as one H.264 video inside the page: the plain policy left, the steered one right."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GAP = 4  # px between the two pictures


@dataclass(frozen=True)
class Episode:
    """What a camera saw of one episode."""

    label: str  # e.g. "plain policy"
    frames: Sequence[np.ndarray]  # uint8[h, w, 3] each
    success: bool


@dataclass(frozen=True)
class Pair:
    """The same seed, decided in two ways."""

    seed: int
    left: Episode
    right: Episode
    fps: float = 20.0  # frames per second of playback


def side_by_side(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> np.ndarray:
    """uint8[T, h, w, 3], sides even for yuv420p; the shorter episode keeps its last picture."""
    if not len(left) or not len(right) or left[0].shape != right[0].shape:
        shapes = [frames[0].shape if len(frames) else "no frames" for frames in (left, right)]
        raise ValueError(f"two videos need pictures of one size, got {shapes[0]} and {shapes[1]}")
    steps = max(len(left), len(right))
    height, width = left[0].shape[:2]
    canvas = np.zeros((steps, height + height % 2, (2 * width + GAP + 1) // 2 * 2, 3), np.uint8)
    for t in range(steps):
        canvas[t, :height, :width] = left[min(t, len(left) - 1)]
        canvas[t, :height, width + GAP : 2 * width + GAP] = right[min(t, len(right) - 1)]
    return canvas


def encode(frames: np.ndarray, fps: float) -> bytes:
    """MP4 (H.264, yuv420p, index first), which every browser plays."""
    import imageio_ffmpeg

    height, width = frames.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        options = ["-crf", "27", "-preset", "fast", "-movflags", "+faststart"]
        writer = imageio_ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec="libx264",
            macro_block_size=2,
            quality=None,
            output_params=options,
        )
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return path.read_bytes()


def element(pair: Pair) -> str:
    """A <video> with its bytes inside."""
    video = base64.b64encode(encode(side_by_side(pair.left.frames, pair.right.frames), pair.fps)).decode()
    return f'<video controls muted loop playsinline preload="auto" src="data:video/mp4;base64,{video}"></video>'
