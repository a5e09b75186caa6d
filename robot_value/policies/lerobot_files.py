"""A LeRobot checkpoint from disk, offline and complete: LeRobot itself may return a random model instead."""

from __future__ import annotations

import hashlib
import inspect
import operator
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..checkpoint import MANIFEST, CheckpointError
from ..untrusted import inside
from .lerobot_processors import AFTER, BEFORE, check_statistics, document, only_known_steps, overrides

TESTED = "0.6.1"  # version of lerobot that the adapters were tested with
CONFIG, WEIGHTS = "config.json", "model.safetensors"
LATEST = ("", "pretrained_model", "checkpoints/last/pretrained_model")  # where `lerobot-train` leaves a checkpoint
BACKBONES = ("vlm_model_name", "vision_encoder_name", "text_encoder_name")  # settings that name a model on the hub


@dataclass(frozen=True)
class Opened:
    policy: nn.Module  # LeRobot's own, in evaluation mode
    before: Any  # its preprocessor: batch -> batch
    after: Any  # its postprocessor: normalised actions -> actions
    version: str  # of `named`


def find(folder: Path) -> Path | None:
    """Where below `folder` a LeRobot checkpoint lies; None where there is none, or one of ours."""
    for place in LATEST:
        path = folder / place
        if (path / CONFIG).is_file() and not (path / MANIFEST).exists() and "type" in document(path, CONFIG):
            return path
    return None


def settings(folder: Path, device: torch.device, backbone: str = "") -> Any:
    """LeRobot's configuration of the policy."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # steering downloads nothing; read when huggingface_hub is imported
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import factory  # noqa: F401  registers the families

    document(folder, CONFIG)
    try:
        config = PreTrainedConfig.from_pretrained(folder, cli_overrides=[f"--device={device.type}"])
    except Exception as error:
        raise CheckpointError(f"{folder / CONFIG}: not understood by lerobot {version()} ({error})") from error
    config.device = str(device)
    if config.use_peft:
        raise CheckpointError(f"{folder}: expected whole weights, got an adapter (PEFT); merge it into its base first")
    if getattr(config, "load_vlm_weights", False):
        config.load_vlm_weights = False  # the checkpoint holds them
    if not config.input_features or "action" not in (config.output_features or {}):
        raise CheckpointError(f"{folder / CONFIG}: expected input_features and an action, got none; save it again")
    for name in BACKBONES:
        if backbone and hasattr(config, name):
            setattr(config, name, str(folder / backbone))
    return config


def shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The checkpoint's inputs that a robot must fill."""
    return {key: tuple(feature.shape) for key, feature in config.input_features.items()}


def open_checkpoint(folder: Path, config: Any, backbone: str = "") -> Opened:
    """Raises CheckpointError unless weights and processors are there, understood and complete."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    for name in (BEFORE, AFTER):
        only_known_steps(folder, name)
    try:
        policy = get_policy_class(config.type)(config)
        _load_weights(policy, folder)
        before, after = make_pre_post_processors(
            config,
            pretrained_path=str(folder),
            preprocessor_overrides=overrides(folder, BEFORE, config.device, backbone),
            postprocessor_overrides={},
        )
    except (OSError, ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder}: lerobot {version()} cannot build this {config.type} ({error})") from error
    check_statistics(folder, config, before, after)
    return Opened(policy.to(config.device).eval(), before, after, named(folder, config.type, backbone))


def named(folder: Path, family: str, backbone: str = "") -> str:
    """A checkpoint's version."""
    return f"lerobot {family} {_sha256(folder, backbone)[:12]}"


def version() -> str:
    from importlib.metadata import version

    return version("lerobot")


def guard(policy: nn.Module, private: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a lerobot whose inner parts, which an adapter calls, are not what they were in the version tested."""
    advice = f"this adapter was tested with lerobot {TESTED}, got {version()}; install lerobot=={TESTED}"
    for name, parameters in private.items():
        try:
            part = operator.attrgetter(name)(policy)
        except AttributeError:
            raise CheckpointError(f"{type(policy).__name__}: expected {name}, got none; {advice}") from None
        missing = [p for p in parameters if p not in inspect.signature(part).parameters] if parameters else []
        if missing:
            raise CheckpointError(f"{type(policy).__name__}.{name}: expected parameter {missing[0]}; {advice}")
    if version() != TESTED:
        warnings.warn(f"lerobot: {advice} if what it proposes looks wrong", stacklevel=3)


def _load_weights(policy: nn.Module, folder: Path) -> None:
    path = inside(folder, WEIGHTS)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not safetensors ({error}); fetch the checkpoint again") from error
    if hasattr(policy, "_fix_pytorch_state_dict_keys"):  # pi0 and pi0.5 from openpi have other names
        tensors = policy._fix_pytorch_state_dict_keys(tensors, policy.config)
        tensors = {key if key.startswith("model.") else f"model.{key}": tensor for key, tensor in tensors.items()}
    found = policy.load_state_dict(tensors, strict=False)
    own = policy.state_dict()
    filled = {own[key].data_ptr() for key in tensors if key in own}  # a tied tensor is saved under one of its names
    missing = [key for key in found.missing_keys if own[key].data_ptr() not in filled]
    for what, keys in (("missing", missing), ("unexpected", found.unexpected_keys)):
        if keys:
            raise CheckpointError(f"{path}: {len(keys)} tensors are {what}, first {keys[0]}; use another checkpoint")


def _sha256(folder: Path, backbone: str) -> str:
    """Of all that decides what the policy says: robot_value.json too, and the settings and words of a backbone."""
    files = {path.name: path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}
    if backbone:  # its weights lie in the checkpoint
        words = [path for path in (folder / backbone).rglob("*") if path.suffix in (".json", ".model", ".txt")]
        files |= {f"backbone/{path.relative_to(folder / backbone)}": path for path in words}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
