"""Rows of parquet files, read in order: numbers and images of a fixed shape per row.

Nothing is decoded before the sizes that a file claims are checked: run-length encoding makes them cheap to claim.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robot_value import untrusted
from robot_value.convert import ConversionError

LARGEST_BATCH = 128 << 20  # bytes of one column that may be decoded at once
LARGEST_FRAME = 1 << 28  # bytes of one decoded row
BATCH_ROWS = 1024
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool")


@dataclass(frozen=True)
class Feature:
    """A column: numbers per row, an image inside the parquet file, or a video beside it."""

    key: str
    dtype: str  # one of NUMBERS, "image", "video", or something that is left out
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()  # one per number, () where the source has none
    depth: bool = False

    @property
    def is_camera(self) -> bool:
        return self.dtype in ("image", "video") and not self.depth and len(self.shape) == 3 and self.channels == 3

    @property
    def is_vector(self) -> bool:
        return self.dtype in NUMBERS and len(self.shape) == 1

    @property
    def channels(self) -> int:
        return self.shape[0] if self._channels_first else self.shape[-1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.shape[1:] if self._channels_first else self.shape[:2]

    @property
    def _channels_first(self) -> bool:
        return self.names[:1] in (("channels",), ("channel",), ("c",)) if self.names else self.shape[0] == 3


class Rows:
    """Rows of the files below `root`, in order: one file open, one batch decoded beyond what was asked for.

    `lengths` holds the rows that each file must have.
    """

    def __init__(self, root: Path, lengths: Mapping[str, int], columns: Sequence[Feature]):
        self._root, self._lengths, self._columns = root, lengths, tuple(columns)
        self._file, self._first = "", 0  # number of the first row of `_kept`
        self._batches: Iterator[Any] = iter(())
        self._kept: Any = None  # pyarrow.Table

    def take(self, file: str, start: int, stop: int) -> Any:
        """Rows [start, stop) as a pyarrow.Table. Raises ConversionError, untrusted.Refused."""
        import pyarrow as pa

        if file != self._file or start < self._first:
            guarded(file, self._open, file, start)
        found = []
        while True:
            end = self._first + len(self._kept)
            if end > start:
                begin = max(start, self._first)
                found.append(self._kept.slice(begin - self._first, min(stop, end) - begin))
            if end >= stop:
                return pa.concat_tables(found)
            self._kept, self._first = pa.Table.from_batches([self._guarded(next, self._batches)]), end

    def _open(self, file: str, row: int) -> None:
        """Start with the row group that holds `row`."""
        import pyarrow as pa

        self._file = ""
        parquet = open_parquet(self._root, file)
        groups = [parquet.metadata.row_group(g).num_rows for g in range(parquet.metadata.num_row_groups)]
        if sum(groups) != self._lengths[file]:
            raise ConversionError(
                f"{file}: expected {self._lengths[file]} rows as meta/ says, got {sum(groups)}; fetch it again"
            )
        names = [leaf(parquet, feature, file) for feature in self._columns]
        batch = min(_rows_at_once(parquet, feature, file) for feature in self._columns)
        ends = np.cumsum(groups)
        group = int(np.searchsorted(ends, row, side="right"))
        self._batches = parquet.iter_batches(batch, range(group, len(groups)), columns=names, use_threads=False)
        self._file, self._first, self._kept = file, int(ends[group]) - groups[group], pa.table({})

    def _guarded(self, call: Any, *args: Any) -> Any:
        try:
            return guarded(self._file, call, *args)
        except ConversionError:
            self._file = ""  # what follows a damaged batch is not where it should be
            raise


def numbers(table: Any, feature: Feature, where: str) -> np.ndarray:
    """A column as [rows, n], in its own dtype. Raises ConversionError where rows are ragged or empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column, size = pa.concat_arrays(table[feature.key].chunks), math.prod(feature.shape)
    got = None
    if column.null_count == 0 and hasattr(column, "flatten") and pa.types.is_nested(column.type):
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        got = None if lengths == [size] else lengths
        column = column.flatten()
    if column.null_count or got or len(column) != len(table) * size or pa.types.is_nested(column.type):
        got = got or (f"{column.null_count} empty ones" if column.null_count else str(column.type))
        raise ConversionError(f"{where}: {feature.key}: expected {size} numbers in every row, got {got}")
    values = column.to_numpy(zero_copy_only=False)
    return values.reshape(len(table), size)


def images(table: Any, feature: Feature, where: str) -> np.ndarray:
    """An image column as uint8[rows, h, w, 3]."""
    shape = (len(table), *feature.size, 3)
    untrusted.check_array(f"{where}: {feature.key}", shape, np.uint8, table[feature.key].nbytes)
    frames = np.empty(shape, np.uint8)
    for t, encoded in enumerate(table[feature.key]):
        frames[t] = guarded(f"{where}: {feature.key} frame {t}", _decode_image, encoded, feature.size)
    return frames


def _decode_image(encoded: Any, size: tuple[int, int]) -> np.ndarray:
    """Of an Arrow scalar. The size in its header is checked before a pixel is decoded."""
    from PIL import Image

    encoded = encoded.as_py()
    content = encoded.get("bytes") if isinstance(encoded, dict) else encoded
    if not isinstance(content, bytes):
        raise ValueError("expected the image's bytes inside the parquet file, got none")
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
        if image.size != size[::-1]:
            raise ValueError(f"expected {size[0]} x {size[1]} pixels, got {image.size[1]} x {image.size[0]}")
        return np.asarray(image.convert("RGB"))


def open_parquet(root: Path, file: str, read_dictionary: Sequence[str] = ()) -> Any:
    """A pyarrow.parquet.ParquetFile inside `root`; only its metadata is read."""
    import pyarrow.parquet as pq

    path = untrusted.inside(root, file)
    return guarded(file, pq.ParquetFile, path, pre_buffer=False, read_dictionary=list(read_dictionary))


def leaf(parquet: Any, feature: Feature, file: str) -> str:
    """The column to read. Texts are refused by their type: a dictionary's longest may stand in every row."""
    import pyarrow as pa

    schema, kind = parquet.schema_arrow, pa.types
    if feature.key not in schema.names:
        raise ConversionError(f"{file}: expected a column {feature.key}, got {schema.names}; fetch it again")
    column = schema.field(feature.key).type
    if feature.dtype == "image":
        struct = kind.is_struct(column) and column.get_field_index("bytes") >= 0
        inner, fits, name = column, struct or kind.is_binary(column), f"{feature.key}{'.bytes' * struct}"
    else:
        lists = kind.is_list(column) or kind.is_fixed_size_list(column) or kind.is_large_list(column)
        inner, name = column.value_type if lists else column, feature.key
        fits = kind.is_integer(inner) or kind.is_floating(inner) or kind.is_boolean(inner)
    if not fits:
        raise ConversionError(f"{file}: {feature.key}: expected {feature.dtype}, got {column}; fetch it again")
    return name


def _rows_at_once(parquet: Any, feature: Feature, file: str) -> int:
    """Rows per batch such that a column stays below LARGEST_BATCH, even if every image is as large as all of them."""
    camera = feature.dtype == "image"
    width = 1 if camera else math.prod(feature.shape)
    names = {f"{feature.key}{end}" for end in ("", ".list.element", ".list.item", ".bytes")}
    rows = BATCH_ROWS
    for g in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(g)
        for column in (group.column(c) for c in range(group.num_columns)):
            if column.path_in_schema not in names:
                continue
            size = column.total_uncompressed_size
            if column.num_values != group.num_rows * width or size > LARGEST_BATCH:
                raise ConversionError(
                    f"{file}: {feature.key}: expected {group.num_rows * width} values in {LARGEST_BATCH} bytes, "
                    f"got {column.num_values} in {size} bytes (row group {g}); write the set with smaller row groups"
                )
            rows = min(rows, max(1, LARGEST_BATCH // max(1, size if camera else 8 * width)))
    return rows


def guarded(where: str, call: Any, *args: Any, **options: Any) -> Any:
    """What decoders raise has types of their own; here it gets a file's name."""
    try:
        return call(*args, **options)
    except (ConversionError, untrusted.Refused):
        raise
    except Exception as error:
        raise ConversionError(
            f"{where}: expected a readable file, got {type(error).__name__}: {error}; fetch it again or leave it out"
        ) from error
