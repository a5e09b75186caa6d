"""A trained model as a folder: safetensors + JSON + a manifest of SHA-256 sums; never pickle.

Neither safetensors nor JSON notices a flipped bit, so every byte is checked against the manifest before use. A folder
appears by one rename after everything in it is on disk, so it is there completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .learner_state import flatten, unflatten
from .normalize import Statistics
from .types import Spec
from .untrusted import Refused, read_json

FORMAT_VERSION = 1
LARGEST_HEADER = 1 << 22  # bytes, of a tensor file: some 30,000 tensors

MANIFEST, CONFIG, STATISTICS, MODEL = "manifest.json", "config.json", "statistics.json", "model.safetensors"
LEARNER, LEARNER_JSON = "learner.safetensors", "learner.json"
REQUIRED = {CONFIG, STATISTICS, MODEL}
OPTIONAL = {LEARNER, LEARNER_JSON}


class CheckpointError(ValueError):
    """This folder is not a complete, undamaged checkpoint we understand; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    kind: str  # component kind, e.g. "critics"
    name: str  # component name, e.g. "iql"
    config: dict[str, Any]  # the component's resolved config
    spec: Spec
    tensors: dict[str, torch.Tensor]  # the model's state_dict, on the CPU
    statistics: dict[str, Statistics]  # by key: "state", "action"
    extra: dict[str, Any]  # JSON values of the trainer's choice
    step: int  # gradient steps taken
    hash: str  # SHA-256 of the manifest: names every byte of the checkpoint
    learner: Any = None  # training state where saved and asked for


def save(
    folder: str | Path,
    *,
    kind: str,
    name: str,
    config: Mapping[str, Any],
    spec: Spec,
    tensors: Mapping[str, torch.Tensor],
    statistics: Mapping[str, Statistics],
    extra: Mapping[str, Any] | None = None,
    step: int = 0,
    learner: Any = None,
) -> str:
    """Write a checkpoint and return its hash; on return it is on disk. An existing one is replaced, never mixed.

    `learner` is any tree of dicts, lists, numbers, tensors and arrays (see learner_state.py). Raises CheckpointError
    where statistics are missing and TypeError or ValueError where a value cannot be written as JSON.
    """
    folder = Path(folder)
    _check_statistics(folder, spec, statistics)
    config_json = {
        "kind": kind,
        "name": name,
        "step": step,
        "config": config,
        "spec": spec.to_json(),
        "extra": extra or {},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    tmp = _beside(folder, "tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    try:
        _write_json(tmp / CONFIG, config_json)
        _write_json(tmp / STATISTICS, {key: value.to_json() for key, value in statistics.items()})
        save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, tmp / MODEL)
        if learner is not None:
            learner_tensors, skeleton = flatten(learner)
            save_file(learner_tensors, tmp / LEARNER)
            _write_json(tmp / LEARNER_JSON, skeleton)
        files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(tmp.iterdir())}
        _write_json(tmp / MANIFEST, {"format_version": FORMAT_VERSION, "files": files})
        digest = _sha256(tmp / MANIFEST)
        _commit(tmp, folder)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return digest


def load(folder: str | Path, learner: bool = False) -> Checkpoint:
    """Verify every byte, then read. With `learner`, training state too (refused where none was saved)."""
    folder = Path(folder)
    where = _present(folder)
    digest = verify(folder)
    config = _read_json(where / CONFIG)
    try:
        spec = Spec.from_json(config["spec"])
        statistics = {key: Statistics.from_json(value) for key, value in _read_json(where / STATISTICS).items()}
        fields = {key: config[key] for key in ("kind", "name", "step", "config", "extra")}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"checkpoint {folder}: content not understood by this robot_value ({error})") from error
    _check_statistics(folder, spec, statistics)
    state = None
    if learner:
        if not (where / LEARNER).exists():
            raise CheckpointError(f"checkpoint {folder}: expected {LEARNER} to resume training, got none; start afresh")
        state = _read_learner(where)
    return Checkpoint(
        spec=spec, statistics=statistics, tensors=_read_tensors(where / MODEL), hash=digest, learner=state, **fields
    )


def verify(folder: str | Path) -> str:
    """The checkpoint's hash; raises CheckpointError unless exactly the promised bytes are there."""
    folder = Path(folder)
    where = _present(folder)
    files = _manifest(folder, where)
    got = {path.name for path in where.iterdir()} - {MANIFEST}
    if missing := sorted(files.keys() - got):
        raise CheckpointError(
            f"checkpoint {folder}: file {missing[0]} is missing; restore it or use another checkpoint"
        )
    if surplus := sorted(got - files.keys()):
        raise CheckpointError(f"checkpoint {folder}: file {surplus[0]} is not in its manifest; move it elsewhere")
    for name, entry in files.items():
        path = where / name
        if path.is_symlink() or not path.is_file():
            raise CheckpointError(f"checkpoint {folder}: expected {name} to be a plain file; restore it")
        if (size := path.stat().st_size) != entry["bytes"]:
            raise CheckpointError(
                f"checkpoint {folder}: {name} is truncated or grown, expected {entry['bytes']} bytes, got {size}; "
                "use another checkpoint"
            )
        if _sha256(path) != entry["sha256"]:
            raise CheckpointError(f"checkpoint {folder}: {name} is damaged (SHA-256 differs); use another checkpoint")
    return _sha256(where / MANIFEST)


def newest(root: str | Path) -> Path | None:
    """The undamaged checkpoint of the highest step directly below root, warning about damaged ones; None if empty.

    Raises CheckpointError where checkpoints exist and none of them is valid.
    """
    folders = _folders(Path(root))
    valid = next(_valid(folders), None)
    if folders and valid is None:
        raise CheckpointError(
            f"{root}: expected a valid checkpoint, got {len(folders)} damaged; delete them to start afresh"
        )
    return valid


def keep(root: str | Path, n: int) -> list[Path]:
    """Delete all but the n newest valid checkpoints below root; damaged ones stay for a person to look at."""
    if n < 1:
        raise ValueError(f"keep: expected at least 1 checkpoint to keep, got {n}")
    doomed = list(_valid(_folders(Path(root))))[n:]
    for folder in doomed:
        _delete(folder)
    return doomed


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders below root, highest step first; one whose step cannot be read comes last."""
    if not root.is_dir():
        return []
    found = {path.with_name(_visible(path.name)) for path in root.iterdir() if path.is_dir() and _visible(path.name)}
    return sorted((path for path in found if (_present(path) / MANIFEST).exists()), key=_step, reverse=True)


def _valid(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        try:
            verify(folder)
        except CheckpointError as error:
            warnings.warn(f"skipped: {error}", stacklevel=3)
        else:
            yield folder


def _step(folder: Path) -> tuple[int, str]:
    try:
        return int(_read_json(_present(folder) / CONFIG)["step"]), folder.name
    except (CheckpointError, OSError, KeyError, TypeError, ValueError):
        return -1, folder.name


def _manifest(folder: Path, where: Path) -> dict[str, dict[str, Any]]:
    if not (where / MANIFEST).is_file():
        raise CheckpointError(f"checkpoint {folder}: expected a folder with {MANIFEST}, got none; check the path")
    manifest = _read_json(where / MANIFEST)
    damaged = CheckpointError(f"checkpoint {folder}: {MANIFEST} is damaged; use another checkpoint")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format_version"), int):
        raise damaged
    if manifest["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {folder}: format_version {manifest['format_version']} is newer than this robot_value "
            f"understands ({FORMAT_VERSION}); upgrade robot_value"
        )
    # Written one way only, so any changed byte that is still JSON shows here (ValueError: NaN, which JSON has not).
    try:
        whole = (where / MANIFEST).read_bytes() == _json_bytes(manifest)
    except ValueError:
        whole = False
    if not whole or manifest["format_version"] < 1:
        raise damaged
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
        raise damaged
    if len(OPTIONAL & files.keys()) == 1:
        raise damaged
    if missing := sorted(REQUIRED - files.keys()):
        raise CheckpointError(f"checkpoint {folder}: {missing[0]} is missing from its manifest; save it again")
    if unknown := sorted(files.keys() - REQUIRED - OPTIONAL):
        raise CheckpointError(f"checkpoint {folder}: unknown file {unknown[0]} in its manifest; upgrade robot_value")
    return files


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and set(entry) == {"bytes", "sha256"}


def _check_statistics(folder: Path, spec: Spec, statistics: Mapping[str, Statistics]) -> None:
    for key, size in (("state", spec.state_dim), ("action", spec.action_dim)):
        if size == 0:
            continue
        got = f"{len(statistics[key].mean)}" if key in statistics else "none"
        if got != str(size):
            raise CheckpointError(
                f"checkpoint {folder}: expected statistics of {size} dims for {key!r}, got {got}; measure them with "
                "fit_statistics on the training data"
            )


def _commit(tmp: Path, folder: Path) -> None:
    """Make the finished folder visible; killed at any point, the old or the new one can be loaded."""
    for path in tmp.iterdir():
        _fsync(path)
    _fsync(tmp)
    old = _beside(folder, "old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(tmp, folder)
    _fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _delete(folder: Path) -> None:
    """Gone for every reader at once, even if we are killed halfway."""
    hidden = _beside(folder, "tmp")
    for path in (_beside(folder, "old"), folder):
        shutil.rmtree(hidden, ignore_errors=True)
        if path.exists():
            os.rename(path, hidden)
    shutil.rmtree(hidden)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


def _visible(name: str) -> str:
    """The folder's public name; "" for a half-written one."""
    if not name.startswith("."):
        return name
    return name[1:].removesuffix(".old") if name.endswith(".old") else ""


def _present(folder: Path) -> Path:
    """Where the checkpoint lies: a save killed between its two renames leaves the previous one set aside."""
    old = _beside(folder, "old")
    return old if old.is_dir() and not folder.exists() else folder


def _json_bytes(data: Any) -> bytes:
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def _write_json(path: Path, data: Any) -> None:
    path.write_bytes(_json_bytes(data))


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except Refused as error:
        raise CheckpointError(
            f"checkpoint {path.parent}: {path.name} is damaged ({error}); use another checkpoint"
        ) from error


def _read_learner(where: Path) -> Any:
    try:
        return unflatten(_read_tensors(where / LEARNER), _read_json(where / LEARNER_JSON))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {where}: {LEARNER_JSON} is no training state ({error})") from error


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")  # safetensors: its JSON header's length comes first
    if header > LARGEST_HEADER:
        raise CheckpointError(
            f"checkpoint {path.parent}: {path.name} is not safetensors (expected a header of at most {LARGEST_HEADER} "
            f"bytes, got {header}); save it again"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {path.parent}: {path.name} is not safetensors ({error}); save it again"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
