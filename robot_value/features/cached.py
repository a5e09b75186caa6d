"""A dataset's features laid out as its decoded cache is, and a policy's eyes that have seen all of it already."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..episodes.cache import Cache
from ..episodes.errors import StoreError
from ..episodes.manifest import canonical, sha256
from ..episodes.store import EpisodeStore
from ..labels.encoding import Origin
from ..labels.root import names
from ..labels.store import LabelStore
from ..sampling import TensorObservation
from ..types import Seen, Spec
from .encoding import AXES, FEATURES, Frames


@dataclass(frozen=True)
class CacheFeatures:
    """Of the F frames of a cache, memory-mapped: a sampler reads rows of it."""

    name: str
    hash: str  # of all of them
    origin: Origin  # the policy's version, Spec, and how its features were kept
    frames: Frames  # [F, ...], P the longest of all episodes

    def __len__(self) -> int:
        return len(self.frames.vector)

    def at(self, rows: Tensor) -> Seen:
        """rows int64[B] of the cache's frames, -> float32."""
        vector, tokens, mask = (torch.from_numpy(np.asarray(getattr(self.frames, name)[rows.numpy()])) for name in AXES)
        return Seen(vector.float(), tokens.float(), mask)


class RecordedEyes:
    """Stands for the policy where a critic looks through its eyes at frames that it has seen: it is not run.

    Whoever asks for its chunks too gets them of the policy itself, where there is one behind.
    """

    def __init__(self, features: CacheFeatures, policy: Any = None) -> None:
        self.features, self._policy = features, policy
        self.spec, self.version = Spec.from_json(features.origin.config["spec"]), features.origin.labeler
        self.widths = features.frames.widths

    def encoder(self, observation: TensorObservation) -> Tensor | Seen:
        if observation.seen is None:
            raise ValueError(f"features {self.features.name!r}: expected them with every observation, got none")
        return observation.seen if self.widths[1] else observation.seen.vector

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self._policy is None:
            raise AttributeError(f"{name}: expected the policy itself, got what it saw of the data")
        return getattr(self._policy, name)


def find(store: EpisodeStore, version: str, pooling: str) -> str | None:
    """The name of this policy's features: those of all episodes, float32 before float16; None where there are none."""
    every, found = set(store.names()), {}
    for name in names(store, FEATURES):
        there = LabelStore.open(store, name, FEATURES)
        config = there.origin.config
        if (there.origin.labeler, config["pooling"]) == (version, pooling):
            found[name] = every <= set(there.episodes()), config["dtype"] == "float32"
    return max(found, key=found.__getitem__, default=None)


def read_features(store: EpisodeStore, name: str, cache: Cache) -> CacheFeatures:
    """All of that name, proven and of the cache's episodes. Raises StoreError where some are missing."""
    there = LabelStore.open(store, name, FEATURES)
    if missing := sorted(set(cache.names) - set(there.episodes())):
        raise StoreError(
            f"features {name!r}: expected all {len(cache)} episodes, got none for {len(missing)} (first {missing[0]}); "
            "run `robot-value data features` again with the same flags"
        )
    key = sha256(canonical([there.hash(episode) for episode in cache.names]))
    return CacheFeatures(name, key, there.origin, _laid_out(there, cache))


def _laid_out(there: LabelStore, cache: Cache) -> Frames:
    """One episode in memory at a time."""
    shapes = [there.about(episode)["shape"] for episode in cache.names]
    (vector, _, token), longest = shapes[0], max(shape[1] for shape in shapes)
    frames, dtype, folder = int(cache.frames.sum()), there.origin.config["dtype"], cache.path.parent
    whole = Frames(
        vector=_mapped(folder, dtype, (frames, vector)),
        tokens=_mapped(folder, dtype, (frames, longest, token)),
        mask=_mapped(folder, "bool", (frames, longest)),
    )
    for episode, parent, start in zip(cache.names, cache.hashes, cache.frame_start, strict=True):
        read: Frames = there.read(episode, parent)
        rows, length = slice(start, start + len(read.vector)), read.mask.shape[1]
        whole.vector[rows] = read.vector
        whole.tokens[rows, :length], whole.mask[rows, :length] = read.tokens, read.mask
    return whole


def _mapped(folder: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros in a file without a name: pages that memory can do without, and that are gone with the process."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, and SIGBUS in a mapped page
        return np.memmap(file, dtype, "r+", shape=shape)
