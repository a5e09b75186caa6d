"""Named arrays <-> the files of one zarr v3 group, in memory, so that bytes are hashed exactly as they are stored.

Chunks run along time (1-2 MB), are compressed, and carry a CRC-32C: stock zarr readers notice flipped bits too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.buffer.cpu import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from ..untrusted import guarded, rows

CHUNK_BYTES = 3 << 19  # 1.5 MB, decoded


@dataclass(frozen=True)
class Stored:
    """An array with what a stranger who opens it in zarr should know."""

    data: np.ndarray
    axes: tuple[str, ...]  # one name per dimension
    about: dict[str, Any] = field(default_factory=dict)  # units, names; JSON values


def to_files(arrays: Mapping[str, Stored], attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """The zarr group's files, path -> content."""
    buffers: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(buffers), attributes=dict(attributes), zarr_format=3)
    for name, stored in arrays.items():
        data = stored.data
        array = group.create_array(
            name,
            shape=data.shape,
            dtype=data.dtype,
            chunks=_chunks(data),
            compressors=(_compressor(data), Crc32cCodec()),
            fill_value=0,
            dimension_names=stored.axes,
            attributes=stored.about,
            config={"write_empty_chunks": True},  # every chunk is a file, so that a missing one is damage, not zeros
        )
        array[...] = data
    return {name: buffer.to_bytes() for name, buffer in buffers.items()}


def open_files(files: Mapping[str, bytes]) -> zarr.Group:
    """The group that `files` hold, read-only, without touching the disk. Refused where it promises absurd sizes."""
    buffers = {name: Buffer.from_bytes(content) for name, content in files.items()}
    sizes = {name: len(content) for name, content in files.items()}
    return guarded(MemoryStore(buffers, read_only=True), sizes, "the episode's zarr group")


def read_array(group: zarr.Group, name: str, files: Mapping[str, bytes]) -> np.ndarray:
    """One decoded array. Raises ValueError where chunks are missing, too many, or not what the metadata promises."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{name}: expected an array, got a group")
    expected = math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
    found = sum(path.startswith(f"{name}/c/") for path in files)
    if found != expected:
        raise ValueError(f"{name}: expected {expected} chunks, got {found}")
    return rows(array, 0, array.shape[0] if array.shape else 0)


def _chunks(data: np.ndarray) -> tuple[int, ...]:
    row = max(1, data.itemsize * math.prod(data.shape[1:]))
    rows = min(max(1, CHUNK_BYTES // row), max(1, len(data)))
    return (rows, *(max(1, length) for length in data.shape[1:]))


def _compressor(data: np.ndarray) -> BloscCodec:
    """Bytes are mostly images: zstd costs three times lz4's time there, and on camera noise neither saves much."""
    if data.itemsize == 1:
        return BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle")
    return BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
