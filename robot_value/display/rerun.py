"""Rerun: a viewer on this machine, one that listens at an address, or an .rrd file (extra "view")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..types import Spec
from .display import Display
from .drawing import Arm
from .places import LOOPBACK, check_place
from .rerun_pen import Pen, entity_path, sdk
from .rerun_viewer import PORT, STALLED, Place, check_screen, listens, to_file, to_viewer
from .shown import Shown, action_names

FILE_ROWS = 32  # decisions that a file takes at once: every write costs a header per entity


@dataclass(frozen=True)
class Config:
    to: str = ""  # .rrd file to write; empty: a viewer
    address: str = ""  # HOST:PORT where a viewer listens, or, on this machine, is waited for; empty: one is opened
    robots: int = 1  # robots shown, the first ones of those simulated at once
    arm: Arm = Arm()  # a model of the arm, for the tool's path where actions are joint positions

    def __post_init__(self) -> None:
        check_place(self.to, ".rrd", self.address, self.robots)

    def check(self) -> None:
        """Raise ValueError where it cannot be opened, for those who open it much later."""
        sdk()
        if not self.to and not self.address and not listens(LOOPBACK[0], PORT):
            check_screen()

    def build(self, spec: Spec, name: str = "robot_value") -> Display:
        """Open it. Raises ValueError or OSError before anything moves."""
        rerun, kinematics = sdk(), self.arm.kinematics(spec)
        stream = rerun.RecordingStream("robot_value")
        place = to_file(stream, Path(self.to)) if self.to else to_viewer(stream, self.address)
        stream.send_recording_name(name)
        stream.send_blueprint(_layout(spec, self.robots))
        pen = Pen(stream, spec, self.robots, kinematics)
        return Display(RerunSink(pen, stream, place, FILE_ROWS if self.to else 1), spec.dt, self.robots)


class RerunSink:
    def __init__(self, pen: Pen, stream: Any, place: Place, rows: int) -> None:
        self._pen, self._stream, self._place, self._rows, self._written = pen, stream, place, rows, 0

    def write(self, shown: Shown) -> None:
        self._pen.seen(shown)
        self._pen.decided(shown)
        self._written += 1
        if self._written % self._rows == 0:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._stream.disconnect()
        self._place.finish()

    def _flush(self) -> None:
        """Raises where nobody takes it, so that nothing piles up in the SDK."""
        try:
            self._stream.flush(timeout_sec=STALLED)
        except Exception:
            self._place.leave()
            raise


def _layout(spec: Spec, robots: int) -> Any:
    import rerun.blueprint as views

    def of(robot: int) -> Any:
        def path(entity: str) -> str:
            return "/" + entity_path(robot, robots, entity)

        cameras = [views.Spatial2DView(origin=path(f"cameras/{c.name}"), name=c.name) for c in spec.cameras]
        fans = [views.Spatial2DView(origin=path(f"fan/{name}"), name=name) for name in action_names(spec)]
        bars = [views.BarChartView(origin=path(f"scores/{name}"), name=name) for name in ("value", "spread")]
        lines = [views.TimeSeriesView(origin=path(name), name=name) for name in ("values", "headroom", "actions")]
        seen = views.Vertical(*cameras, views.Spatial3DView(origin=path("paths"), name="paths"))
        text = views.TextLogView(origin=path("decisions"), name="decisions")
        numbers = [views.Horizontal(*bars), views.Tabs(*lines), text]
        decided = views.Vertical(views.Grid(*fans, grid_columns=4), *numbers, row_shares=[3, 2, 2, 2])
        return views.Horizontal(seen, decided, name=f"robot {robot}")

    return views.Blueprint(views.Tabs(*map(of, range(robots))), collapse_panels=True)
