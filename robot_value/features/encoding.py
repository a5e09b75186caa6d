"""A policy's features of one episode's frames <-> the files of their zarr group, beside the episodes as labels are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..episodes.arrays import Stored, to_files
from ..episodes.manifest import Manifest, canonical
from ..episodes.remote import Folder
from ..labels.encoding import Kind, Origin, about, opened
from ..types import Spec

DTYPES = ("float32", "float16")
AXES: Mapping[str, tuple[str, ...]] = {
    "vector": ("frame", "feature"),
    "tokens": ("frame", "token", "feature"),
    "mask": ("frame", "token"),
}


@dataclass(frozen=True)
class Frames:
    """Of the F frames of one episode, each with the history that ends in it; as types.Seen."""

    vector: np.ndarray  # float32 or float16 [F, V]
    tokens: np.ndarray  # the same [F, P, D]
    mask: np.ndarray  # bool[F, P]

    @property
    def widths(self) -> tuple[int, int]:
        return self.vector.shape[1], self.tokens.shape[2]

    @property
    def shape(self) -> list[int]:
        """[V, P, D]"""
        return [self.vector.shape[1], *self.tokens.shape[1:]]

    @property
    def nbytes(self) -> int:
        return self.vector.nbytes + self.tokens.nbytes + self.mask.nbytes

    def check(self, frames: int, dtype: str) -> None:
        """Raise ValueError with expected and got where they cannot be of an episode with that many frames."""
        for name, array in (("vector", self.vector), ("tokens", self.tokens)):
            if array.dtype != dtype or array.ndim != len(AXES[name]) or len(array) != frames:
                axes = ", ".join(AXES[name][1:])
                raise ValueError(f"{name}: expected {dtype}[{frames}, {axes}], got {array.dtype}{list(array.shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite numbers, got others; with --dtype=float16, try float32")
        if self.mask.dtype != bool or self.mask.shape != self.tokens.shape[:2]:
            raise ValueError(f"mask: expected bool{list(self.tokens.shape[:2])}, got {list(self.mask.shape)}")


def origin_of(version: str, spec: Spec, pooling: str, dtype: str) -> Origin:
    """A policy of this version and Spec; all its tokens where pooling is `query`."""
    config = {"spec": spec.to_json(), "pooling": pooling, "dtype": dtype}
    return Origin(version, json.loads(canonical(config)))  # as it is read again


def name_of(origin: Origin) -> str:
    """Of the folder: the policy's family, and what everything about it hashes to."""
    family = re.sub("[^A-Za-z0-9]+", "_", origin.labeler.rpartition(" ")[0].removeprefix("lerobot "))
    return f"{family[-48:].strip('_') or 'policy'}-{origin.hash[:12]}"


def encode(frames: Frames, origin: Origin, parent: Manifest) -> dict[str, bytes]:
    """Raises ValueError where they cannot be of that episode."""
    frames.check(parent.frames, origin.config["dtype"])
    arrays = {name: array for name in AXES if (array := getattr(frames, name)).size}
    attributes = about(FEATURES, origin, parent) | {"shape": frames.shape}
    return to_files({name: Stored(array, AXES[name]) for name, array in arrays.items()}, attributes)


def decode(folder: Folder) -> tuple[Frames, dict[str, Any]]:
    """The features and their attributes. Raises EpisodeDamaged, StoreError, ValueError, KeyError, TypeError."""
    manifest, attributes, there = opened(folder, "features", AXES)
    dtype, shape = attributes["origin"]["config"]["dtype"], attributes["shape"]
    empty = {"vector": np.zeros((manifest.frames, 0), dtype), "mask": np.zeros((manifest.frames, 0), bool)}
    empty["tokens"] = np.zeros((manifest.frames, 0, shape[2]), dtype)
    frames = Frames(**empty | there)
    frames.check(manifest.frames, dtype)
    if frames.shape != shape:
        raise ValueError(f"shape: expected {frames.shape}, as the arrays are, got {shape}")
    return frames, attributes


FEATURES = Kind("features", "data features", encode, decode)
