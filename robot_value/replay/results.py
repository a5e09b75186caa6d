"""results.json of a replay: what was asked, what every diagnosis found, and where the figures come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..episodes.findings import Finding
from ..evaluate import Arm
from ..results import plain, write_atomic
from ..results_shape import NONE, NUMBER, PROVENANCE, InvalidResults, not_finite, typed
from .replayed import Replayed

FORMAT_VERSION = 1
SHAPE = {
    **PROVENANCE,
    "data": dict,
    "policy": str,
    "critics": dict,
    "arm": dict,
    "settings": dict,
    "reproduced": dict,
    "seconds": dict,
    "diagnoses": dict,
    "findings": list,
}
DATA = {"path": str, "episodes": int, "steps": int, "decisions": int, "successes": int, "failures": int}
SETTINGS = {"horizon": int, "execute": int, "every": (int, NONE), "gamma": NUMBER, "seed": int, "batch_size": int}
REPRODUCED = {"compared": int, "equal": int, "first": list}
FINDING = {"what": str, "advice": str, "episodes": list}


def to_results(
    replayed: Replayed,
    *,
    path: str,
    policy: str,
    critics: Mapping[str, str],  # name -> version
    arm: Arm,
    settings: Mapping[str, Any],  # every, seed, batch_size
    diagnoses: Mapping[str, Any],  # name -> its to_json()
    findings: Sequence[Finding],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    known = [episode.success for episode in replayed.episodes if episode.success is not None]
    own = {"horizon": replayed.horizon, "execute": replayed.execute, "gamma": replayed.gamma}
    found = {
        "format_version": FORMAT_VERSION,
        **provenance,
        "data": {
            "path": path,
            "episodes": len(replayed.episodes),
            "steps": sum(episode.steps for episode in replayed.episodes),
            "decisions": len(replayed),
            "successes": sum(known),
            "failures": len(known) - sum(known),
        },
        "policy": policy,
        "critics": dict(critics),
        "arm": asdict(arm),
        "settings": own | dict(settings),
        "reproduced": {
            "compared": replayed.compared,
            "equal": replayed.compared - len(replayed.unequal),
            "first": list(replayed.unequal[:3]),
        },
        "seconds": dict(replayed.seconds),
        "diagnoses": dict(diagnoses),
        "findings": [asdict(finding) for finding in findings],
    }
    return plain(found)


def validate(results: Mapping[str, Any]) -> None:
    """Raise InvalidResults with one line that lists everything wrong."""
    problems = typed(results, "results", SHAPE)
    if not problems:
        if (got := results["format_version"]) > FORMAT_VERSION:
            problems = [f"format_version: expected at most {FORMAT_VERSION}, got {got}; upgrade robot_value"]
        for name, shape in (("data", DATA), ("settings", SETTINGS), ("reproduced", REPRODUCED)):
            problems += typed(results[name], f"results.{name}", shape)
        for i, finding in enumerate(results["findings"]):
            problems += typed(finding, f"results.findings[{i}]", FINDING)
    problems += not_finite(results, "results")
    if problems:
        raise InvalidResults("results.json: " + "; ".join(problems))


def write(path: Path, results: Mapping[str, Any]) -> Path:
    """Checked, then replaced in one step."""
    validate(results)
    return write_atomic(path, json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
