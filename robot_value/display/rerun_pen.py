"""A decision drawn into a Rerun recording, live or from a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..deploy.forward_kinematics import Kinematics
from ..types import Spec
from .drawing import JPEG, Fans, paths, strokes
from .shown import Shown, action_names

THIN, THICK = -1.0, -2.5  # radii of lines; negative: in points of the screen
VALUES = ("candidate 0", "chosen", "best")


def sdk() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise ValueError(f"rerun: expected rerun-sdk, got none ({error}); pip install 'robot_value[view]'") from error
    return rerun


class Pen:
    """Draws decisions into one recording, on the timelines step, episode and time."""

    def __init__(self, stream: Any, spec: Spec, robots: int = 1, kinematics: Kinematics | None = None) -> None:
        self._stream, self._spec, self._robots, self._kinematics = stream, spec, robots, kinematics
        self._rerun, self._fans, self._actions = sdk(), Fans(spec), action_names(spec)
        for robot in range(robots):
            self.name(self._path(robot, "states"), spec.state_names)
            self.name(self._path(robot, "actions"), self._actions)
            self.name(self._path(robot, "values/decision"), VALUES)
            self.name(self._path(robot, "headroom"), ["best - candidate 0"])

    def seen(self, shown: Shown) -> None:
        """What the robot saw when it decided, and what it executed until the next decision was due."""
        rerun, k = self._rerun, len(shown.executed)
        self._at(shown)
        for camera, picture in shown.images.items():
            self._log(shown, f"cameras/{camera}", rerun.Image(picture).compress(jpeg_quality=JPEG))
        self._log(shown, "states", rerun.Scalars(shown.state.astype(np.float64)))
        if k:
            steps, times = shown.step + np.arange(k), shown.time + self._spec.dt * np.arange(k)
            self.columns(self._path(shown.robot, "actions"), steps, times, shown.executed, shown.episode)

    def decided(self, shown: Shown) -> None:
        """Candidates, scores, what was chosen and why."""
        rerun = self._rerun
        self._at(shown)
        self._lines(shown)
        if len(shown.candidates):
            self._log(shown, "candidates", rerun.Tensor(shown.candidates, dim_names=("candidate", "step", "action")))
            self._log(shown, "scores/value", rerun.BarChart(shown.value))
            self._log(shown, "scores/spread", rerun.BarChart(shown.spread))
        self._log(shown, "chunk", rerun.Tensor(shown.chunk, dim_names=("step", "action")))
        self._log(shown, "values/decision", rerun.Scalars([shown.plain, shown.chosen, shown.best]))
        self._log(shown, "headroom", rerun.Scalars([shown.headroom]))
        self._log(shown, "decisions", rerun.TextLog(shown.text))

    def name(self, entity: str, names: Sequence[str]) -> None:
        self._stream.log(entity, self._rerun.SeriesLines(names=list(names)), static=True)

    def columns(
        self, entity: str, steps: np.ndarray, times: np.ndarray, values: np.ndarray, episode: int | None = None
    ) -> None:
        """values float[steps, .] at control rate; times float64[steps], s."""
        rerun = self._rerun
        index = [rerun.TimeColumn("step", sequence=steps), rerun.TimeColumn("time", duration=times)]
        if episode is not None:
            index.append(rerun.TimeColumn("episode", sequence=np.full(len(steps), episode)))
        self._stream.send_columns(entity, index, rerun.Scalars.columns(scalars=np.asarray(values, np.float64)))

    def _lines(self, shown: Shown) -> None:
        chunks, colors = strokes(shown)
        style = {"colors": colors, "radii": [THIN] * (len(chunks) - 1) + [THICK]}
        for name, strips in zip(self._actions, self._fans(chunks), strict=True):
            self._log(shown, f"fan/{name}", self._rerun.LineStrips2D(strips, **style))
        for name, strips in paths(self._spec, chunks, self._kinematics).items():
            self._log(shown, f"paths/{name}", self._rerun.LineStrips3D(strips, **style))

    def _log(self, shown: Shown, entity: str, what: Any) -> None:
        self._stream.log(self._path(shown.robot, entity), what)

    def _path(self, robot: int, entity: str) -> str:
        return entity_path(robot, self._robots, entity)

    def _at(self, shown: Shown) -> None:
        self._stream.set_time("step", sequence=shown.step)
        self._stream.set_time("episode", sequence=shown.episode)
        self._stream.set_time("time", duration=shown.time)


def entity_path(robot: int, robots: int, entity: str) -> str:
    """Of several robots each has a branch of its own; Rerun wants brackets escaped."""
    branch = f"robot_{robot}/" if robots > 1 else ""
    return branch + entity.replace("[", "\\[").replace("]", "\\]")
