"""Statistics of data and the affine map they give: normalise what goes into a model, undo it on what comes out.

y = (x - offset) / scale, with mean_std: offset = mean, scale = std; min_max: offset = middle, scale = half range (y in
[-1, 1] on the data). Statistics are saved with every checkpoint; nothing here runs without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

MODES = ("mean_std", "min_max")

# Smallest scale, in the data's unit (0.1 mm, 0.1 mrad). A dim that (nearly) never moved is divided by this instead of
# by ~0: a model's error there stays far below what matters on a robot, and rounding noise is not blown up.
SCALE_FLOOR = 1e-4

_ROWS = 65536  # rows held as float64 at a time, so that memory-mapped arrays are never copied whole


class MissingStatistics(ValueError):
    """A model was asked to run on data nobody measured."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the rows of one key ("state", "action") looked like."""

    mean: np.ndarray  # float32[D], data unit
    std: np.ndarray  # float32[D], population standard deviation
    low: np.ndarray  # float32[D], smallest value seen
    high: np.ndarray  # float32[D], largest value seen
    count: int  # rows seen

    def __post_init__(self) -> None:
        for name in ("mean", "std", "low", "high"):
            value = np.asarray(getattr(self, name), np.float32)
            if value.ndim != 1 or value.shape != np.shape(self.mean) or not np.isfinite(value).all():
                raise ValueError(
                    f"statistics {name}: expected {np.size(self.mean)} finite numbers, got {value.tolist()}"
                )
            object.__setattr__(self, name, value)
        if self.count < 1 or (self.std < 0).any() or (self.low > self.high).any():
            raise ValueError(f"statistics: expected count >= 1, std >= 0 and low <= high, got {self.to_json()}")

    @classmethod
    def fit(cls, arrays: np.ndarray | Iterable[np.ndarray], key: str = "data") -> Statistics:
        """One pass over [..., D] or over a stream of such arrays (Chan et al. 1979, pairwise update), in float64."""
        count, mean, m2, low, high = 0, 0.0, 0.0, np.inf, -np.inf
        for block in _blocks(arrays, key):
            rows, block_mean = len(block), block.mean(0)
            delta, total = block_mean - mean, count + rows
            m2 = m2 + ((block - block_mean) ** 2).sum(0) + delta**2 * (count * rows / total)
            mean = mean + delta * (rows / total)
            low, high, count = np.minimum(low, block.min(0)), np.maximum(high, block.max(0)), total
        if count == 0:
            raise ValueError(f"{key}: expected at least one row to measure, got none")
        return cls(mean, np.sqrt(m2 / count), low, high, count)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; float32 survives the way through JSON exactly."""
        lists = {name: getattr(self, name).tolist() for name in ("mean", "std", "low", "high")}
        return lists | {"count": int(self.count)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Statistics:
        expected = ["count", "high", "low", "mean", "std"]
        if not isinstance(data, Mapping) or sorted(data) != expected:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise ValueError(f"statistics: expected keys {expected}, got {got}")
        return cls(**data)


class Normalizer:
    """The affine map of one key, on numpy arrays and (differentiably) on torch tensors [..., D]."""

    def __init__(self, statistics: Statistics, mode: str = "mean_std") -> None:
        if mode not in MODES:
            raise ValueError(f"normaliser mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if not isinstance(statistics, Statistics):
            raise MissingStatistics(
                f"normaliser: expected fitted Statistics, got {type(statistics).__name__}; call Normalizer.fit on the "
                "training data or load them from a checkpoint"
            )
        self.statistics, self.mode = statistics, mode
        s = statistics
        if mode == "mean_std":
            offset, scale = s.mean, s.std
        else:
            offset, scale = (s.low / 2 + s.high / 2), (s.high / 2 - s.low / 2)
        self.offset = offset  # float32[D]
        self.scale = np.maximum(scale, np.float32(SCALE_FLOOR))  # float32[D]
        self._cache: dict[Any, tuple[Any, Any]] = {}  # (dtype, device) -> offset, scale there

    @classmethod
    def fit(cls, arrays: np.ndarray | Iterable[np.ndarray], mode: str = "mean_std", key: str = "data") -> Normalizer:
        return cls(Statistics.fit(arrays, key), mode)

    @classmethod
    def of(cls, statistics: Mapping[str, Statistics], key: str, mode: str = "mean_std") -> Normalizer:
        """The normaliser of one key; a key that was never measured is refused."""
        if key not in statistics:
            raise MissingStatistics(
                f"statistics: expected key {key!r}, got {sorted(statistics)}; measure it with fit_statistics first"
            )
        return cls(statistics[key], mode)

    def normalize(self, x: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        offset, scale = self._constants(x)
        return (x - offset) / scale

    def unnormalize(self, y: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        offset, scale = self._constants(y)
        return y * scale + offset

    def to_json(self) -> dict[str, Any]:
        return {"mode": self.mode, "statistics": self.statistics.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Normalizer:
        return cls(Statistics.from_json(data["statistics"]), data["mode"])

    def _constants(self, x: Any) -> tuple[Any, Any]:
        """offset and scale as x's kind of array; float32 unless x is another float."""
        if x.shape[-1:] != self.offset.shape:
            raise ValueError(f"normaliser: expected [..., {len(self.offset)}], got {list(x.shape)}")
        if isinstance(x, np.ndarray):
            dtype = x.dtype if x.dtype.kind == "f" else np.float32
            return self.offset.astype(dtype), self.scale.astype(dtype)
        where = (x.dtype, x.device)
        if where not in self._cache:
            self._cache[where] = _tensors(x, self.offset, self.scale)
        return self._cache[where]


def fit_statistics(data: Mapping[str, np.ndarray | Iterable[np.ndarray]]) -> dict[str, Statistics]:
    """Statistics per key, e.g. of a cache's {"state": [T, S], "action": [T, A]}."""
    return {key: Statistics.fit(arrays, key) for key, arrays in data.items()}


def _blocks(arrays: np.ndarray | Iterable[np.ndarray], key: str) -> Iterator[np.ndarray]:
    """float64[rows, D] pieces, all finite and of one width D."""
    width, seen = None, 0
    for array in [arrays] if isinstance(arrays, np.ndarray) else arrays:
        if array.ndim < 1 or (width is not None and array.shape[-1] != width):
            raise ValueError(f"{key}: expected [..., {width or 'D'}], got {list(array.shape)}")
        width = array.shape[-1]
        rows = array.reshape(-1, width)
        for start in range(0, len(rows), _ROWS):
            block = np.asarray(rows[start : start + _ROWS], np.float64)
            if not np.isfinite(block).all():
                row, dim = np.argwhere(~np.isfinite(block))[0]
                raise ValueError(
                    f"{key}: expected finite numbers, got {block[row, dim]} in dim {dim} of row {seen + row}; "
                    "repair or drop that episode"
                )
            yield block
            seen += len(block)


def _tensors(x: torch.Tensor, *arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    import torch

    # Made outside inference mode even when first asked for inside it, or a later backward pass could not use them.
    with torch.inference_mode(False):
        dtype = x.dtype if x.dtype.is_floating_point else torch.float32
        return tuple(torch.tensor(array, dtype=dtype, device=x.device) for array in arrays)
