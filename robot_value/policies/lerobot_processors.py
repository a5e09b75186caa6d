"""The processors saved with a LeRobot checkpoint: what they may be, and which statistics they use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint import CheckpointError
from ..normalize import Statistics
from ..untrusted import Refused, inside, read_json

BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"


def only_known_steps(folder: Path, name: str) -> None:
    """A step given as a class would be imported from wherever it says (lerobot #4219)."""
    steps = document(folder, name).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{folder / name}: expected a list of steps; fetch the checkpoint again")
    for step in steps:
        if not isinstance(step.get("registry_name"), str):
            raise CheckpointError(
                f"{folder / name}: expected registered steps, got {step.get('class')}; it is not imported"
            )
        if "state_file" in step:
            inside(folder, str(step["state_file"]))


def overrides(folder: Path, name: str, device: str, backbone: str) -> dict[str, dict[str, Any]]:
    """What a processor saved elsewhere says differently here."""
    here = {"device_processor": {"device": device}}
    here |= {"tokenizer_processor": {"tokenizer_name": str(folder / backbone)}} if backbone else {}
    steps = {step["registry_name"] for step in document(folder, name)["steps"]}
    return {step: change for step, change in here.items() if step in steps}


def check_statistics(folder: Path, config: Any, before: Any, after: Any) -> None:
    """LeRobot passes numbers on as they are where their statistics are missing."""
    for pipeline, features in ((before, config.input_features), (after, config.output_features)):
        for key in features:
            _check_key(folder, pipeline, key, features[key].type)
    if any(getattr(step, "enabled", False) and hasattr(step, "relative_step") for step in after.steps):
        raise CheckpointError(f"{folder}: expected actions that stand alone, got use_relative_actions; not supported")


def statistics(pipeline: Any, key: str) -> Statistics | None:
    """What the training data looked like in the robot's units, where the checkpoint says all of it."""
    found = next((step._tensor_stats.get(key, {}) for step in _normalizers(pipeline)), {})
    names = ("mean", "std", "min", "max")
    if any(name not in found for name in names):
        return None
    mean, std, low, high = (found[name].detach().cpu().float().numpy().reshape(-1) for name in names)
    return Statistics(mean, std, low, high, int(found["count"].item()) if "count" in found else 1)


def _check_key(folder: Path, pipeline: Any, key: str, kind: Any) -> None:
    for step in _normalizers(pipeline):
        mode = getattr(step.norm_map.get(kind), "value", "IDENTITY")
        if mode != "IDENTITY" and not step._tensor_stats.get(key):
            raise CheckpointError(
                f"{folder}: expected statistics of {key} for {mode}, got none; save the processors again"
            )


def _normalizers(pipeline: Any) -> list[Any]:
    return [step for step in pipeline.steps if hasattr(step, "_tensor_stats")]


def document(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder}: expected {name}, got none; save the whole checkpoint again")
    try:
        data = read_json(inside(folder, name))
    except Refused as error:
        raise CheckpointError(f"{folder / name}: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{folder / name}: expected an object, got {type(data).__name__}")
    return data
