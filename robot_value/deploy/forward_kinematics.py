"""Joint positions -> where the tool is, from a MuJoCo model or a URDF, and the workspace box the guard keeps it in."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..rotations import compose, decode, rotate

Kinematics = Callable[[np.ndarray], np.ndarray]  # float64[n, J], rad or m -> float64[n, 3], m, in the base's frame


class KinematicsError(ValueError):
    """The model cannot say where the tool is."""


@dataclass(frozen=True, eq=False)
class Workspace:
    """A box that the tool's point stays in; not the arm's other links."""

    low: np.ndarray  # float64[3], m
    high: np.ndarray  # float64[3], m
    tool: Kinematics
    dims: np.ndarray  # int64[J], which action dims are the tool's joints

    def __call__(self, positions: np.ndarray) -> bool:
        """Whether all of float64[n, A] are inside."""
        where = self.tool(positions[:, self.dims])
        return bool(((where >= self.low) & (where <= self.high)).all())


def load(path: str | Path, tool: str, joints: Sequence[str]) -> Kinematics:
    """Of `joints` (the other ones stay at zero); `tool` is a site or body of MJCF, a link of URDF."""
    if Path(path).suffix == ".urdf":
        return urdf(Path(path).read_text(), tool, joints)
    import mujoco

    try:
        return mujoco_model(mujoco.MjModel.from_xml_path(str(path)), tool, joints)
    except ValueError as error:
        raise KinematicsError(f"{path}: {error}") from error


def mujoco_model(model: object, tool: str, joints: Sequence[str]) -> Kinematics:
    import mujoco

    data = mujoco.MjData(model)
    names = [model.joint(i).name for i in range(model.njnt)]
    if missing := [name for name in joints if name not in names]:
        raise KinematicsError(f"joints: expected them among {names}, got {missing}")
    index = [int(model.joint(name).qposadr[0]) for name in joints]
    sites = [model.site(i).name for i in range(model.nsite)]
    try:
        place = data.site(tool) if tool in sites else data.body(tool)
    except KeyError as error:
        raise KinematicsError(f"tool: expected a site or body of the model, got {tool!r}") from error

    def position(positions: np.ndarray) -> np.ndarray:
        where = np.empty((len(positions), 3))
        for i, row in enumerate(positions):
            data.qpos[index] = row
            mujoco.mj_kinematics(model, data)
            where[i] = place.xpos
        return where

    return position


def urdf(text: str, tool: str, joints: Sequence[str]) -> Kinematics:
    """The chain from the root link to `tool`: x_parent = origin + R(rpy) (R(axis, q) x_child, or x_child + q axis)."""
    chain = _chain(text, tool)
    moving = [joint.name for joint in chain if joint.kind != "fixed"]
    if missing := sorted(set(moving) - set(joints)):
        raise KinematicsError(f"{tool}: expected its moving joints among {list(joints)}, got {missing} too")
    columns = [list(joints).index(joint.name) if joint.kind != "fixed" else None for joint in chain]

    def position(positions: np.ndarray) -> np.ndarray:
        where = np.zeros((len(positions), 3))
        for joint, column in zip(reversed(chain), reversed(columns), strict=True):
            if joint.kind == "prismatic":
                where = where + positions[:, [column]] * joint.axis
            elif column is not None:
                where = rotate(decode(positions[:, [column]] * joint.axis, "axis_angle"), where)
            where = joint.origin + rotate(joint.rotation, where)
        return where

    return position


@dataclass(frozen=True, eq=False)
class _Joint:
    name: str
    kind: str  # fixed, revolute or prismatic
    origin: np.ndarray  # float64[3], m
    rotation: np.ndarray  # float64[4], quaternion
    axis: np.ndarray  # float64[3], of length 1


def _chain(text: str, tool: str) -> list[_Joint]:
    """From the root to `tool`."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise KinematicsError(f"expected a URDF, got {error}") from error
    joints = [joint for joint in root.findall("joint") if joint.find("child") is not None]
    parents = {joint.find("child").get("link"): joint for joint in joints}
    if tool not in parents:
        raise KinematicsError(f"tool: expected a link with a joint, got {tool!r}; known are {sorted(parents)}")
    chain, link = [], tool
    while link in parents:
        joint = parents.pop(link)  # a loop ends where a link comes again
        chain.append(_joint(joint))
        link = joint.find("parent").get("link")
    return chain[::-1]


def _joint(joint: ElementTree.Element) -> _Joint:
    kind = {"continuous": "revolute"}.get(joint.get("type"), joint.get("type"))
    if kind not in ("fixed", "revolute", "prismatic") or joint.find("mimic") is not None:
        raise KinematicsError(f"joint {joint.get('name')}: expected fixed, revolute or prismatic, got {kind} or mimic")
    origin, axis = joint.find("origin"), joint.find("axis")
    xyz, rpy = (_three(origin, key, "0 0 0") for key in ("xyz", "rpy"))
    about = _three(axis, "xyz", "1 0 0")
    roll, pitch, yaw = decode(np.diag(rpy), "axis_angle")
    return _Joint(joint.get("name"), kind, xyz, compose(yaw, compose(pitch, roll)), about / np.linalg.norm(about))


def _three(element: ElementTree.Element | None, key: str, default: str) -> np.ndarray:
    return np.array((default if element is None else element.get(key, default)).split(), np.float64)
