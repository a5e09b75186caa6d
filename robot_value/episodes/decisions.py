"""Decisions <-> arrays. Floats stay binary because JSON has no NaN; only texts become attributes.

D decisions are stacked: candidates[D, B, N, H, A]. Where N or H changes within an episode, rows are padded with zeros
and `<field>_shape` int64[D, dims] holds the real extents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..types import Decision
from .arrays import Stored

# field -> (dtype, axes of one decision); see types.Decision for units
FIELDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "chunk": (np.float32, ("robot", "chunk_step", "action")),
    "execute": (np.int64, ("robot",)),
    "start_step": (np.int64, ("robot",)),
    "index": (np.int64, ("robot",)),
    "candidates": (np.float32, ("robot", "candidate", "chunk_step", "action")),
    "value": (np.float32, ("robot", "candidate")),
    "spread": (np.float32, ("robot", "candidate")),
}
COMMITTED = "committed"  # (np.int64, ("robot",)); left out where nothing ever was


def to_arrays(decisions: Sequence[Decision]) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Arrays and JSON attributes; both empty where nothing was decided."""
    if not decisions:
        return {}, {}
    arrays: dict[str, Stored] = {}
    for name, (dtype, axes) in FIELDS.items():
        arrays |= _stack(name, [np.asarray(getattr(decision, name), dtype) for decision in decisions], axes)
    if any(decision.committed is not None for decision in decisions):
        rows = [np.zeros_like(d.start_step) if d.committed is None else d.committed for d in decisions]
        arrays |= _stack(COMMITTED, [np.asarray(row, np.int64) for row in rows], FIELDS["start_step"][1])
    stages = sorted({stage for decision in decisions for stage in decision.seconds})
    if stages:
        arrays |= _stages(decisions, stages)
    texts = {
        "stages": stages,
        "reason": [list(decision.reason) for decision in decisions],
        "seed": [int(decision.seed) for decision in decisions],
        "versions": [dict(decision.versions) for decision in decisions],
    }
    return arrays, texts


def from_arrays(read: Callable[[str], np.ndarray], names: set[str], texts: dict[str, Any]) -> tuple[Decision, ...]:
    """The inverse of `to_arrays`; `read` decodes an array, `names` says which there are."""
    if not texts:
        return ()
    _check_texts(texts)
    fields = {name: _unstack(name, read, names) for name in (*FIELDS, *({COMMITTED} & names))}
    if lengths := {name: len(rows) for name, rows in fields.items() if len(rows) != len(texts["reason"])}:
        raise ValueError(f"decisions: expected {len(texts['reason'])} rows of every field, got {lengths}")
    seconds = [{} for _ in texts["reason"]]
    if stages := texts["stages"]:
        values, measured = read("seconds"), read("seconds_measured")
        seconds = [
            {stage: float(value) for stage, value, real in zip(stages, row, present, strict=True) if real}
            for row, present in zip(values, measured, strict=True)
        ]
    return tuple(
        Decision(
            **{name: rows[i] for name, rows in fields.items()},
            reason=tuple(texts["reason"][i]),
            seconds=seconds[i],
            seed=texts["seed"][i],
            versions=texts["versions"][i],
        )
        for i in range(len(texts["reason"]))
    )


def _stages(decisions: Sequence[Decision], stages: list[str]) -> dict[str, Stored]:
    """seconds float64[D, stages]; a stage that did not run is marked, because NaN may be a measurement."""
    values = np.array([[decision.seconds.get(stage, np.nan) for stage in stages] for decision in decisions], np.float64)
    measured = np.array([[stage in decision.seconds for stage in stages] for decision in decisions], bool)
    axes, about = ("decision", "stage"), {"stages": stages, "unit": "s"}
    return {"seconds": Stored(values, axes, about), "seconds_measured": Stored(measured, axes)}


def _stack(name: str, rows: list[np.ndarray], axes: tuple[str, ...]) -> dict[str, Stored]:
    shapes = np.array([row.shape for row in rows], np.int64)  # int64[D, dims]
    axes = ("decision", *axes)
    if (shapes == shapes[0]).all():
        return {name: Stored(np.stack(rows), axes)}
    padded = np.zeros((len(rows), *shapes.max(0)), rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[tuple(slice(length) for length in row.shape)] = row
    return {name: Stored(padded, axes), f"{name}_shape": Stored(shapes, ("decision", "dimension"))}


def _check_texts(texts: dict[str, Any]) -> None:
    """The attributes of one decision each, of the types that `to_arrays` gave them."""
    reason, seed, versions = (texts[key] for key in ("reason", "seed", "versions"))
    if not all(isinstance(each, list) for each in (reason, seed, versions, *reason, texts["stages"])):
        raise ValueError("decisions: expected lists of reasons, seeds, versions and stages")
    if len(reason) != len(seed) or len(reason) != len(versions):
        raise ValueError(f"decisions: expected {len(reason)} seeds and versions, got {len(seed)} and {len(versions)}")
    strangers = [each for each in seed if type(each) is not int] + [e for e in versions if not isinstance(e, dict)]
    if strangers:
        raise ValueError(f"decisions: expected numbers as seeds and objects as versions, got {strangers[0]!r}")


def _unstack(name: str, read: Callable[[str], np.ndarray], names: set[str]) -> list[np.ndarray]:
    padded, (dtype, axes) = read(name), FIELDS["start_step" if name == COMMITTED else name]
    if padded.dtype != dtype or padded.ndim != 1 + len(axes):
        raise ValueError(f"{name}: expected {np.dtype(dtype)} of axes {axes}, got {padded.dtype}{list(padded.shape)}")
    if f"{name}_shape" not in names:
        return list(padded)
    shapes = read(f"{name}_shape")
    if shapes.dtype != np.int64 or shapes.shape != (len(padded), len(axes)) or (shapes > padded.shape[1:]).any():
        raise ValueError(f"{name}_shape: expected int64{[len(padded), len(axes)]} within {list(padded.shape[1:])}")
    return [row[tuple(slice(int(n)) for n in shape)].copy() for row, shape in zip(padded, shapes, strict=True)]
