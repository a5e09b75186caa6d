"""One Episode <-> the files of its zarr group. What cannot be trained on (NaN, infinity) is refused before writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..types import FORMAT_VERSION, Episode, Spec
from . import decisions
from .arrays import Stored, open_files, read_array, to_files
from .manifest import StoreError, canonical, newer, sha256

KIND = "robot_value episode"


def encode(episode: Episode, spec_hash: str) -> dict[str, bytes]:
    """path -> content. Raises StoreError for non-finite rows and for provenance that JSON cannot hold."""
    for key in ("states", "actions", "rewards", "commanded"):
        _finite(key, getattr(episode, key))
    logged, texts = decisions.to_arrays(episode.decisions)
    attributes = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "spec": spec_hash,
        "task": episode.task,
        "dt": episode.dt,
        "steps": len(episode),
        "frames": len(episode.states),
        "terminated": bool(episode.terminated),
        "truncated": bool(episode.truncated),
        "success": None if episode.success is None else bool(episode.success),
        "provenance": _json_values(episode.provenance),
        "decisions": texts,
    }
    arrays = _arrays(episode) | {f"decisions/{name}": stored for name, stored in logged.items()}
    return to_files(arrays, attributes)


def decode(files: Mapping[str, bytes], spec: Spec, images: bool = True, with_decisions: bool = True) -> Episode:
    """The Episode in `files`. Without images, the spec of the result has no cameras."""
    group = open_files(files)
    attributes: dict[str, Any] = dict(group.attrs)
    if (version := attributes["format_version"]) > FORMAT_VERSION:
        raise StoreError(newer("episode", version))
    if attributes["spec"] != spec_fingerprint(spec):
        raise ValueError(f"spec: expected {spec_fingerprint(spec)[:12]}, got {str(attributes['spec'])[:12]}")
    for key, kinds in (("terminated", bool), ("truncated", bool), ("success", bool | None), ("task", str)):
        if not isinstance(attributes[key], kinds):
            raise ValueError(f"{key}: expected {kinds}, got {attributes[key]!r}")
    if not images:
        spec = spec.choose(cameras=())
    names = {path.removesuffix("/zarr.json") for path in files if path.endswith("/zarr.json")}

    def read(name: str) -> np.ndarray:
        return read_array(group, name, files)

    logged = {name.removeprefix("decisions/") for name in names if name.startswith("decisions/")}
    texts = attributes["decisions"] if with_decisions else {}
    return Episode(
        spec=spec,
        states=read("states"),
        images={camera.name: read(f"images/{camera.name}") for camera in spec.cameras},
        actions=read("actions"),
        rewards=read("rewards"),
        terminated=attributes["terminated"],
        truncated=attributes["truncated"],
        success=attributes["success"],
        task=attributes["task"],
        commanded=read("commanded") if "commanded" in names else None,
        source=read("source") if "source" in names else None,
        decisions=decisions.from_arrays(lambda name: read(f"decisions/{name}"), logged, texts),
        provenance=attributes["provenance"],
        format_version=version,
    )


def spec_fingerprint(spec: Spec) -> str:
    """A hash that is equal exactly where two Specs are."""
    return sha256(canonical(spec.to_json()))


def _arrays(episode: Episode) -> dict[str, Stored]:
    spec = episode.spec
    action = {
        "unit": [part.unit for part in spec.parts for _ in range(part.stop - part.start)],
        "name": [part.name for part in spec.parts for _ in range(part.stop - part.start)],
    }
    state = {"name": list(spec.state_names), "unit": list(spec.state_units)}
    arrays = {
        "states": Stored(episode.states, ("frame", "state"), state),
        "actions": Stored(episode.actions, ("step", "action"), action),
        "rewards": Stored(episode.rewards, ("step",)),
    }
    if episode.commanded is not None:
        arrays["commanded"] = Stored(episode.commanded, ("step", "action"), action)
    if episode.source is not None:
        arrays["source"] = Stored(episode.source, ("step",), {"meaning": ["policy", "expert", "human"]})
    for name, image in episode.images.items():
        arrays[f"images/{name}"] = Stored(image, ("frame", "height", "width", "channel"))
    return arrays


def _finite(key: str, array: np.ndarray | None) -> None:
    if array is None or (finite := np.isfinite(array)).all():
        return
    row = np.argwhere(~finite)[0]
    raise StoreError(
        f"{key}: expected finite numbers, got {array[tuple(row)]} in row {row[0]}"
        + (f", dim {row[1]}" if len(row) > 1 else "")
        + "; nothing was written, repair or drop the episode"
    )


def _json_values(provenance: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in provenance.items():
        try:
            if not isinstance(key, str) or json.loads(canonical(value)) != _plain(value):
                raise ValueError("it would not come back equal")
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"provenance[{key!r}]: expected a JSON value, got {value!r} ({error}); nothing was written"
            ) from None
    return dict(provenance)


def _plain(value: Any) -> Any:
    """Tuples are written as lists."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
