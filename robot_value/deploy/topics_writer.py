"""The topics of a simulated arm as YAML: its Spec, spoken as a ros2_control arm would; `topics.load` reads it back.

python -m robot_value.deploy.topics_writer --robot.type=robosuite --robot.control=joint_absolute > topics.yaml
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import flags
from ..topics import IMAGE, JOINT_STATE, JOINT_TRAJECTORY, Topics, parse
from ..types import ActionPart, Camera, Spec

COMMANDS = "std_msgs/msg/Float64MultiArray"
AGE, CAMERA_AGE = 0.05, 0.2  # s, at 100 Hz and 20 Hz


@dataclass(frozen=True)
class Write:
    """Print the topics of a simulated arm as YAML."""

    robot: Any = None  # the simulated robot, with absolute joint actions
    camera_encoding: str = "rgb8"  # of the image messages: rgb8 or bgr8
    commands: str = "trajectory"  # how the arm is told: trajectory, or forward (Float64MultiArray)


def arm_topics(spec: Spec, encoding: str = "rgb8", commands: str = "trajectory") -> dict[str, Any]:
    """What `topics.parse` takes. The state must begin with the arm's joints, in the action's order."""
    arm = spec.parts[0]
    size, units = arm.stop, spec.state_units
    if (arm.kind, arm.reference) != ("joint", "absolute") or units[:size] != ("rad",) * size:
        raise ValueError(
            f"action: expected absolute joint positions first, and the state to begin with them, got {arm.kind} "
            f"({arm.reference}) and {spec.state_names[:size]}; robosuite has --robot.control=joint_absolute"
        )
    joints = [f"panda_joint{i + 1}" for i in range(size)]
    state = [_state("/joint_states", joints, spec.state_names[:size], "rad")]
    if rest := spec.state_names[size:]:
        state.append(_state("/simulated_arm/state", rest, rest, list(units[size:])))
    return {
        "rate": 1 / spec.dt,
        "max_skew": math.inf,  # of a simulation; cameras are slower than joints
        "state": state,
        "action": [_action(part, joints, commands) for part in spec.parts],
        "cameras": [_camera(camera, encoding) for camera in spec.cameras],
        "reward": {"topic": "/reward", "type": "std_msgs/msg/Float32"},
        "success": {"topic": "/success", "type": "std_msgs/msg/Bool"},
    }


def topics_of(spec: Spec) -> Topics:
    return parse(arm_topics(spec))


def text(data: dict[str, Any]) -> str:
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(data, Dumper=Plain, default_flow_style=None, sort_keys=False, width=118)


def _state(topic: str, joints: Sequence[str], names: Sequence[str], unit: str | list[str]) -> dict[str, Any]:
    entry = {"topic": topic, "type": JOINT_STATE, "joints": list(joints), "names": list(names)}
    return {**entry, "unit": unit, "max_age": AGE}


def _action(part: ActionPart, joints: Sequence[str], commands: str) -> dict[str, Any]:
    about = {"name": part.name, "kind": part.kind, "unit": part.unit, "low": list(part.low), "high": list(part.high)}
    if part.kind == "gripper":
        about |= {"sign": part.sign} | ({"width": part.width} if part.width else {})
        names = (
            [f"{part.name}_{i}" for i in range(part.stop - part.start)] if part.stop - part.start > 1 else [part.name]
        )
        return {
            **about,
            "topic": f"/{part.name}_controller/commands",
            "type": COMMANDS,
            "names": names,
            "max_age": math.inf,
        }
    if commands == "forward":
        return {
            **about,
            "topic": "/forward_position_controller/commands",
            "type": COMMANDS,
            "names": joints,
            "max_age": 0.2,
        }
    topic = "/joint_trajectory_controller/joint_trajectory"
    return {**about, "topic": topic, "type": JOINT_TRAJECTORY, "joints": joints, "max_age": 0.2}


def _camera(camera: Camera, encoding: str) -> dict[str, Any]:
    size = {"height": camera.height, "width": camera.width, "encoding": encoding}
    return {"name": camera.name, "topic": f"/{camera.name}/image_raw", "type": IMAGE, **size, "max_age": CAMERA_AGE}


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    said = flags.parse(Write, argv, {"robot": flags.Choice("robots", "first_order")}, "topics_writer").values
    sys.stdout.write(text(arm_topics(said.robot.simulator().spec, said.camera_encoding, said.commands)))


if __name__ == "__main__":
    main()
