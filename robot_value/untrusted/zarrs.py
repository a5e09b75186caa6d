"""Zarr groups from strangers, v2 or v3, a directory or a zip. Everything a group declares is checked when it is opened.

A chunk is checked when it is read: it must be there, and its codec's header must claim exactly what the array says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore, ZipStore

from .caps import FREE, Refused, at_once, check_size, decoded_bytes, plain_dtype
from .codecs import CHECKS, check_chunk
from .files import list_files, parse_json, relative_name, zip_sizes

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
FILES = 2000  # metadata files of one group
LARGEST_METADATA = 1 << 20  # bytes of one metadata file
SAME_SIZE = {"bytes", "transpose", "crc32c", "delta", "shuffle", "fixedscaleoffset", "quantize"}


@dataclass(frozen=True)
class Declared:
    """What an array's metadata says about its chunks."""

    decoded: int  # bytes of the whole array
    chunk: int  # bytes of one decoded chunk
    codecs: tuple[str, ...]  # bytes -> bytes, in the order of encoding


class Guarded(WrapperStore):
    """A store that hands out nothing that was not listed, and no chunk that decodes to another size than declared."""

    def __init__(self, store: Store, sizes: Mapping[str, int], what: str):
        super().__init__(store)
        self.sizes, self.what = sizes, what
        self.arrays: dict[str, Declared] = {}

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        name = None if key.rpartition("/")[2] in METADATA else _owner(key, self.arrays)
        if key not in self.sizes:
            if name is None:
                return None
            raise Refused(f"{self.what}: {key}: expected a chunk, got nothing; restore it (absent is not zero)")
        buffer = await self._store.get(key, prototype, byte_range)
        if name is not None:
            declared = self.arrays[name]
            check_chunk(f"{self.what}: {key}", buffer.as_numpy_array(), declared.codecs, declared.chunk)
        return buffer


def open_zarr(path: Path) -> zarr.Group:
    """A group, read-only. Refused before anything is decoded where its metadata is hostile, absurd or unknown."""
    path = Path(path)
    if path.is_dir():
        return guarded(LocalStore(path, read_only=True), list_files(path), str(path))
    return guarded(ZipStore(path, mode="r"), zip_sizes(path), str(path))


def guarded(store: Store, sizes: Mapping[str, int], what: str) -> zarr.Group:
    """The group in `store`, whose files have these stored `sizes` in bytes; `what` names it in errors."""
    described = [name for name in sizes if name.rpartition("/")[2] in METADATA]
    if len(described) > FILES:
        raise Refused(f"{what}: expected at most {FILES} metadata files, got {len(described)}")
    wrapped = Guarded(store, sizes, what)
    try:
        for name in described:
            _describe(wrapped, name)
        check_size(what, sum(declared.decoded for declared in wrapped.arrays.values()), sum(sizes.values()))
        group = zarr.open_group(wrapped, mode="r", zarr_format=3 if "zarr.json" in sizes else 2, use_consolidated=False)
        for folder in {name.rpartition("/")[0] for name in described if not name.endswith((".zattrs", ".zmetadata"))}:
            group[folder or "/"]  # zarr's own checks
    except Refused:
        raise
    except Exception as error:  # whatever zarr raises on metadata it does not expect
        raise Refused(f"{what}: expected a zarr group, got {type(error).__name__}: {error}"[:500]) from error
    return group


def rows(array: zarr.Array, start: int, stop: int) -> np.ndarray:
    """Decoded rows [start, stop). Refused where they or their chunks are too large at once, missing or damaged."""
    what = f"{array.store_path}[{start}:{stop}]"
    if not array.shape or not 0 <= start <= stop <= array.shape[0]:
        raise Refused(f"{what}: expected rows within an array of shape {list(array.shape)}")
    at_once(what, (stop - start) * math.prod(array.shape[1:]) * array.dtype.itemsize)
    try:
        return np.asarray(array[start:stop])
    except Refused:
        raise
    except Exception as error:  # whatever a codec raises on damaged bytes
        raise Refused(f"{what}: expected sound chunks, got {type(error).__name__}: {error}"[:500]) from error


def _describe(store: Guarded, name: str) -> None:
    """Check one metadata file; an array's promise is noted."""
    where = f"{store.what}: {relative_name(store.what, name)}"
    if (size := store.sizes[name]) > LARGEST_METADATA:
        raise Refused(f"{where}: expected at most {LARGEST_METADATA} bytes of metadata, got {size}")
    data = parse_json(sync(store.get(name, default_buffer_prototype())).to_bytes(), where)
    if not isinstance(data, dict):
        raise Refused(f"{where}: expected an object, got {type(data).__name__}")
    if name.endswith(".zarray"):
        store.arrays[name.rpartition("/")[0]] = _version_2(data, where)
    elif name.endswith("zarr.json") and data.get("node_type") != "group":
        store.arrays[name.rpartition("/")[0]] = _version_3(data, where)


def _version_2(data: dict[str, Any], where: str) -> Declared:
    steps = [*(data.get("filters") or []), *([data["compressor"]] if data.get("compressor") else [])]
    return _declared(where, data.get("shape"), data.get("chunks"), data.get("dtype"), [_name(s, "id") for s in steps])


def _version_3(data: dict[str, Any], where: str) -> Declared:
    grid = data.get("chunk_grid")
    chunks = grid["configuration"].get("chunk_shape") if _name(grid, "name") == "regular" else None
    steps = data.get("codecs")
    if not isinstance(steps, list) or not isinstance(data.get("data_type"), str):
        raise Refused(f"{where}: expected codecs and a plain data_type, got {str(data.get('data_type'))[:80]}")
    return _declared(where, data.get("shape"), chunks, data["data_type"], [_name(step, "name") for step in steps])


def _name(step: Any, key: str) -> str:
    return str(step.get(key)) if isinstance(step, dict) else str(step)


def _declared(where: str, shape: Any, chunks: Any, dtype: Any, codecs: list[str]) -> Declared:
    if not isinstance(shape, list) or not isinstance(chunks, list) or len(shape) != len(chunks):
        raise Refused(f"{where}: expected a shape and regular chunks, got {str(shape)[:80]} and {str(chunks)[:80]}")
    if unknown := [codec for codec in codecs if codec not in SAME_SIZE | CHECKS.keys()]:
        raise Refused(f"{where}: expected codecs of {sorted(SAME_SIZE | CHECKS.keys())}, got {unknown[0][:80]!r}")
    if sum(codec in CHECKS for codec in codecs) > 1:
        raise Refused(f"{where}: expected one compressor, got {codecs}")
    plain_dtype(where, dtype)
    chunk = decoded_bytes(where, chunks, dtype)
    if chunk > FREE or 0 in chunks:
        raise Refused(f"{where}: expected chunks of at most {FREE} bytes and not empty, got {chunk}")
    return Declared(decoded_bytes(where, shape, dtype), chunk, tuple(codecs))


def _owner(key: str, arrays: Mapping[str, Declared]) -> str | None:
    """The array that a chunk's key belongs to."""
    while "/" in key:
        key = key.rpartition("/")[0]
        if key in arrays:
            return key
    return None
