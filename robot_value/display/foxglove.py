"""Foxglove: a WebSocket server that the app connects to, or an .mcap file (extra "view").

Decisions, states and actions are JSON, so that every number can be plotted by its path; pictures and paths in 3D are
Foxglove's own messages.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..deploy.forward_kinematics import Kinematics
from ..types import Spec
from .display import Display
from .drawing import JPEG, Arm, paths, strokes
from .places import Unfinished, check_place, host_and_port
from .shown import Shown, action_names

ADDRESS = "127.0.0.1:8765"  # where the app looks first
FRAME = "base"  # that paths in 3D are drawn in
SECOND = 1_000_000_000  # ns
SCHEMA = {"type": "object", "properties": {}}  # any JSON object


@dataclass(frozen=True)
class Config:
    to: str = ""  # .mcap file to write; empty: a server
    address: str = ""  # HOST:PORT that the app connects to; empty: 127.0.0.1:8765
    robots: int = 1  # robots shown, the first ones of those simulated at once
    arm: Arm = Arm()  # a model of the arm, for the tool's path where actions are joint positions

    def __post_init__(self) -> None:
        check_place(self.to, ".mcap", self.address, self.robots)

    def check(self) -> None:
        """Raise ValueError where it cannot be opened, for those who open it much later."""
        sdk()

    def build(self, spec: Spec, name: str = "robot_value") -> Display:
        """Open it. Raises ValueError or OSError before anything moves."""
        foxglove, kinematics = sdk(), self.arm.kinematics(spec)
        context = foxglove.Context()  # ours alone: whoever else logs in this process is not in it
        if self.to:
            finish, epoch = _to_file(foxglove, context, Path(self.to)), 0
        else:
            finish, epoch = _serve(foxglove, context, self.address or ADDRESS, name), time.time_ns()
        return Display(FoxgloveSink(spec, context, finish, epoch, self.robots, kinematics), spec.dt, self.robots)


def sdk() -> Any:
    try:
        import foxglove
    except ImportError as error:
        raise ValueError(
            f"foxglove: expected foxglove-sdk, got none ({error}); pip install 'robot_value[view]'"
        ) from error
    return foxglove


class FoxgloveSink:
    def __init__(
        self,
        spec: Spec,
        context: Any,
        finish: Callable[[], None],
        epoch: int,  # ns, when the display's time is 0
        robots: int,
        kinematics: Kinematics | None,
    ) -> None:
        self._spec, self._context, self._finish, self._epoch = spec, context, finish, epoch
        self._robots, self._kinematics = robots, kinematics
        self._actions = [key(name) for name in action_names(spec)]
        self._states = [key(name) for name in spec.state_names]
        self._channels: dict[str, Any] = {}  # by topic

    def write(self, shown: Shown) -> None:
        began = self._nanoseconds(shown.time)
        for camera, picture in shown.images.items():
            self._picture(self._topic(shown, f"cameras/{camera}"), camera, picture, began)
        self._json(self._topic(shown, "states"), dict(zip(self._states, numbers(shown.state), strict=True)), began)
        self._json(self._topic(shown, "decision"), told(shown, self._actions), began)
        self._paths(shown, began)
        for i, action in enumerate(numbers(shown.executed)):
            due = self._nanoseconds(shown.time + i * self._spec.dt)
            self._json(self._topic(shown, "actions"), dict(zip(self._actions, action, strict=True)), due)

    def close(self) -> None:
        self._finish()

    def _nanoseconds(self, seconds: float) -> int:
        return self._epoch + round(seconds * SECOND)

    def _topic(self, shown: Shown, name: str) -> str:
        return f"/robot_{shown.robot}/{name}" if self._robots > 1 else f"/{name}"

    def _json(self, topic: str, message: dict[str, Any], due: int) -> None:
        import foxglove

        if topic not in self._channels:
            self._channels[topic] = foxglove.Channel(
                topic, schema=SCHEMA, message_encoding="json", context=self._context
            )
        self._channels[topic].log(message, log_time=due)

    def _picture(self, topic: str, camera: str, picture: np.ndarray, due: int) -> None:
        from foxglove.channels import CompressedImageChannel
        from foxglove.messages import CompressedImage
        from PIL import Image

        if topic not in self._channels:
            self._channels[topic] = CompressedImageChannel(topic, context=self._context)
        jpeg = io.BytesIO()
        Image.fromarray(picture).save(jpeg, "jpeg", quality=JPEG)
        message = CompressedImage(timestamp=_stamp(due), frame_id=camera, data=jpeg.getvalue(), format="jpeg")
        self._channels[topic].log(message, log_time=due)

    def _paths(self, shown: Shown, due: int) -> None:
        chunks, colors = strokes(shown)
        for name, strips in paths(self._spec, chunks, self._kinematics).items():
            self._scene(self._topic(shown, f"paths/{name}"), strips, colors / 255, due)

    def _scene(self, topic: str, strips: np.ndarray, colors: np.ndarray, due: int) -> None:
        from foxglove import messages as m
        from foxglove.channels import SceneUpdateChannel

        if topic not in self._channels:
            self._channels[topic] = SceneUpdateChannel(topic, context=self._context)
        lines = [
            m.LinePrimitive(
                type=m.LinePrimitiveLineType.LineStrip,
                thickness=1.0 + (i + 1 == len(strips)),
                scale_invariant=True,
                points=[m.Point3(x=x, y=y, z=z) for x, y, z in strip.tolist()],
                color=m.Color(r=r, g=g, b=b, a=1.0),
            )
            for i, (strip, (r, g, b)) in enumerate(zip(strips, colors.tolist(), strict=True))
        ]
        entity = m.SceneEntity(timestamp=_stamp(due), frame_id=FRAME, id=topic, lines=lines)
        self._channels[topic].log(m.SceneUpdate(entities=[entity]), log_time=due)


def told(shown: Shown, actions: list[str]) -> dict[str, Any]:
    """A decision as a JSON object; null where a number is not finite."""

    def curves(chunk: np.ndarray) -> dict[str, list[float | None]]:
        return dict(zip(actions, numbers(chunk.T), strict=True))

    scores = zip(numbers(shown.value), numbers(shown.spread), shown.candidates, strict=True)
    opinion = np.array([shown.plain, shown.chosen, shown.best, shown.headroom])
    return {
        "episode": shown.episode,
        "step": shown.step,
        "start_step": shown.start_step,
        "execute": shown.execute,
        "reason": shown.reason,
        "index": shown.index,
        **dict(zip(("plain", "chosen", "best", "headroom"), numbers(opinion), strict=True)),
        "candidates": [{"value": value, "spread": spread, **curves(chunk)} for value, spread, chunk in scores],
        "chunk": curves(shown.chunk),
    }


def numbers(array: np.ndarray) -> list:
    """float[...] as nested lists, exactly; JSON has no NaN."""
    return np.where(np.isfinite(array), array.astype(object), None).tolist()


def key(name: str) -> str:
    """A name that Foxglove's paths can spell: "arm[0]" is arm_0."""
    return "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")


def _stamp(nanoseconds: int) -> Any:
    from foxglove.messages import Timestamp

    return Timestamp(sec=nanoseconds // SECOND, nsec=nanoseconds % SECOND)


def _to_file(foxglove: Any, context: Any, path: Path) -> Callable[[], None]:
    file = Unfinished(path)
    writer = foxglove.open_mcap(file.partial, context=context)

    def finish() -> None:
        writer.close()
        file.finish()

    return finish


def _serve(foxglove: Any, context: Any, address: str, name: str) -> Callable[[], None]:
    host, port = host_and_port("address", address)
    try:
        server = foxglove.start_server(name=name, host=host, port=port, context=context)
    except RuntimeError as error:
        raise OSError(
            f"display: expected to serve at {host}:{port}, got {error}; name another, --display.address=127.0.0.1:PORT"
        ) from error
    print(f"display: open ws://{host}:{port} in Foxglove", file=sys.stderr)
    return server.stop
