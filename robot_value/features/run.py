"""Run a frozen policy over every frame of a store, once; what is there already is not computed again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..episodes.errors import StoreError
from ..episodes.store import EpisodeStore
from ..labels.root import LabelsDamaged
from ..labels.store import LabelStore
from ..networks.policy_features import averaged, check_pooling, widths
from ..sampling import TensorObservation
from ..types import Episode, Seen
from .encoding import AXES, DTYPES, FEATURES, Frames, name_of, origin_of


@dataclass(frozen=True)
class Encoded:
    """What a run of `data features` did."""

    name: str
    frames: int  # encoded now
    episodes: int  # in which they are
    there: int  # episodes that an earlier run had encoded
    seconds: float  # for the frames encoded now
    nbytes: int  # decoded, of the frames encoded now
    error: float  # largest change by the dtype, over the largest number of its frame

    def to_text(self) -> str:
        done = f"{self.frames} frames of {self.episodes} episodes encoded, {self.there} were there"
        text = f"features {self.name}: {done}"
        if not self.frames:
            return text
        each = f"{1000 * self.seconds / self.frames:.3g} ms and {self.nbytes / self.frames:,.0f} bytes per frame"
        rounded = f", rounded by at most {self.error:.1g} of a frame's largest number" if self.error else ""
        return f"{text}\n  {each}{rounded}"


def encode_store(
    store: EpisodeStore,
    policy: Any,  # with a version; ours or LeRobot's
    pooling: str = "mean",  # as `encoder.pooling`: mean keeps one vector per frame, query all tokens
    dtype: str = "float32",
    batch_size: int = 32,  # frames encoded at once
    progress: bool = True,
) -> Encoded:
    """Raises StoreError, ValueError; whole episodes only, so that a run that was ended is gone on with."""
    from tqdm import tqdm

    _check(store, policy, pooling, dtype)
    origin = origin_of(policy.version, policy.spec, pooling, dtype)
    nbytes, error, began = 0, 0.0, time.perf_counter()
    with LabelStore.create(store, name_of(origin), origin, FEATURES) as features:
        todo = _missing(store, features)
        frames, there = sum(store.manifest(name).frames for name in todo), len(store) - len(todo)
        with tqdm(total=frames, desc="encoding", unit="frame", disable=not progress) as bar:
            for name in todo:
                exact = _frames(store.read(name, decisions=False), policy, pooling, batch_size, bar.update)
                rounded = _rounded(exact, dtype)
                features.write(name, rounded)
                nbytes, error = nbytes + rounded.nbytes, max(error, _error(exact, rounded))
    return Encoded(name_of(origin), frames, len(todo), there, time.perf_counter() - began, nbytes, error)


def _check(store: EpisodeStore, policy: Any, pooling: str, dtype: str) -> None:
    """Before anything is written."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected {' or '.join(DTYPES)}, got {dtype!r}")
    if not len(store):
        raise StoreError(f"{store.path} holds no episodes yet; append some before encoding")
    policy.spec.check(store.spec, "the store")
    check_pooling(pooling, widths(policy)[1])


def _missing(store: EpisodeStore, features: LabelStore) -> list[str]:
    """Episodes without features; those of an episode that was another one then, or damaged, are taken back."""
    known = set(features.episodes())
    for name in known.intersection(store.names()):
        if not _whole(features, name, store.manifest_hash(name)):
            features.discard(name)
            known.remove(name)
    return [name for name in store.names() if name not in known]


def _whole(features: LabelStore, name: str, parent: str) -> bool:
    try:
        return features.about(name)["parent"] == parent
    except LabelsDamaged:
        return False


def _frames(episode: Episode, policy: Any, pooling: str, batch_size: int, done: Any) -> Frames:
    """float32"""
    pieces = []
    for observation in observations(episode, policy.spec.n_obs_steps, batch_size):
        with torch.no_grad():
            seen = policy.encoder(observation.to(next(policy.parameters()).device))
        pieces.append(_plain(seen, pooling))
        done(len(observation.state))
    longest = max(each.tokens.shape[1] for each in pieces)  # prompts of a batch are as long as its longest
    pieces = [each.padded(longest) for each in pieces]
    vector, tokens, mask = (torch.cat([getattr(each, name) for each in pieces]).numpy() for name in AXES)
    used = mask.any(0)
    return Frames(vector, np.ascontiguousarray(tokens[:, used]), np.ascontiguousarray(mask[:, used]))


def observations(episode: Episode, n_obs_steps: int, batch_size: int) -> Iterator[TensorObservation]:
    """Every frame with its history, the first frame repeated before the start: what a window's observation is."""
    frames = np.arange(len(episode.states))
    history = np.maximum(frames[:, None] - np.arange(n_obs_steps - 1, -1, -1), 0)  # int64[F, O]
    for start in range(0, len(frames), batch_size):
        rows = history[start : start + batch_size]
        images = {name: torch.from_numpy(image[rows]) for name, image in episode.images.items()}
        task = torch.zeros(len(rows), dtype=torch.int64)
        yield TensorObservation(torch.from_numpy(episode.states[rows]), images, task, (episode.task,))


def _plain(seen: torch.Tensor | Seen, pooling: str) -> Seen:
    """On the CPU; one vector per frame unless the tokens are asked for."""
    if pooling == "query":
        return seen.to("cpu")
    vector = averaged(seen).float().cpu()
    return Seen(vector, vector.new_zeros(len(vector), 0, 0), torch.zeros(len(vector), 0, dtype=torch.bool))


def _rounded(frames: Frames, dtype: str) -> Frames:
    with np.errstate(over="ignore"):  # what becomes infinite is refused when it is written
        rounded = (array.astype(dtype, copy=False) for array in (frames.vector, frames.tokens))
        return Frames(*rounded, frames.mask)


def _error(exact: Frames, rounded: Frames) -> float:
    """max |x - rounded(x)| / max |x|, the largest of all frames."""
    errors = [0.0]
    for name in ("vector", "tokens"):
        x, y = getattr(exact, name), getattr(rounded, name)
        if x.size and x.dtype != y.dtype:
            axes = tuple(range(1, x.ndim))
            errors.append(float((np.abs(x - y).max(axes) / np.maximum(np.abs(x).max(axes), 1e-30)).max()))
    return max(errors)
