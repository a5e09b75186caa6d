"""results.json: one shape for every command that reports figures (docs/results/*.json hold the committed ones).

UTF-8, strict JSON (null for what is unknown, never NaN), written atomically. `results_shape` names what is wrong.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .results_shape import FORMAT_VERSION, validate_results

if TYPE_CHECKING:  # who only writes a file needs no torch
    from .evaluate import Comparison
    from .recipe import Recipe


def to_results(
    test: Comparison,
    recipe: Recipe,
    *,
    task: str,
    policy: str,
    critic: str | None,
    provenance: Mapping[str, Any],
    base: str = "base",
    differences: Sequence[tuple[str, str]] | None = None,
    validation: Comparison | None = None,
    headroom: Mapping[str, Any] | None = None,
    headroom_rows: Sequence[Mapping[str, Any]] = (),
    latency_ms: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The test comparison of a recipe that was fixed on other seeds, as results.json. Refuses overlapping seeds.

    `differences` (arm, against) are `default_pairs` unless given. `headroom` is the one to quote, `headroom_rows` holds
    all continuations. `latency_ms` (stage -> ms) was measured for one robot, else the comparison's batches count.
    """
    from .evaluate import success_by_n

    recipe.check(test.seeds)
    pairs = default_pairs(test, base) if differences is None else differences
    results = {
        "format_version": FORMAT_VERSION,
        **provenance,
        "task": task,
        "policy": policy,
        "critic": critic,
        "seeds": {
            "training": list(test.training),
            "validation": [min(recipe.seeds), max(recipe.seeds)],
            "test": [min(test.seeds), max(test.seeds)],
        },
        "recipe": recipe.to_json(),
        "arms": {name: test.row(name) for name in test.arms},
        "difference": test.difference(recipe.arm.name, base),
        "differences": [test.difference(*pair) for pair in pairs],
        "excluded_unstable_seeds": test.excluded,
        "success_by_n": None if validation is None else success_by_n(validation),
        "calibration": {name: found for name in test.arms if (found := test.calibration(name))},
        "headroom": headroom,
        "headroom_rows": list(headroom_rows),
        "latency_ms": test.result(recipe.arm.name).latency_ms if latency_ms is None else latency_ms,
        "latency_batch": test.batch_size if latency_ms is None else 1,
    }
    return plain(results)


def default_pairs(test: Comparison, base: str = "base") -> list[tuple[str, str]]:
    """Every arm against the plain policy; every critic also against averaging, which needs none."""
    pairs = [(name, base) for name in test.arms if name != base]
    if "mean" in test.arms:
        pairs += [(name, "mean") for name, result in test.arms.items() if result.arm.critic is not None]
    return pairs


def plain(value: Any) -> Any:
    """The same as JSON values: arrays become lists, numpy scalars numbers, NaN and infinities null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_results(path: Path, results: Mapping[str, Any]) -> Path:
    """Check the shape, then replace `path` in one step: a reader sees the old file or the new one, never half of it."""
    results = plain(results)
    validate_results(results)
    return write_atomic(Path(path), json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_atomic(path: Path, text: str) -> Path:
    """UTF-8 text under `path`, durable before it appears."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide a report from everyone else
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
