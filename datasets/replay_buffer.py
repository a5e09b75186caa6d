"""A diffusion_policy ReplayBuffer on disk: `data/<key>` holds the rows of all episodes end to end, `meta/episode_ends`
where each ends. Zarr v2 or v3, a folder or a zip. What the converters of its dialects share.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import zarr

from robot_value import untrusted
from robot_value.convert import ConversionError, identity_of, spec_from
from robot_value.types import Spec

PIECE = 32 << 20  # bytes decoded at a time, or one chunk where that is larger
EPISODES = 1 << 20  # of one dataset; more are an attack on memory
CODEC = "imagecodecs_jpegxl"


class Rows:
    """Rows of one key. What was decoded last is kept, so that reading episodes in order decodes each chunk once."""

    def __init__(self, array: zarr.Array, where: str):
        self.shape, self.dtype = array.shape, array.dtype
        self._array, self._where = array, where
        self._kept, self._first = np.empty((0, *array.shape[1:]), array.dtype), 0  # rows _first.. of the array

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """[stop - start, ...]. Raises ConversionError where a chunk is missing, damaged or too much to hold."""
        try:
            return self._gather(start, stop)
        except untrusted.Refused as error:
            raise ConversionError(f"{self._where}: {error}; fetch the dataset again or leave these rows out") from error

    def _gather(self, start: int, stop: int) -> np.ndarray:
        untrusted.at_once(self._where, (stop - start) * math.prod(self.shape[1:]) * self.dtype.itemsize)
        result = np.empty((stop - start, *self.shape[1:]), self.dtype)
        at = start
        while at < stop:
            if not self._first <= at < self._first + len(self._kept):
                self._decode(at, stop)
            piece = self._kept[at - self._first : stop - self._first]
            result[at - start : at - start + len(piece)] = piece
            at += len(piece)
        return result

    def _decode(self, at: int, stop: int) -> None:
        """Whole chunks from the one of row `at` on, up to the one of row `stop - 1`, at most PIECE bytes."""
        chunk = self._array.chunks[0]
        first = at - at % chunk
        many = max(1, PIECE // max(1, chunk * math.prod(self.shape[1:]) * self.dtype.itemsize))
        last = min(first + many * chunk, -(-stop // chunk) * chunk, self.shape[0])
        self._kept, self._first = untrusted.rows(self._array, first, last), first


@dataclass(frozen=True)
class ReplayBuffer:
    """An opened buffer: every key has as many rows as the last episode's end says."""

    path: Path
    group: zarr.Group
    keys: dict[str, Rows]  # by name, sorted
    strangers: tuple[str, ...]  # members that are no keys: nested groups, further meta arrays
    ends: np.ndarray  # int64[E], one past each episode's last row

    def spans(self, least: int) -> dict[str, tuple[int, int]]:
        """Name -> rows [start, stop) of the episodes that have at least `least` rows; their place is their name."""
        rows = np.diff(self.ends, prepend=0)
        return {f"episode_{i}": (int(self.ends[i] - rows[i]), int(self.ends[i])) for i in np.flatnonzero(rows >= least)}

    def identity(self, numbers: Iterable[str]) -> str:
        """Of shapes, ends, file sizes, and all rows of keys `numbers`: files of raw numbers differ in content only."""
        digest = sha256()
        for key in numbers:
            for rows in readable(self.spans(1).values(), self.keys[key]):
                digest.update(rows)
        arrays = {key: (rows.shape, str(rows.dtype)) for key, rows in self.keys.items()}
        files = [self.path] if self.path.is_file() else sorted(p for p in self.path.rglob("*") if p.is_file())
        sizes = [(file.relative_to(self.path).as_posix(), file.stat().st_size) for file in files]
        return identity_of([arrays, self.ends.tolist(), sizes, digest.hexdigest()])

    def left_out(self, numbers: Iterable[str], others: Iterable[str], least: int) -> tuple[str, ...]:
        """What the store has no place for, a line each, where keys `numbers` become float32 and `others` are kept."""
        used = {*numbers, *others}
        short = len(self.ends) - len(self.spans(least))
        unused = [f"{key}: {rows.dtype}{list(rows.shape)}" for key, rows in self.keys.items() if key not in used]
        wide = [key for key in numbers if self.keys[key].dtype.itemsize > 4]
        narrowed = [f"{key}: digits of {self.keys[key].dtype} beyond float32" for key in wide]
        few = [f"{short} episodes with fewer than {least} rows"] if short else []
        return (*unused, *narrowed, *self.strangers, *few)

    def close(self) -> None:
        self.group.store.close()


def holds(path: Path, *arrays: str) -> bool:
    """Whether the zarr group at `path`, a folder or a zip, has all these arrays; nothing is opened or decoded."""
    files = [(f"{array}/.zarray", f"{array}/zarr.json") for array in arrays]
    if path.is_dir():
        return all(any((path / name).is_file() for name in either) for either in files)
    try:
        members = set(untrusted.zip_names(path)) if zipfile.is_zipfile(path) else set()
    except (untrusted.Refused, OSError, zipfile.BadZipFile):
        return False
    return all(members.intersection(either) for either in files)


def open_buffer(path: Path) -> ReplayBuffer:
    """Raises ConversionError where this is not a sound ReplayBuffer, untrusted.Refused where it is a trap."""
    group = _open(path)
    data, meta = group.get("data"), group.get("meta")
    if not isinstance(data, zarr.Group) or not isinstance(meta, zarr.Group) or "episode_ends" not in meta:
        raise ConversionError(f"{path}: expected groups data and meta with meta/episode_ends, got {sorted(group)}")
    members = dict(sorted(data.members()))
    keys = {key: Rows(array, f"data/{key}") for key, array in members.items() if isinstance(array, zarr.Array)}
    nested = [f"data/{key}: a group, not an array" for key in members if key not in keys]
    more = [f"meta/{key}" for key in sorted(meta) if key != "episode_ends"]
    return ReplayBuffer(path, group, keys, (*nested, *more), _ends(path, meta["episode_ends"], keys))


def limits(actions: Iterable[np.ndarray], dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest finite number per dim of actions float32[T, A]; +-1 around a dim that never moves."""
    low, high = np.full(dims, np.inf), np.full(dims, -np.inf)
    for rows in actions:
        finite = np.isfinite(rows)
        low = np.minimum(low, np.where(finite, rows, np.inf).min(axis=0))
        high = np.maximum(high, np.where(finite, rows, -np.inf).max(axis=0))
    still = ~(low < high)
    middle = np.where(np.isfinite(low), low, 0.0)
    return np.where(still, middle - 1, low), np.where(still, middle + 1, high)


def readable(spans: Iterable[tuple[int, int]], read: Callable[[int, int], np.ndarray]) -> Iterator[np.ndarray]:
    """`read(start, stop)` where that succeeds; the other episodes are reported when they are converted."""
    for span in spans:
        try:
            yield read(*span)
        except ConversionError:
            continue


def told_spec(file: str, assumed: Spec) -> Spec:
    """The Spec in `file`, which must fit the data as the assumed one does; the assumed one for ""."""
    told = spec_from(file)
    if told is None:
        return assumed
    for what in ("action_dim", "state_dim", "cameras"):
        expected, got = getattr(assumed, what), getattr(told, what)
        if what == "cameras":
            expected, got = (sorted((c.name, c.height, c.width) for c in cameras) for cameras in (expected, got))
        if expected != got:
            raise ConversionError(f"{file}: {what}: expected {expected} as in the data, got {got}; correct the file")
    return told


def _ends(path: Path, array: zarr.Array, keys: dict[str, Rows]) -> np.ndarray:
    """int64[E], proven to cut every key into episodes without a gap or a rest."""
    where = f"{path}: meta/episode_ends"
    if not isinstance(array, zarr.Array) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise ConversionError(f"{where}: expected whole numbers [episodes], got {array}")
    if not 0 < array.shape[0] <= EPISODES:
        raise ConversionError(f"{where}: expected 1 to {EPISODES} episodes, got {array.shape[0]}")
    ends = Rows(array, "meta/episode_ends")(0, array.shape[0]).astype(np.int64)
    if (np.diff(ends, prepend=0) < 0).any():
        worst = int(np.argmax(np.diff(ends, prepend=0) < 0))
        raise ConversionError(f"{where}: expected ends that never decrease, got {ends[worst]} for episode {worst}")
    for key, rows in keys.items():
        if rows.shape[:1] != (ends[-1],):
            raise ConversionError(
                f"{path}: data/{key}: expected {ends[-1]} rows (the last of meta/episode_ends), got shape "
                f"{list(rows.shape)}; a writer died in between, cut the arrays to the last whole episode"
            )
    return ends


def _open(path: Path) -> zarr.Group:
    """JPEG XL is a codec of imagecodecs: without that library, a dataset that needs it is refused by name."""
    try:
        from imagecodecs.numcodecs import register_codecs
    except ImportError:
        register_codecs = None
    if register_codecs:
        register_codecs((CODEC,), verbose=False)
    try:
        return untrusted.open_zarr(path)
    except untrusted.Refused as error:
        if register_codecs or CODEC not in str(error):
            raise
        raise ConversionError(
            f"{path}: expected imagecodecs for its JPEG XL images; pip install imagecodecs"
        ) from error
