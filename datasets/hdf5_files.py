"""HDF5 files of strangers: reading one can neither run code, nor leave the file, nor claim absurd memory.

Links are checked when a file is opened, a dataset when it is used: its filters (their plugins are native code), where
it is stored, its declared size, every chunk's real size, and that no chunk is missing (HDF5 would invent zeros).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robot_value import untrusted
from robot_value.convert import ConversionError

if TYPE_CHECKING:
    import h5py

MAGIC = b"\x89HDF\r\n\x1a\n"
MOST_LINKS = int(untrusted.caps.SCALE * 400_000)  # names, robomimic has 35 a demo; each costs 17 us and 1.2 kB at worst
LARGEST_CHUNK = 1 << 28  # bytes, decoded
LARGEST_TEXT = 1 << 20  # bytes of an attribute
GZIP, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000  # szip is not among them: its header chooses how much it allocates
EXPANSION = {GZIP: 1032, LZF: 100}  # what one stored byte can become at most, bytes
SURE = 128 << 20  # bytes; a chunk that cannot become larger is decoded without being measured before


@contextmanager
def sound(where: Any) -> Iterator[None]:
    """What h5py raises where bytes are damaged becomes a ConversionError; what we say ourselves passes."""
    try:
        yield
    except (ConversionError, untrusted.Refused):
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError, zlib.error) as error:
        raise ConversionError(f"{where}: expected readable HDF5, got {error}; fetch the file again") from error


def top_level(path: Path) -> set[str]:
    """Names in the file's root; none where this is no HDF5 file that can be opened. Never raises.

    Links are not checked: what is wrong with them, `open_hdf5` says.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return set()
        with sound(path), _open(path) as file:
            return _first_names(file)
    except (OSError, ConversionError):
        return set()


def open_hdf5(path: Path) -> h5py.File:
    """Read-only. Raises ConversionError where this is no HDF5, untrusted.Refused where a link leaves the file."""
    file = _open(path)
    try:
        with sound(path):
            _check_links(path, file)
    except BaseException:
        file.close()
        raise
    return file


def members(group: h5py.Group) -> list[str]:
    """Sorted names in a group."""
    with sound(where(group)):
        return sorted(group)


def numbered(group: h5py.Group, prefix: str) -> list[str]:
    """Names `<prefix>_<number>` in the order of their numbers: 2 before 10."""
    found = [(match, name) for name in members(group) if (match := re.fullmatch(rf"{prefix}_(\d{{1,18}})", name))]
    return [name for _, name in sorted((int(match[1]), name) for match, name in found)]


def subgroup(group: h5py.Group, key: str) -> h5py.Group:
    """Raises ConversionError where there is none."""
    import h5py

    with sound(where(group, key)):
        found = group.get(key)
    if not isinstance(found, h5py.Group):
        raise ConversionError(f"{where(group, key)}: expected a group, got {_what(found)}; is the file whole?")
    return found


def array(group: h5py.Group, key: str, numbers: bool = True) -> h5py.Dataset:
    """A checked dataset; `numbers=False` takes texts of fixed length too. Raises ConversionError, untrusted.Refused."""
    import h5py

    name = where(group, key)
    with sound(name):
        data = group.get(key)
        if not isinstance(data, h5py.Dataset) or data.shape is None:
            raise ConversionError(f"{name}: expected an array, got {_what(data)}; is the file whole?")
        if data.dtype.kind not in ("biuf" if numbers else "biufS"):
            raise ConversionError(f"{name}: expected {'numbers' if numbers else 'plain texts'}, got {data.dtype}")
        untrusted.check_array(name, data.shape, data.dtype, data.id.get_storage_size())
        _check_storage(name, data)
    return data


def rows(data: h5py.Dataset, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows [start, stop) of a dataset that `array` checked."""
    many = len(range(*slice(start, stop).indices(len(data))))
    untrusted.at_once(where(data), many * data.dtype.itemsize * math.prod(data.shape[1:]))
    with sound(where(data)):
        return data[start:stop]


def floats(data: h5py.Dataset, start: int = 0, stop: int | None = None) -> np.ndarray:
    """float32[T, D]; a plain row of numbers is one column."""
    if data.ndim not in (1, 2):
        raise ConversionError(f"{where(data)}: expected rows of numbers [T, D], got shape {list(data.shape)}")
    found = rows(data, start, stop).astype(np.float32)
    return found[:, None] if found.ndim == 1 else found


def column(data: h5py.Dataset, start: int = 0, stop: int | None = None) -> np.ndarray:
    """float32[T] of a dataset [T] or [T, 1]."""
    found = floats(data, start, stop)
    if found.shape[1] != 1:
        raise ConversionError(f"{where(data)}: expected one number per row, got shape {list(data.shape)}")
    return found[:, 0]


def with_last(seen: np.ndarray, after: np.ndarray, name: str) -> np.ndarray:
    """[T + 1, D] from observations [T, D] and those that followed [T, D], which must be each other's."""
    if after.shape != seen.shape:
        raise ConversionError(f"{name}: expected shape {list(seen.shape)} as before the step, got {list(after.shape)}")
    differs = ~np.isclose(after[:-1], seen[1:], rtol=0, atol=0, equal_nan=True).all(axis=1)
    if differs.any():
        t = int(np.argmax(differs))
        raise ConversionError(
            f"{name} row {t}: expected what row {t + 1} sees, {seen[t + 1].tolist()}, got {after[t].tolist()}; "
            "rows are missing or out of order, leave the episode out"
        )
    return np.concatenate([seen, after[-1:]])


def text(group: h5py.Group, key: str) -> str:
    """A text attribute; "" where there is none."""
    name = f"{where(group)}, attribute {key}"
    with sound(name):
        if key not in group.attrs:
            return ""
        handle = group.attrs.get_id(key)
        if handle.shape != () or handle.get_storage_size() > LARGEST_TEXT:
            raise ConversionError(f"{name}: expected one text, got shape {handle.shape}")
        found = group.attrs[key]
        found = found.decode() if isinstance(found, bytes) else found
    if not isinstance(found, str) or len(found) > LARGEST_TEXT:
        raise ConversionError(f"{name}: expected a text of at most {LARGEST_TEXT} bytes, got {type(found).__name__}")
    return found


def json_object(content: str, name: str) -> dict[str, Any]:
    """The JSON object in an attribute; {} for ""."""
    try:
        found = untrusted.parse_json(content.encode(), name) if content else {}
    except ValueError as error:
        raise ConversionError(f"{name}: expected JSON, got {error}") from error
    if not isinstance(found, dict):
        raise ConversionError(f"{name}: expected a JSON object, got {type(found).__name__}")
    return found


def where(item: h5py.Group | h5py.Dataset, key: str = "") -> str:
    """File and path inside it, for messages."""
    return f"{item.file.filename}: {item.name.rstrip('/')}{f'/{key}' if key else ''}"


def _open(path: Path) -> h5py.File:
    try:
        import h5py
    except ImportError as error:
        raise ConversionError(f"{path}: HDF5 needs h5py, which is not installed; pip install h5py") from error
    with sound(path):
        return h5py.File(path, "r")


def _first_names(group: h5py.Group) -> set[str]:
    """At most MOST_LINKS names."""
    found: set[str] = set()

    def add(name: bytes) -> bool | None:
        found.add(name.decode(errors="replace"))
        return len(found) >= MOST_LINKS or None  # None goes on

    group.id.links.iterate(add)
    return found


def _check_links(path: Path, file: h5py.File) -> None:
    from h5py import h5l

    seen = 0

    def trouble(name: bytes, info: Any) -> str | None:
        nonlocal seen
        seen += 1
        if seen > MOST_LINKS:
            more = f"ROBOT_VALUE_CAPS={10 * untrusted.caps.SCALE:g}"
            return f"expected at most {MOST_LINKS} names, got more; if you trust its source, set {more} and try again"
        if info.type not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            return f"expected links inside the file, got {name.decode(errors='replace')!r}, which leaves it"
        return None

    if found := file.id.links.visit(trouble, info=True):
        raise untrusted.Refused(f"{path}: {found}")


def _check_storage(name: str, data: h5py.Dataset) -> None:
    from h5py import h5d

    properties = data.id.get_create_plist()
    layout = properties.get_layout()
    if layout == h5d.VIRTUAL or properties.get_external_count():
        raise untrusted.Refused(f"{name}: expected data in this file, got data stored in other files")
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if not {GZIP, SHUFFLE, FLETCHER32, LZF}.issuperset(filters) or sum(f in EXPANSION for f in filters) > 1:
        raise untrusted.Refused(
            f"{name}: expected gzip or lzf, shuffle, fletcher32, got HDF5 filters {filters}; "
            "rewrite a file you trust with `h5repack -f GZIP=4`"
        )
    if layout == h5d.CHUNKED:
        _check_chunks(name, data, filters)
    elif (stored := data.id.get_storage_size()) < data.nbytes:
        raise ConversionError(f"{name}: expected {data.nbytes} bytes, got {stored}; the rest was never written")


def _check_chunks(name: str, data: h5py.Dataset, filters: list[int]) -> None:
    size = math.prod(data.chunks) * data.dtype.itemsize
    if size > LARGEST_CHUNK:
        raise untrusted.Refused(f"{name}: expected chunks of at most {LARGEST_CHUNK} bytes, got {size}")
    expected = math.prod(-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True))
    if (found := data.id.get_num_chunks()) != expected:
        raise ConversionError(f"{name}: expected {expected} chunks, got {found}; the others were never written")
    most = max((EXPANSION.get(f, 1) for f in filters), default=1)
    large: list[Any] = []
    data.id.chunk_iter(lambda chunk: large.append(chunk) if chunk.size * most > SURE else None)
    for chunk in large:
        _check_chunk(name, data, filters, chunk, size)


def _check_chunk(name: str, data: h5py.Dataset, filters: list[int], chunk: Any, size: int) -> None:
    """A chunk that could become far more than its declared size is decoded here first, no further than that."""
    packed = next((i for i, f in enumerate(filters) if f in EXPANSION), None)
    limit = size + 4 * len(filters)  # a checksum is 4 bytes
    if packed is None or chunk.filter_mask >> packed & 1 or chunk.size > 2 * limit:  # not compressed
        becomes = chunk.size
    elif filters[packed] == GZIP:
        becomes = len(zlib.decompressobj().decompress(data.id.read_direct_chunk(chunk.chunk_offset)[1], limit + 1))
    else:
        becomes = chunk.size * EXPANSION[LZF]
    if becomes > limit:
        raise untrusted.Refused(f"{name}: expected a chunk of {size} bytes, got one that may become {becomes} or more")


def positive(values: Any, key: str) -> float:
    """A positive number of a JSON object, 0 where there is none."""
    found = values.get(key) if isinstance(values, dict) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) and 0 < found < 1e6 else 0.0


def _what(found: Any) -> str:
    return "nothing" if found is None else f"a {type(found).__name__.lower()}"
