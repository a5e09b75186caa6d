"""What the doctor node says about this installation; no ROS and no torch needed to ask."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import robot_value

OK, WARN, ERROR = 0, 1, 2  # diagnostic_msgs/DiagnosticStatus levels
LIBRARIES = ("numpy", "zarr", "torch", "diffusers", "mujoco", "lerobot", "ros-rclpy")


@dataclass(frozen=True)
class Finding:
    """One DiagnosticStatus."""

    name: str
    level: int  # OK, WARN or ERROR
    message: str
    values: dict[str, str] = field(default_factory=dict)


def examine(checkpoint: str) -> list[Finding]:
    """All findings; `checkpoint` is a folder or "" for none. A bad checkpoint is a finding, not an exception."""
    return [_versions(), _torch(), _checkpoint(checkpoint)]


def _versions() -> Finding:
    found = {name: _version(name) for name in LIBRARIES}
    values = {"robot_value": robot_value.__version__, "python": platform.python_version(), **found}
    return Finding("robot_value: versions", OK, f"robot_value {robot_value.__version__}", values)


def _torch() -> Finding:
    if find_spec("torch") is None:
        message = 'torch is not installed: guard and recorder run, steering does not; pip install "robot_value[learn]"'
        return Finding("robot_value: torch", WARN, message)
    return Finding("robot_value: torch", OK, f"torch {_version('torch')}")


def _checkpoint(folder: str) -> Finding:
    name = "robot_value: checkpoint"
    if not folder:
        return Finding(name, OK, "no checkpoint asked for; set the parameter `checkpoint` to a folder")
    if find_spec("torch") is None:
        return Finding(name, WARN, f"{folder}: not read, torch is not installed", {"folder": folder})
    from robot_value.checkpoint import CheckpointError, load

    try:
        found = load(folder)
    except CheckpointError as error:
        return Finding(name, ERROR, str(error), {"folder": folder})
    spec = found.spec
    values = {
        "folder": folder,
        "kind": found.kind,
        "name": found.name,
        "hash": found.hash,
        "step": str(found.step),
        "dt": f"{spec.dt} s",
        "horizon": str(spec.horizon),
        "n_obs_steps": str(spec.n_obs_steps),
        "state": f"{spec.state_dim}: {', '.join(spec.state_names)}",
        "action": ", ".join(
            f"{part.name} [{part.stop - part.start}] {part.unit}, {part.reference}" for part in spec.parts
        ),
        "cameras": ", ".join(f"{camera.name} {camera.height}x{camera.width}" for camera in spec.cameras) or "none",
    }
    return Finding(name, OK, f"{found.kind}/{found.name} {found.hash[:12]} loads", values)


def _version(library: str) -> str:
    """Libraries of a ROS distribution may be importable without pip's metadata."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown version" if find_spec(library.removeprefix("ros-")) else "not installed"
