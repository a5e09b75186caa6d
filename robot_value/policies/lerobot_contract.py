"""What a LeRobot checkpoint does not say: units, limits and the period of its numbers, and whose camera is whose.

It lies beside the weights as robot_value.json; `robot-value adopt` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import CheckpointError
from ..episodes.durable import replace_file
from ..sampling import TensorObservation
from ..types import Camera, Observation, Spec
from ..untrusted import read_json

FILE, FORMAT_VERSION = "robot_value.json", 1
STATE, IMAGES, BLANK = "observation.state", "observation.images.", "observation.images.empty_camera_"
OBJECTS = "observation.environment_state"  # the end of our state, as `data export --target.objects_from` splits it


@dataclass(frozen=True)
class Contract:
    spec: Spec
    # The checkpoint's feature -> our state names in its order, or our camera; () is a camera that the robot lacks.
    inputs: Mapping[str, tuple[str, ...]]
    backbone: str = (
        ""  # folder with tokenizer, VLM or CLIP instead of the names on the hub; from the checkpoint's folder
    )

    def batch(self, observation: TensorObservation, history: bool) -> dict[str, Any]:
        """Features as LeRobot's datasets have them: pictures float32[B, O, 3, h, w] in [0, 1], no O without history."""
        found: dict[str, Any] = {"task": [observation.tasks[i] for i in observation.task.tolist()]}
        for key, names in self.inputs.items():
            if names:
                value = self._feature(key, names, observation)
                found[key] = value if history else value[:, -1]
        return found

    def looked_at(self, observation: Observation) -> Observation:
        """Without the pictures that no input takes."""
        wanted = {name for key, names in self.inputs.items() if is_picture(key) for name in names}
        images = {name: image for name, image in observation.images.items() if name in wanted}
        return replace(observation, images=images, goal=None)

    def _feature(self, key: str, names: tuple[str, ...], observation: TensorObservation) -> Tensor:
        if not is_picture(key):
            return observation.state[..., [self.spec.state_names.index(name) for name in names]]
        return observation.images[names[0]].movedim(-1, -3).float() / 255


def is_picture(key: str) -> bool:
    return key.startswith("observation.image")


def is_there(folder: Path) -> bool:
    return (folder / FILE).is_file()


def read(folder: Path) -> Contract:
    if not is_there(folder):
        raise CheckpointError(
            f"{folder}: expected {FILE}, which says what a LeRobot checkpoint's numbers mean, got none; write it with "
            f"robot-value adopt {folder} --spec=<store, checkpoint or JSON file with the robot's Spec>"
        )
    try:
        data = read_json(folder / FILE)
        if data["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {data['format_version']!r} instead of {FORMAT_VERSION}")
        inputs = {str(key): tuple(map(str, names)) for key, names in data["inputs"].items()}
        return Contract(Spec.from_json(data["spec"]), inputs, str(data["backbone"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{folder / FILE}: not understood ({error}); write it again with robot-value adopt"
        ) from error


def write(folder: Path, contract: Contract) -> None:
    data = {"format_version": FORMAT_VERSION, "spec": contract.spec.to_json(), "inputs": contract.inputs}
    replace_file(folder / FILE, json.dumps(data | {"backbone": contract.backbone}, indent=1).encode())


def matched(
    spec: Spec,
    features: Mapping[str, tuple[int, ...]],  # the checkpoint's inputs and their shapes
    asked: Mapping[str, tuple[str, ...]],  # explicit part of the mapping
    blanks: bool,  # whether the model can do without a camera
) -> dict[str, tuple[str, ...]]:
    """Every input of the checkpoint with what fills it; raises ValueError naming both sides."""
    if unknown := sorted(asked.keys() - features.keys()):
        raise ValueError(f"--inputs: the checkpoint has no {unknown[0]}, it has {', '.join(sorted(features))}")
    found = {}
    for key, shape in features.items():
        if key.startswith(BLANK) and key not in asked:
            continue  # the model fills these itself
        names = tuple(asked[key]) if key in asked else _by_name(key, spec, features)
        fills = _camera if is_picture(key) else _numbers
        fills(key, shape, names, spec, blanks)
        found[key] = names
    return found


def _by_name(key: str, spec: Spec, features: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    if is_picture(key):
        return (key.removeprefix(IMAGES),)
    robots = features.get(STATE, (0,))[0] if OBJECTS in features else spec.state_dim  # numbers that are not objects'
    return {STATE: spec.state_names[:robots], OBJECTS: spec.state_names[robots:]}.get(key, ())


def _camera(key: str, shape: tuple[int, ...], names: tuple[str, ...], spec: Spec, blanks: bool) -> None:
    if not names and blanks:
        return
    cameras: dict[str, Camera] = {camera.name: camera for camera in spec.cameras}
    if len(names) != 1 or names[0] not in cameras:
        raise ValueError(
            f"{key}: expected one of the robot's cameras ({', '.join(cameras) or 'it has none'}), got "
            f"{', '.join(names) or 'nothing'}; say which with --inputs='{{{key}: NAME}}'"
        )
    camera = cameras[names[0]]
    if shape != (3, camera.height, camera.width):
        raise ValueError(
            f"{key}: the checkpoint was trained on {list(shape)}, the robot's camera {names[0]} gives "
            f"{[3, camera.height, camera.width]}; record or resize it as in training"
        )


def _numbers(key: str, shape: tuple[int, ...], names: tuple[str, ...], spec: Spec, blanks: bool) -> None:
    if unknown := [name for name in names if name not in spec.state_names]:
        raise ValueError(f"{key}: the robot's state has no {unknown[0]}, it has {', '.join(spec.state_names)}")
    if shape != (len(names),):
        raise ValueError(
            f"{key}: the checkpoint wants {list(shape)} numbers, got {len(names)} of the robot's state "
            f"({', '.join(spec.state_names)}); say which and in which order with --inputs='{{{key}: NAME NAME ...}}'"
        )
